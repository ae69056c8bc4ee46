"""The directions in which rows vary most."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

__all__ = ["principal_axes"]

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
