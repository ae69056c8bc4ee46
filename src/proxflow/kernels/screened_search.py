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

from proxflow.kernels.screening import MARGIN, best_of, centre_and_level, least_norm, sampled, sums_error

__all__ = ["Panels", "can_screen", "keeps_panels", "panels_to_keep", "screened_best"]

_ROWS, _SCORES = 512, 1 << 22  # of a block, which is to stay in a cache
_GROUP = 128  # slopes whose maximum is taken together
_ROUNDING = 2.0**-8  # of bfloat16, relative
_RELATIVE = MARGIN * _ROUNDING  # how far a result in bfloat16 may be off, relative to itself
_CENTRED = 1 << 18  # numbers of slopes whose centre is taken off at once, in a cache
_MOST_SURVIVORS = 32  # of a row: with more, screening does not pay
_LEAST_SIZE = 2.0**-30  # of a query, to which numbers of that size are rounding
_AT_ONCE = 1 << 17  # numbers that scores in float64 are taken of, in a cache
_LEAST_ROWS, _LEAST_COLUMNS, _LEAST_DEPTH, _LEAST_WORK = 256, 8192, 16, 1 << 28  # that repay the rounding of slopes
_FEWEST_ROWS, _FEW_ROWS = 32, 1024  # between which panels that are kept make a search quicker
_MOST_KEPT = 1 << 28  # bytes of panels that are kept


@functools.cache
def _has_tiles() -> bool:
    """Whether this processor has matrix instructions for bfloat16, and PyTorch the library that uses them."""
    known: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return bool(known.get("amx_bf16")) and torch.backends.mkldnn.is_available()


def can_screen(queries: Tensor, slopes: Tensor, *, kept: bool = False) -> bool:
    """Whether a search of these rows (B, k) among these slopes (N, k), or their ``Panels``, is quicker in this way."""
    rows, (columns, depth) = len(queries), slopes.shape
    if (
        rows < (_FEWEST_ROWS if kept else _LEAST_ROWS)
        or columns < _LEAST_COLUMNS
        or depth < _LEAST_DEPTH
        or rows * columns * depth < _LEAST_WORK
    ):
        return False
    return queries.device.type == "cpu" and _has_tiles()


@dataclass(frozen=True)
class _Panel:
    """Slopes about a centre, their offsets in two more coordinates, in bfloat16 and in whole groups.

    Attributes:
        rows: (n, k + 2), with offsets of -inf to fill the last group.
        size: norms about the centre, (groups, group) float32.
        lost: norms of what rounding took off, (groups, group) float32.
        offset_lost: of an offset by rounding, at most.
    """

    rows: Tensor
    size: Tensor
    lost: Tensor
    offset_lost: float

    def error(self, imprecision: float) -> Tensor:
        """How far <u, slope> may be off for |u| = 1, of which rounding takes off ``imprecision``, (groups, group)."""
        size = self.size * (MARGIN * (imprecision + sums_error(self.rows.shape[1])))
        return size.add_(self.lost, alpha=MARGIN * (1 + imprecision))


@dataclass(frozen=True)
class Panels:
    """Slopes as they are screened, kept from one search to the next."""

    columns: int
    parts: tuple[_Panel, ...]


def panels_to_keep(slopes: Tensor, offsets: Tensor) -> Panels:
    """For searches of few rows each, which round the slopes most of the time; 2 (k + 2) + 8 bytes a slope."""
    slopes, columns = slopes.detach(), _columns(_LEAST_ROWS)
    centre, level = centre_and_level(slopes, offsets)
    chunks = (slice(left, left + columns) for left in range(0, len(slopes), columns))
    return Panels(columns, tuple(_panel(slopes[chunk], offsets[chunk], centre, level) for chunk in chunks))


def keeps_panels(rows: int, slopes: Tensor) -> bool:
    """Whether searches of so many rows are quicker by panels that are kept, and these are small."""
    return rows < _FEW_ROWS and len(slopes) * (2 * (slopes.shape[1] + 2) + 8) <= _MOST_KEPT


