"""Fits by averaged stochastic gradient: any source, dimension and smoothing, certified on fresh draws.

Problem: the heights h that minimise the semi-dual J(h) = E max_j (<X, y_j> - h_j) + <b, h>, whose gradient is
b - mass(h); for epsilon > 0 the maximum is a softmax. Method: ``Descent`` moves the heights on fresh noise and averages
them (Polyak and Juditsky 1992, with weights that grow linearly). From time to time the potential that would be
returned now is judged by draws of a stream of its own.

Invariant: a run is a frozen state, generators included, that each step replaces; Ctrl-C finds the last complete one,
and a checkpoint is that state in a file. Stops when chi2 + 2 standard errors of such a judgement is at most tol, at the
cap on draws, or at Ctrl-C; the result says which.

Cost: one search over the N atoms a draw; chi2 of M draws is 4/3 N / M for the averages, where independent draws could
reach no less than N / M. Judging takes a fixed share of that, since it is done every 20% more draws.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxflow.seeding import generator_of
from proxflow.semidiscrete.certificate import (
    LEAST_DRAWS,
    Cost,
    bracketed,
    draws_to_judge,
    mass_error,
    searches_for_cost,
    smooth_transport_cost,
    transport_cost,
)
from proxflow.semidiscrete.descent import Averages, Descent, Iterate
from proxflow.semidiscrete.fit_result import Evaluation, FittedPotential, Solution
from proxflow.semidiscrete.light import LightAtoms
from proxflow.semidiscrete.problem import GAP_DRAWS, SemiDual, Tally
from proxflow.semidiscrete.returned import Returned
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.start import scaled_start
from proxflow.storage import storable

__all__ = ["Expected", "Run", "StochasticState", "solve_stochastically"]

_MOTION, _EVALUATION, _MOMENT = range(3)  # streams of a seed: move the heights, judge them, tell a second moment
_COST_DRAWS = 1 << 15, 1 << 17  # for W2^2: a standard error of a few thousandths of the spread of costs
_COST_SHARE = 4  # W2^2 is taken on a draw for every so many that moved the heights, between these
_LIGHT_SHARE = 0.05  # of the tolerance: what atoms too light for the draws may add to chi2 together
_LEAST_DRAWS = 1 << 17  # of a fit: below this the bias of W2^2 would show beside its standard error
_USUAL_EFFICIENCY = 1.2  # chi2 M / N as measured: 1.1 to 1.3; the theory's limit for many draws is 4/3
_EXPECTED_EFFICIENCY = 1.6  # chi2 M / N of linearly weighted averaging, 4/3, over what two standard errors leave of tol


@storable
@dataclass(frozen=True)
class StochasticState:
    """A run at the end of a step: all that the next step depends on.

    Attributes:
        iterate: the descent.
        snapshots: its averages at each evaluation.
        history: the evaluations.
        tally: the assignments that the last one counted on the potential to be returned, None if it was a quick one.
        fresh: state of the generator of evaluations.
        evaluation_samples: draws spent on them.
        double: whether scores are taken in float64.
        light: (N,) which atoms have heights that bound their cells.
    """

    iterate: Iterate
    snapshots: tuple[Averages, ...]
    history: tuple[Evaluation, ...]
    tally: Tally | None
    fresh: Tensor
    evaluation_samples: int
    double: bool
    light: Tensor


@dataclass(frozen=True)
class Expected:
    """Draws that a run is expected to take.

    Attributes:
        moving: that move the heights.
        quick: that judge them on the way, in the problem's own units.
        judging: that judge the potential to be returned.
        cost: that W2^2 is taken on.
        cost_searches: searches for it, of several heights each.
    """

    moving: int
    quick: int
    judging: int
    cost: int
    cost_searches: int


def solve_stochastically(
    problem: SemiDual,
    returned: Returned,
    initial: Tensor | None,
    tol: float,
    max_samples: int | None,
    seed: int,
    max_memory: int,
    session: Session,
) -> Solution:
    """Move the heights until chi2 + 2 stderr <= tol, the cap, or Ctrl-C; then certify what there is."""
    with session.ranks.interruptible():
        run = Run(problem, returned, initial, tol, max_samples, seed, session)
        try:
            while not run.finished:
                run.advance()
                session.save(run.state, now=False)
        except KeyboardInterrupt:
            session.report("interrupted: certifying the best so far; Ctrl-C again stops at once")
        session.save(run.state, now=True)
        with session.ranks.interruptible():
            return run.certify(max_memory)


class Run:
    """One fit in progress: moves the heights, evaluates at growing intervals, and certifies the end."""

    def __init__(
        self,
        problem: SemiDual,
        returned: Returned,
        initial: Tensor | None,
        tol: float,
        max_samples: int | None,
        seed: int,
        session: Session,
    ) -> None:
        self.problem, self.returned, self.tol, self.session = problem, returned, tol, session
        count, device = len(problem), problem.points.device
        self.cap = math.ceil(100 * count / tol) + _LEAST_DRAWS if max_samples is None else max_samples
        self.motion = generator_of(seed, _MOTION, device=device)
        self.fresh = generator_of(seed, _EVALUATION, device=device)
        self.descent = Descent(problem)
        self.light = self._light_atoms(generator_of(seed, _MOMENT, device=device))
        resumed = session.state
        self._seed = seed
        self.state = self._resumed(resumed) if isinstance(resumed, StochasticState) else self._begin(initial)
        self.motion.set_state(self.state.iterate.noise)
        self.fresh.set_state(self.state.fresh)
        problem.search_in(torch.float64 if self.state.double else torch.float32)

    def _begin(self, initial: Tensor | None) -> StochasticState:
        """The state before the first step: the first heights and the units of height."""
        self.problem.search_in(torch.float32)
        start = scaled_start(self.problem, self.descent.groups, self.motion, initial)
        spent = self.light.draws + start.samples_used
        double = self.problem.needs_double(start.small_gap, self.light.bounded(start.heights, torch.float32))
        if double:  # rounding ruled the gaps that were measured
            self.problem.search_in(torch.float64)
            start = scaled_start(self.problem, self.descent.groups, self.motion, initial)
            spent += start.samples_used
        heights = self.light.bounded(start.heights, self.problem.dtype)
        iterate = Iterate.start(dataclasses.replace(start, heights=heights, samples_used=spent), self.motion)
        return StochasticState(iterate, (), (), None, self.fresh.get_state(), 0, double, self.light.light)

    def _resumed(self, state: StochasticState) -> StochasticState:
        """A state from a checkpoint; with another tolerance other atoms may be light, which makes another potential."""
        state = self._with_noise_of_here(_on_device(state, self.problem.points.device))
        if torch.equal(state.light, self.light.light):
            return state
        return dataclasses.replace(state, history=(), tally=None, light=self.light.light)

    def _with_noise_of_here(self, state: StochasticState) -> StochasticState:
        """The state, from here on with other noise if it began on another kind of device, which draws otherwise."""
        if state.fresh.shape == self.fresh.get_state().shape:
            return state
        iterate, device = state.iterate, self.problem.points.device
        motion, fresh = (
            generator_of(self._seed, stream, iterate.samples_used, device=device).get_state()
            for stream in (_MOTION, _EVALUATION)
        )
        return dataclasses.replace(state, iterate=dataclasses.replace(iterate, noise=motion), fresh=fresh)

    def _light_atoms(self, generator: torch.Generator) -> LightAtoms:
        """Those that the draws of a fit hit less than once; none where the assignment is a softmax over all atoms."""
        share = _LIGHT_SHARE * self.tol if self.problem.epsilon == 0 else 0.0
        return LightAtoms(self.problem, 1 / self._wanted, share, generator)

    @property
    def _wanted(self) -> float:
        """Draws that the tolerance is expected to take."""
        return max(_EXPECTED_EFFICIENCY * self.descent.inflation * len(self.problem) / self.tol, _LEAST_DRAWS)

    @property
    def _least(self) -> float:
        """Draws before which the tolerance is not to be expected."""
        return min(self._wanted, self.cap)

    @property
    def finished(self) -> bool:
        """Whether the last full evaluation met the tolerance, or the draws are used up."""
        if not self.state.history:
            return False
        last = self.state.history[-1]
        met = last.samples_used >= self._least and last.chi2 + 2 * last.chi2_stderr <= self.tol
        return met or last.samples_used >= self.cap

    def advance(self) -> None:
        """One step, and an evaluation where one is due."""
        iterate = self.state.iterate
        evaluated = self.state.history[-1].samples_used if self.state.history else 0
        goal = _goal_after(evaluated, self._least, self.cap)
        if iterate.samples_used < goal or iterate.steps == 0:
            self.step()
        else:
            self.state = self._certified() if goal >= self._least else self._evaluated_quickly()

    def step(self) -> None:
        """One step, without an evaluation."""
        iterate = self.descent.step(self.state.iterate, self.motion)
        self.state = dataclasses.replace(self.state, iterate=iterate)

    def _draws(self) -> int:
        last = self.state.history[-1].chi2 if self.state.history else 0.0
        return draws_to_judge(len(self.problem), self.tol, last)

    def _evaluated_quickly(self) -> StochasticState:
        """The state after a quick evaluation, in the problem's own units."""
        draws = min(LEAST_DRAWS, self.problem.rows_at_once)
        tally = self.problem.count(self.problem.noise(draws, self.fresh), self.heights)
        return dataclasses.replace(self._evaluated(tally), tally=None)

    def _certified(self) -> StochasticState:
        """The state after an evaluation of the potential that would be returned now."""
        return self._evaluated(self.returned.tally(self.potential, self._draws(), self.fresh))

    @property
    def heights(self) -> Tensor:
        """The averaged heights, in the problem's units, with light atoms where their cells are bounded, (N,)."""
        return self.light.bounded(self.state.iterate.averages.heights, self.problem.dtype)

    @property
    def potential(self) -> FittedPotential:
        """What the fit would return now."""
        return self.returned.potential(self.problem.radius * self.heights, self.state.double)

    def _evaluated(self, tally: Tally) -> StochasticState:
        state, iterate = self.state, self.state.iterate
        error = mass_error(tally, self.problem.weights)
        evaluation = Evaluation(iterate.samples_used, error.chi2, error.stderr, self.session.seconds)
        self.session.report(
            f"{evaluation.samples_used:,} draws: chi2 = {error.chi2:.4g} +- {error.stderr:.2g}, wanted {self.tol:g}"
        )
        evaluated = dataclasses.replace(
            state,
            snapshots=(*state.snapshots, iterate.averages),
            history=(*state.history, evaluation),
            tally=tally,
            fresh=self.fresh.get_state(),
            evaluation_samples=state.evaluation_samples + tally.draws,
        )
        return self.session.ranks.from_first(lambda: evaluated)

    def expected(self, max_memory: int) -> Expected:
        """The draws until the tolerance or the cap, by the plan of evaluations and the usual chi2 M / N."""
        count, moving, quick, judging, met = len(self.problem), 0, 0, 0, False
        while not met and moving < self.cap:
            moving = _goal_after(moving, self._least, self.cap)
            if moving < self._least:
                quick += LEAST_DRAWS
                continue
            chi2 = _USUAL_EFFICIENCY * self.descent.inflation * count / moving
            draws = draws_to_judge(count, self.tol, chi2)
            judging += draws
            met = chi2 + 2 * math.sqrt(2 * count / draws**2 + 4 * chi2 / draws) <= self.tol
        cost = _cost_draws(self.problem, moving, max_memory)
        if self.problem.epsilon > 0:
            return Expected(moving, quick, judging, cost, cost)
        return Expected(moving, quick, judging, *searches_for_cost(cost))

    def certify(self, max_memory: int) -> Solution:
        """The solution as it is, with its masses and its cost."""
        if self.state.iterate.averages.weight == 0:
            self.advance()
        state = self._fully_evaluated()
        tally, last = state.tally, state.history[-1]
        mass = self.problem.weights.new_zeros(len(self.problem)) if tally is None else tally.mass
        cost = self._cost(_cost_draws(self.problem, state.iterate.samples_used, max_memory))
        missed = last.chi2 + 2 * last.chi2_stderr > self.tol
        if missed and self.problem.epsilon == 0:
            cost = bracketed(self.problem, self.heights, mass, cost)
        return Solution(
            method="averaged gradient",
            potential=self.potential,
            mass=mass,
            history=state.history,
            transport_cost=cost.value,
            transport_cost_interval=cost.interval,
            samples_used=state.iterate.samples_used,
            evaluation_samples=state.evaluation_samples + cost.draws + (GAP_DRAWS if missed else 0),
            advice=self._advice() if missed else "raise max_samples",
        )

    def _advice(self) -> str:
        """What may help a fit that missed its tolerance."""
        heights = self.heights
        gap = self.problem.small_gap(heights, self.fresh) + self.problem.epsilon
        if self.problem.blurred(gap, heights, torch.float64):
            return "float64 does not tell the scores of some rows apart: merge or drop rows that are nearly equal"
        return "raise max_samples"

    def _fully_evaluated(self) -> StochasticState:
        """The state with its last evaluation full and of the last heights; a quick one says what full means."""
        state = self.state
        if not state.history or state.history[-1].samples_used != state.iterate.samples_used:
            state = self.state = self._evaluated_quickly()
        if state.tally is None or state.tally.draws < self._draws():
            state = self.state = self._certified()
        return state

    def _cost(self, draws: int) -> Cost:
        if self.problem.epsilon > 0:
            return smooth_transport_cost(self.problem, self.heights, draws, self.fresh)
        whole = self.state.iterate.averages
        return transport_cost(self.problem, self.light, whole, self._half(whole), draws, self.fresh)

    def _half(self, whole: Averages) -> Averages:
        """The snapshot nearest to half of the averaging weight, or an artificial first step."""
        earlier = [part for part in self.state.snapshots if 0 < part.weight < whole.weight]
        if not earlier:
            return Averages(whole.heights, 0.5 * whole.weight, 0.5 * whole.squares)
        return min(earlier, key=lambda part: abs(part.weight / whole.weight - 0.5))


