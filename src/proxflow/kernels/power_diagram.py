"""Power diagrams (Laguerre tessellations) of R^1, R^2 and R^3 through the lower convex hull of the lifted atoms.

phi(u) = max_j <u, y_j> - h_j is affine on the cells of the diagram; its conjugate is the lower hull of the (y_j, h_j).
A facet of that hull is a vertex of the diagram (its slope), a ridge shared by two facets is an edge (Aurenhammer 1987).

Method: Qhull (Barber, Dobkin and Huhdanpaa 1996) in R^2 and R^3, a monotone chain on the line. 2 d guard atoms far out,
whose cells begin where the normal law has no mass that floating point sees, bound all others.

Invariant: cells of atoms that are on no facet are empty, and the cells of the rest cover space once.

Cost: O(N log N) on the line and in the plane; in space up to O(N^2) facets, for data near O(N log N).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import ConvexHull

__all__ = ["PowerDiagram", "power_diagram"]

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

_GUARD_DISTANCE = 4.0  # of the guard atoms, in radii of the atoms
_GUARD_REACH = 12.0  # where their cells begin, less at most a quarter: 9, beyond which a normal law has mass 1e-19


@dataclass(frozen=True)
class PowerDiagram:
    """A bounded power diagram: the atoms, then 2 d guard atoms, whose cells cover what is far from the origin.

    Attributes:
        points: (N + 2 d, d) atoms and guards.
        heights: (N + 2 d,) theirs.
        simplices: (T, d + 1) atoms that meet at each vertex.
        neighbours: (T, d + 1) simplex opposite each of them, -1 where there is none (and on the line).
        vertices: (T, d) the vertices.
    """

    points: Array
    heights: Array
    simplices: Indices
    neighbours: Indices
    vertices: Array


def power_diagram(points: Array, heights: Array) -> PowerDiagram:
    """The diagram of N atoms (N, d) about the origin, with heights (N,).

    Raises:
        scipy.spatial.QhullError: the lifted atoms are too degenerate for floating point.
    """
    d = points.shape[1]
    reach = _GUARD_DISTANCE * float(np.linalg.norm(points, axis=1).max() or 1.0)
    guards = reach * np.concatenate([np.eye(d), -np.eye(d)])
    guard_heights = np.full(2 * d, reach * _GUARD_REACH + heights.min())
    points = np.concatenate([points, guards])
    heights = np.concatenate([heights, guard_heights])
    if d == 1:
        return _line_diagram(points, heights)
    hull = ConvexHull(np.concatenate([points, heights[:, None]], axis=1), qhull_options="Qt")
    steepness = hull.equations[:, d : d + 1]
    below = steepness[:, 0] < -1e-12  # a facet as good as vertical belongs to the guards alone
    number = np.full(len(below) + 1, -1)
    number[:-1][below] = np.arange(below.sum())
    return PowerDiagram(
        points=points,
        heights=heights,
        simplices=hull.simplices[below].astype(np.int64),
        neighbours=number[hull.neighbors[below]],
        vertices=-hull.equations[below, :d] / steepness[below],
    )


def _line_diagram(points: Array, heights: Array) -> PowerDiagram:
    """d = 1: the lower hull by Andrew's monotone chain, which keeps atoms that are close together apart."""
    order = np.argsort(points[:, 0])
    position, level = points[order, 0].tolist(), heights[order].tolist()
    chain: list[int] = []
    edges: list[float] = []
    for new in range(len(order)):
        while chain:
            edge = (level[new] - level[chain[-1]]) / (position[new] - position[chain[-1]])
            if not edges or edge > edges[-1]:
                edges.append(edge)
                break
            chain.pop()
            edges.pop()
        chain.append(new)
    atoms = order[chain]
    simplices = np.stack([atoms[:-1], atoms[1:]], axis=1)
    return PowerDiagram(points, heights, simplices, np.full_like(simplices, -1), np.array(edges)[:, None])
