"""Whether fits say what is true of the potential that they return: over dtypes, dimensions, offsets, outliers, weights.

Every fit is measured by an argmax of its own, in float64 arithmetic on the returned points and heights: chi2 and total
variation of its masses against the weights, on fresh draws. A cell of the table is wrong where the fit says that it has
converged and chi2 by those draws is more than five standard errors from what the fit says.

A fit stops when it judges itself good enough: a figure that it stopped at would be low. ``--stops`` measures how low
what it says is: many fits of three laws with other seeds, each potential measured on 300,000 draws. Beside the
deviation, which wide standard errors would hide, stand the standard errors themselves.

python benchmarks/fit_certificates.py             # all 360 cells, about 15 minutes on two cores
python benchmarks/fit_certificates.py --quick     # a few of them
python benchmarks/fit_certificates.py --stops 100 # that many fits of each law, about 15 minutes on one core
"""

from __future__ import annotations

import argparse
import itertools
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

import proxflow as pf
from proxflow.errors import ConvergenceWarning

ATOMS = 60
DTYPES = (torch.float32, torch.float64)
DIMENSIONS = (1, 2, 3, 4, 30)
OFFSETS = (0.0, 7.0, 1e6)  # of all points, in their spread
OUTLIERS = (0.0, 1e3, 1e6)  # distance of one point in every coordinate, in the spread of the others
WEIGHTS = ("equal", "Zipf", "log-normal, sigma 6", "one of 1e-12")
STANDARD_ERRORS = 5.0


@dataclass(frozen=True)
class Measured:
    """chi2 with its standard error, total variation, and masses (N,), on ``draws`` of noise."""

    chi2: float
    stderr: float
    total_variation: float
    mass: Tensor
    draws: int


@dataclass(frozen=True)
class Case:
    """Data to fit."""

    dtype: torch.dtype
    dim: int
    offset: float
    outlier: float
    weights: str

    def points(self) -> Tensor:
        """Normal points, the first far away, all shifted; (N, d)."""
        generator = torch.Generator().manual_seed(0)
        points = torch.randn(ATOMS, self.dim, generator=generator, dtype=torch.float64)
        if self.outlier:
            points[0] = self.outlier
        return (points + self.offset).to(self.dtype)

    def row_weights(self) -> Tensor:
        """(N,) of sum 1."""
        generator = torch.Generator().manual_seed(5)
        weights = torch.ones(ATOMS, dtype=torch.float64)
        if self.weights == "Zipf":
            weights = 1 / (1 + torch.randperm(ATOMS, generator=generator).double())
        elif self.weights == "log-normal, sigma 6":
            weights = torch.exp(6 * torch.randn(ATOMS, generator=generator, dtype=torch.float64))
        elif self.weights == "one of 1e-12":
            weights[0] = 1e-12
        return weights / weights.sum()


