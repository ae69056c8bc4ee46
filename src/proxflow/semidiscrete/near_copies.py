"""Atoms that are nearly copies of one another, such as an image that is saved twice, and how they are told apart.

Scores of two copies differ by far less than those of other atoms. A step in units of the gaps between others would hand
the mass of both from one to the other and back, and one in units of their own gap would leave both where they are. So
they move together as one atom does, and against each other in a unit of their own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.kernels.geometry import row_norm
from proxflow.semidiscrete.atom_groups import first_of
from proxflow.semidiscrete.problem import SemiDual, inner
from proxflow.semidiscrete.spacings import nearest_distances

__all__ = ["NearCopies"]

_ROWS = 1 << 12  # of points, at once


class NearCopies:
    """Atoms that are copies of one another.

    Args:
        problem: the semi-dual.
        labels: (N,), from 0 on, the same for copies of one another.

    Attributes:
        labels: the same.
        first: (K,) number of one atom of each label.
        spacings: (N,) how far a copy is from another one, or from whatever else is nearer, relative to a typical one; 0
            for atoms that have no copy.
    """

    def __init__(self, problem: SemiDual, labels: Tensor) -> None:
        self._problem, self.labels = problem, labels
        order = labels.argsort(stable=True)
        self.first = first_of(labels)
        starts = order == self.first[labels[order]]
        following = torch.where(starts.roll(-1), self.first[labels[order]], order.roll(-1))  # of the last one the first
        other = torch.empty_like(order).scatter_(0, order, following)
        self._rows = torch.nonzero(other != problem.rows)[:, 0]
        self._others = other[self._rows]
        numbers = torch.arange(len(self._rows), device=labels.device)
        self._distances = torch.cat([row_norm(self._differences(part)) for part in numbers.split(_ROWS)])
        nearest = torch.minimum(self._distances, nearest_distances(problem, self._rows, problem.rows))
        self._typical = self._distances.median()
        self.spacings = torch.zeros_like(problem.weights).index_copy_(0, self._rows, nearest / self._typical)

    def gaps(self, noise: Tensor) -> Tensor:
        """Between scores of copies that are a typical distance apart, one pair for each row of noise (n, d), (n,)."""
        picked = torch.linspace(0, len(self._rows) - 1, len(noise), device=noise.device).long()
        gaps: Tensor = inner(noise.double(), self._differences(picked)).abs() / self._distances[picked]
        return self._typical * gaps

    def _differences(self, numbers: Tensor) -> Tensor:
        """Of some copies, by number among the copies, from others, (n, d) float64."""
        points = self._problem.points
        return points[self._rows[numbers]].double() - points[self._others[numbers]].double()
