"""The energy distance of two clouds of points."""

from __future__ import annotations

import math

from torch import Tensor

from proxflow.metrics.clouds import common_frame, distances
from proxflow.points import Numbers

__all__ = ["energy_distance"]

_BLOCK_NUMBERS = 1 << 22  # entries of one block of distances


def energy_distance(x: Numbers, y: Numbers, *, unbiased: bool = False) -> float:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two clouds of equally weighted points, in float64; a length.

    By default the distance of the clouds themselves, as ``wasserstein`` is: X and X' are drawn with replacement (the
    V-statistic). It is never negative, and 0 only for clouds that are the same law. The laws that the clouds were
    drawn from are nearer, by E|X - X'| / n + E|Y - Y'| / m on average.

    ``unbiased`` leaves pairs of a point with itself out (the U-statistic): its mean is the energy distance of the
    laws, so that it may be negative where they agree.

    Takes (n + m)^2 d operations and a bounded block of distances at a time. scipy.stats.energy_distance, for the
    line, is the square root of the default.

    Args:
        x: (n, *event), finite; float32 or float64.
        y: (m, *event), finite, on the same device; n and m may differ.
        unbiased: estimate the energy distance of the laws.

    Raises:
        ValueError: a cloud is empty, has rows that are not finite, is unlike the other, or is a single point where
            ``unbiased`` needs two.

    Source: Szekely and Rizzo, Energy statistics: a class of statistics based on distances (2013).
    """
    clouds = common_frame("energy_distance", x, y)
    n, m = len(clouds.x), len(clouds.y)
    if unbiased and min(n, m) < 2:
        name = "x" if n < 2 else "y"
        raise ValueError(f"energy_distance: unbiased needs two points in each cloud; give more than one in {name}")
    off = 1 if unbiased else 0
    across = _sum_across(clouds.x, clouds.y) / (n * m)
    within = _sum_within(clouds.x) / (n * (n - off)) + _sum_within(clouds.y) / (m * (m - off))
    value = 2 * across - within
    return clouds.unit * (value if unbiased else max(value, 0.0))  # below 0 it could only be rounding


def _sum_across(x: Tensor, y: Tensor) -> float:
    """The sum of all distances |x_i - y_j|."""
    return math.fsum(float(distances(rows, y).sum()) for rows in x.split(_block_rows(y)))


def _sum_within(x: Tensor) -> float:
    """The sum of all distances |x_i - x_j| over ordered pairs, each unordered pair of blocks met once."""
    total, start = [0.0], 0
    for rows in x.split(_block_rows(x)):
        block = distances(rows, x[start:])
        total.append(2 * float(block.sum()) - float(block[:, : len(rows)].sum()))
        start += len(rows)
    return math.fsum(total)


def _block_rows(points: Tensor) -> int:
    return max(1, _BLOCK_NUMBERS // len(points))
