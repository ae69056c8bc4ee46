"""Fit the extended Brenier potential of a finite data set (docs/theory.md 3)."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxflow.checks import Numbers, count_of, real_number, whole_number, working_dtype
from proxflow.errors import ConvergenceWarning
from proxflow.kernels.shortlist import Shortlist
from proxflow.measures import Gaussian, Source, check_source, draw, is_normal
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.potentials.symmetric import SymmetricDiscrete, check_invariant
from proxflow.seeding import generator_of
from proxflow.semidiscrete.exact import exact_applies, solve_exactly
from proxflow.semidiscrete.fit_result import Fit, FitRecord, ReturnedPotential, Solution
from proxflow.semidiscrete.prepare import Atoms, Span, gather_atoms, spans_of
from proxflow.semidiscrete.problem import SemiDual, chunk_sizes
from proxflow.semidiscrete.ranks import ALONE, Ranks
from proxflow.semidiscrete.returned import Returned
from proxflow.semidiscrete.session import Session, fit_fingerprint
from proxflow.semidiscrete.start import carried_heights
from proxflow.semidiscrete.stochastic_fit import StochasticState, solve_stochastically
from proxflow.symmetry import Symmetry
from proxflow.torch_support import in_full_precision

__all__ = ["METHODS", "Posed", "Task", "certified", "fit", "posed", "record_of", "returned_of", "solve", "task_of"]

METHODS = ("one atom", "quantiles", "damped Newton", "averaged gradient")

_DIRAC_DRAWS = 1 << 17  # samples for the cost of a single atom under a source without a known mean
_DRAWS_AT_ONCE = 1 << 13  # of them: tens of megabytes for images


@in_full_precision
def fit(
    points: Numbers,
    weights: Numbers | None = None,
    *,
    source: Source | None = None,
    epsilon: float = 0.0,
    symmetry: Symmetry | None = None,
    tol: float = 1e-2,
    max_samples: int | None = None,
    seed: int = 0,
    warm_start: FitRecord | ReturnedPotential | Tensor | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    max_memory: int = 2**28,
    progress: bool | None = None,
) -> Fit:
    """Fit the heights whose Laguerre cells carry the weights of the data.

    For normal noise and atoms that span up to three dimensions (a line in R^20 counts as one) the fit is exact:
    quantiles on the line, damped Newton on power diagrams else. Otherwise averaged stochastic gradient on the
    semi-dual, in units that make it invariant to the scale of the data, stops when chi2 + 2 stderr <= tol on fresh
    draws. ``Fit.method`` says which it was. Ctrl-C returns the best so far.

    Inside of a default group of torch.distributed its processes share the searches, and the fit is that of one process
    (docs/scale.md). All must make the same call; the first alone reports, reads the checkpoint and writes it.

    Args:
        points: (N, d) or (N, *event), float32 or float64: a tensor, a numpy array or a pandas object (values in order).
            Rows stored as float16, bfloat16, uint8 or int8 stay so; the fit is that of ``points.float()``, in float32.
            Equal rows are merged; atoms come in the order of their first rows. An array that is mapped to be read,
            ``numpy.load(path, mmap_mode="r")``, stays in its file, which must not change while the fit is in use.
        weights: (N,), not negative; equal if None.
        source: law of the noise; standard normal if None. ``measures.Empirical`` makes unpaired data a source.
        epsilon: smoothing, in units of the scores <u, y>; above 0 fits the entropic semi-dual of ``Entropic``.
        symmetry: a group, as ``symmetry.HorizontalFlip((C, H, W))``, that the law to be fitted is invariant under: a
            row by its weight, moved by a random element. One row of each orbit is kept and no image made: with
            rows that are images of one another merged, the fit needs the memory and the draws of the orbits alone. Its
            method is always the averaged gradient; epsilon must be 0.
        tol: tolerance on chi2.
        max_samples: cap on the draws that move the heights, 100 N / tol if None; the step that reaches it is finished.
        seed: seed of all randomness.
        warm_start: an earlier ``Fit`` or its potential, of the same atoms or with atoms added or moved, one on
            shortlists, too; or heights (number of distinct atoms, or of orbits,).
        checkpoint: file to save the run in, every few seconds and at Ctrl-C. A call with the same arguments resumes
            from it and ends, bit by bit, as an uninterrupted one.
        max_memory: bytes for noise and scores; and as many for a float32 copy of the points, made on a CPU if it fits.
        progress: show a status line; None shows one on a terminal.

    Returns:
        ``Fit``. Not converged (with a ``ConvergenceWarning``) it is still the exact flow of its ``cell_mass``.

    Raises:
        ValueError: bad data or arguments, a checkpoint of another fit, or processes that were given different ones;
            the message says what to do.
        ConnectionError: another process of the group stopped or failed.
    """
    began = time.perf_counter()
    task = task_of(points, weights, source, epsilon, symmetry, tol, max_samples, seed, max_memory)
    initial = None if warm_start is None else carried_heights(warm_start, task.atoms.points, symmetry)
    solution, session = certified(task, initial, checkpoint, progress, began)
    assert not isinstance(solution.potential, Shortlisted)  # noqa: S101 - the task has no shortlist
    return Fit(potential=solution.potential, **record_of(solution, task, session))


@dataclass(frozen=True)
class Task:
    """What is to be fitted, and how well: the arguments of ``fit``, checked; or those of ``fit_shortlisted``, with the
    number of groups on a list, and the shortlist once it is made."""

    atoms: Atoms
    source: Source
    epsilon: float
    tol: float
    max_samples: int | None
    seed: int
    max_memory: int
    listed: int | None = None
    shortlist: Shortlist | None = None


def certified(
    task: Task,
    initial: Tensor | None,
    checkpoint: str | os.PathLike[str] | None,
    progress: bool | None,
    began: float,
    complete: Callable[[Task, Session], Task] = lambda task, session: task,
) -> tuple[Solution, Session]:
    """The solution, by all processes of the default group; and its session.

    ``complete`` adds to the task what takes long to prepare, and is in a checkpoint.
    """
    if not isinstance(checkpoint, str | os.PathLike | None):
        raise ValueError(f"fit: checkpoint must be the path of a file or None, got {checkpoint!r}")
    atoms, symmetry = task.atoms, task.atoms.symmetry
    identity = None
    ranks = Ranks.of_default_group(atoms.points.device)
    if checkpoint is not None or ranks.size > 1:
        group = [] if symmetry is None else symmetry.tensors
        numbers = [task.epsilon, float(task.seed), *([] if task.listed is None else [float(task.listed)])]
        identity = fit_fingerprint([atoms.points, atoms.weights, initial, *group], task.source, numbers)
    with ranks.together():
        ranks.require_same(identity, task.tol, task.max_samples, task.max_memory)
        session = Session(began, progress, checkpoint, identity, ranks)
        task = complete(task, session)
        solution = _one_atom(task) if len(atoms.points) == 1 else solve(task, initial, session)
    return solution, session


def task_of(
    points: Numbers,
    weights: Numbers | None,
    source: Source | None,
    epsilon: float,
    symmetry: Symmetry | None,
    tol: float,
    max_samples: int | None,
    seed: int,
    max_memory: int,
) -> Task:
    """The arguments of ``fit``, checked: equal rows are merged, and noise is standard normal where none is given.

    Raises:
        ValueError: bad data or arguments.
    """
    atoms = gather_atoms(points, weights, symmetry)
    source = Gaussian(atoms.points.shape[1]) if source is None else source
    seed, max_memory = _whole("seed", seed), count_of("fit", "max_memory", max_memory)
    max_samples = None if max_samples is None else _whole("max_samples", max_samples)
    _check_options(source, atoms, epsilon, tol, max_samples)
    if symmetry is not None:
        check_invariant("fit", source)
        if epsilon > 0:
            raise ValueError(
                f"fit: with a symmetry epsilon must be 0, got {epsilon:g}; give images as rows to smooth them"
            )
    return Task(atoms, source, float(epsilon), float(tol), max_samples, seed, max_memory)


def _check_options(source: Source, atoms: Atoms, epsilon: float, tol: float, max_samples: int | None) -> None:
    if not 0 < real_number(tol) < math.inf:
        raise ValueError(f"fit: tol must be a positive number, got {tol!r}")
    if not 0 <= real_number(epsilon) < math.inf:
        raise ValueError(f"fit: epsilon must be a number of at least 0, got {epsilon!r}")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"fit: max_samples must be at least 1, got {max_samples!r}")
    check_source("fit", source, atoms.points.shape[1])


def _whole(name: str, value: object) -> int:
    number = whole_number(value)
    if number is None:
        raise ValueError(f"fit: {name} must be an integer, got {value!r}")
    return number


def solve(task: Task, initial: Tensor | None, session: Session) -> Solution:
    """By exact masses where they are known, else by noise."""
    ranks = session.ranks
    rough, fine = posed(task, ranks)
    spent = 0
    if exact_applies(rough.problem) and not isinstance(session.state, StochasticState):
        alone = returned_of(task, fine)
        start = None if initial is None else initial / rough.problem.radius
        attempt, spent = ranks.from_first(
            lambda: (
                solve_exactly(rough.problem, alone, rough.residual, start, task.tol, task.seed, session),
                alone.draws,
            )
        )
        if attempt.solution is not None:
            return _in_space(attempt.solution, rough.rest)
        initial = initial if attempt.heights is None else rough.problem.radius * attempt.heights
    returned = returned_of(task, fine, ranks)
    start = None if initial is None else initial / fine.problem.radius
    solution = solve_stochastically(fine.problem, returned, start, task.tol, task.max_samples, task.seed, session)
    return dataclasses.replace(solution, evaluation_samples=solution.evaluation_samples + spent)


def returned_of(task: Task, fine: Posed, ranks: Ranks = ALONE) -> Returned:
    """What the fit will return, to be judged."""
    return Returned(task.atoms, task.source, task.epsilon, fine.problem.rows_at_once, ranks, task.shortlist)


@dataclass(frozen=True)
class Posed:
    """A problem in the span of its atoms, the cost across it, and how far rows are from it, in the problem's units."""

    problem: SemiDual
    rest: float
    residual: float


