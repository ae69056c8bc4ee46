"""Which rows of many are equal, by a number made of each: no copy of the rows, no sorting of them; their coordinates.

The bits of a row, times random odd integers and added up modulo 2^64, are its key: the sum does not depend on the order
of summation, as one of floating-point numbers would. The leading bits of a number are added to its last ones, since the
last ones of whole numbers are all 0, and a product with such a number has few bits that are random. Equal rows have
equal keys. Rows of equal keys are compared, so that what is found is exact; that unlike rows share a key happens to one
of 2^50 pairs or fewer, and then the rows are sorted.

Cost: N d multiplications and a sort of N integers; memory for a few integers a row and one block of rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from proxflow.kernels.geometry import by_blocks, row_blocks

__all__ = ["first_equal_rows", "places_among", "row_coordinates", "row_keys"]

_SEED = 0  # of the multipliers
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # of so many bytes
_LEADING = 20  # bits of a number: its exponent and, of float32 and float64, the digits of small whole numbers


def row_keys(rows: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A key of each row (N, d) of numbers, (N,) int64: the same for equal rows, as those of 0.0 and -0.0 are.

    Rows are taken as they are in another dtype, if one is given. Whole numbers are taken as float32, which holds those
    of one byte and of two.
    """
    drawn = np.random.default_rng(_SEED).integers(-(2**62), 2**62, rows.shape[1])  # vmap has no torch generators
    multipliers = torch.from_numpy(2 * drawn + 1).to(rows.device)
    keys = rows.new_empty(len(rows), dtype=torch.int64)
    dtype = dtype or (rows.dtype if rows.is_floating_point() else torch.float32)
    size = dtype.itemsize
    shift = 8 * size - _LEADING
    for part in row_blocks(rows):
        positive_zero = rows[part].to(dtype) + 0.0
        bits = positive_zero.view(_INTEGERS[size]).to(torch.int64)
        if shift > 0:
            bits ^= (bits >> shift) & ((1 << _LEADING) - 1)
        keys[part] = (bits * multipliers).sum(1)
    return keys


def first_equal_rows(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The first row of each set of equal rows, in order, (M,) int64; and which of these M every row equals, (N,).

    Args:
        rows: (N, d) of numbers, without NaN.
    """
    _, of_row = torch.unique(row_keys(rows), return_inverse=True)
    first = _first_of_each(of_row)
    if not _equal(rows, first[of_row]):
        _, of_row = torch.unique(rows, dim=0, return_inverse=True)
        first = _first_of_each(of_row)
    kept, order = first.sort()
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return kept, place[of_row]


def row_coordinates(points: Tensor, axes: Tensor) -> Tensor:
    """<y_i, a_k> of rows (N, d) and the columns of axes (d, k), in the dtype of the axes: alike for equal rows.

    A product may round a row by its place among the others. Sums are in float64, so that in float32 the rows that agree
    in these axes alone come out the same, too: rounded apart they would be atoms that no fit can tell from each other,
    and gives no right shares.
    """
    found = by_blocks(points, lambda rows: (rows.double() @ axes.double()).to(axes.dtype))
    if axes.dtype != torch.float64:
        return found
    kept, of_row = first_equal_rows(points)
    return found[kept[of_row]]


def places_among(distinct: Tensor, rows: Tensor) -> Tensor:
    """Which of distinct rows (N, d) each row (M, d) equals, (M,) int64; -1 where it is none. Copies blocks alone.

    Args:
        distinct: without NaN, as are ``rows``.
        rows: of any dtype; numbers are compared in one that holds those of both.
    """
    dtype = torch.promote_types(torch.promote_types(distinct.dtype, rows.dtype), torch.float32)
    keys, order = row_keys(distinct, dtype).sort()
    wanted = row_keys(rows, dtype)
    at = torch.searchsorted(keys, wanted).clamp(max=len(keys) - 1)
    place = torch.where(_same(distinct, order[at], rows, torch.arange(len(rows), device=rows.device)), order[at], -1)
    for row in torch.nonzero((place < 0) & (keys[at] == wanted))[:, 0].tolist():  # another with this key comes first
        others = order[keys == wanted[row]]
        equal = torch.nonzero((distinct[others] == rows[row]).all(1))[:, 0]
        place[row] = others[equal[0]] if len(equal) else -1
    return place


def _first_of_each(of_row: Tensor) -> Tensor:
    """The least row of each number, of those from 0 on that ``of_row`` (N,) holds."""
    number = torch.arange(len(of_row), device=of_row.device)
    first = of_row.new_full((int(of_row.max()) + 1,), len(of_row))
    return first.scatter_reduce_(0, of_row, number, "amin")


def _equal(rows: Tensor, others: Tensor) -> bool:
    """Whether every row equals that of the number given for it, (N,)."""
    number = torch.nonzero(others != torch.arange(len(rows), device=rows.device))[:, 0]
    return bool(_same(rows, number, rows, others[number]).all())


def _same(rows: Tensor, numbers: Tensor, others: Tensor, its_numbers: Tensor) -> Tensor:
    """Whether rows of these numbers (n,) equal others of these (n,), pair by pair, (n,) bool."""
    size = max(1, row_blocks(rows)[0].stop)
    parts = zip(numbers.split(size), its_numbers.split(size), strict=True)
    return torch.cat([(rows[own] == others[its]).all(1) for own, its in parts])
