"""Per row, the Euclidean norm over the whole range of a dtype, and whether all entries are finite."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["finite_rows", "row_norm"]


def row_norm(x: Tensor) -> Tensor:
    """|x| per row, (B,), without overflow or underflow of the squares, and with gradient 0 at x = 0."""
    if x.dtype != torch.float64:
        wide: Tensor = torch.linalg.vector_norm(x, dim=1, dtype=torch.float64)
        return wide.to(x.dtype)
    size = _largest(x.detach())
    unit = torch.where((size > 0) & (size < torch.inf), size, 1.0)
    scaled: Tensor = torch.linalg.vector_norm(x / unit[:, None], dim=1)
    return unit * scaled


def finite_rows(x: Tensor) -> Tensor:
    """Whether all entries of a row are finite, (B,)."""
    return torch.isfinite(_largest(x.detach()))


def _largest(x: Tensor) -> Tensor:
    """Largest size of the entries per row, (B,); NaN where one is."""
    return x.abs().amax(1)
