"""The minibatch field itself, by exact draws from the law of pairs that pass through a point.

Given X_t = x, independent pairs have the law w_j of ``IndependentField``. A pair (x0, y) has the density
n P(x0 is assigned to y | both are in the batch) against them in the coupling of batch size n (by exchangeability), so
that rejection is exact: draw y from w, put the pair into a batch of n - 1 other pairs, and keep it if the assignment
keeps it together. On average it takes n batches. Without replacement the other n - 1 rows are drawn from those that are
left when the row of y is taken out: that row is in the batch with probability n / N, and the same density follows.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from proxflow.analysis.convergence.control_variates import MeanWithError
from proxflow.analysis.convergence.target import atoms_of_rows, draw_atoms, draw_rows
from proxflow.couplings.pairing import permutation
from proxflow.independent_field import IndependentField
from proxflow.measures import draw
from proxflow.potentials import Discrete

__all__ = ["draw_partner", "squared_mean"]

_MOST_TRIALS = 64  # times the batch size: a query with so small a chance is given up


def draw_partner(
    potential: Discrete,
    field: IndependentField,
    t: float,
    x: Tensor,
    size: int,
    rows: int | None,
    solver: str,
    epsilon: float,
    generator: torch.Generator,
) -> Tensor:
    """For each x (Q, d) the target of another pair of the minibatch coupling that is there at time t; NaN if given up.

    Args:
        potential: its atoms and weights are the law of the data, its source that of the noise.
        field: field of independent pairs, with the same data, source and schedule.
        t: in (0, 1).
        x: (Q, d).
        size: size of the batches.
        rows: rows of equal weight, that a batch is drawn from without replacement; None for independent draws.
        solver: with ``epsilon`` as for ``couplings.pair``.
        epsilon: regularisation.
        generator: generator of all draws.
    """
    times = torch.as_tensor(t, dtype=torch.float64)
    alpha, beta = float(field.schedule.alpha(times)), float(field.schedule.beta(times))
    atom_of_row = None if rows is None else atoms_of_rows(potential, rows)
    posterior = field.posterior(t, x)
    proposals = posterior.double().cumsum(1)
    likeliest = posterior.max(1)
    certain = likeliest.values == 1  # all proposals are the same: which of them is kept does not matter
    partner = torch.where(certain[:, None], field.points[likeliest.indices], torch.nan)
    pending = torch.nonzero(~certain)[:, 0]
    for _ in range(_MOST_TRIALS * size):
        if not len(pending):
            break
        uniform = torch.rand(len(pending), generator=generator, dtype=torch.float64, device=generator.device)
        level = uniform.to(x.device)[:, None] * proposals[pending, -1:]
        atom = torch.searchsorted(proposals[pending], level, right=True)[:, 0].clamp(max=len(field.points) - 1)
        proposed = field.points[atom]
        noise = (x[pending] - beta * proposed) / alpha
        others = draw(potential.source, len(pending) * (size - 1), generator, x.dtype, x.device)
        rivals = field.points[_rivals(potential, atom_of_row, atom, size - 1, generator)]
        place = torch.randint(size, (len(pending),), generator=generator, device=generator.device).tolist()
        kept = torch.ones(len(pending), dtype=torch.bool, device=x.device)
        for query in range(len(pending) if size > 1 else 0):
            sources = torch.cat([noise[query : query + 1], others[query * (size - 1) : (query + 1) * (size - 1)]])
            # anywhere: solvers break ties between equal points by their order
            before, after = rivals[query].tensor_split([place[query]])
            targets = torch.cat([before, proposed[query : query + 1], after])
            kept[query] = permutation(sources, targets, solver, epsilon, generator)[0] == place[query]
        partner[pending[kept]] = proposed[kept]
        pending = pending[~kept]
    return partner


def _rivals(
    potential: Discrete, atom_of_row: Tensor | None, atom: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Atoms of the other targets in the batch of each proposed ``atom`` (Q,), (Q, count) int64.

    ``atom_of_row`` (rows,), ascending, is of rows that are drawn without replacement: which one of an atom's rows is
    taken out does not matter. None draws atoms by their weights.
    """
    if atom_of_row is None:
        levels = potential.weights.double().cumsum(0)
        return draw_atoms(levels, len(atom) * count, generator).view(len(atom), count)
    taken = torch.searchsorted(atom_of_row, atom)[:, None]
    drawn = draw_rows(len(atom_of_row) - 1, len(atom), count, generator).to(atom.device)
    return atom_of_row[drawn + (drawn >= taken)]


def squared_mean(draws: Tensor) -> MeanWithError:
    """E|E[g | x]|^2 from K >= 2 draws of g for each x, independent given x: (K, Q, d).

    Products of different draws have no bias; an x with a draw that was given up (NaN) is left out.
    """
    count = len(draws)
    values = draws.double()
    squares = values.sum(0).square().sum(1) - values.square().sum((0, 2))
    products = squares[torch.isfinite(squares)] / (count * (count - 1))
    if len(products) < 2:
        return MeanWithError(math.nan, math.nan)
    return MeanWithError(float(products.mean()), float(products.std()) / math.sqrt(len(products)))
