"""Unmodified peers beside proxflow's adapters: torchcfm, flow_matching and diffusers train, and both libraries sample.

torchcfm: the loop of its first example, 8 Gaussians to two moons in the plane, with its matcher, with proxflow's in its
place, and with proxflow's on a population coupling. Milliseconds are of one call of the matcher; W2 is exact, between
1,000 samples and 1,000 fresh points; path energy is normalised, |E - W2^2| / W2^2.

flow_matching and diffusers: a model trained by the library's own objects, then read by the adapter; the same noise is
carried to data by the library's solver or scheduler and by proxflow, and the largest difference is printed. Then each
model goes through ``check_convention``, as it is and trained the wrong way round. A library that is not installed is
left out, and the output says so.

python benchmarks/adapters.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import sklearn.datasets
import torch
from torch import Tensor, nn

import proxflow as pf
from proxflow.adapters import PairedNoise, check_convention
from timing import medians

BATCH, SIGMA, EULER_STEPS = 256, 0.1, 100
HELD_OUT = 1_000
MOONS, DIGITS = 2_000, 1_797  # rows of the data sets
RADIUS, VARIANCE = 5.0, 0.1**0.5  # of torchcfm's eight normal laws


class EightGaussians:
    """The source of torchcfm's example, with what proxflow asks of a source."""

    dim = 2
    angles = torch.arange(8) * math.pi / 4
    centres = RADIUS * torch.stack([torch.cos(angles), torch.sin(angles)], 1)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """n draws, (n, 2)."""
        centre = self.centres[torch.randint(8, (n,), generator=generator)]
        return (centre + math.sqrt(VARIANCE) * torch.randn(n, 2, generator=generator)).to(device, dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density (B,)."""
        centres = self.centres.to(x)
        squares = x.square().sum(1, keepdim=True) - 2 * x @ centres.mT + centres.square().sum(1)
        return torch.logsumexp(-squares / (2 * VARIANCE), 1) - math.log(8 * 2 * math.pi * VARIANCE)


def moons(n: int, seed: int) -> Tensor:
    """n points of two moons, as in torchcfm's example but for the generator."""
    return torch.from_numpy(3 * sklearn.datasets.make_moons(n, noise=0.2, random_state=seed)[0] - 1).float()


def train_2d(matcher: Any, network: nn.Module, rows: Tensor, steps: int) -> None:
    """The loop of torchcfm's example: what the matcher is, it does not ask."""
    optimiser = torch.optim.Adam(network.parameters())
    for _ in range(steps):
        optimiser.zero_grad()
        x0 = EightGaussians().sample(BATCH)
        x1 = rows[torch.randint(len(rows), (BATCH,))]
        t, xt, ut = matcher.sample_location_and_conditional_flow(x0, x1)
        vt = network(torch.cat([xt, t[:, None]], dim=-1))
        loss = torch.mean((vt - ut) ** 2)
        loss.backward()
        optimiser.step()


def torchcfm_rows(steps: int, repeats: int, count: int) -> None:
    """Three matchers in one loop."""
    from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher
    from torchcfm.models.models import MLP

    rows = moons(count, 0)
    fit = pf.semidiscrete.fit(rows, source=EightGaussians(), progress=False)
    matchers = {
        "torchcfm, Exact": ExactOptimalTransportConditionalFlowMatcher(sigma=SIGMA),
        "proxflow, batches": pf.adapters.torchcfm.ConditionalFlowMatcher(sigma=SIGMA),
        "proxflow, population": pf.adapters.torchcfm.ConditionalFlowMatcher(
            pf.couplings.Semidiscrete(fit.potential, rows), sigma=SIGMA
        ),
    }
    source = EightGaussians()
    source_points = source.sample(BATCH)
    seconds = medians(
        {
            name: partial(
                lambda matcher: matcher.sample_location_and_conditional_flow(
                    source_points, rows[torch.randint(len(rows), (BATCH,))]
                ),
                matcher,
            )
            for name, matcher in matchers.items()
        },
        repeats,
    )
    version = importlib.metadata.version("torchcfm")
    print(f"torchcfm {version}: 8 Gaussians to two moons, batch {BATCH}, {steps} steps")
    print(f"  population: {len(rows)} rows, {fit.method}, chi2 {fit.chi2:.2g} in {fit.seconds:.1f} s")
    generator = torch.Generator().manual_seed(1)
    noise, fresh = source.sample(HELD_OUT, generator=generator), moons(HELD_OUT, 1)
    least = pf.metrics.wasserstein(noise, fresh).value ** 2
    for name, matcher in matchers.items():
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002 - torchcfm draws its plans with it
        network = MLP(dim=2, time_varying=True)
        train_2d(matcher, network, rows, steps)
        with torch.no_grad():
            field = pf.adapters.torchcfm.to_field(network)
            path = pf.sampling.integrate(field, noise, steps=EULER_STEPS)
        energy = pf.metrics.normalised_path_energy(path, least)
        print(
            f"  {name:21s} {1e3 * seconds[name]:7.2f} ms {seconds['torchcfm, Exact'] / seconds[name]:5.1f} x  "
            f"rows used {used_share(matcher, rows):5.1%}  W2 {pf.metrics.wasserstein(path.end, fresh).value:.3f}  "
            f"path energy {energy:.4f}",
            flush=True,
        )


def used_share(matcher: Any, rows: Tensor) -> float:
    """How many of the data points given are in the pairs that come back."""
    given = torch.unique(rows[:BATCH], dim=0)
    source = EightGaussians().sample(len(given))
    _, start, velocity, eps = matcher.sample_location_and_conditional_flow(
        source, given, torch.zeros(len(given)), return_noise=True
    )
    ends = start - SIGMA * eps + velocity
    return len(torch.cdist(ends, given).argmin(1).unique()) / len(given)


def verdicts(name: str, fields: dict[str, Callable[..., Tensor]], data: Any) -> None:
    """What ``check_convention`` says of each field."""
    for how, field in fields.items():
        with torch.no_grad():
            print(f"  {name}, {how}: {check_convention(field, data).message}", flush=True)


class Velocity(nn.Module):
    """A perceptron in flow_matching's order, x before t."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.network = pf.matching.MLP((2,), width=width)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, 2)."""
        velocity: Tensor = self.network(t, x)
        return velocity


def trained_by_flow_matching(scheduler: Any, rows: Tensor, steps: int, *, swapped: bool = False) -> nn.Module:
    """Its path, its sample, a squared error; swapped takes the data for x_0."""
    from flow_matching.path import AffineProbPath
    from flow_matching.utils import ModelWrapper

    torch.manual_seed(0)
    path = AffineProbPath(scheduler=scheduler)
    model: nn.Module = ModelWrapper(Velocity())
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        x_1 = rows[torch.randint(len(rows), (BATCH,))]
        x_0 = torch.randn_like(x_1)
        if swapped:
            x_0, x_1 = x_1, x_0
        sample = path.sample(x_0=x_0, x_1=x_1, t=torch.rand(BATCH))
        loss = torch.mean((model(sample.x_t, sample.t) - sample.dx_t) ** 2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model


def flow_matching_rows(steps: int, count: int) -> None:
    """Both libraries sample one model, along two schedules."""
    from flow_matching.path import scheduler as schedulers
    from flow_matching.solver import ODESolver

    adapter = pf.adapters.flow_matching
    print(f"flow_matching {importlib.metadata.version('flow_matching')}: noise to two moons, {steps} steps")
    rows, noise = moons(count, 0) / 3, torch.randn(HELD_OUT, 2, generator=torch.Generator().manual_seed(1))
    for scheduler in (schedulers.CondOTScheduler(), schedulers.CosineScheduler()):
        model = trained_by_flow_matching(scheduler, rows, steps)
        for method in ("euler", "midpoint"):
            theirs = ODESolver(model).sample(x_init=noise, step_size=1 / 16, method=method)
            with torch.no_grad():
                ours = pf.sampling.integrate(adapter.to_field(model), noise, steps=16, method=method).end
            print(
                f"  {type(scheduler).__name__}, {method}, 16 steps: largest difference {largest(ours, theirs):.1e}, "
                f"W2 {pf.metrics.wasserstein(ours, moons(HELD_OUT, 1) / 3).value:.3f}",
                flush=True,
            )
    right = trained_by_flow_matching(schedulers.CondOTScheduler(), rows, steps)
    wrong = trained_by_flow_matching(schedulers.CondOTScheduler(), rows, steps, swapped=True)
    fields = {"as meant": adapter.to_field(right), "x_0 and x_1 swapped": adapter.to_field(wrong)}
    verdicts("flow_matching", fields, rows)


def trained_by_diffusers(images: Tensor, noise_for: Callable[[Tensor], Tensor], steps: int, sign: int = 1) -> Any:
    """A UNet2DModel by the loop of diffusers' training scripts; sign -1 predicts data - noise."""
    from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DModel

    torch.manual_seed(0)
    scheduler = FlowMatchEulerDiscreteScheduler()
    model = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(steps):
        latents = images[torch.randint(len(images), (64,))]
        noise = noise_for(latents)
        chosen = torch.randint(len(scheduler.timesteps), (len(latents),))
        sigmas = scheduler.sigmas[chosen][:, None, None, None]
        noisy = (1 - sigmas) * latents + sigmas * noise
        prediction = model(noisy, scheduler.timesteps[chosen], return_dict=False)[0]
        loss = torch.mean((prediction - sign * (noise - latents)) ** 2)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval(), scheduler


@torch.no_grad()
def diffusers_rows(steps: int, sample_steps: int, count: int) -> None:
    """The scheduler and proxflow sample one U-Net, trained on independent and on optimal noise."""
    adapter = pf.adapters.diffusers
    images = pf.data.load("digits", n=count).points[:, None]
    coupling = pf.couplings.Semidiscrete(pf.semidiscrete.fit(images, progress=False).potential, images)
    print(f"diffusers {importlib.metadata.version('diffusers')}: UNet2DModel on digits, {steps} steps")
    noise = torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    fields = {}
    for name, noise_for in (("randn_like", torch.randn_like), ("PairedNoise", PairedNoise(coupling))):
        with torch.enable_grad():
            model, scheduler = trained_by_diffusers(images, noise_for, steps)
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / sample_steps, sample_steps))
        theirs = noise
        for timestep in scheduler.timesteps:
            output = model(theirs, timestep, return_dict=False)[0]
            theirs = scheduler.step(output, timestep, theirs, return_dict=False)[0]
        fields[name] = adapter.to_field(model, scheduler)
        ours = pf.sampling.integrate(fields[name], noise, steps=sample_steps).end
        distance = pf.metrics.energy_distance(ours, images, unbiased=True)
        print(
            f"  noise by {name}, {sample_steps} Euler steps: largest difference {largest(ours, theirs):.1e} of pixels "
            f"of standard deviation 1, energy distance {distance:.3f}",
            flush=True,
        )
    verdicts("diffusers", {"as meant": fields["randn_like"]}, images)
    verdicts("diffusers", {"as meant, PairedNoise": fields["PairedNoise"]}, coupling)
    with torch.enable_grad():
        wrong, scheduler = trained_by_diffusers(images, torch.randn_like, steps, sign=-1)
    verdicts("diffusers", {"trained on data - noise": adapter.to_field(wrong, scheduler)}, images)


def largest(a: Tensor, b: Tensor) -> float:
    """Largest absolute difference."""
    return float((a - b).abs().max())


def main() -> None:
    """Print what each installed peer and its adapter give."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=5000, help="of training in the plane; a tenth of it for the U-Net")
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    steps, count = (20, 100) if options.quick else (options.steps, MOONS)
    print(f"proxflow {pf.__version__}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    sections: dict[str, Callable[[], None]] = {
        "torchcfm": lambda: torchcfm_rows(steps, 2 if options.quick else options.repeats, count),
        "flow_matching": lambda: flow_matching_rows(steps, count),
        "diffusers": lambda: diffusers_rows(max(steps // 10, 2), 10, 100 if options.quick else DIGITS),
    }
    for library, section in sections.items():
        if importlib.util.find_spec(library) is None:
            print(f"{library} is not installed: left out")
        else:
            section()


if __name__ == "__main__":
    main()
