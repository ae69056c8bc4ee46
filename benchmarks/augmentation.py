"""Random shifts of digits, whose pairs come from the images without them: what that costs.

Such shifts, filled with background, are no group: a fit has no ``symmetry=`` for them. A loop that augments can still
pair noise with the clean image, keep the noise and shift the target. The law of pairs is then exact for the augmented
data, but they are not its optimal pairs. With finitely many shifts these are known: a fit with all shifted images as
rows. The saving is what pairs cost less than independent ones, E|x - y|^2; the share of it that remains is told.

python benchmarks/augmentation.py
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

import proxflow as pf

SHIFTS = tuple((down, right) for down in (-1, 0, 1) for right in (-1, 0, 1))
CHANCES: tuple[float, ...] = 0.1, 0.3, 1.0
TOL = 0.02
DRAWS = 1 << 17
DIRECTIONS = 8


def shifted(images: Tensor, down: int, right: int) -> Tensor:
    """Images (N, H, W) moved by some pixels, background, which is 0, where nothing was."""
    height, width = images.shape[1:]
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1))
    return padded[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]


def copies_of(digits: pf.data.Dataset, chance: float) -> tuple[Tensor, Tensor]:
    """All shifts of all images, (9, N, d), and how likely each shift is, (9,): one of nine, at this chance, or none."""
    images = digits.standardisation.undo(digits.points).round()
    moved = [shifted(images.reshape(-1, 8, 8), *shift).reshape(images.shape) for shift in SHIFTS]
    rows = torch.stack([digits.standardisation.apply(each).flatten(1) for each in moved]).to(digits.points)
    likely = torch.full((len(SHIFTS),), chance / len(SHIFTS))
    likely[SHIFTS.index((0, 0))] += 1 - chance
    return rows, likely


def cost_of_pairs(coupling: pf.couplings.Semidiscrete | pf.couplings.Subspace, copies: Tensor, likely: Tensor) -> float:
    """E|x - y|^2 of noise and a shifted image, whose pair is that of the image."""
    pairs = coupling.sample(DRAWS, generator=torch.Generator().manual_seed(1))
    shift = torch.multinomial(likely, DRAWS, replacement=True, generator=torch.Generator().manual_seed(2))
    return float((pairs.source.flatten(1) - copies[shift, pairs.index]).square().sum(1).mean())


def show(digits: pf.data.Dataset, chance: float, clean: pf.semidiscrete.Fit, tol: float) -> None:
    """A table for one chance of a shift."""
    copies, likely = copies_of(digits, chance)
    rows = digits.points.flatten(1)
    weights = likely[:, None].expand(-1, len(rows)).flatten()
    both = pf.semidiscrete.fit(copies.flatten(0, 1), weights, tol=tol, progress=False)
    mean_square = float(weights @ copies.flatten(0, 1).square().sum(1)) / len(rows)
    independent = copies.shape[2] + mean_square
    subspace = pf.couplings.Subspace.fit(rows, DIRECTIONS, tol=tol)
    costs = {
        "independent": independent,
        f"clean images' pairs in {DIRECTIONS} directions": cost_of_pairs(subspace, copies, likely),
        "clean images' pairs": cost_of_pairs(pf.couplings.Semidiscrete(clean.potential, rows), copies, likely),
        "optimal for shifted images": both.transport_cost,
    }
    saving = independent - both.transport_cost
    print(f"shifted at a chance of {chance:g}: {len(both.cell_mass):,} distinct rows, chi2 {both.chi2:.3f}")
    for name, cost in costs.items():
        print(f"  {name:40s}{cost:10.3f}{(independent - cost) / saving:9.1%} of the saving", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few digits, to see that it runs")
    options = parser.parse_args()
    digits, chances, tol = pf.data.load("digits", n=60 if options.quick else None), CHANCES, TOL
    if options.quick:
        chances, tol = chances[-1:], 0.3
    print(f"{len(digits.points):,} digits; shifts by up to one pixel, filled with background; fits to chi2 <= {tol:g}")
    clean = pf.semidiscrete.fit(digits.points, tol=tol, progress=False)
    for chance in chances:
        show(digits, chance, clean, tol)


if __name__ == "__main__":
    main()
