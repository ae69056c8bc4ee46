"""Groups of near atoms: a hierarchy from fine regions to two halves, or as many groups of equal size.

Method: groups are cut in two across their principal axes, which a few steps of the power method find for all groups at
once, in the first principal directions of all atoms. A cut is best where it leaves clusters whole.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.geometry import (
    ManyRows,
    by_blocks,
    covariance_about,
    distances_from,
    projected,
    row_blocks,
    row_norm,
    weighted_sum,
)
from proxflow.semidiscrete.problem import inner

__all__ = ["Hierarchy", "equal_groups", "first_of", "group_count", "nested_groups"]

_SHELLS = 64  # around the mean: fine groups of equal radius
_COARSENING = 4  # groups hold at least this many times as many atoms as those of the finer level
_POWER_STEPS = 4  # of the power method, that find a direction to cut a group along
_DIRECTIONS = 32  # principal ones, that groups are told apart in
_FROM_MEAN = 0.5  # mean distances from the mean of a group: a cut is where the widest gap within these is
_HALVINGS = 64  # of all atoms, that show near copies, at the most
_MOST_COPIES = 2 * _COARSENING  # of one another: more are a region
_NEARER, _MUCH_NEARER = 4.0, 32.0  # times as near to each other as to the rest of their group: near copies
_LEAST = 1e-30  # mass of an atom, relative to the largest, and length of an axis: none is divided by 0
_SHARE_OF_COPIES = 1 / 64  # of the atoms that are much nearer, at the least
_SHARE_LEFT = 3 / 4  # of the atoms to be cut further: below it the others are left out


@dataclass(frozen=True)
class Hierarchy:
    """Groups of near atoms, each level as labels (N,) of the atoms.

    Attributes:
        levels: from fine regions to two halves, then shells around the mean; none for few atoms. Copies stay together.
        copies: atoms that are far nearer to each other than to others; None if hardly any are.
    """

    levels: list[Tensor]
    copies: Tensor | None


def nested_groups(
    points: ManyRows, weights: Tensor, mean: Tensor | None = None, *, find_copies: bool = True
) -> Hierarchy:
    """Regions, shells and near copies.

    Args:
        points: (N, d) distinct.
        weights: (N,) positive.
        mean: (d,), that shells are about; of the points if None.
        find_copies: False where images of atoms compete, too, and may be nearer to an atom than a copy is. On a line,
            where distances vary over all scales by chance, there are none.
    """
    places, masses = _in_few_directions(points, weights), _relative(weights)
    search = _CopySearch(places, masses) if find_copies and places.shape[1] > 1 else None
    regions = _regions(places, masses, search)
    if not regions:
        return Hierarchy([], None)
    distance = distances_from(points, weighted_sum(weights, points) if mean is None else mean).float()
    copies = None if search is None else search.ended()
    if copies is None:
        return Hierarchy([*regions, *_shells(distance, masses, regions)], None)
    first, masses = first_of(copies), torch.bincount(copies, masses).float()
    regions = _regions(places[first], masses)
    levels = [*regions, *_shells(distance[first], masses, regions)]
    return Hierarchy([labels[copies] for labels in levels], copies)


class _CopySearch:
    """Looks for atoms that are far nearer to each other than to those they are cut off from, as groups are cut in two.

    Args:
        places: (N, k) float32.
        masses: (N,).
    """

    def __init__(self, places: Tensor, masses: Tensor) -> None:
        self._places, self._masses = places, masses
        self._rows = torch.arange(len(places), device=places.device)  # of the atoms that are cut on
        self._labels, self._halvings = torch.zeros_like(self._rows), 0
        self._wider = _radii(places, self._labels)
        self._copies, self._nearer = self._rows.clone(), places.new_zeros(len(places))

    def see(self, finer: Tensor) -> None:
        """Labels of the atoms after one more cut: what came out small is compared with the group it was part of."""
        self._halvings += 1
        radii, size = _radii(self._places, finer), torch.bincount(finer)[finer]
        ratio = self._wider / radii.clamp(min=_LEAST)
        found = (ratio >= _NEARER) & (ratio > self._nearer[self._rows]) & (size > 1) & (size <= _MOST_COPIES)
        self._copies[self._rows[found]] = self._halvings * len(self._copies) + finer[found]
        self._nearer[self._rows[found]] = ratio[found]
        self._labels, self._wider = finer, radii

    def ended(self) -> Tensor | None:
        """Labels (N,) after cuts until all atoms are alone, the same for near copies alone.

        None if hardly any atoms are much nearer; else those that are somewhat nearer count, too.
        """
        while self._halvings < _HALVINGS and bool((left := self._not_alone()).any()):
            if int(left.sum()) < _SHARE_LEFT * len(left):
                self._keep(left)
            finer = _bisected(self._places, self._masses, self._labels)
            if group_count(finer) == group_count(self._labels):
                break
            self.see(finer)
        numbers: Tensor = torch.unique(self._copies, return_inverse=True)[1]
        enough = _SHARE_OF_COPIES * len(self._copies)
        return numbers if int((self._nearer >= _MUCH_NEARER).sum()) >= enough else None

    def _not_alone(self) -> Tensor:
        """Which of the atoms that are cut on share their group with others."""
        return torch.bincount(self._labels)[self._labels] > 1

    def _keep(self, left: Tensor) -> None:
        """Cut these atoms on, and no others."""
        self._places, self._masses, self._rows = self._places[left], self._masses[left], self._rows[left]
        self._wider = self._wider[left]
        self._labels = torch.unique(self._labels[left], return_inverse=True)[1]


def _regions(places: Tensor, masses: Tensor, search: _CopySearch | None = None) -> list[Tensor]:
    """Labels (N,) of regions, each level about a fourth as many as the one before, to two halves.

    A search for near copies sees all cuts.
    """
    tree = [torch.zeros(len(places), dtype=torch.int64, device=places.device)]
    while group_count(tree[-1]) * _COARSENING < len(places):
        finer = _bisected(places, masses, tree[-1])
        if group_count(finer) == group_count(tree[-1]):
            break
        tree.append(finer)
        if search is not None:
            search.see(finer)
    chosen, last = [], len(places)
    for labels in reversed(tree[1:]):
        if group_count(labels) * _COARSENING <= last:
            chosen.append(labels)
            last = group_count(labels)
    return chosen


def first_of(labels: Tensor) -> Tensor:
    """Number of the first atom of each group, of labels (N,) from 0 on."""
    numbers = torch.arange(len(labels), device=labels.device)
    return numbers.new_full((group_count(labels),), len(labels)).scatter_reduce_(0, labels, numbers, "amin")


def _radii(places: Tensor, labels: Tensor) -> Tensor:
    """Of the group of each atom: the mean distance of its atoms from their mean, (N,)."""
    count, size = group_count(labels), torch.bincount(labels)
    mean = places.new_zeros(count, places.shape[1]).index_add_(0, labels, places)
    mean /= size[:, None]
    distance = torch.cat([row_norm(places[part] - mean[labels[part]]) for part in row_blocks(places)])
    return (distance.new_zeros(count).index_add_(0, labels, distance) / size)[labels]


def _relative(weights: Tensor) -> Tensor:
    """Of the largest, (N,) float32."""
    return (weights / weights.max()).float().clamp(min=_LEAST)


def _in_few_directions(points: ManyRows, weights: Tensor) -> Tensor:
    """Points (N, d) in their first principal directions, (N, k) float32: the levels read them over and over."""
    if points.shape[1] <= _DIRECTIONS:
        return by_blocks(points, lambda rows: rows.float())
    mean = weighted_sum(weights, points)
    axes: Tensor = torch.linalg.eigh(covariance_about(points, weights, mean)).eigenvectors
    return by_blocks(points, lambda rows: projected(rows, mean, axes[:, -_DIRECTIONS:]).float())


def _shells(distance: Tensor, weights: Tensor, regions: list[Tensor]) -> list[Tensor]:
    """Labels (N,) by distance from the mean: finest regions stay whole, shells hold about equally many atoms."""
    if not regions:
        return []
    labels, shells = regions[0], min(_SHELLS, len(distance) // _COARSENING)
    far = torch.bincount(labels, weights * distance) / torch.bincount(labels, weights)
    order, size = far.argsort(), torch.bincount(labels)
    before = torch.empty_like(size)
    before[order] = size[order].cumsum(0) - size[order]
    shell = torch.unique(before * shells // len(labels), return_inverse=True)[1]
    return [shell[labels]] if group_count(shell) > 1 else []


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
    places, masses = _in_few_directions(points, weights), _relative(weights)
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
    """Every group split across its principal axis, at the widest gap that is near its mean."""
    position = _along_axes(points, weights, labels)
    order = position.argsort(stable=True)
    order = order[labels[order].argsort(stable=True)]
    group, place = labels[order], position[order]
    spread = torch.bincount(labels, weights * position.abs()) / torch.bincount(labels, weights)
    reach = (_FROM_MEAN * spread)[group[1:]]
    gap = place.diff().where((group.diff() == 0) & (place[1:] >= -reach) & (place[:-1] <= reach), 0.0)
    widest = gap.new_zeros(len(spread)).scatter_reduce_(0, group[1:], gap, "amax")
    above = place[1:].where((gap > 0) & (gap == widest[group[1:]]), torch.inf)
    bound = gap.new_full((len(spread),), torch.inf).scatter_reduce_(0, group[1:], above, "amin")
    halves: Tensor = torch.unique(2 * labels + (position >= bound[labels]), return_inverse=True)[1]
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

    mean = summed(weights, points)
    mean /= torch.bincount(labels, weights)[:, None]
    centred = mean[labels].neg_().add_(points)
    probe = torch.randn(dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    position = torch.cat([torch.sign(inner(centred[part], probe.to(points))) for part in parts])
    for _ in range(_POWER_STEPS):
        axis = summed(weights * position, centred)
        axis /= torch.linalg.vector_norm(axis, dim=1, keepdim=True).clamp(min=_LEAST)
        position = torch.cat([inner(centred[part], axis[labels[part]]) for part in parts])
    return position
