"""Averaged stochastic gradient descent on the semi-dual (Polyak-Ruppert), preconditioned by groups of nearby atoms.

A gradient step moves each height by what its own cell lacks, in units of the gap between neighbouring scores, which is
proportional to how far the atom is from others. Errors that a whole region shares then fade slowly, for the region
competes with others across far larger gaps. A hierarchy adds, for each scale, the step that the same rule would give to
groups taken as single atoms (an additive multilevel method, as of Bramble, Pasciak and Xu 1990). Shells around the mean
carry what regions share whatever their direction: the error of a start that is right in every marginal but not in its
radial law. Groups are cut where there are gaps: a step of a group that ends inside of a cluster sets one half of it
against the other. Near copies, if there are many, move as one atom, and against each other in a unit of their own.

Invariant: a step depends on the state alone, its noise generator included. The caller stops it.
"""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.measures import is_normal
from proxflow.semidiscrete.antithetic import antithetic_inflation, most_parts, parts_for
from proxflow.semidiscrete.atom_groups import group_count, nested_groups
from proxflow.semidiscrete.invariant_frame import bytes_of_frame
from proxflow.semidiscrete.near_copies import NearCopies
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.shared_directions import Sharing, best_sharing, variance_inflation
from proxflow.semidiscrete.spacings import spacings
from proxflow.semidiscrete.start import Start
from proxflow.storage import storable

__all__ = ["MULTIPLE", "Averages", "Descent", "Iterate"]

MULTIPLE = 1 << 5  # of draws: as many as antithetic noise takes of a vector
_FIRST_RATE = 2.0  # first step, in gaps per unit of relative mass error and per draw an atom has seen
_DECAY = 0.55  # the rate falls like (1 + draws per atom)^-_DECAY; the theory asks for (1/2, 1)
_LONGEST_STEP = 0.25  # in gaps per unit of relative mass error
_FORGETTING = 0.25  # averages weigh an iterate by this power of the draws before it
_LEAST_BATCH, _LARGER_BATCH = 1 << 8, 1 << 10  # draws of a step at the start, and of a late one among many atoms
_BATCH_SHARE = 1 << 6  # part of the draws so far that such a step takes
_ATOMS_A_DRAW = 8  # of a step, at the most
_ATOMS_A_LATE_DRAW = 2  # at the least, where a late step takes more draws than the first: few atoms need many steps


@storable
@dataclass(frozen=True)
class Averages:
    """A weighted average of iterates (N,), its total weight, and its sum of squared weights over their draws."""

    heights: Tensor
    weight: float
    squares: float

    @property
    def relative_variance(self) -> float:
        """Variance of the average against that of a term by one draw, were terms independent."""
        return self.squares / self.weight**2

    def since(self, earlier: Averages) -> Averages:
        """The average of what came after ``earlier``."""
        weight = self.weight - earlier.weight
        total = self.weight * self.heights - earlier.weight * earlier.heights
        return Averages(total / weight, weight, self.squares - earlier.squares)

    def including(self, heights: Tensor, weight: float, draws: int) -> Averages:
        """The average with one more iterate, by so many draws."""
        total = self.weight + weight
        mean = self.heights + (weight / total) * (heights - self.heights)
        return Averages(mean, total, self.squares + weight**2 / draws)


@storable
@dataclass(frozen=True)
class Iterate:
    """Where a descent stands after ``moved`` draws: the moving heights (N,) and their averages.

    Iterates are averaged with weights that grow like the fourth root of the draws, which forgets the start at a cost of
    a factor 25/24 in variance against the uniform average (docs/theory.md 3). ``units`` are the typical score gaps
    between atoms and between groups of each level, ``spent`` the draws that these and the start took, ``noise`` is the
    state of the generator that the next batch comes from.
    """

    heights: Tensor
    averages: Averages
    moved: int
    spent: int
    units: tuple[float, ...]
    noise: Tensor

    @classmethod
    def start(cls, start: Start, generator: torch.Generator) -> Iterate:
        """Before the first batch."""
        averages = Averages(start.heights, 0.0, 0.0)
        return cls(start.heights, averages, 0, start.samples_used, start.units, generator.get_state())

    @property
    def samples_used(self) -> int:
        """Draws in all."""
        return self.spent + self.moved


