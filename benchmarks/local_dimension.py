"""Local dimension of data: mean absolute error over the points beside scikit-dimension on the same samples.

N = 2,000 points of four laws, 5 seeds, default settings throughout: scikit-dimension's MLE, TwoNN, lPCA and ESS with
their own neighbourhoods of 100 points. Points of the swiss roll within a twentieth of its edges are reported apart.
A second table has mixtures and uneven data: the share of points whose dimension is found within .3, and for
data_dimension also of those that it leaves unknown (isolated points have no dimension) and of those within 3 of its
standard errors.
Digits and Fashion-MNIST have no known dimension: there the traces at each scale are shown beside the baselines.
ESS takes minutes for each sample, most of an hour in all; --peers leaves it out.

python benchmarks/local_dimension.py [--peers MLE,TwoNN,lPCA]
"""

from __future__ import annotations

import argparse
import itertools
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


Mixture = Callable[[np.random.Generator], list[tuple[np.ndarray, float]]]


def _ball(draw: np.random.Generator, count: int, dim: int, ambient: int = 0, at: float = 0.0) -> np.ndarray:
    """A normal cloud, ``at`` along the last axis."""
    points = np.zeros((count, max(dim, ambient)))
    points[:, :dim] = draw.normal(size=(count, dim))
    points[:, -1] += at
    return points


def _sphere(draw: np.random.Generator, count: int, dim: int, ambient: int, at: float = 0.0) -> np.ndarray:
    points = _ball(draw, count, dim + 1, ambient)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    points[:, -1] += at
    return points


def _spiral(draw: np.random.Generator) -> np.ndarray:
    turn = 3 * np.pi * draw.uniform(size=1500) ** 3 + 0.5
    return np.stack([turn * np.cos(turn), turn * np.sin(turn)], 1)


