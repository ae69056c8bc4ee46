"""What searches that screen in bfloat16 share: what slopes are taken about, bounds of what rounding loses, the end.

Problem: argmax_j <a_i, b_j> + c_j. A search that screens takes all scores roughly, keeps those slopes of each row that
may still be the best, with a bound above of each score, and ends here, in float64.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "LEAST_SIZE",
    "MARGIN",
    "best_of",
    "best_survivors",
    "centre_and_level",
    "least_norm",
    "sampled",
    "sums_error",
]

MARGIN = 1.01  # for the roundings of the bounds themselves
LEAST_SIZE = 2.0**-30  # of a row, to which numbers of that size are rounding
_LEAST_SQUARED = 2.0**-63  # a number whose square float32 has: smaller ones, and their products, may count as 0
_SAMPLE = 256  # slopes that give a centre
_AT_ONCE = 1 << 17  # numbers that scores in float64 are taken of, in a cache


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


def best_survivors(
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
