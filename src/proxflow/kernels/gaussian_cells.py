"""Gaussian measure of Laguerre cells in R^1, R^2 and R^3 and its derivatives, from the geometry of the cells.

The mass of a cell is the signed sum of the cones from the origin over its faces, that of a face one of triangles over
its edges. The standard normal measure of each piece depends on a few distances only: exact in the plane (Owen's T), in
space an integral of an entire function, which Gauss-Legendre nodes give to rounding. Functions are vectorised over
pieces. Two neighbours i, j share a face in the plane <u, n> = (h_j - h_i) / |y_j - y_i|, n the direction from y_i to
y_j; the Gaussian measure of that face over |y_j - y_i| is the derivative of the mass of i in the height of j: a weight
of the Laplacian that is the Hessian of J (Kitagawa, Merigot and Thibert 2019).

Invariant: masses are not negative and add up to 1, to rounding; a facet counts once for each of its two cells, with
opposite signs. Cost: O(1) a face in the plane, one quadrature an edge in space.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import erf, hyp1f1, ndtr, owens_t
from torch import Tensor

from proxflow.kernels.power_diagram import PowerDiagram, power_diagram

__all__ = [
    "LARGEST_DIMENSION",
    "GaussianCells",
    "gaussian_cells",
    "normal_density",
    "segment_measure",
    "tetrahedron_measure",
    "triangle_measure",
]

Array = NDArray[np.float64]

_SMALL = 1e-4  # below it a difference quotient loses more digits than the midpoint rule
_NODES = ((0.5, 6), (2.0, 12), (8.0, 32), (math.inf, 96))  # (edges shorter than, Gauss-Legendre nodes)


def normal_density(x: Array) -> Array:
    """Density of N(0, 1)."""
    density: Array = np.exp(-0.5 * x * x) / math.sqrt(2 * math.pi)
    return density


def segment_measure(low: Array, high: Array) -> Array:
    """N(0, 1) measure of [low, high]."""
    measure: Array = ndtr(high) - ndtr(low)
    return measure


def triangle_measure(height: Array, low: Array, high: Array) -> Array:
    """N(0, I_2) measure of the triangle from the origin over a segment: the angle seen less Owen's T beyond the line.

    Args:
        height: distance of the segment's line from the origin, >= 0.
        low, high: positions of its ends along the line, from the foot of the perpendicular.
    """
    positive = np.where(height > 0, height, 1.0)
    angle = np.arctan2(high, positive) - np.arctan2(low, positive)
    beyond = owens_t(positive, high / positive) - owens_t(positive, low / positive)
    return np.where(height > 0, angle / (2 * math.pi) - beyond, 0.0)


def tetrahedron_measure(height: Array, offset: Array, low: Array, high: Array) -> Array:
    """N(0, I_3) measure of the tetrahedron spanned by the origin, the foot of a plane and a segment in that plane.

    With F(r^2) = erf(r / sqrt 2) / r, the radial integral of the density along the cone is elementary and leaves
    (height offset / 4 pi) int_low^high (F(height^2) - F(height^2 + D)) / D ds, D = offset^2 + s^2, whose integrand is
    an entire function of s: a few Gauss-Legendre nodes give it to rounding.

    Args:
        height: distance of the plane from the origin, >= 0.
        offset: distance of the segment's line from the foot, in the plane, >= 0.
        low, high: positions of its ends along the line, from the foot of the perpendicular.
    """
    length = high - low
    measure = np.zeros_like(height)
    shorter_than = 0.0
    for longest, count in _NODES:
        rows = (length >= shorter_than) & (length < longest)
        shorter_than = longest
        if not rows.any():
            continue
        nodes, weights = np.polynomial.legendre.leggauss(count)
        half = 0.5 * length[rows, None]
        positions = low[rows, None] + half * (1 + nodes)
        quotients = _difference_quotient(height[rows, None] ** 2, offset[rows, None] ** 2 + positions**2)
        measure[rows] = (half[:, 0] * (quotients @ weights)) * height[rows] * offset[rows] / (4 * math.pi)
    return measure


def _difference_quotient(start: Array, step: Array) -> Array:
    """(F(start) - F(start + step)) / step for F(x) = erf(sqrt(x / 2)) / sqrt(x)."""
    start = np.broadcast_to(start, step.shape)
    wide = step > _SMALL
    quotient = np.empty_like(step)
    quotient[wide] = (_error_ratio(start[wide]) - _error_ratio(start[wide] + step[wide])) / step[wide]
    middle = start[~wide] + 0.5 * step[~wide]
    quotient[~wide] = math.sqrt(2 / math.pi) / 6 * hyp1f1(1.5, 2.5, -0.5 * middle)
    return quotient


def _error_ratio(square: Array) -> Array:
    radius = np.sqrt(np.maximum(square, 1e-16))
    ratio: Array = erf(radius / math.sqrt(2)) / radius
    return ratio


LARGEST_DIMENSION = 3  # of the space in which cells have closed masses here

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
