"""Rows of vectors: norms over the whole range of a dtype, orthonormal frames, principal directions."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

__all__ = [
    "ManyRows",
    "ScaledRows",
    "axes_of_covariance",
    "coordinates",
    "covariance_about",
    "distances_from",
    "finite_rows",
    "frame_around",
    "principal_axes",
    "projected",
    "row_blocks",
    "row_norm",
    "square_norms",
    "weighted_sum",
]

_BLOCK_NUMBERS = 1 << 22  # of many rows, that are copied at once


class ManyRows(Protocol):
    """Rows (N, d) that are read a part at a time: a tensor, or ``ScaledRows``."""

    @property
    def shape(self) -> torch.Size: ...  # noqa: D102

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    def __len__(self) -> int: ...

    def __getitem__(self, which: slice | Tensor, /) -> Tensor: ...


class ScaledRows:
    """(rows - centre) / radius in float64, made of the parts that are asked for, so that no copy of all is kept.

    Args:
        rows: (N, d).
        centre: (d,) float64.
        radius: () float64.

    Attributes:
        rows: as given.
    """

    def __init__(self, rows: Tensor, centre: Tensor, radius: Tensor) -> None:
        self.rows, self._centre, self._radius = rows, centre, radius

    @property
    def shape(self) -> torch.Size:
        """(N, d)."""
        return self.rows.shape

    @property
    def device(self) -> torch.device:
        """Of the rows."""
        return self.rows.device

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, which: slice | Tensor, /) -> Tensor:
        return (self.rows[which] - self._centre).div_(self._radius)

    def only(self, which: Tensor) -> ScaledRows:
        """Some of them, by number, in the same units."""
        return ScaledRows(self.rows[which], self._centre, self._radius)

    def to(self, dtype: torch.dtype) -> Tensor:
        """All of them in some precision, (N, d)."""
        whole = torch.empty(self.shape, dtype=dtype, device=self.device)
        for part in row_blocks(self):
            whole[part] = self[part]
        return whole


def row_blocks(x: ManyRows) -> list[slice]:
    """Slices of the rows (N, d), few enough numbers in each that copies of one take little memory."""
    size = max(x.shape[1], _BLOCK_NUMBERS // x.shape[1])
    return [slice(first, first + size) for first in range(0, len(x), size)]


def distances_from(points: ManyRows, centre: Tensor) -> Tensor:
    """Distances (N,) of rows (N, d) from a point (d,), in float64."""
    return torch.cat([row_norm(points[rows].double() - centre) for rows in row_blocks(points)])


def square_norms(points: ManyRows) -> Tensor:
    """|y|^2 of rows (N, d), (N,) float64."""
    return torch.cat([points[rows].double().square().sum(1) for rows in row_blocks(points)])


def weighted_sum(weights: Tensor, points: ManyRows) -> Tensor:
    """sum_i weights_i points_i (d,), in float64, of rows (N, d)."""
    total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    for rows in row_blocks(points):
        total += weights[rows].double() @ points[rows].double()
    return total


def projected(points: ManyRows, mean: Tensor, axes: Tensor) -> Tensor:
    """Coordinates (N, k) of rows (N, d) about ``mean`` (d,) along axes (d, k)."""
    return torch.cat([(points[rows] - mean) @ axes for rows in row_blocks(points)])


def coordinates(points: Tensor, axes: Tensor) -> Tensor:
    """points @ axes, (N, k) in the dtype of the axes (d, k); rows (N, d) in fewer digits are converted in blocks."""
    if points.dtype == axes.dtype:
        return points @ axes
    return torch.cat([points[rows].to(axes.dtype) @ axes for rows in row_blocks(points)])


def covariance_about(points: ManyRows, weights: Tensor, mean: Tensor, scales: Tensor | None = None) -> Tensor:
    """sum_i weights_i z_i z_i' (d, d) with z = points - mean, or scales_i points_i - mean, in float64."""
    total = torch.zeros(points.shape[1], points.shape[1], dtype=torch.float64, device=points.device)
    for rows in row_blocks(points):
        centred = (points[rows] if scales is None else scales[rows, None] * points[rows]) - mean
        total += (weights[rows, None] * centred).mT @ centred
    return total


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
        return _signed(_leading_eigenvectors(rows.T @ rows, count))
    return _signed(_by_lanczos(rows, count))


def axes_of_covariance(covariance: Tensor, count: int) -> Tensor:
    """``principal_axes`` of rows whose covariance (d, d) is given, in float64."""
    dim, size = len(covariance), covariance.abs().max()
    if dim <= _DENSE or 2 * count >= dim or not bool(size):
        return _signed(_leading_eigenvectors(covariance, count))
    return _signed(_by_lanczos(covariance / size, count))


def _leading_eigenvectors(matrix: Tensor, count: int) -> Tensor:
    axes: Tensor = torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :count]
    return axes


def _signed(axes: Tensor) -> Tensor:
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
