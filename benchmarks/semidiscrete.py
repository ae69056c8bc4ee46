"""Efficiency of semidiscrete.fit: chi2 * M / N of fits that used M noise samples, whose statistical limit is 1.

Other solvers are beside it in solvers.py.

python benchmarks/semidiscrete.py
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import proxflow as pf
from proxflow.semidiscrete.certificate import MassError, mass_error
from proxflow.semidiscrete.problem import Tally

TARGET = 1e-2


@dataclass(frozen=True)
class Case:
    """A data set to fit, with weights where they are not equal."""

    points: Tensor
    weights: Tensor | None = None
    seeds: int = 3


def normal_cloud(n: int, d: int) -> Tensor:
    """n standard normal points of R^d."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0))


def unequal_clusters(n: int, d: int) -> Tensor:
    """n points of R^d in 20 clusters that lie apart, the widest six times as wide as the narrowest."""
    widths = torch.linspace(0.2, 1.2, 20).repeat(n // 20)[:, None]
    return 3 * normal_cloud(20, d).repeat(n // 20, 1) + widths * normal_cloud(n, d)


def hard_cases() -> dict[str, Callable[[], Case]]:
    """Many atoms in few dimensions, other scales, shapes and weights; each made when its turn comes."""
    digits = pf.data.load("digits").points.flatten(1)
    line = torch.linspace(-1, 1, 64)
    clusters = 3 * normal_cloud(40, 3).repeat_interleave(100, 0) + 1e-2 * normal_cloud(4000, 3)
    zipf = 1 / (1 + torch.randperm(len(digits), generator=torch.Generator().manual_seed(0)).double())
    cases: dict[str, Callable[[], Case]] = {
        "digits": lambda: Case(digits),
        "digits x 1e3": lambda: Case(1e3 * digits),
        "digits, Zipf weights": lambda: Case(digits, zipf),
        "two moons": lambda: Case(pf.data.load("moons", n=2000).points),
        "8 gaussians": lambda: Case(pf.data.load("8gaussians", n=5000).points),
        "grid in the plane": lambda: Case(torch.cartesian_prod(line, line)),
        "swiss roll": lambda: Case(pf.data.load("swissroll", n=4000).points),
        "line in R^20": lambda: Case(normal_cloud(5000, 1).double() @ normal_cloud(1, 20).double() + 1),
        "40 tight clusters in R^3": lambda: Case(clusters),
        "normal points in R^4": lambda: Case(normal_cloud(4000, 4)),
        "20 clusters in R^4": lambda: Case(unequal_clusters(4000, 4)),
        "normal points in R^32": lambda: Case(normal_cloud(10_000, 32)),
    }
    try:
        images = pf.data.load("fashion-mnist", n=10_000).points.flatten(1)
    except ValueError as error:
        print(f"Fashion-MNIST is left out: {error}")
    else:
        cases["Fashion-MNIST"] = lambda: Case(images, seeds=1)
    return cases


def mass_errors(
    points: Tensor, candidates: Sequence[Tensor], weights: Tensor | None = None, draws: int = 1 << 18, seed: int = 12345
) -> list[MassError]:
    """chi2 of each of several heights (N,) on the same draws, which no fit has seen, in float64 on the points' device.

    The products with the points are taken once for all of them.
    """
    points = points.double()
    heights = [candidate.to(points) for candidate in candidates]
    weights = torch.full_like(points[:, 0], 1 / len(points)) if weights is None else weights
    generator = torch.Generator(points.device).manual_seed(seed)
    counts = torch.zeros(len(heights), len(points), dtype=torch.float64, device=points.device)
    blocks = max(draws >> 14, 1)
    for _ in range(blocks):
        noise = torch.randn(1 << 14, points.shape[1], generator=generator, dtype=torch.float64, device=points.device)
        for rows in noise.split(1 << 10):
            scores = rows @ points.mT
            for count, own in zip(counts, heights, strict=True):
                count += torch.bincount((scores - own).max(1).indices, minlength=len(points))
    return [mass_error(Tally(count, count, blocks << 14), weights) for count in counts]


def efficiency(cases: Mapping[str, Callable[[], Case]], tol: float) -> None:
    """chi2 M / N of default fits; the chi2 of noisy ones is measured again, on one large common sample."""
    print("semidiscrete.fit, default settings, medians; M draws are used once each; an exact fit uses none")
    print(
        f"  {'data':26s}{'N':>7s}{'d':>5s}  {'method':18s}{'chi2':>9s}{'draws M':>10s}{'chi2 M/N':>10s}{'seconds':>9s}"
    )
    for name, make in cases.items():
        case = make()
        rows = []
        for seed in range(case.seeds):
            fit = pf.semidiscrete.fit(case.points, case.weights, seed=seed, tol=tol)
            chi2 = fit.chi2
            if fit.chi2_stderr > 0:
                potential = fit.potential
                chi2 = mass_errors(potential.points, [potential.heights], potential.weights.double())[0].chi2
            rows.append((chi2, fit.samples_used, chi2 * fit.samples_used / len(fit.cell_mass), fit.seconds))
        chi2, draws, figure, seconds = (statistics.median(column) for column in zip(*rows, strict=True))
        size = f"{len(fit.cell_mass):7d}{fit.potential.dim:5d}"
        print(f"  {name:26s}{size}  {fit.method:18s}{chi2:9.2g}{draws:10.0f}{figure:10.2f}{seconds:9.2f}", flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--only", nargs="+", metavar="DATA", help="these lines of the table alone")
    options = parser.parse_args(arguments)
    if options.quick:
        few = {"50 normal points in R^4": Case(normal_cloud(50, 4), seeds=1), "and in R^2": Case(normal_cloud(50, 2))}
        efficiency({name: partial(few.__getitem__, name) for name in few}, 0.1)
        return
    cases = hard_cases()
    chosen = list(cases) if options.only is None else options.only
    if not set(chosen) <= set(cases):
        parser.error(f"there are {', '.join(cases)}")
    efficiency({name: cases[name] for name in chosen}, TARGET)


if __name__ == "__main__":
    main()
