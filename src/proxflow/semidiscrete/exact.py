"""Fits without noise: normal source, atoms spanning at most three dimensions, cells of known geometry.

Damped Newton on the exact masses, from the potential of independent marginals, which on the line is the answer. The
masses are then taken at the heights as they are returned, and believed only if counts of fresh draws that the returned
potential assigns agree with them. Where the start has an empty cell, Newton stops short, or the counts disagree, the
best heights are handed to the stochastic solver as its start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.gaussian_cells import LARGEST_DIMENSION, GaussianCells
from proxflow.kernels.geometry import square_norms
from proxflow.measures import is_normal
from proxflow.seeding import generator_of
from proxflow.semidiscrete.certificate import Cost, MassError, bracketed, mass_error
from proxflow.semidiscrete.damped_newton import DampedNewton, NewtonState, missing_dual
from proxflow.semidiscrete.evaluation_plan import draws_to_judge
from proxflow.semidiscrete.fit_result import Evaluation, Solution
from proxflow.semidiscrete.light import LightAtoms
from proxflow.semidiscrete.problem import GAP_DRAWS, SemiDual, Tally, inner
from proxflow.semidiscrete.returned import Returned
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.start import marginal_form
from proxflow.storage import storable

__all__ = ["Attempt", "ExactState", "exact_applies", "solve_exactly"]

_MOST_ATOMS = {1: 1_000_000, 2: 200_000, 3: 30_000}  # more than these take minutes
_LEAST_MASS = 1e-13  # of a cell whose mass has digits beside the rounding of the others
_LIGHT_SHARE = 0.05  # of the tolerance: what lighter atoms may add to chi2 together
_NEGLIGIBLE_RESIDUAL = 1e-3  # of a small gap between scores: below it masses differ by less than counts can tell
_ROUNDING_SHARE = 1e-3  # of the tolerance: what rounding heights to float32 may add to chi2
_CHECK_DRAWS = 1 << 16  # that the potential assigns before masses are believed
_CHECK_DEVIATIONS = 6.0  # standard errors that their counts may be off together
_LEAST_CHANCE = 1e-9  # that some cell's count would be so far off if the masses were right
_COST_ROUNDINGS = 1e-13  # relative to the terms of the cost


@storable
@dataclass(frozen=True)
class ExactState:
    """A run at the end of a step: where Newton's method stands, and how it came there."""

    newton: NewtonState
    history: tuple[Evaluation, ...]


def exact_applies(problem: SemiDual) -> bool:
    """Whether masses of cells are known in closed form, for this source, dimension and number of atoms."""
    dim = problem.source.dim
    small = dim <= LARGEST_DIMENSION and len(problem) <= _MOST_ATOMS[dim]
    plain = problem.epsilon == 0 and problem.symmetry is None and problem.shortlist is None
    return small and plain and is_normal(problem.source)


@dataclass(frozen=True)
class Attempt:
    """The solution, None where it does not hold; and the best heights (N,) of the way there, None without any."""

    solution: Solution | None
    heights: Tensor | None = None


def solve_exactly(
    problem: SemiDual,
    returned: Returned,
    residual: float,
    initial: Tensor | None,
    tol: float,
    seed: int,
    session: Session,
) -> Attempt:
    """Heights whose masses are right to rounding, unless floating point cannot hold the geometry.

    The masses reported are those of the heights as they are returned, compared with the counts of fresh draws that the
    potential itself assigns before they are believed. Where its atoms are ``residual`` (in the problem's units) off
    the span in which the masses are known, and that is not far below the gaps between scores, those counts are the
    certificate. Atoms too light for the rounding of masses are left out of the geometry, and get heights that bound
    their cells.
    """
    unused = torch.Generator()  # everything about a normal source is known
    light = LightAtoms(problem, _LEAST_MASS, _LIGHT_SHARE * tol, unused)
    solved = problem.restricted(~light.light)
    newton = _start(solved, None if initial is None else initial[solved.rows], session.state)
    if newton is None:
        return Attempt(None)
    history, interrupted = _run(newton, session)
    if newton.chi2 > tol and newton.state.finished:
        session.report("Newton stopped short: falling back to the stochastic solver")
        return Attempt(None)
    found = problem.weights.new_zeros(len(problem))
    found[solved.rows] = newton.state.heights.to(found)
    heights = light.bounded(found, torch.float64)
    generator = generator_of(seed, device=heights.device)
    gap = problem.small_gap(heights, generator)
    returned.draws += GAP_DRAWS
    double = problem.needs_double(gap, heights)
    narrow = light.bounded(found, torch.float64 if double else torch.float32)
    potential = returned.potential(problem.radius * narrow, double)
    stored = potential.heights.double() / problem.radius
    cells = newton.cells_at(stored[solved.rows].cpu())
    if not double and (cells is None or cells.chi2(solved.weights) > _ROUNDING_SHARE * tol):
        potential = returned.potential(problem.radius * heights, True)
        stored = potential.heights.double() / problem.radius
        cells = newton.cells_at(stored[solved.rows].cpu())
    if cells is None:
        _refuse_to_go_on(interrupted)
        return Attempt(None, heights)
    mass = torch.zeros_like(heights)
    mass[solved.rows] = cells.mass.to(mass)
    cost = _transport_cost(problem, solved, stored, cells)
    if residual <= _NEGLIGIBLE_RESIDUAL * gap:
        confirmed = _confirmed(returned.judge(potential, _CHECK_DRAWS, generator).tally, mass)
        error = MassError(float(((mass - problem.weights).square() / problem.weights).sum()), 0.0)
    else:
        tally = returned.judge(potential, draws_to_judge(len(problem), tol), generator).tally
        error, mass = mass_error(tally, problem.weights), tally.mass
        confirmed = interrupted or error.chi2 + 2 * error.stderr <= tol  # counts are a certificate of any heights
    if not confirmed:
        _refuse_to_go_on(interrupted)
        session.report("the masses are not those of the potential: falling back to the stochastic solver")
        return Attempt(None, heights)
    if error.chi2 > tol:
        cost = bracketed(problem, returned.atom_costs(potential), mass, cost)
    solution = Solution(
        method="quantiles" if problem.source.dim == 1 else "damped Newton",
        potential=potential,
        mass=mass,
        history=(*history, Evaluation(0, error.chi2, error.stderr, session.seconds)),
        transport_cost=cost.value,
        transport_cost_interval=cost.interval,
        samples_used=0,
        evaluation_samples=returned.draws,
        interrupted=interrupted,
    )
    return Attempt(solution, heights)


