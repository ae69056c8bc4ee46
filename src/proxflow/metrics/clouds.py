"""Clouds of points as metrics take them: checked, flat, float64, two of them in a frame of their own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.points import Numbers, as_tensor
from proxflow.scalars import whole_number

__all__ = ["Clouds", "check_alike", "check_seed", "common_frame", "distances", "flat_rows", "listed"]

_MOST_LISTED = 5


@dataclass(frozen=True)
class Clouds:
    """Two clouds about their common centre, in a unit of length that makes the largest coordinate of order one.

    Far from the origin and at extreme scales no digits are lost and no square overflows.

    Attributes:
        x: (n, d) float64.
        y: (m, d) float64.
        unit: a length here times ``unit`` is a length of the points given.
    """

    x: Tensor
    y: Tensor
    unit: float


def common_frame(metric: str, x: Numbers, y: Numbers) -> Clouds:
    """Check x (n, *event) and y (m, *event), of float32 or float64, and bring them into one frame.

    Raises:
        ValueError: a cloud is empty, has rows that are not finite, or is unlike the other in event shape or device.
    """
    x, y = as_tensor(metric, "x", x), as_tensor(metric, "y", y)
    flat_x, flat_y = flat_rows(metric, "x", x), flat_rows(metric, "y", y)
    check_alike(metric, ("x", x), ("y", y))
    flat_x, flat_y, unit = _scaled(flat_x, flat_y)  # first, since the centre of huge points would overflow
    centre = 0.5 * (flat_x.mean(0) + flat_y.mean(0))
    flat_x, flat_y, finer_unit = _scaled(flat_x - centre, flat_y - centre)
    return Clouds(flat_x, flat_y, unit * finer_unit)


def flat_rows(metric: str, name: str, points: Tensor) -> Tensor:
    """Points (n, *event) of float32 or float64 as (n, d) float64, detached.

    Raises:
        ValueError: another dtype, no points, or rows that are not finite.
    """
    if points.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{metric}: {name} must be float32 or float64, got {points.dtype}; convert it")
    if points.ndim == 0 or points.numel() == 0:
        raise ValueError(f"{metric}: {name} must be (n, *event) with n > 0, got {tuple(points.shape)}; give points")
    flat = points.detach().reshape(len(points), -1)
    broken = (~torch.isfinite(flat).all(1)).nonzero().flatten().tolist()
    if broken:
        raise ValueError(f"{metric}: {name} has rows that are not finite ({listed(broken)}); drop or mend them")
    return flat.double()


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


def check_seed(metric: str, seed: object) -> int:
    """A seed, an integer from 0 to 2^32 - 1, as Python's.

    Raises:
        ValueError: it is not.
    """
    number = whole_number(seed)
    if number is None or not 0 <= number < 2**32:
        raise ValueError(f"{metric}: seed must be an integer from 0 to 2^32 - 1, got {seed!r}")
    return number


def distances(rows: Tensor, points: Tensor) -> Tensor:
    """|row - point|, (n, m), without the expansion |a|^2 - 2 <a, b> + |b|^2: it cancels for near pairs."""
    return torch.cdist(rows, points, compute_mode="donot_use_mm_for_euclid_dist")


def listed(numbers: list[int]) -> str:
    """The first few of some numbers, and how many there are."""
    start = ", ".join(str(number) for number in numbers[:_MOST_LISTED])
    return start if len(numbers) <= _MOST_LISTED else f"{start}, ... {len(numbers):,} in all"


def _scaled(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, float]:
    """Both over a power of two near their largest coordinate, which rounds nothing; and that power."""
    largest = max(float(x.abs().max()), float(y.abs().max()))
    if largest == 0:
        return x, y, 1.0
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1)
    return x / unit, y / unit, unit
