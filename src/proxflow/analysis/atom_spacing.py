"""Whether a scale is below the spacing of the atoms: there a flow of finitely many points only memorises them."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.potentials.base import Potential
from proxflow.potentials.calculus import Rotated, Scaled
from proxflow.potentials.entropic import Entropic
from proxflow.potentials.product import Product

__all__ = ["largest_posterior_weight", "sees_one_atom"]

_BLOCK_NUMBERS = 1 << 24


def sees_one_atom(potential: Potential, y: Tensor, u: Tensor) -> Tensor:
    """Whether one atom explains a Moreau pair (y, u), both (B, d): (B,) bool.

    For ``Entropic``: its largest softmax weight at u is over 1/2. For other potentials: nothing can move, L = {0}
    (``Discrete`` at an atom). Products see one atom where a factor does.
    """
    if isinstance(potential, Product):
        sizes = [factor.dim for factor in potential.blocks]
        pieces = zip(potential.blocks, y.split(sizes, 1), u.split(sizes, 1), strict=True)
        return torch.stack([sees_one_atom(factor, a, b) for factor, a, b in pieces]).any(0)
    if isinstance(potential, Rotated):
        rotation = potential.rotation.to(y)
        return sees_one_atom(potential.potential, (y - potential.shift.to(y)) @ rotation, u @ rotation)
    if isinstance(potential, Scaled):
        return sees_one_atom(potential.potential, y / potential.factor, u)
    if isinstance(potential, Entropic):
        bias = potential.weights.double().log() - potential.heights.double() / potential.epsilon
        parts = [
            torch.softmax(rows.double() @ potential.points.double().mT / potential.epsilon + bias, 1).amax(1) > 0.5
            for rows in u.split(_rows(len(potential.points)))
        ]
        return torch.cat(parts)
    return potential.second_epi_derivative(y, u).subspace_dimension == 0


def largest_posterior_weight(x: Tensor, points: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """max_j P(X1 = y_j | X_t = x) for independent normal noise and equal weights, (B,); x (B, d), points (N, d)."""
    centres = beta * points
    parts = [
        torch.softmax(-0.5 * (torch.cdist(rows, centres) / alpha).square(), 1).amax(1)
        for rows in x.split(_rows(len(points)))
    ]
    return torch.cat(parts)


def _rows(atoms: int) -> int:
    return max(1, _BLOCK_NUMBERS // atoms)
