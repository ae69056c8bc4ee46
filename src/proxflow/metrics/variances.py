"""How widely samples spread beside the data: a ratio of variances, which blur lowers and noise raises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import Numbers, whole_number
from proxflow.kernels.geometry import principal_axes
from proxflow.metrics.clouds import common_frame
from proxflow.results import brief_repr
from proxflow.seeding import generator_of

__all__ = ["Spread", "spread", "variance_ratio"]

_HALVES = 0  # seed of the choice of halves
_NO_VARIANCE = (16 * torch.finfo(torch.float64).eps) ** 2  # of rows of order one that are equal but for rounding


@brief_repr
@dataclass(frozen=True)
class Spread:
    """Variances of samples over those of the data; 1 is right. Errors are one standard error, of both clouds.

    A column or direction along which the data do not vary has NaN.

    Attributes:
        total: ratio of the sum over all coordinates.
        total_error: its error.
        direction: (k,) along the first principal directions of the data, of each half of the rows by the other half.
        direction_error: (k,).
        column: (d,) of each coordinate.
        column_error: (d,).
    """

    total: float
    total_error: float
    direction: Tensor
    direction_error: Tensor
    column: Tensor
    column_error: Tensor


def spread(samples: Numbers, data: Numbers, *, directions: int = 8) -> Spread:
    """Compare how widely samples and data spread: in all, along the data's principal directions, and by column.

    Distances between clouds forgive samples that are too smooth, or smoothed noise that happens to make up for it; this
    does not. Data should be rows that the samples' model has not seen.

    Along the directions in which rows vary most they vary more than their law does: half as much again where there are
    20 rows for each dimension, all directions alike. So the directions are those of one half of the rows, chosen at
    random but always alike, and the variance along them is that of the other half; both halves in turn.

    Args:
        samples: (n, *event), finite, n at least 2.
        data: (m, *event), finite, m at least 2.
        directions: number of principal directions; at most d and m // 2 - 1 are given.

    Raises:
        ValueError: a cloud has fewer than two points, rows that are not finite, or is unlike the other; or directions
            is not a whole number of at least 1.
    """
    if (whole_number(directions) or 0) < 1:
        raise ValueError(f"spread: directions must be a whole number of at least 1, got {directions!r}")
    clouds = common_frame("spread", samples, data, names=("samples", "data"))
    x, y = clouds.x - clouds.x.mean(0), clouds.y - clouds.y.mean(0)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"spread: needs at least two samples and two points of data, got {len(x)} and {len(y)}")
    total, total_error = variance_ratio(x.square().sum(1, keepdim=True), y.square().sum(1, keepdim=True))
    direction, direction_error = _along_directions(x, y, min(int(directions), y.shape[1], len(y) // 2 - 1))
    column, column_error = variance_ratio(x.square(), y.square())
    return Spread(float(total), float(total_error), direction, direction_error, column, column_error)


def _along_directions(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Ratio of the variances of centred x (n, d) and y (m, d) along principal directions of y, and error, (count,)."""
    if count < 1:
        return x.new_empty(0), x.new_empty(0)
    order = torch.randperm(len(y), generator=generator_of(_HALVES)).to(y.device)
    halves = y[order[: len(y) // 2]], y[order[len(y) // 2 :]]
    first, second = (principal_axes(half - half.mean(0), count) for half in halves)
    ours = 0.5 * ((x @ first).square() + (x @ second).square())
    return variance_ratio(ours, torch.cat([halves[0] @ second, halves[1] @ first]).square())


def variance_ratio(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Ratio of the means of squares (n, k) and (m, k), as unbiased variances, and its standard error, (k,)."""
    (over, over_error), (under, under_error) = _variance(x), _variance(y)
    ratio = torch.where(under > _NO_VARIANCE, over / under, torch.nan)
    error = (over_error.square() + (ratio * under_error).square()).sqrt() / under
    return ratio, error


def _variance(squares: Tensor) -> tuple[Tensor, Tensor]:
    """The variance and its standard error, (k,), from squares (n, k) of centred numbers."""
    n = len(squares)
    return squares.sum(0) / (n - 1), squares.std(0) * n**0.5 / (n - 1)
