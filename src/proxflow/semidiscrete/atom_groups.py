"""Groups of near atoms: a hierarchy from fine regions to two halves, or as many groups of equal size.

Method: groups are cut in two across their principal axes, which a few steps of the power method find for all groups at
once, in the first principal directions of all atoms.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.kernels.geometry import (
    ManyRows,
    by_blocks,
    covariance_about,
    distances_from,
    projected,
    row_blocks,
    weighted_sum,
)
from proxflow.semidiscrete.problem import inner

__all__ = ["equal_groups", "group_count", "nested_groups"]

_SHELLS = 64  # around the mean: groups of equal radius
_COARSENING = 4  # groups hold at least this many times as many atoms as those of the finer level
_POWER_STEPS = 4  # of the power method, that find a direction to cut a group along
_DIRECTIONS = 32  # principal ones, that groups are told apart in


def nested_groups(points: ManyRows, weights: Tensor, mean: Tensor | None = None) -> list[Tensor]:
    """Labels (N,) of the group of each atom, from fine regions to two halves, then shells; none for few atoms.

    Args:
        points: (N, d) distinct.
        weights: (N,) positive.
        mean: (d,), that shells are about; of the points if None.
    """
    levels = [torch.zeros(len(points), dtype=torch.int64, device=points.device)]
    places, masses = _in_few_directions(points, weights), (weights / weights.max()).float()
    while group_count(levels[-1]) * _COARSENING < len(points):
        finer = _bisected(places, masses, levels[-1])
        if group_count(finer) == group_count(levels[-1]):
            break
        levels.append(finer)
    chosen, last = [], len(points)
    for labels in reversed(levels[1:]):
        if group_count(labels) * _COARSENING <= last:
            chosen.append(labels)
            last = group_count(labels)
    return [*chosen, _shells(points, weighted_sum(weights, points) if mean is None else mean)] if chosen else []


def _in_few_directions(points: ManyRows, weights: Tensor) -> Tensor:
    """Points (N, d) in their first principal directions, (N, k) float32: the levels read them over and over."""
    if points.shape[1] <= _DIRECTIONS:
        return by_blocks(points, lambda rows: rows.float())
    mean = weighted_sum(weights, points)
    axes: Tensor = torch.linalg.eigh(covariance_about(points, weights, mean)).eigenvectors
    return by_blocks(points, lambda rows: projected(rows, mean, axes[:, -_DIRECTIONS:]).float())


def _shells(points: ManyRows, mean: Tensor) -> Tensor:
    """Labels (N,) by distance from the mean, equally many atoms in each."""
    rank = distances_from(points, mean).argsort().argsort()
    labels: Tensor = rank * min(_SHELLS, len(points) // _COARSENING) // len(points)
    return labels


def group_count(labels: Tensor) -> int:
    """How many groups there are, of labels (N,) from 0 on."""
    return int(labels.max()) + 1


def equal_groups(points: ManyRows, weights: Tensor, halvings: int) -> Tensor:
    """Labels (N,) of groups of near atoms, as many in each but for one: halved across principal axes so many times.

    Args:
        points: (N, d) distinct, N >= 2^halvings.
        weights: (N,) positive.
    """
    labels = torch.zeros(len(points), dtype=torch.int64, device=points.device)
    places, masses = _in_few_directions(points, weights), (weights / weights.max()).float()
    for _ in range(halvings):
        order = _along_axes(places, masses, labels).argsort(stable=True)
        order = order[labels[order].argsort(stable=True)]
        size = torch.bincount(labels)
        first = size.cumsum(0) - size
        rank = torch.empty_like(labels)
        rank[order] = torch.arange(len(labels), device=labels.device)
        labels = 2 * labels + (rank - first[labels] >= size[labels] // 2)
    return labels


def _bisected(points: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """Every group split across its principal axis at its mean, where clusters leave a gap."""
    halves: Tensor = torch.unique(2 * labels + (_along_axes(points, weights, labels) > 0), return_inverse=True)[1]
    return halves


def _along_axes(points: Tensor, weights: Tensor, labels: Tensor) -> Tensor:
    """Where each atom is along the principal axis of its group, about the group's mean, (N,)."""
    count, dim = group_count(labels), points.shape[1]
    parts = row_blocks(points)

    def summed(masses: Tensor, rows: Tensor) -> Tensor:
        """Over each group, (count, k)."""
        total = rows.new_zeros(count, dim)
        for part in parts:
            total.index_add_(0, labels[part], masses[part, None] * rows[part])
        return total

    mean = summed(weights, points) / torch.bincount(labels, weights)[:, None]
    centred = mean[labels].neg_().add_(points)
    probe = torch.randn(dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    position = torch.sign(inner(centred, probe.to(points)))
    for _ in range(_POWER_STEPS):
        axis = torch.nn.functional.normalize(summed(weights * position, centred), dim=1)
        position = torch.cat([inner(centred[part], axis[labels[part]]) for part in parts])
    return position
