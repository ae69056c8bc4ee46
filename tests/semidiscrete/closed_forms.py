"""Semidiscrete problems with known answers, from normal quantiles only."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

Array = NDArray[np.float64]


def normal_density(x: Array) -> Array:
    """Standard normal density; 0 at +-inf."""
    return np.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def line_masses(points: Array, heights: Array) -> Array:
    """N(0, 1) mass of each Laguerre cell of sorted points on the line; every cell must be an interval."""
    edges = np.diff(heights) / np.diff(points)
    if (np.diff(edges) < 0).any():
        raise ValueError("a cell is empty: the heights are not convex")
    return np.diff(np.concatenate([[0.0], ndtr(edges), [1.0]]))


def line_heights(points: Array, weights: Array) -> Array:
    """Optimal heights of sorted points on the line, the first one 0: cell edges are normal quantiles."""
    edges = ndtri(np.cumsum(weights)[:-1])
    return np.concatenate([[0.0], np.cumsum(np.diff(points) * edges)])


def line_cost(points: Array, weights: Array) -> float:
    """W2^2 of N(0, 1) to sorted weighted points: 1 + E y^2 - 2 sum_j y_j E[X; cell j]."""
    edges = np.concatenate([[-np.inf], ndtri(np.cumsum(weights)[:-1]), [np.inf]])
    first_moments = normal_density(edges[:-1]) - normal_density(edges[1:])
    return float(1 + weights @ points**2 - 2 * points @ first_moments)


def two_atom_cost(dim: int, norm: float, upper_weight: float) -> float:
    """W2^2 of N(0, I_d) to weights (b, 1 - b) at +a and -a: only the direction of a is transported."""
    return dim - 1 + line_cost(np.array([-norm, norm]), np.array([1 - upper_weight, upper_weight]))
