"""Faces of a polyhedral potential: the contact set at a source point, and affinely independent atoms on it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["contact_basis", "contact_mask"]

_RANK_TOLERANCE = 1e-7  # relative to the radius of the atoms: data may have been rounded to float32 before
_RANK_ROUNDINGS = 16.0  # of each atom, below which no direction is seen


def contact_mask(residual: Tensor, alpha: Tensor, keys: Tensor, tolerance: Tensor) -> Tensor:
    """Atoms whose scaled score is within ``tolerance`` of the best, (B, N).

    Args:
        residual: (B, d) r = alpha u.
        alpha: (B,).
        keys: (N, d + 2) normalised atoms.
        tolerance: (B,) in scaled score units.
    """
    scores = torch.cat([residual, alpha[:, None]], dim=1) @ keys[:, :-1].mT
    return scores >= scores.amax(1, keepdim=True) - tolerance[:, None]


def contact_basis(residual: Tensor, alpha: Tensor, keys: Tensor, tolerance: Tensor, rows_at_once: int) -> Tensor:
    """Orthonormal basis (B, d, k) of the span of the contact sets' differences, zero columns where smaller.

    Works through ``rows_at_once`` rows at a time, so that memory does not grow with the batch.
    """
    d = keys.shape[1] - 2
    rounding = _RANK_ROUNDINGS * torch.finfo(keys.dtype).eps
    basis = residual.new_zeros(len(residual), d, d)
    for top in range(0, len(residual), rows_at_once):
        block = slice(top, top + rows_at_once)
        contact = contact_mask(residual[block], alpha[block], keys, tolerance[block])
        counts = contact.sum(1)
        for row in torch.nonzero(counts > 1)[:, 0].tolist():
            atoms = keys[contact[row], :d]
            _, size, directions = torch.linalg.svd(atoms - atoms.mean(0), full_matrices=False)
            kept = directions[size > max(_RANK_TOLERANCE, rounding * len(atoms) ** 0.5)]
            basis[top + row, :, : len(kept)] = kept.mT
    return basis
