"""Masses of a returned potential by an argmax of its own: float64 arithmetic on the returned tensors alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from proxflow.potentials import Discrete
from proxflow.semidiscrete import Fit


@dataclass(frozen=True)
class Measured:
    """chi2 and its standard error, total variation, and masses (N,), on ``draws`` of noise."""

    chi2: float
    stderr: float
    total_variation: float
    mass: torch.Tensor
    draws: int


def atom_weights(fit: Fit, weights: torch.Tensor | None) -> torch.Tensor:
    """The weight that each atom of a fit should have, from those of the rows given."""
    rows = torch.ones(len(fit.atom_of_row)) if weights is None else torch.as_tensor(weights)
    rows = rows.double() / rows.double().sum()
    return torch.zeros(len(fit.cell_mass), dtype=torch.float64).index_add_(0, fit.atom_of_row, rows)


def measure(potential: Discrete, weights: torch.Tensor, draws: int = 200_000, seed: int = 99) -> Measured:
    """Counts of fresh normal noise; scores are taken about the median point, which leaves the argmax as it is."""
    points = potential.points.double()
    points = points - points.median(0).values
    generator = torch.Generator().manual_seed(seed)
    counts = torch.zeros(len(points), dtype=torch.float64)
    for rows in torch.arange(draws).split(10_000):
        noise = torch.randn(len(rows), points.shape[1], generator=generator, dtype=torch.float64)
        best = (noise @ points.mT - potential.heights.double()).argmax(1)
        counts += torch.bincount(best, minlength=len(points))
    chi2 = float(((counts.square() - counts) / weights).sum()) / (draws * (draws - 1)) - 1
    mass = counts / draws
    ratio = mass / weights
    pairs = 2 * float((mass * ratio / weights).sum()) / draws**2
    linear = 4 * (float((mass * ratio.square()).sum()) - float((mass * ratio).sum()) ** 2) / draws
    linear -= 4 * (len(weights) - 1) / draws**2
    total_variation = 0.5 * float((mass - weights).abs().sum())
    return Measured(chi2, math.sqrt(max(pairs + linear, 0.5 * pairs)), total_variation, mass, draws)
