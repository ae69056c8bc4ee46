"""Mirror images as rows of their own against ``symmetry=``: draws and seconds to chi2 + 2 stderr <= 0.01 on digits.

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

TARGET = 1e-2
EVENT_SHAPE = (8, 8)


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


def main(arguments: list[str] | None = None) -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    quick = parser.parse_args(arguments).quick
    rows = pf.data.load("digits").points.flatten(1)
    rows, tol, seeds = (rows[:40], 0.1, 1) if quick else (rows, TARGET, 2)
    print(f"{len(rows)} digits and their mirror images, chi2 + 2 stderr <= {tol:g}; medians of {seeds}")
    agreement(compared(rows, tol, seeds))


if __name__ == "__main__":
    main()
