"""Local dimension of data: mean absolute error over the points beside scikit-dimension on the same samples.

N = 2,000 points of four laws, 5 seeds, default settings throughout: scikit-dimension's MLE, TwoNN, lPCA and ESS with
their own neighbourhoods of 100 points. Points of the swiss roll within a twentieth of its edges are reported apart.
Digits and Fashion-MNIST have no known dimension: there the traces at each scale are shown beside the baselines.
ESS takes minutes for each sample, most of an hour in all; --peers leaves it out.

python benchmarks/local_dimension.py [--peers MLE,TwoNN,lPCA]
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import skdim
import torch
from torch import Tensor

import proxflow as pf

NEIGHBOURS = 100
PEERS: dict[str, Callable[[], Any]] = {
    "MLE": skdim.id.MLE,
    "TwoNN": skdim.id.TwoNN,
    "lPCA": skdim.id.lPCA,
    "ESS": skdim.id.ESS,
}
Sample = Callable[[int, int], tuple[Tensor, float, Tensor]]


def sphere(n: int, seed: int) -> tuple[Tensor, float, Tensor]:
    """S^16 in R^64."""
    points = torch.randn(n, 17, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    points = points / torch.linalg.vector_norm(points, dim=1, keepdim=True)
    return torch.cat([points, torch.zeros(n, 47, dtype=torch.float64)], 1), 16, torch.zeros(n, dtype=torch.bool)


def circles(n: int, seed: int) -> tuple[Tensor, float, Tensor]:
    """A product of 8 circles in R^16."""
    angle = 2 * math.pi * torch.rand(n, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([angle.cos(), angle.sin()], 1), 8, torch.zeros(n, dtype=torch.bool)


def plane(n: int, seed: int) -> tuple[Tensor, float, Tensor]:
    """A normal law on a 5-dimensional plane with noise .01 in R^50."""
    generator = torch.Generator().manual_seed(seed)
    flat = torch.randn(n, 5, generator=generator, dtype=torch.float64)
    noise = 0.01 * torch.randn(n, 50, generator=generator, dtype=torch.float64)
    return torch.cat([flat, torch.zeros(n, 45, dtype=torch.float64)], 1) + noise, 5, torch.zeros(n, dtype=torch.bool)


def swiss_roll(n: int, seed: int) -> tuple[Tensor, float, Tensor]:
    """The swiss roll in R^3; its edges are those of angle and width."""
    generator = np.random.default_rng(seed)
    angle, width = 1.5 * np.pi * (1 + 2 * generator.uniform(size=n)), generator.uniform(size=n)
    points = np.stack([angle * np.cos(angle), 21 * width, angle * np.sin(angle)], 1)
    share = (angle / (1.5 * np.pi) - 1) / 2
    edge = (np.minimum(share, 1 - share) < 0.05) | (np.minimum(width, 1 - width) < 0.05)
    return torch.from_numpy(points), 2, torch.from_numpy(edge)


SAMPLES: dict[str, Sample] = {
    "sphere S^16 in R^64": sphere,
    "8 circles in R^16": circles,
    "5-d plane, noise .01, R^50": plane,
    "swiss roll in R^3": swiss_roll,
}


@dataclass(frozen=True)
class Estimate:
    """The dimension at each point, and the seconds it took."""

    dimension: Tensor
    seconds: float


def estimates(points: Tensor, peers: Sequence[str]) -> dict[str, Estimate]:
    """What each method says."""
    began = time.perf_counter()
    dimension = pf.analysis.data_dimension(points).dimension
    found = {"proxflow": Estimate(dimension, time.perf_counter() - began)}
    neighbours = min(NEIGHBOURS, len(points) // 4)
    for name in peers:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pointwise = PEERS[name]().fit_transform_pw(points.numpy(), n_neighbors=neighbours)
        found[name] = Estimate(torch.as_tensor(np.asarray(pointwise)).double(), time.perf_counter() - began)
    return found


def table(n: int, seeds: int, peers: Sequence[str]) -> None:
    """Mean absolute errors, inside and at edges, and seconds for each sample."""
    print(f"mean absolute error over {n} points, mean over {seeds} seeds")
    print(f"{'':34s}" + "".join(f"{name:>10s}" for name in ("proxflow", *peers)))
    for title, sample in SAMPLES.items():
        inside: dict[str, list[float]] = {}
        outside: dict[str, list[float]] = {}
        seconds: dict[str, list[float]] = {}
        for seed in range(seeds):
            points, truth, edge = sample(n, 1000 + seed)
            for name, estimate in estimates(points, peers).items():
                error = (estimate.dimension - truth).abs()
                inside.setdefault(name, []).append(float(error[~edge].mean()))
                seconds.setdefault(name, []).append(estimate.seconds)
                if bool(edge.any()):
                    outside.setdefault(name, []).append(float(error[edge].mean()))
        print(f"{title:34s}" + _cells(inside), flush=True)
        if outside:
            print(f"{'  its edges':34s}" + _cells(outside), flush=True)
        print(f"{'  seconds':34s}" + _cells(seconds), flush=True)


def images(name: str, n: int, peers: Sequence[str]) -> None:
    """Traces at each scale, and what the methods say."""
    points = pf.data.load(name, n=n).points.flatten(1).double()
    found = pf.analysis.data_dimension(points)
    print(f"{name}, {len(points)} points in R^{points.shape[1]}: dimension against scale")
    for k in range(0, len(found.scales), 3):
        below = float(found.below_spacing[k].double().mean())
        trace = float(found.trace[k].mean())
        print(f"  scale {float(found.scales[k]):8.3f}: trace {trace:7.2f}; below the spacing at {below:.0%} of points")
    some = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:2000]
    others = estimates(points[some], peers)
    means = ", ".join(f"{name} {float(estimate.dimension.nanmean()):.2f}" for name, estimate in others.items())
    print(f"  means over {len(some)} points: {means}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--peers", default=",".join(PEERS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.points, options.seeds = 120, 1
    peers = options.peers.split(",")
    table(options.points, options.seeds, peers)
    images("digits", 120 if options.quick else 1797, peers)
    if not options.quick:
        try:
            images("fashion-mnist", 10_000, peers)
        except ValueError as error:
            print(f"Fashion-MNIST is left out: {error}")


def _cells(values: dict[str, list[float]]) -> str:
    return "".join(f"{statistics.mean(column):10.3f}" for column in values.values())


if __name__ == "__main__":
    main()
