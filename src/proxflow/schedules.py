"""Interpolation schedules ``x_t = alpha(t) x0 + beta(t) x1``.

``alpha`` multiplies the *source* point and falls from 1 to 0, ``beta`` multiplies the *data* point and
rises from 0 to 1 (t = 0 is noise, t = 1 is data). Other libraries give these letters the other way round.
Every formula is written so that it keeps full relative accuracy at both ends of the interval.
"""

from __future__ import annotations

import functools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxflow.checks import as_tensor, real_number
from proxflow.storage import storable

__all__ = ["Cosine", "Linear", "Polynomial", "Schedule", "check_schedule"]

_MOST_WHOLE = 1e15  # numbers below it are shown without a point where they are whole
_COEFFICIENTS = ("alpha", "beta", "alpha_derivative", "beta_derivative", "wronskian", "rescaled_time")


def _of_tensors(coefficient: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor | float], Tensor]:
    """A coefficient that also takes numbers."""

    @functools.wraps(coefficient)
    def of_tensors(schedule: Any, t: Tensor | float) -> Tensor:
        return coefficient(schedule, t if isinstance(t, Tensor) else _as_times(t))

    return of_tensors


def _as_times(t: object) -> Tensor:
    """A number as a tensor of float64, an array as a tensor of its dtype."""
    if not math.isnan(number := real_number(t)):
        return torch.tensor(number, dtype=torch.float64)
    return as_tensor("schedule", "t", t)


class Schedule(ABC):
    """A pair of coefficients alpha, beta and their time derivatives, each mapping t in [0, 1] elementwise.

    A subclass supplies the four coefficients; ``wronskian`` and ``rescaled_time`` follow. All of them take
    and return a floating-point tensor of any shape and are differentiable in ``t``. They also take plain
    numbers, Python's or numpy's, as tensors of float64.
    """

    def __init_subclass__(cls) -> None:
        """Whatever a subclass supplies, it is called with a tensor."""
        super().__init_subclass__()
        for name in _COEFFICIENTS:
            if name in vars(cls):
                setattr(cls, name, _of_tensors(vars(cls)[name]))

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """Coefficient of the source point, 1 at t = 0 and 0 at t = 1."""

    @abstractmethod
    def beta(self, t: Tensor) -> Tensor:
        """Coefficient of the data point, 0 at t = 0 and 1 at t = 1."""

    @abstractmethod
    def alpha_derivative(self, t: Tensor) -> Tensor:
        """Time derivative of ``alpha`` (negative)."""

    @abstractmethod
    def beta_derivative(self, t: Tensor) -> Tensor:
        """Time derivative of ``beta`` (positive)."""

    def wronskian(self, t: Tensor) -> Tensor:
        """W = alpha beta' - alpha' beta > 0, the factor between the data point and the velocity."""
        return self.alpha(t) * self.beta_derivative(t) - self.alpha_derivative(t) * self.beta(t)

    def rescaled_time(self, t: Tensor) -> Tensor:
        """tau = -log alpha(t), the clock of terminal normal hyperbolicity; +inf at t = 1."""
        return -torch.log(self.alpha(t))

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return False
        own, others = vars(self), vars(other)
        return own.keys() == others.keys() and all(_same(own[name], others[name]) for name in own)

    def __hash__(self) -> int:
        return hash((type(self), *vars(self)))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(_brief, vars(self).values()))})"


def _same(one: Any, other: Any) -> bool:
    """Whether two attributes are equal; of tensors, their entries."""
    if isinstance(one, Tensor) or isinstance(other, Tensor):
        return isinstance(one, Tensor) and isinstance(other, Tensor) and torch.equal(one, other)
    return bool(one == other)


def _brief(value: Any) -> str:
    """A number in as few digits as tell it, whole ones without a point; anything else as Python shows it."""
    whole = isinstance(value, float) and value.is_integer() and abs(value) < _MOST_WHOLE
    return repr(int(value)) if whole else repr(value)