def cases(every: int = 1) -> Iterator[Case]:
    """The grid, or every so manieth cell of it."""
    grid = itertools.product(DTYPES, DIMENSIONS, OFFSETS, OUTLIERS, WEIGHTS)
    return (Case(*cell) for cell in itertools.islice(grid, every // 2, None, every))


def atom_weights(fit: pf.semidiscrete.Fit, weights: Tensor | None) -> Tensor:
    """The weight that each atom of a fit should have, (atoms,), from those of the rows given."""
    rows = torch.ones(len(fit.atom_of_row)) if weights is None else torch.as_tensor(weights)
    rows = rows.double() / rows.double().sum()
    return torch.zeros(len(fit.cell_mass), dtype=torch.float64).index_add_(0, fit.atom_of_row, rows)


def measure(potential: pf.potentials.Discrete, weights: Tensor, draws: int = 200_000, seed: int = 99) -> Measured:
    """Counts of fresh normal noise; scores are taken about the median point, which leaves the argmax as it is."""
    points = potential.points.double()
    points = points - points.median(0).values
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(len(points), dtype=torch.float64)
    for rows in torch.arange(draws).split(1_000):
        noise = torch.randn(len(rows), points.shape[1], generator=generator, dtype=torch.float64)
        best = (noise @ points.mT - potential.heights.double()).argmax(1)
        counts += torch.bincount(best, minlength=len(points))
    chi2 = float(((counts.square() - counts) / weights).sum()) / (draws * (draws - 1)) - 1
    mass = counts / draws
    ratio = mass / weights
    pairs = 2 * float((mass * ratio / weights).sum()) / draws**2
    overlap = float((mass * ratio).sum())
    linear = 4 * (float((mass * ratio.square()).sum()) - overlap**2) / draws
    inflation = 3 * float(((counts.square() - counts) / (draws * weights).square()).sum())
    linear -= 4 * max(inflation - 2 * overlap * float(ratio.sum()), 0.0) / draws**2  # by the noise of the counts
    total_variation = 0.5 * float((mass - weights).abs().sum())
    return Measured(chi2, math.sqrt(max(pairs + linear, 0.5 * pairs)), total_variation, mass, draws)


def deviation(fit: pf.semidiscrete.Fit, measured: Measured) -> float:
    """How far what a fit says of chi2 is from what was measured, in standard errors of both."""
    return abs(fit.chi2 - measured.chi2) / math.hypot(measured.stderr, fit.chi2_stderr)


def laws() -> dict[str, tuple[Tensor, float]]:
    """Points (N, d) that take more draws than the fewest, and the tolerance."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(20, 8, generator=generator)
    near = 0.1 * torch.randn(1000, 8, generator=generator)
    return {
        "digits": (pf.data.load("digits").points.flatten(1), 0.015),
        "normal law, 1,000 x 16": (torch.randn(1000, 16, generator=generator), 0.01),
        "20 clusters, 1,000 x 8": (centres.repeat_interleave(50, 0) + near, 0.01),
    }


def print_stops(fits: int, draws: int) -> None:
    """What fits say at their end against what their potentials do on ``draws`` draws of noise."""
    print(f"{fits} fits of each law; chi2 measured on {draws:,} draws")
    print("law                     tol    | chi2 said  measured  stderr said  (said - measured) / stderr  ", end="")
    print("measured > said + 2 stderr  measured > tol  draws moved   judged")
    for name, (points, tol) in laws().items():
        weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
        found = [pf.semidiscrete.fit(points, tol=tol, seed=seed) for seed in range(fits)]
        true = torch.tensor(
            [
                measure(cast(pf.potentials.Discrete, fit.potential), weights, draws, 10_000 + fit.seed).chi2
                for fit in found
            ]
        )
        said, stderr = torch.tensor([(fit.chi2, fit.chi2_stderr) for fit in found]).T
        off = (said - true) / stderr
        print(
            f"{name:23s} {tol:.3f}  | {float(said.mean()):.5f}    {float(true.mean()):.5f}   {float(stderr.mean()):.5f}"
            f"      {float(off.mean()):+.2f} +- {float(off.std()) / fits**0.5:.2f}              "
            f"{float((off < -2).double().mean()):8.3f}                   {float((true > tol).double().mean()):8.3f}    "
            f"{sum(fit.samples_used for fit in found) / fits:12,.0f}"
            f"{sum(fit.evaluation_samples for fit in found) / fits:12,.0f}",
            flush=True,
        )


def main() -> None:
    """Print the table and how many cells are wrong, or what stopping does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--stops", type=int, metavar="FITS")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.stops is not None:
        print_stops(options.stops, 20_000 if options.quick else 300_000)
        return
    print_cells(options.quick)


def print_cells(quick: bool) -> None:
    """Print the table and how many cells are wrong."""
    print(f"{ATOMS} atoms, tol .01; chi2 and total variation measured on 200,000 draws")
    print("dtype dim  offset outlier weights              | method            converged chi2 said          ", end="")
    print("chi2 measured       deviation total variation seconds")
    wrong = converged = count = 0
    for case in cases(every=89 if quick else 1):
        began = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            fit = pf.semidiscrete.fit(case.points(), case.row_weights(), max_samples=1_000_000)
        seconds = time.perf_counter() - began
        found = measure(cast(pf.potentials.Discrete, fit.potential), atom_weights(fit, case.row_weights()))
        off = deviation(fit, found)
        count, converged = count + 1, converged + fit.converged
        wrong += fit.converged and off > STANDARD_ERRORS
        print(
            f"{str(case.dtype)[11:]:>5} {case.dim:3d} {case.offset:7g} {case.outlier:7g} {case.weights:20s} | "
            f"{fit.method:17s} {fit.converged!s:9s} {fit.chi2:8.1e} +- {fit.chi2_stderr:.1e}  "
            f"{found.chi2:8.1e} +- {found.stderr:.1e}  {off:5.1f}     {found.total_variation:.4f}       {seconds:5.1f}",
            flush=True,
        )
    print(f"{count} fits, {converged} converged, {wrong} converged and wrong")


if __name__ == "__main__":
    main()
