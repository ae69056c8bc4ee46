"""Orthonormal frames around given directions."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["frame_around"]


def frame_around(normal: Tensor) -> Tensor:
    """Orthonormal frames (B, d, d), first column +-``normal``: unit vectors (B, d) (a Householder reflection)."""
    identity = torch.eye(normal.shape[1], dtype=normal.dtype, device=normal.device)
    sign = torch.where(normal[:, :1] >= 0, 1.0, -1.0).to(normal)
    reflector = normal + sign * identity[0]
    squared = reflector.square().sum(1)[:, None, None]
    return identity - 2 * reflector[:, :, None] * reflector[:, None, :] / squared
