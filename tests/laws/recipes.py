"""The training recipes under the law suite: what draws the pairs, and the joint law that they should have.

A new coupling joins by one entry of ``IN_SPACE``, which asks for no closed form; and by one of ``ON_THE_LINE`` where
its joint law with atoms on the line is known, which is then compared with its pairs.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy import stats
from scipy.interpolate import CubicSpline
from scipy.optimize import root
from scipy.special import expit
from torch import Tensor
from torch.special import ndtr, ndtri

from proxflow import couplings
from proxflow.couplings import (
    Conditional,
    Coupling,
    Independent,
    JointConditional,
    Minibatch,
    Pairs,
    Semidiscrete,
    Subspace,
)
from proxflow.couplings.pairs import joined, rows_of
from proxflow.potentials import Discrete, Entropic
from proxflow.semidiscrete import fit
from tests.laws.exact_minimiser import F64, AtomLaw, AtomPairs, OptimalAtoms, softmax_probability

EPSILON = 0.5  # of entropic recipes: between optimal pairs and independent ones


class PairedBatches:
    """``couplings.pair`` in a loop: batches of noise and of data, drawn apart and paired.

    Args:
        rows: (N, d); each batch is drawn with replacement.
        size: of a batch.
    """

    def __init__(self, rows: Tensor, size: int) -> None:
        self.points, self.size = rows, size

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs of as many batches as it takes."""
        parts = []
        for _ in range(-(-n // self.size)):
            row = torch.randint(len(self.points), (self.size,), generator=generator)
            noise = torch.randn(self.size, self.points.shape[1], generator=generator, dtype=self.points.dtype)
            parts.append(couplings.pair(noise, self.points[row], label=row))
        return rows_of(joined(parts), slice(n))


# ---------------------------------------------------------------- on the line


@dataclass(frozen=True)
class GivenLabel:
    """The pairs of one label: what a network that is given it learns.

    Attributes:
        label: None if the network is given none.
        share: probability of the label.
        law: of the pairs with this label.
        weights: of the atoms of that law, (J,).
    """

    label: float | None
    share: float
    law: AtomLaw
    weights: Tensor


@dataclass(frozen=True)
class Recipe:
    """A coupling of rows on the line.

    Attributes:
        coupling: draws the pairs.
        labels: the joint law of each.
        points: distinct rows, (J, 1), ascending.
        weights: (J,).
        batch: pairs that are drawn together; 1 where all are independent.
        draws: number of pairs; fewer where they take long.
    """

    coupling: Coupling
    labels: list[GivenLabel]
    points: Tensor
    weights: Tensor
    batch: int = 1
    draws: int = 9600


ROWS = torch.tensor([0.4, -1.5, 3.0, -1.5, -2.2, 1.1, -1.5, 0.4], dtype=F64)[:, None]  # of unequal gaps and weights
CLASSES = torch.tensor([0, 1, 0, 0, 0, 1, 1, 1])


def atoms_of(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows (J, 1), ascending, and their weights (J,)."""
    points, counts = rows.unique(dim=0, return_counts=True)
    return points, counts.to(F64) / len(rows)


ATOMS, WEIGHTS = atoms_of(ROWS)


def independent_atoms() -> AtomPairs:
    """``ATOMS``, independent of the noise."""
    return AtomPairs(ATOMS, lambda source: WEIGHTS.expand(len(source), -1))


def unlabelled(coupling: Coupling, law: AtomLaw, batch: int = 1, draws: int = 9600) -> Recipe:
    """A recipe for ``ROWS`` without labels."""
    return Recipe(coupling, [GivenLabel(None, 1.0, law, WEIGHTS)], ATOMS, WEIGHTS, batch, draws)


def optimal_heights(points: Tensor, weights: Tensor) -> Tensor:
    """Of ascending atoms (J, 1): cells end at the quantiles of the source."""
    border = ndtri(weights.cumsum(0)[:-1])
    return torch.cat([torch.zeros(1, dtype=F64), (border * points[:, 0].diff()).cumsum(0)])


def heights_of(mass: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """Heights (J,) at which the masses are the weights, to rounding, by Powell's method."""

    def missing(free: np.ndarray) -> np.ndarray:
        heights = torch.cat([torch.zeros(1, dtype=F64), torch.from_numpy(free)])
        return (mass(heights) - weights)[1:].numpy()

    found = root(missing, np.zeros(len(weights) - 1), tol=1e-14)
    assert np.abs(found.fun).max() < 1e-12, found.message
    return torch.cat([torch.zeros(1, dtype=F64), torch.from_numpy(found.x)])


@functools.cache
def normal_nodes() -> tuple[Tensor, Tensor]:
    """Nodes (M, 1) and weights (M,) of the trapezoidal rule for N(0, 1); exact to rounding for softmax functions."""
    node = torch.arange(-180, 181, dtype=F64)[:, None] / 20
    return node, torch.exp(-0.5 * node[:, 0].square()) / (20 * math.sqrt(2 * math.pi))


def entropic_potential(points: Tensor, weights: Tensor) -> Entropic:
    """With heights whose masses are the weights: a fit only comes near."""
    node, density = normal_nodes()
    heights = heights_of(lambda h: density @ softmax_probability(points, h, weights, EPSILON)(node), weights)
    return Entropic(points, heights, EPSILON, weights)


def entropic_law(potential: Entropic) -> AtomPairs:
    """The law behind an entropic potential."""
    return AtomPairs(
        potential.points, softmax_probability(potential.points, potential.heights, potential.weights, potential.epsilon)
    )


def by_rank(table: np.ndarray) -> Callable[[Tensor], Tensor]:
    """Optimal assignment on the line: the k-th smallest noise of n goes to the k-th smallest row.

    Args:
        table: (n, J), P(the k-th smallest row of the batch is atom j).
    """
    n = len(table)
    atom_of_rank, rank = torch.from_numpy(table), torch.arange(n, dtype=F64)
    ways = torch.tensor([math.comb(n - 1, k) for k in range(n)], dtype=F64)

    def probability(source: Tensor) -> Tensor:
        below, above = ndtr(source), ndtr(-source)  # how many of the other n - 1 lie below is binomial
        return (ways * below**rank * above ** (n - 1 - rank)) @ atom_of_rank

    return probability


def ranks_without_replacement(rows: Tensor, n: int) -> np.ndarray:
    """(n, J) for batches of n of the rows: row i is the k-th smallest if k of the rows before it are in the batch."""
    count = len(rows)
    ways = [[math.comb(row, k) * math.comb(count - 1 - row, n - 1 - k) for row in range(count)] for k in range(n)]
    return _by_atom(np.array(ways) / math.comb(count, n), rows)


def ranks_with_replacement(rows: Tensor, n: int) -> np.ndarray:
    """(n, J) for n independent rows: the k-th smallest is at most row i if k + 1 of them are."""
    level = np.arange(len(rows) + 1) / len(rows)
    return _by_atom(np.diff([stats.binom.sf(k, n, level) for k in range(n)], axis=1), rows)


def _by_atom(of_row: np.ndarray, rows: Tensor) -> np.ndarray:
    """Sum over equal rows, which are sorted."""
    atom = torch.searchsorted(atoms_of(rows)[0][:, 0].contiguous(), rows[:, 0].sort().values)
    return of_row @ torch.nn.functional.one_hot(atom).numpy().astype(float)


def sinkhorn_of_two() -> Callable[[Tensor], Tensor]:
    """Entropic assignment of two draws of noise and two of ``ROWS``, without replacement, whose plan is known.

    At noise u, v and rows y, z squared distances are in units of their mean m = ((u - v)^2 + (y - z)^2) / 4, and the
    plan of equal marginals gives u to y with probability p, log(p / (1 - p)) = (u - v) (y - z) / (epsilon m). The mean
    over v is taken by the trapezoidal rule and tabulated over u.
    """
    u, v = np.arange(-600, 601) / 50, np.arange(-140, 141) / 20
    noise, density = u[:, None] - v, stats.norm.pdf(v) / 20
    rows = ROWS[:, 0].numpy()
    chance = np.zeros((len(u), len(rows)))
    for i, j in itertools.permutations(range(len(rows)), 2):
        mean = np.maximum(noise**2 + (rows[i] - rows[j]) ** 2, 1e-300) / 4
        chance[:, i] += expit(noise * (rows[i] - rows[j]) / (EPSILON * mean)) @ density
    table = _by_atom(chance[:, ROWS[:, 0].argsort().numpy()], ROWS)
    spline = CubicSpline(u, table / table.sum(1, keepdims=True))
    return lambda source: torch.from_numpy(spline(source[:, 0].clamp(-12, 12).numpy()))  # no noise lies beyond


def conditional() -> Recipe:
    """The network is given the class."""
    labels = []
    for label in (0, 1):
        points, weights = atoms_of(ROWS[label == CLASSES])
        law = OptimalAtoms(points, optimal_heights(points, weights))
        labels.append(GivenLabel(label, float((CLASSES.eq(label)).double().mean()), law, weights))
    return Recipe(Conditional.fit(ROWS, CLASSES), labels, ATOMS, WEIGHTS)


def class_left_out() -> Recipe:
    """The network is not given the class, as for guidance: the law is the mixture of those of the classes."""
    potentials = {label: entropic_potential(*atoms_of(ROWS[label == CLASSES])) for label in (0, 1)}
    shares = [float((CLASSES.eq(label)).double().mean()) for label in (0, 1)]

    def probability(source: Tensor) -> Tensor:
        total = source.new_zeros(len(source), len(ATOMS))
        for share, potential in zip(shares, potentials.values(), strict=True):
            atom = torch.searchsorted(ATOMS[:, 0].contiguous(), potential.points[:, 0].contiguous())
            total[:, atom] += share * entropic_law(potential).probability(source)
        return total

    return unlabelled(Conditional(ROWS, CLASSES, potentials), AtomPairs(ATOMS, probability))


def joint_conditional() -> Recipe:
    """The network is given the condition that was drawn with the noise: cells are lines through those of the plane."""
    conditions, scale = torch.tensor([0.2, -0.5, 1.0, 0.0, 0.7], dtype=F64), 2.0
    fitted = JointConditional.fit(ATOMS, conditions, scale, weights=WEIGHTS).potential
    place = fitted.points[:, 0].argsort()  # the fit may have changed the order of the rows

    def given(heights: Tensor) -> list[GivenLabel]:
        laws = [OptimalAtoms(ATOMS, heights - scale**2 * c * conditions) for c in conditions]
        each = zip(conditions.tolist(), WEIGHTS.tolist(), laws, strict=True)
        return [GivenLabel(c, share, law, cell_masses(law)) for c, share, law in each]

    heights = heights_of(lambda h: sum((part.share * part.weights for part in given(h)), h.new_zeros(())), WEIGHTS)
    potential = Discrete(fitted.points, heights[place.argsort()], WEIGHTS[place.argsort()], source=fitted.source)
    coupling = JointConditional(potential, ATOMS, conditions, scale, weights=WEIGHTS)
    return Recipe(coupling, given(heights), ATOMS, WEIGHTS)


def cell_masses(law: OptimalAtoms) -> Tensor:
    """N(0, 1) of the cells of distinct ascending atoms, (J,): each ends where another's score is as high."""
    y, h = law.points[:, 0], law.heights
    border = (h[:, None] - h) / (y[:, None] - y)  # NaN of an atom with itself
    number = torch.arange(len(y))
    low = torch.where(number < number[:, None], border, -torch.inf).amax(1)
    high = torch.where(number > number[:, None], border, torch.inf).amin(1)
    return (ndtr(high) - ndtr(low)).clamp(min=0)


ON_THE_LINE: dict[str, Callable[[], Recipe]] = {
    "independent": lambda: unlabelled(Independent(ROWS), independent_atoms()),
    "minibatch": lambda: unlabelled(
        Minibatch(ROWS, 4), AtomPairs(ATOMS, by_rank(ranks_without_replacement(ROWS, 4))), batch=4, draws=3840
    ),
    "minibatch sinkhorn": lambda: unlabelled(
        Minibatch(ROWS, 2, solver="sinkhorn", epsilon=EPSILON), AtomPairs(ATOMS, sinkhorn_of_two()), batch=2, draws=400
    ),
    "pair": lambda: unlabelled(
        PairedBatches(ROWS, 3), AtomPairs(ATOMS, by_rank(ranks_with_replacement(ROWS, 3))), batch=3, draws=3840
    ),
    "semidiscrete": lambda: unlabelled(
        Semidiscrete(fit(ROWS).potential, ROWS), OptimalAtoms(ATOMS, optimal_heights(ATOMS, WEIGHTS))
    ),
    "entropic": lambda: unlabelled(
        Semidiscrete(entropic_potential(ATOMS, WEIGHTS), ROWS), entropic_law(entropic_potential(ATOMS, WEIGHTS))
    ),
    "subspace": lambda: unlabelled(
        Subspace.from_potential(fit(ROWS).potential, ROWS, torch.ones(1, 1, dtype=F64)),
        OptimalAtoms(ATOMS, optimal_heights(ATOMS, WEIGHTS)),
    ),
    "conditional": conditional,
    "conditional, class left out": class_left_out,
    "joint conditional": joint_conditional,
}


# ---------------------------------------------------------------- in any dimension


class InSpace(NamedTuple):
    """A coupling of rows (N, d) with whole-number labels (N,).

    Attributes:
        make: the coupling, from rows and labels.
        chi2: how far the masses of the rows may be from equal; 0 where they are equal exactly.
        dims: that it is tested in; fits take long in R^64.
        draws: number of pairs; fewer where they take long.
    """

    make: Callable[[Tensor, Tensor], Coupling]
    chi2: float = 0.0
    dims: tuple[int, ...] = (8,)
    draws: int = 64_000


TOLERANCE = 2e-3  # of the fits, on chi2


def subspace_of_minibatches(rows: Tensor) -> Subspace:
    """Assignments by other features than coordinates, and directions that have nothing to do with them."""
    features = rows[:, :2].tanh()
    return Subspace(Minibatch(features, 64), rows, torch.eye(rows.shape[1], dtype=rows.dtype)[:, [5, 1]])


IN_SPACE: dict[str, InSpace] = {
    "independent": InSpace(lambda rows, _: Independent(rows), dims=(8, 64)),
    "minibatch": InSpace(lambda rows, _: Minibatch(rows, 64), dims=(8, 64), draws=9600),
    "minibatch sinkhorn": InSpace(lambda rows, _: Minibatch(rows, 64, solver="sinkhorn", epsilon=0.1), draws=1280),
    "pair": InSpace(lambda rows, _: PairedBatches(rows, 64), dims=(8, 64), draws=9600),
    "semidiscrete": InSpace(lambda rows, _: Semidiscrete(fit(rows, tol=TOLERANCE).potential, rows), TOLERANCE),
    "entropic": InSpace(
        lambda rows, _: Semidiscrete(fit(rows, epsilon=EPSILON, tol=TOLERANCE).potential, rows), TOLERANCE
    ),
    "subspace": InSpace(lambda rows, _: Subspace.fit(rows, dim=2, tol=TOLERANCE), TOLERANCE, dims=(8, 64)),
    "subspace, entropic": InSpace(lambda rows, _: Subspace.fit(rows, dim=3, epsilon=EPSILON, tol=TOLERANCE), TOLERANCE),
    "subspace of minibatches": InSpace(lambda rows, _: subspace_of_minibatches(rows), draws=9600),
    "conditional in subspaces": InSpace(
        lambda rows, labels: Conditional.fit(rows, labels, directions=2, tol=TOLERANCE), TOLERANCE
    ),
    "conditional": InSpace(lambda rows, labels: Conditional.fit(rows, labels, tol=TOLERANCE), TOLERANCE),
    "joint conditional": InSpace(
        lambda rows, labels: JointConditional.fit(rows, labels.to(rows), 1.0, tol=TOLERANCE), TOLERANCE
    ),
}
