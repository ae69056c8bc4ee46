"""Softmax laws over many atoms: mean, covariance and draws, in bounded memory.

Row by row the law is p_j proportional to exp(<v, a_j> + b_j). Rows are taken in blocks, so that a block of scores, and
not rows x atoms, is the largest thing in memory. The covariance uses only the atoms whose probability can be felt:
at low temperature these are few, and cost and memory follow their number.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["covariance", "draw", "mean", "probabilities", "row_blocks", "solve_shifted"]

_SCORE_COPIES = 12  # blocks of scores alive at once in the busiest caller, with room for outputs
_FIRST_BLOCK = 32  # rows of smallest support; later blocks double, so that few rows carry others' padding
_NEGLIGIBLE = 1e-20  # probability below which an atom adds nothing to a covariance in float64


def row_blocks(rows: int, numbers_per_row: int, itemsize: int, max_memory: int) -> Iterator[slice]:
    """Consecutive blocks of rows, at least one row each, whose ``numbers_per_row`` fit in ``max_memory`` bytes."""
    size = max(1, max_memory // max(1, _SCORE_COPIES * numbers_per_row * itemsize))
    for top in range(0, rows, size):
        yield slice(top, min(top + size, rows))


def probabilities(v: Tensor, atoms: Tensor, bias: Tensor) -> Tensor:
    """The law of each row, (B, N), for ``v`` (B, d), ``atoms`` (N, d), ``bias`` (N,): for one block of rows."""
    return torch.softmax(v @ atoms.mT + bias, dim=1)


def mean(v: Tensor, atoms: Tensor, bias: Tensor, max_memory: int) -> Tensor:
    """sum_j p_j a_j, (B, d)."""
    blocks = row_blocks(len(v), len(atoms), v.element_size(), max_memory)
    return torch.cat([v.new_empty(0, v.shape[1]), *(probabilities(v[rows], atoms, bias) @ atoms for rows in blocks)])


def covariance(law: Tensor, centre: Tensor, atoms: Tensor, max_memory: int) -> Tensor:
    """sum_j p_j (a_j - m)(a_j - m)', (B, d, d)

    Args:
        law: (B, N) probabilities of a block of rows.
        centre: (B, d) their means m.
        atoms: (N, d).
        max_memory: bytes; rows with like numbers of felt atoms are taken together.
    """
    out = centre.new_empty(len(centre), atoms.shape[1], atoms.shape[1])
    felt = (law > _NEGLIGIBLE).sum(1)
    order = felt.argsort()
    supports = felt[order].tolist()
    top, ahead = 0, _FIRST_BLOCK
    while top < len(supports):
        # in order of support, the last row of a block is its largest: shorten the block until that one fits
        ahead = min(ahead, len(supports) - top)
        bytes_per_row = 4 * supports[top + ahead - 1] * atoms.shape[1] * law.element_size()
        rows = order[top : top + max(1, min(ahead, max_memory // max(1, bytes_per_row)))]
        top += len(rows)
        out[rows] = _block_covariance(law[rows], centre[rows], atoms, supports[top - 1])
        ahead = 2 * len(rows)
    return out


def _block_covariance(law: Tensor, centre: Tensor, atoms: Tensor, support: int) -> Tensor:
    if 2 * support >= len(atoms):
        return torch.stack([_row_covariance(p, m, atoms) for p, m in zip(law, centre, strict=True)])
    weights, index = law.topk(support, dim=1)
    spread = (atoms[index] - centre[:, None, :]) * _root(weights)[:, :, None]
    return spread.mT @ spread


def _row_covariance(law: Tensor, centre: Tensor, atoms: Tensor) -> Tensor:
    spread = (atoms - centre) * _root(law)[:, None]
    return spread.mT @ spread


def _root(law: Tensor) -> Tensor:
    """Square roots; at 0, where a probability underflowed, with derivative 0 and not infinite."""
    return law.clamp(min=torch.finfo(law.dtype).tiny).sqrt()


def solve_shifted(spread: Tensor, shift: Tensor, factor: Tensor, right: Tensor) -> Tensor:
    """(shift I + factor spread)^-1 right, (B, d, k), for spread (B, d, d) >= 0, shift > 0 and factor >= 0 (B,).

    By Cholesky's method; rows too ill-conditioned for it go through their eigenvalues.
    """
    matrix = factor[:, None, None] * spread + torch.diag_embed(shift[:, None].expand(spread.shape[:2]))
    lower, info = torch.linalg.cholesky_ex(matrix)
    solved = torch.cholesky_solve(right, lower)
    weak = torch.nonzero((info > 0) | ~torch.isfinite(solved).all(2).all(1))[:, 0]
    if len(weak) == 0:
        return solved
    size, axes = torch.linalg.eigh(spread[weak].nan_to_num(0.0, 0.0, 0.0))
    size = shift[weak, None] + factor[weak, None] * size.clamp(min=0)
    return solved.index_copy(0, weak, axes @ ((axes.mT @ right[weak]) / size[:, :, None]))


def draw(v: Tensor, atoms: Tensor, bias: Tensor, uniform: Tensor, max_memory: int) -> Tensor:
    """One atom per row from its law, (B,) int64, by inversion of the cumulated probabilities.

    One uniform number per row makes the draw independent of how rows are blocked.

    Args:
        v, atoms, bias: as for ``probabilities``.
        uniform: (B,) in [0, 1).
        max_memory: bytes.
    """
    index = torch.zeros(len(v), dtype=torch.int64, device=v.device)
    for rows in row_blocks(len(v), len(atoms), v.element_size(), max_memory):
        cumulated = probabilities(v[rows], atoms, bias).cumsum(1)
        level = uniform[rows, None] * cumulated[:, -1:]
        index[rows] = torch.searchsorted(cumulated, level, right=True)[:, 0].clamp(max=len(atoms) - 1)
    return index
