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

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.kernel_sums import KernelSums, kernel_sums, useful_scales
from proxflow.analysis.patches import Estimate, homogeneous_patches
from proxflow.analysis.scale_extrapolation import extrapolated
from proxflow.points import flat_points
from proxflow.results import brief_repr

__all__ = ["DataDimension", "data_dimension"]

_FEWEST_POINTS = 3
_FEWEST_PAIRS = 2000  # that a scale must see effectively to take part, if that is not more than
_FEWEST_PER_POINT = 5


@brief_repr
@dataclass(frozen=True)
class DataDimension:
    """Local dimension of N data points, and the sweep of scales behind it.

    Attributes:
        dimension: (N,), extrapolated to scale 0; equal within a patch; NaN where no scale sees enough pairs.
        stderr: (N,).
        patch: (N,) int64, which group of points the estimate is pooled over.
        scales: (S,) sigma, in data units.
        trace: (S, N), tr D of the smoothed flow at each point: its local dimension at that scale; 0 under memorisation.
        pointwise: (S, N), the same without the own atom and with the displacement: noisy, biased by curvature.
        below_spacing: (S, N) bool, whether the own atom has over half of the weight: the scale is below the spacing of
            the atoms there and the trace describes memorisation, not a manifold.
    """

    dimension: Tensor
    stderr: Tensor
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
    flat, row = _distinct(points)
    sigma = useful_scales(flat) if scales is None else _checked_scales(scales, flat)
    sums = kernel_sums(flat, sigma, max_memory)
    patches = homogeneous_patches(flat, lambda rows: _pooled(sums, sigma, rows))
    dimension, stderr = torch.empty_like(flat[:, 0]), torch.empty_like(flat[:, 0])
    patch = torch.empty(len(flat), dtype=torch.int64, device=flat.device)
    for number, found in enumerate(patches):
        dimension[found.rows], stderr[found.rows] = found.estimate.value, found.estimate.stderr
        patch[found.rows] = number
    others = sums.mass / (1 + sums.mass)
    pointwise = sums.square / sums.mass.clamp(min=torch.finfo(sums.mass.dtype).tiny)
    trace = others * pointwise - sums.shift / (1 + sums.mass).square()
    return DataDimension(
        dimension=dimension[row],
        stderr=stderr[row],
        patch=patch[row],
        scales=sigma,
        trace=trace[:, row],
        pointwise=pointwise[:, row],
        below_spacing=(sums.mass < 1)[:, row],
    )


def _distinct(points: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows, centred, in float64, and which of them each row given is."""
    flat = flat_points("data_dimension", points).double()
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
    return distinct - distinct.mean(0), row


def _checked_scales(scales: Tensor | Sequence[float], flat: Tensor) -> Tensor:
    sigma = torch.as_tensor(scales, dtype=flat.dtype, device=flat.device)
    if sigma.ndim != 1 or len(sigma) == 0 or not bool((torch.isfinite(sigma) & (sigma > 0)).all()):
        raise ValueError(f"data_dimension: scales must be (S,) positive finite numbers, got {sigma.tolist()}")
    if bool((sigma.diff() <= 0).any()):
        raise ValueError("data_dimension: scales must be increasing")
    return sigma


def _pooled(sums: KernelSums, sigma: Tensor, rows: Tensor) -> Estimate:
    """The dimension of a group of points, from the scales that see enough of it."""
    total = sums.mass[:, rows].sum(1)
    pairs = 0.5 * total.square() / sums.overlap[:, rows].sum(1).clamp(min=torch.finfo(total.dtype).tiny)
    seen = pairs >= min(_FEWEST_PAIRS, _FEWEST_PER_POINT * len(rows))
    mass, square, total = sums.mass[seen][:, rows], sums.square[seen][:, rows], total[seen]
    curve = square.sum(1) / total
    # a pair moves the sums of both its points: influences count twice (too often, for points of other groups)
    influence = 2 * (square - curve[:, None] * mass) / total[:, None]
    return extrapolated(sigma[seen].square(), curve, influence @ influence.mT)
