"""A group of symmetries as it acts in a few directions, and which images of rows noise in these directions goes to.

If each element maps the span of orthonormal W (d, k) to itself, g W = W r(g) with r(g) = W^T g W orthogonal, and the
coordinates of an image are W^T g y = r(g) W^T y: a coupling in R^k under the group of all r(g) is one of images of
rows. Elements that move the coordinates of a row alike are equally likely given them, so that a random one of these
makes (row, element) as likely as it is in the law of the data: rows by their weights, moved by uniform elements. Taking
too many for alike would leave that law and cost optimality alone.

Coordinates are taken about a point that the group leaves in place, in float64: offsets of the data cost no digits.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from proxflow.kernels.geometry import (
    ScaledRows,
    axes_of_covariance,
    covariance_about,
    distances_from,
    principal_axes_about,
    projected,
    row_norm,
    weighted_sum,
)
from proxflow.potentials.orbits import orbit_of_row
from proxflow.symmetry import Group, Symmetry

__all__ = ["ProjectedSymmetry", "invariant_axes", "invariant_count"]

_KEPT = 1e-5  # largest entry of g W - W r(g) for directions that a group maps to their span
_ROUNDINGS = 64.0  # of the size of the rows, within which coordinates are one place
_EXACT = 1e-5  # from 0, 1 or -1, within which an entry of r(g) is one of these but for rounding
_NOTHING = 1e-12  # of the largest variance: rounding
_ROUNDED_GROUP = 1e-12  # rounding of a group, above which its products are known to float32 alone


class ProjectedSymmetry:
    """A group of R^d in the span of directions that each of its elements maps to itself.

    Args:
        owner: who asks, for messages.
        symmetry: the group, acting on R^d.
        directions: (d, k), orthonormal columns.
        points: (N, d), the rows whose images are data.

    Attributes:
        symmetry: the same.
        group: of the distinct r(g), acting on R^k.

    Raises:
        ValueError: the group maps a direction out of the span of all.
    """

    def __init__(self, owner: str, symmetry: Symmetry, directions: Tensor, points: Tensor) -> None:
        self.symmetry = symmetry
        count, self._directions = directions.shape[1], directions.double()
        if not _keeps(symmetry, self._directions):
            raise ValueError(
                f"{owner}: the symmetry maps the span of the {count} directions out of itself; "
                "principal_directions(points, k, symmetry=...) gives some that it keeps"
            )
        self._matrices = _near_orthogonal(_projected(symmetry, self._directions))
        coarse = directions.dtype == torch.float32 or symmetry.rounding > _ROUNDED_GROUP
        self.group = Group(_distinct(self._matrices).to(torch.float32 if coarse else torch.float64).cpu())
        self._centre = _centre(points, symmetry)
        size = float(distances_from(points, self._centre).max())
        self._slack = _ROUNDINGS * torch.finfo(torch.float32 if coarse else torch.float64).eps * (size or 1.0)

    def features(self, points: Tensor) -> Tensor:
        """What a coupling in R^k couples: coordinates of rows (N, d), (N, k) float64.

        Rows of one orbit have those of the first, which products would round apart, and so have rows that elements
        leave in place but for rounding: what these leave in place of them.
        """
        found = self._coordinates(points)[orbit_of_row(points, self.symmetry)]
        moved = [row_norm(found @ matrix.mT - found) for matrix in self._matrices]
        still = torch.stack(moved, dim=1) <= self._slack
        kinds, kind = torch.unique(still, dim=0, return_inverse=True)
        for number, elements in enumerate(kinds):
            rows = torch.nonzero(kind == number)[:, 0]
            projection = self._matrices[elements].mean(0)
            found[rows] = found[rows] @ torch.where(projection.abs() > _EXACT, projection, 0.0).mT
        return found

    def elements(self, rows: Tensor, images: Tensor, generator: torch.Generator | None) -> Tensor:
        """An element that takes each row to its image in the directions, at random where several do, (n,) int64.

        Args:
            rows: (n, d).
            images: (n, k) float64, where they are to go, about the centre.
            generator: of the choice.
        """
        coordinates = self._coordinates(rows)
        distance = torch.stack([row_norm(coordinates @ matrix.mT - images) for matrix in self._matrices], dim=1)
        among = distance <= distance.amin(1, keepdim=True) + 4 * self._slack
        drawn_on = distance.device if generator is None else generator.device
        chance = torch.rand(distance.shape, generator=generator, device=drawn_on).to(distance.device)
        return torch.where(among, chance, -1.0).argmax(1)

    def acts_as(self, group: Symmetry | None) -> bool:
        """Whether a group of R^k is that of the r(g), but for their rounding."""
        if group is None or (len(group), group.dim) != (len(self.group), self.group.dim):
            return False
        identity = torch.eye(group.dim, dtype=torch.float64)
        its = torch.stack([group.apply(identity, element).mT.flatten() for element in range(len(group))])
        apart = torch.cdist(its, self.group.matrices.double().flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
        return bool((apart.amin(1) <= group.dim * _KEPT).all())

    def _coordinates(self, points: Tensor) -> Tensor:
        return projected(points, self._centre, self._directions)


def invariant_axes(points: Tensor, weights: Tensor, symmetry: Symmetry, count: int) -> Tensor:
    """The leading principal axes of rows (N, d) and all their images, (d, count) float64.

    They take d^2 numbers, or the images where these are fewer. Axes without variance are told apart by a fixed matrix
    that commutes with the group.
    """
    scaled = ScaledRows.in_units(points)
    mean = symmetry.invariant_part(weighted_sum(weights, scaled)[None])[0]
    if 4 * count <= len(points) * len(symmetry) <= points.shape[1]:
        rows = scaled[:] - mean
        images = torch.cat([symmetry.apply(rows, element) for element in range(len(symmetry))])
        return principal_axes_about(images, weights.repeat(len(symmetry)), torch.zeros_like(mean), count)
    own = covariance_about(scaled, weights, mean)
    covariance = _averaged(symmetry, own)
    axes = axes_of_covariance(covariance, count)
    variances = ((covariance @ axes) * axes).sum(0)
    used = int((variances > _NOTHING * variances.max()).sum())
    if used < count:
        mixed = torch.randn(own.shape, generator=torch.Generator().manual_seed(0), dtype=own.dtype).to(own)
        rest = torch.linalg.qr(axes[:, :used], mode="complete").Q[:, used:]
        others = rest @ torch.linalg.eigh(rest.mT @ _averaged(symmetry, mixed + mixed.mT) @ rest).eigenvectors
        axes = torch.cat([axes[:, :used], others[:, : count - used]], dim=1)
    return axes


def invariant_count(symmetry: Symmetry, axes: Tensor, count: int) -> int:
    """How many of the first axes (d, m) to take for ``count``: the next lower number, or else the next higher, whose
    span the group maps to itself; 0 if there is none."""
    lower, higher = range(count, 0, -1), range(count + 1, axes.shape[1] + 1)
    kept = (number for number in itertools.chain(lower, higher) if _keeps(symmetry, axes[:, :number].double()))
    return next(kept, 0)


def _centre(points: Tensor, symmetry: Symmetry) -> Tensor:
    """The mean of rows (N, d) and their images, which the group leaves in place, (d,) float64."""
    equal = torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
    return symmetry.invariant_part(weighted_sum(equal, points)[None])[0]


def _averaged(symmetry: Symmetry, matrix: Tensor) -> Tensor:
    """The mean of g A g^T of a symmetric matrix (d, d) over the elements; it commutes with the group."""
    total = torch.zeros_like(matrix)
    for element in range(len(symmetry)):
        total += symmetry.apply(symmetry.apply(matrix, element).mT, element)
    return total / len(symmetry)


def _projected(symmetry: Symmetry, directions: Tensor) -> Tensor:
    """W^T g W of each element g, (G, k, k)."""
    parts = [directions.mT @ symmetry.apply(directions.mT, element).mT for element in range(len(symmetry))]
    return torch.stack(parts)


def _keeps(symmetry: Symmetry, directions: Tensor) -> bool:
    """Whether each element maps the span of the directions to itself."""
    for element in range(1, len(symmetry)):
        moved = symmetry.apply(directions.mT, element).mT
        if float((moved - directions @ (directions.mT @ moved)).abs().max()) > _KEPT:
            return False
    return True


def _near_orthogonal(matrices: Tensor) -> Tensor:
    """The nearest orthogonal matrices (G, k, k), of 0, 1 and -1 where they are these but for rounding."""
    exact = matrices.round()
    if bool(((matrices - exact).abs() <= _EXACT).all()):
        return exact
    left, _, right = torch.linalg.svd(matrices)
    nearest: Tensor = left @ right
    return nearest


def _distinct(matrices: Tensor) -> Tensor:
    """One of each kind of (G, k, k), in the order of their first."""
    flat = matrices.flatten(1)
    kept: list[int] = []
    for number in range(len(flat)):
        if not kept or float((flat[kept] - flat[number]).abs().amax(1).min()) > _EXACT:
            kept.append(number)
    return matrices[kept]
