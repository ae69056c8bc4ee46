"""Groups of nearby atoms at several scales: the preconditioner of the stochastic steps.

A gradient step moves each height by what its own cell lacks, in units of the gap between neighbouring scores. Errors
that a whole region shares then fade slowly, for the region competes with others across far larger gaps. A hierarchy
adds, for each scale, the step that the same rule would give to groups taken as single atoms (an additive multilevel
method, as of Bramble, Pasciak and Xu 1990). Shells around the mean carry what regions share whatever their direction:
the error of a start that is right in every marginal but not in its radial law.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["nested_groups"]

_SHELLS = 64
_COARSENING = 4  # groups hold at least this many times as many atoms as those of the finer level
_POWER_STEPS = 4


def nested_groups(points: Tensor, weights: Tensor) -> list[Tensor]:
    """Labels (N,) of the group of each atom, from fine regions to two halves, then shells; none for few atoms.

    Args:
        points: (N, d) distinct.
        weights: (N,) positive.
    """
    levels = [torch.zeros(len(points), dtype=torch.int64, device=points.device)]
    while _count(levels[-1]) * _COARSENING < len(points):
        finer = _bisected(points, weights, levels[-1])
        if _count(finer) == _count(levels[-1]):
            break
        levels.append(finer)
    chosen, last = [], len(points)
    for labels in reversed(levels[1:]):
        if _count(labels) * _COARSENING <= last:
            chosen.append(labels)
            last = _count(labels)
    return [*chosen, _shells(points, weights)] if chosen else []


def _shells(points: Tensor, weights: Tensor) -> Tensor:
    """Labels (N,) by distance from the mean, equally many atoms in each."""
    rank = torch.linalg.vector_norm(points - weights @ points, dim=1).argsort().argsort()
    labels: Tensor = rank * min(_SHELLS, len(points) // _COARSENING) // len(points)
    return labels


def _count(labels: Tensor) -> int:
    return int(labels.max()) + 1


def _bisected(points: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """Every group split across its principal axis at its mean, where clusters leave a gap."""
    count = _count(labels)

    def summed(rows: Tensor) -> Tensor:
        return torch.zeros(count, rows.shape[1], dtype=rows.dtype, device=rows.device).index_add_(0, labels, rows)

    mass = weights[:, None]
    centred = points - (summed(mass * points) / summed(mass))[labels]
    probe = torch.randn(points.shape[1], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    position = torch.sign(centred @ probe.to(points))
    for _ in range(_POWER_STEPS):
        axis = torch.nn.functional.normalize(summed(mass * position[:, None] * centred), dim=1)
        position = (centred * axis[labels]).sum(1)
    halves: Tensor = torch.unique(2 * labels + (position > 0), return_inverse=True)[1]
    return halves
