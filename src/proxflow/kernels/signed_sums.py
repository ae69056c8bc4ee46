"""The maximum-affine search for vectors that differ in the signs of their parts: one product serves them all.

Problem: argmax_j <e_1 a_1 + ... + e_m a_m, b_j> + c_j for a vector of m parts and 2 m choices of signs, which are the
rows of a Hadamard matrix and their negatives. Method: the m products <a_p, b_j> are taken once, a fast Walsh-Hadamard
transform makes of them the scores of m choices, and for the negative ones the least of these with -c_j is sought.

Invariant: the scores of a block stay in a cache near the core. Cost: B N d multiplications, where 2 m B N d are those
of a search of each vector, and 2 log2 m + 4 passes over B N m scores.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.search import best_of_parts, row_argmax, row_argmin
from proxflow.kernels.threads import on_threads

__all__ = ["SlopesInParts", "best_of_signs", "hadamard_signs"]

_SCORES = 1 << 20  # at once
_LEAST_ROWS, _MOST_ROWS = 32, 1024  # of queries at once: products with fewer are slow
_SHARING_ROWS = 256  # of all parts together, where slopes take turns: each product packs its slopes anew


@dataclass(frozen=True)
class SlopesInParts:
    """Slopes in m parts of k coordinates, as many at a time as ``rows`` queries are searched among: all, if they fit.

    Attributes:
        panels: of all slopes in their order, (m, k, n) each.
        rows: of queries.
    """

    panels: tuple[Tensor, ...]
    rows: int

    @classmethod
    def of(cls, slopes: Tensor, frame: Tensor, parts: int) -> SlopesInParts:
        """Slopes (N, d), stored in any dtype, by their coordinates in a frame (s, t), in the dtype of that.

        They are turned by the frame s coordinates at a time into t, of which each part takes the same share; zeros fill
        the last ones. ``parts`` is a power of two and divides t.
        """
        rows = min(_SCORES // (parts * len(slopes)) // _LEAST_ROWS * _LEAST_ROWS, _MOST_ROWS)
        rows = rows or max(_SHARING_ROWS // parts, _LEAST_ROWS)
        panels = math.ceil(parts * rows * len(slopes) / _SCORES)
        width = math.ceil(len(slopes) / panels)
        return cls(tuple(_turned(some, frame, parts) for some in slopes.split(width)), rows)

    @property
    def shape(self) -> tuple[int, int]:
        """Parts and coordinates of each, (m, k)."""
        parts, size, _ = self.panels[0].shape
        return parts, size


def _turned(slopes: Tensor, frame: Tensor, parts: int) -> Tensor:
    """The parts of slopes (n, d) in a frame (s, t), (m, k, n)."""
    size = len(frame)
    full = torch.nn.functional.pad(slopes.to(frame), (0, -slopes.shape[1] % size))
    turned = (full.view(-1, size) @ frame).view(len(slopes), -1, parts, frame.shape[1] // parts)
    return turned.permute(2, 1, 3, 0).flatten(1, 2).contiguous()


def hadamard_signs(parts: int) -> Tensor:
    """The signs of the parts, (2 m, m) of 1 and -1, in the order of ``best_of_signs``; m is a power of two."""
    signs = torch.ones(1, 1, dtype=torch.int64)
    while len(signs) < parts:
        signs = torch.cat([torch.cat([signs, signs], 1), torch.cat([signs, -signs], 1)])
    return torch.cat([signs, -signs])


def best_of_signs(queries: Tensor, slopes: SlopesInParts, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """argmax_j sum_p e_p <queries_pi, slopes_pj> + offsets_j, the lowest j on an exact tie, and the score there.

    Args:
        queries: (m, B, k), B >= 1, of the dtype of the slopes.
        slopes: N of them.
        offsets: (N,), of that dtype.

    Returns:
        (2 m, B) int64 and (2 m, B): for each row of ``hadamard_signs``.
    """
    blocks, first = queries.split(slopes.rows, dim=1), slopes.panels[0]
    numbers, width = len(queries) * blocks[0].shape[1] * first.shape[-1], first.shape[-1]

    def among(panels: Iterator[int]) -> Iterator[tuple[Tensor, Tensor]]:
        buffer = queries.new_empty(numbers)
        for number in panels:
            left = number * width
            level = offsets[left : left + width]
            found = [_block_best(block, slopes.panels[number], level, buffer) for block in blocks]
            its_place, its_score = (torch.cat(columns, dim=1) for columns in zip(*found, strict=True))
            yield its_place + left, its_score

    return best_of_parts(on_threads(among, range(len(slopes.panels)), queries.device))


def _block_best(queries: Tensor, slopes: Tensor, offsets: Tensor, buffer: Tensor) -> tuple[Tensor, Tensor]:
    """The search for queries (m, n, k) among slopes (m, k, N), (2 m, n), and the scores there."""
    scores = _scores(queries, slopes, offsets, buffer)
    best = row_argmax(scores)
    largest = scores.gather(1, best[:, None])
    opposite = row_argmin(scores.add_(offsets, alpha=-2))
    least = scores.gather(1, opposite[:, None])
    rows = queries.shape[1]
    return torch.cat([best, opposite]).view(-1, rows), torch.cat([largest, -least]).view(-1, rows)


def _scores(queries: Tensor, slopes: Tensor, offsets: Tensor, buffer: Tensor) -> Tensor:
    """Of the m choices that are no negatives, (m n, N), in the buffer."""
    shape = *queries.shape[:2], len(offsets)
    scores = torch.bmm(queries, slopes, out=buffer[: math.prod(shape)].view(shape))
    scores[0].add_(offsets)  # the sign of the first part is 1 in all of these
    _transform(scores)
    return scores.flatten(0, 1)


def _transform(scores: Tensor) -> None:
    """The Walsh-Hadamard transform of scores (m, n, N) along m, in place."""
    step = 1
    while step < len(scores):
        first, second = scores.view(-1, 2, step, *scores.shape[1:]).unbind(1)
        first += second
        torch.sub(first, second, alpha=2, out=second)
        step *= 2
