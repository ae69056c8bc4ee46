"""What a model of somebody else's is called with and what it gives, and the field that it then is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from proxflow.checks import real_number
from proxflow.matching.path import for_each
from proxflow.predictions import velocity_from_score, velocity_from_source, velocity_from_target
from proxflow.schedules import Linear, Schedule, check_schedule

__all__ = ["DIRECTIONS", "PREDICTIONS", "Convention", "Field", "convention_named", "to_field"]

Field = Callable[[Tensor | float, Tensor], Tensor]
"""field(t, x) -> velocity (B, *event); t = 0 is noise, t = 1 is data, t one number or (B,)."""

PREDICTIONS = ("velocity", "negative velocity", "noise", "data", "score")
DIRECTIONS = ("forward", "reversed")

_LEAST_TIME = 1e-3  # before it an error of the predicted noise, divided by beta, is more than 1,000 times as large


@dataclass(frozen=True)
class Convention:
    """The convention of a model: proxflow's own unless stated otherwise.

    Attributes:
        prediction: what the model gives at x_t = alpha x0 + beta x1, x0 noise and x1 data. "velocity" is
            alpha' x0 + beta' x1, for straight paths data - noise; "negative velocity" noise - data, as in diffusers;
            "noise" E[x0 | x_t]; "data" E[x1 | x_t]; and "score" -E[x0 | x_t] / alpha, which is the
            gradient of the log-density of x_t for standard normal noise that is independent of the data, and not else.
        time: "forward" from 0 at the noise to 1 at the data, or "reversed".
        unit: what the model is called with where proxflow's time, or 1 minus it, is 1: 1000 in diffusers.

    Raises:
        ValueError: an unknown prediction or direction, or a unit that is not positive and finite.
    """

    prediction: str = "velocity"
    time: str = "forward"
    unit: float = 1.0

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(f"Convention: prediction must be one of {', '.join(PREDICTIONS)}, got {self.prediction!r}")
        if self.time not in DIRECTIONS:
            raise ValueError(f"Convention: time must be one of {', '.join(DIRECTIONS)}, got {self.time!r}")
        if not 0 < real_number(self.unit) < float("inf"):
            raise ValueError(f"Convention: unit must be a positive finite number, got {self.unit!r}")

    def __str__(self) -> str:
        unit = "" if self.unit == 1 else f" in units of 1/{self.unit:g}"
        return f"{self.prediction} at {self.time} time{unit}"

    @property
    def name(self) -> str:
        """As ``convention_named`` reads it: "velocity", "noise-reversed", "negative-velocity-reversed:1000"."""
        direction = "-reversed" if self.time == "reversed" else ""
        unit = "" if self.unit == 1 else f":{float(self.unit)!r}".removesuffix(".0")
        return f"{self.prediction.replace(' ', '-')}{direction}{unit}"

    def model_time(self, t: Tensor) -> Tensor:
        """What the model is called with at proxflow's time t."""
        return self.unit * (t if self.time == "forward" else 1 - t)


_LIBRARIES = {
    "proxflow": Convention(),
    "torchcfm": Convention(),
    "flow_matching": Convention(),
    "diffusers": Convention("negative velocity", "reversed", 1000),
    "diffusers-sigma": Convention("negative velocity", "reversed"),  # a model that is told sigma, as Flux is
    "sbi": Convention("negative velocity", "reversed"),
}


def convention_named(name: str) -> Convention:
    """The convention of a library, or one written as ``PREDICTION``, ``-reversed`` if it is, and ``:UNIT`` if not 1.

    Args:
        name: "proxflow", "torchcfm", "flow_matching", "diffusers" (told 1000 sigma), "diffusers-sigma" or "sbi"; else
            such as "velocity", "noise-reversed" or "negative-velocity-reversed:1000".

    Raises:
        ValueError: it is neither.
    """
    if name in _LIBRARIES:
        return _LIBRARIES[name]
    found = re.fullmatch(r"([a-z-]+?)(-reversed)?(?::(\d+(?:\.\d+)?(?:e[+-]?\d+)?))?", name)
    prediction = "" if found is None else found[1].replace("-", " ")
    if found is None or prediction not in PREDICTIONS:
        known = ", ".join(one.replace(" ", "-") for one in PREDICTIONS)
        raise ValueError(
            f"convention must be one of {', '.join(_LIBRARIES)}, or one of {known} with -reversed and :UNIT as it may "
            f"be, got {name!r}"
        )
    return Convention(prediction, "reversed" if found[2] else "forward", float(found[3] or 1))


def to_field(
    model: Callable[[Tensor, Tensor], Tensor], convention: Convention | None = None, *, schedule: Schedule | None = None
) -> Field:
    """The velocity field of any callable model(t, x) whose convention is stated.

    ``check_convention`` tells whether what was stated is true. A prediction of noise or score leaves the velocity at
    t = 0 open: before t = 0.001 the field is that of t = 0.001.

    Args:
        model: called with times (B,), of the dtype of x, and points (B, *event).
        convention: of the model; proxflow's own if None.
        schedule: alpha and beta of the path that it was trained on; Linear if None.

    Returns:
        field(t, x), t one number or (B,).

    Raises:
        ValueError: no convention, or no schedule.
    """
    stated = Convention() if convention is None else convention
    if not isinstance(stated, Convention):
        raise ValueError(f"to_field: convention must be an adapters.Convention, got {convention!r}")
    check_schedule("to_field", schedule)
    path = Linear() if schedule is None else schedule
    least = _LEAST_TIME if stated.prediction in ("noise", "score") else 0.0

    def field(t: Tensor | float, x: Tensor) -> Tensor:
        times = for_each(t, x).clamp(min=least)
        output = model(stated.model_time(times), x)
        return _velocity(stated.prediction, output, times, x, path)

    return field


def _velocity(prediction: str, output: Tensor, t: Tensor, x: Tensor, schedule: Schedule) -> Tensor:
    """The velocity that a prediction means at times (B,)."""
    if prediction == "velocity":
        return output
    if prediction == "negative velocity":
        return -output
    convert = {"noise": velocity_from_source, "data": velocity_from_target, "score": velocity_from_score}[prediction]
    return convert(t, x, output, schedule)
