"""How far a field is from the exact flow: in cost, on the same noise, and in velocity, on the exact trajectories."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.auditing.generated_pairs import FieldCall, GeneratedPairs, velocity
from proxflow.analysis.auditing.intervals import Estimate, ratio, root_ratio
from proxflow.schedules import Schedule

__all__ = ["VelocityErrors", "optimality_figures", "velocity_errors"]

_MOMENTS = 8  # times, midpoints of equal parts of [0, 1]


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
