"""What minibatch pairs are measured against: the target, its potential, and W2^2 known without the dual value.

C_n - W2^2 and twice the mean Fenchel-Young gap are one number by two routes only as long as W2^2 is not itself
E|X|^2 + E|Y|^2 - 2 (E phi + E psi): that would make the identity true for any phi. Here W2^2 is a closed form, an
integral over exact cells, or the primal cost E|X - grad phi(X)|^2 of fresh draws, which has no use for values of phi.
The routes share the pairs and the potential: their errors are correlated, so that they are compared pair by pair.

Finite data are drawn as ``couplings.Minibatch`` draws them, without replacement within a batch, where rows are known
and suffice; otherwise draws are independent. Each target of a batch has the law of the data either way, and that is
all that the identity, the bound and control variates of mean zero (sums of functions of one draw) rest on.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.convergence.control_variates import MeanWithError, Regression, known_functions
from proxflow.analysis.convergence.height_error import HeightError, height_error, top_two
from proxflow.checks import working_dtype
from proxflow.kernels.search import TopTwo
from proxflow.measures import Source, draw, is_normal
from proxflow.potentials import Discrete, Potential, Quadratic
from proxflow.semidiscrete import Fit
from proxflow.semidiscrete.problem import chunk_sizes

__all__ = [
    "FiniteTarget",
    "Target",
    "Targets",
    "TransportedTarget",
    "atoms_of_rows",
    "draw_atoms",
    "draw_rows",
    "rows_of_equal_weight",
]

_SEARCH_PRODUCTS = 1 << 35  # multiplications spent on fresh draws
_FEW_DRAWS, _LEAST_DRAWS, _MOST_DRAWS = 1 << 15, 1 << 16, 1 << 18  # few where W2^2 is known without them
_EXACT = 1e-4  # chi2 up to which exact cells have the weights wanted
_ROUNDINGS = 64  # units of rounding of a weight by which sums of equal weights may differ


@dataclass(frozen=True)
class Targets:
    """Target draws: points (n, d), psi there (n,), and a control variate (n,) of known mean zero; float64 but points.

    ``atom`` (n,) is the atom behind each point, for finite targets.
    """

    points: Tensor
    value: Tensor
    control: Tensor
    atom: Tensor | None = None


class Target(ABC):
    """A target law with its potential; its construction makes the fresh draws that the rest relies on.

    Attributes:
        potential: potential of the target.
        cost: W2^2 between source and target, by a route without the dual value.
        height_error: how far the potential is from the optimum, None where it is exact.
        draws: fresh source points spent on that.
        rows: how many rows of equal weight the target is; None for other laws.
    """

    potential: Potential
    cost: MeanWithError
    height_error: HeightError | None
    draws: int
    rows: int | None

    @property
    def source(self) -> Source:
        """The law of the noise."""
        return self.potential.source

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Of the draws."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Of the draws."""

    @abstractmethod
    def draw(self, batches: int, size: int, replacement: bool, generator: torch.Generator) -> Targets:
        """Independent batches of targets, one after another; rows within one with or without replacement."""

    @abstractmethod
    def gap(self, x0: Tensor, targets: Targets, order: Tensor) -> Tensor:
        """phi(x0) + psi(x1) - <x0, x1> >= 0 of the pairs (x0, targets[order]), (n,) float64."""

    @abstractmethod
    def source_control(self, x0: Tensor) -> Tensor:
        """A control variate of known mean zero for the costs of source points (n, d); (n,) float64."""

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` source points, (n, d)."""
        return draw(self.source, n, generator, self.dtype, self.device)


class FiniteTarget(Target):
    """Finitely many atoms, of equal rows or of any weights.

    Args:
        potential: with heights near the optimum.
        rows: how many rows of equal weight its atoms were merged from; None where weights are of another kind.
        fit: the fit that it comes from, if there is one; exact cell masses are then made use of.
        known_cost: W2^2 from elsewhere.
        generator: generator of the fresh draws.
        max_memory: bytes for them.
    """

    def __init__(
        self,
        potential: Discrete,
        rows: int | None,
        fit: Fit | None,
        known_cost: float | None,
        generator: torch.Generator,
        max_memory: int,
    ) -> None:
        self.potential: Discrete = potential
        self.rows = rows
        self._atom_of_row = None if rows is None else atoms_of_rows(potential, rows)
        self._weights = potential.weights.double() / potential.weights.double().sum()
        self._levels = self._weights.cumsum(0)
        self._heights = potential.heights.double()
        # what atom j adds to W2^2, to first order
        atom_costs = potential.points.double().square().sum(1) - 2 * self._heights
        self._controls = atom_costs - self._weights @ atom_costs
        exact = fit is not None and fit.chi2_stderr == 0 and fit.chi2 <= _EXACT
        products = len(potential.points) * (potential.dim + 2)
        self.draws = _FEW_DRAWS if exact else min(max(_SEARCH_PRODUCTS // products, _LEAST_DRAWS), _MOST_DRAWS)
        found = Regression(potential.source)
        atoms = []
        for count in _chunks(self.draws, potential.dim, max_memory):
            u = self.noise(count, generator)
            nearest = top_two(potential, u)
            x, y = u.double(), potential.points[nearest.best].double()
            conjugate = (x * y).sum(1) - self._heights[nearest.best]
            square = x.square().sum(1)
            found.add(x, square - 2 * conjugate, (x - y).square().sum(1))
            atoms.append(nearest)
        draws = TopTwo(*(torch.cat(parts) for parts in zip(*((a.best, a.second, a.gap) for a in atoms), strict=True)))
        self._slopes = found.slopes
        self.height_error = None if exact else height_error(draws, self._weights)
        self.cost = self._cost(fit if exact else None, known_cost, found.cost, draws)

    @property
    def dtype(self) -> torch.dtype:
        """Of the queries of the potential."""
        return working_dtype(self.potential.points)

    @property
    def device(self) -> torch.device:
        """Of the atoms."""
        return self.potential.points.device

    def draw(self, batches: int, size: int, replacement: bool, generator: torch.Generator) -> Targets:
        """Rows without replacement within a batch, or atoms by their weights."""
        if replacement or self._atom_of_row is None:
            atom = draw_atoms(self._levels, batches * size, generator)
        else:
            rows = draw_rows(len(self._atom_of_row), batches, size, generator)
            atom = self._atom_of_row[rows.flatten().to(self.device)]
        return Targets(self.potential.points[atom].to(self.dtype), self._heights[atom], self._controls[atom], atom)

    def gap(self, x0: Tensor, targets: Targets, order: Tensor) -> Tensor:
        """The best score less that of the pair; exactly >= 0 up to the search's rounding."""
        if targets.atom is None:
            raise ValueError("the targets of a finite law know their atoms")
        best, paired = self.potential.nearest_atom(x0), targets.atom[order]
        apart = self.potential.points[best].double() - self.potential.points[paired].double()
        return (x0.double() * apart).sum(1) - (self._heights[best] - self._heights[paired])

    def source_control(self, x0: Tensor) -> Tensor:
        """The part of |x|^2 - 2 phi(x) that functions of known mean explain."""
        return known_functions(self.source, x0.double()) @ self._slopes

    def _cost(self, fit: Fit | None, known: float | None, primal: MeanWithError, draws: TopTwo) -> MeanWithError:
        """Of exact cells the primal cost is known to rounding; of others from draws.

        Both belong to the masses that the cells do have. What that changes is, to first order, <m - b, |y|^2 - 2h>:
        it is part of the error, not taken off, which would turn the primal cost into the dual value.
        """
        if known is not None:
            return MeanWithError(known, 0.0)
        if fit is not None:
            change = float((fit.cell_mass - self._weights) @ self._controls)
            half = 0.5 * (fit.transport_cost_interval[1] - fit.transport_cost_interval[0])
            return MeanWithError(fit.transport_cost + change, math.hypot(half / 1.96, change))
        counts = torch.bincount(draws.best, minlength=len(self._weights)).double()
        change = float((counts / counts.sum() - self._weights) @ self._controls)
        return MeanWithError(primal.value, math.hypot(primal.stderr, change))


class TransportedTarget(Target):
    """The law that a potential transports its source to; draws are transported noise.

    Args:
        potential: potential of the target.
        known_cost: W2^2 from elsewhere.
        generator: generator of the fresh draws.
        max_memory: bytes for them.
    """

    def __init__(
        self, potential: Potential, known_cost: float | None, generator: torch.Generator, max_memory: int
    ) -> None:
        self.potential = potential
        self.height_error = None
        self.rows = None
        dtype, self._device = potential.query_kind or (torch.float64, torch.device("cpu"))
        self._dtype = dtype if dtype.is_floating_point else torch.float64
        closed = _bures(potential) if known_cost is None else known_cost
        self.draws = _FEW_DRAWS if closed is not None else _MOST_DRAWS
        found, values = Regression(potential.source), Regression(potential.source)
        for count in _chunks(self.draws, potential.dim, max_memory):
            u = self.noise(count, generator)
            y, conjugate = potential.brenier_map(u), potential.conjugate(u).double()
            x, y = u.double(), y.double()
            found.add(x, x.square().sum(1) - 2 * conjugate, (x - y).square().sum(1))
            values.add(x, y.square().sum(1) - 2 * ((x * y).sum(1) - conjugate), conjugate)
        self._slopes, self._target_slopes = found.slopes, values.slopes
        self.cost = found.cost if closed is None else MeanWithError(closed, 0.0)

    @property
    def dtype(self) -> torch.dtype:
        """Of the potential's tensors; float64 where it has none."""
        return self._dtype

    @property
    def device(self) -> torch.device:
        """Of the potential's tensors; the CPU where it has none."""
        return self._device

    def draw(self, batches: int, size: int, replacement: bool, generator: torch.Generator) -> Targets:
        """Transported noise, with psi from Fenchel-Young equality: no rounding puts a point off the domain of psi."""
        u = self.noise(batches * size, generator)
        y = self.potential.brenier_map(u)
        value = (u.double() * y.double()).sum(1) - self.potential.conjugate(u).double()
        return Targets(y, value, known_functions(self.source, u.double()) @ self._target_slopes)

    def gap(self, x0: Tensor, targets: Targets, order: Tensor) -> Tensor:
        """phi(x0) + psi(x1) - <x0, x1>."""
        inner = (x0.double() * targets.points[order].double()).sum(1)
        return self.potential.conjugate(x0).double() + targets.value[order] - inner

    def source_control(self, x0: Tensor) -> Tensor:
        """The part of |x|^2 - 2 phi(x) that functions of known mean explain."""
        return known_functions(self.source, x0.double()) @ self._slopes


def draw_atoms(levels: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """``n`` independent atoms, (n,) int64, from their cumulated weights (N,)."""
    uniform = torch.rand(n, generator=generator, dtype=torch.float64, device=generator.device).to(levels.device)
    return torch.searchsorted(levels, uniform * levels[-1], right=True).clamp(max=len(levels) - 1)


def draw_rows(rows: int, batches: int, size: int, generator: torch.Generator) -> Tensor:
    """Rows drawn without replacement within each batch, (batches, size) int64 on the generator's device.

    Where repeats are rare, independent draws are made again until a batch has none: the same law, for less work.
    """
    device = generator.device
    if size * size > rows:
        orders = [torch.randperm(rows, generator=generator, device=device)[:size] for _ in range(batches)]
        return torch.stack(orders) if orders else torch.empty((0, size), dtype=torch.int64, device=device)
    drawn = torch.randint(rows, (batches, size), generator=generator, device=device)
    while len(repeating := torch.nonzero((drawn.sort(1).values.diff(dim=1) == 0).any(1))[:, 0]):
        drawn[repeating] = torch.randint(rows, (len(repeating), size), generator=generator, device=device)
    return drawn


def rows_of_equal_weight(potential: Discrete, atom_of_row: Tensor | None) -> int | None:
    """How many rows of equal weight the law of a potential is made of; None where its weights are of another kind.

    Args:
        potential: its weights are the law.
        atom_of_row: (rows,) int64, the atom of each row; None where every atom is one row.
    """
    count = len(potential.points)
    atoms = torch.arange(count, device=potential.points.device) if atom_of_row is None else atom_of_row
    rows, copies = len(atoms), torch.bincount(atoms, minlength=count).double()
    apart = (potential.weights.double() * rows - copies).abs()
    return rows if bool((apart <= _ROUNDINGS * torch.finfo(potential.weights.dtype).eps * copies).all()) else None


def atoms_of_rows(potential: Discrete, rows: int) -> Tensor:
    """The atom of each of so many rows of equal weight, atom after atom, (rows,) int64."""
    copies = (potential.weights.double() * rows).round().long()
    return torch.arange(len(copies), device=copies.device).repeat_interleave(copies)


def _bures(potential: Potential) -> float | None:
    """W2^2 between N(0, I) and N(m, S): |m|^2 + sum of (1 - sigma_i)^2, sigma_i^2 the eigenvalues of S."""
    if not (isinstance(potential, Quadratic) and is_normal(potential.source)):
        return None
    deviations = torch.linalg.eigvalsh(potential.covariance.double()).clamp(min=0).sqrt()
    return float(potential.mean.double().square().sum() + (1 - deviations).square().sum())


def _chunks(n: int, dim: int, max_memory: int) -> list[int]:
    """Sizes of blocks of draws, some eight float64 copies of which fit in ``max_memory``."""
    return chunk_sizes(n, max(256, min(1 << 14, max_memory // (64 * (dim + 2)))))
