"""Gaussian measure of Laguerre cells in R^1, R^2 and R^3 and its derivatives, from the geometry of the cells.

The mass of a cell is the signed sum of the cones from the origin over its faces. Two neighbours i, j share a face in
the plane <u, n> = (h_j - h_i) / |y_j - y_i|, n the direction from y_i to y_j; the Gaussian measure of that face over
|y_j - y_i| is the derivative of the mass of i in the height of j: a weight of the Laplacian that is the Hessian of J.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import ndtr
from torch import Tensor

from proxflow.kernels.gaussian_measure import normal_density, segment_measure, tetrahedron_measure, triangle_measure
from proxflow.kernels.power_diagram import PowerDiagram, power_diagram

__all__ = ["LARGEST_DIMENSION", "GaussianCells", "gaussian_cells"]

LARGEST_DIMENSION = 3

Array = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True)
class GaussianCells:
    """Masses (N,) of the cells, and for each pair of neighbours ``left``, ``right`` (E,) the weight of their face.

    A pair may occur several times; its weights add up to d mass[left] / d heights[right] >= 0.
    """

    mass: Tensor
    left: Tensor
    right: Tensor
    weight: Tensor

    def chi2(self, weights: Tensor) -> float:
        """Squared relative error of the masses against ``weights`` (N,)."""
        wanted = weights.to(self.mass)
        return float(((self.mass - wanted).square() / wanted).sum())


@dataclass(frozen=True)
class _Pieces:
    """Pieces of faces between cells ``left`` and ``right``: signed cone measure and face measure."""

    left: Indices
    right: Indices
    cone: Array
    face: Array


def gaussian_cells(points: Tensor, heights: Tensor) -> GaussianCells:
    """N(0, I) measure of the cells {u : <u, y_j> - h_j is the maximum}.

    Args:
        points: (N, d) float64 on the CPU, d <= 3, spanning R^d, of size about 1.
        heights: (N,) float64.

    Raises:
        scipy.spatial.QhullError: the lifted atoms are too degenerate for floating point.
    """
    count = len(points)
    diagram = power_diagram(points.numpy(), heights.numpy())
    mass = np.zeros(len(diagram.points))
    left, right, weight = [], [], []
    for pieces in _PIECES[points.shape[1]](diagram):
        mass += np.bincount(pieces.left, pieces.cone, len(mass)) - np.bincount(pieces.right, pieces.cone, len(mass))
        inner = (pieces.left < count) & (pieces.right < count)
        apart = np.linalg.norm(diagram.points[pieces.right] - diagram.points[pieces.left], axis=1)
        left.append(pieces.left[inner])
        right.append(pieces.right[inner])
        weight.append((pieces.face / apart)[inner])
    return GaussianCells(
        mass=torch.from_numpy(mass[:count]),
        left=torch.from_numpy(np.concatenate(left)),
        right=torch.from_numpy(np.concatenate(right)),
        weight=torch.from_numpy(np.concatenate(weight)),
    )


def _plane(diagram: PowerDiagram, left: Indices, right: Indices) -> tuple[Array, Array]:
    """Normal (E, d) from left to right, and signed distance (E,) of the plane between the cells."""
    normal = diagram.points[right] - diagram.points[left]
    apart = np.linalg.norm(normal, axis=1)
    return normal / apart[:, None], (diagram.heights[right] - diagram.heights[left]) / apart


def _ridges(diagram: PowerDiagram) -> tuple[Indices, Array, Array]:
    """Edges of the diagram: the atoms (E, d) around each, and its ends (E, d)."""
    simplex, opposite = np.nonzero(diagram.neighbours >= 0)
    once = simplex < diagram.neighbours[simplex, opposite]
    simplex, opposite = simplex[once], opposite[once]
    size = diagram.simplices.shape[1]
    others = (opposite[:, None] + np.arange(1, size)) % size
    atoms = np.take_along_axis(diagram.simplices[simplex], others, axis=1)
    other_end = diagram.neighbours[simplex, opposite]
    return atoms, diagram.vertices[simplex], diagram.vertices[other_end]


def _points(diagram: PowerDiagram) -> Iterator[_Pieces]:
    """d = 1: a vertex is a face."""
    left, right = diagram.simplices.T
    _, distance = _plane(diagram, left, right)
    yield _Pieces(left, right, ndtr(distance) - 0.5, normal_density(distance))


def _segments(diagram: PowerDiagram) -> Iterator[_Pieces]:
    """d = 2: an edge is a face."""
    atoms, start, end = _ridges(diagram)
    left, right = atoms.T
    normal, distance = _plane(diagram, left, right)
    tangent = np.stack([-normal[:, 1], normal[:, 0]], axis=1)
    ends = np.stack([(start * tangent).sum(1), (end * tangent).sum(1)])
    low, high = ends.min(0), ends.max(0)
    cone = np.sign(distance) * triangle_measure(np.abs(distance), low, high)
    yield _Pieces(left, right, cone, normal_density(distance) * segment_measure(low, high))


def _polygons(diagram: PowerDiagram) -> Iterator[_Pieces]:
    """d = 3: an edge bounds three faces, each the signed sum of triangles over its edges."""
    atoms, start, end = _ridges(diagram)
    along = end - start
    length = np.linalg.norm(along, axis=1)
    solid = length > 0
    atoms, start, along, length = atoms[solid], start[solid], along[solid], length[solid]
    low = (start * along).sum(1) / length
    middle = start + 0.5 * along
    for turn in range(3):
        left, right, third = np.roll(atoms, turn, axis=1).T
        normal, distance = _plane(diagram, left, right)
        outward = diagram.points[third] - diagram.points[left]
        outward = outward - (outward * normal).sum(1)[:, None] * normal
        size = np.linalg.norm(outward, axis=1)
        offset = (middle * outward).sum(1) / np.where(size > 0, size, 1.0)
        side = np.sign(offset)
        face = side * triangle_measure(np.abs(offset), low, low + length)
        cone = tetrahedron_measure(np.abs(distance), np.abs(offset), low, low + length)
        yield _Pieces(left, right, np.sign(distance) * side * cone, normal_density(distance) * face)


_PIECES: dict[int, Callable[[PowerDiagram], Iterator[_Pieces]]] = {1: _points, 2: _segments, 3: _polygons}
