"""The local dimension of raw data, without a network: the derivative of a smoothed prox, corrected and extrapolated.

Smoothing at a scale sigma is the entropic potential with heights |y|^2 / 2 and epsilon = sigma^2: the exact flow of a
known target (docs/theory.md 3, any heights), in which a flat piece of data has eta = 1, so that tr D(y) counts its
dimension. At a data point y_i its softmax weights are those of a Gaussian kernel around y_i. An estimator comes of it:

1. The data are parted at gaps (``pieces``); each piece has an origin, a unit and scales of its own, and where its
   density varies much, so has each point. What follows is done piece by piece.
2. The own atom, of weight p, is left out, and the displacement added that the trace forgets:
   (tr D + |grad phi(y_i) - y_i|^2 / sigma^2) / (1 - p) = d log(sum of the other kernels) / d log sigma.
3. These are pooled over patches of data that agree with each other, by sums of numerators and denominators.
4. A curved or unevenly filled piece of dimension m gives m + c_1 sigma^2 + c_2 sigma^4 (c_1 a mean of (2 |II|^2 -
   |H|^2) / 4 less that of |grad log p|^2), noise adds b / sigma^2: m is fitted to all scales with their covariance.
5. The standard error adds what the choice of scales, a boundary, and a neighbourhood that differs from its patch leave
   open.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.intrinsic_dimension.kernel_sums import SCALES, KernelSums, kernel_sums, useful_scales
from proxflow.analysis.intrinsic_dimension.patches import UNEVEN, Estimate, Patch, extrapolated, homogeneous_patches
from proxflow.analysis.intrinsic_dimension.pieces import Piece, pieces
from proxflow.checks import Numbers, flat_points
from proxflow.kernels.equal_rows import first_equal_rows
from proxflow.results import brief_repr

__all__ = ["DataDimension", "data_dimension"]

_FEWEST_POINTS = 3  # distinct rows
_FEWEST_ROWS = 30  # of a piece: fewer see no scale between their spacing and their size
_FEWEST_NEIGHBOURS = 10  # to compare a neighbourhood with its patch
_CHANCE = 3.0  # standard errors
_STEEP = 0.08  # of the dimension, where density varies much: log-normal points in the plane (sigma 2) lack 17%
_BOUNDARY = 0.03  # of the dimension: a cube in R^6 with 2,000 points lacks 8%, a ball less
_FEWEST_PAIRS = 2000  # that a scale must see effectively to take part, if that is not more than
_FEWEST_PER_POINT = 2  # pairs of a sum


@brief_repr
@dataclass(frozen=True)
class DataDimension:
    """Local dimension of N data points, and the sweep of scales behind it.

    Attributes:
        dimension: (N,), extrapolated to scale 0; equal within a patch; NaN in pieces with fewer than 30 distinct rows,
            and where fewer than 4 scales see enough pairs.
        stderr: (N,), of ``dimension`` at this point: sampling, choice of scales, a possible boundary (up to 3% of the
            dimension, more where it exceeds 2 log10 of the points pooled), steep density (8%), and by how much the
            slopes around the points of the patch, and around this one, differ from that of the patch beyond chance.
        piece: (N,) int64, which group of points that no gap parts, the largest first.
        patch: (N,) int64, which part of a piece the estimate is pooled over.
        scales: (S, N) sigma at each point, in data units; NaN for a point that is alone in its piece.
        trace: (S, N), tr D at each point of the smoothed flow to its piece: its local dimension at that scale; 0 under
            memorisation.
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
    points: Numbers,
    scales: Tensor | Sequence[float] | None = None,
    *,
    max_memory: int = 2**28,
) -> DataDimension:
    """Estimate the local dimension of a data set from the smoothed prox at many scales.

    Data are parted at gaps first, and rows that repeat others up to rounding, or far below the spacing, count once.
    Takes time proportional to N^2 (d + 20). A boundary lowers the estimate (a uniform cube in R^6 with 2000 points
    gives 5.5); the standard error allows for that. Where sets of different dimension cross, the denser one prevails,
    and the standard error of the other's points grows.

    Args:
        points: (N, *event) finite, with 3 distinct rows; float32 or float64. Equal rows count once.
        scales: standard deviations sigma of the smoothing, (S,) positive, increasing, for all points; if None, each
            piece has 20 of its own, from where 30 pairs are seen to where 300 per point or a quarter of all are.
        max_memory: bytes for what is computed at once.

    Raises:
        ValueError: bad points or scales.
    """
    if max_memory < 1:
        raise ValueError(f"data_dimension: max_memory must be a positive number of bytes, got {max_memory!r}")
    flat = flat_points("data_dimension", points)
    given = None if scales is None else _checked_scales(scales, flat)
    distinct, row = _distinct(flat.double())
    parts, stands_for = pieces(distinct, torch.finfo(flat.dtype).eps, max_memory)
    found = _Sweep(distinct, given, max_memory)
    for piece in parts:
        found.add(piece)
    return found.of(stands_for[row])


