"""Gaussian measure of elementary pieces of polyhedra, exactly in the plane and by a smooth integral in space.

A polyhedron is a signed sum of cones from the origin over its faces, a polygon one of triangles over its edges. The
standard normal measure of each piece depends on a few distances only; all functions here are vectorised over pieces.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, hyp1f1, ndtr, owens_t

__all__ = ["normal_density", "segment_measure", "tetrahedron_measure", "triangle_measure"]

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
