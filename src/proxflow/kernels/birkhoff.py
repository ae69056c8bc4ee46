"""A random permutation whose mean is a given doubly stochastic matrix.

Problem: draw a permutation matrix X with E[X] = P. That there is such a law is Birkhoff's theorem; to write P as a
mixture of permutations would take up to n^2 of them, and a draw needs only one.

Method: P is written in units of 2^-b, a matrix of whole numbers whose rows and columns add up to 2^b, and halved b
times. Even entries are halved as they are. The odd ones, of which every row and every column has an even number, are
the edges of a graph that is cut into cycles, leaving a row always through a column and a column through a row; around
each cycle the odd units go to the two halves in turn. Both halves then have rows and columns of 2^(b - 1), and one of
the two, cycle by cycle, is kept at random. (Euler splitting, as in Gabow 1976 and Alon 2003, with a coin for each
cycle.)

Invariant: the mean of what is kept, in its unit, is P. After b halvings the rows and columns add up to 1.

Cost: b passes over the entries that are not yet zero.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["doubly_stochastic", "permutation_of_mean"]

_BITS = 16  # of the unit of P at the least: 2^-16 is far below what sampling thousands of permutations could show
_BITS_BEYOND_EQUAL = 6  # and an entry of an equal plan, 1 / n, has 64 units
_FEW = 1 << 14  # elements whose orbits are found by doubling at once: faster than walks below
_STRIDE = 8  # elements to one walk: the longest, about 8 ln(count), costs a call for each of its steps


def doubly_stochastic(plan: Tensor) -> Tensor:
    """The plan (n, n), not negative and nearly of row and column sums 1, with these sums, in float64.

    Rows and columns that have too much are scaled down, and what is then missing is added as a product of both
    (Altschuler, Weed and Rigollet 2017, algorithm 2): it moves twice the mass of the error at most.
    """
    plan = plan.double()
    plan = plan / plan.sum(1, keepdim=True).clamp(min=1)
    plan = plan / plan.sum(0).clamp(min=1)
    row, column = (1 - plan.sum(1)).clamp(min=0), (1 - plan.sum(0)).clamp(min=0)
    return plan + row[:, None] * (column / column.sum().clamp(min=torch.finfo(torch.float64).tiny))


def permutation_of_mean(plan: Tensor, generator: torch.Generator | None) -> Tensor:
    """A random permutation p, (n,) int64, with P(p(i) = j) = plan_ij, to about sqrt(n) 2^-17 of a row.

    Args:
        plan: (n, n) float64, not negative, of row and column sums 1.
        generator: generator of the draw.
    """
    count = len(plan)
    bits = max(_BITS, math.ceil(math.log2(max(count, 2))) + _BITS_BEYOND_EQUAL)
    units = _whole_units(plan, 1 << bits, generator)
    cell = torch.nonzero(units.flatten())[:, 0]  # by rows
    amount = units.flatten()[cell]
    for _ in range(bits):
        odd = (amount & 1) == 1
        amount = amount >> 1
        amount[odd] += _half_of(cell[odd], count, generator)
        cell, amount = cell[amount > 0], amount[amount > 0]
    return cell % count


def _whole_units(plan: Tensor, total: int, generator: torch.Generator | None) -> Tensor:
    """Whole numbers (n, n) of row and column sums ``total``, whose mean is ``total`` times the plan.

    Rows are rounded by systematic sampling, which keeps their sums and the mean of each entry. Columns then miss some
    sqrt(n) / 2 units: those with too many give them up where they have most, which moves a mean by no more than that.
    """
    levels = plan.cumsum(1)
    levels = levels / levels[:, -1:] * total + _uniform(len(plan), plan.device, generator)[:, None]
    units = levels.floor().long().diff(dim=1, prepend=torch.zeros_like(levels[:, :1], dtype=torch.int64))
    excess = units.sum(0) - total
    surplus, missing = excess.clamp(min=0), (-excess).clamp(min=0)
    column = torch.arange(len(plan), device=plan.device)
    while bool((surplus > 0).any()):
        most, row = units.max(0)
        moved = torch.minimum(surplus, most)
        units[row, column] -= moved
        surplus = surplus - moved
    return units.add_(_with_sums(total - units.sum(1), missing))


def _with_sums(row: Tensor, column: Tensor) -> Tensor:
    """Whole numbers (n, n), not negative, of given row and column sums of one total: the north-west corner rule."""
    until_row, until_column = row.cumsum(0), column.cumsum(0)
    end = torch.cat([until_row, until_column]).unique()
    length = end.diff(prepend=torch.zeros_like(end[:1]))
    end, length = end[length > 0], length[length > 0]
    sums = torch.zeros(len(row), len(column), dtype=torch.int64, device=row.device)
    sums[torch.searchsorted(until_row, end), torch.searchsorted(until_column, end)] = length
    return sums


def _half_of(cell: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Which edges to keep, (E,) 0 or 1: half of each row's and of each column's, each with probability 1/2.

    Args:
        cell: (E,), ascending, row * count + column of each edge; rows and columns have even numbers of them.
        count: columns.
    """
    number = torch.arange(len(cell), device=cell.device)
    by_column = (cell % count).argsort(stable=True)
    partner = torch.empty_like(by_column)  # edges 0 and 1, 2 and 3 ... are pairs of a row; these, of a column
    partner[by_column[::2]], partner[by_column[1::2]] = by_column[1::2], by_column[::2]
    orbit = _orbits(partner[number ^ 1], generator)  # two steps on, along a cycle: the same half
    first, second = orbit[::2], orbit[1::2]
    coin = _uniform(len(cell), cell.device, generator)[torch.minimum(first, second)] < 0.5
    kept = torch.empty(len(cell), dtype=torch.int64, device=cell.device)
    kept[::2] = (first < second) ^ coin
    kept[1::2] = 1 - kept[::2]
    return kept


def _orbits(following: Tensor, generator: torch.Generator | None) -> Tensor:
    """An element of its orbit for each element of a permutation (E,), the same for all of one orbit.

    Some elements, chosen at random, walk until they meet the next of them, and own what they pass; so only the orbits
    of owners are left to be found, in the same way. Orbits in which none was chosen are short.
    """
    count = len(following)
    if count <= _FEW:
        return _orbits_by_doubling(following)
    number = torch.arange(count, device=following.device)
    walks = _uniform(count, following.device, generator) < 1 / _STRIDE
    owner = torch.where(walks, number, -1)
    start = number[walks]
    at = end = following[start]
    walking = number[: len(start)]
    while len(walking):
        going = ~walks[at]
        walking, at = walking[going], at[going]
        owner[at] = start[walking]
        at = following[at]
        end = end.index_copy(0, walking, at)
    alone = number[owner < 0]
    place, orbit = torch.empty_like(number), torch.empty_like(number)
    place[start], place[alone] = number[: len(start)], number[: len(alone)]
    orbit[start] = start[_orbits(place[end], generator)]
    orbit[alone] = alone[_orbits_by_doubling(place[following[alone]])]
    owner[alone] = alone
    return orbit[owner]


def _orbits_by_doubling(following: Tensor) -> Tensor:
    """The least element of its orbit for each element of a permutation (E,), looking twice as far in each round."""
    least = torch.arange(len(following), device=following.device)
    while True:
        further = torch.minimum(least, least[following])
        if torch.equal(further, least):
            return least
        least, following = further, following[following]


def _uniform(count: int, device: torch.device, generator: torch.Generator | None) -> Tensor:
    drawn_on = device if generator is None else generator.device
    return torch.rand(count, generator=generator, dtype=torch.float64, device=drawn_on).to(device)
