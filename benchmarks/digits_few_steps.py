"""Digits in few steps: the same network trained on torchcfm's couplings and on proxflow's.

1,437 digits to train and 360 held out; AdamW with warm-up and cosine, averaged parameters, batches of 256. Of 2,000
generated digits at 1 to 100 Euler steps, against the held-out ones:

  energy distance  unbiased, so that 0 is reached and passed; forgives blur, and noise that makes up for it
  variance         total variance of the samples over that of the held-out digits: 1 is right
  nearest row      median distance of a sample to its nearest training digit, over that of a held-out digit: 0 is a copy
  W2               between 360 and 360

Mean and standard error over the seeds, of data split, network and noise. The last rows train nothing: noise, the
training digits themselves, and these drawn together by 5%, which W2 between so few points in R^64 prefers.

python benchmarks/digits_few_steps.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torchcfm.optimal_transport import OTPlanSampler

import proxflow as pf

STEPS = (1, 2, 4, 8, 100)
BATCH = 256
MEASURES = ("energy distance", "variance", "nearest row", "W2")

Measured = list[tuple[float, ...]]  # at each number of steps, the measures


class TorchCFM:
    """torchcfm's pairs: independent, or sampled from the plan of each batch."""

    def __init__(self, points: Tensor, plans: OTPlanSampler | None) -> None:
        self.points, self.plans = points, plans

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> pf.couplings.Pairs:
        """n pairs; the index is not known, since torchcfm does not give it."""
        index = torch.randint(len(self.points), (n,), generator=generator)
        x0, x1 = torch.randn(n, self.points.shape[1], generator=generator), self.points[index]
        if self.plans is not None:
            np.random.seed(int(torch.randint(2**31, (), generator=generator)))  # noqa: NPY002 - it draws with it
            x0, x1 = self.plans.sample_plan(x0, x1)
        return pf.couplings.Pairs(x0, x1, index)


def in_subspace(dim: int, points: Tensor, seed: int) -> pf.couplings.Subspace:
    """Optimal pairs in the first ``dim`` principal directions."""
    return pf.couplings.Subspace.fit(points, dim, seed=seed)


COUPLINGS: dict[str, Callable[[Tensor, int], pf.couplings.Coupling]] = {
    "independent, torchcfm": lambda points, _: TorchCFM(points, None),
    "OT-CFM, torchcfm": lambda points, _: TorchCFM(points, OTPlanSampler("exact")),
    "population, proxflow": lambda points, seed: pf.couplings.Semidiscrete(
        pf.semidiscrete.fit(points, seed=seed).potential, points
    ),
    "subspace, proxflow": lambda points, seed: pf.couplings.Subspace.fit(points, seed=seed),
    **{f"subspace, {k} directions": partial(in_subspace, k) for k in (2, 4, 8, 12, 16, 24)},
}
ROWS = tuple(COUPLINGS)[:4]  # shown unless others are asked for
Maker = Callable[[int, pf.couplings.Coupling, int | None], torch.nn.Module]
NETWORKS: dict[str, Maker] = {
    "affine": lambda dim, coupling, pairs: pf.matching.AffineResidual.fit(
        pf.matching.ResidualMLP((dim,)), coupling, pairs=pairs
    ),
    "residual": lambda dim, *_: pf.matching.ResidualMLP((dim,)),
    "mlp": lambda dim, *_: pf.matching.MLP((dim,), width=512, depth=3),
}


def split(seed: int, points: int) -> tuple[Tensor, Tensor]:
    """Digits to train on, and held out."""
    digits = pf.data.load("digits").points.flatten(1)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    return digits[order[:points]], digits[order[1437:]]


def measured(samples: Tensor, train: Tensor, held_out: Tensor) -> tuple[float, ...]:
    """The four measures."""
    return (
        pf.metrics.energy_distance(samples, held_out, unbiased=True),
        pf.metrics.spread(samples, held_out).total,
        pf.metrics.nearest_row_ratio(samples, train, held_out),
        pf.metrics.wasserstein(samples[: len(held_out)], held_out).value,
    )


