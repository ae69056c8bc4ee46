"""What searches that screen share: a middle for slopes, bounds of what rounding loses, the best of what is left.

Problem: argmax_j <a_i, b_j> + c_j. A search that screens takes all scores roughly, keeps those slopes of each row that
may still be the best by a bound above of each score, and takes the scores of these in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["MARGIN", "best_of", "centre_and_level", "least_norm", "sampled", "sums_error"]

MARGIN = 1.01  # for the roundings of the bounds themselves
_LEAST_SQUARED = 2.0**-63  # a number whose square float32 has: smaller ones, and their products, may count as 0
_SAMPLE = 256  # slopes that give a centre


def sampled(slopes: Tensor) -> Tensor:
    """Some of the slopes, or of their offsets."""
    return slopes[:: -(-len(slopes) // _SAMPLE)]


def centre_and_level(slopes: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """That slopes, (k,), and offsets, (), are taken about."""
    return sampled(slopes).to(offsets.dtype).mean(0), sampled(offsets).mean()


def least_norm(depth: int) -> float:
    """Of rows of ``depth`` numbers by float32: shorter ones may count as 0, for their squares are not there."""
    return _LEAST_SQUARED * math.sqrt(depth + 2)


def sums_error(columns: int) -> float:
    """How far a sum of so many products in float32 may be off, relative to the sizes of its factors."""
    return columns * torch.finfo(torch.float32).eps


def best_of(row: Tensor, column: Tensor, score: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """The first column of the largest score of each of so many rows, and that score, (rows,); -1 and -inf without any.

    Args:
        row: (n,), of each score.
        column: (n,), below ``columns``.
        score: (n,).
    """
    best = score.new_full((rows,), -torch.inf).scatter_reduce_(0, row, score, "amax")
    place = torch.where(score == best[row], column, columns)
    index = column.new_full((rows,), columns).scatter_reduce_(0, row, place, "amin")
    return torch.where(index == columns, -1, index), best
