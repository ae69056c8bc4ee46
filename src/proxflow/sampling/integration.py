"""Integrating a velocity field from noise (t = 0) to data (t = 1), and back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor, real_number, whole_number
from proxflow.flow import ProximalFlow, known_field, schedule_of
from proxflow.results import brief_repr
from proxflow.sampling.arrival import depart, last_departure, refuse_without_density
from proxflow.sampling.row_by_row import check_row_by_row
from proxflow.sampling.solvers import METHODS, CountedField, Field, adaptive, fixed, onto_grid, proximal, worst_row
from proxflow.schedules import Schedule

__all__ = ["METHODS", "Trajectory", "check_points", "checked_tolerance", "encode", "integrate"]

_LONGEST_LAST_STEP = 1e-3  # in t and alpha, of dopri5: it is a proximal step, as near t = 1 a field may be singular
_LAST_STEP_OF_A_GRID = 1e-4  # that fixed steps invert: its error, the square, is below theirs up to 1,000 steps
_DEFAULT_STEPS = {"euler": 100, "midpoint": 100, "heun": 100, "dopri5": 1, "proximal": 1}


@brief_repr
@dataclass(frozen=True)
class Trajectory:
    """Times (T,), points (T, B, *event) at those times, and how often the field was evaluated."""

    times: Tensor
    points: Tensor
    evaluations: int

    @property
    def end(self) -> Tensor:
        """The last points, (B, *event): at t = 1, or at t = 0 in reverse."""
        return self.points[-1]


def integrate(
    field: Field | ProximalFlow,
    x0: Tensor,
    steps: int | None = None,
    method: str = "euler",
    schedule: Schedule | None = None,
    *,
    times: Numbers | None = None,
    reverse: bool = False,
    rtol: float = 1e-6,
    atol: float = 1e-6,
) -> Trajectory:
    """Follow a velocity field from x0 at t = 0 to t = 1, or in reverse, never calling it at t = 1 or beyond.

    ``proximal`` recovers both ends (y, u) of the trajectory through x_t from its velocity and moves to
    alpha u + beta y: for the Linear schedule this is Euler, for the others the exact step of a straight pair, so that
    an exact flow needs one step under every schedule. The last step of euler, heun and dopri5 is such a step too: heun
    would need the field at t = 1. The last step of a ``ProximalFlow`` is its prox, whatever the method.

    In reverse x0 are data. The last step, from at most 1e-3 before t = 1, is inverted to ``rtol`` and ``atol``
    (``sampling.arrival`` says how), and the method follows the field from there to t = 0; where it has a grid, a step
    in alpha and beta leads onto it, since near t = 1 their rates may have no bound. There and back is the
    identity up to the errors of the method both ways. Where many noise points lead to one data point, a bare callable
    gives one of them, and a ``ProximalFlow`` is refused.

    Args:
        field: callable (t, x) with t a 0-dimensional tensor, or a ``ProximalFlow``. Of a network with dropout or batch
            normalisation call ``eval()`` first.
        x0: (B, *event), where to start: noise, or data in reverse.
        steps: intervals of the time grid: 100, for proximal 1; for dopri5 the reported times only, 1.
        method: euler, midpoint, heun, dopri5 or proximal.
        schedule: schedule of a bare callable, Linear if None; a ``ProximalFlow`` and an ``IndependentField``
            know their own.
        times: a grid (T,) that rises from 0 to 1, instead of ``steps`` equal intervals; in reverse it is gone back.
        reverse: from data to noise.
        rtol: relative tolerance of dopri5, and of the inverted last step.
        atol: absolute tolerance of the same.

    Returns:
        ``Trajectory`` with ``steps`` + 1 times, from x0 on; differentiable in x0.

    Raises:
        ValueError: unknown method, steps < 1, times that do not rise from 0 to 1 or beside steps, x0 without a batch
            dimension or not floating point, a schedule that contradicts the flow's, a field whose values do not look
            like x, or in reverse a ``ProximalFlow`` whose target has no density, or a field whose rows depend on chance
            or on each other, as those of a network in training mode may.
        ConvergenceError: dopri5 cannot keep its tolerances. A row that is not finite never raises: it comes out as
            NaN and touches no other.

    Warns:
        ConvergenceWarning: in reverse, the last step could not be inverted to the tolerances.
    """
    owner = "encode" if reverse else "integrate"
    check_points(owner, x0, "x1" if owner == "encode" else "x0")
    if method not in METHODS:
        raise ValueError(f"{owner}: unknown method {method!r}; known are {', '.join(METHODS)}")
    grid = _grid(owner, steps, times, method, x0)
    tolerances = checked_tolerance(owner, "rtol", rtol), checked_tolerance(owner, "atol", atol)
    counted = CountedField(owner, field, schedule_of(owner, field, schedule))
    if reverse:
        refuse_without_density(counted, x0)
        if known_field(field) is None:
            check_row_by_row(owner, counted, x0.new_tensor(0.5), x0.detach())
    walk = _backward if reverse else _forward
    points = walk(counted, grid, x0, method, *tolerances)
    return Trajectory(grid.flip(0) if reverse else grid, points, counted.evaluations)


def encode(
    field: Field | ProximalFlow,
    x1: Tensor,
    steps: int | None = None,
    method: str = "dopri5",
    schedule: Schedule | None = None,
    *,
    times: Numbers | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-6,
) -> Trajectory:
    """From data x1 at t = 1 to their noise, ``.end``: ``integrate(..., reverse=True)``, by dopri5.

    Labels and guidance come in with the field, as ``matching.field_of(network, label, guidance)`` makes it. Along
    directions in which a callable's law is thinner than the last step, 1e-3 in time, the noise is found slowly or,
    with a warning, not; of a ``ProximalFlow`` it is exact.
    """
    return integrate(field, x1, steps, method, schedule, times=times, reverse=True, rtol=rtol, atol=atol)


def _forward(field: CountedField, grid: Tensor, x0: Tensor, method: str, rtol: float, atol: float) -> Tensor:
    before, end = grid[:-1], grid[-1:]
    if method == "midpoint" and field.flow is None:
        return fixed(field, grid, x0, method)
    if method == "dopri5":
        last = _last_time(field.schedule, grid, x0, method, rtol, atol)
        path = _follow(field, torch.cat([before, last]).unique(), x0, method, rtol, atol)
        points, now = path[: len(before)], last[0]
    else:
        points = path = _follow(field, before, x0, method, rtol, atol)
        now = before[-1]
    if field.flow is not None:
        arrived = field.recover_target(now, path[-1])
    else:
        arrived = proximal(field, torch.cat([now[None], end]), path[-1])[-1]
    return torch.cat([points, arrived[None]])


def _backward(field: CountedField, grid: Tensor, x1: Tensor, method: str, rtol: float, atol: float) -> Tensor:
    before = grid[:-1].flip(0)
    last = _last_time(field.schedule, grid, x1, method, rtol, atol)
    start = depart(field, last[0], x1, rtol, atol)
    if method == "dopri5":
        falling = torch.cat([last, before]).unique().flip(0)
        points = _follow(field, falling, start, method, rtol, atol)
        return torch.cat([x1[None], points[-len(before) :]])
    if last > before[0]:
        start = onto_grid(field, last[0], before[0], start, method)
    return torch.cat([x1[None], _follow(field, before, start, method, rtol, atol)])


def _follow(field: CountedField, times: Tensor, x: Tensor, method: str, rtol: float, atol: float) -> Tensor:
    """The method over a grid before t = 1."""
    if method == "proximal":
        return proximal(field, times, x)
    if method == "dopri5":
        return adaptive(field.owner, field, times, x, rtol, atol, worst_row)
    return fixed(field, times, x, method)


def _last_time(schedule: Schedule, grid: Tensor, x: Tensor, method: str, rtol: float, atol: float) -> Tensor:
    """The time (1,) that the last step starts from: on the grid, or as near to 1 as the error of that step asks."""
    length = _LAST_STEP_OF_A_GRID
    if method == "dopri5":
        error = max(rtol, atol, torch.finfo(x.dtype).eps)  # of the step: length^2
        length = min(_LONGEST_LAST_STEP, math.sqrt(error))
    return grid.new_tensor([last_departure(schedule, length, grid.dtype)]).maximum(grid[-2])


def check_points(owner: str, x: Tensor, name: str = "x") -> None:
    """Refuse an argument of this name that is no batch of points in float32 or float64."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{owner}: {name} must be a torch tensor, got {type(x).__name__}; convert it")
    if x.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"{owner}: {name} must be float32 or float64, got {x.dtype}")
    if x.ndim == 0:
        raise ValueError(f"{owner}: {name} must have a batch dimension, (B, *event), got a single number")


def _grid(owner: str, steps: int | None, times: Numbers | None, method: str, x: Tensor) -> Tensor:
    """The times from 0 to 1 in the dtype of x, in which they must rise."""
    if times is None:
        count = _DEFAULT_STEPS[method] if steps is None else whole_number(steps)
        if count is None or count < 1:
            raise ValueError(f"{owner}: steps must be an integer of at least 1, got {steps!r}")
        return torch.linspace(0, 1, count + 1, dtype=torch.float64).to(x)
    if steps is not None:
        raise ValueError(f"{owner}: give steps or times, not both")
    grid = as_tensor(owner, "times", times).detach().to(x)
    if grid.ndim != 1 or len(grid) < 2 or grid[0] != 0 or grid[-1] != 1 or not bool((grid.diff() > 0).all()):
        raise ValueError(f"{owner}: times must be a vector that rises from 0 to 1 in {x.dtype}, got {grid.tolist()}")
    return grid


def checked_tolerance(owner: str, name: str, tolerance: float) -> float:
    """A positive number.

    Raises:
        ValueError: it is none.
    """
    number = real_number(tolerance)
    if not 0 < number < math.inf:
        raise ValueError(f"{owner}: {name} must be a positive number, got {tolerance!r}")
    return number