@storable
class Linear(Schedule):
    """alpha = 1 - t, beta = t: straight lines at constant speed, the schedule of OT-CFM."""

    def alpha(self, t: Tensor) -> Tensor:
        """1 - t."""
        return 1 - t

    def beta(self, t: Tensor) -> Tensor:
        """The time t itself."""
        return t

    def alpha_derivative(self, t: Tensor) -> Tensor:
        """-1."""
        return -torch.ones_like(t)

    def beta_derivative(self, t: Tensor) -> Tensor:
        """1."""
        return torch.ones_like(t)

    def rescaled_time(self, t: Tensor) -> Tensor:
        """-log(1 - t)."""
        return -torch.log1p(-t)


@storable
class Cosine(Schedule):
    """alpha = cos(pi t / 2), beta = sin(pi t / 2): the variance-preserving schedule, with W = pi / 2."""

    def alpha(self, t: Tensor) -> Tensor:
        """cos(pi t / 2), as sin(pi (1 - t) / 2): cos itself loses its last digits near t = 1."""
        return torch.sin(0.5 * math.pi * (1 - t))

    def beta(self, t: Tensor) -> Tensor:
        """sin(pi t / 2)."""
        return torch.sin(0.5 * math.pi * t)

    def alpha_derivative(self, t: Tensor) -> Tensor:
        """-(pi / 2) sin(pi t / 2)."""
        return -0.5 * math.pi * self.beta(t)

    def beta_derivative(self, t: Tensor) -> Tensor:
        """(pi / 2) cos(pi t / 2)."""
        return 0.5 * math.pi * self.alpha(t)

    def rescaled_time(self, t: Tensor) -> Tensor:
        """-log cos(pi t / 2), as -log(1 - sin(pi t / 2)^2) / 2 in the first half, where the cosine is near 1."""
        early = -0.5 * torch.log1p(-self.beta(t.clamp(max=0.5)).square())
        late = -torch.log(self.alpha(t.clamp(min=0.5)))
        return torch.where(t < 0.5, early, late)


@storable
class Polynomial(Schedule):
    """alpha = (1 - t)^n, beta = 1 - (1 - t)^n, for any degree n > 0; n = 1 is ``Linear``.

    Raises:
        ValueError: ``n`` is not a positive finite number.
    """

    def __init__(self, n: float) -> None:
        if not 0 < real_number(n) < math.inf:
            raise ValueError(f"Polynomial: the degree n must be a positive finite number, got {n!r}")
        self.n = float(n)

    def alpha(self, t: Tensor) -> Tensor:
        """(1 - t)^n."""
        return (1 - t) ** self.n

    def beta(self, t: Tensor) -> Tensor:
        """1 - (1 - t)^n, without the cancellation at small t."""
        early = -torch.expm1(self.n * torch.log1p(-t.clamp(max=0.5)))
        return torch.where(t < 0.5, early, 1 - self.alpha(t))

    def alpha_derivative(self, t: Tensor) -> Tensor:
        """-n (1 - t)^(n - 1)."""
        return -self.n * (1 - t) ** (self.n - 1)

    def beta_derivative(self, t: Tensor) -> Tensor:
        """n (1 - t)^(n - 1)."""
        return -self.alpha_derivative(t)

    def wronskian(self, t: Tensor) -> Tensor:
        """W = n (1 - t)^(n - 1), as alpha + beta = 1."""
        return self.beta_derivative(t)

    def rescaled_time(self, t: Tensor) -> Tensor:
        """-n log(1 - t)."""
        return -self.n * torch.log1p(-t)


def check_schedule(owner: str, schedule: object) -> None:
    """Refuse what is no schedule; None stands for a default."""
    if schedule is not None and not isinstance(schedule, Schedule):
        raise ValueError(f"{owner}: schedule must be a proxflow Schedule such as Cosine(), got {schedule!r}")
