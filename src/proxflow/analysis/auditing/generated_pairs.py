"""The pairs (x0, x1) that a field makes of noise, with what it recovers on the way.

Problem: follow a field from noise to data so that the laws of the exact flow hold to rounding if they hold at all.

Method: a midpoint rule on the Moreau pair. The velocity at (t, x) gives the ends (u, y) of the straight pair through
x; the step goes half-way along this pair, and then the whole way along the pair recovered there. For a straight pair
both are the same at all times, so that an exact flow is followed exactly under every schedule; any smooth field with an
error of second order. The field is never called at t = 1 or beyond, and the last call is half a step before it.

Cost: two calls of the field a step.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.errors import UndefinedTimeError
from proxflow.predictions import source_from_velocity, target_from_velocity
from proxflow.schedules import Schedule

__all__ = ["FieldCall", "GeneratedPairs", "centred", "defined_from_the_start", "generated_pairs", "velocity"]

FieldCall = Callable[[Tensor, Tensor], Tensor]

_EARLIEST = 1e-3  # t from which a field is called that has no value at t = 0, such as a noise prediction
_ROWS_AT_ONCE = 1024  # of one call of the field


@dataclass(frozen=True)
class GeneratedPairs:
    """Trajectories of n noise points over K steps; flat points.

    Attributes:
        times: (K + 1,) from 0 to 1.
        points: (K + 1, n, d).
        recovered: (K, n, d), ``recover_target`` at all of these times but the last.
    """

    times: Tensor
    points: Tensor
    recovered: Tensor

    def of_rows(self, rows: slice) -> GeneratedPairs:
        """Those of some of the noise points."""
        return GeneratedPairs(self.times, self.points[:, rows], self.recovered[:, rows])

    def at(self, t: Tensor, schedule: Schedule, rows: slice) -> Tensor:
        """Where some of the points are at a time below 1, (n, d), by a proximal step from the last time before it."""
        place = int(torch.searchsorted(self.times, t, right=True)) - 1
        x, target, now = self.points[place, rows], self.recovered[place, rows], self.times[place]
        fall = schedule.alpha(t) / schedule.alpha(now)
        return float(fall) * x + float(schedule.beta(t) - fall * schedule.beta(now)) * target

    @property
    def source(self) -> Tensor:
        """x0, (n, d)."""
        return self.points[0]

    @property
    def target(self) -> Tensor:
        """x1, (n, d)."""
        return self.points[-1]

    @property
    def lengths(self) -> Tensor:
        """|x1 - x0|^2, (n,) float64."""
        return (self.target.double() - self.source.double()).square().sum(1)

    @property
    def variances(self) -> Tensor:
        """|x1 - mean|^2, (n,) float64."""
        return centred(self.target.double()).square().sum(1)


def centred(points: Tensor) -> Tensor:
    """Points less their mean."""
    return points - points.mean(0)


@torch.no_grad()
def generated_pairs(
    field: FieldCall, noise: Tensor, event: tuple[int, ...], schedule: Schedule, steps: int
) -> GeneratedPairs:
    """Follow the field from flat noise (n, d) in ``steps`` steps.

    Raises:
        ValueError: the field gives no tensor like its points.
    """
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    points, recovered = [noise], []
    for now, following in itertools.pairwise(times.tolist()):
        x = points[-1]
        middle = 0.5 * (now + following)
        source, target = _ends(field, now, x, event, schedule)
        half = float(schedule.alpha(middle)) * source + float(schedule.beta(middle)) * target
        later_source, later_target = _ends(field, middle, half, event, schedule)
        fall = float(schedule.alpha(following)) - float(schedule.alpha(now))
        rise = float(schedule.beta(following)) - float(schedule.beta(now))
        points.append(x + fall * later_source + rise * later_target)
        recovered.append(target)
    return GeneratedPairs(times, torch.stack(points), torch.stack(recovered))


def velocity(field: FieldCall, t: float, x: Tensor, event: tuple[int, ...]) -> Tensor:
    """v_t at flat points, (n, d); rows that are not finite stand still in the field's stead and come out NaN.

    Raises:
        ValueError: the field gives no tensor like its points.
    """
    rows = []
    for part in x.split(_ROWS_AT_ONCE):
        fine = torch.isfinite(part).all(1)
        points = part.masked_fill(~fine[:, None], 0.0).reshape(len(part), *event)
        value = field(torch.as_tensor(t, dtype=x.dtype, device=x.device), points)
        if not isinstance(value, Tensor) or value.shape != points.shape:
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"audit: the field gave {got} for x of {tuple(points.shape)}; it is called as field(t, x)")
        rows.append(value.detach().to(x).reshape(part.shape).masked_fill(~fine[:, None], math.nan))
    return torch.cat(rows)


def _ends(field: FieldCall, t: float, x: Tensor, event: tuple[int, ...], schedule: Schedule) -> tuple[Tensor, Tensor]:
    """The noise and the data point of the straight pair through (t, x)."""
    v = velocity(field, t, x, event)
    return source_from_velocity(t, x, v, schedule), target_from_velocity(t, x, v, schedule)


def defined_from_the_start(field: FieldCall, noise: Tensor, event: tuple[int, ...]) -> FieldCall:
    """The field; where it has no value at t = 0, its value at t = 0.001 in its stead.

    It has none where it is not finite, or where a formula of this library's says so; other errors are the field's own.
    """
    try:
        if bool(torch.isfinite(velocity(field, 0.0, noise[:2], event)).all()):
            return field
    except UndefinedTimeError:
        pass
    return lambda t, x: field(t.clamp(min=_EARLIEST), x)
