"""From the rows a user gives to distinct atoms with positive weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.points import flat_points

__all__ = ["Atoms", "gather_atoms"]


@dataclass(frozen=True)
class Atoms:
    """Distinct rows (N, d), their weights (N,) in float64 with sum 1, and the atom of every given row."""

    points: Tensor
    weights: Tensor
    atom_of_row: Tensor


def gather_atoms(points: Tensor, weights: Tensor | None) -> Atoms:
    """Check the data, normalise the weights, and merge equal rows.

    Raises:
        ValueError: points are empty, 1-D, not floating point or not finite; weights have the wrong length, are
            negative, not finite, zero on a whole atom, or all zero.
    """
    flat = flat_points("fit", points)
    mass = _checked_weights(weights, flat)
    distinct, atom_of_row = torch.unique(flat, dim=0, return_inverse=True)
    total = torch.zeros(len(distinct), dtype=torch.float64, device=flat.device).index_add_(0, atom_of_row, mass)
    empty = torch.nonzero(total == 0)[:, 0]
    if len(empty):
        rows = torch.nonzero(torch.isin(atom_of_row, empty))[:, 0]
        raise ValueError(f"fit: {len(rows)} rows have weight zero, the first: {rows[:5].tolist()}; leave them out")
    return Atoms(distinct, total / total.sum(), atom_of_row)


def _checked_weights(weights: Tensor | None, points: Tensor) -> Tensor:
    if weights is None:
        return torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
    weights = torch.as_tensor(weights, dtype=torch.float64, device=points.device)
    if weights.shape != (len(points),):
        raise ValueError(f"fit: weights must have shape ({len(points)},), got {tuple(weights.shape)}")
    bad = torch.nonzero(~(torch.isfinite(weights) & (weights >= 0)))[:, 0]
    if len(bad):
        raise ValueError(f"fit: weights must be finite and not negative; rows {bad[:5].tolist()} are not")
    if not bool(weights.sum() > 0):
        raise ValueError("fit: the weights are all zero")
    return weights / weights.sum()
