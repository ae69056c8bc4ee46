"""Mirror images as rows of their own against ``symmetry=``: draws and seconds to chi2 + 2 stderr <= 0.01 on digits.

And what pairs in a few directions cost, E|x0 - x1|^2, where the target is flipped at random by a loader, and where the
coupling knows the flip; beside a coupling with all images as rows.

python benchmarks/symmetry.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import proxflow as pf
from proxflow.data.fashion_mnist import INSTALLED

TARGET = 1e-2
EVENT_SHAPE = (8, 8)
DIRECTIONS = 8


def compared(rows: Tensor, tol: float, seeds: int) -> dict[str, list[pf.semidiscrete.Fit]]:
    """Fits of all images as rows, and of the rows with the group, in turn."""
    flip = pf.symmetry.HorizontalFlip(EVENT_SHAPE)
    both = torch.cat([rows, flip.apply(rows, 1)])
    contenders: dict[str, Callable[[int], pf.semidiscrete.Fit]] = {
        "images as rows": lambda seed: pf.semidiscrete.fit(both, tol=tol, seed=seed),
        "symmetry=HorizontalFlip": lambda seed: pf.semidiscrete.fit(rows, symmetry=flip, tol=tol, seed=seed),
    }
    print(f"  {'fit':26s}{'cells':>7s}{'chi2':>9s}{'draws M':>10s}{'to judge':>10s}{'seconds':>9s}{'CPU s':>8s}")
    fits: dict[str, list[pf.semidiscrete.Fit]] = {name: [] for name in contenders}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for seed in range(seeds):
        for name, run in contenders.items():
            began = time.process_time()
            fits[name].append(run(seed))
            seconds[name].append(time.process_time() - began)
    for name, runs in fits.items():
        columns = [(fit.chi2, fit.samples_used, fit.evaluation_samples, fit.seconds) for fit in runs]
        chi2, draws, judged, wall = (statistics.median(column) for column in zip(*columns, strict=True))
        cpu = statistics.median(seconds[name])
        print(f"  {name:26s}{len(runs[0].cell_mass):7d}{chi2:9.2g}{draws:10.0f}{judged:10.0f}{wall:9.2f}{cpu:8.2f}")
    return fits


def agreement(fits: dict[str, list[pf.semidiscrete.Fit]]) -> None:
    """How far the two potentials are apart on fresh noise, beside two fits of one kind with different seeds."""
    noise = torch.randn(1 << 13, fits["images as rows"][0].potential.dim, generator=torch.Generator().manual_seed(1))
    first, second = (runs[0].potential.conjugate(noise) for runs in fits.values())
    print(
        f"  phi varies by {float(first.std()):.3g}; the two fits differ by {float((first - second).std()):.2g}", end=""
    )
    if len(fits["images as rows"]) > 1:
        again = fits["images as rows"][1].potential.conjugate(noise)
        print(f", two seeds with images as rows by {float((first - again).std()):.2g}", end="")
    print()


def pairs_in_few_directions(rows: Tensor, event_shape: tuple[int, ...], tol: float, draws: int) -> None:
    """Costs of pairs whose targets have one law, that of rows and mirror images, and the seconds of their fits."""
    flip, generator = pf.symmetry.HorizontalFlip(event_shape), torch.Generator().manual_seed(2)
    contenders: dict[str, Callable[[], pf.couplings.Subspace]] = {
        "rows, flipped at random": lambda: pf.couplings.Subspace.fit(rows, DIRECTIONS, tol=tol),
        "symmetry=HorizontalFlip": lambda: pf.couplings.Subspace.fit(rows, DIRECTIONS, symmetry=flip, tol=tol),
        "images as rows": lambda: pf.couplings.Subspace.fit(
            torch.cat([rows, flip.apply(rows, 1)]), DIRECTIONS, tol=tol
        ),
    }
    print(f"  {'pairs in ' + str(DIRECTIONS) + ' directions':26s}{'cost':>9s}{'+-':>6s}{'seconds of the fit':>20s}")
    for name, fitted in contenders.items():
        began = time.perf_counter()
        coupling = fitted()
        seconds = time.perf_counter() - began
        pairs = coupling.sample(draws, generator=generator)
        target = pairs.target
        if name.endswith("random"):
            target = flip.apply(target, torch.randint(2, (draws,), generator=generator))
        costs = (pairs.source - target).double().square().sum(1)
        print(f"  {name:26s}{float(costs.mean()):9.2f}{float(costs.std()) / draws**0.5:6.2f}{seconds:20.2f}")


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    quick = parser.parse_args(arguments).quick
    rows = pf.data.load("digits").points.flatten(1)
    rows, tol, seeds = (rows[:40], 0.1, 1) if quick else (rows, TARGET, 2)
    print(f"{len(rows)} digits and their mirror images, chi2 + 2 stderr <= {tol:g}; medians of {seeds}")
    agreement(compared(rows, tol, seeds))
    pairs_in_few_directions(rows, EVENT_SHAPE, tol, 1 << 10 if quick else 1 << 16)
    if INSTALLED.is_dir() and not quick:
        images = pf.data.load("fashion-mnist", n=10_000).points
        print(f"{len(images)} images of Fashion-MNIST")
        pairs_in_few_directions(images.flatten(1), tuple(images.shape[1:]), 0.05, 1 << 15)


if __name__ == "__main__":
    main()
