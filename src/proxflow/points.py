"""Data points as users give them: checked, and flat."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["flat_points"]


def flat_points(caller: str, points: Tensor) -> Tensor:
    """Points (N, *event) as (N, d), detached.

    Raises:
        ValueError: no such tensor, no points, neither float32 nor float64, or rows that are not finite.
    """
    if not isinstance(points, Tensor) or points.ndim < 2 or points.numel() == 0:
        got = tuple(points.shape) if isinstance(points, Tensor) else type(points).__name__
        raise ValueError(f"{caller}: points must be a non-empty (N, *event) tensor, got {got}")
    if points.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{caller}: points must be float32 or float64, got {points.dtype}; convert them")
    flat = points.detach().reshape(len(points), -1)
    bad = torch.nonzero(~torch.isfinite(flat).all(1))[:, 0]
    if len(bad):
        raise ValueError(
            f"{caller}: {len(bad)} rows of points hold NaN or inf, the first: {bad[:5].tolist()}; drop them"
        )
    return flat
