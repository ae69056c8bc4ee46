"""How near the pairs of a potential on shortlists are to optimal ones of the same laws, by its public queries.

Let T(u) be the best atom on the list of u and phi_C(u) its score <u, T(u)> - h, phi(u) the best score of all atoms. By
duality no pairs of the laws of U and T(U) cost less than E|U - T(U)|^2 - 2 E[phi(U) - phi_C(U)], whatever the heights
and the masses of the cells are; at independent pairs they cost 2 Cov(U, T(U)) more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from proxflow.checks import working_dtype
from proxflow.kernels.geometry import ScaledRows
from proxflow.potentials.atoms import centre_and_radius
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.semidiscrete.problem import inner

__all__ = ["PAIR_DRAWS", "PairQuality", "pair_quality"]

PAIR_DRAWS = 1 << 12


@dataclass(frozen=True)
class PairQuality:
    """What pairs cost in the mean, beside others with the same laws.

    Attributes:
        saved: less than independent pairs.
        excess: more than optimal pairs, at the most, with 95% confidence.
        optimality: the share of what optimal pairs save that these save at least; 1 for a single atom.
    """

    saved: float
    excess: float
    optimality: float


def pair_quality(potential: Shortlisted, generator: torch.Generator) -> PairQuality:
    """On ``PAIR_DRAWS`` draws, each searched among all atoms too."""
    points, dtype = potential.points, working_dtype(potential.points)
    noise = potential.source.sample(PAIR_DRAWS, generator=generator, dtype=dtype, device=points.device)
    listed, best = potential.nearest_atom(noise), potential.over_all_atoms().nearest_atom(noise)
    centre, radius = centre_and_radius(points)
    units, heights, exact = ScaledRows(points, centre, radius), potential.heights.double() / radius, noise.double()
    place = units[listed]
    lost = inner(exact, units[best] - place) - heights[best] + heights[listed]
    saved = 2 * float(inner(exact - exact.mean(0), place).sum()) / (PAIR_DRAWS - 1)
    excess = 2 * (float(lost.mean()) + 1.96 * float(lost.std()) / math.sqrt(PAIR_DRAWS))
    excess, size = max(excess, 0.0), float(radius)
    share = saved / (saved + excess) if saved > 0 else float(len(points) == 1)
    return PairQuality(size * saved, size * excess, share)
