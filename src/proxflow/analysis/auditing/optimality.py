"""How far a field is from the exact flow: in cost, on the same noise, in velocity, and in the pairs behind it.

A perfect network of pairs (x0, x1) of any coupling of noise and data is at x_t the mean velocity of the pairs there,
and over the law of x_t, which is that of its own trajectories (docs/theory.md 4),

    E|v_t - v_t(exact)|^2 <= W^2 excess / (2 alpha beta),    excess = E|x1 - x0|^2 - W2^2.

Turned round, the error on its trajectories says what the pairs cost at least above the least cost, whatever they were.
The pairs that the field itself *makes* are others, and cheaper: even those of independent pairs may be nearly optimal.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.auditing.generated_pairs import FieldCall, GeneratedPairs, velocity
from proxflow.analysis.auditing.intervals import Estimate, ratio, root_ratio
from proxflow.flow import ProximalFlow
from proxflow.schedules import Schedule

__all__ = [
    "Misses",
    "PairBound",
    "VelocityErrors",
    "misses_on_the_way",
    "optimality_figures",
    "pair_bound",
    "velocity_errors",
]

_MOMENTS = 8  # times, midpoints of equal parts of [0, 1]
_INNER = 7  # times inside (0, 1) at which errors are taken on the field's own trajectories, one prox for each row
_ROWS = 256  # trajectories of these


@dataclass(frozen=True)
class VelocityErrors:
    """|v - v_exact|^2 and |v_exact|^2, both (T, n), at the times (T,) on the exact trajectories."""

    times: Tensor
    squared: Tensor
    size: Tensor


@torch.no_grad()
def velocity_errors(
    field: FieldCall, source: Tensor, exact: Tensor, event: tuple[int, ...], schedule: Schedule
) -> VelocityErrors:
    """Errors on x_t = alpha x0 + beta T(x0), whose velocity alpha' x0 + beta' T(x0) needs no solve; flat (n, d)."""
    times = (torch.arange(_MOMENTS, dtype=torch.float64) + 0.5) / _MOMENTS
    squared, size = [], []
    for t in times.tolist():
        x = float(schedule.alpha(t)) * source + float(schedule.beta(t)) * exact
        right = float(schedule.alpha_derivative(t)) * source + float(schedule.beta_derivative(t)) * exact
        squared.append((velocity(field, t, x, event) - right).double().square().sum(1))
        size.append(right.double().square().sum(1))
    return VelocityErrors(times, torch.stack(squared).cpu(), torch.stack(size).cpu())


def optimality_figures(pairs: GeneratedPairs, exact: Tensor, errors: VelocityErrors) -> dict[str, Estimate]:
    """The excess of cost over that of the exact flow on the same noise, and the error of the velocity."""
    least = (exact.double() - pairs.source.double()).square().sum(1)
    return {
        "cost_excess": ratio(pairs.lengths - least, least),
        "velocity_error": root_ratio(errors.squared.mean(0), errors.size.mean(0)),
    }


@dataclass(frozen=True)
class Misses:
    """What a field recovers on its own trajectories, less what the exact flow recovers there.

    Attributes:
        times: (T,) inside (0, 1).
        points: (T, n, d), where the trajectories are.
        exact: (T, n, d), ``recover_target`` of the exact flow there.
        miss: (T, n, d), that of the field less it: alpha / W times the error of the velocity.
    """

    times: Tensor
    points: Tensor
    exact: Tensor
    miss: Tensor


@torch.no_grad()
def misses_on_the_way(pairs: GeneratedPairs, flow: ProximalFlow, schedule: Schedule) -> Misses:
    """Of the first 256 pairs, made by the field, at 7 times; ``flow`` is any with the potential of the exact flow.

    Raises:
        ConvergenceError: the exact flow has no answer at a point.
    """
    steps = len(pairs.recovered)
    kept = sorted({max(1, round(k * steps / (_INNER + 1))) for k in range(1, _INNER + 1)})
    dtype, device = flow.potential.query_kind or (pairs.source.dtype, pairs.source.device)
    there, points = ProximalFlow(flow.potential, schedule), pairs.points[kept, :_ROWS]
    right = torch.stack(
        [
            there.recover_target(t, x.to(device, dtype)).to(pairs.source)
            for t, x in zip(pairs.times[kept].tolist(), points, strict=True)
        ]
    )
    return Misses(pairs.times[kept], points, right, pairs.recovered[kept, :_ROWS] - right)


@dataclass(frozen=True)
class PairBound:
    """What a field's error on its own trajectories says of the pairs that it is the mean of.

    Attributes:
        times: (T,) inside (0, 1).
        error: (T,) root of E|v - v_exact|^2 over its own x_t.
        bound: (T,) what the theorem allows for pairs of the excess found, W sqrt(excess / (2 alpha beta)).
        excess: the least excess of pairs that allow the error at all times, over the least cost.
    """

    times: Tensor
    error: Tensor
    bound: Tensor
    excess: Estimate


def pair_bound(misses: Misses, pairs: GeneratedPairs, exact: Tensor, schedule: Schedule) -> PairBound:
    """From v - v_exact = (W / alpha) (y - y_exact).

    Args:
        misses: of the pairs.
        pairs: made by the field.
        exact: (n, d), where the exact flow carries their noise.
        schedule: of the field.
    """
    rows, times = slice(misses.miss.shape[1]), misses.times
    least = (exact[rows].double() - pairs.source[rows].double()).square().sum(1)
    alpha, beta, wronskian = schedule.alpha(times), schedule.beta(times), schedule.wronskian(times)
    errors = misses.miss.double().square().sum(2).cpu()
    largest = int((beta / alpha * errors.mean(1)).argmax())
    excess = ratio(2 * (beta / alpha)[largest] * errors[largest], least.cpu())
    bound = wronskian * (excess.value * least.mean().cpu() / (2 * alpha * beta)).sqrt()
    return PairBound(times, wronskian / alpha * errors.mean(1).sqrt(), bound, excess)
