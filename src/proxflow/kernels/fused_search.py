"""The maximum-affine search on a GPU in Triton: scores live in registers and never reach memory.

Problem: argmax_j <a_i, b_j> + c_j for B rows and N slopes. Method, as ``screened_search`` on a CPU:

1. rows and slopes are rounded to float16, the slopes about a mean so that they are short, both scaled by powers of two;
2. one kernel multiplies them and keeps the largest score of each group of slopes, and what the best score of a row is
   at least;
3. groups that may hold the best slope of a row are found, and the slopes in them that may be it;
4. their scores are taken again in float64.

Invariant: with u~ and y~ the factors as rounded,

    |<u, y> - <u~, y~>| <= |u - u~| |y| + |u~| |y - y~|,

and sums in float32 lose k eps |u| |y| at most. A slope whose score could not reach what the best one is at least is not
the best. The answer is that of float64, whatever rows are searched together. Where too many slopes of a row are near,
all is done once more with factors in float32. For the best two, what is kept may be as small as the second-best score
of a row is at least: the second-largest of what the best scores of all groups are at least.

Cost: 2 B N k operations in float16, a maximum over B N numbers in registers, and B N / 128 of them written and read, or
B N / 32 where there are many dimensions. The processor waits for the GPU once, at the end.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from proxflow.kernels.screening import MARGIN, best_of, centre_and_level, least_norm, sampled, sums_error
from proxflow.kernels.triton_support import processors, shares, with_close_columns

__all__ = ["KeptSlopes", "fused_best", "fused_best_two", "kept_slopes"]

_ROWS_AT_ONCE = 1 << 14  # of a block
_NUMBERS_AT_ONCE, _MAXIMA_AT_ONCE = 1 << 27, 1 << 26  # of a panel, and of a block with one
_PREPARED_ROWS, _PREPARED_DEPTH = 16, 128  # of the parts that factors are rounded in
_NEAR_GROUPS, _NEAR_ROWS = 16, 128  # of the parts that groups are kept from
_NEAR_DEPTH, _EXACT_PAIRS, _EXACT_DEPTH = 64, 8, 128  # of the parts that scores are summed from
_NEAR_PROGRAMS = 32  # for each multiprocessor
_LARGEST_NOISE = 8.0  # about, of normal noise
_LARGEST_KEPT = 2.0**100  # number of a slope, scaled: larger ones are cut, so that scores are finite
_LEAST_NOISE = 2.0**-20  # norm of a row, scaled: the largest number of all rows is about 2^4
_GROUPS_KEPT, _SLOPES_KEPT = 32, 32  # of a row in the mean, at most
_PRECISIONS = (torch.float16, torch.float32)


@dataclass(frozen=True)
class _Tile:
    """How one kernel multiplies.

    Attributes:
        rows: of a tile of scores.
        columns: of it.
        group: columns whose maximum is taken together.
        depth: of the parts of factors that a tile is summed from.
        warps: that work on a tile.
        stages: of parts that are on their way.
    """

    rows: int
    columns: int
    group: int
    depth: int
    warps: int
    stages: int


@functools.cache
def _tile(dtype: torch.dtype, depth: int, shared_memory: int) -> _Tile:
    """For rows of so many numbers, on a GPU whose programs have so many bytes of shared memory."""
    part = max(16, min(64, triton.next_power_of_2(depth)))
    if dtype == torch.float32:
        return _Tile(128, 128, 128, min(32, part), 8, 2)
    if depth <= part:
        return _Tile(64, 256, 128, part, 4, 3 if part > 32 else 4)
    if shared_memory < 1 << 17:
        return _Tile(128, 128, 32 if depth > 256 else 128, part, 8, 2)
    return _Tile(128, 256, 32 if depth > 256 else 128, part, 8, 3)


@triton.jit
def _scaled_by(largest):
    """The power of two that takes a positive float32 to about 2^4, one of 2^-100 to 2^100."""
    exponent = (tl.load(largest).to(tl.int32, bitcast=True) >> 23) & 255
    return ((tl.minimum(tl.maximum(257 - exponent, 27), 227)) << 23).to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["rows"])
def _rounded(
    values, centre, largest, kept, sizes, losses, floors, imprecision, rows, depth, stride, kept_rows, kept_depth,
    NOISE: tl.constexpr, LARGEST: tl.constexpr, LEAST: tl.constexpr, ROWS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Rows as they are kept, scaled, with zeros beyond; norms, and those of what rounding takes.

    Slopes are taken about the centre. Noise is not: it gets floors, NaN where rounding takes too much, or squares are
    too large or too small to tell. No norm of noise is 0, so that its product with an infinite error is infinite.
    """
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    scale = _scaled_by(largest)
    size = tl.zeros((ROWS,), tl.float32)
    loss = tl.zeros((ROWS,), tl.float32)
    other = tl.zeros((ROWS,), tl.int32)  # numbers that are not 0
    for start in range(0, kept_depth, DEPTH):
        part = start + tl.arange(0, DEPTH)
        inside = (row[:, None] < rows) & (part[None, :] < depth)
        given = tl.load(values + row[:, None] * stride + part[None, :], mask=inside, other=0.0)
        if NOISE:
            other += tl.sum((given != 0.0).to(tl.int32), axis=1)
        else:
            middle = tl.load(centre + part, mask=part < depth, other=0.0)
            given = given.to(middle.dtype) - middle[None, :]
        y = tl.where(inside, given * scale, 0.0).to(tl.float32)
        short = tl.minimum(tl.maximum(y, -LARGEST), LARGEST).to(kept.dtype.element_ty)
        whole = (row[:, None] < kept_rows) & (part[None, :] < kept_depth)
        tl.store(kept + row[:, None] * kept_depth + part[None, :], short, mask=whole)
        lost = y - short.to(tl.float32)
        size += tl.sum(y * y, axis=1)
        loss += tl.sum(lost * lost, axis=1)
    size, loss = tl.sqrt(size), tl.sqrt(loss)
    if NOISE:
        told = (loss <= imprecision * size) & (size >= LEAST) & (size < float("inf"))  # no NaN
        clear = (told | (other == 0)) & (row < rows)
        size = tl.maximum(size, LEAST)
        tl.store(floors + row, tl.where(clear, float("-inf"), float("nan")), mask=row < kept_rows)
    else:
        tl.store(losses + row, loss, mask=row < kept_rows)
    tl.store(sizes + row, size, mask=row < kept_rows)


