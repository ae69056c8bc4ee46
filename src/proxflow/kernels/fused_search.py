"""The maximum-affine search on a GPU, in one Triton kernel: scores live in registers and never reach memory.

Problem: argmax_j <a_i, b_j> + c_j for B rows and N slopes in float32. Method: a program takes a tile of rows, runs
through its share of the slopes and keeps the best two scores of each row; the shares are merged at the end. A first
pass multiplies in TF32, which tensor cores do at many times the rate of float32, and cuts the last 13 bits of a factor.

Invariant: the answer is that of float32. With u~ and y~ the factors cut, a score is wrong by at most

    |<u, y> - <u~, y~>| <= |u - u~| |y| + |u~| |y - y~|,

and a row whose best two scores are nearer than twice that, with a margin for the rounding of sums, is searched again in
float32. Cost: 2 B N d operations in TF32 and 2 B' N d in float32 for the B' rows searched again; memory for a few
numbers a row and share. Not measured on a GPU yet: the logic is tested in Triton's interpreter.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["cut_to_tf32", "fused_argmax", "score_error"]

_ROWS, _COLUMNS, _DEPTH = 128, 128, 32  # of a tile of scores, and of the parts of factors it is summed from
_WARPS, _STAGES = 8, 3
_PROGRAMS = 512  # wanted at once: a few for each multiprocessor of a large GPU
_LOST_BITS = (1 << 13) - 1  # of a float32 that TF32 does not have


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


def fused_argmax(queries: Tensor, slopes: Tensor, offsets: Tensor | None = None) -> Tensor:
    """argmax_j <queries_i, slopes_j> + offsets_j in float32, the lowest j on an exact tie.

    Args:
        queries: (B, k) float32 on a GPU, B >= 1.
        slopes: (N, k).
        offsets: (N,), or None for zeros.

    Returns:
        (B,) int64. A row with a NaN gives some index.
    """
    best, gap = _searched(queries, slopes, offsets, "tf32")
    doubtful = torch.nonzero(~(gap > 2 * score_error(queries, slopes)))[:, 0]
    if len(doubtful):
        best[doubtful] = _searched(queries[doubtful], slopes, offsets, "ieee")[0]
    return best


def cut_to_tf32(values: Tensor) -> Tensor:
    """float32 values without the bits that TF32 lacks; what rounding to TF32 loses is no more than what this loses."""
    kept: Tensor = (values.contiguous().view(torch.int32) & ~_LOST_BITS).view(torch.float32)
    return kept


def score_error(queries: Tensor, slopes: Tensor) -> Tensor:
    """How far any score of a row may be off in TF32, (B,)."""
    short, cut = cut_to_tf32(queries), cut_to_tf32(slopes)
    size, lost = (torch.linalg.vector_norm(part, dim=1).max() for part in (slopes, slopes - cut))
    query_size = torch.linalg.vector_norm(queries, dim=1)
    sums = 2 * queries.shape[1] ** 0.5 * torch.finfo(torch.float32).eps * query_size * size
    error: Tensor = torch.linalg.vector_norm(queries - short, dim=1) * size + query_size * lost + sums
    return error


def _searched(queries: Tensor, slopes: Tensor, offsets: Tensor | None, precision: str) -> tuple[Tensor, Tensor]:
    """The place of the best score and its lead over the second, (B,) each."""
    queries, slopes = (part if part.stride(1) == 1 else part.contiguous() for part in (queries, slopes))
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