class _Sweep:
    """What is known of each distinct row, filled in piece by piece."""

    def __init__(self, points: Tensor, given: Tensor | None, max_memory: int) -> None:
        self.given, self.max_memory = given, max_memory
        self.dimension = points.new_full((len(points),), torch.nan)
        self.stderr = self.dimension.clone()
        self.piece = torch.full((len(points),), -1, device=points.device)
        self.patch = self.piece.clone()
        self.scales = points.new_full((SCALES if given is None else len(given), len(points)), torch.nan)
        self.pointwise = self.scales.clone()
        self.trace = torch.zeros_like(self.scales)
        self.below_spacing = torch.ones_like(self.scales, dtype=torch.bool)

    def add(self, piece: Piece) -> None:
        """Sweep the scales of one piece, the next."""
        rows, points = piece.rows, piece.points
        first = int(self.patch.max()) + 1
        self.piece[rows], self.patch[rows] = self.piece.max() + 1, first
        if len(rows) == 1:
            return
        if self.given is None:
            width = _widths(piece)
            scales = useful_scales(points, width)
        else:
            width, scales = torch.ones_like(piece.spacing), self.given / piece.unit
        sums = kernel_sums(points, width, scales, self.max_memory)
        pointwise = sums.square / sums.mass.clamp(min=torch.finfo(sums.mass.dtype).tiny)
        self.pointwise[:, rows] = pointwise
        self.trace[:, rows] = sums.mass / (1 + sums.mass) * pointwise - sums.shift / (1 + sums.mass).square()
        self.below_spacing[:, rows] = sums.mass < 1
        self.scales[:, rows] = scales[:, None] * width * piece.unit
        if len(rows) < _FEWEST_ROWS:
            return
        around = _Neighbourhoods(piece, sums)
        evenness = piece.around(piece.spacing.log())
        patches = homogeneous_patches(points, evenness, lambda part: _pooled(sums, scales, part))
        for number, patch in enumerate(patches, first):
            inside = rows[patch.rows]
            self.patch[inside], self.dimension[inside] = number, patch.estimate.value
            differs = around.disagreement(patch.rows)
            # where many neighbourhoods differ from the patch, none of its points is sure
            pooled = patch.estimate.stderr**2 + _boundary_allowance(sums, scales, patch) ** 2 + differs.square().mean()
            if float(evenness.std()) > UNEVEN:
                pooled = pooled + (_STEEP * patch.estimate.value) ** 2
            self.stderr[inside] = (pooled + differs.square()).sqrt()

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
    first, row = first_equal_rows(flat)
    distinct = flat[first]
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
    """The unit of scale at each point: one for a piece of even density, else the spacing of a neighbourhood.

    The spacing of one point follows the very counts that are judged; that of neighbours of neighbours hardly does.
    """
    log = piece.around(piece.spacing.log())
    return (piece.around(log) if float(log.std()) > UNEVEN else log.mean().expand_as(log)).exp()


