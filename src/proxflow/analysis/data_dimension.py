"""The local dimension of raw data, without a network: the derivative of a smoothed prox, corrected and extrapolated.

Smoothing at a scale sigma is the entropic potential with heights |y|^2 / 2 and epsilon = sigma^2: the exact flow of a
known target (THEORY section 3, any heights), in which a flat piece of data has eta = 1, so that tr D(y) counts its
dimension. At a data point y_i its softmax weights are those of a Gaussian kernel around y_i. Three corrections make an
estimator of that trace:

- its own atom, of weight p, is left out, and the displacement added that the trace forgets:
  (tr D + |grad phi(y_i) - y_i|^2 / sigma^2) / (1 - p) = d log(sum of the other kernels) / d log sigma;
- these are pooled over patches of data that agree with each other, by sums of numerators and denominators;
- a curved or unevenly filled piece of dimension m gives m + c_1 sigma^2 + c_2 sigma^4 (c_1 a mean of (2 |II|^2 - |H|^2)
  / 4 less that of |grad log p|^2), noise adds b / sigma^2: m is fitted to all scales with their covariance.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.kernel_sums import SCALES, KernelSums, kernel_sums, useful_scales
from proxflow.analysis.patches import UNEVEN, Estimate, Patch, homogeneous_patches
from proxflow.analysis.pieces import Piece, pieces
from proxflow.analysis.scale_extrapolation import extrapolated
from proxflow.points import flat_points

__all__ = ["DataDimension", "data_dimension"]

_FEWEST_POINTS = 3
_BOUNDARY = 0.03  # of the dimension: a cube in R^6 with 2,000 points lacks .08
_FEWEST_PAIRS = 2000  # that a scale must see effectively to take part, if that is not more than
_FEWEST_PER_POINT = 2


@dataclass(frozen=True)
class DataDimension:
    """Local dimension of N data points, and the sweep of scales behind it.

    Attributes:
        dimension: (N,), extrapolated to scale 0; equal within a patch; NaN where no scale sees enough pairs.
        stderr: (N,).
        piece: (N,) int64, which group of points without a gap, largest first.
        patch: (N,) int64, which group of points the estimate is pooled over.
        scales: (S, N) sigma at each point, in data units.
        trace: (S, N), tr D of the smoothed flow at each point: its local dimension at that scale; 0 under memorisation.
        pointwise: (S, N), the same without the own atom and with the displacement: noisy, biased by curvature.
        below_spacing: (S, N) bool, whether the own atom has over half of the weight: the scale is below the spacing of
            the atoms there and the trace describes memorisation, not a manifold.
    """

    dimension: Tensor
    stderr: Tensor
    piece: Tensor
    patch: Tensor
    scales: Tensor
    trace: Tensor
    pointwise: Tensor
    below_spacing: Tensor

    @property
    def rounded(self) -> Tensor:
        """The nearest whole number, (N,), NaN where unknown: the dimension of a manifold."""
        return self.dimension.round()


def data_dimension(
    points: Tensor,
    scales: Tensor | Sequence[float] | None = None,
    *,
    max_memory: int = 2**28,
) -> DataDimension:
    """Estimate the local dimension of a data set from the smoothed prox at many scales.

    Takes time proportional to N^2 (d + 20). A boundary of the data lowers the estimate (a uniform cube in R^6 with 2000
    points gives 5.5), and where pieces of different dimension touch, the denser one prevails.

    Args:
        points: (N, *event) finite, with 3 distinct rows; float32 or float64. Equal rows count once.
        scales: standard deviations sigma of the smoothing, (S,) positive, increasing; if None, 20 of them from where 30
            pairs are seen to where 300 per point or a quarter of all are.
        max_memory: bytes for what is computed at once.

    Raises:
        ValueError: bad points or scales.
    """
    if max_memory < 1:
        raise ValueError(f"data_dimension: max_memory must be a positive number of bytes, got {max_memory!r}")
    flat = flat_points("data_dimension", points)
    given = None if scales is None else _checked_scales(scales, flat)
    distinct, row = _distinct(flat.double())
    found = _Sweep(distinct, len(given) if given is not None else SCALES)
    parts, stands_for = pieces(distinct, torch.finfo(flat.dtype).eps, max_memory)
    for piece in parts:
        found.add(piece, given, max_memory)
    return found.of(stands_for[row])


class _Sweep:
    """What is known of each distinct row, filled in piece by piece."""

    def __init__(self, points: Tensor, scales: int) -> None:
        self.dimension = points.new_full((len(points),), torch.nan)
        self.stderr = self.dimension.clone()
        self.piece = torch.full((len(points),), -1, device=points.device)
        self.patch = self.piece.clone()
        self.scales = points.new_full((scales, len(points)), torch.nan)
        self.trace, self.pointwise = self.scales.clone(), self.scales.clone()
        self.below_spacing = torch.ones_like(self.scales, dtype=torch.bool)
        self.pieces = self.patches = 0

    def add(self, piece: Piece, given: Tensor | None, max_memory: int) -> None:
        """Sweep the scales of one piece."""
        rows, points, unit = piece.rows, piece.points, piece.unit
        self.piece[rows], self.pieces = self.pieces, self.pieces + 1
        if len(rows) < _FEWEST_POINTS:
            self.patch[rows], self.patches = self.patches, self.patches + 1
            return
        width = _widths(piece) if given is None else torch.full_like(piece.spacing, 1 / unit)
        scales = useful_scales(points, width) if given is None else given
        sums = kernel_sums(points, width, scales, max_memory)
        for patch in homogeneous_patches(points, piece.spacing, lambda rows: _pooled(sums, scales, rows)):
            inside = rows[patch.rows]
            self.dimension[inside] = patch.estimate.value
            self.stderr[inside] = math.hypot(patch.estimate.stderr, _boundary_allowance(sums, scales, patch))
            self.patch[inside], self.patches = self.patches, self.patches + 1
        others = sums.mass / (1 + sums.mass)
        pointwise = sums.square / sums.mass.clamp(min=torch.finfo(sums.mass.dtype).tiny)
        self.pointwise[:, rows] = pointwise
        self.trace[:, rows] = others * pointwise - sums.shift / (1 + sums.mass).square()
        self.below_spacing[:, rows] = sums.mass < 1
        self.scales[:, rows] = scales[:, None] * width * unit

    def of(self, rows: Tensor) -> DataDimension:
        """The record of rows that may repeat."""
        return DataDimension(
            dimension=self.dimension[rows],
            stderr=self.stderr[rows],
            piece=self.piece[rows],
            patch=self.patch[rows],
            scales=self.scales[:, rows],
            trace=self.trace[:, rows],
            pointwise=self.pointwise[:, rows],
            below_spacing=self.below_spacing[:, rows],
        )


def _distinct(flat: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows, in the order given, and which of them each row given is."""
    values, row = torch.unique(flat, dim=0, return_inverse=True)
    # in the order given: that of the values would change when the data are turned
    first = torch.full_like(values[:, 0], len(flat), dtype=torch.int64)
    first = first.scatter_reduce(0, row, torch.arange(len(flat), device=flat.device), "amin")
    order = torch.argsort(first)
    distinct, row = values[order], torch.argsort(order)[row]
    if len(distinct) < _FEWEST_POINTS:
        raise ValueError(
            f"data_dimension: points must have at least {_FEWEST_POINTS} distinct rows, got {len(distinct)}"
        )
    return distinct, row


