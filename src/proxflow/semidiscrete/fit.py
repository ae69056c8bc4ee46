"""Fit the extended Brenier potential of a finite data set (THEORY section 3)."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import torch
from rich.console import Console
from torch import Tensor

from proxflow.errors import ConvergenceWarning
from proxflow.measures import Gaussian, Source
from proxflow.potentials.discrete import Discrete
from proxflow.semidiscrete.atoms import Atoms, gather_atoms
from proxflow.semidiscrete.certificate import Cost, MassError, bracketed, cell_counts, mass_error, transport_cost
from proxflow.semidiscrete.descent import Averages, Descent
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.start import scaled_gaussian

__all__ = ["Evaluation", "Fit", "fit"]

_EVALUATION_SEED = 0x5EED_C0DE  # moves the evaluation stream away from the one that moves the heights
_COST_DRAWS = 1 << 17
_LEAST_DRAWS = 1 << 17  # of a fit: below this the bias of W2^2 would show beside its standard error
_EXPECTED_EFFICIENCY = 1.6  # chi2 M / N of linearly weighted averaging, 4/3, over what two standard errors leave of tol


@dataclass(frozen=True)
class Evaluation:
    """One look at the fit on fresh draws."""

    samples_used: int
    chi2: float
    chi2_stderr: float
    seconds: float


@dataclass(frozen=True)
class Fit:
    """A fitted potential and its certificate.

    Attributes:
        potential: the ``Discrete`` potential, on the distinct rows of the data.
        chi2: sum_j (m_j - b_j)^2 / b_j of the cell masses m, estimated without bias on fresh draws.
        chi2_stderr: its standard error; 0.0 when exact.
        converged: whether chi2 + 2 stderr <= tol.
        history: the evaluations on the way.
        seconds: wall time.
        cell_mass: (N,) float64, cell masses counted on the last evaluation: the weights of the flow as it is.
        transport_cost: W2^2 between source and data.
        transport_cost_interval: its 95% interval; not converged, from the dual value up to a triangle inequality.
        samples_used: noise draws passed through the search to move the heights.
        evaluation_samples: noise draws spent on chi2 and costs.
        atom_of_row: (rows given,) int64, the atom of each row.
        seed: the seed of the run.
        tol: the tolerance asked for.
    """

    potential: Discrete
    chi2: float
    chi2_stderr: float
    converged: bool
    history: tuple[Evaluation, ...]
    seconds: float
    cell_mass: Tensor
    transport_cost: float
    transport_cost_interval: tuple[float, float]
    samples_used: int
    evaluation_samples: int
    atom_of_row: Tensor
    seed: int
    tol: float


def fit(
    points: Tensor,
    weights: Tensor | None = None,
    *,
    source: Source | None = None,
    tol: float = 1e-2,
    max_samples: int | None = None,
    seed: int = 0,
    warm_start: Fit | Tensor | None = None,
    max_memory: int = 2**28,
    progress: bool | None = None,
) -> Fit:
    """Fit the heights whose Laguerre cells carry the weights of the data.

    Averaged stochastic gradient on the semi-dual, in units that make it invariant to the scale of the data; it
    stops when chi2 + 2 stderr <= tol on fresh draws. Ctrl-C returns the best so far.

    Args:
        points: (N, d) or (N, *event), float32 or float64; equal rows are merged.
        weights: (N,), not negative; equal if None.
        source: law of the noise; standard normal if None.
        tol: tolerance on chi2.
        max_samples: cap on the draws that move the heights; 100 N / tol if None.
        seed: of all randomness.
        warm_start: an earlier ``Fit`` of the same atoms, or heights (number of distinct atoms,).
        max_memory: bytes for noise and scores.
        progress: show a status line; None shows one on a terminal.

    Returns:
        ``Fit``. Not converged (with a ``ConvergenceWarning``) it is still the exact flow of its ``cell_mass``.

    Raises:
        ValueError: bad data or arguments; the message names rows and says what to do.
    """
    began = time.perf_counter()
    points = torch.as_tensor(points)
    atoms = gather_atoms(points, weights)
    if not (math.isfinite(tol) and tol > 0):
        raise ValueError(f"fit: tol must be a positive number, got {tol!r}")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"fit: max_samples must be at least 1, got {max_samples!r}")
    source = Gaussian(atoms.points.shape[1]) if source is None else source
    if source.dim != atoms.points.shape[1]:
        raise ValueError(f"fit: the source has dimension {source.dim}, the points {atoms.points.shape[1]}")
    initial = _initial_heights(warm_start, atoms)
    run = _Run(SemiDual(atoms, source, max_memory), tol, max_samples, seed, began, _reporter(progress))
    run.optimise(initial)
    return run.finish(atoms, max_memory)


class _Run:
    """One fit in progress: moves the heights, evaluates at growing intervals, and certifies the end."""

    def __init__(
        self,
        problem: SemiDual,
        tol: float,
        max_samples: int | None,
        seed: int,
        began: float,
        report: Callable[[str], None],
    ) -> None:
        self.problem, self.tol, self.seed, self.began, self.report = problem, tol, seed, began, report
        count = len(problem)
        self.cap = math.ceil(100 * count / tol) + _LEAST_DRAWS if max_samples is None else max_samples
        device = problem.points.device
        self.motion = torch.Generator(device).manual_seed(seed)
        self.fresh = torch.Generator(device).manual_seed(seed ^ _EVALUATION_SEED)
        self.history: list[Evaluation] = []
        self.snapshots: list[Averages] = []
        self.counts = problem.weights.new_zeros(count)
        self.evaluation_samples = 0
        self.descent: Descent | None = None
        self.spent = 0

    @property
    def exact(self) -> bool:
        """A single atom: every draw goes to it."""
        return len(self.problem) == 1

    def optimise(self, initial: Tensor | None) -> None:
        """Move the heights until the tolerance, the cap or Ctrl-C."""
        if self.exact:
            return
        if initial is not None:
            initial = initial / self.problem.radius
        start = scaled_gaussian(self.problem, self.motion, initial)
        self.problem.choose_precision(start.unit, start.heights)
        self.spent = start.samples_used
        self.descent = Descent(self.problem, start.heights, start.unit, self.motion)
        try:
            self._descend(self.descent)
        except KeyboardInterrupt:
            self.report("interrupted: certifying the best so far")

    def _descend(self, descent: Descent) -> None:
        count = len(self.problem)
        cap = max(self.cap - self.spent, 1)
        least = min(max(_EXPECTED_EFFICIENCY * count / self.tol, _LEAST_DRAWS), cap)
        for goal in _checkpoints(least, cap):
            while descent.samples_used < goal:
                descent.step()
            self.snapshots.append(descent.averages)
            final = goal >= least
            error = self._evaluate(descent, self._draws() if final else min(self._draws(), 1 << 14))
            if final and error.chi2 + 2 * error.stderr <= self.tol:
                return

    def _draws(self) -> int:
        """Enough for a standard error of a tenth of the tolerance near the optimum."""
        return max(1 << 14, math.ceil(10 * math.sqrt(2 * len(self.problem)) / self.tol))

    def _evaluate(self, descent: Descent, draws: int) -> MassError:
        self.counts = cell_counts(self.problem, descent.averages.heights, draws, self.fresh)
        self.evaluation_samples += draws
        error = mass_error(self.counts, self.problem.weights)
        used = self.spent + descent.samples_used
        self.history.append(Evaluation(used, error.chi2, error.stderr, time.perf_counter() - self.began))
        self.report(f"{used:,} draws: chi2 = {error.chi2:.4g} +- {error.stderr:.2g}, wanted {self.tol:g}")
        return error

    def finish(self, atoms: Atoms, max_memory: int) -> Fit:
        """Certify what there is."""
        problem, descent = self.problem, self.descent
        if descent is None:
            heights, error = problem.weights.new_zeros(1), MassError(0.0, 0.0)
            mass = problem.weights
            cost = _dirac_cost(problem)
        else:
            if descent.averages.weight == 0:
                descent.step()
            error = self._certified(descent)
            heights = descent.averages.heights
            mass = self.counts / self.counts.sum()
            draws = max(1 << 12, min(_COST_DRAWS, max_memory // (16 * (problem.source.dim + 3))))
            cost = transport_cost(problem, descent.averages, self._half(descent), draws, self.fresh)
            self.evaluation_samples += draws
        converged = error.chi2 + 2 * error.stderr <= self.tol
        if not converged:
            cost = bracketed(problem, heights, self.counts, cost)
            message = f"fit stopped at chi2 = {error.chi2:.3g} +- {error.stderr:.2g}, above tol = {self.tol:g}; "
            warnings.warn(message + "raise max_samples, or use it as the flow of its cell_mass", ConvergenceWarning, 3)
        dtype = atoms.points.dtype
        potential = Discrete(
            atoms.points, (problem.radius * heights).to(dtype), atoms.weights.to(dtype), source=problem.source
        )
        return Fit(
            potential=potential,
            chi2=error.chi2,
            chi2_stderr=error.stderr,
            converged=converged,
            history=tuple(self.history),
            seconds=time.perf_counter() - self.began,
            cell_mass=mass,
            transport_cost=cost.value,
            transport_cost_interval=cost.interval,
            samples_used=0 if descent is None else self.spent + descent.samples_used,
            evaluation_samples=self.evaluation_samples,
            atom_of_row=atoms.atom_of_row,
            seed=self.seed,
            tol=self.tol,
        )

    def _certified(self, descent: Descent) -> MassError:
        """The last full evaluation, made now if the heights have moved since or it was a cheap one."""
        current = bool(self.history) and self.history[-1].samples_used == self.spent + descent.samples_used
        if current and float(self.counts.sum()) >= self._draws():
            last = self.history[-1]
            return MassError(last.chi2, last.chi2_stderr)
        return self._evaluate(descent, self._draws())

    def _half(self, descent: Descent) -> Averages:
        """The snapshot nearest to half of the averaging weight, or an artificial first step."""
        whole = descent.averages
        earlier = [part for part in self.snapshots if 0 < part.weight < whole.weight]
        if not earlier:
            return Averages(whole.heights, 0.5 * whole.weight, 0.5 * whole.squares)
        return min(earlier, key=lambda part: abs(part.weight / whole.weight - 0.5))


def _checkpoints(least: float, cap: float) -> list[int]:
    """Sample counts to evaluate at: coarsely up to ``least``, then every 20%."""
    goals = [least * 2.0**-k for k in (3, 2, 1)]
    goal = least
    while goal < cap:
        goals.append(goal)
        goal *= 1.2
    return sorted({math.ceil(min(g, cap)) for g in [*goals, cap]})


def _initial_heights(warm_start: Fit | Tensor | None, atoms: Atoms) -> Tensor | None:
    if warm_start is None:
        return None
    heights = warm_start.potential.heights if isinstance(warm_start, Fit) else warm_start
    if heights.shape != (len(atoms.points),) or not bool(torch.isfinite(heights).all()):
        raise ValueError(
            f"fit: warm_start must give {len(atoms.points)} finite heights, one per distinct atom, "
            f"got shape {tuple(heights.shape)}"
        )
    return heights.detach().to(atoms.points.device, torch.float64)


def _dirac_cost(problem: SemiDual) -> Cost:
    """E|X - y|^2, exact where the source knows its second moment and is centred."""
    if isinstance(problem.source, Gaussian):
        value = problem.source.second_moment + float(problem.centre.square().sum())
        return Cost(value, (value, value), value)
    draws = problem.source.sample(_COST_DRAWS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    terms = (draws - problem.centre.to(draws)).square().sum(1)
    value, half = float(terms.mean()), 1.96 * float(terms.std()) / math.sqrt(len(terms))
    return Cost(value, (value - half, value + half), value)


def _reporter(progress: bool | None) -> Callable[[str], None]:
    """A function that shows one line of progress on standard error, or does nothing."""
    if not (sys.stderr.isatty() if progress is None else progress):
        return lambda message: None
    console = Console(stderr=True)
    return lambda message: console.print(f"[dim]fit:[/dim] {message}")
