"""Clouds of points as metrics take them: checked, flat, float64, two of them in a frame of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor, normalised_weights

__all__ = ["Clouds", "check_alike", "common_frame", "distances", "flat_rows", "listed"]

_MOST_LISTED = 5  # rows named in a message


@dataclass(frozen=True)
class Clouds:
    """Two weighted clouds about their common centre, in a unit of length in which coordinates are of order one at most.

    Far from the origin and at extreme scales no digits are lost and no square overflows. Gradients pass through to the
    points and weights given.

    Attributes:
        x: (n, d) float64.
        y: (m, d) float64.
        x_weights: (n,) float64 of sum 1; None where they are equal, and no gradient is asked for.
        y_weights: (m,) or None, likewise.
        unit: a length here times ``unit`` is a length of the points given.
        dtype: that of the points given, the wider one of the two.
    """

    x: Tensor
    y: Tensor
    x_weights: Tensor | None
    y_weights: Tensor | None
    unit: float
    dtype: torch.dtype


def common_frame(
    metric: str,
    a: Numbers,
    b: Numbers,
    a_weights: Numbers | None = None,
    b_weights: Numbers | None = None,
    *,
    differentiable: bool = False,
    names: tuple[str, str] = ("a", "b"),
) -> Clouds:
    """Check a (n, *event) and b (m, *event), of float32 or float64, and bring them into one frame.

    ``names`` are those of the arguments of ``metric`` that they were given as, for messages.

    Raises:
        ValueError: a cloud is empty, has rows that are not finite, or is unlike the other in event shape or device; or
            weights that are not one for each row, not finite, negative or all zero.
    """
    first, second = (as_tensor(metric, name, given) for name, given in zip(names, (a, b), strict=True))
    flat, other = (flat_rows(metric, name, points) for name, points in zip(names, (first, second), strict=True))
    check_alike(metric, (names[0], first), (names[1], second))
    weights, other_weights = (
        _weights(metric, f"{name}_weights", given, rows, differentiable)
        for name, given, rows in ((names[0], a_weights, flat), (names[1], b_weights, other))
    )
    if not differentiable:
        flat, other = flat.detach(), other.detach()
    unit = _unit(flat, other)
    flat, other = flat / unit, other / unit  # first, since the centre of huge points would overflow
    centre = 0.5 * (flat.detach().mean(0) + other.detach().mean(0))
    flat, other = flat - centre, other - centre
    finer = _unit(flat, other)
    dtype = torch.promote_types(first.dtype, second.dtype)
    return Clouds(flat / finer, other / finer, weights, other_weights, unit * finer, dtype)


def flat_rows(metric: str, name: str, points: Tensor) -> Tensor:
    """Points (n, *event) of float32 or float64 as (n, d) float64.

    Raises:
        ValueError: another dtype, no points, or rows that are not finite.
    """
    if points.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{metric}: {name} must be float32 or float64, got {points.dtype}; convert it")
    if points.ndim == 0 or points.numel() == 0:
        raise ValueError(f"{metric}: {name} must be (n, *event) with n > 0, got {tuple(points.shape)}; give points")
    flat = points.reshape(len(points), -1)
    broken = (~torch.isfinite(flat.detach()).all(1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(f"{metric}: {name} has rows that are not finite ({listed(broken)}); drop or fix them")
    return flat.double()


def _weights(metric: str, name: str, given: Numbers | None, rows: Tensor, differentiable: bool) -> Tensor | None:
    if given is None:
        return None
    weights = normalised_weights(metric, given, rows, name)
    if weights.requires_grad and differentiable:
        return weights
    return None if bool((weights == weights[0]).all()) else weights.detach()


def check_alike(metric: str, first: tuple[str, Tensor], second: tuple[str, Tensor]) -> None:
    """Two named clouds must agree in event shape and device.

    Raises:
        ValueError: they do not.
    """
    (name, points), (other_name, other) = first, second
    if points.shape[1:] != other.shape[1:]:
        raise ValueError(
            f"{metric}: {name} and {other_name} must have points of one shape, got {tuple(points.shape[1:])} and "
            f"{tuple(other.shape[1:])}; reshape one of them"
        )
    if points.device != other.device:
        raise ValueError(
            f"{metric}: {name} and {other_name} must be on one device, got {points.device} and {other.device}; "
            "move one of them"
        )


def distances(rows: Tensor, points: Tensor) -> Tensor:
    """|row - point|, (n, m), without the expansion |a|^2 - 2 <a, b> + |b|^2: it cancels for near pairs."""
    return torch.cdist(rows, points, compute_mode="donot_use_mm_for_euclid_dist")


def listed(numbers: list[int]) -> str:
    """The first few of some numbers, and how many there are."""
    start = ", ".join(str(number) for number in numbers[:_MOST_LISTED])
    return start if len(numbers) <= _MOST_LISTED else f"{start}, ... {len(numbers):,} in all"


def _unit(x: Tensor, y: Tensor) -> float:
    """A power of two near the largest coordinate of both, by which division rounds nothing."""
    largest = max(float(x.detach().abs().max()), float(y.detach().abs().max()))
    return math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0 else 1.0
