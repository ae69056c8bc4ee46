"""Rows of vectors: norms over the whole range of a dtype, orthonormal frames, principal directions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

__all__ = ["finite_rows", "frame_around", "principal_axes", "row_norm"]


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


def frame_around(normal: Tensor) -> Tensor:
    """Orthonormal frames (B, d, d), first column +-``normal``: unit vectors (B, d) (a Householder reflection)."""
    identity = torch.eye(normal.shape[1], dtype=normal.dtype, device=normal.device)
    sign = torch.where(normal[:, :1] >= 0, 1.0, -1.0).to(normal)
    reflector = normal + sign * identity[0]
    squared = reflector.square().sum(1)[:, None, None]
    return identity - 2 * reflector[:, :, None] * reflector[:, None, :] / squared


Vector = npt.NDArray[np.float64]

_DENSE = 2048  # coordinates, up to which all axes are computed at once: an eigenproblem of about a second


def principal_axes(rows: Tensor, count: int) -> Tensor:
    """The leading right singular vectors of rows (N, d) in float64, (d, count), orthonormal, at any scale of the rows.

    Each is given the sign that makes its largest entry positive. Rows are to be centred, and times the square roots of
    their weights. Up to 2,048 coordinates by the eigenvectors of rows^T rows, above by Lanczos iterations from a fixed
    start, which take two products with the rows each and no generator.
    """
    rows = rows / rows.abs().max().clamp(min=torch.finfo(rows.dtype).tiny)
    dim = rows.shape[1]
    if dim <= _DENSE or 2 * count >= min(rows.shape):
        axes: Tensor = torch.linalg.eigh(rows.T @ rows).eigenvectors.flip(1)[:, :count]
    else:
        axes = _by_lanczos(rows, count)
    signed: Tensor = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return signed


def _by_lanczos(rows: Tensor, count: int) -> Tensor:
    def product(vector: Vector) -> Vector:
        at = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(rows)
        return np.asarray((rows.T @ (rows @ at)).cpu().numpy(), dtype=np.float64)

    dim = rows.shape[1]
    start = np.random.default_rng(0).standard_normal(dim)
    values, axes = eigsh(LinearOperator((dim, dim), matvec=product, dtype=np.float64), k=count, v0=start)
    return torch.from_numpy(axes[:, np.argsort(-values)].copy()).to(rows)
