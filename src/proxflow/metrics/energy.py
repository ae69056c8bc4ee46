"""The energy distance of two clouds of points."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from proxflow.checks import Numbers
from proxflow.metrics.clouds import common_frame, distances

__all__ = ["energy_bounds", "energy_distance", "energy_distance_error"]

_BLOCK_NUMBERS = 1 << 22  # entries of one block of distances


@overload
def energy_distance(
    a: Numbers,
    b: Numbers,
    a_weights: Numbers | None = None,
    b_weights: Numbers | None = None,
    *,
    unbiased: bool = False,
    differentiable: Literal[False] = False,
) -> float: ...


@overload
def energy_distance(
    a: Numbers,
    b: Numbers,
    a_weights: Numbers | None = None,
    b_weights: Numbers | None = None,
    *,
    unbiased: bool = False,
    differentiable: Literal[True],
) -> Tensor: ...


def energy_distance(
    a: Numbers,
    b: Numbers,
    a_weights: Numbers | None = None,
    b_weights: Numbers | None = None,
    *,
    unbiased: bool = False,
    differentiable: bool = False,
) -> float | Tensor:
    """2 E|X - Y| - E|X - X'| - E|Y - Y'| of two clouds of weighted points, in float64; a length.

    By default the distance of the clouds themselves, as ``wasserstein`` is: X and X' are drawn with replacement (the
    V-statistic). It is never negative, and 0 only for clouds that are the same law. The laws that the clouds were
    drawn from are nearer, by E|X - X'| / n + E|Y - Y'| / m on average.

    ``unbiased`` leaves pairs of a point with itself out (the U-statistic): its mean is the energy distance of the
    laws, so that it may be negative where they agree.

    Takes (n + m)^2 d operations and a bounded block of distances at a time, with gradients too. scipy.stats.
    energy_distance, for the line, is the square root of the default.

    Args:
        a: (n, *event), finite; float32 or float64; a tensor, a numpy array or a pandas object.
        b: (m, *event), finite, on the same device; n and m may differ.
        a_weights: (n,), finite, not negative, normalised here; equal if None.
        b_weights: (m,), likewise.
        unbiased: estimate the energy distance of the laws.
        differentiable: give the same number as a tensor without axes, of the points' dtype, differentiable once in
            points and weights: a loss. Where two points are equal, the gradient of their distance is taken as 0.

    Raises:
        ValueError: a cloud is empty, has rows that are not finite, is unlike the other, or is a single point where
            ``unbiased`` needs two; or bad weights.

    Source: Szekely and Rizzo, Energy statistics: a class of statistics based on distances (2013).
    """
    clouds = common_frame("energy_distance", a, b, a_weights, b_weights, differentiable=differentiable)
    (x, mass_x), (y, mass_y) = (
        (points, points.new_full((len(points),), 1 / len(points)) if weights is None else weights)
        for points, weights in ((clouds.x, clouds.x_weights), (clouds.y, clouds.y_weights))
    )
    within = [_sum_within(points, mass) for points, mass in ((x, mass_x), (y, mass_y))]
    if unbiased:
        for name, mass in (("a", mass_x), ("b", mass_y)):
            if int((mass > 0).sum()) < 2:
                raise ValueError(
                    f"energy_distance: unbiased needs two points in each cloud; give more than one in {name}"
                )
        within = [total / _different(mass) for total, mass in zip(within, (mass_x, mass_y), strict=True)]
    value = 2 * _sum_across(x, y, mass_x, mass_y) - within[0] - within[1]
    if not unbiased:
        value = value.clamp(min=0)  # below 0 it could only be rounding
    return (clouds.unit * value).to(clouds.dtype) if differentiable else clouds.unit * float(value)


def energy_distance_error(a: Numbers, b: Numbers) -> float:
    """Standard error of the unbiased energy distance of two clouds of independent draws.

    From how much the rows' shares of it, 2 (E|x_i - Y| - E|x_i - X|), vary, its first-order Hoeffding terms. Where the
    laws differ this is the error; where they are the same, the rows' shares are noise of their own and it is the root
    of 2 times the error. Takes twice the operations of ``energy_distance``. NaN where a cloud is a single point.

    Args:
        a: (n, *event), finite; float32 or float64; a tensor, a numpy array or a pandas object.
        b: (m, *event), likewise.

    Raises:
        ValueError: as ``energy_distance``.
    """
    clouds = common_frame("energy_distance_error", a, b)
    if min(len(clouds.x), len(clouds.y)) < 2:
        return math.nan
    return clouds.unit * math.sqrt(_row_means(clouds.x, clouds.y).variance)


def energy_bounds(a: Numbers, b: Numbers, errors: float) -> tuple[float, float, float]:
    """The unbiased energy distance of two clouds of independent draws, and the ends of its interval.

    The distance of the clouds themselves is the square |D|^2 of a difference of means in a Hilbert space (Szekely and
    Rizzo): the laws' own, T, is its mean less a bias. A standard error that is found at |D|^2 is too small where the
    clouds are by chance nearer than the laws are, and grows beyond all that is seen where a few points lie far out. The
    variance of a square is proportional to its mean, so that the interval holds each T at which ``errors`` standard
    errors, taken at T + bias, reach the distance seen, as Wilson's (1927) does for shares; its lower end is never below
    minus the bias.

    Args:
        a: (n, *event), finite; float32 or float64.
        b: (m, *event), likewise.
        errors: how many standard errors the ends are away; 1.96 for 95%.

    Returns:
        The value and both ends; NaN where a cloud is a single point.

    Raises:
        ValueError: as ``energy_distance``.
    """
    clouds = common_frame("energy_bounds", a, b)
    if min(len(clouds.x), len(clouds.y)) < 2:
        return math.nan, math.nan, math.nan
    found = _row_means(clouds.x, clouds.y)
    rate = min(found.variance / found.squared, 4 * found.bias) if found.squared > 0 else 4 * found.bias
    spread = errors**2 * rate
    middle, half = found.squared + spread / 2, math.sqrt(spread * found.squared + spread**2 / 4)
    ends = (found.squared, middle - half, middle + half)
    value, low, high = (clouds.unit * (end - found.bias) for end in ends)
    return value, low, high


@dataclass(frozen=True)
class _RowMeans:
    """The energy distance of two clouds themselves, its bias, and the variance of it less the bias."""

    squared: float
    bias: float
    variance: float


def _row_means(x: Tensor, y: Tensor) -> _RowMeans:
    """From mean distances of each row to both clouds, of (n, d) and (m, d), two rows each at least."""
    squared, bias, variance = 0.0, 0.0, 0.0
    for rows, others in ((x, y), (y, x)):
        across, within = _mean_distances(rows, others), _mean_distances(rows, rows)
        n = len(rows)
        squared += float((across - within).mean())
        bias += float(within.mean()) / (n - 1)
        variance += float((2 * (across - within * n / (n - 1))).var()) / n
    return _RowMeans(max(squared, 0.0), bias, variance)  # below 0 it could only be rounding


def _mean_distances(x: Tensor, y: Tensor) -> Tensor:
    """Mean distance of each row of x to the points y, (n,)."""
    return torch.cat([distances(rows, y).mean(1) for rows in x.split(_block_rows(y))])


def _sum_across(x: Tensor, y: Tensor, mass_x: Tensor, mass_y: Tensor) -> Tensor:
    """E|X - Y|."""

    def block(rows: Tensor, masses: Tensor) -> Tensor:
        return masses @ (distances(rows, y) @ mass_y)

    size = _block_rows(y)
    blocks = zip(x.split(size), mass_x.split(size), strict=True)
    return torch.stack([_again(block, rows, masses) for rows, masses in blocks]).sum()


def _sum_within(x: Tensor, mass: Tensor) -> Tensor:
    """E|X - X'|, each unordered pair of blocks met once."""

    def block(rows: Tensor, masses: Tensor, rest: Tensor, rest_masses: Tensor) -> Tensor:
        found = distances(rows, rest)
        return 2 * masses @ (found @ rest_masses) - masses @ (found[:, : len(rows)] @ masses)

    size, total = _block_rows(x), []
    for start in range(0, len(x), size):
        part, rest = slice(start, start + size), slice(start, None)
        total.append(_again(block, x[part], mass[part], x[rest], mass[rest]))
    return torch.stack(total).sum()


def _again(block: Callable[..., Tensor], *arguments: Tensor) -> Tensor:
    """A block whose distances are made again when its gradient is asked for, not kept."""
    value: Tensor = checkpoint(block, *arguments, use_reentrant=False, preserve_rng_state=False)
    return value


def _different(mass: Tensor) -> Tensor:
    """The probability that two draws are different points, 1 - sum of squares without its cancellation."""
    before, after = (torch.cat([order.new_zeros(1), order[:-1]]).cumsum(0) for order in (mass, mass.flip(0)))
    return mass @ (before + after.flip(0))


def _block_rows(points: Tensor) -> int:
    return max(1, _BLOCK_NUMBERS // len(points))