def real(seed: int, points: int, shrunk: float) -> Measured:
    """Of the training digits themselves, drawn towards their mean or not."""
    train, held_out = split(seed, points)
    return [measured(train.mean(0) + shrunk * (train - train.mean(0)), train, held_out)]


def noise(seed: int, points: int, generated: int) -> Measured:
    """Of what every row begins with."""
    train, held_out = split(seed, points)
    generator = torch.Generator().manual_seed(1000 + seed)
    return [measured(torch.randn(generated, train.shape[1], generator=generator), train, held_out)]


def results(row: str, seed: int, options: argparse.Namespace) -> tuple[Measured, str]:
    """The measures of samples at each number of steps, and what else is worth saying."""
    train, held_out = split(seed, options.points)
    began = time.perf_counter()
    coupling = COUPLINGS[row](train, seed)
    fitted = time.perf_counter()
    pairs = 256 if options.quick else None
    ends = sampled(coupling, NETWORKS[options.network], seed, options.train_steps, options.generated, pairs)
    trained = time.perf_counter()
    directions = getattr(coupling, "directions", None)
    remark = "" if directions is None else f", {directions.shape[1]} directions"
    remark = f"coupling {fitted - began:.0f} s, training {trained - fitted:.0f} s{remark}"
    return [measured(end, train, held_out) for end in ends], remark


def sampled(
    coupling: pf.couplings.Coupling,
    network_of: Maker,
    seed: int,
    steps: int,
    count: int,
    pairs: int | None = None,
) -> list[Tensor]:
    """Samples of a network trained on a coupling, at each number of Euler steps."""
    dim = coupling.sample(1, generator=torch.Generator().manual_seed(0)).source.shape[1]
    torch.manual_seed(seed)
    network = network_of(dim, coupling, pairs)
    result = pf.matching.train(network, coupling, steps=steps, batch_size=BATCH, seed=seed, progress=False)
    noise = torch.randn(count, dim, generator=torch.Generator().manual_seed(1000 + seed))
    with torch.no_grad():
        return [pf.sampling.integrate(result.network, noise, steps=k, method="euler").end for k in STEPS]


def main() -> None:
    """Print the measures for each row and number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-steps", type=int, default=3000)
    parser.add_argument("--network", choices=list(NETWORKS), default="affine")
    parser.add_argument("--points", type=int, default=1437, help="digits to train on")
    parser.add_argument("--generated", type=int, default=2000, help="digits to generate")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(COUPLINGS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.train_steps, options.seeds, options.points, options.generated = 2, 1, 100, 50
    print(
        f"{options.train_steps} steps of the {options.network} network, {options.seeds} seeds; mean +- standard error"
    )
    print(f"{'Euler steps':28s}" + "".join(f"{k:>18d}" for k in STEPS))
    seeds = range(options.seeds)
    for row in options.rows:
        runs = [results(row, seed, options) for seed in seeds]
        _show(row, [run for run, _ in runs])
        print(f"  each: {'; '.join(remark for _, remark in runs)}", flush=True)
    _show("noise itself", [noise(seed, options.points, options.generated) for seed in seeds])
    for shrunk in (1.0, 0.95):
        _show(f"real training digits x {shrunk:g}", [real(seed, options.points, shrunk) for seed in seeds])


def _show(row: str, runs: list[Measured]) -> None:
    """The lines of a row of the table."""
    for number, measure in enumerate(MEASURES):
        cells = [_cell([run[k][number] for run in runs]) for k in range(len(runs[0]))]
        print(
            f"{row if number == 0 else '':28s}" + "".join(f"{cell:>18s}" for cell in cells) + f"  {measure}", flush=True
        )


def _cell(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4f} +- {error:.4f}"


if __name__ == "__main__":
    main()
