"""The maximum-affine search on processors that multiply bfloat16 many times as fast as float32 (Intel's AMX).

Problem: argmax_j <a_i, b_j> + c_j for B rows and N slopes. Method: all scores are taken in bfloat16, the slopes about a
mean so that they are short; a bound of what that loses tells which few slopes of each row may still be the best, and
their scores are taken again in float64.

Invariant: with u~ and y~ the factors in bfloat16, whose precision is r = 2^-8,

    |<u, y> - <u~, y~>| <= |u - u~| |y| + |u~| |y - y~|,

and a result is rounded by at most r of itself. ``floor`` is below the largest score of a row: a slope whose score could
not reach it is not the best. The answer is that of float64, whatever rows are searched together.

Cost: 2 B N d operations in bfloat16 and a maximum over B N numbers of 16 bits; some 3 slopes a row in float64.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["can_screen", "screened_best"]

_COLUMNS, _ROWS = 8192, 512  # of a block of scores, which is to stay in a cache
_GROUP = 128  # slopes whose maximum is taken together
_SAMPLE = 256  # slopes that give a first floor
_ROUNDING = 2.0**-8  # of bfloat16, relative
_MARGIN = 1.01  # for the roundings of the bounds themselves
_RELATIVE = _MARGIN * _ROUNDING  # how far a result in bfloat16 may be off, relative to itself
_CENTRED = 1 << 18  # numbers of slopes whose centre is taken off at once, in a cache
_MOST_SURVIVORS = 32  # of a row: with more, screening does not pay
_AT_ONCE = 1 << 17  # numbers that scores in float64 are taken of
_LEAST_ROWS, _LEAST_COLUMNS, _LEAST_DEPTH, _LEAST_WORK = 256, 8192, 16, 1 << 28  # that repay the rounding of slopes


@functools.cache
def _has_tiles() -> bool:
    """Whether this processor has matrix instructions for bfloat16, and PyTorch the library that uses them."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16")) and torch.backends.mkldnn.is_available()


def can_screen(queries: Tensor, slopes: Tensor) -> bool:
    """Whether a search of these rows (B, k) among these slopes (N, k) is quicker in this way."""
    rows, (columns, depth) = len(queries), slopes.shape
    if rows < _LEAST_ROWS or columns < _LEAST_COLUMNS or depth < _LEAST_DEPTH or rows * columns * depth < _LEAST_WORK:
        return False
    return queries.device.type == "cpu" and _has_tiles()


@dataclass(frozen=True)
class _Panel:
    """Slopes about a centre, their offsets in two more coordinates, in bfloat16 and in whole groups.

    Attributes:
        rows: (n, k + 2), with offsets of -inf to fill the last group.
        error: how far <u, slope> may be off for |u| = 1, (groups, group).
        largest: of each group, (groups,).
        lost: of an offset by rounding, at most.
    """

    rows: Tensor
    error: Tensor
    largest: Tensor
    lost: float