class _Levels:
    """Groups of all levels, numbered through, so that a step is taken for all of them at once.

    Args:
        groups: labels (N,) of each level.
        weights: (N,) of the atoms.
        spacings: (N,) of the atoms; that of a group is their harmonic mean, as its mass leaks through all of its cells.

    Attributes:
        counts: groups of each level.
    """

    def __init__(self, groups: list[Tensor], weights: Tensor, spacings: Tensor) -> None:
        self.counts = [group_count(labels) for labels in groups]
        firsts = itertools.accumulate(self.counts, initial=0)
        places = [labels + first for labels, first in zip(groups, firsts, strict=False)]
        self._places = torch.cat(places) if groups else weights.new_empty(0, dtype=torch.int64)
        self._wanted = self._summed(weights)
        parts = self._wanted.split(self.counts)
        self._floored = torch.cat([_floored(part) for part in parts]) if groups else self._wanted
        self._spacings = self._summed(torch.ones_like(spacings)) / self._summed(1 / spacings)

    def move(self, heights: Tensor, mass: Tensor, lengths: list[float]) -> None:
        """Add to the heights (N,) of each atom, in place, the steps of its groups; a length for each level."""
        if not self.counts:
            return
        steps = self._spacings * (self._summed(mass) - self._wanted) / self._floored
        for part, length in zip(steps.split(self.counts), lengths, strict=True):
            part *= length
        heights += steps.index_select(0, self._places).view(-1, len(heights)).sum(0)

    def _summed(self, mass: Tensor) -> Tensor:
        """Of all groups; unlike ``bincount`` it does not wait for a GPU."""
        every = mass.expand(len(self.counts), -1).flatten()
        return mass.new_zeros(sum(self.counts)).index_add_(0, self._places, every)


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
        groups: labels (N,) of the atoms at each level of the hierarchy; near copies are the first.
        copies: atoms that are nearly copies of one another, if there are many.
        batch: draws of a late step.
        parts: of antithetic noise, at the most; None for other noise.
        sharing: how the noise of a step shares directions; None for other noise.
        inflation: variance of cell masses, relative to that of independent noise.
    """

    def __init__(self, problem: SemiDual) -> None:
        self.problem = problem
        self._least, self.batch = _batches(problem)
        hierarchy = nested_groups(problem.points, problem.weights, problem.mean(), find_copies=problem.symmetry is None)
        self.copies = None if hierarchy.copies is None else NearCopies(problem, hierarchy.copies)
        if self.copies is None:
            self.groups, apart = hierarchy.levels, spacings(problem, problem.rows)
            self._spacings = apart
        else:
            self.groups = [self.copies.labels, *hierarchy.levels]
            apart = spacings(problem, self.copies.first)[self.copies.labels]
            self._spacings = self.copies.spacings
        self._levels = _Levels(self.groups, problem.weights, apart)
        self._floored = _floored(problem.weights)
        self.parts, self.sharing = _noise(problem, self.batch)
        self.inflation = _inflation(problem, self.parts, self.sharing)

    def step(self, iterate: Iterate, generator: torch.Generator) -> Iterate:
        """One step on fresh noise: the relative mass error of cells and of groups of cells, each in its own unit."""
        draws = self.draws(iterate.moved)
        mass = self.mass(draws, iterate.heights, generator)
        unit, *units = iterate.units
        error = (mass - self.problem.weights) / self._floored
        heights = iterate.heights + (unit * _length(iterate, draws, len(error))) * self._spacings * error
        lengths = [
            unit * _length(iterate, draws, count) for unit, count in zip(units, self._levels.counts, strict=True)
        ]
        self._levels.move(heights, mass, lengths)
        moved = iterate.moved + draws
        return dataclasses.replace(
            iterate,
            heights=heights,
            averages=iterate.averages.including(heights, draws * moved**_FORGETTING, draws),
            moved=moved,
            noise=generator.get_state(),
        )

    def draws(self, moved: int) -> int:
        """Of the step after so many draws."""
        return min(max(moved // _BATCH_SHARE // MULTIPLE * MULTIPLE, self._least), self.batch)

    def mass(self, draws: int, heights: Tensor, generator: torch.Generator) -> Tensor:
        """Cell masses (N,) by so many fresh draws, a multiple of ``MULTIPLE``."""
        problem = self.problem
        if self.parts is not None:
            return problem.antithetic_mass(draws, heights, parts_for(draws, self.parts), generator)
        noise = problem.noise(draws, generator)
        if self.sharing is not None:
            return problem.mass_sharing(noise, heights, self.sharing, generator)
        return problem.count(noise, heights).mass


def _batches(problem: SemiDual) -> tuple[int, int]:
    """Draws of the first and of a late step."""
    count, most = len(problem), problem.rows_at_once // MULTIPLE * MULTIPLE
    first = max(_LEAST_BATCH, count // _ATOMS_A_DRAW // MULTIPLE * MULTIPLE)
    late = max(first, min(_LARGER_BATCH, count // _ATOMS_A_LATE_DRAW // MULTIPLE * MULTIPLE))
    return min(first, most), min(late, most)


def _noise(problem: SemiDual, batch: int) -> tuple[int | None, Sharing | None]:
    """The parts of antithetic noise, or how directions are shared, if the noise of a step is one of these.

    Only vectors of N(0, I) may be turned. Atoms of a shortlist are few, and images of atoms need a frame that the group
    leaves in place.
    """
    if not is_normal(problem.source) or problem.shortlist is not None:
        return None, None
    weights, dim = problem.weights, problem.source.dim
    if _can_be_antithetic(problem):
        return most_parts(weights, dim, problem.random_dim, problem.elements), None
    return None, None if problem.symmetry is not None else best_sharing(weights, dim, batch)


def _can_be_antithetic(problem: SemiDual) -> bool:
    """Whether there is room for a turned copy of the atoms; on a GPU, where products are quick, the sums would cost
    more, and a softmax costs more than its product anyway."""
    dim = problem.source.dim
    room = len(problem) * dim * problem.dtype.itemsize + (0 if problem.symmetry is None else bytes_of_frame(dim))
    fits = problem.epsilon == 0 and problem.points.device.type == "cpu" and room <= problem.max_memory
    return fits and (problem.symmetry is None or problem.noise_frame is not None)


def _inflation(problem: SemiDual, parts: int | None, sharing: Sharing | None) -> float:
    if parts is not None:
        return antithetic_inflation(problem.weights, problem.random_dim, parts, problem.elements)
    return 1.0 if sharing is None else variance_inflation(problem.weights, sharing)


def _length(iterate: Iterate, draws: int, count: int) -> float:
    """Of a step, in units per relative mass error, for ``count`` cells that share the draws."""
    rate: float = _FIRST_RATE * (1 + iterate.moved / count) ** -_DECAY
    return min(rate * draws / count, _LONGEST_STEP)
