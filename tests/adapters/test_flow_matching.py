"""flow_matching: fields, schedules and paths both ways, beside the installed library."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.adapters import Convention, check_convention
from proxflow.adapters.flow_matching import FieldModel, to_field, to_path, to_schedule, to_scheduler
from proxflow.results import Verdict
from proxflow.schedules import Cosine, Linear, Polynomial
from tests.adapters.models import F64, digit_field, digit_images, moons_coupling, moons_potential

pytest.importorskip("flow_matching")
from flow_matching.path import CondOTProbPath, scheduler
from flow_matching.solver import ODESolver
from flow_matching.utils import ModelWrapper

TIMES = torch.linspace(0.01, 0.99, 50, dtype=F64)


class Perceptron(torch.nn.Module):
    """A model of their layout, with a label that shifts the velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.network = pf.matching.MLP((2,), width=32)

    def forward(self, x: Tensor, t: Tensor, shift: float = 0.0) -> Tensor:
        return self.network(t, x) + shift


def test_a_model_wrapper_is_sampled_to_the_same_points_by_both() -> None:
    torch.manual_seed(0)
    model = ModelWrapper(Perceptron())
    noise = torch.randn(20, 2)
    for extras in ({}, {"shift": 2.0}):
        theirs = ODESolver(model).sample(x_init=noise, step_size=1 / 8, method="midpoint", **extras)
        with torch.no_grad():
            ours = pf.sampling.integrate(to_field(model, **extras), noise, steps=8, method="midpoint").end
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)  # 8 steps in float32, of points below 10


def test_an_exact_flow_is_sampled_by_their_solver() -> None:
    flow = pf.ProximalFlow(moons_potential())
    noise = torch.randn(50, 2, dtype=F64, generator=torch.Generator().manual_seed(0))
    theirs = ODESolver(FieldModel(flow)).sample(x_init=noise, step_size=1 / 4)
    torch.testing.assert_close(theirs, flow.transport(noise), rtol=0, atol=1e-8)  # straight lines: Euler is exact


def test_extras_reach_the_field() -> None:
    model = FieldModel(lambda t, x, label: x * label)
    x = torch.ones(2, 3)
    assert torch.equal(model(x, 0.5, label=3), 3 * x)
    assert torch.equal(model(t=0.5, x=x, label=3), 3 * x)


def test_schedulers_with_a_name_of_ours_become_it_and_back() -> None:
    assert to_schedule(scheduler.CondOTScheduler()) == Linear()
    assert to_schedule(CondOTProbPath()) == Linear()
    assert to_schedule(scheduler.CosineScheduler()) == Cosine()
    assert isinstance(to_scheduler(Linear()), scheduler.CondOTScheduler)
    assert isinstance(to_scheduler(Polynomial(1)), scheduler.CondOTScheduler)
    assert isinstance(to_scheduler(Cosine()), scheduler.CosineScheduler)
    theirs = scheduler.PolynomialConvexScheduler(3)
    assert to_scheduler(to_schedule(theirs)) is theirs


@pytest.mark.parametrize(
    "theirs",
    [
        scheduler.CondOTScheduler(),
        scheduler.CosineScheduler(),
        scheduler.PolynomialConvexScheduler(2),
        scheduler.LinearVPScheduler(),
    ],
    ids=lambda one: type(one).__name__,
)
def test_their_schedulers_give_the_same_path_and_velocity(theirs: Any) -> None:
    schedule, path = to_schedule(theirs), to_path(to_schedule(theirs))
    pairs = moons_coupling().sample(len(TIMES), generator=torch.Generator().manual_seed(0))
    ours = pf.matching.sample_path(pairs, TIMES, schedule)
    sampled = path.sample(x_0=pairs.source, x_1=pairs.target, t=TIMES)
    torch.testing.assert_close(ours.x, sampled.x_t, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.velocity, sampled.dx_t, rtol=1e-12, atol=1e-12)
    t = TIMES.clone().requires_grad_()
    for value, rate in ((schedule.alpha, schedule.alpha_derivative), (schedule.beta, schedule.beta_derivative)):
        (slope,) = torch.autograd.grad(value(t).sum(), t)
        torch.testing.assert_close(slope, rate(TIMES), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("schedule", [Polynomial(2), Polynomial(0.5)], ids=str)
def test_schedules_of_ours_are_schedulers_of_theirs(schedule: Polynomial) -> None:
    theirs = to_scheduler(schedule)
    assert isinstance(theirs, scheduler.Scheduler)
    found = theirs(TIMES)
    assert torch.equal(found.alpha_t, schedule.beta(TIMES))
    assert torch.equal(found.sigma_t, schedule.alpha(TIMES))
    torch.testing.assert_close(theirs.snr_inverse(found.alpha_t / found.sigma_t), TIMES, rtol=0, atol=1e-12)
    assert to_path(schedule).scheduler.schedule == schedule


def test_the_time_of_a_ratio_is_that_of_their_closed_form() -> None:
    from proxflow.adapters.flow_matching import _Scheduler

    ratio = torch.logspace(-3, 3, 20, dtype=F64)
    for ours, theirs in ((Linear(), scheduler.CondOTScheduler()), (Cosine(), scheduler.CosineScheduler())):
        found = _Scheduler(ours, scheduler.SchedulerOutput).snr_inverse(ratio)
        torch.testing.assert_close(found, theirs.snr_inverse(ratio), rtol=0, atol=1e-12)


def test_a_path_that_does_not_begin_in_noise_is_refused() -> None:
    with pytest.raises(ValueError, match=r"VPScheduler has noise 1 and data 0\.006"):
        to_schedule(scheduler.VPScheduler())
    with pytest.raises(ValueError, match="needs a scheduler or a path"):
        to_schedule(Linear())
    with pytest.raises(ValueError, match="got None"):
        to_scheduler(None)


def test_a_model_trained_from_data_to_noise_is_named() -> None:
    field = digit_field()

    class Swapped(ModelWrapper):  # type: ignore[misc]
        """x_0 was the data and x_1 the noise."""

        def __init__(self) -> None:
            super().__init__(field)

        def forward(self, x: Tensor, t: Tensor, **extras: Any) -> Tensor:
            return -field(1 - t, x)

    found = check_convention(to_field(Swapped()), digit_images(), count=256)
    assert (found.verdict, found.best) == (Verdict.failed, Convention("negative velocity", "reversed"))
    assert check_convention(to_field(FieldModel(field)), digit_images(), count=256).verdict is Verdict.verified
