"""When a fit is judged, and that what it tells is not the one judgement that happened to be low."""

import math
import warnings

import pytest
import torch

from proxflow.errors import ConvergenceWarning
from proxflow.semidiscrete import fit, stochastic_fit
from proxflow.semidiscrete.certificate import MassError, mass_error
from proxflow.semidiscrete.descent import Descent
from proxflow.semidiscrete.evaluation_plan import EvaluationPlan, draws_to_judge
from proxflow.semidiscrete.fit_result import Evaluation, FittedPotential
from proxflow.semidiscrete.judgement import Judgement
from proxflow.semidiscrete.problem import Tally
from proxflow.semidiscrete.returned import Returned
from proxflow.semidiscrete.stochastic_fit import Run

PLAN = EvaluationPlan(2000, 0.01, 1.0, None)


def judged(used: float, chi2: float, stderr: float = 0.001) -> Evaluation:
    return Evaluation(math.ceil(used), chi2, stderr, 0.0)


def test_a_fit_is_judged_first_where_the_usual_chi2_would_nearly_always_meet_the_tolerance() -> None:
    goals, last = [], None
    for _ in range(4):
        goal = PLAN.goal(last)
        goals.append(goal)
        last = judged(goal, 1.15 * 2000 / goal)
    assert goals == [math.ceil(PLAN.least / part) for part in (8, 4, 2, 1)]
    chi2 = 1.15 * 2000 / goals[-1]
    error = PLAN.stderr(0.01, draws_to_judge(2000, 0.01))
    assert chi2 + 3.3 * error == pytest.approx(0.01, rel=0.001)
    assert PLAN.promising(judged(goals[-1], chi2))
    assert PLAN.promising(judged(goals[-1], 0.0069, 0.0))
    assert not PLAN.promising(judged(goals[-1], 0.0075, 0.0))
    assert not PLAN.promising(judged(goals[-2], 0.0))


def test_the_standard_error_that_is_planned_is_the_one_that_is_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.full((2000,), 1 / 2000, dtype=torch.float64)
    mass = weights * (1 + math.sqrt(0.01) * (2 * torch.randint(0, 2, (2000,), generator=generator) - 1))
    counts = torch.bincount(torch.multinomial(mass, 60_000, True, generator=generator), minlength=2000).double()
    found = mass_error(Tally(counts, counts, 60_000), weights)
    assert found.stderr == pytest.approx(PLAN.stderr(0.01, 60_000), rel=0.1)


@pytest.mark.parametrize(("chi2", "growth"), [(-0.001, 1.05), (0.0065, 1.05), (0.0082, 1.25), (0.05, 1.5)])
def test_the_next_judgement_comes_where_chi2_would_meet_the_tolerance(chi2: float, growth: float) -> None:
    used = 2 * math.ceil(PLAN.least)
    assert PLAN.goal(judged(used, chi2, 0.0)) / used == pytest.approx(growth, abs=0.03)


@pytest.mark.parametrize(
    ("told", "stderr", "expected"),
    [(1.2, 0.2, 1.1), (0.9, 0.2, 0.95), (1.3, 0.0, 1.3), (8.0, 0.7, 7.964), (5, 9, 4.938), (1e200, math.inf, 1e3)],
)
def test_a_judgement_counts_by_how_sharp_it_is_beside_what_is_usual(
    told: float, stderr: float, expected: float
) -> None:
    """In units of the usual chi2, which deviates by a fifth between data sets, or by as much as a judgement shows."""
    used = math.ceil(PLAN.least)
    usual = 1.15 * 2000 / used
    assert PLAN.chi2(judged(used, told * usual, stderr * usual)) == pytest.approx(expected * usual, rel=0.001)


@pytest.mark.parametrize("count", [100_000, 1_000_000])
def test_draws_that_move_heights_and_draws_that_judge_are_about_fewest_together(count: int) -> None:
    """Those to a chi2 of so many standard errors below the tolerance, and a judgement of that error."""

    plan = EvaluationPlan(count, 0.05, 1.0, None)

    def cost(draws: float) -> float:
        aim = plan.tol - 3.3 * plan.stderr(plan.tol, round(draws))
        return 1.15 * count / aim + draws if aim > 0 else math.inf

    draws = plan.draws_to_tell()
    assert plan.wanted + draws == pytest.approx(cost(draws))
    assert cost(draws) < 1.03 * min(cost(draws * 2 ** (power / 8)) for power in range(-32, 33))


def test_a_cap_ends_the_plan() -> None:
    capped = EvaluationPlan(2000, 0.01, 1.0, 50_000)
    assert capped.goal(judged(25_000, 0.1)) == 50_000
    assert capped.goal(judged(49_000, 0.1)) == 50_000