def _on_device(value: Any, device: torch.device) -> Any:
    """A state that was read onto the CPU, on another device; states of generators stay, as they do on any device."""
    if isinstance(value, Tensor):
        return value if value.dtype == torch.uint8 else value.to(device)
    if isinstance(value, tuple):
        return tuple(_on_device(entry, device) for entry in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    names = (field.name for field in dataclasses.fields(value))
    return dataclasses.replace(value, **{name: _on_device(getattr(value, name), device) for name in names})


def _cost_draws(problem: SemiDual, moved: int, max_memory: int) -> int:
    """For W2^2, after so many draws that moved the heights."""
    least, most = _COST_DRAWS
    return max(1 << 12, min(max(least, moved // _COST_SHARE), most, max_memory // (16 * (problem.source.dim + 3))))


def _goal_after(used: int, least: float, cap: float) -> int:
    """The next number of draws to evaluate at: coarsely up to ``least``, then every 20%."""
    goals = [least * 2.0**-k for k in (3, 2, 1, 0)]
    while goals[-1] < min(used, cap):
        goals.append(goals[-1] * 1.2)
    later = [math.ceil(goal) for goal in goals if math.ceil(goal) > used]
    return min(later[0] if later else math.ceil(goals[-1] * 1.2), math.ceil(cap))
