"""From the rows a user gives to distinct atoms with positive weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.points import Numbers, flat_points, point_weights

__all__ = ["Atoms", "gather_atoms"]


@dataclass(frozen=True)
class Atoms:
    """Distinct rows (N, d), their weights (N,) in float64 with sum 1, and the atom of every given row."""

    points: Tensor
    weights: Tensor
    atom_of_row: Tensor


def gather_atoms(points: Numbers, weights: Numbers | None) -> Atoms:
    """Check the data, normalise the weights, and merge equal rows.

    Raises:
        ValueError: points are empty, 1-D, not floating point or not finite; weights have the wrong length, are
            negative, not finite, zero on a whole atom, or all zero.
    """
    flat = flat_points("fit", points)
    mass = point_weights("fit", weights, flat)
    distinct, atom_of_row = torch.unique(flat, dim=0, return_inverse=True)
    total = torch.zeros(len(distinct), dtype=torch.float64, device=flat.device).index_add_(0, atom_of_row, mass)
    empty = torch.nonzero(total == 0)[:, 0]
    if len(empty):
        rows = torch.nonzero(torch.isin(atom_of_row, empty))[:, 0]
        raise ValueError(f"fit: {len(rows)} rows have weight zero, the first: {rows[:5].tolist()}; leave them out")
    return Atoms(distinct, total / total.sum(), atom_of_row)
