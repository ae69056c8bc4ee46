"""Noise in blocks that share a few random directions: each vector exactly normal, and much cheaper to search with.

A stochastic gradient wants noise of the right law; it need not be independent within a batch. Let every vector of a
block of K lie in one random subspace of m dimensions, in a uniform direction of it and with the norm of a normal vector
of R^d: each is N(0, I_d). The scores <u, y_j> of the block come from a product of the N atoms with m directions and one
of their m coordinates with K vectors: N m (d + K) multiplications in place of N d K.

The price is variance (``mass_variance``). Cosines of random directions have odd moments 0 and even ones of order
m^(-q/2), so that with many light cells little is lost: masses of cells vary ``inflation`` times as much as those of
independent draws. Masses of regions of many cells vary more, but there are few of them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.semidiscrete.mass_variance import hermite_shares, inflation_by_angles

__all__ = ["Sharing", "best_sharing", "shared_axes", "turned", "variance_inflation"]

_LARGEST_INFLATION = 1.1  # of variances: fits are to stay within 10% of what independent draws reach
_LEAST_GAIN = 1.5  # in time of a search, less than which is not worth another kind of noise
_DIRECTIONS = (16, 24, 32, 48, 64, 96, 128, 192, 256)
_LEAST_REDUCTION = 4  # of dimensions, which bounds the memory for coordinates of atoms
_MOST_BLOCKS = 64  # of a batch


@dataclass(frozen=True)
class _Times:
    """Of parts of a search, in multiplications of it for each atom and vector.

    Attributes:
        maximum: over all scores of a vector.
        narrow: a multiplication in a product with so few directions, which is one of float32.
        start: of a search and what comes with it, for one atom and vector.
    """

    maximum: float
    narrow: float
    start: float


_CPU = _Times(30.0, 1.5, 0.0)
_CUDA = _Times(60.0, 12.0, 4e11)  # of an H100, whose searches multiply in float16


@dataclass(frozen=True)
class Sharing:
    """Blocks of ``rows`` noise vectors, each block in a subspace of ``directions`` dimensions."""

    rows: int
    directions: int


def shared_axes(dim: int, sharing: Sharing, generator: torch.Generator, like: Tensor) -> Tensor:
    """Orthonormal axes (d, m) of a uniformly random subspace, in the dtype and on the device of ``like``."""
    drawn = torch.randn(dim, sharing.directions, generator=generator, dtype=torch.float64, device=generator.device)
    axes: Tensor = torch.linalg.qr(drawn).Q
    return axes.to(like)


def turned(noise: Tensor, directions: int) -> Tensor:
    """Normal vectors (n, d) turned into a subspace: coordinates (n, m) of a uniform direction and the same norm."""
    part = noise[:, :directions]
    stretch: Tensor = torch.linalg.vector_norm(noise, dim=1) / torch.linalg.vector_norm(part, dim=1)
    return part * stretch[:, None]


def variance_inflation(weights: Tensor, sharing: Sharing) -> float:
    """Variance of the masses of half-spaces of these ``weights`` (N,), relative to 1 / draws of each, in the mean."""
    return _inflation(hermite_shares(weights), sharing)


def best_sharing(weights: Tensor, dim: int, batch: int) -> Sharing | None:
    """The quickest way to draw ``batch`` vectors in R^dim with little inflation; None where independent ones do.

    Args:
        weights: (N,) float64 of the atoms, with sum 1, on the device that searches.
        dim: d.
        batch: noise vectors of one step.
    """
    shares, times = hermite_shares(weights), _CUDA if weights.device.type == "cuda" else _CPU
    start = times.start / len(weights)
    best, least = None, (dim + times.maximum + start / batch) / _LEAST_GAIN
    for directions in _DIRECTIONS:
        for blocks in range(1, _MOST_BLOCKS + 1):
            sharing = Sharing(math.ceil(batch / blocks), directions)
            if directions > min(sharing.rows, dim // _LEAST_REDUCTION):
                continue
            inflation = _inflation(shares, sharing)
            of_rows = (times.narrow * directions * dim + start) / sharing.rows
            time = inflation * (of_rows + directions + times.maximum)
            if inflation <= _LARGEST_INFLATION and time < least:
                best, least = sharing, time
    return best


def _inflation(shares: list[float], sharing: Sharing) -> float:
    return inflation_by_angles(shares, sharing.rows - 1, sharing.directions)
