"""Data points and their weights as users give them: checked, flat, normalised."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["flat_points", "point_weights"]


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


def point_weights(caller: str, weights: Tensor | None, points: Tensor) -> Tensor:
    """Weights (N,) of the rows of points as float64 of sum 1, on the points' device; equal if None.

    Raises:
        ValueError: not one for each row, not finite, negative, or all zero.
    """
    if weights is None:
        return torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
    weights = torch.as_tensor(weights, dtype=torch.float64, device=points.device).detach()
    if weights.shape != (len(points),):
        raise ValueError(f"{caller}: weights must have shape ({len(points)},), got {tuple(weights.shape)}")
    bad = torch.nonzero(~(torch.isfinite(weights) & (weights >= 0)))[:, 0]
    if len(bad):
        raise ValueError(f"{caller}: weights must be finite and not negative; rows {bad[:5].tolist()} are not")
    if not bool(weights.sum() > 0):
        raise ValueError(f"{caller}: the weights are all zero")
    return weights / weights.sum()
