"""The maximum-affine search: argmax_j <a_i, b_j> over many rows, in bounded memory.

Affine scores <u, y_j> - h_j become plain inner products by carrying the height as an extra coordinate,
[u, -1] . [y_j, h_j], so one matrix product does all the work. The cost beyond that product is kept small by a
score block that stays in cache and is reused, and, on the CPU, by numpy's vectorised argmax.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Maximum", "max_inner_product", "row_argmax"]

_BLOCK_BYTES = 1 << 21  # one score block: it stays in a cache near the core
_MIN_ROWS = 128  # fewer rows than this leave the matrix product inefficient


@dataclass(frozen=True)
class Maximum:
    """The best score of each row and where it is attained (the lowest index on an exact tie)."""

    value: Tensor
    index: Tensor


def _block_shape(rows: int, columns: int, itemsize: int, device: torch.device) -> tuple[int, int]:
    budget = (_BLOCK_BYTES if device.type == "cpu" else 64 * _BLOCK_BYTES) // itemsize
    block_rows = min(rows, max(_MIN_ROWS, budget // columns))
    return block_rows, min(columns, max(1, 4 * budget // block_rows))


def row_argmax(scores: Tensor) -> Tensor:
    """Place of the largest entry of each row, (B,) int64; on the CPU numpy's search is the quick one."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(axis=1))
    return scores.argmax(dim=1)


def max_inner_product(queries: Tensor, keys: Tensor) -> Maximum:
    """max_j <queries_i, keys_j> and its argmax.

    Args:
        queries: (B, k).
        keys: (N, k), same dtype and device, N >= 1.

    Returns:
        ``Maximum(value (B,), index (B,) int64)``. A row with a NaN gives a NaN value.
    """
    rows, columns = len(queries), len(keys)
    if rows == 0:
        return Maximum(queries.new_empty(0), torch.empty(0, dtype=torch.int64, device=queries.device))
    height, width = _block_shape(rows, columns, queries.element_size(), queries.device)
    buffer = queries.new_empty(height * width)
    blocks = [_block_maximum(block, keys, buffer, width) for block in queries.split(height)]
    return Maximum(torch.cat([block.value for block in blocks]), torch.cat([block.index for block in blocks]))


def _block_maximum(queries: Tensor, keys: Tensor, buffer: Tensor, width: int) -> Maximum:
    """The search for one block of rows, ``width`` keys at a time."""
    best = _chunk_maximum(queries, keys[:width], buffer)
    for left in range(width, len(keys), width):
        found = _chunk_maximum(queries, keys[left : left + width], buffer)
        better = found.value > best.value
        best = Maximum(
            torch.where(better, found.value, best.value), torch.where(better, found.index + left, best.index)
        )
    return best


def _chunk_maximum(queries: Tensor, keys: Tensor, buffer: Tensor) -> Maximum:
    """All scores at once, in the buffer."""
    scores = buffer[: len(queries) * len(keys)].view(len(queries), len(keys))
    torch.mm(queries, keys.T, out=scores)
    index = row_argmax(scores)
    return Maximum(scores.gather(1, index[:, None])[:, 0], index)