def test_what_a_fit_tells_is_by_draws_that_did_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judgement that ended a fit was told: the first low enough of several, so half a standard error too low."""
    told: list[tuple[torch.Tensor, Judgement]] = []
    on_the_way: list[int] = []  # draws of judgements of the heights so far
    judge, mass, step = Returned.judge, Descent.mass, Run.step

    def recorded(self: Returned, potential: FittedPotential, n: int, generator: torch.Generator) -> Judgement:
        judgement = judge(self, potential, n, generator)
        told.append((potential.heights.clone(), judgement))
        return judgement

    def counted(self: Descent, draws: int, heights: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        on_the_way.append(draws)
        return mass(self, draws, heights, generator)

    def forgetting(self: Run) -> None:
        step(self)
        on_the_way.clear()

    monkeypatch.setattr(Returned, "judge", recorded)
    monkeypatch.setattr(Descent, "mass", counted)
    monkeypatch.setattr(Run, "step", forgetting)
    points = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    for tol, cap in ((0.02, None), (1e-4, 100_000)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            result = fit(points, tol=tol, max_samples=cap)
        (last,) = [each for heights, each in told if torch.equal(heights, result.potential.heights)]
        assert result.converged == (cap is None)
        assert 0 < 2 * sum(on_the_way) <= last.tally.draws
        error = mass_error(last.tally, torch.full((400,), 1 / 400, dtype=torch.float64))
        assert (result.chi2, result.chi2_stderr) == (error.chi2, error.stderr)
        assert torch.equal(result.cell_mass, last.tally.mass)
        assert [each.samples_used for each in result.history] == sorted({each.samples_used for each in result.history})


@pytest.mark.parametrize(("chi2", "stderr", "told"), [(0.005, 0.1, True), (0.0099, 0.0, False)])
def test_a_low_chi2_on_the_way_asks_for_a_judgement_however_rough_it_is(
    chi2: float, stderr: float, told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What counts is how sharp the judgement to be told will be, not how sharp the one on the way was."""
    monkeypatch.setattr(stochastic_fit, "mass_error_of_batches", lambda *_: MassError(chi2, stderr))
    judge, made = Returned.judge, list[int]()

    def counted(self: Returned, potential: FittedPotential, n: int, generator: torch.Generator) -> Judgement:
        made.append(n)
        return judge(self, potential, n, generator)

    monkeypatch.setattr(Returned, "judge", counted)
    points = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = fit(points, tol=0.01, max_samples=200_000)
    assert (result.samples_used < 200_000) == told
    assert len(made) == 1


def test_a_fit_goes_on_where_what_is_to_be_told_misses_its_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Returned.judge
    made: list[float] = []

    def bad_then_as_it_is(self: Returned, potential: FittedPotential, n: int, generator: torch.Generator) -> Judgement:
        judgement = judge(self, potential, n, generator)
        made.append(n)
        if len(made) > 1:
            return judgement
        total = torch.zeros_like(judgement.tally.total)
        total[0] = n
        return Judgement(Tally(total, total, n), judgement.costs)

    monkeypatch.setattr(Returned, "judge", bad_then_as_it_is)
    points = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    result = fit(points, tol=0.02)
    assert len(made) == 2
    assert [each.chi2 > 1 for each in result.history] == [False, False, False, True, False]
    assert result.history[3].samples_used < result.history[4].samples_used == result.samples_used
    assert result.converged


def test_a_fit_that_is_interrupted_tells_nothing_of_earlier_heights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Judged to be told, found to miss the tolerance, moved on, stopped: what was judged is not what is returned."""
    judge, step = Returned.judge, Run.step
    heights: list[torch.Tensor] = []
    steps_since: list[int] = []

    def missed(self: Returned, potential: FittedPotential, n: int, generator: torch.Generator) -> Judgement:
        judgement = judge(self, potential, n, generator)
        heights.append(potential.heights.clone())
        if len(heights) != 1:
            return judgement
        total = torch.zeros_like(judgement.tally.total)
        total[0] = n
        return Judgement(Tally(total, total, n), judgement.costs)

    def interrupted(self: Run) -> None:
        if len(heights) == 1:
            steps_since.append(1)
            if len(steps_since) == 3:
                raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Returned, "judge", missed)
    monkeypatch.setattr(Run, "step", interrupted)
    result = fit(torch.randn(400, 5, generator=torch.Generator().manual_seed(0)), tol=0.02)
    assert len(heights) == 2
    assert torch.equal(heights[-1], result.potential.heights)
    assert not torch.equal(heights[-1], heights[-2])
    assert result.chi2 < 1
