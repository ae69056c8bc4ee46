"""Fit the extended Brenier potential of a finite data set (docs/theory.md 3)."""

from __future__ import annotations

import dataclasses
import math
import os
import time
import warnings

import torch
from torch import Tensor

from proxflow.checks import Numbers, real_number, whole_number
from proxflow.errors import ConvergenceWarning
from proxflow.measures import Gaussian, Source
from proxflow.potentials.discrete import Discrete
from proxflow.potentials.entropic import Entropic
from proxflow.seeding import generator_of
from proxflow.semidiscrete.exact import exact_applies, solve_exactly
from proxflow.semidiscrete.fit_result import Fit, Solution
from proxflow.semidiscrete.prepare import Atoms, gather_atoms, span_of
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.ranks import Ranks
from proxflow.semidiscrete.returned import Returned
from proxflow.semidiscrete.session import Session, fit_fingerprint
from proxflow.semidiscrete.start import carried_heights
from proxflow.semidiscrete.stochastic import StochasticState, solve_stochastically
from proxflow.torch_support import in_full_precision

__all__ = ["METHODS", "fit"]

METHODS = ("one atom", "quantiles", "damped Newton", "averaged gradient")

_DIRAC_DRAWS = 1 << 17  # samples for the cost of a single atom under a source without a known mean


