"""Roots of non-decreasing functions of one variable, which may jump and be flat.

A bracket is read off a table, and interpolation in it (the Illinois method) ends at a root up to rounding on smooth
stretches. What is left, above all jumps, is bisected on the *order* of the floating-point numbers instead of their
values: at most 64 halvings end at two neighbouring numbers, whatever the magnitude of the root, so that a jump is
located to the last bit.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["last_true", "monotone_root"]

_LARGEST = torch.finfo(torch.float64).max
_SMALLEST_INT = -(2**63)
_INTERPOLATIONS = 12  # steps before bisection; a smooth map needs about 5
_ROUNDINGS = 4.0  # of the terms, that a solution may miss its equation by


def last_true(condition: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbouring float64 numbers between which a condition turns from true to false.

    Args:
        condition: elementwise, true up to some point and false after it.
        low, high: where to search; the condition counts as true at ``low`` and as false at ``high``.

    Returns:
        the last number where it is true, and the next one.
    """
    first, last = _rank(low), _rank(high)
    for _ in range(64):
        middle = (first >> 1) + (last >> 1) + (first & last & 1)
        holds = condition(_number(middle)) | (middle == first)
        first, last = torch.where(holds, middle, first), torch.where(holds, last, middle)
        if bool((last - first <= 1).all()):
            break
    return _number(first), _number(last)


def monotone_root(
    function: Callable[[Tensor], Tensor], z: Tensor, alpha: Tensor, beta: Tensor, edges: Tensor, values: Tensor
) -> tuple[Tensor, Tensor]:
    """s and y with alpha s + beta y = z, and y = T(s) or, where T jumps at s, y in the jump; rows (B,) in float64.

    Args:
        function: T, elementwise, non-decreasing.
        z: with alpha s + beta T(s) <= z at the first edge and > z at the last one.
        alpha: >= 0.
        beta: > 0.
        edges, values: (K,) ascending points and T there.
    """
    low, high, floor, ceiling = _bracket(z, alpha, beta, edges, values)
    s, y, low, high = _interpolate(function, z, alpha, beta, low, high, floor, ceiling)
    rest = torch.nonzero(torch.isnan(s))[:, 0]
    if len(rest):
        z, alpha, beta = z[rest], alpha[rest], beta[rest]
        low, high = last_true(lambda s: alpha * s + beta * function(s) <= z, low[rest], high[rest])
        within = torch.minimum(torch.maximum((z - alpha * low) / beta, function(low)), function(high))
        s, y = s.index_put((rest,), low), y.index_put((rest,), within)
    return s, y


def _rank(number: Tensor) -> Tensor:
    """Place of float64 numbers in the order of all of them, 0 having rank 0."""
    bits = number.contiguous().view(torch.int64)
    return torch.where(bits < 0, _SMALLEST_INT - bits, bits)


def _number(rank: Tensor) -> Tensor:
    return torch.where(rank < 0, _SMALLEST_INT - rank, rank).view(torch.float64)


def _bracket(
    z: Tensor, alpha: Tensor, beta: Tensor, edges: Tensor, values: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Neighbouring edges around the root and T there."""
    first = torch.zeros_like(z, dtype=torch.int64)
    last = torch.full_like(first, len(edges) - 1)
    for _ in range((len(edges) - 1).bit_length()):
        middle = (first + last) // 2
        holds = alpha * edges[middle] + beta * values[middle] <= z
        first, last = torch.where(holds, middle, first), torch.where(holds, last, middle)
    return edges[first], edges[last], values[first], values[last]


def _interpolate(
    function: Callable[[Tensor], Tensor],
    z: Tensor,
    alpha: Tensor,
    beta: Tensor,
    low: Tensor,
    high: Tensor,
    floor: Tensor,
    ceiling: Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The Illinois method: s and y (NaN where no root up to rounding was met), and the bracket that is left."""
    s, y = torch.full_like(z, torch.nan), torch.full_like(z, torch.nan)
    below, above = alpha * low + beta * floor - z, alpha * high + beta * ceiling - z
    side = torch.zeros_like(z)
    for _ in range(_INTERPOLATIONS):
        step = below / (below - above)
        trial = torch.minimum(torch.maximum(low + step.nan_to_num(0.5) * (high - low), low), high)
        value = function(trial)
        excess = alpha * trial + beta * value - z
        size = (alpha * trial).abs() + (beta * value).abs() + z.abs()
        met = torch.isnan(s) & (excess.abs() <= _ROUNDINGS * torch.finfo(z.dtype).eps * size)
        s, y = torch.where(met, trial, s), torch.where(met, value, y)
        right = excess > 0
        # the end that stays a second time counts half, or it would stay for ever
        below = torch.where(right, torch.where(side > 0, 0.5 * below, below), excess)
        above = torch.where(right, excess, torch.where(side < 0, 0.5 * above, above))
        low, high = torch.where(right, low, trial), torch.where(right, trial, high)
        side = torch.where(right, 1.0, -1.0).to(z)
        if not bool(torch.isnan(s).any()):
            break
    return s, y, low, high
