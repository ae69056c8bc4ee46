"""Pieces of a point cloud, parted where there is a gap, each with the spacing of its own points.

Two points belong together if their distance is at most three times that of either to its own tenth neighbour: a measure
of gaps that needs no unit, follows a density that changes by orders of magnitude, and lets a cloud inside a hole of a
wider one be a piece. The pieces are the connected components of that graph on the nearest neighbours
(``scipy.sparse.csgraph``). A piece is then moved to its own centre and unit and searched again, until nothing changes:
squared distances taken from a matrix product are exact only to the square of the size of the cloud.

Rows that differ by the rounding of their numbers, or that lie so close together, so often, that not even points on a
line would, say nothing about dimension. One of them stays.

Takes time proportional to N^2 d for each round, of which data in one piece need one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from proxflow.analysis.intrinsic_dimension.kernel_sums import CANCELLED, squared_distances

__all__ = ["Piece", "pieces"]

_RANK = 10  # the neighbour whose distance is the local spacing: known to 1 / sqrt(10) of the volume
_CANDIDATES = 24  # nearest rows that are measured again without cancellation
_GAP = 3.0  # local spacings; in a Gaussian tail, where points thin out, the next one is 1 to 2 away
_ROUNDING = 4.0  # units in the last place by which equal numbers differ after a few operations
_RESOLVED = 1e-14  # of the size of the data: rows moved to their mean have lost what is less
_CLOSEST = 0.1  # local spacings, up to which rows may count as one
_EXCESS = 2.0  # times as many close rows as on a line
_FEWEST_CLOSE = 10  # rows that must be close beyond that


@dataclass(frozen=True)
class Piece:
    """Rows that no gap parts, without those that repeat another.

    Attributes:
        rows: (n,) int64 of the data, one for each distinct place.
        points: (n, d) float64, these rows moved to their mean, in units of ``unit``.
        neighbours: (n, k) numbers of the nearest points of each, ascending by distance.
        spacing: (n,) distance to the tenth neighbour, in units of ``unit``.
        unit: the largest coordinate of the piece, in data units.
    """

    rows: Tensor
    points: Tensor
    neighbours: Tensor
    spacing: Tensor
    unit: float

    def around(self, values: Tensor) -> Tensor:
        """Means of values (..., n) over each point and its neighbours."""
        return (values + values[..., self.neighbours].sum(-1)) / (1 + self.neighbours.shape[1])


@dataclass(frozen=True)
class _Frame:
    """Rows times a power of two (``given``), their size, and the rows moved to their mean and divided by that size.

    ``unit`` is the size in data units.
    """

    given: Tensor
    size: Tensor
    points: Tensor
    unit: float


@dataclass(frozen=True)
class _Neighbours:
    """The nearest other rows of each row, ascending: distances and row numbers, (n, k) each."""

    distance: Tensor
    row: Tensor


def pieces(points: Tensor, rounding: float, max_memory: int) -> tuple[list[Piece], Tensor]:
    """The pieces of distinct points (N, d), largest first, and which row of the data stands for each row, (N,).

    Args:
        points: finite, float64, of any size.
        rounding: relative rounding of the numbers given.
        max_memory: bytes for what is computed at once.

    Raises:
        ValueError: points that are further apart than numbers go.
    """
    stands_for = torch.arange(len(points), device=points.device)
    waiting, found = [stands_for.clone()], []
    while waiting:
        rows = waiting.pop()
        frame = _own_frame(points[rows])
        if not math.isfinite(frame.unit):
            raise ValueError(
                "data_dimension: points are further apart than floating-point numbers go; divide them by 4"
            )
        local, unit = frame.points, frame.unit
        if len(rows) < 2:
            found.append(Piece(rows, local, rows.new_zeros(1, 0), torch.zeros_like(local[:, 0]), unit))
            continue
        near = _neighbours(frame, max_memory, exact=False)
        if bool(_at_rank(near).min() < CANCELLED):
            near = _neighbours(frame, max_memory, exact=True)
        kept = _repeated(near, rounding * _ROUNDING * points[rows].abs().amax(1) / unit)
        if kept is not None:
            stands_for[rows] = rows[kept]
            waiting.append(torch.unique(rows[kept]))
            continue
        label = _components(near)
        if int(label.max()) > 0:
            waiting.extend(rows[label == number] for number in range(int(label.max()) + 1))
            continue
        found.append(Piece(rows, local, near.row, _at_rank(near), unit))
    while not torch.equal(stands_for, stands_for[stands_for]):
        stands_for = stands_for[stands_for]
    return sorted(found, key=lambda piece: (-len(piece.rows), int(piece.rows[0]))), stands_for


def _own_frame(points: Tensor) -> _Frame:
    """Nothing overflows, and what the rows differ by is kept however far from the mean they are."""
    _, exponent = torch.frexp(points.abs().max())
    given = torch.ldexp(points, -exponent)
    moved = given - given[:1]
    size = moved.abs().max()
    moved = moved / size.clamp(min=torch.finfo(size.dtype).tiny)
    return _Frame(given, size, moved - moved.mean(0), float(torch.ldexp(size, exponent)))


def _neighbours(frame: _Frame, max_memory: int, exact: bool) -> _Neighbours:
    """Candidates by a matrix product unless ``exact``, their distances by differences, which do not cancel."""
    points, given = frame.points, frame.given
    count, dim = points.shape
    nearest = min(_CANDIDATES, count - 1)
    block = max(1, max_memory // (8 * (2 * count + 3 * nearest * dim)))
    distances, rows = [], []
    for part in torch.arange(count, device=points.device).split(block):
        squares = squared_distances(points, part, exact)
        squares[torch.arange(len(part), device=part.device), part] = torch.inf
        row = squares.topk(nearest, dim=1, largest=False).indices
        difference = given[row] - given[part, None]
        peak = difference.abs().amax(2).clamp(min=torch.finfo(points.dtype).tiny)
        distance, order = (peak * torch.linalg.vector_norm(difference / peak[..., None], dim=2)).sort(dim=1)
        distances.append(distance / frame.size)
        rows.append(row.gather(1, order))
    return _Neighbours(torch.cat(distances), torch.cat(rows))


def _at_rank(near: _Neighbours) -> Tensor:
    return near.distance[:, min(_RANK, near.distance.shape[1]) - 1]


def _repeated(near: _Neighbours, rounding: Tensor) -> Tensor | None:
    """The first of the rows that each row repeats, (n,); None if no row repeats another."""
    close = near.distance <= torch.maximum(rounding[:, None], rounding[near.row])
    if near.distance.shape[1] >= _RANK:
        close |= near.distance <= _too_close(near) * _at_rank(near)[:, None]
    if not bool(close.any()):
        return None
    label = _labels(near, close)
    first = torch.full((int(label.max()) + 1,), len(label), device=label.device)
    own = torch.arange(len(label), device=label.device)
    return first.scatter_reduce(0, label, own, "amin")[label]


def _too_close(near: _Neighbours) -> float:
    """The largest share of the local spacing within which there are more rows than on a line; 0 if there is none.

    In dimension m the nearest of K neighbours lies within a share t of the K-th distance with probability
    1 - (1 - t^m)^(K - 1) < (K - 1) t for m >= 1.
    """
    share = (near.distance[:, 0] / _at_rank(near)).nan_to_num(0.0).sort().values
    number = torch.arange(1, len(share) + 1, device=share.device)
    chance = len(share) * (_RANK - 1) * share
    above = share[(number > _EXCESS * chance + _FEWEST_CLOSE) & (share <= _CLOSEST)]
    return float(above[-1]) if len(above) else 0.0


def _components(near: _Neighbours) -> Tensor:
    """Which rows no gap parts, (n,). What this frame cannot resolve belongs together until it has its own."""
    spacing = _at_rank(near)
    reach = (_GAP * torch.minimum(spacing[:, None], spacing[near.row])).clamp(min=_RESOLVED)
    return _labels(near, near.distance <= reach)


def _labels(near: _Neighbours, linked: Tensor) -> Tensor:
    """The component of each row in the graph of the links, (n,)."""
    count = len(linked)
    start, column = (index.cpu().numpy() for index in torch.nonzero(linked, as_tuple=True))
    end = near.row.cpu().numpy()[start, column]
    graph = coo_array((np.ones(len(start), dtype=np.int8), (start, end)), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    return torch.as_tensor(label, dtype=torch.int64, device=linked.device)
