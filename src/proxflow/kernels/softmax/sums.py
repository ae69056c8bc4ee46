"""Sums of softmax laws over many rows: log-sum-exp of each row, and what each atom gets of all rows.

Row by row the law is p_j proportional to exp(<v, a_j> + b_j). Scores are taken a block of rows at a time, which stays
in a cache where there are not too many atoms; on a GPU with Triton they stay in registers.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from proxflow.kernels.triton_support import by_kernels, has_kernels

__all__ = ["log_sums", "summed_laws"]

_BLOCK_BYTES = 1 << 21  # of scores: about a core's cache
_LEAST_ROWS = 16
_ROWS, _MOST_BYTES = 64, 1 << 25  # fewer rows read the atoms too often, if that many bytes of scores allow for more
_LEAST_FUSED = 1 << 22  # scores that repay the launches of a GPU's kernels


def log_sums(v: Tensor, atoms: Tensor, bias: Tensor) -> Tensor:
    """log sum_j exp(<v, a_j> + b_j), (B,), for ``v`` (B, d), ``atoms`` (N, d), ``bias`` (N,) of one dtype."""
    found = by_kernels(v.device, lambda: _fused_log_sums(v, atoms, bias)) if _can_fuse(v, atoms) else None
    return torch.cat([scores.logsumexp(1) for scores in _blocks(v, atoms, bias)]) if found is None else found


def summed_laws(v: Tensor, atoms: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over rows of p_j and of its square, (N,) float64 each; arguments as of ``log_sums``."""
    found = by_kernels(v.device, lambda: _fused_summed_laws(v, atoms, bias)) if _can_fuse(v, atoms) else None
    return _summed_by_blocks(v, atoms, bias) if found is None else found


def _summed_by_blocks(v: Tensor, atoms: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    total, squares = v.new_zeros(2, len(atoms), dtype=torch.float64)
    for scores in _blocks(v, atoms, bias):
        law = torch.softmax(scores, dim=1)
        total += law.sum(0)
        squares += law.square().sum(0)
    return total, squares


def _blocks(v: Tensor, atoms: Tensor, bias: Tensor) -> Iterator[Tensor]:
    """Scores of some rows, (rows, N)."""
    row, cache = bias.element_size() * len(bias), _BLOCK_BYTES if v.device.type == "cpu" else 32 * _BLOCK_BYTES
    for part in v.split(max(_LEAST_ROWS, min(_ROWS, _MOST_BYTES // row), cache // row)):
        yield torch.addmm(bias, part, atoms.mT)


def _can_fuse(v: Tensor, atoms: Tensor) -> bool:
    return len(v) * len(atoms) >= _LEAST_FUSED and v.dtype == torch.float32 and has_kernels(v.device)


def _fused_log_sums(v: Tensor, atoms: Tensor, bias: Tensor) -> Tensor:
    from proxflow.kernels.fused_softmax import fused_log_sums

    return fused_log_sums(v, atoms, bias)


def _fused_summed_laws(v: Tensor, atoms: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    from proxflow.kernels.fused_softmax import fused_summed_laws

    return fused_summed_laws(v, atoms, bias)