def _pooled(sums: KernelSums, scales: Tensor, rows: Tensor) -> Estimate:
    """The dimension of a group of points, from the scales that see enough of it."""
    seen = _seen(sums, rows)
    slope, influence = _ratio(sums.square[seen][:, rows], sums.mass[seen][:, rows], 2)
    return extrapolated(scales[seen].square(), slope, influence @ influence.mT)


def _boundary_allowance(sums: KernelSums, scales: Tensor, patch: Patch) -> float:
    """By how much a boundary might have lowered an estimate: a part of its standard error.

    At the distance h = u sigma from a flat boundary the kernels have the mass Phi(u) of those inside: their slope is
    lower by u phi(u) / Phi(u), and their centre is moved by sigma phi(u) / Phi(u). Over all u >= 0 the first, weighted
    by Phi, integrates to 1 / sqrt(2 pi), the square of the second, weighted by Phi^2, to 1 / (4 sqrt(pi)): sqrt(8)
    times less. A slope corrected by that much is free of the boundary, but curvature moves centres too: hence a limit.
    It grows where the dimension exceeds 2 log10 N, since N points then leave no range of scales (Eckmann and Ruelle,
    Physica D 56, 1992).
    """
    rows, seen = patch.rows, _seen(sums, patch.rows)
    slope, influence = _ratio(sums.square[seen][:, rows], sums.mass[seen][:, rows], 2)
    drift, triples = sums.shift - sums.self_shift, sums.mass.square() - sums.overlap
    edge, moved = _ratio(drift[seen][:, rows], triples[seen][:, rows], 3)
    influence = influence + 8**0.5 * moved
    corrected = extrapolated(scales[seen].square(), slope + 8**0.5 * edge, influence @ influence.mT)
    dimension = abs(patch.estimate.value)
    share = _BOUNDARY * max(1.0, dimension / (2 * math.log10(len(rows))))
    return min(abs(corrected.value - patch.estimate.value), share * dimension)


class _Neighbourhoods:
    """The slope around each point, at the first scale that sees enough neighbours there."""

    def __init__(self, piece: Piece, sums: KernelSums) -> None:
        mass = torch.stack([piece.around(row) for row in sums.mass])
        enough = mass >= _FEWEST_NEIGHBOURS
        self._seen = enough.any(0)
        self._scale = enough.int().argmax(0)
        self._mass, self._square = sums.mass, sums.square
        slope, error = zip(
            *(_slope_around(piece, *row) for row in zip(sums.mass, sums.square, strict=True)), strict=True
        )
        self._slope = torch.stack(slope).gather(0, self._scale[None])[0]
        self._error = torch.stack(error).gather(0, self._scale[None])[0]

    def disagreement(self, rows: Tensor) -> Tensor:
        """By how much the slopes around the points of a patch differ from that of the patch beyond chance, (n,)."""
        patch = (self._square[:, rows].sum(1) / self._mass[:, rows].sum(1))[self._scale[rows]]
        excess = (self._slope[rows] - patch).abs() - _CHANCE * self._error[rows]
        return torch.where(self._seen[rows], excess.clamp(min=0), 0.0)


def _slope_around(piece: Piece, mass: Tensor, square: Tensor) -> tuple[Tensor, Tensor]:
    """The ratio of the sums over each point and its neighbours at one scale, and its standard error; (n,) each."""
    around = piece.around(mass)
    slope = piece.around(square) / around
    squares = piece.around(square.square()) - 2 * slope * piece.around(square * mass)
    squares = (squares + slope.square() * piece.around(mass.square())).clamp(min=0)
    # each pair among the neighbours counts for both
    return slope, (2 * squares / (1 + piece.neighbours.shape[1])).sqrt() / around


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
