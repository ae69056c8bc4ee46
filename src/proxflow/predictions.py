"""Velocity, noise, data and score from one another: what networks predict, under every schedule.

x_t = alpha x0 + beta x1 and its derivative alpha' x0 + beta' x1 are two linear equations with the determinant W. So any
one of the three conditional means v = E[dx_t/dt | x_t], u = E[X0 | x_t], y = E[X1 | x_t] gives the other two, for every
joint law of noise and data, optimal pairs included. In other libraries u is the noise or epsilon prediction, and y the
data, sample or x_start prediction.

The score grad log p_t is another matter. For *independent* pairs and N(0, I) noise it is -u / alpha (Tweedie's
formula). For other joint laws that is not the score, and the score does not follow from the velocity at the point
alone: see ``ProximalFlow.score`` for the exact optimal flow (docs/theory.md 2).

All functions take t in [0, 1] as a number or a tensor, 0-dimensional or (B,), points x (B, *event) at that time, a
prediction like x, and a schedule, ``Linear`` if None. They raise a ValueError for a schedule that is none, t out of
range or shapes that differ, and an ``UndefinedTimeError`` for a number t where the answer does not exist; such entries
of a tensor give rows that are not finite.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from proxflow.checks import real_number
from proxflow.errors import UndefinedTimeError
from proxflow.schedules import Linear, Schedule, check_schedule

__all__ = [
    "score_from_velocity",
    "source_from_velocity",
    "target_from_velocity",
    "velocity_from_score",
    "velocity_from_source",
    "velocity_from_target",
]


def source_from_velocity(t: Tensor | float, x: Tensor, velocity: Tensor, schedule: Schedule | None = None) -> Tensor:
    """The noise prediction u = E[X0 | x_t] = (beta' x - beta v) / W, (B, *event)."""
    at = _coefficients("source_from_velocity", t, x, velocity, schedule)
    return (at.beta_rate * x - at.beta * velocity) / at.wronskian


def target_from_velocity(t: Tensor | float, x: Tensor, velocity: Tensor, schedule: Schedule | None = None) -> Tensor:
    """The data prediction y = E[X1 | x_t] = (alpha v - alpha' x) / W, (B, *event)."""
    at = _coefficients("target_from_velocity", t, x, velocity, schedule)
    return (at.alpha * velocity - at.alpha_rate * x) / at.wronskian


def velocity_from_source(t: Tensor | float, x: Tensor, source: Tensor, schedule: Schedule | None = None) -> Tensor:
    """The velocity (beta' x - W u) / beta of a noise prediction u, (B, *event); not at t = 0, where x is the noise."""
    at = _coefficients("velocity_from_source", t, x, source, schedule, never=0)
    return (at.beta_rate * x - at.wronskian * source) / at.beta


def velocity_from_target(t: Tensor | float, x: Tensor, target: Tensor, schedule: Schedule | None = None) -> Tensor:
    """The velocity (alpha' x + W y) / alpha of a data prediction y, (B, *event); not at t = 1, where x is the data."""
    at = _coefficients("velocity_from_target", t, x, target, schedule, never=1)
    return (at.alpha_rate * x + at.wronskian * target) / at.alpha


def score_from_velocity(t: Tensor | float, x: Tensor, velocity: Tensor, schedule: Schedule | None = None) -> Tensor:
    """grad log p_t(x) = -u / alpha, (B, *event), by Tweedie's formula; not at t = 1.

    True for the field of INDEPENDENT pairs with N(0, I) noise (``couplings.Independent``, and networks trained on it).
    Under another coupling -u / alpha is not the score; an exact flow has its own, ``ProximalFlow.score``.
    """
    at = _coefficients("score_from_velocity", t, x, velocity, schedule, never=1)
    return (at.beta * velocity - at.beta_rate * x) / (at.alpha * at.wronskian)


def velocity_from_score(t: Tensor | float, x: Tensor, score: Tensor, schedule: Schedule | None = None) -> Tensor:
    """The velocity (beta' x + alpha W s) / beta of a score s, (B, *event), independent pairs only; not at t = 0."""
    at = _coefficients("velocity_from_score", t, x, score, schedule, never=0)
    return (at.beta_rate * x + at.alpha * at.wronskian * score) / at.beta


class _Coefficients(NamedTuple):
    """Of a schedule at times, each like a point's row."""

    alpha: Tensor
    beta: Tensor
    alpha_rate: Tensor
    beta_rate: Tensor
    wronskian: Tensor


def _coefficients(
    owner: str, t: Tensor | float, x: Tensor, prediction: Tensor, schedule: Schedule | None, never: int | None = None
) -> _Coefficients:
    check_schedule(owner, schedule)
    if prediction.shape != x.shape:
        raise ValueError(
            f"{owner}: x and its prediction differ in shape, {tuple(x.shape)} and {tuple(prediction.shape)}"
        )
    times = _times(owner, t, x, never)
    chosen = Linear() if schedule is None else schedule
    values = (chosen.alpha, chosen.beta, chosen.alpha_derivative, chosen.beta_derivative, chosen.wronskian)
    return _Coefficients(*(value(times).to(x) for value in values))


def _times(owner: str, t: Tensor | float, x: Tensor, never: int | None) -> Tensor:
    """Times in float64 that broadcast against x."""
    if not isinstance(t, Tensor):
        number = real_number(t)
        allowed = f"{'(' if never == 0 else '['}0, 1{')' if never == 1 else ']'}"
        if number == never:
            raise UndefinedTimeError(f"{owner}: t must be in {allowed}, got {t!r}")
        if not 0 <= number <= 1:
            raise ValueError(f"{owner}: t must be in {allowed}, got {t!r}")
        return torch.tensor(number, dtype=torch.float64, device=x.device)
    if t.ndim > 1 or (t.ndim == 1 and len(t) != len(x)):
        raise ValueError(f"{owner}: t must be a number or have shape ({len(x)},), got {tuple(t.shape)}")
    return t.double().reshape(-1, *[1] * (x.ndim - 1)) if t.ndim else t.double()
