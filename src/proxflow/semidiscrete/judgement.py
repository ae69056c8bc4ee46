"""What fresh draws of noise tell of a potential: how it assigns them, and what they cost to move.

Judgements of one potential add up, so that it can be judged by more draws at any time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.semidiscrete.problem import Tally
from proxflow.storage import storable

__all__ = ["Judgement", "Moments"]


@storable
@dataclass(frozen=True)
class Moments:
    """Of ``count`` rows of k numbers: their mean (k,), and the sum of products of deviations from it (k, k)."""

    count: int
    mean: Tensor
    products: Tensor

    @classmethod
    def of(cls, rows: Tensor) -> Moments:
        """Of rows (n, k), n >= 1."""
        mean = rows.mean(0)
        apart = rows - mean
        return cls(len(rows), mean, apart.mT @ apart)

    def __add__(self, other: Moments) -> Moments:
        """Of the rows of both (Chan, Golub and LeVeque 1983), which loses no digits where means are large."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + other.count / count * apart
        between = self.count * other.count / count * torch.outer(apart, apart)
        return Moments(count, mean, self.products + other.products + between)


@storable
@dataclass(frozen=True)
class Judgement:
    """Independent draws of noise on one potential.

    Attributes:
        tally: how they were assigned.
        costs: moments of two numbers of each draw x: what it adds to the cost, and |x|^2. With the hard maximum phi the
            first is |x|^2 - 2 phi(x), the dual value but for what the atoms add; smoothed, |x - grad phi(x)|^2.
    """

    tally: Tally
    costs: Moments

    def __add__(self, other: Judgement) -> Judgement:
        """By the draws of both."""
        return Judgement(self.tally + other.tally, self.costs + other.costs)