def posed(task: Task, ranks: Ranks = ALONE) -> tuple[Posed, Posed]:
    """The problem in the span of the rows in their own precision, and in float64; the same where both are alike."""
    atoms, source = task.atoms, task.source
    if task.shortlist is None:
        rough, fine = spans_of(atoms, source)
    else:
        rough = fine = Span(atoms.points, source)  # where its centres are
    found = []
    for span in [rough] if fine is rough else [rough, fine]:
        problem = SemiDual(
            span.points,
            atoms.weights,
            span.source,
            task.epsilon,
            task.max_memory,
            atoms.symmetry,
            ranks,
            task.shortlist,
        )
        found.append(Posed(problem, span.rest, span.residual / problem.radius))
    return found[0], found[-1]


def _one_atom(task: Task) -> Solution:
    """E|X - y|^2, exact where the source is normal; y the nearest image where there is a symmetry."""
    atoms, source = task.atoms, task.source
    point = atoms.points[0].double()
    zero = point.new_zeros(1)
    returned = Returned(atoms, source, task.epsilon, _DIRAC_DRAWS, shortlist=task.shortlist)
    potential = returned.potential(zero, double=False)
    if isinstance(potential, SymmetricDiscrete):
        value, half, draws = _orbit_cost(potential, task.seed)
    elif is_normal(source):
        value, half, draws = source.second_moment + float(point.square().sum()), 0.0, 0
    else:
        noise = draw(source, _DIRAC_DRAWS, generator_of(task.seed, device=point.device), torch.float64, point.device)
        terms = (noise - point).square().sum(1)
        value, half, draws = float(terms.mean()), 1.96 * float(terms.std()) / math.sqrt(len(terms)), len(terms)
    return Solution("one atom", potential, zero + 1, (), value, (value - half, value + half), 0, draws)


