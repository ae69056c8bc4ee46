"""The record of a study: shapes, repeatability, advice and refusals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.analysis import MinibatchConvergence
from proxflow.analysis.convergence import study
from proxflow.analysis.convergence.advice import Findings, advise
from proxflow.analysis.convergence.batches import run_size
from proxflow.analysis.convergence.rate import Rate
from proxflow.analysis.convergence.study import minibatch_convergence
from proxflow.potentials import Ball, Discrete, Quadratic
from proxflow.schedules import Cosine
from tests.semidiscrete.sources import PlainNormal

SIZES = [1, 2, 8, 32]


@pytest.fixture(scope="module")
def moons() -> torch.Tensor:
    return pf.data.load("moons", n=200).points


def quick(points: Any, sizes: list[int] = SIZES, **options: Any) -> MinibatchConvergence:
    return minibatch_convergence(points, sizes, relative_error=0.1, max_pairs=1 << 12, **options)


def test_shapes_and_bookkeeping(moons: torch.Tensor) -> None:
    result = quick(moons, [32, 1, 8, 2])
    assert result.batch_sizes.tolist() == SIZES
    for name in ("cost", "excess", "gap"):
        for tensor in (getattr(result, name), getattr(result, f"{name}_stderr")):
            assert tensor.shape == (4,)
            assert tensor.dtype == torch.float64
            assert torch.isfinite(tensor).all()
        interval = getattr(result, f"{name}_interval")
        assert interval.shape == (4, 2)
        assert (interval[:, 0] <= interval[:, 1]).all()
    torch.testing.assert_close(result.excess, result.cost - result.transport_cost)
    assert result.transport_cost_interval[0] <= result.transport_cost <= result.transport_cost_interval[1]
    assert torch.equal(result.draws, result.batches * result.batch_sizes)
    assert (result.batches >= 16).all()
    assert result.seconds_per_batch[0] == 0
    assert (result.seconds_per_batch[1:] > 0).all()
    assert result.source_pairs.shape == result.target_pairs.shape
    assert result.fit_seconds is not None
    rows = {tuple(row) for row in moons.tolist()}
    assert {tuple(row) for row in result.target_pairs.flatten(0, 1).tolist()} <= rows
    with pytest.raises(dataclasses.FrozenInstanceError):
        result.cost = result.gap  # type: ignore[misc]


def test_the_same_seed_gives_the_same_numbers_whatever_else_is_asked_for(moons: torch.Tensor) -> None:
    result, again, other = quick(moons), quick(moons, [2, 32]), quick(moons, seed=1)
    torch.testing.assert_close(result.cost[[1, 3]], again.cost, rtol=1e-13, atol=0)  # sums of other alignment
    assert torch.equal(result.gap[[1, 3]], again.gap)
    assert not torch.equal(result.gap, other.gap)


def test_memory_does_not_change_the_law(moons: torch.Tensor) -> None:
    fit = pf.semidiscrete.fit(moons)
    small, large = quick(fit, max_memory=1 << 18), quick(fit)
    assert ((small.gap - large.gap).abs() < 5 * torch.hypot(small.gap_stderr, large.gap_stderr)).all()


def test_bounds_and_measurements_along_the_flow(moons: torch.Tensor) -> None:
    result = quick(moons, schedule=Cosine())
    times = torch.tensor([[0.1, 0.5], [0.7, 0.95]])
    assert result.bound(times).shape == result.measured_error(times).shape == (4, 2, 2)
    assert result.bound(0.3).shape == result.measured_error(0.3).shape == (4,)
    torch.testing.assert_close(result.bound(times)[:, 1, 0], result.bound(0.7), rtol=1e-6, atol=0)
    raw = result.gap + result.height_error
    factor = (math.pi / 2) ** 2 / (math.cos(0.15 * math.pi) * math.sin(0.15 * math.pi))
    torch.testing.assert_close(result.bound(0.3), factor * raw)
    assert torch.isinf(result.bound(0.0)).all()
    assert torch.isinf(result.bound(1.0)).all()
    # at t = 0 the flow is the map: E|x1 - T(x0)|^2 (pi / 2)^2
    apart = result.target_pairs[2] - result.potential.brenier_map(result.source_pairs[2])
    expected = (math.pi / 2) ** 2 * float(apart.square().sum(1).mean())
    assert float(result.measured_error(0.0)[2]) == pytest.approx(expected, rel=1e-5)
    for method in (result.bound, result.measured_error):
        with pytest.raises(ValueError, match="t must be in"):
            method(-0.1)
    with pytest.raises(ValueError, match=r"t must be in \[0, 1\)"):
        result.measured_error(1.0)


def test_batch_for_a_wanted_error(moons: torch.Tensor) -> None:
    result = quick(moons)
    middle = float(0.5 * (result.bound(0.5)[1] + result.bound(0.5)[2]))
    wanted = result.batch_for(middle)
    assert wanted.size is not None
    assert 2 < wanted.size <= 8
    assert not wanted.extrapolated
    further = result.batch_for(0.5 * float(result.bound(0.5)[-1]))
    assert further.extrapolated
    assert further.size is not None
    assert further.size > 32
    too_far = result.batch_for(0.01 * float(result.bound(0.5)[-1]))
    assert too_far.size is None
    assert "more than the 200 rows" in too_far.reason
    law = quick(moons, replacement=True).batch_for(0.2 * float(result.bound(0.5)[-1]))
    assert law.size is not None
    with pytest.raises(ValueError, match="error must be a positive number"):
        result.batch_for(0.0)
    with pytest.raises(ValueError, match=r"t must be in \(0, 1\)"):
        result.batch_for(1.0, 1.0)


def test_field_error_says_where_it_is_unknown(moons: torch.Tensor) -> None:
    result = quick(moons)
    error = result.field_error(0.5, largest=2, queries=64, assignments=128)
    assert torch.isfinite(error.value[:2]).all()
    assert torch.isnan(error.value[2:]).all()
    assert error.reason[:2] == ("", "")
    assert "largest=32 allows them" in error.reason[3]
    assert (error.interval[:, 0] < error.interval[:, 1]).all()
    with pytest.raises(ValueError, match="t must be above 0"):
        result.field_error(0.0)
    known = quick(Quadratic(torch.zeros(2), torch.eye(2) * 4))
    with pytest.raises(ValueError, match="finite data only"):
        known.field_error(0.5)


def test_sinkhorn_pairs_cost_more(moons: torch.Tensor) -> None:
    fit = pf.semidiscrete.fit(moons)
    exact, entropic = quick(fit, [1, 16]), quick(fit, [1, 16], solver="sinkhorn")
    torch.testing.assert_close(exact.cost[0], entropic.cost[0])
    apart = (entropic.excess - exact.excess) / torch.hypot(entropic.cost_stderr, exact.cost_stderr)
    assert apart[1] > -4
    assert entropic.solver == "sinkhorn"
    # the identity holds for any coupling
    assert (entropic.disagreement / entropic.disagreement_stderr).abs().max() < 5


@pytest.mark.slow
def test_potentials_on_a_sphere_and_images() -> None:
    sphere = quick(Ball(3), [1, 4])
    assert sphere.transport_cost == pytest.approx(3 + 1 - 2 * math.sqrt(8 / math.pi), abs=0.01)
    assert sphere.fit_seconds is None
    images = torch.randn(30, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    assert quick(images, [1, 4]).source_pairs.shape[2] == 2


def test_one_point_has_no_excess() -> None:
    result = quick(torch.ones(1, 3), [1, 4])
    assert result.gap.abs().max() == 0
    assert result.excess.abs().max() < 1e-9
    assert "Independent coupling is enough" in result.advice
    assert result.rate.exponent is None


def test_ctrl_c_returns_what_is_done(moons: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(target: Any, size: int, *rest: Any) -> Any:
        if size == 8:
            raise KeyboardInterrupt
        return run_size(target, size, *rest)

    monkeypatch.setattr(study, "run_size", interrupted)
    with pytest.warns(pf.ConvergenceWarning, match="batch sizes 8, 32 are missing"):
        result = quick(moons)
    assert result.batch_sizes.tolist() == [1, 2]
    assert len(result.cost) == 2
    with pytest.raises(KeyboardInterrupt):
        quick(moons, [8])


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((torch.randn(5, 2), []), {}, "batch_sizes must be distinct positive"),
        ((torch.randn(5, 2), [0, 1]), {}, "batch_sizes must be distinct positive"),
        ((torch.randn(5, 2), [2, 2]), {}, "batch_sizes must be distinct positive"),
        ((torch.randn(5, 2), [1.5]), {}, "batch_sizes must be distinct positive"),
        ((torch.randn(5, 2), 4), {}, "batch_sizes must be distinct positive"),
        (("moons", [1]), {}, "points_or_potential must be"),
        ((torch.randn(5), [1]), {}, "points must be a non-empty"),
        ((torch.full((5, 2), torch.nan), [1]), {}, "rows of points hold NaN or inf"),
        ((torch.randn(5, 2), [1]), {"solver": "greedy"}, "unknown solver 'greedy'"),
        ((torch.randn(5, 2), [1]), {"transport_cost": -1.0}, "transport_cost must be"),
        ((torch.randn(5, 2), [1]), {"wanted": 0.0}, "wanted must be a positive number"),
        ((torch.randn(5, 2), [1]), {"relative_error": math.nan}, "relative_error must be a positive number"),
        ((torch.randn(5, 2), [1, 6]), {"replacement": False}, "batch_sizes must be at most the 5 rows"),
        ((Ball(2), [1]), {"replacement": False}, "only rows of equal weight can be drawn without replacement"),
        ((torch.randn(5, 2), [1]), {"replacement": "no"}, "replacement must be None, True or False"),
        ((torch.randn(5, 2), [1]), {"max_pairs": 0}, "max_pairs, kept_pairs and max_memory must be positive"),
        ((Ball(2), [1]), {"source": pf.measures.Gaussian(2)}, "source is for data"),
    ],
)
def test_bad_arguments_are_refused(arguments: tuple[Any, ...], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        minibatch_convergence(*arguments, **options)


def test_a_discrete_potential_is_taken_with_its_weights() -> None:
    points = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    height = -0.5244005127080407 * 2  # the cell of the upper atom begins at the quantile .3
    potential = Discrete(points, torch.tensor([0.0, height]).double(), torch.tensor([0.3, 0.7]).double())
    result = quick(potential, [1, 4])
    upper = (result.target_pairs > 0).double().mean()
    assert float(upper) == pytest.approx(0.7, abs=0.05)
    assert result.height_error < 1e-3


def test_a_source_that_offers_no_moments() -> None:
    points, heights = torch.tensor([[-1.0], [1.0]], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    plain = quick(Discrete(points, heights, source=PlainNormal(1)), [1, 4])
    normal = quick(Discrete(points, heights), [1, 4])
    assert ((plain.cost - normal.cost).abs() < 5 * torch.hypot(plain.cost_stderr, normal.cost_stderr)).all()
    assert ((plain.gap - normal.gap).abs() < 5 * torch.hypot(plain.gap_stderr, normal.gap_stderr)).all()
    low, high = plain.transport_cost_interval
    assert low - 0.01 < 2 - 2 * math.sqrt(2 / math.pi) < high + 0.01


@pytest.mark.slow
def test_a_smooth_fit_is_measured_against_its_own_target(moons: torch.Tensor) -> None:
    fit = pf.semidiscrete.fit(moons, epsilon=0.5, tol=0.1)
    result = quick(fit, [1, 16])
    assert (result.disagreement / result.disagreement_stderr).abs().max() < 5
    assert (result.measured_error(0.5) <= result.bound(0.5)).all()


def findings(**changes: Any) -> Findings:
    base = Findings(
        sizes=torch.tensor([1, 16, 256]),
        excess=torch.tensor([4.0, 1.0, 0.25]),
        transport_cost=10.0,
        seconds=torch.tensor([0.0, 1e-3, 0.1]),
        rate=Rate(0.5, (0.45, 0.55), (1, 16, 256), 16.0, 1.0, ""),
        wanted=0.05,
        finite=True,
        most=1_000_000,
        weighted=False,
        fit_seconds=200.0,
    )
    return dataclasses.replace(base, **changes)


def test_advice() -> None:
    assert advise(findings(wanted=0.5)).startswith("Independent coupling is enough")
    used = advise(findings())
    assert used.startswith("Use minibatch OT with batches of 256: the cost exceeds W2^2 by 2.5% of it")
    assert "(independent pairs: 40%)" in used
    quick_fit = advise(findings(fit_seconds=5.0))
    assert quick_fit.startswith("Do not use minibatch OT: batches of 256")
    assert "use the semidiscrete coupling" in quick_fit
    assert "what 50 such batches take" in quick_fit
    never = advise(findings(wanted=0.001))
    assert never.startswith("Do not use minibatch OT")
    assert "would take about 160,000" in never
    no_rate = advise(findings(wanted=0.001, rate=Rate(None, None, (), math.nan, None, "too short")))
    assert "cannot be told" in no_rate
    known = advise(findings(wanted=0.02, finite=False, most=None, fit_seconds=None))
    assert known.startswith("Use minibatch OT with batches of about 400 (extrapolated)")
    for text in (used, quick_fit, never, no_rate, known):
        assert text.endswith(".")
        assert "\n" not in text
