"""The potential that a fit returns, at any moment of the run: it is certified itself, by its public queries."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable

import torch
from torch import Tensor

from proxflow.checks import working_dtype
from proxflow.kernels.geometry import square_norms, weighted_sum
from proxflow.kernels.shortlist import Shortlist
from proxflow.measures import Source, draw, is_normal
from proxflow.potentials.discrete import Discrete
from proxflow.potentials.entropic import Entropic
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.potentials.symmetric import SymmetricDiscrete
from proxflow.semidiscrete.fit_result import ReturnedPotential
from proxflow.semidiscrete.judgement import Judgement, Moments
from proxflow.semidiscrete.prepare import Atoms
from proxflow.semidiscrete.problem import Tally, chunk_sizes, inner
from proxflow.semidiscrete.ranks import ALONE, Ranks

__all__ = ["Returned"]

_PROBABILITIES = 1 << 18  # of one block: about a core's cache
_LAWS, _MOST_PROBABILITIES = 512, 1 << 23  # more for a block, that makes the atoms anew, which is to cost less
_AT_ONCE = 1 << 13  # of noise, at the most: more are hardly quicker, and take memory
_ROWS = 1 << 11  # of noise, of which float64 copies are made at once


class Returned:
    """Atoms as the user gave them, with the heights of a run.

    Args:
        atoms: distinct rows in the user's dtype and space.
        source: law of the noise in that space.
        epsilon: smoothing in the user's units.
        rows_at_once: noise samples searched at once.
        ranks: processes that share the searches of a tally.
        shortlist: which atoms noise is searched among; all if None.

    Attributes:
        source: as given.
        draws: made so far to judge the potential.
    """

    def __init__(
        self,
        atoms: Atoms,
        source: Source,
        epsilon: float,
        rows_at_once: int,
        ranks: Ranks = ALONE,
        shortlist: Shortlist | None = None,
    ) -> None:
        self._atoms, self.source, self._epsilon = atoms, source, epsilon
        self._rows_at_once, self._ranks, self._shortlist = rows_at_once, ranks, shortlist
        self._made: ReturnedPotential | None = None
        self.draws = 0

    def potential(self, heights: Tensor, double: bool) -> ReturnedPotential:
        """The potential with these heights (N,), in the user's units; heights and weights in float64 if ``double``."""
        dtype = torch.float64 if double else working_dtype(self._atoms.points)
        if self._made is None or self._made.heights.dtype != dtype:
            self._made = self._new(heights.to(dtype), self._atoms.weights.to(dtype))
        self._made.heights.copy_(heights)
        return self._made

    def judge(self, potential: ReturnedPotential, n: int, generator: torch.Generator) -> Judgement:
        """How ``potential`` moves ``n`` fresh draws of noise, in the dtype of its queries."""
        points, dtype = self._atoms.points, working_dtype(self._atoms.points)
        mean = self._mean()
        moved: Callable[[Tensor], tuple[Tally, Tensor]]
        if isinstance(potential, Entropic):
            moved = _Softly(potential, mean).moved
        else:
            moved = functools.partial(self._moved, potential, mean)

        def judged(rows: int) -> Judgement:
            noise = draw(self.source, rows, generator, dtype, points.device)
            tally, costs = moved(self._ranks.share(noise))
            return Judgement(tally, Moments.of(self._ranks.all_rows(costs, rows)))

        self.draws += n
        judgement = functools.reduce(operator.add, map(judged, chunk_sizes(n, min(self._rows_at_once, _AT_ONCE))))
        total, squares = self._ranks.summed(judgement.tally.total, judgement.tally.squares)
        return Judgement(Tally(total, squares, n), judgement.costs)

    def atom_costs(self, potential: ReturnedPotential) -> Tensor:
        """|y_j|^2 - 2 h_j, (N,) float64: what atom j adds to the dual value, beside the noise's |x|^2 - 2 phi(x)."""
        return square_norms(self._atoms.points) - 2 * potential.heights.double()

    def _mean(self) -> Tensor:
        """Of the atoms and their images, (d,) float64."""
        mean = weighted_sum(self._atoms.weights, self._atoms.points)
        return mean if self._atoms.symmetry is None else self._atoms.symmetry.invariant_part(mean[None])[0]

    def _moved(
        self, potential: Discrete | SymmetricDiscrete | Shortlisted, mean: Tensor, noise: Tensor
    ) -> tuple[Tally, Tensor]:
        """Which atoms noise rows (n, d) go to, and |x|^2 - 2 phi(x) and |x|^2 of each, (n, 2).

        Scores are taken about the mean of the atoms, which is E[phi(X) X] at the optimum for normal noise (Stein's
        identity): costs are then uncorrelated with the noise, whose <x, mean> is 0 in the mean and left out.
        """
        if isinstance(potential, SymmetricDiscrete):
            atom, element = potential.nearest_image(noise)
        else:
            atom, element = potential.nearest_atom(noise), None
        costs = []
        for rows in torch.arange(len(noise), device=noise.device).split(_ROWS):
            exact, points = noise[rows].double(), potential.points[atom[rows]].double()
            if element is not None and self._atoms.symmetry is not None:
                points = self._atoms.symmetry.apply(points, element[rows])
            norms, scores = inner(exact, exact), inner(exact, points - mean) - potential.heights[atom[rows]].double()
            if not is_normal(self.source):
                scores = scores + inner(exact, mean)
            costs.append(torch.stack([norms - 2 * scores, norms], dim=1))
        counts = torch.bincount(atom, minlength=len(potential.points)).double()
        return Tally(counts, counts, len(noise)), torch.cat(costs)

    def _new(self, heights: Tensor, weights: Tensor) -> ReturnedPotential:
        if self._atoms.symmetry is not None:
            return SymmetricDiscrete(self._atoms.points, heights, self._atoms.symmetry, weights, source=self.source)
        if self._shortlist is not None:
            return Shortlisted(self._atoms.points, heights, self._shortlist, weights, source=self.source)
        if self._epsilon > 0:
            return Entropic(self._atoms.points, heights, self._epsilon, weights, source=self.source)
        return Discrete(self._atoms.points, heights, weights, source=self.source)


class _Softly:
    """How a smoothed potential moves noise; its atoms about their mean (d,), so that rounded laws lose few digits."""

    def __init__(self, potential: Entropic, mean: Tensor) -> None:
        self._potential, self._mean, self._points = potential, mean, potential.points.double() - mean

    def moved(self, noise: Tensor) -> tuple[Tally, Tensor]:
        """Sums of the laws of noise rows (n, d), and |x - grad phi(x)|^2 and |x|^2 of each, (n, 2)."""
        total, squares = torch.zeros_like(self._points[:, 0]), torch.zeros_like(self._points[:, 0])
        costs = []
        atoms = len(self._points)
        rows = max(16, _PROBABILITIES // atoms, min(_LAWS, _MOST_PROBABILITIES // atoms))
        for part in noise.split(rows):
            law, exact = self._potential.atom_probabilities(part).double(), part.double()
            total += law.sum(0)
            squares += law.square().sum(0)
            apart = exact - self._mean - law @ self._points
            costs.append(torch.stack([inner(apart, apart), inner(exact, exact)], dim=1))
        return Tally(total, squares, len(noise)), torch.cat(costs)