@in_full_precision
def fit(
    points: Numbers,
    weights: Numbers | None = None,
    *,
    source: Source | None = None,
    epsilon: float = 0.0,
    tol: float = 1e-2,
    max_samples: int | None = None,
    seed: int = 0,
    warm_start: Fit | Discrete | Entropic | Tensor | None = None,
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
            Equal rows are merged.
        weights: (N,), not negative; equal if None.
        source: law of the noise; standard normal if None. ``measures.Empirical`` makes unpaired data a source.
        epsilon: smoothing, in units of the scores <u, y>; above 0 fits the entropic semi-dual of ``Entropic``.
        tol: tolerance on chi2.
        max_samples: cap on the draws that move the heights, 100 N / tol if None; the step that reaches it is finished.
        seed: seed of all randomness.
        warm_start: an earlier ``Fit`` or its potential, of the same atoms or with atoms added or moved; or heights
            (number of distinct atoms,).
        checkpoint: file to save the run in, every few seconds and at Ctrl-C. A call with the same arguments resumes
            from it and ends, bit by bit, as an uninterrupted one.
        max_memory: bytes for noise and scores.
        progress: show a status line; None shows one on a terminal.

    Returns:
        ``Fit``. Not converged (with a ``ConvergenceWarning``) it is still the exact flow of its ``cell_mass``.

    Raises:
        ValueError: bad data or arguments, a checkpoint of another fit, or processes that were given different ones;
            the message says what to do.
        ConnectionError: another process of the group stopped or failed.
    """
    began = time.perf_counter()
    atoms = gather_atoms(points, weights)
    source = Gaussian(atoms.points.shape[1]) if source is None else source
    seed, max_memory = _whole("seed", seed), _whole("max_memory", max_memory)
    max_samples = None if max_samples is None else _whole("max_samples", max_samples)
    _check_options(source, atoms, epsilon, tol, max_samples)
    epsilon, tol = float(epsilon), float(tol)
    initial = None if warm_start is None else carried_heights(warm_start, atoms.points)
    identity = None
    ranks = Ranks.of_default_group(atoms.points.device)
    if checkpoint is not None or ranks.size > 1:
        identity = fit_fingerprint([atoms.points, atoms.weights, initial], source, [epsilon, float(seed)])
    with ranks.together():
        ranks.require_same(identity, tol, max_samples, max_memory)
        session = Session(began, progress, checkpoint, identity, ranks)
        if len(atoms.points) == 1:
            solution = _one_atom(atoms, source, epsilon)
        else:
            solution = _solve(atoms, source, epsilon, initial, tol, max_samples, seed, max_memory, session)
    return _record(solution, atoms, epsilon, tol, seed, session)


def _check_options(source: Source, atoms: Atoms, epsilon: float, tol: float, max_samples: int | None) -> None:
    if not 0 < real_number(tol) < math.inf:
        raise ValueError(f"fit: tol must be a positive number, got {tol!r}")
    if not 0 <= real_number(epsilon) < math.inf:
        raise ValueError(f"fit: epsilon must be a number of at least 0, got {epsilon!r}")
    if max_samples is not None and max_samples < 1:
        raise ValueError(f"fit: max_samples must be at least 1, got {max_samples!r}")
    if source.dim != atoms.points.shape[1]:
        raise ValueError(f"fit: the source has dimension {source.dim}, the points {atoms.points.shape[1]}")


def _whole(name: str, value: object) -> int:
    number = whole_number(value)
    if number is None:
        raise ValueError(f"fit: {name} must be an integer, got {value!r}")
    return number


def _solve(
    atoms: Atoms,
    source: Source,
    epsilon: float,
    initial: Tensor | None,
    tol: float,
    max_samples: int | None,
    seed: int,
    max_memory: int,
    session: Session,
) -> Solution:
    """By exact masses where they are known, else by noise."""
    spans = [span_of(atoms.points, source, precision) for precision in (atoms.points.dtype, torch.float64)]
    ranks = session.ranks
    problems = [SemiDual(span.points, atoms.weights, span.source, epsilon, max_memory, ranks) for span in spans]
    spent = 0
    if exact_applies(problems[0]) and not isinstance(session.state, StochasticState):
        problem, residual = problems[0], spans[0].residual / problems[0].radius
        alone = Returned(atoms, source, epsilon, problems[1].rows_at_once)
        start = None if initial is None else initial / problem.radius
        attempt, spent = ranks.from_first(
            lambda: (solve_exactly(problem, alone, residual, start, tol, seed, session), alone.draws)
        )
        if attempt.solution is not None:
            return _in_space(attempt.solution, spans[0].rest)
        initial = initial if attempt.heights is None else problem.radius * attempt.heights
    returned = Returned(atoms, source, epsilon, problems[1].rows_at_once, ranks)
    start = None if initial is None else initial / problems[1].radius
    solution = solve_stochastically(problems[1], returned, start, tol, max_samples, seed, max_memory, session)
    solution = dataclasses.replace(solution, evaluation_samples=solution.evaluation_samples + spent)
    return _in_space(solution, spans[1].rest)


def _one_atom(atoms: Atoms, source: Source, epsilon: float) -> Solution:
    """E|X - y|^2, exact where the source is normal."""
    point = atoms.points[0].double()
    zero = point.new_zeros(1)
    if isinstance(source, Gaussian):
        value, half, draws = source.second_moment + float(point.square().sum()), 0.0, 0
    else:
        noise = source.sample(_DIRAC_DRAWS, generator=generator_of(0), dtype=torch.float64)
        terms = (noise - point.to(noise)).square().sum(1)
        value, half, draws = float(terms.mean()), 1.96 * float(terms.std()) / math.sqrt(len(terms)), len(terms)
    potential = Returned(atoms, source, epsilon, draws).potential(zero, double=False)
    return Solution("one atom", potential, zero + 1, (), value, (value - half, value + half), 0, draws)


def _in_space(solution: Solution, rest: float) -> Solution:
    """The same with the transport across the atoms' span added to the cost."""
    low, high = solution.transport_cost_interval
    cost = solution.transport_cost + rest
    return dataclasses.replace(solution, transport_cost=cost, transport_cost_interval=(low + rest, high + rest))


def _record(solution: Solution, atoms: Atoms, epsilon: float, tol: float, seed: int, session: Session) -> Fit:
    """The public record, with a warning where the tolerance was not met."""
    chi2, stderr = (solution.history[-1].chi2, solution.history[-1].chi2_stderr) if solution.history else (0.0, 0.0)
    converged = chi2 + 2 * stderr <= tol
    low, high = solution.transport_cost_interval  # of points beyond 1e154, whose squares overflow, nothing is known
    if not converged:
        message = f"fit stopped at chi2 = {chi2:.3g} +- {stderr:.2g}, above tol = {tol:g}; "
        warnings.warn(f"{message}{solution.advice}, or use it as the flow of its cell_mass", ConvergenceWarning, 4)
    return Fit(
        potential=solution.potential,
        method=solution.method,
        chi2=chi2,
        chi2_stderr=stderr,
        converged=converged,
        history=solution.history,
        seconds=session.seconds,
        cell_mass=solution.mass,
        transport_cost=solution.transport_cost,
        transport_cost_interval=(0.0 if math.isnan(low) else low, math.inf if math.isnan(high) else high),
        samples_used=solution.samples_used,
        evaluation_samples=solution.evaluation_samples,
        atom_of_row=atoms.atom_of_row,
        epsilon=epsilon,
        seed=seed,
        tol=tol,
    )
