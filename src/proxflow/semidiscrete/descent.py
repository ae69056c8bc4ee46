"""Averaged stochastic gradient descent on the semi-dual (Polyak-Ruppert)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.semidiscrete.problem import SemiDual

__all__ = ["Averages", "Descent"]

_FIRST_RATE = 1.0  # first step, in gaps per unit of relative mass error and per draw an atom has seen
_DECAY = 0.55  # the rate falls like (1 + draws per atom)^-_DECAY; the theory asks for (1/2, 1)
_LONGEST_STEP = 0.5  # in gaps per unit of relative mass error


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


class Descent:
    """The moving heights. Each step is the relative mass error of the cells, in units of the typical score gap.

    Iterates are averaged with weights growing linearly, which forgets the start at a cost of a factor 4/3 in
    variance against the uniform average (THEORY section 3).
    """

    def __init__(self, problem: SemiDual, heights: Tensor, unit: float, generator: torch.Generator) -> None:
        self._problem = problem
        self._generator = generator
        self._unit = unit
        self._heights = heights.clone()
        self._count = 0
        self.batch = max(256, min(len(problem) // 8, problem.rows_at_once))
        self.samples_used = 0
        self.averages = Averages(heights.clone(), 0.0, 0.0)

    def step(self) -> None:
        """One batch of fresh noise."""
        problem = self._problem
        atom = problem.search(problem.noise(self.batch, self._generator), self._heights).index
        mass = torch.bincount(atom, minlength=len(problem)).double() / self.batch
        rate = _FIRST_RATE * (1 + self.samples_used / len(problem)) ** -_DECAY
        length = min(rate * self.batch / len(problem), _LONGEST_STEP)
        self._heights -= length * self._unit * (1 - mass / problem.weights)
        self.samples_used += self.batch
        self._count += 1
        self._average()

    def _average(self) -> None:
        old, weight = self.averages, float(self._count)
        total = old.weight + weight
        mean = old.heights + (weight / total) * (self._heights - old.heights)
        self.averages = Averages(mean, total, old.squares + weight**2)
