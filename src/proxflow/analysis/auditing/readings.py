"""Other ways to read a field: which of them makes the data, where the stated one does not.

A field in another convention still gives numbers of the right shape. Whatever pairs it was trained on, it makes the
data from noise if it is read as it was meant: so each reading is followed from the same noise, and judged by the energy
distance of where it ends. No reading calls the field at t = 1, where it may have no value.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.auditing.generated_pairs import (
    FieldCall,
    GeneratedPairs,
    defined_from_the_start,
    generated_pairs,
)
from proxflow.analysis.auditing.intervals import Estimate
from proxflow.errors import ConvergenceError, UndefinedTimeError
from proxflow.metrics.energy import energy_bounds
from proxflow.predictions import velocity_from_source, velocity_from_target
from proxflow.schedules import Schedule

__all__ = ["Attempt", "Reading", "attempt", "better_reading"]

_STEPS, _NOISE = 16, 512  # of a reading that is tried
_CLEARLY = 0.5  # of the stated reading's distance: what another one must be below
_STANDARD_ERRORS = 3.0  # of the two that must be apart
_LAST_STEP = 1e-6  # before t = 1, that a field read backwards in time begins from


@dataclass(frozen=True)
class Attempt:
    """A field followed from noise.

    Attributes:
        field: as it can be called from t = 0.
        pairs: that it makes; None if it cannot be followed.
        failure: why it cannot, a clause; empty if it can.
    """

    field: FieldCall
    pairs: GeneratedPairs | None
    failure: str = ""


@dataclass(frozen=True)
class Reading:
    """A field read in another way: what is wrong with it as it stands, and what to do."""

    fault: str
    remedy: str
    field: FieldCall


def better_reading(
    field: FieldCall, stated: Tensor | None, noise: Tensor, data: Tensor, event: tuple[int, ...], schedule: Schedule
) -> Reading | None:
    """The reading that makes the data, if one does and the stated one, with its samples (n, d) or None, does not."""
    noise = noise[:_NOISE]
    limit = _distance(None if stated is None else stated[:_NOISE], data)
    best: Reading | None = None
    for reading in _readings(field, schedule):
        tried = attempt(reading.field, noise, event, schedule, _STEPS)
        found = _distance(None if tried.pairs is None else tried.pairs.target, data)
        enough = limit.value if best is not None else _CLEARLY * limit.value
        if found.value < enough and _apart(found, limit):
            best, limit = Reading(reading.fault, reading.remedy, tried.field), found
    return best


def attempt(field: FieldCall, noise: Tensor, event: tuple[int, ...], schedule: Schedule, steps: int) -> Attempt:
    """Follow a field from noise; without pairs where they are not finite, or a field of this library has no answer."""
    call = field
    try:
        call = defined_from_the_start(field, noise, event)
        pairs = generated_pairs(call, noise, event, schedule, steps)
    except (ConvergenceError, UndefinedTimeError) as error:
        return Attempt(call, None, str(error))
    if not bool(torch.isfinite(pairs.points).all()):
        return Attempt(call, None, "its trajectories are not finite")
    return Attempt(call, pairs)


def _distance(samples: Tensor | None, data: Tensor) -> Estimate:
    """Energy distance, and ends three standard errors away."""
    if samples is None or not bool(torch.isfinite(samples.double().square().sum())):
        return Estimate(math.inf, math.inf, math.inf)
    return Estimate(*energy_bounds(samples, data, _STANDARD_ERRORS))


def _apart(less: Estimate, more: Estimate) -> bool:
    """Whether two distances differ by more than their errors on the sides that face each other."""
    if math.isinf(more.value):
        return True
    return more.value - less.value > math.hypot(more.value - more.low, less.high - less.value)


def _readings(field: FieldCall, schedule: Schedule) -> Iterator[Reading]:
    yield Reading(
        "its time is reversed: t = 0 is the data and t = 1 the noise, that is, alpha and sigma are swapped in its path",
        "read it as -field(1 - t, x)",
        lambda t, x: -field(_reversed(t), x),
    )
    yield Reading("its time is reversed, though its sign is not", "read it as field(1 - t, x)",
                  lambda t, x: field(_reversed(t), x))  # fmt: skip
    yield Reading("its sign is turned round, as where alpha and sigma are swapped in the velocity",
                  "read it as -field(t, x)", lambda t, x: -field(t, x))  # fmt: skip
    yield Reading("alpha and sigma are swapped in its velocity, alpha' x1 + beta' x0 for alpha' x0 + beta' x1",
                  "exchange them", lambda t, x: _exchanged(t, x, field(t, x), schedule))  # fmt: skip
    yield Reading("it predicts the data, not the velocity", "convert it by predictions.velocity_from_target",
                  lambda t, x: velocity_from_target(t, x, field(t, x), schedule))  # fmt: skip
    yield Reading("it predicts the noise, not the velocity", "convert it by predictions.velocity_from_source",
                  lambda t, x: velocity_from_source(t, x, field(t, x), schedule))  # fmt: skip


def _reversed(t: Tensor) -> Tensor:
    """1 - t, and just before 1 at t = 0."""
    return (1 - t).clamp(max=1 - max(_LAST_STEP, torch.finfo(t.dtype).eps))


def _exchanged(t: Tensor, x: Tensor, given: Tensor, schedule: Schedule) -> Tensor:
    """alpha' u + beta' y from x = alpha u + beta y and what was given, alpha' y + beta' u."""
    alpha, beta = schedule.alpha(t), schedule.beta(t)
    alpha_rate, beta_rate = schedule.alpha_derivative(t), schedule.beta_derivative(t)
    determinant = alpha * alpha_rate - beta * beta_rate
    target = (alpha * given - beta_rate * x) / determinant
    source = (alpha_rate * x - beta * given) / determinant
    return alpha_rate * source + beta_rate * target
