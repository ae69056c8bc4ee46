"""Predictions from one another against joint laws whose conditional means and scores are known."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow import predictions
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from tests.laws.cases import STORED
from tests.sampling.closed_forms import Mixture

f64 = torch.float64
SCHEDULES = [Linear(), Cosine(), Polynomial(2.5)]


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    at = x.detach().clone().requires_grad_()
    (found,) = torch.autograd.grad(function(at).sum(), at)
    return found


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("per_row", [False, True])
def test_the_ends_of_single_pairs_and_back(schedule: Schedule, per_row: bool, generator: torch.Generator) -> None:
    """Of one pair all conditional means are the pair itself, so that x and dx/dt are made by hand."""
    source, target = torch.randn(2, 5, 2, 3, generator=generator, dtype=f64)
    t = torch.rand(5, generator=generator, dtype=f64).clamp(0.05, 0.95) if per_row else 0.3
    column = t.reshape(5, 1, 1) if isinstance(t, Tensor) else torch.tensor(t, dtype=f64)
    point, rate = torch.func.jvp(
        lambda s: schedule.alpha(s) * source + schedule.beta(s) * target, (column,), (torch.ones_like(column),)
    )[:2]
    close: dict[str, Any] = {"rtol": 1e-11, "atol": 1e-11}
    torch.testing.assert_close(predictions.source_from_velocity(t, point, rate, schedule), source, **close)
    torch.testing.assert_close(predictions.target_from_velocity(t, point, rate, schedule), target, **close)
    torch.testing.assert_close(predictions.velocity_from_source(t, point, source, schedule), rate, **close)
    torch.testing.assert_close(predictions.velocity_from_target(t, point, target, schedule), rate, **close)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("t", [0.02, 0.5, 0.97])
def test_the_score_of_independent_pairs(schedule: Schedule, t: float, generator: torch.Generator) -> None:
    law = Mixture(schedule)
    x = 2 * torch.randn(50, 3, generator=generator, dtype=f64)
    velocity, truth = law.velocity(t, x), gradient(lambda at: law.log_prob(t, at), x)
    score = predictions.score_from_velocity(t, x, velocity, schedule)
    torch.testing.assert_close(score, truth, rtol=1e-8, atol=1e-8 * float(truth.abs().max()))
    back = predictions.velocity_from_score(t, x, truth, schedule)
    torch.testing.assert_close(back, velocity, rtol=1e-8, atol=1e-8 * float(velocity.abs().max()))


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_score_of_optimal_pairs_is_another(schedule: Schedule, generator: torch.Generator) -> None:
    """N(0, I) to N(m, diag s^2): x_t is normal with mean beta m and deviations alpha + beta s."""
    mean, deviations, t = torch.tensor([1.0, -2.0], dtype=f64), torch.tensor([0.3, 2.0], dtype=f64), 0.6
    flow = pf.ProximalFlow(pf.potentials.Quadratic(mean, torch.diag(deviations**2)), schedule)
    x = torch.randn(20, 2, generator=generator, dtype=f64)
    time = torch.tensor(t, dtype=f64)
    alpha, beta = schedule.alpha(time), schedule.beta(time)
    law = torch.distributions.Normal(beta * mean, alpha + beta * deviations)
    torch.testing.assert_close(flow.marginal_log_prob(t, x), law.log_prob(x).sum(1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(flow.score(t, x), gradient(law.log_prob, x), rtol=1e-12, atol=1e-12)
    tweedie = predictions.score_from_velocity(t, x, flow.velocity(t, x), schedule)
    assert float((tweedie - flow.score(t, x)).abs().max()) > 0.5
    # the ends, unlike the score, follow from the velocity of any joint law
    ends = predictions.target_from_velocity(t, x, flow.velocity(t, x), schedule)
    torch.testing.assert_close(ends, flow.recover_target(t, x), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("t", [0.2, 0.8])
@pytest.mark.parametrize("name", ["atoms", "uniform on an interval", "rotated shells", "ellipsoid", "entropic"])
def test_the_score_of_a_flow_by_differences_of_its_log_density(name: str, t: float) -> None:
    flow = pf.ProximalFlow(STORED[name](), Cosine())
    noise = flow.potential.source.sample(5, generator=torch.Generator().manual_seed(3), dtype=f64)
    x, h = flow.interpolate(t, noise), 1e-5
    columns = [
        (flow.marginal_log_prob(t, x + step) - flow.marginal_log_prob(t, x - step)) / (2 * h)
        for step in h * torch.eye(flow.dim, dtype=f64)
    ]
    score = flow.score(t, x)
    torch.testing.assert_close(score, torch.stack(columns, 1), rtol=1e-5, atol=1e-5 * float(score.abs().max()))
    if name == "atoms":  # inside the cells Tweedie's formula holds
        tweedie = predictions.score_from_velocity(t, x, flow.velocity(t, x), Cosine())
        torch.testing.assert_close(score, tweedie, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["line with atoms and gaps", "uniform on an interval", "two atoms on the line"])
def test_the_density_on_the_way_has_mass_one(name: str) -> None:
    """By quadrature, though the targets have atoms: what lies between images of cells is empty."""
    flow = pf.ProximalFlow(STORED[name]())
    grid = torch.linspace(-9, 9, 90_001, dtype=f64)
    mass = torch.trapezoid(flow.marginal_log_prob(0.4, grid[:, None]).exp(), grid)
    assert float(mass) == pytest.approx(1, abs=1e-3)  # trapezia at the jumps
    if name == "two atoms on the line":
        empty = flow.marginal_log_prob(0.4, torch.zeros(1, 1, dtype=f64) - 0.3)
        assert empty.tolist() == [-math.inf]
        assert flow.score(0.4, torch.zeros(1, 1, dtype=f64) - 0.3).isnan().all()


def test_at_the_start_it_is_the_density_of_the_source(generator: torch.Generator) -> None:
    flow = pf.ProximalFlow(STORED["atoms"]())
    x = torch.randn(5, 4, generator=generator, dtype=f64)
    torch.testing.assert_close(flow.marginal_log_prob(0.0, x), flow.potential.source.log_prob(x))
    torch.testing.assert_close(flow.score(0.0, x), -x)


@pytest.mark.parametrize(
    ("name", "t", "message"),
    [
        ("score_from_velocity", 1.0, "t must be in [0, 1), got 1.0"),
        ("velocity_from_target", 1, "t must be in [0, 1)"),
        ("velocity_from_source", 0.0, "t must be in (0, 1]"),
        ("velocity_from_score", 0, "t must be in (0, 1]"),
        ("source_from_velocity", 1.5, "t must be in [0, 1], got 1.5"),
        ("target_from_velocity", "late", "t must be in [0, 1], got 'late'"),
        ("target_from_velocity", torch.zeros(3), "shape (2,), got (3,)"),
    ],
)
def test_refuses_times(name: str, t: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        getattr(predictions, name)(t, torch.zeros(2, 1), torch.zeros(2, 1))


def test_refuses_shapes_and_schedules() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        predictions.source_from_velocity(0.5, torch.zeros(2, 1), torch.zeros(2, 2))
    with pytest.raises(ValueError, match="schedule must be a proxflow Schedule"):
        predictions.source_from_velocity(0.5, torch.zeros(2, 1), torch.zeros(2, 1), "cosine")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="not a function of x"):
        pf.ProximalFlow(STORED["atoms"]()).score(1.0, torch.zeros(2, 4, dtype=f64))
