"""Fits without noise: normal source, atoms spanning at most three dimensions, cells of known geometry."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.gaussian_cells import LARGEST_DIMENSION, GaussianCells
from proxflow.measures import Gaussian
from proxflow.semidiscrete.certificate import Cost, bracketed, fresh_tally, mass_error
from proxflow.semidiscrete.newton import DampedNewton, NewtonState, missing_dual
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.result import Evaluation, Solution
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.start import marginal_form

__all__ = ["ExactState", "exact_applies", "solve_exactly"]

_MOST_ATOMS = {1: 1_000_000, 2: 200_000, 3: 30_000}  # more than these take minutes
_CHECK_DRAWS = 1 << 16
_CHECK_DEVIATIONS = 6.0
_COST_ROUNDINGS = 1e-13


@dataclass(frozen=True)
class ExactState:
    """A run at the end of a step: where Newton's method stands, and how it came there."""

    newton: NewtonState
    history: tuple[Evaluation, ...]


def exact_applies(problem: SemiDual) -> bool:
    """Whether masses of cells are known in closed form, for this source, dimension and number of atoms."""
    dim = problem.source.dim
    small = dim <= LARGEST_DIMENSION and len(problem) <= _MOST_ATOMS[dim]
    return small and problem.epsilon == 0 and isinstance(problem.source, Gaussian)


def solve_exactly(
    problem: SemiDual, initial: Tensor | None, tol: float, seed: int, dtype: torch.dtype, session: Session
) -> Solution | None:
    """Heights whose masses are right to rounding; None where floating point cannot hold the geometry.

    The masses reported are those of the heights as they will be stored, in ``dtype``. They are compared with the
    counts of fresh draws before they are believed.
    """
    newton = _start(problem, initial, session.state)
    if newton is None:
        return None
    state = ExactState(newton.state, session.state.history if isinstance(session.state, ExactState) else ())
    try:
        while not state.newton.finished:
            newton.step()
            look = Evaluation(0, newton.chi2, 0.0, session.seconds)
            state = ExactState(newton.state, (*state.history, look))
            session.report(f"Newton step {newton.state.steps}: chi2 = {newton.chi2:.3g}")
            session.save(state, now=newton.state.finished)
    except KeyboardInterrupt:
        session.report("interrupted: certifying the best so far")
        session.save(state, now=True)
    else:
        if newton.chi2 > tol:
            session.report("Newton stopped short: going on with stochastic steps")
            return None
    heights = ((problem.radius * state.newton.heights).to(dtype).double()) / problem.radius
    cells = newton.cells_at(heights)
    if cells is None or not _confirmed(problem, heights, cells, seed):
        session.report("the cells are too degenerate for exact masses: going on with stochastic steps")
        return None
    chi2 = float(((cells.mass - problem.weights.cpu()).square() / problem.weights.cpu()).sum())
    cost = _transport_cost(problem, heights, cells)
    if chi2 > tol:
        cost = bracketed(problem, heights.to(problem.weights.device), cells.mass.to(problem.weights.device), cost)
    return Solution(
        method="quantiles" if problem.source.dim == 1 else "damped Newton",
        heights=heights.to(problem.weights.device),
        mass=cells.mass.to(problem.weights.device),
        history=(*state.history, Evaluation(0, chi2, 0.0, session.seconds)),
        transport_cost=cost.value,
        transport_cost_interval=cost.interval,
        samples_used=0,
        evaluation_samples=_CHECK_DRAWS,
    )


def _start(problem: SemiDual, initial: Tensor | None, resumed: object) -> DampedNewton | None:
    """From the state of an interrupted run, else the given heights, else the marginals; the first without empty cells.

    On the line the marginal form is the answer: the edges of its cells are quantiles.
    """
    unused = torch.Generator()  # marginals of a normal source are known
    earlier = resumed.newton if isinstance(resumed, ExactState) else None
    for candidate in (earlier, initial, marginal_form(problem, unused)):
        if candidate is None:
            continue
        try:
            return DampedNewton(problem, candidate)
        except ValueError:
            continue
    return None


def _confirmed(problem: SemiDual, heights: Tensor, cells: GaussianCells, seed: int) -> bool:
    """Whether counts of fresh draws agree with the masses."""
    device = problem.weights.device
    if not abs(float(cells.mass.sum()) - 1) < 1e-6 or float(cells.mass.min()) < 0:
        return False
    problem.search_in(torch.float64)
    generator = torch.Generator(device).manual_seed(seed)
    tally = fresh_tally(problem, heights.to(device), _CHECK_DRAWS, generator)
    error = mass_error(tally, cells.mass.to(device).clamp(min=1e-12))
    return abs(error.chi2) <= _CHECK_DEVIATIONS * error.stderr


def _transport_cost(problem: SemiDual, heights: Tensor, cells: GaussianCells) -> Cost:
    """The dual value, E|X|^2 + E_b|y|^2 - 2 J(h), exact; at heights this good it is W2^2 to second order.

    By the divergence theorem E[X; cell j] is minus the sum of the normals of its faces times their measure, so that
    E phi(X) = sum over faces of weight |y_i - y_j|^2, less <h, m>.
    """
    points, weights = problem.points.cpu(), problem.weights.cpu()
    span = (points[cells.left] - points[cells.right]).square().sum(1)
    expected = float(cells.weight @ span - heights @ cells.mass)
    semi_dual = problem.radius * (expected + float(weights @ heights))
    source, target = float(problem.source.dim), float(problem.square_norms() @ problem.weights)
    value = source + target - 2 * semi_dual
    rounding = _COST_ROUNDINGS * (source + target + 2 * abs(semi_dual))
    missing = 2 * problem.radius * missing_dual(cells, weights)
    return Cost(value, (value - rounding, value + 2 * missing + rounding), value)
