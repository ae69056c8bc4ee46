"""Tests of statistical hypotheses on noise, with the power to see a skewed law."""

from __future__ import annotations

import torch
from scipy import stats
from torch import Tensor

ALPHA = 1e-3  # p-values of correct code at fixed seeds lie above
REJECTED = 1e-12  # p-values of the laws that must be told apart lie below

_DIRECTIONS = 16


def normal_p_value(noise: Tensor) -> float:
    """Of the rows (n, *event) being independent N(0, I): Kolmogorov-Smirnov on many projections and on the norm.

    Along the axes and fixed random directions, which together determine a law (Cramer and Wold); by Bonferroni.
    """
    rows = noise.flatten(1).double()
    dim = rows.shape[1]
    random = torch.randn(_DIRECTIONS, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    directions = torch.cat([torch.eye(dim, dtype=torch.float64), random / random.norm(dim=1, keepdim=True)])
    along = [stats.kstest(projected.numpy(), "norm").pvalue for projected in directions @ rows.mT]
    norm = stats.kstest(rows.square().sum(1).numpy(), "chi2", args=(dim,)).pvalue
    return float(min(1.0, (len(along) + 1) * min([*along, norm])))


def same_law_p_value(x: Tensor, y: Tensor) -> float:
    """Of two samples (n, *event) and (m, *event) having one law: two-sample tests along the same directions."""
    x, y = x.flatten(1).double(), y.flatten(1).double()
    random = torch.randn(_DIRECTIONS, x.shape[1], generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    along = [stats.ks_2samp((x @ u).numpy(), (y @ u).numpy()).pvalue for u in random]
    return min(1.0, len(along) * min(along))


def frequency_p_value(index: Tensor, mass: Tensor) -> float:
    """Of independent draws ``index`` having the probabilities ``mass``, by chi-square."""
    counts = torch.bincount(index, minlength=len(mass)).double()
    return float(stats.chisquare(counts.numpy(), (len(index) * mass.double() / mass.double().sum()).numpy()).pvalue)


def energy_p_value(noise: Tensor, permutations: int = 399) -> float:
    """Of the rows (n, *event) being independent N(0, I): the energy test against as many normal rows, by permutation.

    It sees every kind of difference, dependence of coordinates too. At the least it is 1 / (permutations + 1).
    """
    rows = noise.flatten(1).double()
    generator = torch.Generator().manual_seed(2)
    both = torch.cat([rows, torch.randn(rows.shape, generator=generator, dtype=torch.float64)])
    distance = torch.cdist(both, both)
    signs = torch.ones(len(both), dtype=torch.float64)
    signs[len(rows) :] = -1
    shuffled = torch.stack([signs[torch.randperm(len(both), generator=generator)] for _ in range(permutations)])

    def energy(signs: Tensor) -> Tensor:
        """n^2 times the distance, for each row of signs."""
        return -((signs @ distance) * signs).sum(1)

    as_large = int((energy(shuffled) >= energy(signs[None])).sum())
    return (1 + as_large) / (permutations + 1)