def _moons(draw: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    angle = np.pi * draw.uniform(size=(2, 500))
    first = np.stack([np.cos(angle[0]), np.sin(angle[0])], 1)
    second = np.stack([1 - np.cos(angle[1]), 0.5 - np.sin(angle[1])], 1)
    return [(np.concatenate([first, second]), 1)]


def _uneven_roll(draw: np.random.Generator) -> np.ndarray:
    angle = 1.5 * np.pi * (1 + 2 * draw.uniform(size=2000) ** 2)
    return np.stack([angle * np.cos(angle), 21 * draw.uniform(size=2000), angle * np.sin(angle)], 1)


def _line_and_plane(draw: np.random.Generator) -> list[tuple[np.ndarray, float]]:
    line, plane = np.zeros((500, 3)), np.zeros((1000, 3))
    line[:, 2], plane[:, :2] = draw.uniform(-1, 1, 500), draw.uniform(-1, 1, (1000, 2))
    return [(line, 1), (plane, 2)]


def _near_duplicates(draw: np.random.Generator, jitter: float) -> np.ndarray:
    points = draw.normal(size=(1150, 5))
    return np.concatenate([points, points[:350] + jitter * draw.normal(size=(350, 5))])


MIXTURES: dict[str, Mixture] = {
    "circle + 3-d ball": lambda draw: [(_sphere(draw, 700, 1, 5), 1), (_ball(draw, 300, 3, 5, 20), 3)],
    "spheres S^1, S^3, S^6": lambda draw: [(_sphere(draw, 500, k, 10, 3 * k), k) for k in (1, 3, 6)],
    "3-d balls of width 1, 1e-3": lambda draw: [(_ball(draw, 500, 3, 0, 20), 3), (1e-3 * _ball(draw, 500, 3), 3)],
    "the same, one in the other": lambda draw: [(_ball(draw, 500, 3), 3), (1e-3 * _ball(draw, 500, 3), 3)],
    "uneven spiral": lambda draw: [(_spiral(draw), 1)],
    "near-duplicates, 1e-15, R^5": lambda draw: [(_near_duplicates(draw, 1e-15), 5)],
    "near-duplicates, 1e-3, R^5": lambda draw: [(_near_duplicates(draw, 1e-3), 5)],
    "S^2 + 20 outliers, R^6": lambda draw: [(_sphere(draw, 980, 2, 6), 2), (30 * _ball(draw, 20, 6), math.nan)],
    "two moons": _moons,
    "uniform cube, R^3": lambda draw: [(draw.uniform(size=(2000, 3)), 3)],
    "uniform cube, R^6": lambda draw: [(draw.uniform(size=(2000, 6)), 6)],
    "line through a plane": _line_and_plane,
    "swiss roll, uneven": lambda draw: [(_uneven_roll(draw), 2)],
    "log-normal, sigma 2, R^2": lambda draw: [(np.exp(2 * draw.normal(size=(1500, 2))), 2)],
    "integers below 256, R^4": lambda draw: [(draw.integers(0, 256, size=(1500, 4)).astype(float), 4)],
    "3-d ball x 1e200": lambda draw: [(1e200 * _ball(draw, 500, 3), 3)],
}


@dataclass(frozen=True)
class Estimate:
    """The dimension at each point, its standard error where there is one, and the seconds it took."""

    dimension: Tensor
    seconds: float
    stderr: Tensor | None = None


def estimates(points: Tensor, peers: Sequence[str]) -> dict[str, Estimate]:
    """What each method says."""
    began = time.perf_counter()
    own = pf.analysis.data_dimension(points)
    found = {"proxflow": Estimate(own.dimension, time.perf_counter() - began, own.stderr)}
    neighbours = min(NEIGHBOURS, len(points) // 4)
    for name in peers:
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                pointwise = PEERS[name]().fit_transform_pw(points.numpy(), n_neighbors=neighbours)
            except ValueError:  # of data x 1e200, whose squares overflow
                pointwise = np.full(len(points), np.nan)
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


def mixtures(seeds: int, peers: Sequence[str], share: int, count: int) -> None:
    """Shares of points within .3 of the dimension of their piece, for the first ``count`` mixtures."""
    print(f"share of points within .3 of the dimension, mean over {seeds} seeds")
    print(f"{'':30s}{'proxflow':>10s}{'unknown':>10s}{'3 stderr':>10s}" + "".join(f"{name:>10s}" for name in peers))
    covered: list[float] = []
    for title, mixture in itertools.islice(MIXTURES.items(), count):
        shares: dict[str, list[float]] = {}
        for seed in range(seeds):
            parts = [(rows[::share], dimension) for rows, dimension in mixture(np.random.default_rng(seed))]
            points = torch.from_numpy(np.concatenate([rows for rows, _ in parts]))
            truth = torch.cat([torch.full((len(rows),), float(dimension)) for rows, dimension in parts]).double()
            known = ~torch.isnan(truth)
            for name, estimate in estimates(points, peers).items():
                error = (estimate.dimension - truth).abs()[known]
                shares.setdefault(name, []).append(float((error <= 0.3).double().mean()))
                if estimate.stderr is not None:
                    told = ~torch.isnan(error)
                    within = error[told] <= 3 * estimate.stderr[known][told]
                    shares.setdefault("unknown", []).append(float(torch.isnan(estimate.dimension).double().mean()))
                    shares.setdefault("3 stderr", []).append(float(within.double().mean()))
        covered += shares["3 stderr"]
        print(f"{title:30s}" + _cells(shares), flush=True)
    print(f"known estimates within 3 standard errors, over all rows of the table: {statistics.mean(covered):.2%}")


def images(name: str, n: int, peers: Sequence[str]) -> None:
    """Traces at each scale, and what the methods say."""
    points = pf.data.load(name, n=n).points.flatten(1).double()
    found = pf.analysis.data_dimension(points)
    print(f"{name}, {len(points)} points in R^{points.shape[1]}: dimension against scale")
    for k in range(0, len(found.scales), 3):
        scale = float(found.scales[k].nanmedian())
        below = float(found.below_spacing[k].double().mean())
        trace = float(found.trace[k].mean())
        print(f"  median scale {scale:8.3f}: trace {trace:7.2f}; below the spacing at {below:.0%} of points")
    some = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:2000]
    others = estimates(points[some], peers)
    unknown = float(torch.isnan(others["proxflow"].dimension).double().mean())
    print(f"  {unknown:.1%} of points have no dimension: isolated, or in pieces of fewer than 30")
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
    mixtures(options.seeds, peers, *((8, 3) if options.quick else (1, len(MIXTURES))))
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
