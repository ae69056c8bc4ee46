"""How much cell masses vary by normal noise that is not independent, relative to independent draws.

Two normal vectors at an angle of cosine r fall into the same cell of mass p more often than p^2, of all sets of that
mass most often into a half-space (Borell 1985), and there p^2 + sum_q r^q He_{q-1}(t)^2 phi(t)^2 / q! with t its
distance from the origin (Mehler's expansion). Here odd moments of r are 0, and r is a coordinate of a uniformly random
direction.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["hermite_shares", "inflation_by_angles"]

_ORDERS = range(2, 41, 2)  # of the expansion; where later ones count, the inflation is prohibitive anyway


def hermite_shares(weights: Tensor) -> list[float]:
    """For each order q the mean over cells of He_{q-1}(t)^2 phi(t)^2 / (q! p); first that of 1 - p."""
    t = -torch.special.ndtri(weights)
    density = torch.exp(-0.5 * t.square()) / math.sqrt(2 * math.pi)
    before, hermite = torch.zeros_like(t), torch.ones_like(t)  # He_n / sqrt(n!)
    shares = [float((1 - weights).mean())]
    for n in range(_ORDERS[-1]):
        if n + 1 in _ORDERS:
            shares.append(float((hermite.square() * density * (density / weights)).mean()) / (n + 1))
        before, hermite = hermite, (t * hermite - math.sqrt(n) * before) / math.sqrt(n + 1)
    return shares


def inflation_by_angles(shares: list[float], others: int, dim: float) -> float:
    """Variance of the masses, relative to 1 / draws of each, in the mean over cells.

    Args:
        shares: of the cells.
        others: vectors that a vector is not independent of.
        dim: each at the angle between random directions of that many dimensions; it need not be whole.
    """
    alone, *orders = shares
    total, moment = 0.0, 1.0
    for k, share in enumerate(orders):  # E r^(2 k + 2)
        moment *= (k + 0.5) / (0.5 * dim + k)
        total += moment * share
    return alone + others * total
