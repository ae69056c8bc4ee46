"""Rows and their images under a finite group: which share an orbit, how far apart orbits are, which scores best."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from proxflow.checks import working_dtype
from proxflow.kernels.equal_rows import places_among
from proxflow.kernels.geometry import by_blocks, distances_from, row_blocks, row_norm, telling_vector
from proxflow.kernels.search import argmax_affine
from proxflow.potentials.atoms import centre_and_radius
from proxflow.symmetry import Symmetry

__all__ = [
    "Nearest",
    "atom_of_rows",
    "nearest_images",
    "orbit_distances",
    "orbit_frame",
    "orbit_images",
    "orbit_of_row",
]

_ROUNDINGS = 16.0  # of d coordinates: within which two images are one point
_KEY_ROUNDINGS = 64.0  # of d products in float64: within which the keys of equal rows differ


class Nearest(NamedTuple):
    """For each query the row with the best image, and the element that takes the row there, (B,) int64 each."""

    atom: Tensor
    element: Tensor


def nearest_images(symmetry: Symmetry, queries: Tensor, slopes: Tensor, offsets: Tensor) -> Nearest:
    """argmax over rows j and elements g of <u, g y_j> + offset_j, as <g^-1 u, y_j> + offset_j: one search per element.

    Args:
        symmetry: the group.
        queries: (B, d).
        slopes: (N, d), as of ``argmax_affine``; one row of each orbit.
        offsets: (N,).
    """
    atom = argmax_affine(queries, slopes, offsets)
    score = (queries * slopes[atom]).sum(1) + offsets[atom]
    element = torch.zeros_like(atom)
    for number in range(1, len(symmetry)):
        moved = symmetry.apply(queries, symmetry.inverse(number))
        found = argmax_affine(moved, slopes, offsets)
        its_score = (moved * slopes[found]).sum(1) + offsets[found]
        better = its_score > score
        atom, score = torch.where(better, found, atom), torch.where(better, its_score, score)
        element = torch.where(better, number, element)
    return Nearest(atom, element)


def orbit_frame(points: Tensor, symmetry: Symmetry) -> tuple[Tensor, Tensor]:
    """A centre (d,) of the images of rows (N, d) that the group leaves in place, and the largest distance from it, ().

    About any other centre an element would change scores by more than a constant. In float64; never 0.
    """
    middle, _ = centre_and_radius(points)
    centre = symmetry.invariant_part(middle[None])[0]
    radius = distances_from(points.detach(), centre).amax()
    return centre, torch.where(radius > 0, radius, 1.0)


def orbit_distances(symmetry: Symmetry, rows: Tensor, others: Tensor) -> Tensor:
    """The least distance between an image of a row (N, d) and one of another (M, d), (N, M)."""
    nearest = torch.cdist(rows, others, compute_mode="donot_use_mm_for_euclid_dist")
    for element in range(1, len(symmetry)):
        moved = symmetry.apply(others, element)
        nearest = torch.minimum(nearest, torch.cdist(rows, moved, compute_mode="donot_use_mm_for_euclid_dist"))
    return nearest


def orbit_of_row(points: Tensor, symmetry: Symmetry) -> Tensor:
    """The first row in the orbit of each of (N, d), (N,) int64: a row's own number where it has not come before.

    Rows of one orbit agree in max_g <v, g y> for any v, so that only rows that agree in it are compared.
    """
    dtype = working_dtype(points)
    images_of_probe = torch.cat([symmetry.apply(telling_vector(points)[None], g) for g in range(len(symmetry))])
    keys = by_blocks(points, lambda rows: (rows.double() @ images_of_probe.mT).amax(1))
    tolerance = _tolerance(points, symmetry)

    def alike(rows: Tensor, others: Tensor) -> Tensor:
        its, another = points[rows].to(dtype), points[others].to(dtype)
        found = _equal(its, another, tolerance)
        for element in range(1, len(symmetry)):
            found |= _equal(its, symmetry.apply(another, element), tolerance)
        return found

    def same(rows: Tensor, others: Tensor) -> Tensor:
        size = row_blocks(points)[0].stop
        return torch.cat([alike(*pair) for pair in zip(rows.split(size), others.split(size), strict=True)])

    return _first_of_class(keys, _key_slack(points, symmetry), same)


def atom_of_rows(atoms: Tensor, rows: Tensor, symmetry: Symmetry | None) -> Tensor:
    """The atom (N, d) that each row (M, d) equals, or an image of which it is, (M,) int64; -1 where there is none."""
    if symmetry is None:
        return places_among(atoms, rows)
    both = torch.cat([atoms, rows])
    label = orbit_of_row(both, symmetry)
    place = torch.full((len(both),), -1, dtype=torch.int64, device=rows.device)
    place[label[: len(atoms)]] = torch.arange(len(atoms), device=rows.device)
    return place[label[len(atoms) :]]


def orbit_images(points: Tensor, symmetry: Symmetry) -> tuple[Tensor, Tensor]:
    """All distinct images of rows (N, d) of different orbits, those rows first, (M, d); and whose they are, (M,).

    Images of rows that are stored in fewer bytes are float32.
    """
    points = points.to(working_dtype(points))
    images = torch.cat([symmetry.apply(points, element) for element in range(len(symmetry))])
    row = torch.arange(len(points), device=points.device).repeat(len(symmetry))
    plain, tolerance = images.detach(), _tolerance(points, symmetry)

    def same(rows: Tensor, others: Tensor) -> Tensor:
        return _equal(plain[rows], plain[others], tolerance)

    first = _first_of_class(plain.double() @ telling_vector(points), _key_slack(plain, symmetry), same)
    kept = torch.nonzero(first == torch.arange(len(images), device=images.device))[:, 0]
    return images[kept], row[kept]


def _tolerance(points: Tensor, symmetry: Symmetry) -> float:
    """Relative to their sizes, the distance within which images are one point; 0 where the group rounds nothing."""
    if symmetry.rounding == 0:
        return 0.0
    return _ROUNDINGS * math.sqrt(points.shape[1]) * max(symmetry.rounding, torch.finfo(working_dtype(points)).eps)


def _key_slack(points: Tensor, symmetry: Symmetry) -> Tensor:
    """By how much the keys of one point may differ, (N,)."""
    dim = points.shape[1]
    rounding: float = _KEY_ROUNDINGS * dim * torch.finfo(torch.float64).eps
    norms = distances_from(points, torch.zeros(dim, dtype=torch.float64, device=points.device))
    return (rounding + _tolerance(points, symmetry)) * math.sqrt(dim) * norms


def _equal(rows: Tensor, others: Tensor, tolerance: float) -> Tensor:
    if tolerance == 0:
        return (rows == others).all(1)
    rows, others = rows.double(), others.double()
    return row_norm(rows - others) <= tolerance * torch.maximum(row_norm(rows), row_norm(others))


def _first_of_class(keys: Tensor, slack: Tensor, same: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The least row number in the class of each row, (N,) int64.

    Args:
        keys: (N,), whose members of one class differ by at most their slacks (N,).
        same: whether rows (M,) and others (M,) are of one class, (M,) bool.
    """
    keys, order = keys.sort()
    slack = slack[order]
    place = torch.arange(len(keys), device=keys.device)
    for step in range(1, len(keys)):
        left = torch.nonzero(keys[step:] - keys[:-step] <= slack[step:] + slack[:-step])[:, 0]
        if not len(left):
            break
        left = left[same(order[left], order[left + step])]
        place[left + step] = torch.minimum(place[left + step], left)
    least = torch.full_like(order, len(keys)).scatter_reduce(0, place, order, "amin")
    result = torch.empty_like(order)
    result[order] = least[place]
    return result
