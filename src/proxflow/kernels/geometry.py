"""Rows of vectors: norms over the whole range of a dtype, orthonormal frames, principal directions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor

from proxflow.torch_support import in_full_precision

__all__ = [
    "ManyRows",
    "ScaledRows",
    "axes_of_covariance",
    "by_blocks",
    "coordinates",
    "covariance_about",
    "distances_from",
    "finite_rows",
    "frame_around",
    "largest_entry",
    "polar_step",
    "principal_axes",
    "principal_axes_about",
    "projected",
    "row_blocks",
    "row_norm",
    "square_norms",
    "tall_blocks",
    "telling_vector",
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

    @classmethod
    def in_units(cls, rows: Tensor) -> ScaledRows:
        """Rows in units of the largest size of their numbers, about the origin."""
        origin = torch.zeros(rows.shape[1], dtype=torch.float64, device=rows.device)
        return cls(rows, origin, largest_entry(rows).clamp(min=torch.finfo(torch.float64).tiny))

    def only(self, which: Tensor) -> ScaledRows:
        """Some of them, by number, in the same units."""
        return ScaledRows(self.rows[which], self._centre, self._radius)

    def to(self, dtype: torch.dtype) -> Tensor:
        """All of them in some precision, (N, d)."""
        return by_blocks(self, lambda rows: rows.to(dtype))


def row_blocks(x: ManyRows) -> list[slice]:
    """Slices of the rows (N, d), few enough numbers in each that copies of one take little memory."""
    return _slices(len(x), max(1, _BLOCK_NUMBERS // x.shape[1]))


def tall_blocks(x: ManyRows) -> list[slice]:
    """As ``row_blocks``, but with as many rows as there are coordinates, for sums of matrices (d, d)."""
    return _slices(len(x), max(x.shape[1], _BLOCK_NUMBERS // x.shape[1]))


def _slices(count: int, size: int) -> list[slice]:
    return [slice(first, first + size) for first in range(0, count, size)]


def by_blocks(points: ManyRows, function: Callable[[Tensor], Tensor]) -> Tensor:
    """What a function makes of rows (N, d), (N, ...), of a block of them at a time.

    All goes into one tensor: a list would keep each small result behind the block that it was made of, and the
    allocator could not use the memory of one block for the next.
    """
    first, *others = row_blocks(points)
    part = function(points[first])
    if not others:
        return part
    whole = part.new_empty(len(points), *part.shape[1:])
    whole[first] = part
    for rows in others:
        whole[rows] = function(points[rows])
    return whole


def distances_from(points: ManyRows, centre: Tensor) -> Tensor:
    """Distances (N,) of rows (N, d) from a point (d,), in float64."""
    return by_blocks(points, lambda rows: row_norm(rows.double() - centre))


def square_norms(points: ManyRows) -> Tensor:
    """|y|^2 of rows (N, d), (N,) float64."""
    return by_blocks(points, lambda rows: rows.double().square().sum(1))


def weighted_sum(weights: Tensor, points: ManyRows) -> Tensor:
    """sum_i weights_i points_i (d,), in float64, of rows (N, d)."""
    total = torch.zeros(points.shape[1], dtype=torch.float64, device=points.device)
    for rows in row_blocks(points):
        total += weights[rows].double() @ points[rows].double()
    return total


def projected(points: ManyRows, mean: Tensor, axes: Tensor) -> Tensor:
    """Coordinates (N, k) of rows (N, d) about ``mean`` (d,) along axes (d, k)."""
    return by_blocks(points, lambda rows: (rows - mean) @ axes)


@in_full_precision
def coordinates(points: Tensor, axes: Tensor) -> Tensor:
    """points @ axes, (N, k) in the dtype of the axes (d, k); rows (N, d) in fewer digits are converted in blocks."""
    if points.dtype == axes.dtype:
        return points @ axes
    return by_blocks(points, lambda rows: rows.to(axes.dtype) @ axes)


def covariance_about(points: ManyRows, weights: Tensor, mean: Tensor, scales: Tensor | None = None) -> Tensor:
    """sum_i weights_i z_i z_i' (d, d) with z = points - mean, or scales_i points_i - mean, in float64."""
    total = torch.zeros(points.shape[1], points.shape[1], dtype=torch.float64, device=points.device)
    for rows in tall_blocks(points):
        centred = (points[rows] if scales is None else scales[rows, None] * points[rows]) - mean
        total += (weights[rows, None] * centred).mT @ centred
    return total


def polar_step(columns: Tensor) -> Tensor:
    """Nearly orthonormal columns (..., d, k) with the square of their error: Newton's method for the polar factor."""
    return 1.5 * columns - 0.5 * columns @ (columns.mT @ columns)


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


def telling_vector(points: ManyRows) -> Tensor:
    """A vector (d,) float64 without structure, along which points (N, d) are apart; vmap would refuse a generator."""
    return torch.arange(1, points.shape[1] + 1, dtype=torch.float64, device=points.device).square().sin()