def _refuse_to_go_on(interrupted: bool) -> None:
    """Ctrl-C ends a fit that has nothing to show yet, in place of beginning anew by noise; its state is saved."""
    if interrupted:
        raise KeyboardInterrupt


def _run(newton: DampedNewton, session: Session) -> tuple[tuple[Evaluation, ...], bool]:
    """Steps until nothing is left to gain, or Ctrl-C; what each reached, and whether it was Ctrl-C."""
    state = ExactState(newton.state, session.state.history if isinstance(session.state, ExactState) else ())
    interrupted = False
    try:
        while not state.newton.finished:
            newton.step()
            evaluation = Evaluation(0, newton.chi2, 0.0, session.seconds)
            state = ExactState(newton.state, (*state.history, evaluation))
            session.report(f"Newton step {newton.state.steps}: chi2 = {newton.chi2:.3g}")
            session.save(state, now=newton.state.finished)
    except KeyboardInterrupt:
        interrupted = True
        session.report("interrupted: certifying the best so far")
        session.save(state, now=True)
    return state.history, interrupted


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


def _confirmed(tally: Tally, mass: Tensor) -> bool:
    """Whether counts of fresh draws agree with the masses: all of them together, and each cell by its Poisson tails."""
    if not abs(float(mass.sum()) - 1) < 1e-6 or float(mass.min()) < 0:
        return False
    chi2 = mass_error(tally, mass.clamp(min=_LEAST_MASS)).chi2
    spread = math.sqrt(2 * len(mass)) / tally.draws  # of chi2 where the masses are right
    expected = (tally.draws * mass).clamp(min=tally.draws * _LEAST_MASS)
    counts = tally.total.to(expected)
    above = torch.where(counts > 0, torch.special.gammainc(counts.clamp(min=1), expected), 1.0)
    below = torch.special.gammaincc(counts + 1, expected)
    likely = torch.minimum(above, below) * len(mass) >= _LEAST_CHANCE
    return abs(chi2) <= _CHECK_DEVIATIONS * spread and bool(likely.all())


def _transport_cost(problem: SemiDual, solved: SemiDual, heights: Tensor, cells: GaussianCells) -> Cost:
    """The dual value, E|X|^2 + E_b|y|^2 - 2 J(h), exact; at heights this good it is W2^2 to second order.

    By the divergence theorem E[X; cell j] is minus the sum of the normals of its faces times their measure, so that
    E phi(X) = sum over faces of weight |y_i - y_j|^2, less <h, m>. ``cells`` are those of ``solved``, the problem
    without light atoms, which raise phi by nothing that can be told.
    """
    points, weights = solved.points.to(torch.float64).cpu(), solved.weights.cpu()
    span = (points[cells.left] - points[cells.right]).square().sum(1)
    expected = float(inner(cells.weight, span) - inner(heights[solved.rows].cpu(), cells.mass))
    semi_dual = problem.radius * (expected + float(inner(problem.weights, heights)))
    source, target = float(problem.source.dim), float(inner(square_norms(problem.points.rows), problem.weights))
    value = source + target - 2 * semi_dual
    rounding = _COST_ROUNDINGS * (source + target + 2 * abs(semi_dual))
    missing = 2 * problem.radius * missing_dual(cells, weights)
    return Cost(value, (value - rounding, value + 2 * missing + rounding), value)
