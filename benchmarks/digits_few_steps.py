"""Digits in few steps: networks trained alike on torchcfm's couplings and on proxflow's.

Perceptron of 3 x 512, AdamW with warm-up and cosine, averaged parameters, batch 256; 1,437 digits to train and 360 held
out. Energy distance (unbiased, so that 0 is reached and passed) from 2,000 generated to the held-out digits, and W2
between 360 and 360, at 1 to 100 Euler steps. Mean and standard error over the seeds, of data split, network and noise.
The last rows train nothing: noise, the training digits themselves, and what W2 makes of these when they are drawn
together by 5%: among so few points in R^64 it prefers samples that are too smooth.

python benchmarks/digits_few_steps.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import time

import numpy as np
import torch
from torch import Tensor
from torchcfm.optimal_transport import OTPlanSampler

import proxflow as pf

STEPS = (1, 2, 4, 8, 100)
BATCH = 256
ROWS = (
    "I-CFM, torchcfm",
    "OT-CFM, torchcfm",
    "semidiscrete, proxflow",
)


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


def coupling_of(row: str, points: Tensor, seed: int) -> pf.couplings.Coupling:
    """The coupling of a row of the table."""
    if row.startswith("I-CFM"):
        return TorchCFM(points, None)
    if row.startswith("OT-CFM"):
        return TorchCFM(points, OTPlanSampler("exact"))
    return pf.couplings.Semidiscrete(pf.semidiscrete.fit(points, seed=seed).potential, points)


def split(seed: int, points: int) -> tuple[Tensor, Tensor]:
    """Digits to train on, and held out."""
    digits = pf.data.load("digits").points.flatten(1)
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(seed))
    return digits[order[:points]], digits[order[1437:]]


def distances(samples: Tensor, held_out: Tensor) -> tuple[float, float]:
    """Energy distance and W2."""
    return (
        pf.metrics.energy_distance(samples, held_out, unbiased=True),
        pf.metrics.wasserstein(samples[: len(held_out)], held_out).value,
    )


def real(seed: int, points: int, shrunk: float) -> list[tuple[float, float]]:
    """The distances of the training digits themselves, drawn towards their mean or not."""
    train, held_out = split(seed, points)
    return [distances(train.mean(0) + shrunk * (train - train.mean(0)), held_out)]


def noise(seed: int, points: int, generated: int) -> list[tuple[float, float]]:
    """The distances of what every row begins with."""
    train, held_out = split(seed, points)
    generator = torch.Generator().manual_seed(1000 + seed)
    return [distances(torch.randn(generated, train.shape[1], generator=generator), held_out)]


def results(row: str, seed: int, train_steps: int, points: int, generated: int) -> list[tuple[float, float]]:
    """The distances of samples at each number of steps."""
    train, held_out = split(seed, points)
    ends = sampled(coupling_of(row, train, seed), train.shape[1], seed, train_steps, generated)
    return [distances(end, held_out) for end in ends]


def sampled(coupling: pf.couplings.Coupling, dim: int, seed: int, steps: int, n: int) -> list[Tensor]:
    """Samples of a network trained on a coupling, at each number of Euler steps."""
    torch.manual_seed(seed)
    network = pf.matching.MLP((dim,), width=512, depth=3)
    result = pf.matching.train(network, coupling, steps=steps, batch_size=BATCH, seed=seed, progress=False)
    noise = torch.randn(n, dim, generator=torch.Generator().manual_seed(1000 + seed))
    with torch.no_grad():
        return [pf.sampling.integrate(result.network, noise, steps=k, method="euler").end for k in STEPS]


def main() -> None:
    """Print both metrics for each row and number of steps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-steps", type=int, default=6000)
    parser.add_argument("--points", type=int, default=1437, help="digits to train on")
    parser.add_argument("--generated", type=int, default=2000, help="digits to generate")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.train_steps, options.seeds, options.points, options.generated = 2, 1, 100, 50
    print(f"{options.train_steps} training steps, {options.seeds} seeds; mean +- standard error")
    print(f"{'Euler steps':32s}" + "".join(f"{k:>20d}" for k in STEPS))
    seeds = range(options.seeds)
    for row in options.rows:
        began = time.perf_counter()
        _show(row, [results(row, seed, options.train_steps, options.points, options.generated) for seed in seeds])
        print(f"{'':32s}{(time.perf_counter() - began) / options.seeds:.0f} s a run", flush=True)
    _show("noise itself", [noise(seed, options.points, options.generated) for seed in seeds])
    for shrunk in (1.0, 0.95):
        _show(f"real training digits x {shrunk:g}", [real(seed, options.points, shrunk) for seed in seeds])


def _show(row: str, runs: list[list[tuple[float, float]]]) -> None:
    """Two lines of the table."""
    for metric, name in enumerate(("energy distance", "W2")):
        cells = [_cell([run[k][metric] for run in runs]) for k in range(len(runs[0]))]
        print(f"{row:32s}" + "".join(f"{cell:>20s}" for cell in cells) + f"  {name}", flush=True)


def _cell(values: list[float]) -> str:
    error = statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):.4f} +- {error:.4f}"


if __name__ == "__main__":
    main()