def frame_around(normal: Tensor) -> Tensor:
    """Orthonormal frames (B, d, d), first column +-``normal``: unit vectors (B, d) (a Householder reflection)."""
    identity = torch.eye(normal.shape[1], dtype=normal.dtype, device=normal.device)
    sign = torch.where(normal[:, :1] >= 0, 1.0, -1.0).to(normal)
    reflector = normal + sign * identity[0]
    squared = reflector.square().sum(1)[:, None, None]
    return identity - 2 * reflector[:, :, None] * reflector[:, None, :] / squared


Vector = npt.NDArray[np.float64]

_CACHED = 1 << 17  # numbers of rows whose products are taken at once, in a cache
_DENSE = 2048  # coordinates, up to which all axes are computed at once: an eigenproblem of about a second
_SQUARE = 4096  # coordinates, up to which a covariance takes less time than products of rows with many vectors


def principal_axes(rows: Tensor, count: int) -> Tensor:
    """The leading right singular vectors of centred rows (N, d), (d, count): ``principal_axes_about`` their origin."""
    equal = torch.ones(len(rows), dtype=torch.float64, device=rows.device)
    return principal_axes_about(rows, equal, torch.zeros_like(rows[0], dtype=torch.float64), count)


def principal_axes_about(points: Tensor, weights: Tensor, centre: Tensor, count: int) -> Tensor:
    """The axes along which rows vary most about a centre, (d, count) float64, orthonormal, at any scale of the rows.

    Each is given the sign that makes its largest entry positive. Up to 4,096 coordinates they are eigenvectors of the
    covariance. Above, and with fewer rows, they come from Lanczos iterations from a fixed start, which take two
    products with the rows each and no generator. Rows are converted a block at a time.

    Args:
        points: (N, d), of any dtype.
        weights: (N,) float64, not negative.
        centre: (d,) float64.
        count: how many, at most d.
    """
    largest = max(float((points[part] - centre).abs_().amax()) for part in row_blocks(points))
    size = centre.new_tensor(max(largest, torch.finfo(torch.float64).tiny))
    rows, dim = points.shape
    few = 2 * count >= min(rows, dim)
    if dim <= _DENSE or few or dim <= min(rows, _SQUARE):
        covariance = covariance_about(ScaledRows(points, centre, size), weights, torch.zeros_like(centre))
        return _signed(_leading_eigenvectors(covariance, count)) if few else axes_of_covariance(covariance, count)
    at_once = max(1, _CACHED // dim)
    buffer = centre.new_empty(at_once, dim)
    parts = list(zip(points.split(at_once), weights.split(at_once), strict=True))

    def product(vector: Tensor) -> Tensor:
        total = torch.zeros_like(centre)
        for part, weight in parts:
            block = torch.sub(part, centre, out=buffer[: len(part)])
            total.addmv_(block.mT, weight * (block @ (vector / size)) / size)
        return total

    return _signed(_by_lanczos(product, centre, count))


def largest_entry(points: Tensor) -> Tensor:
    """The largest size of a number of points, () float64. Of whole numbers, too, whose least one has no negative."""
    low, high = (part.double() for part in torch.aminmax(points))
    return torch.maximum(-low, high)


def axes_of_covariance(covariance: Tensor, count: int) -> Tensor:
    """``principal_axes`` of rows whose covariance (d, d) is given, in float64."""
    dim, size = len(covariance), covariance.abs().max()
    if dim <= _DENSE or 2 * count >= dim:
        return _signed(_leading_eigenvectors(covariance, count))
    scaled = covariance / size.clamp(min=torch.finfo(covariance.dtype).tiny)
    return _signed(_by_lanczos(lambda vector: scaled @ vector, scaled[0], count))


def _leading_eigenvectors(matrix: Tensor, count: int) -> Tensor:
    axes: Tensor = torch.linalg.eigh(matrix).eigenvectors.flip(1)[:, :count]
    return axes


def _signed(axes: Tensor) -> Tensor:
    signed: Tensor = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    return signed


def _by_lanczos(product: Callable[[Tensor], Tensor], like: Tensor, count: int) -> Tensor:
    """The leading eigenvectors of a symmetric matrix by its products with vectors like this one, (d,) float64.

    Those of 0, which the iteration refuses, are the first axes.
    """

    def multiplied(vector: Vector) -> Vector:
        at = torch.from_numpy(np.ascontiguousarray(vector.reshape(-1))).to(like)
        return np.asarray(product(at).cpu().numpy(), dtype=np.float64)

    dim = len(like)
    start = np.random.default_rng(0).standard_normal(dim)
    if not multiplied(start).any():
        return torch.eye(dim, count, dtype=like.dtype, device=like.device)
    values, axes = eigsh(LinearOperator((dim, dim), matvec=multiplied, dtype=np.float64), k=count, v0=start)
    return torch.from_numpy(axes[:, np.argsort(-values)].copy()).to(like)
