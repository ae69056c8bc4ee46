"""Integrating a velocity field from noise (t = 0) to data (t = 1)."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torchdiffeq import odeint

from proxflow.flow import ProximalFlow
from proxflow.schedules import Linear, Schedule

__all__ = ["METHODS", "Trajectory", "integrate"]

Field = Callable[[Tensor, Tensor], Tensor]

METHODS = ("euler", "midpoint", "heun", "dopri5", "proximal")

_SOLVERS = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2", "dopri5": "dopri5"}
_DEFAULT_STEPS = {"euler": 100, "midpoint": 100, "heun": 100, "dopri5": 1, "proximal": 1}
_ADAPTIVE_END = 1 - 1e-3  # dopri5 stops here: a field of a singular target is stiff like 1 / (1 - t) beyond


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
        schedule: of a bare callable, Linear if None; a ``ProximalFlow`` knows its own.
        rtol: relative tolerance of dopri5.
        atol: absolute tolerance of dopri5.

    Returns:
        ``Trajectory`` with ``steps`` + 1 times; differentiable in x0.

    Raises:
        ValueError: unknown method, steps < 1, x0 without a batch dimension or not floating point, a schedule that
            contradicts the flow's, or a field whose values do not look like x.
    """
    if method not in METHODS:
        raise ValueError(f"integrate: unknown method {method!r}; known: {', '.join(METHODS)}")
    count = _DEFAULT_STEPS[method] if steps is None else steps
    if not isinstance(count, int) or count < 1:
        raise ValueError(f"integrate: steps must be a positive integer, got {steps!r}")
    if x0.ndim < 2 or not x0.is_floating_point():
        raise ValueError(
            f"integrate: x0 must be a floating-point tensor (B, *event), got {x0.dtype} of shape {tuple(x0.shape)}"
        )
    walker = _Walker(field, _schedule_of(field, schedule))
    times = torch.linspace(0, 1, count + 1, dtype=torch.float64, device=x0.device).to(x0.dtype)
    if method == "proximal":
        points = walker.proximal(times, x0)
    else:
        points = walker.runge_kutta(times, x0, method, rtol, atol)
    return Trajectory(times, points, walker.evaluations)


def _schedule_of(field: Field | ProximalFlow, schedule: Schedule | None) -> Schedule:
    if not isinstance(field, ProximalFlow):
        return Linear() if schedule is None else schedule
    if schedule is not None and schedule != field.schedule:
        raise ValueError(f"integrate: the flow has the schedule {field.schedule}, but schedule={schedule} was given")
    return field.schedule


class _Walker:
    """A field whose evaluations are counted and checked, and the steps built on it."""

    def __init__(self, field: Field | ProximalFlow, schedule: Schedule) -> None:
        self._field = field
        self._schedule = schedule
        self.evaluations = 0

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        self.evaluations += 1
        velocity = self._field(t.to(x.dtype), x)
        if velocity.shape != x.shape or velocity.dtype != x.dtype:
            raise ValueError(
                f"integrate: the field gave {velocity.dtype} of shape {tuple(velocity.shape)} "
                f"for x {x.dtype} of shape {tuple(x.shape)}"
            )
        return velocity

    def proximal(self, times: Tensor, x: Tensor) -> Tensor:
        """Proximal steps over a grid that ends at t = 1."""
        points = [x]
        for now, following in itertools.pairwise(times):
            points.append(self._proximal_step(now, following, points[-1]))
        return torch.stack(points)

    def runge_kutta(self, times: Tensor, x0: Tensor, method: str, rtol: float, atol: float) -> Tensor:
        """torchdiffeq up to the last time that the method may use, then the last step."""
        if method == "midpoint" and not isinstance(self._field, ProximalFlow):
            points: Tensor = odeint(self, x0, times, method="midpoint")
            return points
        last = times.new_tensor(_ADAPTIVE_END).maximum(times[-2]) if method == "dopri5" else times[-2]
        grid = torch.cat([times[:-1], last[None]]).unique()
        points = x0[None]
        if len(grid) > 1:
            points = odeint(
                self, x0, grid, method=_SOLVERS[method], rtol=rtol, atol=atol, options=_landing(method, grid)
            )
        end = self._proximal_step(last, times[-1], points[-1])
        return torch.cat([points[: len(times) - 1], end[None]])

    def _proximal_step(self, now: Tensor, following: Tensor, x: Tensor) -> Tensor:
        schedule = self._schedule
        if following == 1 and isinstance(self._field, ProximalFlow):
            self.evaluations += 1
            return self._field.recover_target(now, x)
        velocity, wronskian = self(now, x), schedule.wronskian(now)
        target = (schedule.alpha(now) * velocity - schedule.alpha_derivative(now) * x) / wronskian
        source = (schedule.beta_derivative(now) * x - schedule.beta(now) * velocity) / wronskian
        return schedule.alpha(following) * source + schedule.beta(following) * target


def _landing(method: str, grid: Tensor) -> dict[str, object] | None:
    """Options that make an adaptive solver land on every time of the grid and never step beyond its end."""
    return {"step_t": grid[1:], "first_step": 1e-2 * float(grid[1])} if method == "dopri5" else None
