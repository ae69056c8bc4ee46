"""Patches of data over which a local statistic is constant: nested groups, the largest that agree with their parts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["UNEVEN", "Estimate", "Patch", "homogeneous_patches"]

_SMALLEST = 128
_STANDARD_ERRORS = 4.0
_SAME = 0.5  # dimensions of manifolds are whole numbers
UNEVEN = 0.6  # standard deviation of log spacing: sampling alone gives up to 0.3, a normal law in the plane 0.45


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error; not a number where there is nothing to estimate it from."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Patch:
    """Rows (n,) of the data and the estimate that holds for all of them."""

    rows: Tensor
    estimate: Estimate


@dataclass(frozen=True)
class _Cut:
    """By how much the two sides of a cut differ, and the standard error of that."""

    difference: float
    stderr: float


def homogeneous_patches(points: Tensor, log_spacing: Tensor, estimate: Callable[[Tensor], Estimate]) -> list[Patch]:
    """A partition of the points (N, d) by a tree of cuts, down to groups of 128.

    A cut is made across the direction of largest variance, or by the logarithm of the local spacing (N,) where that
    varies by more than sampling explains, at the value that leaves the least variance inside the two sides (Otsu's
    method): between two clumps.

    A group is kept whole if the two sides of every cut inside it agree, within 1/2 or 4 + sqrt(2 log of the number of
    cuts) standard errors of the difference. Sides are compared with each other, not with the whole: a smaller group
    sees larger scales only, which may bias it, and its other side alike.
    """
    return _judged(points, log_spacing, torch.arange(len(points), device=points.device), estimate)[0]


def _judged(
    points: Tensor, log_spacing: Tensor, rows: Tensor, estimate: Callable[[Tensor], Estimate]
) -> tuple[list[Patch], Estimate, list[_Cut]]:
    """The patches of a group, its estimate, and the cuts inside it."""
    own = estimate(rows)
    whole = [Patch(rows, own)]
    if len(rows) < 2 * _SMALLEST:
        return whole, own, []
    first, second = (_judged(points, log_spacing, part, estimate) for part in _sides(points, log_spacing, rows))
    cuts = [*first[2], *second[2]]
    difference = abs(first[1].value - second[1].value)
    if math.isfinite(difference):
        cuts.append(_Cut(difference, math.hypot(first[1].stderr, second[1].stderr)))
    allowed = _STANDARD_ERRORS + math.sqrt(2 * math.log(max(1, len(cuts))))
    agree = all(cut.difference <= max(_SAME, allowed * cut.stderr) for cut in cuts)
    return (whole if agree else [*first[0], *second[0]]), own, cuts


def _sides(points: Tensor, log_spacing: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The two sides of a cut of a group, at least 128 rows each."""
    value = log_spacing[rows]
    if float(value.std()) < UNEVEN:
        centred = points[rows] - points[rows].mean(0)
        _, vectors = torch.linalg.eigh(centred.mT @ centred)
        value = centred @ vectors[:, -1]
    value, order = torch.sort(value, stable=True)
    first = torch.arange(1, len(rows), device=rows.device)
    sums = value.cumsum(0)
    apart = (sums[:-1] / first - (sums[-1] - sums[:-1]) / (len(rows) - first)).square() * first * (len(rows) - first)
    cut = _SMALLEST + int(apart[_SMALLEST - 1 : len(rows) - _SMALLEST].argmax())
    return rows[order[:cut]], rows[order[cut:]]
