"""The maximum-affine search on shortlists: argmax <a_i, b_j> + c_j over the slopes of the groups nearest to a query.

Method: slopes come in G groups, and a query is scored against the G centres first. Groups whose score is among its
``count`` best make its shortlist, and only their slopes are searched: all queries of a group in one matrix product.

The answer is not that of all slopes. But the list depends on the query alone, not on the offsets: this is an exact
search of a fixed set of pairs. Transport restricted to such pairs is a linear programme like the one of all pairs, and
its dual is the semi-dual with this maximum in place of that of all slopes.

Cost: G + count N / G products a query, against N; the least with about sqrt(count N) groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proxflow.kernels.geometry import ManyRows
from proxflow.kernels.search import row_argmax
from proxflow.kernels.threads import on_threads
from proxflow.storage import storable

__all__ = ["GroupedSlopes", "Shortlist", "argmax_on_shortlist"]

_SCORES = 1 << 18  # of queries and centres, made at once
_MOST_SHORT = 1 << 15  # groups that are numbered in two bytes
_ENTRIES, _LEAST_ROWS = 1 << 21, 1 << 11  # queries that are searched together: that many groups of lists, at the least
_BLOCK_NUMBERS = 1 << 18  # of queries and slopes of a group: they stay in a cache near the core
_BLOCKS_AT_ONCE = 32  # of one thread
_ROW_STEP = 16  # queries of a block come in this many


@storable
@dataclass(frozen=True)
class Shortlist:
    """Which slopes a query is searched among: those of the ``count`` groups of largest <query, centre> - level.

    Groups that score as much as the last of these are on the list, too.

    Attributes:
        group: (N,) int64, the group of each slope, from 0 to G - 1, each with a slope.
        centres: (G, d), of the groups.
        levels: (G,).
        count: from 1 to G.
    """

    group: Tensor
    centres: Tensor
    levels: Tensor
    count: int

    @property
    def tensors(self) -> list[Tensor]:
        """What it depends on, for checkpoints."""
        return [self.group, self.centres, self.levels, torch.tensor([self.count])]

    def entries(self, queries: Tensor) -> tuple[Tensor, list[int]]:
        """Numbers of the queries (B, d) that have group 0 on their list, then of those with group 1, ...; and how many
        have each group, (G,)."""
        centres, levels = self._scaled(queries)
        groups = len(centres)

        def listed(parts: Iterator[tuple[int, Tensor]]) -> Iterator[Tensor]:
            for first, part in parts:
                scores = torch.addmm(-levels, part, centres.mT)
                yield _not_below(scores, _kth_largest(scores, self.count)) + first * groups

        parts = list(_parts(queries, max(1, _SCORES // groups)))
        place = torch.cat(on_threads(listed, parts, queries.device))
        group = (place % groups).to(torch.int32 if groups > _MOST_SHORT else torch.int16)  # sorted many times as fast
        query = (place // groups)[group.argsort(stable=True)]
        return query, torch.bincount(group, minlength=groups).tolist()

    def _scaled(self, queries: Tensor) -> tuple[Tensor, Tensor]:
        """Centres and levels of the same lists about a median, of sizes that the queries' dtype holds."""
        centres, levels = (exact - exact.median(0).values for exact in (self.centres.double(), self.levels.double()))
        largest = torch.maximum(centres.abs().max(), levels.abs().max())
        size = torch.exp2(torch.where(largest > 0, largest, 1.0).log2().floor())  # a power of two: no digit changes
        return (centres / size).to(queries), (levels / size).to(queries)


def _parts(rows: Tensor, size: int) -> Iterator[tuple[int, Tensor]]:
    """Blocks of rows, each with the number of its first."""
    for first in range(0, len(rows), size):
        yield first, rows[first : first + size]


def _by_numpy(scores: Tensor) -> bool:
    """Whether numpy selects and finds: on the CPU it is the quick one."""
    return scores.device.type == "cpu"


def _kth_largest(scores: Tensor, k: int) -> Tensor:
    """Of each row, (B, 1)."""
    place = scores.shape[1] - k
    if _by_numpy(scores):
        return torch.from_numpy(np.partition(scores.numpy(), place, axis=1)[:, place, None])
    return scores.kthvalue(place + 1, dim=1, keepdim=True).values


def _not_below(scores: Tensor, least: Tensor) -> Tensor:
    """Places in the flattened scores (B, G) of those that reach the least of their row (B, 1), ascending."""
    if _by_numpy(scores):
        return torch.from_numpy(np.flatnonzero(scores.numpy() >= least.numpy()))
    return (scores >= least).flatten().nonzero()[:, 0]


