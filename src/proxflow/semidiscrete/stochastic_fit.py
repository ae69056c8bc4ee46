"""Fits by averaged stochastic gradient: any source, dimension and smoothing, certified on fresh draws.

Problem: the heights h that minimise the semi-dual J(h) = E max_j (<X, y_j> - h_j) + <b, h>, whose gradient is
b - mass(h); for epsilon > 0 the maximum is a softmax. Method: ``Descent`` moves the heights on fresh noise and averages
them (Polyak and Juditsky 1992, with weights that grow). From time to time they are judged by draws of a stream of
its own.

Invariant: a run is a frozen state, generators included, that each step replaces; Ctrl-C finds the last complete one,
and a checkpoint is that state in a file.

Stops when chi2 + 2 standard errors is at most tol, at the cap on draws, or at Ctrl-C; the result says which. A
judgement that ends a run tends to be low, for it is one of several and a high one would not have ended it. So it is
not told: it is by noise like that of the steps, and where it is low enough, more and independent draws judge the
potential that would be returned now. They are told, and the run goes on if they do not meet the tolerance.

Cost: one search over the N atoms a draw; chi2 of M draws is 25/24 N / M for the averages, where independent draws could
reach no less than N / M. ``EvaluationPlan`` says when a run is judged.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxflow.kernels.shortlist import Shortlist
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.seeding import generator_of
from proxflow.semidiscrete.certificate import (
    Cost,
    MassError,
    bracketed,
    mass_error,
    mass_error_of_batches,
    noise_cost,
    smooth_transport_cost,
    transport_cost,
)
from proxflow.semidiscrete.descent import MULTIPLE, Averages, Descent, Iterate
from proxflow.semidiscrete.evaluation_plan import EvaluationPlan, usual_chi2
from proxflow.semidiscrete.fit_result import Evaluation, ReturnedPotential, Solution
from proxflow.semidiscrete.judgement import Judgement
from proxflow.semidiscrete.light import LightAtoms
from proxflow.semidiscrete.pair_quality import PAIR_DRAWS, pair_quality
from proxflow.semidiscrete.problem import GAP_DRAWS, SemiDual, inner
from proxflow.semidiscrete.returned import Returned
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.start import scaled_start
from proxflow.storage import storable

__all__ = ["LIGHT_SHARE", "Expected", "Run", "StochasticState", "on_device", "solve_stochastically"]

_MOTION, _EVALUATION, _MOMENT = range(3)  # streams of a seed: move the heights, judge them, tell a second moment
_BATCHES = 16  # of a judgement on the way, at the least: chi2 is by pairs of them
_BIAS_DRAWS = 1 << 11  # for the bias of W2^2, a difference on common draws: known to a tenth of itself
_CANDIDATES = 3  # heights that it is a difference of
_CLOSE = 4  # standard errors: if a run is expected nearer to the tolerance, chance decides what its judgements say
_AGAIN = 1.04, 0.25, 1.03  # factor on the draws, more judgements on the way, factor on those to tell, in the mean
LIGHT_SHARE = 0.05  # of the tolerance: what atoms too light for the draws may add to chi2 together


@storable
@dataclass(frozen=True)
class StochasticState:
    """A run at the end of a step: all that the next step depends on.

    Attributes:
        iterate: the descent.
        snapshots: its averages at each evaluation.
        history: the evaluations.
        judgement: of the potential of these heights, to be told; None before there is one.
        fresh: state of the generator of evaluations.
        evaluation_samples: draws spent on them.
        double: whether scores are taken in float64.
        light: (N,) which atoms have heights that bound their cells.
        shortlist: which atoms noise is searched among; all if None.
    """

    iterate: Iterate
    snapshots: tuple[Averages, ...]
    history: tuple[Evaluation, ...]
    judgement: Judgement | None
    fresh: Tensor
    evaluation_samples: int
    double: bool
    light: Tensor
    shortlist: Shortlist | None = None


@dataclass(frozen=True)
class Expected:
    """Draws that a run is expected to take.

    Attributes:
        moving: that move the heights.
        on_the_way: that judge them there, at the cost of as many that move them.
        judging: that judge the potential to be returned.
        bias: that the bias of W2^2 is taken on.
        others: for the quality of pairs of a shortlist.
    """

    moving: int
    on_the_way: int
    judging: int
    bias: int
    others: int

    @property
    def own_searches(self) -> int:
        """In the problem's own units."""
        return _CANDIDATES * self.bias


