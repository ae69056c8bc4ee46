"""Steps of every method along a field, over a grid of times before t = 1 that rises or falls."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchdiffeq import odeint

from proxflow.errors import ConvergenceError
from proxflow.flow import ProximalFlow, flow_of
from proxflow.predictions import source_from_velocity, target_from_velocity
from proxflow.schedules import Schedule

__all__ = ["METHODS", "CountedField", "Field", "adaptive", "fixed", "onto_grid", "proximal", "worst_row"]

Field = Callable[[Tensor, Tensor], Tensor]

METHODS = ("euler", "midpoint", "heun", "dopri5", "proximal")

_SOLVERS = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2"}
_SECOND_ORDER = ("midpoint", "heun")
_MOST_ADAPTIVE_STEPS = 10_000  # between two reported times; more mean a field that dopri5 cannot follow


class CountedField:
    """A field whose evaluations are counted and whose values are checked.

    Args:
        owner: name of the calling function, for messages.
        field: callable (t, x), or a ``ProximalFlow``, also as its method ``velocity``.
        schedule: its schedule.
    """

    def __init__(self, owner: str, field: Field | ProximalFlow, schedule: Schedule) -> None:
        self.owner, self.schedule = owner, schedule
        self.flow = flow_of(field)
        self.evaluations = 0
        self._field = field

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """The velocity, (B, *event)."""
        self.evaluations += 1
        velocity = self._field(t.to(x.dtype), x)
        if not isinstance(velocity, Tensor):
            raise ValueError(f"{self.owner}: the field must return a tensor, got {type(velocity).__name__}")
        if velocity.shape != x.shape:
            raise ValueError(
                f"{self.owner}: the field returned shape {tuple(velocity.shape)} for x of {tuple(x.shape)}"
            )
        if velocity.dtype != x.dtype or velocity.device != x.device:
            raise ValueError(
                f"{self.owner}: the field returned {velocity.dtype} on {velocity.device} for x of {x.dtype} on "
                f"{x.device}"
            )
        return velocity

    def recover_target(self, t: Tensor, x: Tensor) -> Tensor:
        """The data end of the trajectory through x at t: a flow's prox, else from the velocity."""
        if self.flow is None:
            return target_from_velocity(t, x, self(t, x), self.schedule)
        self.evaluations += 1
        return self.flow.recover_target(t, x)

    def recover_source(self, t: Tensor, x: Tensor) -> Tensor:
        """The noise end of the trajectory through x at t."""
        if self.flow is None:
            return source_from_velocity(t, x, self(t, x), self.schedule)
        self.evaluations += 1
        return self.flow.recover_source(t, x)

    def ends(self, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Noise and data of the trajectory through x at t, both from its velocity."""
        velocity = self(t, x)
        source = source_from_velocity(t, x, velocity, self.schedule)
        return source, target_from_velocity(t, x, velocity, self.schedule)


def proximal(field: CountedField, times: Tensor, x: Tensor) -> Tensor:
    """Both ends (y, u) from the velocity, then alpha u + beta y at the next time, over the grid."""
    points, schedule = [x], field.schedule
    for now, following in itertools.pairwise(times):
        source, target = field.ends(now, points[-1])
        points.append(schedule.alpha(following) * source + schedule.beta(following) * target)
    return torch.stack(points)


def onto_grid(field: CountedField, now: Tensor, following: Tensor, x: Tensor, method: str) -> Tensor:
    """A step from t near 1, of the order of the method, of dx = u dalpha + y dbeta: rates in t may have no bound there.

    With the ends u, y as at x it is a proximal step; with the means of those here and there, Heun's rule.
    """
    alpha_change = field.schedule.alpha(following) - field.schedule.alpha(now)
    beta_change = field.schedule.beta(following) - field.schedule.beta(now)

    def moved(source: Tensor, target: Tensor) -> Tensor:
        return x + alpha_change * source + beta_change * target

    source, target = field.ends(now, x)
    if method not in _SECOND_ORDER:
        return moved(source, target)
    source_there, target_there = field.ends(following, moved(source, target))
    return moved(0.5 * (source + source_there), 0.5 * (target + target_there))


def fixed(field: CountedField, times: Tensor, x: Tensor, method: str) -> Tensor:
    """A Runge-Kutta method over the grid."""
    if len(times) == 1:
        return x[None]
    points: Tensor = odeint(field, x, times, method=_SOLVERS[method])
    return points


def adaptive(
    owner: str, field: Field, times: Tensor, x: Tensor, rtol: float, atol: float, norm: Callable[[Tensor], Tensor]
) -> Tensor:
    """dopri5, its tolerance kept by every row, landing on each time; a row that breaks is NaN from the start on.

    Args:
        owner: name of the calling function, for messages.
        field: callable (t, x).
        times: (T,), strictly monotone.
        x: (B, *event), at the first time.
        rtol: relative tolerance.
        atol: absolute tolerance.
        norm: the size of a step's error in units of the tolerance, such as ``worst_row``.

    Raises:
        ConvergenceError: the tolerances cannot be kept.
    """
    rows = _LiveRows(field, x)
    first_step = 1e-2 * float((times[1] - times[0]).abs())
    options = {"step_t": times[1:], "first_step": first_step, "norm": norm, "max_num_steps": _MOST_ADAPTIVE_STEPS}
    try:
        points = odeint(rows, rows.start, times, method="dopri5", rtol=rtol, atol=atol, options=options)
    except AssertionError as error:  # how torchdiffeq gives up; a field's own comes through as it is
        if error is rows.assertion:
            raise
        raise ConvergenceError(
            f"{owner}: dopri5 cannot keep rtol={rtol:g}, atol={atol:g} on this field ({error}). "
            "Loosen rtol and atol, or use a fixed-step method"
        ) from error
    return torch.cat([x[None], points[1:].masked_fill(rows.broken, torch.nan)])


class _LiveRows:
    """A field as an adaptive solver needs it: a row that is not finite stands still, so that it spoils no other."""

    def __init__(self, field: Field, x0: Tensor) -> None:
        self._field = field
        self.assertion: AssertionError | None = None
        self.broken = ~_finite_rows(x0)
        self.start = x0.masked_fill(self.broken, 0.0)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        try:
            velocity = self._field(t, x)
        except AssertionError as error:
            self.assertion = error
            raise
        self.broken = self.broken | ~_finite_rows(velocity)
        return velocity.masked_fill(self.broken, 0.0)


def _finite_rows(x: Tensor) -> Tensor:
    """(B, 1, ...), whether all entries of a row are finite."""
    finite = torch.isfinite(x.detach()).reshape(len(x), math.prod(x.shape[1:])).all(1)
    return finite.reshape(-1, *[1] * (x.ndim - 1))


def worst_row(error: Tensor) -> Tensor:
    """The largest root mean square over the rows: a mean over the batch would hide a bad row in a large one."""
    if error.numel() == 0:
        return error.new_zeros(())
    return error.reshape(len(error), -1).square().mean(1).sqrt().max()