@triton.jit(do_not_specialize=["count"])
def _bounded(
    given, level, spread, largest, largest_slope, sizes, losses, offsets, errors, group_errors, slack, count, stride,
    of_size, of_loss, least, of_spread, GROUP: tl.constexpr,
):  # fmt: skip
    """Offsets about a level and scaled, -inf beyond them; errors of scores for rows of norm 1 and of groups; slack."""
    group = tl.program_id(0)
    column = group * GROUP + tl.arange(0, GROUP)
    inside = column < count
    value = tl.load(given + column.to(tl.int64) * stride, mask=inside, other=0.0) - tl.load(level)
    scale, slope_scale = _scaled_by(largest), _scaled_by(largest_slope)
    tl.store(offsets + column, tl.where(inside, value * scale * slope_scale, float("-inf")).to(tl.float32))
    tl.store(slack, (of_spread * tl.load(spread) * scale * slope_scale).to(tl.float32))
    error = of_size * tl.load(sizes + column) + of_loss * tl.load(losses + column) + least
    tl.store(errors + column, error)
    tl.store(group_errors + group, tl.max(error, axis=0))


@triton.jit
def _part(factors, at, start, depth, COUNT: tl.constexpr, DEPTH: tl.constexpr, DESCRIBED: tl.constexpr):
    """(COUNT, DEPTH) numbers of factors, from row ``at`` and number ``start`` on."""
    if DESCRIBED:
        part = factors.load([at, start])
    else:
        part = tl.load(factors + (at + tl.arange(0, COUNT))[:, None] * depth + start + tl.arange(0, DEPTH)[None, :])
    return part


