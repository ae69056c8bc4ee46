"""Meta's flow_matching: models, schedulers and paths, both ways.

Its time is proxflow's, 0 at the noise and 1 at the data, and so is its velocity. Its models are called with (x, t), and
its letters are others: alpha_t is the coefficient of the data there and sigma_t that of the noise, where proxflow has
beta and alpha. ``PolynomialConvexScheduler(n)`` has t^n for the data, ``schedules.Polynomial(n)`` (1 - t)^n for the
noise: different paths unless n = 1. The library is licensed CC BY-NC; only what returns an object of it needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from proxflow.adapters.convention import Field
from proxflow.errors import optional_package
from proxflow.matching.path import for_each
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule, check_schedule

__all__ = ["FieldModel", "SchedulerSchedule", "to_field", "to_path", "to_schedule", "to_scheduler"]

_HALVINGS = 60  # of [0, 1]: to the rounding of float64
_LIKE_ENDS = 1e-6  # that coefficients may differ from 0 and 1 at the ends of time


def to_field(model: Callable[..., Tensor], **extras: Any) -> Field:
    """The field of a model that is called as model(x=x, t=t), a ``ModelWrapper`` or any callable.

    Args:
        model: a velocity model; it is called with times (B,), as in training.
        extras: passed on with every call, as ``ODESolver.sample`` does.

    Returns:
        field(t, x) -> velocity (B, *event), t one number or (B,).
    """
    return lambda t, x: model(x=x, t=for_each(t, x), **extras)


class FieldModel(nn.Module):
    """A field as a velocity model for ``ODESolver``: called with x and t, by position or by name.

    Args:
        field: (t, x) -> velocity, with further arguments by name where extras are given.
    """

    def __init__(self, field: Callable[..., Tensor]) -> None:
        super().__init__()
        self.field = field

    def forward(self, x: Tensor, t: Tensor | float, **extras: Any) -> Tensor:
        """Velocity (B, *event)."""
        return self.field(t, x, **extras)


class SchedulerSchedule(Schedule):
    """One of its schedulers as a schedule: alpha is its sigma_t, beta its alpha_t.

    Args:
        scheduler: of flow_matching.

    Raises:
        ValueError: at t = 0 its path is not noise alone, or at t = 1 not data alone, as ``VPScheduler``'s.
    """

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        ends = scheduler(torch.tensor([0.0, 1.0], dtype=torch.float64))
        found = torch.stack([ends.sigma_t, ends.alpha_t])
        if not bool(((found - torch.tensor([[1.0, 0.0], [0.0, 1.0]])).abs() < _LIKE_ENDS).all()):
            noise, data = found.tolist()
            raise ValueError(
                f"to_schedule: {type(scheduler).__name__} has noise {noise[0]:.4g} and data {data[0]:.4g} at t = 0, "
                f"noise {noise[1]:.4g} and data {data[1]:.4g} at t = 1; a schedule goes from noise alone to data alone"
            )

    def alpha(self, t: Tensor) -> Tensor:
        """Its sigma_t."""
        return torch.as_tensor(self.scheduler(t).sigma_t)

    def beta(self, t: Tensor) -> Tensor:
        """Its alpha_t."""
        return torch.as_tensor(self.scheduler(t).alpha_t)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        """Its d_sigma_t."""
        return torch.as_tensor(self.scheduler(t).d_sigma_t)

    def beta_derivative(self, t: Tensor) -> Tensor:
        """Its d_alpha_t."""
        return torch.as_tensor(self.scheduler(t).d_alpha_t)

    def __repr__(self) -> str:
        return f"SchedulerSchedule({type(self.scheduler).__name__})"


def to_schedule(scheduler: Any) -> Schedule:
    """The schedule of a scheduler, or of a path that has one.

    Args:
        scheduler: of flow_matching; ``CondOTScheduler`` gives ``Linear``, ``CosineScheduler`` gives ``Cosine``, others
            a ``SchedulerSchedule``.

    Raises:
        ValueError: no scheduler, or one that does not go from noise alone to data alone.
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)
    if not callable(scheduler) or not hasattr(scheduler, "snr_inverse"):
        raise ValueError(f"to_schedule: needs a scheduler or a path of flow_matching, got {type(scheduler).__name__}")
    known: dict[str, Schedule] = {"CondOTScheduler": Linear(), "CosineScheduler": Cosine()}
    return known.get(type(scheduler).__name__) or SchedulerSchedule(scheduler)


class _Scheduler:
    """A schedule as a scheduler; ``to_scheduler`` registers the class with theirs."""

    def __init__(self, schedule: Schedule, output: Callable[..., Any]) -> None:
        self.schedule = schedule
        self._output = output

    def __call__(self, t: Tensor) -> Any:
        """Coefficients and derivatives in its letters."""
        return self._output(
            alpha_t=self.schedule.beta(t),
            sigma_t=self.schedule.alpha(t),
            d_alpha_t=self.schedule.beta_derivative(t),
            d_sigma_t=self.schedule.alpha_derivative(t),
        )

    def snr_inverse(self, snr: Tensor) -> Tensor:
        """The time at which beta / alpha, which rises, has this value; by bisection."""
        low = torch.zeros_like(snr, dtype=torch.float64)
        high = torch.ones_like(low)
        for _ in range(_HALVINGS):
            middle = 0.5 * (low + high)
            before = self.schedule.beta(middle) < snr * self.schedule.alpha(middle)
            low, high = torch.where(before, middle, low), torch.where(before, high, middle)
        return (0.5 * (low + high)).to(snr.dtype)


def to_scheduler(schedule: Schedule) -> Any:
    """A schedule as a ``flow_matching.path.scheduler.Scheduler``.

    Args:
        schedule: ``Linear`` gives their ``CondOTScheduler``, ``Cosine`` their ``CosineScheduler``, any other an object
            of their interface.

    Raises:
        ValueError: no schedule.
        MissingExtraError: flow_matching is not installed.
    """
    if schedule is None:
        raise ValueError("to_scheduler: needs a schedule such as schedules.Linear(), got None")
    check_schedule("to_scheduler", schedule)
    theirs = optional_package("flow_matching.path.scheduler.scheduler", "bench")
    if isinstance(schedule, SchedulerSchedule):
        return schedule.scheduler
    if schedule in (Linear(), Polynomial(1)):
        return theirs.CondOTScheduler()
    if schedule == Cosine():
        return theirs.CosineScheduler()
    theirs.Scheduler.register(_Scheduler)
    return _Scheduler(schedule, theirs.SchedulerOutput)


def to_path(schedule: Schedule) -> Any:
    """The ``flow_matching.path.AffineProbPath`` of a schedule: ``path.sample(x_0=, x_1=, t=)`` of proxflow's pairs.

    Raises:
        ValueError: no schedule.
        MissingExtraError: flow_matching is not installed.
    """
    scheduler = to_scheduler(schedule)
    return optional_package("flow_matching.path", "bench").AffineProbPath(scheduler=scheduler)
