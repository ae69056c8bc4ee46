"""Averaged stochastic gradient descent on the semi-dual (Polyak-Ruppert), preconditioned by groups of nearby atoms.

A gradient step moves each height by what its own cell lacks, in units of the gap between neighbouring scores. Errors
that a whole region shares then fade slowly, for the region competes with others across far larger gaps. A hierarchy
adds, for each scale, the step that the same rule would give to groups taken as single atoms (an additive multilevel
method, as of Bramble, Pasciak and Xu 1990). Shells around the mean carry what regions share whatever their direction:
the error of a start that is right in every marginal but not in its radial law.

Invariant: a step depends on the state alone, its noise generator included. The caller stops it.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.measures import is_normal
from proxflow.semidiscrete.atom_groups import group_count, nested_groups
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.shared_directions import Sharing, best_sharing, variance_inflation
from proxflow.semidiscrete.start import Start, isolation
from proxflow.storage import storable

__all__ = ["Averages", "Descent", "Iterate"]

_FIRST_RATE = 1.0  # first step, in gaps per unit of relative mass error and per draw an atom has seen
_DECAY = 0.55  # the rate falls like (1 + draws per atom)^-_DECAY; the theory asks for (1/2, 1)
_LONGEST_STEP = 0.25  # in gaps per unit of relative mass error


@storable
@dataclass(frozen=True)
class Averages:
    """A weighted average of iterates (N,), its total weight, and its sum of squared weights."""

    heights: Tensor
    weight: float
    squares: float

    @property
    def relative_variance(self) -> float:
        """Variance of the average against that of one of its terms, were they independent."""
        return self.squares / self.weight**2

    def since(self, earlier: Averages) -> Averages:
        """The average of what came after ``earlier``."""
        weight = self.weight - earlier.weight
        total = self.weight * self.heights - earlier.weight * earlier.heights
        return Averages(total / weight, weight, self.squares - earlier.squares)

    def including(self, heights: Tensor, weight: float) -> Averages:
        """The average with one more iterate."""
        total = self.weight + weight
        mean = self.heights + (weight / total) * (heights - self.heights)
        return Averages(mean, total, self.squares + weight**2)


@storable
@dataclass(frozen=True)
class Iterate:
    """Where a descent stands after ``steps`` batches: the moving heights (N,), their averages, the draws used.

    Iterates are averaged with weights growing linearly, which forgets the start at a cost of a factor 4/3 in
    variance against the uniform average (docs/theory.md 3). ``units`` are the typical score gaps between atoms and
    between groups of each level, ``noise`` is the state of the generator that the next batch comes from.
    """

    heights: Tensor
    averages: Averages
    steps: int
    samples_used: int
    units: tuple[float, ...]
    noise: Tensor

    @classmethod
    def start(cls, start: Start, generator: torch.Generator) -> Iterate:
        """Before the first batch."""
        averages = Averages(start.heights, 0.0, 0.0)
        return cls(start.heights, averages, 0, start.samples_used, start.units, generator.get_state())


class _Levels:
    """Groups of all levels, numbered through, so that a step is taken for all of them at once.

    Args:
        groups: labels (N,) of each level.
        weights: (N,) of the atoms.

    Attributes:
        counts: groups of each level.
    """

    def __init__(self, groups: list[Tensor], weights: Tensor) -> None:
        self.counts = [group_count(labels) for labels in groups]
        firsts = itertools.accumulate(self.counts, initial=0)
        self._places = [labels + first for labels, first in zip(groups, firsts, strict=False)]
        self._wanted = self._summed(weights)
        parts = self._wanted.split(self.counts)
        self._floored = torch.cat([_floored(part) for part in parts]) if groups else self._wanted

    def move(self, heights: Tensor, mass: Tensor, lengths: list[float]) -> None:
        """Add to the heights (N,) of each atom, in place, the steps of its groups; a length for each level."""
        if not self.counts:
            return
        steps = (self._summed(mass) - self._wanted) / self._floored
        for places, part, length in zip(self._places, steps.split(self.counts), lengths, strict=True):
            part *= length
            heights += steps[places]

    def _summed(self, mass: Tensor) -> Tensor:
        """Of all groups; unlike ``bincount`` it does not wait for a GPU."""
        total = mass.new_zeros(sum(self.counts))
        for places in self._places:
            total.index_add_(0, places, mass)
        return total


def _floored(weights: Tensor) -> Tensor:
    """What an error of mass is relative to: the weight or, below average, the average weight.

    Relative to its own weight a draw in a cell of weight 1e-12 would report an error of 1e12 / batch, and no later
    step undo what it did. The mean of a step is 0 where the mass is right in any case.
    """
    return weights.clamp(min=1 / len(weights))


class Descent:
    """The steps on one problem, and what they know of its atoms.

    Args:
        problem: the semi-dual.

    Attributes:
        groups: labels (N,) of the atoms at each level of the hierarchy.
        sharing: how the noise of a step shares directions; None for independent noise.
        inflation: variance of cell masses, relative to that of independent noise.
    """

    def __init__(self, problem: SemiDual) -> None:
        self.problem = problem
        self.batch = max(256, min(len(problem) // 8, problem.rows_at_once))
        self.groups = nested_groups(problem.points, problem.weights, problem.mean())
        self._levels = _Levels(self.groups, problem.weights)
        self._floored = _floored(problem.weights)
        self.sharing = self._sharing()
        self.inflation = 1.0 if self.sharing is None else variance_inflation(problem.weights, self.sharing)
        self._stretch = isolation(problem)

    def _sharing(self) -> Sharing | None:
        """Only vectors of N(0, I) may be turned; images of atoms would each need a product of their own, and those of
        a shortlist are few."""
        problem = self.problem
        alone = problem.symmetry is None and problem.shortlist is None
        if not is_normal(problem.source) or not alone:
            return None
        return best_sharing(problem.weights, problem.source.dim, self.batch)

    def step(self, iterate: Iterate, generator: torch.Generator) -> Iterate:
        """One step on fresh noise: the relative mass error of cells and of groups of cells, each in its own unit."""
        noise = self.problem.noise(self.batch, generator)
        if self.sharing is None:
            mass = self.problem.count(noise, iterate.heights).mass
        else:
            mass = self.problem.mass_sharing(noise, iterate.heights, self.sharing, generator)
        unit, *units = iterate.units
        error = (mass - self.problem.weights) / self._floored
        heights = iterate.heights + (unit * self._length(iterate, len(error))) * self._stretch * error
        lengths = [unit * self._length(iterate, count) for unit, count in zip(units, self._levels.counts, strict=True)]
        self._levels.move(heights, mass, lengths)
        return dataclasses.replace(
            iterate,
            heights=heights,
            averages=iterate.averages.including(heights, iterate.steps + 1.0),
            steps=iterate.steps + 1,
            samples_used=iterate.samples_used + self.batch,
            noise=generator.get_state(),
        )

    def _length(self, iterate: Iterate, count: int) -> float:
        """Of a step, in units per relative mass error, for ``count`` cells that share the draws."""
        rate: float = _FIRST_RATE * (1 + iterate.steps * self.batch / count) ** -_DECAY
        return min(rate * self.batch / count, _LONGEST_STEP)
