"""How near the pairs of a potential on shortlists are to optimal ones of the same laws, by its public queries.

Let T(u) be the best atom on the list of u and phi_C(u) its score <u, T(u)> - h, phi(u) the best score of all atoms. By
duality no pairs of the laws of U and T(U) cost less than E|U - T(U)|^2 - 2 E[phi(U) - phi_C(U)], whatever the heights
and the masses of the cells are; at independent pairs they cost 2 Cov(U, T(U)) more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import working_dtype
from proxflow.kernels.geometry import ScaledRows, weighted_sum
from proxflow.measures import draw
from proxflow.potentials.atoms import centre_and_radius
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.semidiscrete.problem import chunk_sizes, inner

__all__ = ["PAIR_DRAWS", "PairQuality", "pair_quality"]

PAIR_DRAWS = 1 << 12
_BLOCK_NUMBERS = 1 << 20  # of noise at once
_NORMAL = 1.96  # quantile


@dataclass(frozen=True)
class PairQuality:
    """What pairs cost in the mean, beside others with the same laws.

    Attributes:
        excess: more than optimal pairs, at the most.
        optimality: the share of what optimal pairs save over independent ones that these save at least; 1 for a single
            atom, and 0 where the draws do not tell that anything is saved.
    """

    excess: float
    optimality: float


def pair_quality(potential: Shortlisted, generator: torch.Generator) -> PairQuality:
    """On ``PAIR_DRAWS`` draws, each searched among all atoms too; both with 95% confidence.

    By the normal law of means: of losses that hardly one of the draws has nothing is known.
    """
    if len(potential.points) == 1:
        return PairQuality(0.0, 1.0)
    units, heights, radius = _in_units(potential)
    gained, lost = _gains_and_losses(potential, units, heights, generator)
    n, saved, missed = len(lost), float(gained.mean()), float(lost.mean())
    excess = 2 * radius * max(missed + _NORMAL * float(lost.std()) / math.sqrt(n), 0.0)
    if saved <= _NORMAL * float(gained.std()) / math.sqrt(n):
        return PairQuality(excess, 0.0)
    whole = saved + missed
    share = saved / whole
    influence = ((1 - share) * (gained - saved) - share * (lost - missed)) / whole
    return PairQuality(excess, min(share - _NORMAL * float(influence.std()) / math.sqrt(n), 1.0))


def _in_units(potential: Shortlisted) -> tuple[ScaledRows, Tensor, float]:
    """Atoms about a centre and heights (N,) in units of their radius, and that: squares of gains are then numbers."""
    centre, radius = centre_and_radius(potential.points)
    return ScaledRows(potential.points, centre, radius), potential.heights.double() / radius, float(radius)


def _gains_and_losses(
    potential: Shortlisted, units: ScaledRows, heights: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Of each draw, (n,) in these units: half of what it saves, and phi less phi_C."""
    points, everywhere = potential.points, potential.over_all_atoms()
    mean, dtype = weighted_sum(potential.weights, units), working_dtype(points)
    rows, origin = max(1, _BLOCK_NUMBERS // points.shape[1]), torch.zeros_like(mean)
    gained: list[Tensor] = []
    lost: list[Tensor] = []
    sums = torch.zeros(2, len(mean), dtype=torch.float64, device=points.device)
    for count in chunk_sizes(PAIR_DRAWS, rows):
        noise = draw(potential.source, count, generator, dtype, points.device)
        listed, best, exact = potential.nearest_atom(noise), everywhere.nearest_atom(noise), noise.double()
        origin = origin if gained else exact.mean(0)  # near the mean, which the end corrects
        apart, place = exact - origin, units[listed] - mean
        gained.append(inner(apart, place))
        lost.append(inner(exact, units[best] - units[listed]) - heights[best] + heights[listed])
        sums += torch.stack([apart.sum(0), place.sum(0)])
    of_means = inner(*(sums / PAIR_DRAWS))  # what the origin and the mean weight are off
    return (torch.cat(gained) - of_means) * (PAIR_DRAWS / (PAIR_DRAWS - 1)), torch.cat(lost)