def _orbit_cost(potential: SymmetricDiscrete, seed: int) -> tuple[float, float, int]:
    """E|X - T(X)|^2 to the images of one atom, half of its 95% interval, and the draws."""
    points, generator = potential.points, generator_of(seed, device=potential.points.device)
    dtype = working_dtype(points)
    parts = []
    for count in chunk_sizes(_DIRAC_DRAWS, _DRAWS_AT_ONCE):
        noise = draw(potential.source, count, generator, dtype, points.device)
        parts.append((noise.double() - potential.brenier_map(noise).double()).square().sum(1))
    terms = torch.cat(parts)
    return float(terms.mean()), 1.96 * float(terms.std()) / math.sqrt(len(terms)), len(terms)


def _in_space(solution: Solution, rest: float) -> Solution:
    """The same with the transport across the atoms' span added to the cost."""
    low, high = solution.transport_cost_interval
    cost = solution.transport_cost + rest
    return dataclasses.replace(solution, transport_cost=cost, transport_cost_interval=(low + rest, high + rest))


def record_of(solution: Solution, task: Task, session: Session) -> dict[str, Any]:
    """The fields of a public record but for the potential, with a warning where the tolerance was not met."""
    chi2, stderr = (solution.history[-1].chi2, solution.history[-1].chi2_stderr) if solution.history else (0.0, 0.0)
    converged = chi2 + 2 * stderr <= task.tol
    low, high = solution.transport_cost_interval  # of points beyond 1e154, whose squares overflow, nothing is known
    if not converged:
        ended = "was interrupted" if solution.interrupted else "stopped"
        advice = "let it run longer" if solution.interrupted else solution.advice
        warnings.warn(
            f"fit {ended} at chi2 = {chi2:.3g} +- {stderr:.2g}, above tol = {task.tol:g}; {advice}, or use it with its "
            "cell_mass for the weights",
            ConvergenceWarning,
            4,
        )
    return {
        "method": solution.method,
        "chi2": chi2,
        "chi2_stderr": stderr,
        "converged": converged,
        "history": solution.history,
        "seconds": session.seconds,
        "cell_mass": solution.mass,
        "transport_cost": solution.transport_cost,
        "transport_cost_interval": (0.0 if math.isnan(low) else low, math.inf if math.isnan(high) else high),
        "samples_used": solution.samples_used,
        "evaluation_samples": solution.evaluation_samples,
        "atom_of_row": task.atoms.atom_of_row,
        "epsilon": task.epsilon,
        "seed": task.seed,
        "tol": task.tol,
        "interrupted": solution.interrupted,
    }
