"""How far atoms are from others: a step of a height is in proportion to it.

The scores of an atom and its neighbours part in proportion to their distance: an atom a million times as far from all
others moves the border of its cell a million times less with the same step. The nearest is sought among as many atoms
as there is time for: a cluster of which none is chosen would look as if it were far from all.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.kernels.geometry import row_norm, square_norms
from proxflow.semidiscrete.problem import SemiDual

__all__ = ["nearest_distances", "spacings"]

_NEIGHBOURS = 1 << 8, 1 << 11  # atoms among which the nearest is sought, at the least and at the most
_DISTANCE_WORK = 1 << 33  # multiplications for that, where they allow for more than the least
_NUMBERS = 1 << 22  # of distances, or of coordinates of atoms, at once
_LEAST_SPACING = 0.1  # median distances to the nearest of those: an atom beside a chosen one has other competitors


def spacings(problem: SemiDual, rows: Tensor) -> Tensor:
    """How far some atoms, by number, are from each other, relative to a typical one, (rows,)."""
    nearest = nearest_distances(problem, rows, rows)
    return (nearest / nearest.median()).clamp(min=_LEAST_SPACING)


def nearest_distances(problem: SemiDual, rows: Tensor, others: Tensor) -> Tensor:
    """Distances of some atoms, by number, to the nearest of others, or of a part of these, that is not the atom itself.

    In units of the problem, (rows,) float64; under a symmetry between the nearest images.
    """
    generator, (least, most) = torch.Generator().manual_seed(0), _NEIGHBOURS
    count = min(max(_DISTANCE_WORK // (len(others) * problem.elements * problem.source.dim), least), most)
    chosen = others[torch.randperm(len(others), generator=generator)[:count].to(others.device)]
    parts = rows.split(max(1, _NUMBERS // max(count, problem.source.dim)))
    return torch.cat([_to_nearest(problem, part, chosen) for part in parts])


def _to_nearest(problem: SemiDual, rows: Tensor, chosen: Tensor) -> Tensor:
    """Distances of some atoms, by number, from the nearest of the chosen ones that is not the atom itself, (rows,)."""
    itself = rows[:, None] == chosen
    points, others = problem.points[rows], problem.points[chosen]
    offsets, level = -0.5 * square_norms(others), points.new_full((len(rows),), -torch.inf)
    nearest = torch.zeros_like(points)
    for element in range(problem.elements):
        images = others if problem.symmetry is None else problem.symmetry.apply(others, element)
        score, place = torch.addmm(offsets, points, images.mT).masked_fill_(itself, -torch.inf).max(1)
        nearest = torch.where((score > level)[:, None], images[place], nearest)
        level = torch.maximum(level, score)
    return row_norm(points - nearest)