def _checked_scales(scales: Tensor | Sequence[float], flat: Tensor) -> Tensor:
    sigma = torch.as_tensor(scales, dtype=torch.float64, device=flat.device)
    if sigma.ndim != 1 or len(sigma) == 0 or not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise ValueError(f"data_dimension: scales must be (S,) positive finite numbers, got {sigma.tolist()}")
    if bool((sigma.diff() <= 0).any()):
        raise ValueError("data_dimension: scales must be increasing")
    return sigma


def _widths(piece: Piece) -> Tensor:
    """The unit of scale at each point: one for a piece of even density, else the local spacing."""
    log = piece.spacing.log()
    return (log if float(log.std()) > UNEVEN else log.mean().expand_as(log)).exp()


def _pooled(sums: KernelSums, scales: Tensor, rows: Tensor) -> Estimate:
    """The dimension of a group of points, from the scales that see enough of it."""
    seen = _seen(sums, rows)
    slope, influence = _ratio(sums.square[seen][:, rows], sums.mass[seen][:, rows], 2)
    return extrapolated(scales[seen].square(), slope, influence @ influence.mT)


def _boundary_allowance(sums: KernelSums, scales: Tensor, patch: Patch) -> float:
    """By how much a boundary might have lowered an estimate: a part of its standard error.

    At the distance h = u sigma from a flat boundary the kernels have the mass Phi(u) of those inside: their slope is
    lower by u phi(u) / Phi(u), and their centre is moved by sigma phi(u) / Phi(u). Over all u >= 0 the sum of the first,
    weighted by Phi, is sqrt(8) times that of the square of the second, weighted by Phi^2. A slope corrected by that
    much is free of the boundary, but curvature moves centres too: hence the limit.
    """
    rows, seen = patch.rows, _seen(sums, patch.rows)
    slope, influence = _ratio(sums.square[seen][:, rows], sums.mass[seen][:, rows], 2)
    drift, triples = sums.shift - sums.self_shift, sums.mass.square() - sums.overlap
    edge, moved = _ratio(drift[seen][:, rows], triples[seen][:, rows], 3)
    influence = influence + 8**0.5 * moved
    corrected = extrapolated(scales[seen].square(), slope + 8**0.5 * edge, influence @ influence.mT)
    return min(abs(corrected.value - patch.estimate.value), _BOUNDARY * abs(patch.estimate.value))


def _seen(sums: KernelSums, rows: Tensor) -> Tensor:
    total = sums.mass[:, rows].sum(1)
    pairs = 0.5 * total.square() / sums.overlap[:, rows].sum(1).clamp(min=torch.finfo(total.dtype).tiny)
    return pairs >= min(_FEWEST_PAIRS, _FEWEST_PER_POINT * len(rows))


def _ratio(numerator: Tensor, denominator: Tensor, order: int) -> tuple[Tensor, Tensor]:
    """The ratio (S,) of sums over points, and the influence of each point on it, (S, n).

    Pairs (order 2) and triples (3) move the sums of all their points: the own terms of a point count as often (too
    often, for points of other groups).
    """
    total = denominator.sum(1)
    ratio = numerator.sum(1) / total
    return ratio, order * (numerator - ratio[:, None] * denominator) / total[:, None]