class GroupedSlopes:
    """A copy of slopes, group after group, whose last coordinate is the offset, for queries whose last one is 1.

    Args:
        slopes: (N, d).
        group: (N,) int64, as of ``Shortlist``.
        dtype: of queries.

    Attributes:
        order: (N,) int64, the slopes group after group.
        sizes: of the groups.
    """

    def __init__(self, slopes: ManyRows, group: Tensor, dtype: torch.dtype) -> None:
        self.order = group.argsort(stable=True)
        self.sizes: list[int] = torch.bincount(group).tolist()
        self._keys = torch.empty(len(slopes), slopes.shape[1] + 1, dtype=dtype, device=slopes.device)
        for own, rows in zip(self._keys.split(self.sizes), self.order.split(self.sizes), strict=True):
            own[:, :-1] = slopes[rows]

    def with_offsets(self, offsets: Tensor) -> GroupedSlopes:
        """Itself, with these offsets (N,) from now on."""
        self._keys[:, -1] = offsets[self.order]
        return self

    def __iter__(self) -> Iterator[Tensor]:
        """Slopes and offsets of each group, (n, d + 1)."""
        return iter(self._keys.split(self.sizes))


def argmax_on_shortlist(queries: Tensor, shortlist: Shortlist, grouped: GroupedSlopes) -> Tensor:
    """argmax <queries_i, slopes_j> + offsets_j over the shortlist of each query, the lowest j on an exact tie.

    Args:
        queries: (B, d).
        shortlist: of the slopes.
        grouped: the slopes and their offsets.

    Returns:
        (B,) int64. A row with a NaN gives some index.
    """
    parts = queries.split(max(_LEAST_ROWS, _ENTRIES // shortlist.count))
    return torch.cat([_argmax_on_shortlist(part, shortlist, grouped) for part in parts])


def _argmax_on_shortlist(queries: Tensor, shortlist: Shortlist, grouped: GroupedSlopes) -> Tensor:
    if len(queries) == 0:
        return torch.empty(0, dtype=torch.int64, device=queries.device)
    query, counts = shortlist.entries(queries)
    ones = torch.cat([queries, queries.new_ones(len(queries), 1)], dim=1)
    numbers = max(_BLOCK_NUMBERS, _ROW_STEP * max(grouped.sizes))

    def among(parts: Iterator[list[_Block]]) -> Iterator[tuple[Tensor, Tensor]]:
        buffer = queries.new_empty(numbers)
        for blocks in parts:
            found = [_best_of_block(ones[query[block.entries]], block, buffer) for block in blocks]
            place, score = (torch.cat(each) for each in zip(*found, strict=True))
            yield place, score

    blocks = list(_blocks(grouped, counts, numbers))
    parts = [blocks[first : first + _BLOCKS_AT_ONCE] for first in range(0, len(blocks), _BLOCKS_AT_ONCE)]
    place, score = (torch.cat(each) for each in zip(*on_threads(among, parts, queries.device), strict=True))
    return _best_entries(query, score, grouped.order[place], len(queries))


@dataclass(frozen=True)
class _Block:
    """Entries of lists that are searched together: queries and one group.

    Attributes:
        entries: which.
        keys: (n, d + 1), of the group's slopes.
        first: the number of the first of them, group after group.
    """

    entries: slice
    keys: Tensor
    first: int


def _blocks(grouped: GroupedSlopes, counts: list[int], numbers: int) -> Iterator[_Block]:
    """All entries in their order, so many scores at once."""
    first = start = 0
    for keys, slopes, count in zip(grouped, grouped.sizes, counts, strict=True):
        size = numbers // slopes // _ROW_STEP * _ROW_STEP
        for begin in range(start, start + count, size):
            yield _Block(slice(begin, min(begin + size, start + count)), keys, first)
        first, start = first + slopes, start + count


def _best_of_block(queries: Tensor, block: _Block, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """The place of the best slope of each query (n, d + 1), group after group, and its score, (n,)."""
    rows, slopes = len(queries), len(block.keys)
    scores = torch.mm(queries, block.keys.mT, out=buffer[: rows * slopes].view(rows, slopes))
    best = row_argmax(scores)
    return best + block.first, scores.gather(1, best[:, None])[:, 0]


def _best_entries(query: Tensor, score: Tensor, slope: Tensor, queries: int) -> Tensor:
    """The slope of the largest score of each query, (B,): of equal scores the lowest."""
    best = score.new_full((queries,), -torch.inf).scatter_reduce_(0, query, score, "amax")
    kept = score == best[query]
    none = torch.iinfo(torch.int64).max
    found = torch.full((queries,), none, dtype=torch.int64, device=score.device)
    found.scatter_reduce_(0, query[kept], slope[kept], "amin")
    return torch.where(found < none, found, 0)