def screened_best(
    queries: Tensor, slopes: Tensor, offsets: Tensor | None, kept: Panels | None = None
) -> tuple[Tensor, Tensor] | None:
    """argmax_j <queries_i, slopes_j> + offsets_j, the lowest j on an exact tie; None where too many scores are near.

    Args:
        queries: (B, k).
        slopes: (N, k), of the same dtype, or stored in fewer bytes.
        offsets: (N,), or None for zeros.
        kept: made of these slopes and offsets, if there is one.

    Returns:
        index: (B,) int64, -1 for rows that must be searched in another way: those with numbers bfloat16 does not have,
            or none of size.
        score: (B,) float64, of the best; -inf without one.
    """
    if offsets is None:
        offsets = queries.new_zeros(()).expand(len(slopes))
    centre, level = centre_and_level(slopes, offsets)
    floor = _sampled_floor(queries, sampled(slopes).to(queries.dtype) - centre, sampled(offsets) - level)
    sizes, imprecision = _sizes(queries)
    floor[sizes < _LEAST_SIZE] = torch.nan  # nothing reaches it
    columns = _columns(len(queries)) if kept is None else kept.columns
    blocks = [_with_ones(rows) for rows in queries.split(_SCORES // columns)]
    buffer = torch.empty(_SCORES, dtype=torch.bfloat16, device=slopes.device)
    survivors, count = [], 0
    for part, left in enumerate(range(0, len(slopes), columns)):
        chunk = slice(left, left + columns)
        panel = _panel(slopes[chunk], offsets[chunk], centre, level) if kept is None else kept.parts[part]
        error = panel.error(imprecision)
        first = 0
        for block in blocks:
            rows = slice(first, first + block.shape[1])
            first = rows.stop
            row, column, ceiling = _survivors(panel, error, block, sizes[rows], floor[rows], buffer)
            count += len(row)
            if max(len(row) / block.shape[1], count / len(queries)) > _MOST_SURVIVORS:
                return None
            survivors.append((row + rows.start, column + left, ceiling))
    return _best_survivors(queries, slopes, offsets, floor, survivors)


def _columns(rows: int) -> int:
    """Slopes of a panel that make a block of scores with so many rows, in whole groups."""
    return _GROUP * (_SCORES // _GROUP // min(max(rows, _LEAST_ROWS), _ROWS))


def _norms(rows: Tensor) -> Tensor:
    """Of rows (n, k), no less than they are, (n,): what squares lose that float32 does not have is added."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=1)
    return norms + least_norm(rows.shape[1])


def _sizes(queries: Tensor) -> tuple[Tensor, float]:
    """Norms of the rows, (B,) float32, and how much of one is lost in bfloat16 at most, relative to it."""
    size, lost = (torch.linalg.vector_norm(part, dim=1) for part in (queries, queries - queries.bfloat16()))
    return size.float(), float((lost / size).nan_to_num(0, 0).max())


def _with_ones(queries: Tensor) -> Tensor:
    """Rows in bfloat16 with two ones, that offsets are multiplied by, (k + 2, B)."""
    short = queries.bfloat16()
    return torch.cat([short, short.new_ones(len(short), 2)], dim=1).T.contiguous()


def _panel(slopes: Tensor, offsets: Tensor, centre: Tensor, level: Tensor) -> _Panel:
    count, depth = slopes.shape
    rows = torch.empty(-(-count // _GROUP) * _GROUP, depth + 2, dtype=torch.bfloat16, device=slopes.device)
    size, lost = torch.zeros(2, len(rows), device=slopes.device)
    at_once = max(1, _CENTRED // depth)
    for part, size_part, lost_part, given in zip(
        *(x[:count].split(at_once) for x in (rows, size, lost, slopes)), strict=True
    ):
        centred = given - centre
        part[:, :depth] = centred
        size_part.copy_(_norms(centred))
        lost_part.copy_(_norms(centred.sub_(part[:, :depth])))
    offsets = offsets - level
    rows[:count, depth] = offsets
    rows[:count, depth + 1] = offsets - rows[:count, depth]
    rows[count:] = 0
    rows[count:, depth] = -torch.inf
    offset_lost = MARGIN * float(offsets.abs().max()) * (_ROUNDING**2 + sums_error(depth + 2))
    return _Panel(rows, size.view(-1, _GROUP), lost.view(-1, _GROUP), offset_lost)


def _sampled_floor(queries: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    """A bound below the largest score of each row, from some slopes alone, (B,) float32."""
    best = torch.addmm(offsets, queries, slopes.mT).amax(1)
    size = _norms(queries) * _norms(slopes).max()
    error = sums_error(slopes.shape[1] + 2) * (size + offsets.abs().max())
    floor: Tensor = best - MARGIN * error
    return floor.float()


def _survivors(
    panel: _Panel, error: Tensor, block: Tensor, sizes: Tensor, floor: Tensor, buffer: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows and slopes, by number, of scores that may be the largest, with bounds above; raises the floor in place.

    Args:
        panel: n slopes.
        error: as of the panel, (groups, group).
        block: (k + 2, m) rows with two ones.
        sizes: (m,) their norms.
        floor: (m,).
        buffer: bfloat16, for n m scores.
    """
    count, rows = len(panel.rows), len(sizes)
    scores = torch.mm(panel.rows, block, out=buffer[: count * rows].view(count, rows)).view(-1, _GROUP, rows)
    # as integers, numbers of bfloat16 that are not negative are in their own order, and all others below
    best = scores.view(torch.int16).amax(1).view(torch.bfloat16).float()
    largest = error.amax(1)
    reached = torch.addr(best, largest, sizes, beta=1 - _RELATIVE, alpha=-1).amax(0)
    torch.maximum(floor, reached.sub_(panel.offset_lost), out=floor)
    needed = floor - panel.offset_lost
    ceiling = torch.addr(best.clamp_(min=0), largest, sizes, beta=1 + _RELATIVE)
    group, row = torch.nonzero(ceiling >= needed, as_tuple=True)
    near = scores[group, :, row].float().mul_(1 + _RELATIVE)
    near.addcmul_(error[group], sizes[row, None])
    pair, place = torch.nonzero(near >= needed[row, None], as_tuple=True)
    row = row[pair]
    return row, group[pair] * _GROUP + place, near[pair, place] + panel.offset_lost


def _best_survivors(
    queries: Tensor, slopes: Tensor, offsets: Tensor, floor: Tensor, survivors: list[tuple[Tensor, Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """The best slope of each row among those that are left, and its score in float64, (B,); -1 and -inf without any.

    Args:
        queries: (B, k).
        slopes: (N, k).
        offsets: (N,).
        floor: (B,), no higher than the largest score of each row.
        survivors: row, slope and a bound above of the score, (n,) each, of some slopes after the others.
    """
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
    return best_of(row, column, score, len(queries), len(slopes))
