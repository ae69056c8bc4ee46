"""The affine span of the data: a fit needs only the noise inside it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.measures import Gaussian, Source

__all__ = ["Span", "span_of"]

_ROUNDINGS = 4.0  # rows this many roundings of their size away from a plane lie in it


@dataclass(frozen=True)
class Span:
    """Atoms in coordinates of their affine span, the noise that they see, and the cost of what they do not see.

    Heights are the same in the span as in space. W2^2 in space is W2^2 in the span plus ``rest``.
    """

    points: Tensor
    source: Source
    rest: float


def span_of(points: Tensor, source: Source) -> Span:
    """The span of distinct float32 or float64 rows (N, d), in float64; the whole space unless the source is normal.

    A projection of N(0, I) on any subspace is N(0, I) again, so that atoms on a line in R^20 make a problem in R^1.
    """
    exact = points.double()
    dim = points.shape[1]
    if not isinstance(source, Gaussian) or len(points) == 1:
        return Span(exact, source, 0.0)
    centred = exact - exact.mean(0)
    _, sizes, axes = torch.linalg.svd(torch.linalg.qr(centred, mode="r").R, full_matrices=False)
    largest = float(torch.linalg.vector_norm(exact, dim=1).max())
    rounding = _ROUNDINGS * torch.finfo(points.dtype).eps * len(points) ** 0.5 * largest
    basis = axes[sizes > rounding].mT
    rank = basis.shape[1]
    if rank == 0 or rank == dim:
        return Span(exact, source, 0.0)
    inside = exact @ basis
    if len(torch.unique(inside, dim=0)) < len(points):
        return Span(exact, source, 0.0)
    across = (exact - inside @ basis.mT).mean(0)
    return Span(inside, Gaussian(rank), dim - rank + float(across.square().sum()))
