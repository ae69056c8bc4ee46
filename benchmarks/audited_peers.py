"""Models of other libraries, trained as their tutorials train them, and audited in their own conventions.

torchcfm: 8 Gaussians to two moons with its exact minibatch matcher, sigma 0.1, batches of 256. flow_matching: noise to
a checkerboard along its CondOTScheduler, with a smaller network and batch than its notebook's. diffusers: a UNet2DModel
on digits at the sigmas of FlowMatchEulerDiscreteScheduler. sbi: the posterior of FMPE in its first tutorial, a uniform
prior in three dimensions with normal noise, at one observation, whose truth is known. bayesflow: the FlowMatching
network of a BasicWorkflow on a normal prior seen through absolute values, whose posterior has four modes and is known.
A library that is not installed is left out, and the output says so (pip install --no-deps sbi nflows skorch tabulate;
bayesflow keras optree namex ml_dtypes absl-py h5py seaborn pandas). Importing bayesflow turns autograd off for all; it
is turned on again.

Each model goes through ``adapters.detect_field`` with its library's convention stated, as ``proxflow audit`` does with
a file, and then through ``analysis.audit``; for the first two and bayesflow the exact flow of 2,000 rows is the
reference, fitted as well as 4 million draws allow.

``--averaged`` audits a running average of the weights in place of the last ones, of the first two, whose loop of
training is here. ``--variances`` trains these two and prints, at each tenth of the way, the total variance of 20,000
samples over that of as many fresh rows, of the last weights and of the average, instead.

``--cost`` audits networks of about a million parameters in 64 and in 784 dimensions instead, and prints CPU seconds
and peak memory.

python benchmarks/audited_peers.py
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import itertools
import os
import resource
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import proxflow as pf
from adapters import BATCH, SIGMA, EightGaussians, Velocity, moons, trained_by_diffusers
from proxflow.analysis import Audit
from proxflow.report.audit_page import figure_in_words

ROWS = 2_000  # of a law that training draws from afresh, for audits
DIGITS = 1_500  # that the U-Net is trained on; the others are held out
FIGURES = (
    "jacobian_asymmetry", "rotation", "spectrum_above", "recovered_drift", "repairing_gain", "cost_excess",
    "velocity_error", "equivalent_batch",
    "energy_distance", "variance_ratio", "group_least", "nearest_row_ratio", "one_step_error", "four_step_error",
    "four_step_best_error", "four_step_gain",
)  # fmt: skip


AVERAGED = 1_000  # last steps, or the last tenth of all where that is shorter, over which weights are averaged


@dataclass(frozen=True)
class Training:
    """For how many steps, from how many rows where these are not drawn afresh, and which weights are wanted.

    The variance of ``watched`` samples is printed at each tenth of the way.
    """

    steps: int
    count: int
    averaged: bool = False
    watched: int = 0


@dataclass(frozen=True)
class Peer:
    """A trained model, and what its audit is given."""

    model: Callable[..., Any]
    convention: str
    data: Tensor
    source: Any = None
    held_out: Tensor | None = None
    with_reference: bool = False


def descended(
    network: nn.Module, loss: Callable[[], Tensor], optimiser: torch.optim.Optimizer, training: Training,
    variances: Callable[[nn.Module], str],
) -> nn.Module:  # fmt: skip
    """The network after so many steps of its tutorial's loop, or the running average of its weights."""
    average = AveragedModel(
        network, avg_fn=lambda mean, last, count: mean + (last - mean) * max(1 / AVERAGED, 10 / (10 + float(count)))
    )
    for step in range(1, training.steps + 1):
        optimiser.zero_grad()
        loss().backward()
        optimiser.step()
        average.update_parameters(network)
        if training.watched and step % max(training.steps // 10, 1) == 0:
            print(f"  {step:>6d} steps: {variances(network)} by the last weights, "
                  f"{variances(average.module)} by their average", flush=True)  # fmt: skip
    averaged: nn.Module = average.module
    return averaged if training.averaged else network


def variance_ratio(peer: Peer, rows: Tensor) -> str:
    """Of n samples from one noise over fresh rows (n, d), as value and standard error."""
    source = peer.source or pf.measures.Gaussian(rows.shape[1])
    noise = source.sample(len(rows), generator=torch.Generator().manual_seed(0), dtype=rows.dtype)
    convention = pf.adapters.convention_named(peer.convention)
    found = pf.adapters.detect_field(peer.model, peer.data, convention=convention, source=peer.source)
    with torch.no_grad():
        samples = pf.sampling.integrate(found.field, noise, 64, method="midpoint").end
    wide = pf.metrics.spread(samples, rows, directions=1)
    return f"{wide.total:.3f} +- {wide.total_error:.3f}"


def torchcfm_peer(training: Training) -> Peer:
    """Its first example; only the moons are scikit-learn's, as torchcfm's are those of torchdyn."""
    from torchcfm.conditional_flow_matching import ExactOptimalTransportConditionalFlowMatcher
    from torchcfm.models.models import MLP

    source, network = EightGaussians(), MLP(dim=2, time_varying=True)
    optimiser = torch.optim.Adam(network.parameters())
    matcher = ExactOptimalTransportConditionalFlowMatcher(sigma=SIGMA)
    seeds = itertools.count()

    def loss() -> Tensor:
        t, xt, ut = matcher.sample_location_and_conditional_flow(source.sample(BATCH), moons(BATCH, next(seeds)))
        vt = network(torch.cat([xt, t[:, None]], dim=-1))
        return torch.mean((vt - ut) ** 2)

    def peer(model: nn.Module) -> Peer:
        return Peer(model, "torchcfm", moons(training.count, training.steps), source, with_reference=True)

    def variances(model: nn.Module) -> str:
        return variance_ratio(peer(model), moons(training.watched, training.steps + 1))

    return peer(descended(network, loss, optimiser, training, variances))


def checkerboard(n: int) -> Tensor:
    """The law of flow_matching's notebook, (n, 2)."""
    x = 4 * torch.rand(n) - 2
    y = torch.rand(n) - 2 * torch.randint(2, (n,)) + torch.floor(x) % 2
    return torch.stack([x, y], 1) / 0.45


def flow_matching_peer(training: Training) -> Peer:
    """Its path, scheduler and wrapper; a perceptron for its MLP."""
    from flow_matching.path import AffineProbPath
    from flow_matching.path.scheduler import CondOTScheduler
    from flow_matching.utils import ModelWrapper

    path, model = AffineProbPath(scheduler=CondOTScheduler()), ModelWrapper(Velocity(width=128))
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss() -> Tensor:
        x_1 = checkerboard(2 * BATCH)
        sample = path.sample(t=torch.rand(len(x_1)), x_0=torch.randn_like(x_1), x_1=x_1)
        return torch.pow(model(sample.x_t, sample.t) - sample.dx_t, 2).mean()

    def variances(model: nn.Module) -> str:
        with torch.random.fork_rng():  # whether it is looked at must not change the training
            torch.manual_seed(1)
            rows = checkerboard(training.watched)
        return variance_ratio(Peer(model, "flow_matching", rows[: training.count]), rows)

    trained = descended(model, loss, optimiser, training, variances)
    return Peer(trained, "flow_matching", checkerboard(training.count), with_reference=True)


def diffusers_peer(training: Training) -> Peer:
    """The loop of its training scripts on digits, the last of which are held out."""
    rows = pf.data.load("digits").points[:, None]
    rows = rows[torch.randperm(len(rows))]
    kept = min(DIGITS, training.count)
    model, _ = trained_by_diffusers(rows[:kept], torch.randn_like, max(training.steps // 8, 2))
    return Peer(lambda x, timestep: model(x, timestep, return_dict=False), "diffusers", rows[:kept],
                held_out=rows[DIGITS:])  # fmt: skip


def sbi_peer(training: Training) -> Peer:
    """FMPE as its tutorial runs it; theta | x is N(x - 1, 0.1^2), far from the ends of the prior."""
    from sbi.inference import FMPE
    from sbi.utils import BoxUniform

    steps, count = training.steps, training.count
    prior = BoxUniform(low=-2 * torch.ones(3), high=2 * torch.ones(3))
    theta = prior.sample((count,))
    x = 1.0 + theta + 0.1 * torch.randn_like(theta)
    trainer = FMPE(prior=prior, show_progress_bars=False).append_simulations(theta, x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it might learn more
        estimator = trainer.train(max_num_epochs=max(steps // 20, 1)).eval()
    observed, posterior = torch.zeros(1, 3), -1 + 0.1 * torch.randn(count, 3)

    def model(theta: Tensor, time: Tensor) -> Tensor:
        velocity: Tensor = estimator(theta, observed.expand(len(theta), 3), time)
        return velocity

    return Peer(model, "sbi", posterior)


def bayesflow_peer(training: Training) -> Peer:
    """Its workflow on theta of N(0, I) in the plane, seen as |theta| with normal noise, at |theta| = (1, 1)."""
    os.environ["KERAS_BACKEND"] = "torch"
    import bayesflow

    torch.set_grad_enabled(True)
    steps, count = training.steps, training.count
    random = np.random.default_rng(0)
    theta = random.normal(size=(10 * count, 2)).astype("float32")
    seen = (np.abs(theta) + 0.1 * random.normal(size=theta.shape)).astype("float32")
    network = bayesflow.networks.FlowMatching(subnet_kwargs={"widths": (128, 128, 128)})
    workflow = bayesflow.BasicWorkflow(
        inference_network=network, inference_variables=["theta"], inference_conditions=["x"], standardize=None
    )
    epochs = max(steps // 200, 1)
    workflow.fit_offline({"theta": theta, "x": seen}, epochs=epochs, batch_size=BATCH, verbose=0)
    grid = np.linspace(-3, 3, 6001)
    density = np.exp(-0.5 * grid**2 - 0.5 * ((np.abs(grid) - 1) / 0.1) ** 2)
    posterior = random.choice(grid, size=(count, 2), p=density / density.sum()).astype("float32")
    observed = torch.ones(1, 2)

    def model(theta: Tensor, time: Tensor) -> Tensor:
        velocity: Tensor = network.velocity(theta, time, conditions=observed.expand(len(theta), 2), training=False)
        return velocity

    return Peer(model, "velocity", torch.from_numpy(posterior), with_reference=True)


def audited(peer: Peer, quick: bool) -> Audit:
    """The audit as a user of the library would ask for it."""
    convention = pf.adapters.convention_named(peer.convention)
    found = pf.adapters.detect_field(peer.model, peer.data, convention=convention, source=peer.source)
    print(f"  {found}", flush=True)
    reference = None
    if peer.with_reference:
        reference = pf.semidiscrete.fit(
            peer.data, source=peer.source, max_samples=1 << (12 if quick else 22), progress=False
        )
        print(f"  reference fitted to chi2 {reference.chi2:.2g} in {reference.seconds:.0f} s", flush=True)
    sizes: dict[str, Any] = {"count": 64, "steps": 8, "compare_independent": False} if quick else {}
    return pf.analysis.audit(
        found.field, reference, source=peer.source, data=peer.data, held_out=peer.held_out, progress=False, **sizes
    )


PEERS: dict[str, Callable[[Training], Peer]] = {
    "torchcfm": torchcfm_peer,
    "flow_matching": flow_matching_peer,
    "diffusers": diffusers_peer,
    "sbi": sbi_peer,
    "bayesflow": bayesflow_peer,
}


WATCHED = ("torchcfm", "flow_matching")  # whose loop of training is here


def trained_peer(name: str, training: Training) -> Peer | None:
    """One that is installed, from its own seed, with the time that it took."""
    if importlib.util.find_spec(name) is None:
        print(f"{name} is not installed: left out")
        return None
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 - torchcfm draws its plans with it
    print(f"{name} {importlib.metadata.version(name)}, {training.steps:,} steps in the plane", flush=True)
    started = time.process_time()
    peer = PEERS[name](training)
    print(f"  trained in {time.process_time() - started:.0f} CPU s", flush=True)
    return peer


def print_peers(training: Training, names: list[str], quick: bool) -> None:
    """Train and audit all that are installed, then one table."""
    audits: dict[str, Audit] = {}
    for name in names:
        peer = trained_peer(name, training)
        if peer is not None:
            started = time.process_time()
            audits[name] = audited(peer, quick)
            print(f"  audited in {time.process_time() - started:.0f} CPU s: {audits[name].verdict}", flush=True)
    print_table(audits)


def print_table(audits: dict[str, Audit]) -> None:
    """One column for each model; intervals are of 95%."""
    print(f"\n{'figure':18s}" + "".join(f"{name:>27s}" for name in audits))
    for figure in FIGURES:
        cells = (audit.figures.get(figure) for audit in audits.values())
        texts = ["" if one is None else figure_in_words(one) for one in cells]
        print(f"{figure:18s}" + "".join(f"{text:>27s}" for text in texts))
    print(f"{'faults named':18s}" + "".join(f"{len(audit.warnings):>27d}" for audit in audits.values()))


def print_cost(quick: bool) -> None:
    """Seconds and peak memory of audits of networks of a million parameters."""
    for dim, width in ((64, 32), (300, 32)) if quick else ((64, 384), (784, 320)):
        torch.manual_seed(0)
        network = pf.matching.ResidualMLP((dim,), width=width)
        rows = torch.randn(300 if quick else ROWS, dim) @ torch.randn(dim, dim) / dim**0.5
        field, started = pf.matching.field_of(network.eval()), time.process_time()
        pf.analysis.audit(field, data=rows, count=64 if quick else 1024, steps=8 if quick else 32)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f"d = {dim}, {sum(one.numel() for one in network.parameters()):,} parameters: "
            f"{time.process_time() - started:.1f} CPU s, peak memory of the process {peak:,.0f} MiB",
            flush=True,
        )


def main() -> None:
    """Print the table of peers, or what an audit costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000, help="of training in the plane; an eighth for the U-Net")
    parser.add_argument("--only", nargs="+", choices=list(PEERS), default=list(PEERS), help="these peers alone")
    parser.add_argument("--averaged", action="store_true", help="weights of the first two, over the last steps")
    parser.add_argument("--variances", action="store_true", help="of the first two, while they train")
    parser.add_argument("--cost", action="store_true", help="what an audit of a large network costs")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    print(f"proxflow {pf.__version__}, torch {torch.__version__}, threads {torch.get_num_threads()}")
    if options.cost:
        print_cost(options.quick)
    else:
        steps, count = (20, 256) if options.quick else (options.steps, ROWS)
        watched = (1_000 if options.quick else 20_000) if options.variances else 0
        training = Training(steps, count, options.averaged, watched)
        if options.variances:
            for name in (name for name in options.only if name in WATCHED):
                trained_peer(name, training)
        else:
            print_peers(training, options.only, options.quick)


if __name__ == "__main__":
    main()
