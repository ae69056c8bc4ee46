"""Fits by averaged stochastic gradient: any source, dimension and smoothing, certified on fresh draws."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.semidiscrete.certificate import (
    Cost,
    bracketed,
    fresh_tally,
    mass_error,
    smooth_transport_cost,
    transport_cost,
)
from proxflow.semidiscrete.descent import Averages, Iterate, descend
from proxflow.semidiscrete.hierarchy import nested_groups
from proxflow.semidiscrete.problem import SemiDual, Tally
from proxflow.semidiscrete.result import Evaluation, Solution
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.start import scaled_start

__all__ = ["StochasticState", "solve_stochastically"]

_EVALUATION_SEED = 0x5EED_C0DE  # moves the evaluation stream away from the one that moves the heights
_COST_DRAWS = 1 << 17
_LOOK_DRAWS = 1 << 14  # of a quick evaluation
_LEAST_DRAWS = 1 << 17  # of a fit: below this the bias of W2^2 would show beside its standard error
_EXPECTED_EFFICIENCY = 1.6  # chi2 M / N of linearly weighted averaging, 4/3, over what two standard errors leave of tol


@dataclass(frozen=True)
class StochasticState:
    """A run at the end of a step: all that the next step depends on.

    Attributes:
        iterate: the descent.
        snapshots: its averages at each evaluation.
        history: the evaluations.
        tally: the assignments that the last one counted, None before the first.
        fresh: state of the generator of evaluations.
        evaluation_samples: draws spent on them.
        double: whether scores are taken in float64.
    """

    iterate: Iterate
    snapshots: tuple[Averages, ...]
    history: tuple[Evaluation, ...]
    tally: Tally | None
    fresh: Tensor
    evaluation_samples: int
    double: bool


def solve_stochastically(
    problem: SemiDual,
    initial: Tensor | None,
    tol: float,
    max_samples: int | None,
    seed: int,
    max_memory: int,
    session: Session,
) -> Solution:
    """Move the heights until chi2 + 2 stderr <= tol, the cap, or Ctrl-C; then certify what there is."""
    run = _Run(problem, initial, tol, max_samples, seed, session)
    try:
        while not run.finished:
            run.advance()
            session.save(run.state, now=False)
    except KeyboardInterrupt:
        session.report("interrupted: certifying the best so far; Ctrl-C again stops at once")
    session.save(run.state, now=True)
    return run.certify(max_memory)


class _Run:
    """One fit in progress: moves the heights, evaluates at growing intervals, and certifies the end."""

    def __init__(
        self,
        problem: SemiDual,
        initial: Tensor | None,
        tol: float,
        max_samples: int | None,
        seed: int,
        session: Session,
    ) -> None:
        self.problem, self.tol, self.session = problem, tol, session
        count, device = len(problem), problem.points.device
        self.cap = math.ceil(100 * count / tol) + _LEAST_DRAWS if max_samples is None else max_samples
        self.motion = torch.Generator(device).manual_seed(seed)
        self.fresh = torch.Generator(device).manual_seed(seed ^ _EVALUATION_SEED)
        self.groups = nested_groups(problem.points, problem.weights)
        self.state = session.state if isinstance(session.state, StochasticState) else self._begin(initial)
        self.motion.set_state(self.state.iterate.noise)
        self.fresh.set_state(self.state.fresh)
        problem.search_in(torch.float64 if self.state.double else torch.float32)

    def _begin(self, initial: Tensor | None) -> StochasticState:
        """The state before the first step: the first heights and the units of height."""
        self.problem.search_in(torch.float32)
        start = scaled_start(self.problem, self.groups, self.motion, initial)
        double = self.problem.choose_precision(start.units[0], start.heights)
        return StochasticState(Iterate.start(start, self.motion), (), (), None, self.fresh.get_state(), 0, double)

    @property
    def _least(self) -> float:
        """Draws before which the tolerance is not to be expected."""
        return min(max(_EXPECTED_EFFICIENCY * len(self.problem) / self.tol, _LEAST_DRAWS), self.cap)

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
            self.state = dataclasses.replace(
                self.state, iterate=descend(self.problem, self.groups, iterate, self.motion)
            )
        else:
            draws = self._draws()
            self.state = self._evaluated(draws if goal >= self._least else min(draws, _LOOK_DRAWS))

    def _draws(self) -> int:
        """Enough for a standard error of a tenth of the tolerance near the optimum; fewer where chi2 was far above."""
        last = self.state.history[-1].chi2 if self.state.history else 0.0
        return max(_LOOK_DRAWS, math.ceil(10 * math.sqrt(2 * len(self.problem)) / max(self.tol, last / 4)))

    def _evaluated(self, draws: int) -> StochasticState:
        """The state after one more look on fresh draws."""
        state, iterate = self.state, self.state.iterate
        tally = fresh_tally(self.problem, iterate.averages.heights, draws, self.fresh)
        error = mass_error(tally, self.problem.weights)
        look = Evaluation(iterate.samples_used, error.chi2, error.stderr, self.session.seconds)
        self.session.report(
            f"{look.samples_used:,} draws: chi2 = {error.chi2:.4g} +- {error.stderr:.2g}, wanted {self.tol:g}"
        )
        return dataclasses.replace(
            state,
            snapshots=(*state.snapshots, iterate.averages),
            history=(*state.history, look),
            tally=tally,
            fresh=self.fresh.get_state(),
            evaluation_samples=state.evaluation_samples + draws,
        )

    def certify(self, max_memory: int) -> Solution:
        """The solution as it is, with its masses and its cost."""
        if self.state.iterate.averages.weight == 0:
            self.advance()
        state = self._fully_evaluated()
        averages, tally, last = state.iterate.averages, state.tally, state.history[-1]
        mass = averages.heights.new_zeros(len(self.problem)) if tally is None else tally.mass
        draws = max(1 << 12, min(_COST_DRAWS, max_memory // (16 * (self.problem.source.dim + 3))))
        cost = self._cost(averages, draws)
        if last.chi2 + 2 * last.chi2_stderr > self.tol and self.problem.epsilon == 0:
            cost = bracketed(self.problem, averages.heights, mass, cost)
        return Solution(
            method="averaged gradient",
            heights=averages.heights,
            mass=mass,
            history=state.history,
            transport_cost=cost.value,
            transport_cost_interval=cost.interval,
            samples_used=state.iterate.samples_used,
            evaluation_samples=state.evaluation_samples + draws,
        )

    def _fully_evaluated(self) -> StochasticState:
        """The state with its last evaluation full and of the last heights; a quick one says what full means."""
        state = self.state
        if not state.history or state.history[-1].samples_used != state.iterate.samples_used:
            state = self.state = self._evaluated(min(self._draws(), _LOOK_DRAWS))
        if state.tally is None or state.tally.draws < self._draws():
            state = self.state = self._evaluated(self._draws())
        return state

    def _cost(self, averages: Averages, draws: int) -> Cost:
        if self.problem.epsilon > 0:
            return smooth_transport_cost(self.problem, averages.heights, draws, self.fresh)
        return transport_cost(self.problem, averages, self._half(averages), draws, self.fresh)

    def _half(self, whole: Averages) -> Averages:
        """The snapshot nearest to half of the averaging weight, or an artificial first step."""
        earlier = [part for part in self.state.snapshots if 0 < part.weight < whole.weight]
        if not earlier:
            return Averages(whole.heights, 0.5 * whole.weight, 0.5 * whole.squares)
        return min(earlier, key=lambda part: abs(part.weight / whole.weight - 0.5))


def _goal_after(used: int, least: float, cap: float) -> int:
    """The next number of draws to evaluate at: coarsely up to ``least``, then every 20%."""
    goals = [least * 2.0**-k for k in (3, 2, 1, 0)]
    while goals[-1] < min(used, cap):
        goals.append(goals[-1] * 1.2)
    later = [math.ceil(goal) for goal in goals if math.ceil(goal) > used]
    return min(later[0] if later else math.ceil(goals[-1] * 1.2), math.ceil(cap))