def solve_stochastically(
    problem: SemiDual,
    returned: Returned,
    initial: Tensor | None,
    tol: float,
    max_samples: int | None,
    seed: int,
    session: Session,
) -> Solution:
    """Move the heights until chi2 + 2 stderr <= tol, the cap, or Ctrl-C; then certify what there is."""
    with session.ranks.interruptible():
        run = Run(problem, returned, initial, tol, max_samples, seed, session)
        interrupted = False
        try:
            while not run.finished:
                run.advance()
                session.save(run.state, now=False)
        except KeyboardInterrupt:
            interrupted = True
            session.report("interrupted: certifying the best so far; Ctrl-C again stops at once")
        session.save(run.state, now=True)
        with session.ranks.interruptible():
            return dataclasses.replace(run.certify(), interrupted=interrupted)


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
        device = problem.points.device
        self.motion = generator_of(seed, _MOTION, device=device)
        self.fresh = generator_of(seed, _EVALUATION, device=device)
        self.descent = Descent(problem)
        self.plan = EvaluationPlan(len(problem), tol, self.descent.inflation, max_samples)
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
        start = scaled_start(self.problem, self.descent.groups, self.descent.copies, self.motion, initial)
        spent = self.light.draws + start.samples_used
        double = self.problem.needs_double(start.small_gap, self.light.bounded(start.heights, torch.float32))
        if double:  # rounding ruled the gaps that were measured
            self.problem.search_in(torch.float64)
            start = scaled_start(self.problem, self.descent.groups, self.descent.copies, self.motion, initial)
            spent += start.samples_used
        heights = self.light.bounded(start.heights, self.problem.dtype)
        iterate = Iterate.start(dataclasses.replace(start, heights=heights, samples_used=spent), self.motion)
        fresh, light = self.fresh.get_state(), self.light.light
        return StochasticState(iterate, (), (), None, fresh, 0, double, light, self.problem.shortlist)

    def _resumed(self, state: StochasticState) -> StochasticState:
        """A state from a checkpoint; with another tolerance other atoms may be light, which makes another potential."""
        state = self._with_noise_of_here(on_device(state, self.problem.points.device))
        if len(state.iterate.units) != 1 + len(self.descent.groups):
            raise ValueError(
                "fit: the checkpoint is one of another version of proxflow, whose steps group the rows otherwise; give"
                " another path to begin again, and the earlier potential as warm_start to go on from it"
            )
        if torch.equal(state.light, self.light.light):
            return state
        if state.shortlist is not None:
            raise ValueError(
                "fit: the checkpoint is one of a fit on other shortlists, since at this tol other rows are too light to"
                " be drawn; repeat that call to resume it, or give another path"
            )
        return dataclasses.replace(state, history=(), judgement=None, light=self.light.light)

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
        share = LIGHT_SHARE * self.tol if self.problem.epsilon == 0 else 0.0
        return LightAtoms(self.problem, 1 / self.plan.wanted, share, generator)

    @property
    def finished(self) -> bool:
        """Whether a judgement to be told meets the tolerance, or the draws are used up."""
        last, told = self._last, self.state.judgement is not None
        return last is not None and ((told and self.plan.met(last)) or last.samples_used >= self.plan.most)

    @property
    def _last(self) -> Evaluation | None:
        return self.state.history[-1] if self.state.history else None

    def advance(self) -> None:
        """One step, or an evaluation where one is due."""
        iterate, last = self.state.iterate, self._last
        used, told = iterate.samples_used, self.state.judgement is not None
        if last is not None and last.samples_used == used and not told and self.plan.promising(last):
            self.state = self._judged_to_tell()
        elif used < self.plan.goal(last) or iterate.moved == 0:
            self.step()
        else:
            self.state = self._judged_on_the_way()

    def step(self) -> None:
        """One step, without an evaluation."""
        iterate = self.descent.step(self.state.iterate, self.motion)
        self.state = dataclasses.replace(self.state, iterate=iterate, judgement=None)

    def _judged_on_the_way(self) -> StochasticState:
        """The state after an evaluation by noise like that of the steps, in the problem's own units."""
        descent, problem = self.descent, self.problem
        draws = self.plan.draws_on_the_way(self.state.iterate.samples_used)
        each = MULTIPLE * min(math.ceil(draws / _BATCHES / MULTIPLE), problem.rows_at_once // MULTIPLE)
        batches = max(_BATCHES, math.ceil(draws / each))
        masses = (descent.mass(each, self.heights, self.fresh) for _ in range(batches))
        error = mass_error_of_batches(masses, each, descent.inflation, problem.weights)
        return self._evaluated(self.state, error, batches * each, None)

    def _judged_to_tell(self) -> StochasticState:
        """The state after a judgement of the potential that would be returned now; the one on the way is dropped.

        That it must meet the tolerance leaves what is told a little low (benchmarks/fit_certificates.py --stops).
        W2^2 is taken on these draws too.
        """
        state, used, last = self.state, self.state.iterate.samples_used, self._last
        draws = self.plan.draws_to_tell(0.0 if last is None else last.chi2)
        if last is not None and last.samples_used == used:
            state = dataclasses.replace(state, history=state.history[:-1], snapshots=state.snapshots[:-1])
        judgement = self.returned.judge(self.potential, draws, self.fresh)
        error = mass_error(judgement.tally, self.problem.weights)
        return self._evaluated(state, error, judgement.tally.draws, judgement)

    @property
    def heights(self) -> Tensor:
        """The averaged heights, in the problem's units, with light atoms where their cells are bounded, (N,)."""
        return self.light.bounded(self.state.iterate.averages.heights, self.problem.dtype)

    @property
    def potential(self) -> ReturnedPotential:
        """What the fit would return now."""
        return self.returned.potential(self.problem.radius * self.heights, self.state.double)

    def _evaluated(
        self, state: StochasticState, error: MassError, draws: int, judgement: Judgement | None
    ) -> StochasticState:
        """The state with what so many fresh draws say, and the judgement that they make, if that is to be told."""
        iterate = state.iterate
        evaluation = Evaluation(iterate.samples_used, error.chi2, error.stderr, self.session.seconds)
        self.session.report(
            f"{evaluation.samples_used:,} draws: chi2 = {error.chi2:.4g} +- {error.stderr:.2g}, wanted {self.tol:g}"
        )
        evaluated = dataclasses.replace(
            state,
            snapshots=(*state.snapshots, iterate.averages),
            history=(*state.history, evaluation),
            judgement=judgement,
            fresh=self.fresh.get_state(),
            evaluation_samples=state.evaluation_samples + draws,
        )
        return self.session.ranks.from_first(lambda: evaluated)

    def expected(self) -> Expected:
        """The draws until the tolerance or the cap, by the plan of evaluations and the usual chi2 M / N."""
        plan, count = self.plan, len(self.problem)
        last, on_the_way = None, 0
        while last is None or last.samples_used < plan.least:
            moving = plan.goal(last)
            chi2, draws = usual_chi2(count, plan.inflation, moving), plan.draws_on_the_way(moving)
            on_the_way += draws
            last = Evaluation(moving, chi2, plan.stderr(chi2, draws), 0.0)
        judging = plan.draws_to_tell(chi2)
        if moving < plan.most and chi2 + _CLOSE * plan.stderr(chi2, judging) > self.tol:
            more, judgements, told = _AGAIN
            moving, on_the_way = min(math.ceil(more * moving), plan.most), on_the_way + math.ceil(judgements * draws)
            judging = math.ceil(told * judging)
        return Expected(moving, on_the_way, judging, self._bias_draws, self._other_draws(missed=False))

    def certify(self) -> Solution:
        """The solution as it is, with its masses and its cost."""
        if self.state.iterate.averages.weight == 0:
            self.advance()
        judgement, last = self._final_judgement(), self.state.history[-1]
        missed = last.chi2 + 2 * last.chi2_stderr > self.tol
        potential, used = self.potential, self.state.iterate.samples_used
        cost, quality = self._cost(judgement, potential, missed), None
        if isinstance(potential, Shortlisted):
            quality = pair_quality(potential, self.fresh)
            low, high = cost.interval
            cost = dataclasses.replace(cost, interval=(low - quality.excess, high))
        return Solution(
            method="averaged gradient",
            potential=potential,
            mass=judgement.tally.mass,
            history=self.state.history,
            transport_cost=cost.value,
            transport_cost_interval=cost.interval,
            samples_used=used,
            evaluation_samples=self.state.evaluation_samples + self._bias_draws + self._other_draws(missed),
            advice=self._advice() if missed else "raise max_samples",
            quality=quality,
        )

    def _advice(self) -> str:
        """What may help a fit that missed its tolerance."""
        heights = self.heights
        gap = self.problem.small_gap(heights, self.fresh) + self.problem.epsilon
        if self.problem.blurred(gap, heights, torch.float64):
            return "float64 does not tell the scores of some rows apart: merge or drop rows that are nearly equal"
        return "raise max_samples" if self.problem.shortlist is None else "raise max_samples or count"

    def _final_judgement(self) -> Judgement:
        """Of the last heights, to be told; by how many draws, an evaluation says, which may be a rough one."""
        while (judgement := self.state.judgement) is None:
            evaluated = self._last is not None and self._last.samples_used == self.state.iterate.samples_used
            self.state = self._judged_to_tell() if evaluated else self._judged_on_the_way()
        return judgement

    def _cost(self, judgement: Judgement, potential: ReturnedPotential, missed: bool) -> Cost:
        """W2^2, with an interval that holds for heights that missed the tolerance too."""
        source, problem = self.returned.source, self.problem
        if problem.epsilon > 0:
            return smooth_transport_cost(judgement, source)
        mean, stderr = noise_cost(judgement, source)
        atoms = self.returned.atom_costs(potential)
        dual = mean + float(inner(problem.weights, atoms))
        whole, half = self.state.iterate.averages, self._half(self.state.iterate.averages)
        cost = transport_cost(problem, self.light, whole, half, dual, stderr, self._bias_draws, self.fresh)
        if missed:
            cost = bracketed(problem, atoms, judgement.tally.mass, cost)
        if problem.shortlist is None:
            return cost
        of_these = dual + float(inner(judgement.tally.mass - problem.weights, atoms))
        return Cost(of_these, (dual - 1.96 * stderr, cost.interval[1]), dual)

    @property
    def _bias_draws(self) -> int:
        """That the bias of W2^2 is measured on; the cost of a smooth map has none."""
        return 0 if self.problem.epsilon > 0 else _BIAS_DRAWS

    def _other_draws(self, missed: bool) -> int:
        """For what a fit that missed is advised, and for the cost of all pairs beside that of a shortlist's."""
        return (GAP_DRAWS if missed else 0) + (0 if self.problem.shortlist is None else PAIR_DRAWS)

    def _half(self, whole: Averages) -> Averages:
        """The snapshot nearest to half of the averaging weight, or an artificial first step."""
        earlier = [part for part in self.state.snapshots if 0 < part.weight < whole.weight]
        if not earlier:
            return Averages(whole.heights, 0.5 * whole.weight, 0.5 * whole.squares)
        return min(earlier, key=lambda part: abs(part.weight / whole.weight - 0.5))


def on_device(value: Any, device: torch.device) -> Any:
    """A state that was read onto the CPU, on another device; states of generators stay, as they do on any device."""
    if isinstance(value, Tensor):
        return value if value.dtype == torch.uint8 else value.to(device)
    if isinstance(value, tuple):
        return tuple(on_device(entry, device) for entry in value)
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    names = (field.name for field in dataclasses.fields(value))
    return dataclasses.replace(value, **{name: on_device(getattr(value, name), device) for name in names})
