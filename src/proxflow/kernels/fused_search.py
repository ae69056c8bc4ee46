"""The maximum-affine search on a GPU, in one Triton kernel: scores live in registers and never reach memory.

Problem: argmax_j <a_i, b_j> + c_j for B rows and N slopes in float32. Method: a program takes a tile of rows, runs
through its share of the slopes and keeps the best two scores of each row; the shares are merged at the end. A first
pass multiplies in TF32, which tensor cores do at many times the rate of float32, and cuts the last 13 bits of a factor.

Invariant: the answer is that of float32. With u~ and y~ the factors cut, u' and y' what is cut off, a score is off by

    |<u, y> - <u~, y~>| <= |u'| |y| + |u| |y'|,

and a noise vector whose best two scores are nearer than twice that, with a margin for the rounding of sums, is searched
again with three products, <u~, y~> + <u', y~> + <u~, y'>, which lose 2^-10 of u' and y' at most; what these do not tell
either, in float32. Where scores are near, as in fits of images, the first pass leaves many vectors, and float32 on its
own would take as long for them as many products in TF32.

Cost: 2 B N d operations in TF32, three times as many for a vector searched again, and one pass over the slopes for the
bounds; memory for a few numbers a vector and share. Not measured on a GPU yet (``benchmarks/gpu.py`` would): the logic
is tested in Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["fused_argmax", "score_errors"]

_ROWS, _COLUMNS, _DEPTH = 128, 128, 32  # of a tile of scores, and of the parts of factors it is summed from
_WARPS, _STAGES = 8, 3
_PROGRAMS = 512  # wanted at once: a few for each multiprocessor of a large GPU
_SIZED_ROWS, _SIZED_DEPTH = 32, 128  # of the parts of rows that norms are summed from
_CUT = 2.0**-10  # of a number, what TF32 cuts off at most
_KEPT_BITS = tl.constexpr(-(1 << 13))  # of a float32: TF32 does not have the last 13


@triton.jit
def _best_two(
    queries, slopes, offsets, firsts, seconds, places, rows, columns, depth, share, query_stride, slope_stride,
    WITH_OFFSETS: tl.constexpr, PRECISION: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Best and second score of a tile of rows among a share of the slopes, and the place of the best."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    begin = tl.program_id(1) * share
    end = tl.minimum(begin + share, columns)
    first = tl.full((ROWS,), float("-inf"), tl.float32)
    second = tl.full((ROWS,), float("-inf"), tl.float32)
    place = tl.full((ROWS,), 0, tl.int64) + begin
    for left in range(begin, end, COLUMNS):
        column = left + tl.arange(0, COLUMNS)
        far = column.to(tl.int64) * slope_stride
        scores = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, depth, DEPTH):
            part = start + tl.arange(0, DEPTH)
            a = tl.load(
                queries + row[:, None] * query_stride + part[None, :],
                mask=(row[:, None] < rows) & (part[None, :] < depth),
                other=0.0,
            )
            b = tl.load(
                slopes + far[None, :] + part[:, None], mask=(column[None, :] < end) & (part[:, None] < depth), other=0.0
            )
            scores = tl.dot(a, b, scores, input_precision=PRECISION)
        if WITH_OFFSETS:
            scores += tl.load(offsets + column, mask=column < end, other=0.0)[None, :]
        scores = tl.where((column[None, :] < end) & (scores == scores), scores, float("-inf"))  # no NaN
        found, at = tl.max(scores, axis=1, return_indices=True)
        others = tl.where(tl.arange(0, COLUMNS)[None, :] == at[:, None], float("-inf"), scores)
        better = found > first
        second = tl.maximum(tl.where(better, first, found), tl.where(better, tl.max(others, axis=1), second))
        place = tl.where(better, left + at, place)
        first = tl.where(better, found, first)
    to = tl.program_id(1) * rows + row
    tl.store(firsts + to, first, mask=row < rows)
    tl.store(seconds + to, second, mask=row < rows)
    tl.store(places + to, place, mask=row < rows)


@triton.jit
def _row_sizes(values, sizes, losses, rows, depth, stride, ROWS: tl.constexpr, DEPTH: tl.constexpr):
    """|y| of each row y, and |y - y~| with y~ cut to TF32; rounding to TF32 loses no more than cutting does."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    size = tl.zeros((ROWS,), tl.float32)
    loss = tl.zeros((ROWS,), tl.float32)
    for start in range(0, depth, DEPTH):
        part = start + tl.arange(0, DEPTH)
        inside = (row[:, None] < rows) & (part[None, :] < depth)
        y = tl.load(values + row[:, None] * stride + part[None, :], mask=inside, other=0.0)
        lost = y - (y.to(tl.int32, bitcast=True) & _KEPT_BITS).to(tl.float32, bitcast=True)
        size += tl.sum(y * y, axis=1)
        loss += tl.sum(lost * lost, axis=1)
    tl.store(sizes + row, tl.sqrt(size), mask=row < rows)
    tl.store(losses + row, tl.sqrt(loss), mask=row < rows)