@triton.jit
def _keep_maxima(
    scores, offsets, errors, maxima, floor, size, row, left, rows,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """The largest of each group, to memory; what the largest of all is at least is raised."""
    PARTS: tl.constexpr = COLUMNS // GROUP
    scores += tl.load(offsets + left + tl.arange(0, COLUMNS))[None, :]
    best = tl.max(tl.reshape(scores, (ROWS, PARTS, GROUP)), axis=2)
    group = left // GROUP + tl.arange(0, PARTS)
    tl.store(maxima + group[None, :] * rows + row[:, None], best)
    return tl.maximum(floor, tl.max(best - tl.load(errors + group)[None, :] * size[:, None], axis=1))


@triton.jit
def _group_maxima(
    queries, slopes, offsets, errors, sizes, slack, maxima, floors, columns, depth, share, rows,
    WHOLE: tl.constexpr, DESCRIBED: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, GROUP: tl.constexpr,
    DEPTH: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The largest score of each group for a tile of rows; floors are raised to what the largest of all is at least."""
    top = tl.program_id(0) * ROWS
    row = top + tl.arange(0, ROWS)
    begin = tl.program_id(1) * share
    end = tl.minimum(begin + share, columns)
    size = tl.load(sizes + row)
    floor = tl.full((ROWS,), float("-inf"), tl.float32)
    if WHOLE:
        a = _part(queries, top, 0, depth, ROWS, DEPTH, DESCRIBED)
        for left in tl.range(begin, end, COLUMNS, num_stages=STAGES):
            b = _part(slopes, left, 0, depth, COLUMNS, DEPTH, DESCRIBED)
            scores = tl.dot(a, b.T, input_precision="ieee")
            floor = _keep_maxima(scores, offsets, errors, maxima, floor, size, row, left, rows, ROWS, COLUMNS, GROUP)
    else:
        for left in tl.range(begin, end, COLUMNS, num_stages=STAGES, flatten=True):
            scores = tl.zeros((ROWS, COLUMNS), tl.float32)
            for start in range(0, depth, DEPTH):
                a = _part(queries, top, start, depth, ROWS, DEPTH, DESCRIBED)
                b = _part(slopes, left, start, depth, COLUMNS, DEPTH, DESCRIBED)
                scores = tl.dot(a, b.T, scores, input_precision="ieee")
            floor = _keep_maxima(scores, offsets, errors, maxima, floor, size, row, left, rows, ROWS, COLUMNS, GROUP)
    floor -= tl.load(slack)
    tl.atomic_max(floors + row, tl.where(floor == floor, floor, float("-inf")))  # a NaN that is there stays


@triton.jit
def _near_groups(maxima, errors, sizes, floors, slack, kept, counter, capacity, groups, rows,
                 GROUPS: tl.constexpr, ROWS: tl.constexpr):  # fmt: skip
    """Pairs of a row and a group that may hold its best slope, in any order; counted beyond the capacity too."""
    group = tl.program_id(1) * GROUPS + tl.arange(0, GROUPS)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    inside = (group < groups)[:, None] & (row < rows)[None, :]
    best = tl.load(maxima + group[:, None] * rows + row[None, :], mask=inside, other=float("-inf"))
    error = tl.load(errors + group, mask=group < groups, other=0.0)
    size = tl.load(sizes + row, mask=row < rows, other=0.0)
    floor = tl.load(floors + row, mask=row < rows, other=float("inf")) - tl.load(slack)
    near = inside & (best + error[:, None] * size[None, :] >= floor[None, :])
    flat = tl.reshape(near.to(tl.int32), (GROUPS * ROWS,))
    count = tl.sum(flat, axis=0)
    if count > 0:
        at = tl.atomic_add(counter, count.to(tl.int64)) + tl.cumsum(flat, axis=0) - 1
        fits = (flat > 0) & (at < capacity)
        of_row = tl.reshape(tl.broadcast_to(row[None, :], (GROUPS, ROWS)), (GROUPS * ROWS,))
        of_group = tl.reshape(tl.broadcast_to(group[:, None], (GROUPS, ROWS)), (GROUPS * ROWS,))
        tl.store(kept + at, of_row, mask=fits)
        tl.store(kept + capacity + at, of_group, mask=fits)


@triton.jit(do_not_specialize=["top", "left"])
def _near_slopes(
    pairs, pair_counter, pair_capacity, queries, slopes, offsets, errors, sizes, floors, slack, kept, counter,
    capacity, depth, top, left, GROUP: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Slopes of these groups that may be the best of a row."""
    count = tl.minimum(tl.load(pair_counter), pair_capacity)
    for pair in range(tl.program_id(0), count, tl.num_programs(0)):
        row = tl.load(pairs + pair)
        column = tl.load(pairs + pair_capacity + pair) * GROUP + tl.arange(0, GROUP)
        sums = tl.zeros((GROUP, DEPTH), tl.float32)
        for start in range(0, depth, DEPTH):
            part = start + tl.arange(0, DEPTH)
            a = tl.load(queries + row * depth + part, mask=part < depth, other=0.0).to(tl.float32)
            b = tl.load(slopes + column[:, None] * depth + part[None, :], mask=part[None, :] < depth, other=0.0)
            sums += a[None, :] * b.to(tl.float32)
        offset = tl.load(offsets + column)
        ceiling = tl.sum(sums, axis=1) + offset + tl.load(errors + column) * tl.load(sizes + row)
        inside = offset > float("-inf")  # else there is no such slope
        near = (inside & (ceiling >= tl.load(floors + row) - tl.load(slack))).to(tl.int32)
        found = tl.sum(near, axis=0)
        if found > 0:
            at = tl.atomic_add(counter, found.to(tl.int64)) + tl.cumsum(near, axis=0) - 1
            fits = (near > 0) & (at < capacity)
            tl.store(kept + at, (tl.zeros((GROUP,), tl.int32) + row + top).to(tl.int64), mask=fits)
            tl.store(kept + capacity + at, column.to(tl.int64) + left, mask=fits)


@triton.jit(do_not_specialize=["count"])
def _exact_scores(kept, capacity, queries, slopes, offsets, scores, count, depth, query_stride, slope_stride,
                  offset_stride, PAIRS: tl.constexpr, DEPTH: tl.constexpr):  # fmt: skip
    """Scores in float64."""
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    inside = pair < count
    row = tl.load(kept + pair, mask=inside, other=0)
    column = tl.load(kept + capacity + pair, mask=inside, other=0)
    score = tl.load(offsets + column * offset_stride, mask=inside, other=0.0).to(tl.float64)
    for start in range(0, depth, DEPTH):
        part = start + tl.arange(0, DEPTH)
        used = inside[:, None] & (part < depth)[None, :]
        a = tl.load(queries + row[:, None] * query_stride + part[None, :], mask=used, other=0.0).to(tl.float64)
        b = tl.load(slopes + column[:, None] * slope_stride + part[None, :], mask=used, other=0.0).to(tl.float64)
        score += tl.sum(a * b, axis=1)
    tl.store(scores + pair, score, mask=inside)


@dataclass(frozen=True)
class KeptSlopes:
    """Slopes as they are searched, kept from one search of noise to the next.

    Attributes:
        frame: whose scale of rows is that of normal noise; others may be left to another search.
        panel: all slopes.
    """

    frame: _Frame
    panel: _Panel


def kept_slopes(slopes: Tensor, offsets: Tensor) -> KeptSlopes:
    """For searches of few rows each, which round the slopes most of the time; 2 k + 8 bytes a slope and more."""
    slopes = with_close_columns(slopes.detach())
    with torch.cuda.device_of(slopes):
        frame = _frame(torch.full((1, 1), _LARGEST_NOISE, device=slopes.device), slopes, offsets)
        return KeptSlopes(frame, _panel(slopes, offsets, frame, torch.float16, _tile_of(slopes, torch.float16)))


def fused_best(
    queries: Tensor, slopes: Tensor, offsets: Tensor | None, kept: KeptSlopes | None = None
) -> tuple[Tensor, Tensor] | None:
    """argmax_j <queries_i, slopes_j> + offsets_j, the lowest j on an exact tie; None where too many scores are near.

    Args:
        queries: (B, k) on a GPU, B >= 1.
        slopes: (N, k), of the same dtype, or stored in fewer bytes.
        offsets: (N,), or None for zeros.
        kept: made of these slopes and offsets, if there is one.

    Returns:
        index: (B,) int64, -1 for rows that must be searched in another way: those with numbers that are not finite, and
            those far smaller than others.
        score: (B,) float64, of the best; -inf without one.
    """
    near = _near_best(queries, slopes, offsets, 1, kept)
    return None if near is None else best_of(*near, len(queries), len(slopes))


def fused_best_two(
    queries: Tensor, slopes: Tensor, offsets: Tensor
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]] | None:
    """``fused_best`` and the same without the best slope of each row; None, too, where slopes make a single group."""
    if len(slopes) <= _tile_of(slopes, _PRECISIONS[0]).group:
        return None
    near = _near_best(queries, slopes, offsets, 2)
    if near is None:
        return None
    row, column, score = near
    best, value = best_of(row, column, score, len(queries), len(slopes))
    other = column != best[row]
    return (best, value), best_of(row[other], column[other], score[other], len(queries), len(slopes))


def _near_best(
    queries: Tensor, slopes: Tensor, offsets: Tensor | None, wanted: int, kept: KeptSlopes | None = None
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Rows, slopes and scores in float64, (n,) each, that have the best one or two of each row that can be searched."""
    if offsets is None:
        offsets = queries.new_zeros(()).expand(len(slopes))
    if queries.dtype != torch.float64:
        queries, offsets = queries.float(), offsets.float()  # what is taken off loses no digits that bounds know not of
    queries, slopes = with_close_columns(queries), with_close_columns(slopes)
    with torch.cuda.device_of(queries):
        found = None if kept is None else _screened(queries, slopes, offsets, torch.float16, wanted, kept)
        for dtype in _PRECISIONS:
            if found is None:
                found = _screened(queries, slopes, offsets, dtype, wanted)
    return found


def _tile_of(rows: Tensor, dtype: torch.dtype) -> _Tile:
    return _tile(dtype, rows.shape[1], _shared_memory(rows.device))


@dataclass(frozen=True)
class _Noise:
    """Rows as they are multiplied.

    Attributes:
        rows: (n, k), zeros beyond the given ones.
        size: (n,) norms, float32.
        floor: (n,), what their best score is at least; NaN, which nothing reaches, for those that are not searched.
        leading: (2, n), the two largest of what the best scores of groups are at least, where the best two are wanted.
    """

    rows: Tensor
    size: Tensor
    floor: Tensor
    leading: Tensor | None

    def block(self, top: int) -> _Noise:
        """Some of the rows."""
        part = slice(top, top + _ROWS_AT_ONCE)
        leading = None if self.leading is None else self.leading[:, part]
        return _Noise(self.rows[part], self.size[part], self.floor[part], leading)

    def level(self, maxima: Tensor, errors: Tensor, slack: Tensor) -> Tensor:
        """(n,), what scores that are wanted are at least, with these (groups, n) at hand; raises ``leading`` in place.

        Args:
            maxima: of groups.
            errors: (groups,), of their scores for rows of norm 1.
            slack: of any score.
        """
        if self.leading is None:
            return self.floor
        least = torch.addcmul(maxima, errors[:, None], self.size, value=-1)
        first = least.max(0)
        second = least.scatter_(0, first.indices[None], -torch.inf).amax(0)
        self.leading.copy_(torch.stack([*self.leading, first.values, second]).topk(2, dim=0).values)
        return torch.where(self.floor.isnan(), self.floor, self.leading[1] - slack)


@dataclass(frozen=True)
class _Panel:
    """Slopes as they are multiplied.

    Attributes:
        rows: (n, k), zeros beyond the given ones.
        offsets: (n,) float32, -inf beyond the given ones.
        error: (n,), of a score, for a row of norm 1.
        group_error: (groups,), the largest of a group.
    """

    rows: Tensor
    offsets: Tensor
    error: Tensor
    group_error: Tensor


@dataclass(frozen=True)
class _Frame:
    """What slopes and offsets are taken about, and how they and rows are scaled.

    Attributes:
        centre: (k,), of slopes.
        level: (), of offsets.
        spread: (), that no offset is further from the level.
        largest: (), the largest number of rows, and about that of slopes about the centre, float32.
        slack: () float32, of any score, as scaled, that is lost in sums with offsets; known with the first panel.
    """

    centre: Tensor
    level: Tensor
    spread: Tensor
    largest: tuple[Tensor, Tensor]
    slack: Tensor


@dataclass(frozen=True)
class _Survivors:
    """Room for slopes that may be the best of a row.

    Attributes:
        places: (2, capacity) int64, rows and slopes.
        slopes: int64, how many there are, those without room too; the first number.
        groups: int64, how many groups may hold them, of the block and panel at hand; the first number.
    """

    places: Tensor
    slopes: Tensor
    groups: Tensor


def _screened(
    queries: Tensor,
    slopes: Tensor,
    offsets: Tensor,
    dtype: torch.dtype,
    wanted: int,
    kept: KeptSlopes | None = None,
) -> tuple[Tensor, Tensor, Tensor] | None:
    tile = _tile_of(slopes, dtype)
    frame = _frame(queries, slopes, offsets) if kept is None else kept.frame
    noise = _noise(queries, frame, dtype, tile, wanted)
    total, depth = noise.rows.shape
    tops = range(0, total, _ROWS_AT_ONCE)
    most = min(_NUMBERS_AT_ONCE // depth, _MAXIMA_AT_ONCE * tile.group // min(_ROWS_AT_ONCE, total))
    count = max(1, most // tile.columns) * tile.columns if kept is None else len(slopes)
    lefts = range(0, len(slopes), count)
    places = torch.empty(2, _SLOPES_KEPT * total, dtype=torch.int64, device=slopes.device)
    counters = torch.zeros(1 + len(lefts) * len(tops), dtype=torch.int64, device=slopes.device)
    capacities = []
    for left in lefts:
        chunk = slice(left, left + count)
        panel = _panel(slopes[chunk], offsets[chunk], frame, dtype, tile) if kept is None else kept.panel
        for top in tops:
            block = noise.block(top)
            capacities.append(_GROUPS_KEPT * len(block.rows))
            room = _Survivors(places, counters, counters[len(capacities) :])
            _keep_survivors(block, panel, frame.slack, tile, room, top, left)
    found, *groups = counters.tolist()
    if found > places.shape[1] or any(kept > capacity for kept, capacity in zip(groups, capacities, strict=True)):
        return None
    return places[0, :found], places[1, :found], _scores(queries, slopes, offsets, places, found)


def _frame(queries: Tensor, slopes: Tensor, offsets: Tensor) -> _Frame:
    centre, level = centre_and_level(slopes, offsets)
    slope = torch.linalg.vector_norm(sampled(slopes) - centre, torch.inf).float()
    row = torch.linalg.vector_norm(queries, torch.inf).float()
    spread = torch.linalg.vector_norm(offsets, torch.inf) + level.abs()
    return _Frame(centre, level, spread, (row, slope), torch.empty_like(row))


def _imprecision(dtype: torch.dtype) -> float:
    """Of a row by rounding, relative to it, at most; those that lose more are not searched in this way."""
    return 0.5 * torch.finfo(dtype).eps


def _noise(queries: Tensor, frame: _Frame, dtype: torch.dtype, tile: _Tile, wanted: int) -> _Noise:
    rows, size, floor = _kept(queries, frame.centre, frame.largest[0], dtype, tile.rows, tile.depth, noise=True)
    return _Noise(rows, size, floor, None if wanted == 1 else size.new_full((2, len(rows)), -torch.inf))


def _kept(
    values: Tensor, centre: Tensor, largest: Tensor, dtype: torch.dtype, row_step: int, depth_step: int, *, noise: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Rounded rows, their norms, and of noise the floors, of slopes the norms of what rounding took."""
    count, depth = values.shape
    kept_rows, kept_depth = (triton.cdiv(n, step) * step for n, step in ((count, row_step), (depth, depth_step)))
    kept = torch.empty(kept_rows, kept_depth, dtype=dtype, device=values.device)
    sizes, others = torch.empty(2, kept_rows, device=values.device)
    _rounded[(triton.cdiv(kept_rows, _PREPARED_ROWS),)](
        values, centre, largest, kept, sizes, others, others, _imprecision(dtype), count, depth, values.stride(0),
        kept_rows, kept_depth, NOISE=noise, LARGEST=min(torch.finfo(dtype).max, _LARGEST_KEPT), LEAST=_LEAST_NOISE,
        ROWS=_PREPARED_ROWS, DEPTH=_PREPARED_DEPTH,
    )  # fmt: skip
    return kept, sizes, others


def _panel(slopes: Tensor, given: Tensor, frame: _Frame, dtype: torch.dtype, tile: _Tile) -> _Panel:
    rows, size, lost = _kept(slopes, frame.centre, frame.largest[1], dtype, tile.columns, tile.depth, noise=False)
    columns, groups = len(rows), len(rows) // tile.group
    offsets, error = torch.empty(2, columns, device=slopes.device)
    group_error = torch.empty(groups, device=slopes.device)
    imprecision, depth = _imprecision(dtype), slopes.shape[1]
    of_size, of_loss = MARGIN * (imprecision + sums_error(depth + 2)), MARGIN * (1 + imprecision)
    _bounded[(groups,)](
        given, frame.level, frame.spread, *frame.largest, size, lost, offsets, error, group_error, frame.slack,
        len(given), given.stride(0), of_size, of_loss, 2 * least_norm(depth),
        2 * MARGIN * torch.finfo(torch.float32).eps, GROUP=tile.group,
    )  # fmt: skip
    return _Panel(rows, offsets, error, group_error)


def _keep_survivors(
    noise: _Noise, panel: _Panel, slack: Tensor, tile: _Tile, room: _Survivors, top: int, left: int
) -> None:
    """Keep rows and slopes, by number, of scores that may be wanted; raises what those are at least in place."""
    (rows, depth), columns, groups = noise.rows.shape, len(panel.rows), len(panel.group_error)
    tiles, multiprocessors = rows // tile.rows, processors(slack.device)
    parts = shares(tiles, columns // tile.columns, multiprocessors)
    share = triton.cdiv(columns // tile.columns, parts) * tile.columns
    maxima, described = slack.new_empty(groups, rows), _describes(slack.device)
    factors = (
        TensorDescriptor.from_tensor(values, [count, tile.depth]) if described else values
        for values, count in ((noise.rows, tile.rows), (panel.rows, tile.columns))
    )
    _group_maxima[tiles, triton.cdiv(columns, share)](
        *factors, panel.offsets, panel.group_error, noise.size, slack, maxima, noise.floor, columns, depth, share, rows,
        WHOLE=depth == tile.depth, DESCRIBED=described, ROWS=tile.rows, COLUMNS=tile.columns, GROUP=tile.group,
        DEPTH=tile.depth, STAGES=tile.stages, num_warps=tile.warps, num_stages=tile.stages,
    )  # fmt: skip
    level = noise.level(maxima, panel.group_error, slack)
    capacity = _GROUPS_KEPT * rows
    pairs = torch.empty(2, capacity, dtype=torch.int32, device=slack.device)
    _near_groups[triton.cdiv(rows, _NEAR_ROWS), triton.cdiv(groups, _NEAR_GROUPS)](
        maxima, panel.group_error, noise.size, level, slack, pairs, room.groups, capacity, groups, rows,
        GROUPS=_NEAR_GROUPS, ROWS=_NEAR_ROWS,
    )  # fmt: skip
    _near_slopes[(min(_NEAR_PROGRAMS * multiprocessors, capacity),)](
        pairs, room.groups, capacity, noise.rows, panel.rows, panel.offsets, panel.error, noise.size, level,
        slack, room.places, room.slopes, room.places.shape[1], depth, top, left, GROUP=tile.group, DEPTH=_NEAR_DEPTH,
    )  # fmt: skip


def _scores(queries: Tensor, slopes: Tensor, offsets: Tensor, kept: Tensor, count: int) -> Tensor:
    scores = torch.empty(count, dtype=torch.float64, device=queries.device)
    if count:
        _exact_scores[(triton.cdiv(count, _EXACT_PAIRS),)](
            kept, kept.shape[1], queries, slopes, offsets, scores, count, queries.shape[1], queries.stride(0),
            slopes.stride(0), offsets.stride(0), PAIRS=_EXACT_PAIRS, DEPTH=_EXACT_DEPTH,
        )  # fmt: skip
    return scores


@functools.cache
def _shared_memory(device: torch.device) -> int:
    """Bytes for a program."""
    known: Any = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return 1 << 18 if known is None else int(known.shared_memory_per_block_optin)


@functools.cache
def _describes(device: torch.device) -> bool:
    """Whether the GPU copies tiles by descriptors (Hopper or later)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
