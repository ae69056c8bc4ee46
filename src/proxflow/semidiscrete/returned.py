"""The potential that a fit returns, at any moment of the run: it is certified itself, by its public queries."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.checks import working_dtype
from proxflow.measures import Source
from proxflow.potentials.discrete import Discrete
from proxflow.potentials.entropic import Entropic
from proxflow.potentials.symmetric import SymmetricDiscrete
from proxflow.semidiscrete.fit_result import FittedPotential
from proxflow.semidiscrete.prepare import Atoms
from proxflow.semidiscrete.problem import Tally, chunk_sizes
from proxflow.semidiscrete.ranks import ALONE, Ranks

__all__ = ["Returned"]

_PROBABILITIES = 1 << 18  # of one block: about a core's cache


class Returned:
    """Atoms as the user gave them, with the heights of a run.

    Args:
        atoms: distinct rows in the user's dtype and space.
        source: law of the noise in that space.
        epsilon: smoothing in the user's units.
        rows_at_once: noise samples searched at once.
        ranks: processes that share the searches of a tally.

    Attributes:
        draws: made so far to judge the potential.
    """

    def __init__(self, atoms: Atoms, source: Source, epsilon: float, rows_at_once: int, ranks: Ranks = ALONE) -> None:
        self._atoms, self._source, self._epsilon = atoms, source, epsilon
        self._rows_at_once, self._ranks = rows_at_once, ranks
        self._made: FittedPotential | None = None
        self.draws = 0

    def potential(self, heights: Tensor, double: bool) -> FittedPotential:
        """The potential with these heights (N,), in the user's units; heights and weights in float64 if ``double``."""
        dtype = torch.float64 if double else working_dtype(self._atoms.points)
        if self._made is None or self._made.heights.dtype != dtype:
            self._made = self._new(heights.to(dtype), self._atoms.weights.to(dtype))
        self._made.heights.copy_(heights)
        return self._made

    def tally(self, potential: FittedPotential, n: int, generator: torch.Generator) -> Tally:
        """How ``potential`` assigns ``n`` fresh draws of noise, in the dtype of its queries."""
        total, squares = torch.zeros_like(self._atoms.weights), torch.zeros_like(self._atoms.weights)
        points = self._atoms.points
        dtype = working_dtype(points)
        self.draws += n
        for rows in chunk_sizes(n, self._rows_at_once):
            noise = self._source.sample(rows, generator=generator, dtype=dtype, device=points.device)
            noise = self._ranks.share(noise)
            if isinstance(potential, Entropic):
                for part in noise.split(max(16, _PROBABILITIES // len(points))):
                    law = potential.atom_probabilities(part).double()
                    total += law.sum(0)
                    squares += law.square().sum(0)
            else:
                counts = torch.bincount(potential.nearest_atom(noise), minlength=len(points)).double()
                total, squares = total + counts, squares + counts
        total, squares = self._ranks.summed(total, squares)
        return Tally(total, squares, n)

    def _new(self, heights: Tensor, weights: Tensor) -> FittedPotential:
        if self._atoms.symmetry is not None:
            return SymmetricDiscrete(self._atoms.points, heights, self._atoms.symmetry, weights, source=self._source)
        if self._epsilon > 0:
            return Entropic(self._atoms.points, heights, self._epsilon, weights, source=self._source)
        return Discrete(self._atoms.points, heights, weights, source=self._source)
