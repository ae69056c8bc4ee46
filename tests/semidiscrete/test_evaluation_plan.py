"""When a fit is judged, and that what it tells is not the one judgement that happened to be low."""

import math

import pytest
import torch

from proxflow.errors import ConvergenceWarning
from proxflow.semidiscrete import fit
from proxflow.semidiscrete.certificate import mass_error
from proxflow.semidiscrete.evaluation_plan import EvaluationPlan, draws_to_judge
from proxflow.semidiscrete.fit_result import Evaluation, FittedPotential
from proxflow.semidiscrete.judgement import Judgement
from proxflow.semidiscrete.problem import Tally
from proxflow.semidiscrete.returned import Returned
from proxflow.semidiscrete.stochastic_fit import Run

PLAN = EvaluationPlan(2000, 0.01, 1.0, None)


def judged(used: float, chi2: float, stderr: float = 0.001) -> Evaluation:
    return Evaluation(math.ceil(used), chi2, stderr, 0.0)


def test_a_fit_is_judged_first_where_the_usual_chi2_would_just_meet_the_tolerance() -> None:
    goals, last = [], None
    for _ in range(4):
        goal = PLAN.goal(last)
        goals.append(goal)
        last = judged(goal, 1.1 * 2000 / goal)
    assert goals == [math.ceil(PLAN.least / part) for part in (8, 4, 2, 1)]
    chi2 = 1.1 * 2000 / goals[-1]
    error = PLAN.stderr(chi2, draws_to_judge(2000, 0.01))
    assert chi2 + 2 * error == pytest.approx(0.01, rel=0.05)


def test_the_standard_error_that_is_planned_is_the_one_that_is_measured() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = torch.full((2000,), 1 / 2000, dtype=torch.float64)
    mass = weights * (1 + math.sqrt(0.01) * (2 * torch.randint(0, 2, (2000,), generator=generator) - 1))
    counts = torch.bincount(torch.multinomial(mass, 60_000, True, generator=generator), minlength=2000).double()
    found = mass_error(Tally(counts, counts, 60_000), weights)
    assert found.stderr == pytest.approx(PLAN.stderr(0.01, 60_000), rel=0.1)


@pytest.mark.parametrize(("chi2", "growth"), [(0.0, 1.05), (0.0078, 1.05), (0.0095, 1.25), (0.05, 1.5)])
def test_the_next_judgement_comes_where_chi2_would_meet_the_tolerance(chi2: float, growth: float) -> None:
    used = 2 * math.ceil(PLAN.least)
    assert PLAN.goal(judged(used, chi2)) / used == pytest.approx(growth, abs=0.03)


def test_a_cap_ends_the_plan() -> None:
    capped = EvaluationPlan(2000, 0.01, 1.0, 50_000)
    assert capped.goal(judged(25_000, 0.1)) == 50_000
    assert capped.goal(judged(49_000, 0.1)) == 50_000


def test_what_a_fit_tells_is_by_draws_that_did_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The judgement that ended a fit was told: the first low enough of several, so half a standard error too low."""
    made: list[tuple[torch.Tensor, Judgement]] = []
    judge = Returned.judge

    def recorded(self: Returned, potential: FittedPotential, n: int, generator: torch.Generator) -> Judgement:
        judgement = judge(self, potential, n, generator)
        made.append((potential.heights.clone(), judgement))
        return judgement

    monkeypatch.setattr(Returned, "judge", recorded)
    points = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    with pytest.warns(ConvergenceWarning):
        cut = fit(points, tol=1e-4, max_samples=100_000)
    for result in (fit(points, tol=0.02), cut):
        last = [each for heights, each in made if torch.equal(heights, result.potential.heights)]
        assert len(last) == 2
        assert last[-1].tally.draws >= 2 * last[0].tally.draws
        error = mass_error(last[-1].tally, torch.full((400,), 1 / 400, dtype=torch.float64))
        assert (result.chi2, result.chi2_stderr) == (error.chi2, error.stderr)
        assert torch.equal(result.cell_mass, last[-1].tally.mass)
        assert [each.samples_used for each in result.history] == sorted({each.samples_used for each in result.history})


def test_a_fit_goes_on_where_more_draws_do_not_meet_its_tolerance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = Returned.judge
    made: list[float] = []

    def lucky_then_not(self: Returned, potential: FittedPotential, n: int, generator: torch.Generator) -> Judgement:
        judgement = judge(self, potential, n, generator)
        made.append(n)
        total = torch.zeros_like(judgement.tally.total)
        if len(made) == 1:
            total += n / len(total)
        elif len(made) == 2:
            total[0] = n
        else:
            return judgement
        return Judgement(Tally(total, total, n), judgement.costs)

    monkeypatch.setattr(Returned, "judge", lucky_then_not)
    points = torch.randn(400, 5, generator=torch.Generator().manual_seed(0))
    result = fit(points, tol=0.02)
    assert len(made) == 4
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
        if len(heights) != 2:
            return judgement
        total = torch.zeros_like(judgement.tally.total)
        total[0] = n
        return Judgement(Tally(total, total, n), judgement.costs)

    def interrupted(self: Run) -> None:
        if len(heights) == 2:
            steps_since.append(1)
            if len(steps_since) == 3:
                raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(Returned, "judge", missed)
    monkeypatch.setattr(Run, "step", interrupted)
    result = fit(torch.randn(400, 5, generator=torch.Generator().manual_seed(0)), tol=0.02)
    assert len(heights) == 3
    assert torch.equal(heights[-1], result.potential.heights)
    assert not torch.equal(heights[-1], heights[-2])
    assert result.chi2 < 1
