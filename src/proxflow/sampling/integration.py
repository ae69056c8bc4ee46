"""Integrating a velocity field from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchdiffeq import odeint

from proxflow.checks import real_number, whole_number
from proxflow.errors import ConvergenceError
from proxflow.flow import ProximalFlow, schedule_of
from proxflow.results import brief_repr
from proxflow.schedules import Schedule

__all__ = ["METHODS", "Trajectory", "integrate"]

Field = Callable[[Tensor, Tensor], Tensor]

METHODS = ("euler", "midpoint", "heun", "dopri5", "proximal")

_SOLVERS = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2"}
_DEFAULT_STEPS = {"euler": 100, "midpoint": 100, "heun": 100, "dopri5": 1, "proximal": 1}
_LONGEST_LAST_STEP = 1e-3  # of dopri5, which leaves a proximal last step: near t = 1 a field may be singular
_MOST_ADAPTIVE_STEPS = 10_000  # between two reported times; more mean a field that dopri5 cannot follow


@brief_repr
@dataclass(frozen=True)
class Trajectory:
    """Times (T,), points (T, B, *event) at those times, and how often the field was evaluated."""

    times: Tensor
    points: Tensor
    evaluations: int

    @property
    def end(self) -> Tensor:
        """The points at t = 1, (B, *event)."""
        return self.points[-1]


def integrate(
    field: Field | ProximalFlow,
    x0: Tensor,
    steps: int | None = None,
    method: str = "euler",
    schedule: Schedule | None = None,
    *,
    rtol: float = 1e-6,
    atol: float = 1e-6,
) -> Trajectory:
    """Follow a velocity field from x0 at t = 0 to t = 1, never calling it at t = 1 or beyond.

    ``proximal`` recovers both ends (y, u) of the trajectory through x_t from its velocity and moves to
    alpha u + beta y: for the Linear schedule this is Euler, for the others the exact step of a straight pair, so that
    an exact flow needs one step under every schedule. The last step of heun and dopri5, which would need the field at
    t = 1, is such a step; the last step of a ``ProximalFlow`` is its prox, whatever the method.

    Args:
        field: callable (t, x) with t a 0-dimensional tensor, or a ``ProximalFlow``.
        x0: (B, *event).
        steps: intervals of the time grid: 100, for proximal 1; for dopri5 the reported times only, 1.
        method: euler, midpoint, heun, dopri5 or proximal.
        schedule: schedule of a bare callable, Linear if None; a ``ProximalFlow`` knows its own.
        rtol: relative tolerance of dopri5.
        atol: absolute tolerance of dopri5.

    Returns:
        ``Trajectory`` with ``steps`` + 1 times; differentiable in x0.

    Raises:
        ValueError: unknown method, steps < 1, x0 without a batch dimension or not floating point, a schedule that
            contradicts the flow's, or a field whose values do not look like x.
        ConvergenceError: dopri5 cannot keep its tolerances. A row that is not finite never raises: it comes out as
            NaN and touches no other.
    """
    _check(x0, method)
    count = _DEFAULT_STEPS[method] if steps is None else _steps(steps)
    rtol, atol = _tolerance("rtol", rtol), _tolerance("atol", atol)
    walker = _Walker(field, schedule_of("integrate", field, schedule))
    times = torch.linspace(0, 1, count + 1, dtype=torch.float64, device=x0.device).to(x0.dtype)
    if method == "proximal":
        points = walker.proximal(times, x0)
    elif method == "dopri5":
        points = walker.adaptive(times, x0, rtol, atol)
    else:
        points = walker.fixed(times, x0, method)
    return Trajectory(times, points, walker.evaluations)


def _check(x0: Tensor, method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"integrate: unknown method {method!r}; known are {', '.join(METHODS)}")
    if not isinstance(x0, Tensor):
        raise ValueError(f"integrate: x0 must be a torch tensor, got {type(x0).__name__}; convert it")
    if x0.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"integrate: x0 must be float32 or float64, got {x0.dtype}")
    if x0.ndim == 0:
        raise ValueError("integrate: x0 must have a batch dimension, (B, *event), got a single number")


def _steps(steps: int) -> int:
    number = whole_number(steps)
    if number is None or number < 1:
        raise ValueError(f"integrate: steps must be an integer of at least 1, got {steps!r}")
    return number


def _tolerance(name: str, tolerance: float) -> float:
    number = real_number(tolerance)
    if not 0 < number < math.inf:
        raise ValueError(f"integrate: {name} must be a positive number, got {tolerance!r}")
    return number


class _Walker:
    """A field whose evaluations are counted and checked, and the steps built on it."""

    def __init__(self, field: Field | ProximalFlow, schedule: Schedule) -> None:
        self._field = field
        self._schedule = schedule
        self.evaluations = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.evaluations += 1
        velocity = self._field(t.to(x.dtype), x)
        if not isinstance(velocity, Tensor):
            raise ValueError(f"integrate: the field must return a tensor, got {type(velocity).__name__}")
        if velocity.shape != x.shape:
            raise ValueError(f"integrate: the field returned shape {tuple(velocity.shape)} for x of {tuple(x.shape)}")
        if velocity.dtype != x.dtype or velocity.device != x.device:
            raise ValueError(
                f"integrate: the field returned {velocity.dtype} on {velocity.device} for x of {x.dtype} on {x.device}"
            )
        return velocity

    def proximal(self, times: Tensor, x: Tensor) -> Tensor:
        """Proximal steps over a grid that ends at t = 1."""
        points = [x]
        for now, following in itertools.pairwise(times):
            points.append(self._proximal_step(now, following, points[-1]))
        return torch.stack(points)

    def fixed(self, times: Tensor, x0: Tensor, method: str) -> Tensor:
        """A Runge-Kutta method on the grid, up to the last time that it may use; then the last step."""
        if method == "midpoint" and not isinstance(self._field, ProximalFlow):
            points: Tensor = odeint(self, x0, times, method=method)
            return points
        points = odeint(self, x0, times[:-1], method=_SOLVERS[method]) if len(times) > 2 else x0[None]
        return torch.cat([points, self._proximal_step(times[-2], times[-1], points[-1])[None]])

    def adaptive(self, times: Tensor, x0: Tensor, rtol: float, atol: float) -> Tensor:
        """dopri5 with its tolerance kept by every row, landing on the grid and on the last time it may use."""
        length = max(math.sqrt(max(rtol, atol)), math.sqrt(torch.finfo(x0.dtype).eps))  # its error is length^2
        last = times.new_tensor(1 - min(length, _LONGEST_LAST_STEP)).maximum(times[-2])
        grid = torch.cat([times[:-1], last[None]]).unique()
        rows = _LiveRows(self, x0)
        options = {"step_t": grid[1:], "first_step": 1e-2 * float(grid[1]), "norm": _worst_row}
        options["max_num_steps"] = _MOST_ADAPTIVE_STEPS
        try:
            points = odeint(rows, rows.start, grid, method="dopri5", rtol=rtol, atol=atol, options=options)
        except AssertionError as error:  # how torchdiffeq gives up; a field's own comes through as it is
            if error is rows.assertion:
                raise
            raise ConvergenceError(
                f"integrate: dopri5 cannot keep rtol={rtol:g}, atol={atol:g} on this field ({error}). "
                "Loosen rtol and atol, or use a fixed-step method"
            ) from error
        points = torch.cat([points[: len(times) - 1], self._proximal_step(last, times[-1], points[-1])[None]])
        return torch.cat([x0[None], points[1:].masked_fill(rows.broken, torch.nan)])

    def _proximal_step(self, now: Tensor, following: Tensor, x: Tensor) -> Tensor:
        schedule = self._schedule
        if following == 1 and isinstance(self._field, ProximalFlow):
            self.evaluations += 1
            return self._field.recover_target(now, x)
        velocity, wronskian = self(now, x), schedule.wronskian(now)
        target = (schedule.alpha(now) * velocity - schedule.alpha_derivative(now) * x) / wronskian
        source = (schedule.beta_derivative(now) * x - schedule.beta(now) * velocity) / wronskian
        return schedule.alpha(following) * source + schedule.beta(following) * target


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


def _worst_row(error: Tensor) -> Tensor:
    """The largest root mean square over the rows: a mean over the batch would hide a bad row in a large one."""
    if error.numel() == 0:
        return error.new_zeros(())
    return error.reshape(len(error), -1).square().mean(1).sqrt().max()
