"""Sums of softmax laws on a GPU in Triton: scores live in registers and never reach memory.

Problem: for B rows and N atoms with scores s_ij = <v_i, a_j> + b_j, the levels l_i = log sum_j exp(s_ij), and for each
atom the sums over i of p_ij = exp(s_ij - l_i) and of its square. Method: one kernel takes the levels, each program for
a tile of rows and a share of the atoms, with a running maximum; a second one takes all products again, each program
for a tile of atoms and a share of the rows. What the shares give is added up in one order, so that the same arguments
give the same bits. A level is kept as the largest score and the rest: as one number it would be rounded by more than
a probability may be wrong, where scores are large.

A product of two numbers is that of two parts of each in TF32 but for the smallest of four, the digits of float32 but
for the last two bits: a score that is off by r makes a probability wrong by a factor e^r, which float16 with its r of
some thousandths of a score would not leave small at low temperatures. Sums of a share are float32.

Cost: 6 B N d operations in TF32 for the levels, and as many for the sums; B N exponentials each.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from proxflow.kernels.triton_support import processors, shares, with_close_columns

__all__ = ["fused_log_sums", "fused_summed_laws"]


@dataclass(frozen=True)
class _Tile:
    """Rows and atoms of a tile of scores, the depth of the parts it is summed from, and the warps that work on it."""

    rows: int
    columns: int
    depth: int
    warps: int


_TILE = _Tile(128, 64, 16, 8)  # as many numbers in registers as there are


@triton.jit
def _scores(
    v, atoms, bias, row, column, rows, columns, depth, v_stride, atom_stride,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of a tile, -inf beyond the atoms."""
    scores = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, depth, DEPTH):
        a = _part(v, row, rows, start, depth, v_stride, DEPTH)
        b = _part(atoms, column, columns, start, depth, atom_stride, DEPTH)
        scores = tl.dot(a, b.T, scores, input_precision="tf32x3")
    return scores + tl.load(bias + column, mask=column < columns, other=float("-inf"))[None, :]


@triton.jit
def _part(values, row, rows, start, depth, stride, DEPTH: tl.constexpr):
    """Some numbers of these rows, zeros beyond."""
    part = start + tl.arange(0, DEPTH)
    inside = (row < rows)[:, None] & (part < depth)[None, :]
    return tl.load(values + row.to(tl.int64)[:, None] * stride + part[None, :], mask=inside, other=0.0)


@triton.jit(do_not_specialize=["rows"])
def _levels(
    v, atoms, bias, tops, sums, rows, columns, depth, v_stride, atom_stride, share,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of a tile of rows and a share of the atoms: about the largest score, and the sum of exp(score - that)."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    begin = tl.program_id(1) * share
    top = tl.full((ROWS,), float("-inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    for left in range(begin, tl.minimum(begin + share, columns), COLUMNS):
        column = left + tl.arange(0, COLUMNS)
        scores = _scores(v, atoms, bias, row, column, rows, columns, depth, v_stride, atom_stride, ROWS, COLUMNS, DEPTH)
        largest = tl.maximum(top, tl.max(scores, axis=1))
        middle = tl.where(tl.abs(largest) < float("inf"), largest, 0.0)  # else inf - inf
        total = total * tl.exp(top - middle) + tl.sum(tl.exp(scores - middle[:, None]), axis=1)
        top = largest
    place = tl.program_id(1).to(tl.int64) * rows + row
    tl.store(tops + place, top, mask=row < rows)
    tl.store(sums + place, total, mask=row < rows)


@triton.jit(do_not_specialize=["rows"])
def _laws(
    v, atoms, bias, tops, rests, totals, squares, rows, columns, depth, v_stride, atom_stride, share,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    """Of a tile of atoms and a share of the rows: sums of probabilities, and of their squares."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tl.program_id(1) * share
    total = tl.zeros((COLUMNS,), tl.float32)
    square = tl.zeros((COLUMNS,), tl.float32)
    for start in range(begin, tl.minimum(begin + share, rows), ROWS):
        row = start + tl.arange(0, ROWS)
        scores = _scores(v, atoms, bias, row, column, rows, columns, depth, v_stride, atom_stride, ROWS, COLUMNS, DEPTH)
        top = tl.load(tops + row, mask=row < rows, other=float("inf"))
        rest = tl.load(rests + row, mask=row < rows, other=0.0)
        law = tl.exp((scores - top[:, None]) - rest[:, None])
        total += tl.sum(law, axis=0)
        square += tl.sum(law * law, axis=0)
    place = tl.program_id(1).to(tl.int64) * columns + column
    tl.store(totals + place, total, mask=column < columns)
    tl.store(squares + place, square, mask=column < columns)


def fused_log_sums(v: Tensor, atoms: Tensor, bias: Tensor) -> Tensor:
    """log sum_j exp(<v, a_j> + b_j), (B,), of rows ``v`` (B, d), ``atoms`` (N, d), ``bias`` (N,), float32 on a GPU.

    There is at least one row, and one atom.
    """
    top, rest = _levels_of(with_close_columns(v), with_close_columns(atoms), bias.contiguous())
    return top + rest


def fused_summed_laws(v: Tensor, atoms: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over rows of the probabilities and of their squares, (N,) float64; arguments as of ``fused_log_sums``."""
    v, atoms, bias = with_close_columns(v), with_close_columns(atoms), bias.contiguous()
    top, rest = _levels_of(v, atoms, bias)
    tiles, steps = triton.cdiv(len(atoms), _TILE.columns), triton.cdiv(len(v), _TILE.rows)
    share, parts = _share(tiles, steps, v.device)
    totals, squares = v.new_empty(2, parts, len(atoms))
    with torch.cuda.device_of(v):
        _laws[tiles, parts](
            v, atoms, bias, top, rest, totals, squares, len(v), *atoms.shape, v.stride(0), atoms.stride(0),
            share * _TILE.rows, ROWS=_TILE.rows, COLUMNS=_TILE.columns, DEPTH=_TILE.depth, num_warps=_TILE.warps,
        )  # fmt: skip
    return totals.double().sum(0), squares.double().sum(0)


def _levels_of(v: Tensor, atoms: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Two numbers whose sum is the level, (B,) each: about the largest score, and the rest; rows lie close together."""
    tiles, steps = triton.cdiv(len(v), _TILE.rows), triton.cdiv(len(atoms), _TILE.columns)
    share, parts = _share(tiles, steps, v.device)
    tops, sums = v.new_empty(2, parts, len(v))
    with torch.cuda.device_of(v):
        _levels[tiles, parts](
            v, atoms, bias, tops, sums, len(v), *atoms.shape, v.stride(0), atoms.stride(0), share * _TILE.columns,
            ROWS=_TILE.rows, COLUMNS=_TILE.columns, DEPTH=_TILE.depth, num_warps=_TILE.warps,
        )  # fmt: skip
    top = tops.amax(0)
    middle = torch.where(top.isinf(), 0.0, top)
    return top, (sums * (tops - middle).exp()).sum(0).log()


def _share(tiles: int, steps: int, device: torch.device) -> tuple[int, int]:
    """Steps of each program, and how many programs share them."""
    share = triton.cdiv(steps, shares(tiles, steps, processors(device)))
    return share, triton.cdiv(steps, share)
