"""A group of symmetries as it acts in a few directions, and which images of rows noise in these directions goes to.

If each element maps the span of orthonormal W (d, k) to itself, g W = W r(g) with r(g) = W^T g W orthogonal, and the
coordinates of an image are W^T g y = r(g) W^T y: a coupling in R^k under the group of all r(g) is one of images of
rows. Elements that move the coordinates of a row alike are equally likely given them, so that a random one of these
makes (row, element) as likely as it is in the law of the data: rows by their weights, moved by uniform elements.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from proxflow.kernels.geometry import axes_of_covariance, covariance_about, weighted_sum
from proxflow.symmetry import Group, Symmetry

__all__ = ["ProjectedSymmetry", "invariant_axes", "invariant_count"]

_INVARIANT = 1e-4  # largest error of r(g)^T r(g) for directions that a group maps to their span
_ROUNDINGS = 1024  # of a row's coordinates, that two images of it in one place may differ by
_EXACT = 1e-5  # from 0, 1 or -1, within which an entry of r(g) is one of these but for rounding


class ProjectedSymmetry:
    """A group of R^d in the span of directions that each of its elements maps to itself.

    Args:
        owner: who asks, for messages.
        symmetry: the group, acting on R^d.
        directions: (d, k), orthonormal columns.

    Attributes:
        symmetry: the same.
        group: of the distinct r(g), acting on R^k.

    Raises:
        ValueError: the group acts in another dimension, or maps a direction out of the span of all.
    """

    def __init__(self, owner: str, symmetry: Symmetry, directions: Tensor) -> None:
        self.symmetry = symmetry
        matrices = _projected(symmetry, directions.double())
        count = directions.shape[1]
        if not _are_orthogonal(matrices):
            raise ValueError(
                f"{owner}: the symmetry maps the span of the {count} directions out of itself; "
                "principal_directions(points, k, symmetry=...) gives some that it keeps"
            )
        near = matrices.round()
        exact = bool(((matrices - near).abs() <= _EXACT).all())
        self._matrices = (near if exact else matrices).to(directions.dtype)
        self.group = Group(_distinct(self._matrices).cpu())

    def elements(self, coordinates: Tensor, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """An element that takes each row to its image, at random where several do, (n,) int64.

        Args:
            coordinates: (n, k), of rows.
            images: (n, k), where they are to go, by some element each.
            generator: of the choice.
        """
        away = [(coordinates @ matrix.mT - images).square().sum(1).sqrt() for matrix in self._matrices]
        distance = torch.stack(away, dim=1)
        slack = _ROUNDINGS * torch.finfo(coordinates.dtype).eps * coordinates.square().sum(1, keepdim=True).sqrt()
        among = distance <= distance.amin(1, keepdim=True) + slack
        drawn_on = distance.device if generator is None else generator.device
        chance = torch.rand(distance.shape, generator=generator, device=drawn_on).to(distance.device)
        return torch.where(among, chance, -1.0).argmax(1)

    def acts_as(self, group: Symmetry | None) -> bool:
        """Whether a group of R^k is that of the r(g), but for their rounding."""
        if not isinstance(group, Group) or group.matrices.shape != self.group.matrices.shape:
            return False
        return bool(((group.matrices - self.group.matrices).abs() <= _INVARIANT).all())


def invariant_axes(points: Tensor, weights: Tensor, symmetry: Symmetry, count: int) -> Tensor:
    """The leading principal axes of rows (N, d) and all their images, (d, count) float64; they take d^2 numbers."""
    scale = points.abs().max().double().clamp(min=torch.finfo(points.dtype).tiny)
    mean = symmetry.invariant_part(weighted_sum(weights, points)[None])[0] / scale
    own = covariance_about(points, weights, mean, (1 / scale).expand(len(points)))
    total = torch.zeros_like(own)
    for element in range(len(symmetry)):
        total += symmetry.apply(symmetry.apply(own, element).mT, element)
    return axes_of_covariance(total, count)


def invariant_count(symmetry: Symmetry, axes: Tensor, count: int) -> int:
    """How many of the first axes (d, m) to take for ``count``: the next lower number, or else the next higher, whose
    span the group maps to itself; 0 if there is none."""
    lower, higher = range(count, 0, -1), range(count + 1, axes.shape[1] + 1)
    kept = (number for number in itertools.chain(lower, higher) if _keeps(symmetry, axes[:, :number]))
    return next(kept, 0)


def _keeps(symmetry: Symmetry, directions: Tensor) -> bool:
    return _are_orthogonal(_projected(symmetry, directions))


def _projected(symmetry: Symmetry, directions: Tensor) -> Tensor:
    """W^T g W of each element g, (G, k, k)."""
    parts = [directions.mT @ symmetry.apply(directions.mT, element).mT for element in range(len(symmetry))]
    return torch.stack(parts)


def _are_orthogonal(matrices: Tensor) -> bool:
    identity = torch.eye(matrices.shape[1], dtype=matrices.dtype, device=matrices.device)
    return bool(((matrices @ matrices.mT - identity).abs() <= _INVARIANT).all())


def _distinct(matrices: Tensor) -> Tensor:
    """One of each kind of (G, k, k), in the order of their first."""
    flat = matrices.flatten(1)
    kept: list[int] = []
    for number in range(len(flat)):
        if not kept or float((flat[kept] - flat[number]).abs().amax(1).min()) > _INVARIANT:
            kept.append(number)
    return matrices[kept]
