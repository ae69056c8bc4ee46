"""Antithetic noise: several draws of one normal vector, all of whose scores come from one product with the atoms.

A normal vector is u = u_1 + ... + u_m in m orthogonal subspaces, and e_1 u_1 + ... + e_m u_m is as normal for any signs
e. With the rows of a Hadamard matrix and their negatives for signs (antithetic variates and their like) these are 2 m
vectors, and all their scores are sums of the m products <u_p, y_j>: N d multiplications serve 2 m draws.

Next to nothing is lost in variance. Two of these draws are opposite, or agree in half of the parts. To a half-space
with normal a such two look like vectors at an angle of cosine |a'|^2 - |a''|^2, by the parts of a where they agree and
where they differ. The subspaces are those of a random frame; then that cosine is distributed like a coordinate of a
random direction in R^(d/2 + 1): both have the density (1 - r^2)^(d/4 - 1) (``mass_variance``). In many dimensions the
frame turns ``frame_size`` coordinates at a time, and that is what counts as d.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.semidiscrete.mass_variance import hermite_shares, inflation_by_angles

__all__ = ["antithetic_inflation", "frame_size", "most_parts", "parts_for", "random_frame"]

_LEAST_PART = 12  # coordinates of a part: products with fewer cost as much as the sums that they save
_MOST_PARTS = 16  # beyond which the sums cost more than the products
_LEAST_VECTORS = 32  # that are cut at once: products of fewer are slow
_LARGEST_FRAME = 512  # turned at a time: so many are enough for draws to be all but independent
_LARGEST_INFLATION = 1.1  # of variances, as of shared directions


def most_parts(weights: Tensor, dim: int, random: int, images: int = 1) -> int:
    """The parts that vectors of R^dim are best cut into, a power of two; arguments as of ``antithetic_inflation``."""
    shares, parts = hermite_shares(weights / images), 1
    while 2 * parts <= min(_MOST_PARTS, dim // _LEAST_PART):
        parts *= 2
    while parts > 1 and _inflation(shares, random, parts, images) > _LARGEST_INFLATION:
        parts //= 2
    return parts


def parts_for(draws: int, most: int) -> int:
    """The parts for so many draws, fewer than ``most`` where these come of few vectors."""
    parts = most
    while parts > 1 and draws < 2 * parts * _LEAST_VECTORS:
        parts //= 2
    return parts


def antithetic_inflation(weights: Tensor, random: int, parts: int, images: int = 1) -> float:
    """Variance of the masses of half-spaces of these ``weights`` (N,), relative to 1 / draws of each, in the mean.

    That a draw and its opposite are never both in a light cell, which makes it less, is left out.

    Args:
        weights: of the cells.
        random: dimensions that the frame of the parts is random in.
        parts: of a vector.
        images: half-spaces that a cell is made of, each near the others' as often as near its own.
    """
    return _inflation(hermite_shares(weights / images), random, parts, images)


def _inflation(shares: list[float], random: int, parts: int, images: int) -> float:
    alone = inflation_by_angles(shares, 0, 1.0)
    together = inflation_by_angles(shares, 2 * parts - 2, 0.5 * min(random, _LARGEST_FRAME) + 1)
    return alone + images * (together - alone)


def frame_size(dim: int, parts: int) -> int:
    """How many coordinates are turned at a time, a multiple of ``parts``; zeros fill the last ones."""
    blocks = -(-dim // _LARGEST_FRAME)
    return -(-dim // (blocks * parts)) * parts


def random_frame(size: int, like: Tensor) -> Tensor:
    """An orthogonal matrix (s, s), the same in all fits, in the dtype and on the device of ``like``."""
    drawn = torch.randn(size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    frame: Tensor = torch.linalg.qr(drawn).Q
    return frame.to(like)
