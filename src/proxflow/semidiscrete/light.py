"""Atoms too light for noise to find: heights that keep the mass of their cells below their weight, by a bound.

A cell of mass 1e-12 is hit once in 1e12 draws, so that no count of draws can move its height or judge it. But any atom
k bounds the cell of atom j: cell j lies in the half-space <u, y_j - y_k> >= h_j - h_k. With

    h_j = min_k h_k + |y_j - y_k| q_j,    P(<X, e> >= q_j) <= b_j for every unit vector e,

(b_j / |G| and the nearest images, where an atom stands for up to |G| images and its cell is all of theirs)
the mass m_j is at most b_j, and what atom j adds to chi2, (m_j - b_j)^2 / b_j, at most b_j. For normal noise q_j is the
normal quantile at 1 - b_j, for other noise Chebyshev's (E|X|^2 / b_j)^(1/2).

Where noise is searched on shortlists, only an atom of the same group is on the list whenever j is, and can bound it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.measures import is_normal
from proxflow.semidiscrete.problem import SemiDual

__all__ = ["LightAtoms", "light_among"]

_BOUNDING = 1 << 10  # heaviest atoms, any of which bounds the cell of a light one
_FAR_OUT = 10.0  # beyond sqrt(d), distance from the origin that no draw of normal noise exceeds
_ROUNDINGS = 16.0  # of a score, that the bound may be wrong by once heights and scores are rounded
_ROWS = 1 << 12  # light atoms at once
_MOMENT_DRAWS = 1 << 12  # of a source that does not tell its second moment
_MOMENT_MARGIN = 4.0  # factor on a second moment known from those draws


def light_among(weights: Tensor, least: float, share: float) -> Tensor:
    """Which of the atoms of these weights (N,) are below ``least``, the lightest first, up to ``share`` together, (N,)
    bool; the heaviest never is."""
    order = weights.argsort(stable=True)
    together = torch.empty_like(weights)
    together[order] = weights[order].cumsum(0)
    light: Tensor = (weights < least) & (together <= share)
    light[order[-1]] = False
    return light


class LightAtoms:
    """Which atoms are light, and how far from a heavy one their cells must stay.

    Args:
        problem: whose atoms these are.
        least: weight below which an atom may be light.
        share: weight of all light atoms together, which the lightest fill first; the heaviest atom is never light.
        generator: generator of draws that estimate the second moment of a source that does not tell it.
    """

    def __init__(self, problem: SemiDual, least: float, share: float, generator: torch.Generator) -> None:
        self.light = light_among(problem.weights, least, share)
        self.draws = 0
        self._problem = problem
        heavy = torch.nonzero(~self.light)[:, 0]
        heavy = heavy[problem.weights[heavy].argsort(descending=True)]
        shortlist = problem.shortlist
        self._bounding = heavy[:_BOUNDING] if shortlist is None else _first_of_each(heavy, shortlist.group)
        self._reach = self._reaches(generator) if bool(self.light.any()) else problem.weights[:0]

    def bounded(self, heights: Tensor, precision: torch.dtype) -> Tensor:
        """The heights (N,), with light atoms at heights that bound their cells where scores have this precision."""
        if not len(self._reach):
            return heights
        bounded = heights.clone()
        rows = torch.nonzero(self.light)[:, 0]
        for part, reach in zip(rows.split(_ROWS), self._reach.split(_ROWS), strict=True):
            bounds = heights[self._bounding] + reach[:, None] * self._problem.distances(part, self._bounding)
            if self._problem.shortlist is not None:
                group = self._problem.shortlist.group
                bounds = torch.where(group[part, None] == group[self._bounding], bounds, torch.inf)
            bounded[part] = bounds.amin(1)
            farthest = self._problem.source.dim**0.5 + _FAR_OUT
            size = farthest * self._problem.sizes(part) + bounded[part].abs()
            bounded[part] += _ROUNDINGS * torch.finfo(precision).eps * size  # an atom close by bounds by less than that
        return bounded

    def _reaches(self, generator: torch.Generator) -> Tensor:
        """q with P(<X, e> >= q) <= weight of one image for every unit vector e, one for each light atom."""
        weights, source = self._problem.weights[self.light] / self._problem.elements, self._problem.source
        if is_normal(source):
            quantiles: Tensor = -torch.special.ndtri(weights)
            return quantiles
        moment = getattr(source, "second_moment", None)
        if moment is None:
            self.draws = _MOMENT_DRAWS
            moment = _MOMENT_MARGIN * float(self._problem.noise(self.draws, generator).double().square().sum(1).mean())
        return (moment / weights).sqrt()


def _first_of_each(atoms: Tensor, group: Tensor) -> Tensor:
    """The first of these atoms (n,) of each group that has one; ``group`` (N,) of all atoms."""
    own, places = group[atoms], torch.arange(len(atoms), device=atoms.device)
    first = torch.full_like(group[: int(group.max()) + 1], len(atoms)).scatter_reduce_(0, own, places, "amin")
    return atoms[first[first < len(atoms)]]
