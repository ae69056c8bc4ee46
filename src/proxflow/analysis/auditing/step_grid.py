"""Times at which few steps of a model are least off, beside equal steps.

Problem: a proximal step from t keeps the ends (u, y) of the straight pair through x_t. Along a trajectory alpha du/dt
+ beta dy/dt = 0, since x' = alpha' u + beta' y, so that a step of length h leaves the local error h^2 / 2 |a|, a = (W
/ alpha) dy/dt, of Euler's method under the linear schedule h^2 / 2 |dv/dt|. Method: steps of density rho, h = 1 / (K
rho), sum up to (1 / 2K) int |a| / rho dt, which is least at rho ~ |a|^(1/2): the steps then add alike. What becomes
of an error on the way to t = 1 is not in that. So this grid is one candidate; others are equal steps, half-way
between both, and powers that crowd either end. That with the least error on one half of the noise is judged on the
other.

Cost: K evaluations for each of six candidates on half of the noise, and K on the other.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from proxflow.analysis.auditing.generated_pairs import GeneratedPairs
from proxflow.schedules import Schedule

__all__ = ["best_grid", "curvature_grid"]

_POWERS = (0.75, 1.5, 2.0)  # of k / K; above 1 steps crowd the start
_LEAST_DENSITY = 0.01  # of the mean one, so that times rise where trajectories are straight


def best_grid(
    error: Callable[[Tensor], Tensor], pairs: GeneratedPairs, schedule: Schedule, steps: int
) -> tuple[float, ...]:
    """The candidate (steps + 1,) with the least error; equal steps if none is better.

    Args:
        error: grid -> mean squared error, (), on noise of the search.
        pairs: of the same noise, followed in many steps.
        schedule: of the field.
        steps: that are wanted.
    """
    equal = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    curved = curvature_grid(pairs, schedule, steps)
    candidates = [equal, curved, 0.5 * (equal + curved), *(equal**power for power in _POWERS)]
    errors = [float(error(grid)) for grid in candidates]
    return tuple(candidates[int(np.nanargmin(errors))].tolist())


def curvature_grid(pairs: GeneratedPairs, schedule: Schedule, steps: int) -> Tensor:
    """Times (steps + 1,) between which the root of the curvature of the trajectories has equal integrals."""
    times = pairs.times.double().cpu()
    recovered = torch.cat([pairs.recovered, pairs.target[None]]).double()
    rate = recovered.diff(dim=0).square().sum(2).mean(1).sqrt().cpu() / times.diff()
    middle = 0.5 * (times[1:] + times[:-1])
    density = (schedule.wronskian(middle) / schedule.alpha(middle) * rate).sqrt()
    density = density + _LEAST_DENSITY * density.mean() if float(density.sum()) > 0 else torch.ones_like(density)
    mass = torch.cat([torch.zeros(1, dtype=torch.float64), (density * times.diff()).cumsum(0)])
    wanted = np.linspace(0, 1, steps + 1)
    grid = torch.from_numpy(np.interp(wanted, (mass / mass[-1]).numpy(), times.numpy()))
    grid[0], grid[-1] = 0.0, 1.0
    return grid