def fused_argmax(queries: Tensor, slopes: Tensor, offsets: Tensor | None = None) -> Tensor:
    """argmax_j <queries_i, slopes_j> + offsets_j in float32, the lowest j on an exact tie.

    Args:
        queries: (B, k) float32 on a GPU, B >= 1.
        slopes: (N, k).
        offsets: (N,), or None for zeros.

    Returns:
        (B,) int64. A row with a NaN gives some index.
    """
    once, thrice = score_errors(queries, slopes)
    best, lead = _searched(queries, slopes, offsets, "tf32")
    doubtful = torch.nonzero(~(lead > 2 * once))[:, 0]
    if len(doubtful):
        best[doubtful], lead = _searched(queries[doubtful], slopes, offsets, "tf32x3")
        doubtful = doubtful[~(lead > 2 * thrice[doubtful])]
    if len(doubtful):
        best[doubtful], _ = _searched(queries[doubtful], slopes, offsets, "ieee")
    return best


def score_errors(queries: Tensor, slopes: Tensor) -> tuple[Tensor, Tensor]:
    """How far any score of a row may be off by one product in TF32, and by three, (B,) each."""
    query_size, query_lost = _sizes_and_losses(queries)
    size, lost = (part.max() for part in _sizes_and_losses(slopes))
    sums = 2 * queries.shape[1] ** 0.5 * torch.finfo(torch.float32).eps * query_size * size
    once = query_lost * size + query_size * lost
    return once + sums, _CUT * once + query_lost * lost + sums


def _sizes_and_losses(values: Tensor) -> tuple[Tensor, Tensor]:
    """Norms of rows, and of what TF32 cuts off them, (N,) each, by one pass over the rows and no copy of them."""
    values = _with_close_columns(values)
    sizes, losses = values.new_empty(2, len(values))
    with torch.cuda.device_of(values):
        _row_sizes[(triton.cdiv(len(values), _SIZED_ROWS),)](
            values, sizes, losses, len(values), values.shape[1], values.stride(0),
            ROWS=_SIZED_ROWS, DEPTH=_SIZED_DEPTH,
        )  # fmt: skip
    return sizes, losses


def _with_close_columns(values: Tensor) -> Tensor:
    return values if values.stride(1) == 1 else values.contiguous()


def _searched(queries: Tensor, slopes: Tensor, offsets: Tensor | None, precision: str) -> tuple[Tensor, Tensor]:
    """The place of the best score and its lead over the second, (B,) each."""
    queries, slopes = _with_close_columns(queries), _with_close_columns(slopes)
    rows, columns = len(queries), len(slopes)
    tiles = triton.cdiv(rows, _ROWS)
    shares = max(1, min(triton.cdiv(_PROGRAMS, max(1, tiles)), triton.cdiv(columns, _COLUMNS)))
    share = triton.cdiv(triton.cdiv(columns, shares), _COLUMNS) * _COLUMNS
    shares = triton.cdiv(columns, share)
    firsts, seconds = queries.new_empty(2, shares, rows)
    places = torch.empty(shares, rows, dtype=torch.int64, device=queries.device)
    with torch.cuda.device_of(queries):
        _best_two[tiles, shares](
            queries, slopes, queries if offsets is None else offsets.contiguous(), firsts, seconds, places,
            rows, columns, queries.shape[1], share, queries.stride(0), slopes.stride(0),
            WITH_OFFSETS=offsets is not None, PRECISION=precision,
            ROWS=_ROWS, COLUMNS=_COLUMNS, DEPTH=_DEPTH, num_warps=_WARPS, num_stages=_STAGES,
        )  # fmt: skip
    return _merged(firsts, seconds, places)


def _merged(firsts: Tensor, seconds: Tensor, places: Tensor) -> tuple[Tensor, Tensor]:
    """Place and lead over all shares, from best and second (shares, B) of each; the first share on a tie."""
    value = firsts.amax(0)
    winner = (firsts == value).int().argmax(0, keepdim=True)
    others = firsts.scatter(0, winner, seconds.gather(0, winner))
    return places.gather(0, winner)[0], value - others.amax(0)