def screened_best(queries: Tensor, slopes: Tensor, offsets: Tensor | None) -> tuple[Tensor, Tensor] | None:
    """argmax_j <queries_i, slopes_j> + offsets_j, the lowest j on an exact tie; None where too many scores are near.

    Args:
        queries: (B, k).
        slopes: (N, k), of the same dtype, or of float16 or bfloat16.
        offsets: (N,), or None for zeros.

    Returns:
        index: (B,) int64, -1 for rows that must be searched in another way: those with numbers bfloat16 does not have.
        score: (B,) float64, of the best; -inf without one.
    """
    if offsets is None:
        offsets = queries.new_zeros(()).expand(len(slopes))
    sample = slice(0, None, -(-len(slopes) // _SAMPLE))
    sampled, level = slopes[sample].to(queries.dtype), offsets[sample].mean()
    centre = sampled.mean(0)
    floor = _sampled_floor(queries, sampled - centre, offsets[sample] - level)
    sizes, imprecision = _sizes(queries)
    blocks = [_with_ones(rows) for rows in queries.split(_ROWS)]
    buffer = torch.empty(_COLUMNS * _ROWS, dtype=torch.bfloat16, device=slopes.device)
    survivors, count = [], 0
    for left in range(0, len(slopes), _COLUMNS):
        chunk = slice(left, left + _COLUMNS)
        panel = _panel(slopes[chunk], offsets[chunk], centre, level, imprecision)
        for number, block in enumerate(blocks):
            rows = slice(number * _ROWS, number * _ROWS + block.shape[1])
            row, column, ceiling = _survivors(panel, block, sizes[rows], floor[rows], buffer)
            count += len(row)
            if max(len(row) / block.shape[1], count / len(queries)) > _MOST_SURVIVORS:
                return None
            survivors.append((row + rows.start, column + left, ceiling))
    return _best_survivors(queries, slopes, offsets, floor, survivors)


def _sizes(queries: Tensor) -> tuple[Tensor, float]:
    """Norms of the rows, (B,) float32, and how much of one is lost in bfloat16 at most, relative to it."""
    size, lost = (torch.linalg.vector_norm(part, dim=1) for part in (queries, queries - queries.bfloat16()))
    return size.float(), float((lost / size).nan_to_num(0, 0).max())


def _with_ones(queries: Tensor) -> Tensor:
    """Rows in bfloat16 with two ones, that offsets are multiplied by, (k + 2, B)."""
    short = queries.bfloat16()
    return torch.cat([short, short.new_ones(len(short), 2)], dim=1).T.contiguous()


def _panel(slopes: Tensor, offsets: Tensor, centre: Tensor, level: Tensor, imprecision: float) -> _Panel:
    count, depth = slopes.shape
    sums = (depth + 2) * torch.finfo(torch.float32).eps
    rows = torch.empty(-(-count // _GROUP) * _GROUP, depth + 2, dtype=torch.bfloat16, device=slopes.device)
    error = torch.zeros(len(rows), device=slopes.device)
    at_once = max(1, _CENTRED // depth)
    for part, error_part, given in zip(*(x[:count].split(at_once) for x in (rows, error, slopes)), strict=True):
        centred = given - centre
        part[:, :depth] = centred
        size = torch.linalg.vector_norm(centred, dim=1)
        lost = torch.linalg.vector_norm(centred.sub_(part[:, :depth]), dim=1)
        error_part.copy_((imprecision + sums) * size + (1 + imprecision) * lost).mul_(_MARGIN)
    offsets = offsets - level
    rows[:count, depth] = offsets
    rows[:count, depth + 1] = offsets - rows[:count, depth]
    rows[count:] = 0
    rows[count:, depth] = -torch.inf
    error = error.view(-1, _GROUP)
    return _Panel(rows, error, error.amax(1), _MARGIN * float(offsets.abs().max()) * (_ROUNDING**2 + sums))


def _sampled_floor(queries: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    """A bound below the largest score of each row, from some slopes alone, (B,) float32."""
    best = torch.addmm(offsets, queries, slopes.mT).amax(1)
    size = torch.linalg.vector_norm(queries, dim=1) * torch.linalg.vector_norm(slopes, dim=1).max()
    error = (slopes.shape[1] + 2) * torch.finfo(torch.float32).eps * (size + offsets.abs().max())
    floor: Tensor = best - _MARGIN * error
    return floor.float()


def _survivors(
    panel: _Panel, block: Tensor, sizes: Tensor, floor: Tensor, buffer: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and slopes, by number, of scores that may be the largest, with bounds above; raises the floor in place.

    Args:
        panel: n slopes.
        block: (k + 2, m) rows with two ones.
        sizes: (m,) their norms.
        floor: (m,).
        buffer: bfloat16, for n m scores.
    """
    count, rows = len(panel.rows), len(sizes)
    scores = torch.mm(panel.rows, block, out=buffer[: count * rows].view(count, rows)).view(-1, _GROUP, rows)
    # as integers, numbers of bfloat16 that are not negative are in their own order, and all others below
    best = scores.view(torch.int16).amax(1).view(torch.bfloat16).float()
    reached = torch.addr(best, panel.largest, sizes, beta=1 - _RELATIVE, alpha=-1).amax(0)
    torch.maximum(floor, reached.sub_(panel.lost), out=floor)
    needed = floor - panel.lost
    ceiling = torch.addr(best.clamp_(min=0), panel.largest, sizes, beta=1 + _RELATIVE)
    group, row = torch.nonzero(ceiling >= needed, as_tuple=True)
    near = scores[group, :, row].float().mul_(1 + _RELATIVE)
    near.addcmul_(panel.error[group], sizes[row, None])
    pair, place = torch.nonzero(near >= needed[row, None], as_tuple=True)
    row = row[pair]
    return row, group[pair] * _GROUP + place, near[pair, place] + panel.lost


def _best_survivors(
    queries: Tensor, slopes: Tensor, offsets: Tensor, floor: Tensor, survivors: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """The best slope of each row among those that are left, and its score in float64, (B,); -1 and -inf without any."""
    row, column, ceiling = (torch.cat(parts) for parts in zip(*survivors, strict=True))
    kept = ceiling >= floor[row]
    row, column = row[kept], column[kept]
    size = max(1, _AT_ONCE // slopes.shape[1])
    score = torch.cat(
        [
            (queries[rows].double() * slopes[columns].double()).sum(1) + offsets[columns].double()
            for rows, columns in zip(row.split(size), column.split(size), strict=True)
        ]
    )
    best = score.new_full((len(queries),), -torch.inf).scatter_reduce_(0, row, score, "amax")
    first = score == best[row]
    none = len(slopes)
    index = row.new_full((len(queries),), none).scatter_reduce_(0, row[first], column[first], "amin")
    return torch.where(index == none, -1, index), best
