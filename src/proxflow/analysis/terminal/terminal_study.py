"""How a field arrives at its data, in one study: spectra along trajectories, local dimension, and perturbations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import brentq
from torch import Tensor

from proxflow.analysis.terminal.flat_field import DENSE_LIMIT, Field, FlatField, as_times
from proxflow.analysis.terminal.local_dimension import LocalDimension, local_dimension
from proxflow.analysis.terminal.perturbation import Perturbation, perturb
from proxflow.analysis.terminal.terminal_spectrum import TerminalSpectrum, terminal_spectrum
from proxflow.checks import Numbers
from proxflow.results import brief_repr
from proxflow.schedules import Schedule
from proxflow.storage import storable

__all__ = ["TIMES", "TerminalStudy", "terminal_study"]

TIMES = (0.5, 0.7, 0.9, 0.97, 0.99, 0.997, 0.999)  # evenly in rescaled time towards t = 1
_EXTREME = 20  # rates taken where the dimension is large
_PERTURBED = 6  # points, along two normal and two tangent directions each
_PERTURBED_AT = 0.5  # t


@storable
@brief_repr
@dataclass(frozen=True)
class TerminalStudy:
    """What was measured.

    Attributes:
        spectrum: rates along the trajectories; the 20 most extreme above 256 dimensions.
        dimension: local dimension of each trajectory's point at the time where alpha / beta is the scale asked for.
        perturbation: of the first points at t = 1/2 by a fifth of the distance that noise is then away.
    """

    spectrum: TerminalSpectrum
    dimension: LocalDimension
    perturbation: Perturbation


def terminal_study(
    field: Field,
    x0: Tensor,
    *,
    scale: float,
    times: Sequence[float] = TIMES,
    schedule: Schedule | None = None,
    points: Numbers | None = None,
    seed: int = 0,
    max_memory: int = 2**28,
) -> TerminalStudy:
    """Measure a field's arrival on trajectories from x0.

    Args:
        field: ``ProximalFlow`` or callable (t, x).
        x0: (B, *event) source points.
        scale: alpha / beta at which local dimensions are taken: directions of the data that are much wider count.
        times: increasing, inside (0, 1).
        schedule: schedule of a bare callable, Linear if None.
        points: (N, *event), data of a bare callable, for warnings of memorisation.
        seed: seed of random directions.
        max_memory: bytes for what is computed at once.

    Raises:
        ValueError: bad points, times or options, or a schedule that contradicts the flow's.
        ConvergenceError: dopri5 cannot follow the field.
    """
    flat = FlatField("terminal_study", field, x0, schedule, max_memory)
    as_times(flat.owner, times, x0)
    time = time_of_scale(flat.schedule, scale)
    count = None if flat.dim <= DENSE_LIMIT else min(_EXTREME, flat.dim // 4)
    spectrum = terminal_spectrum(field, x0, times, schedule=schedule, count=count, seed=seed, max_memory=max_memory)
    at_scale = flat.trajectory(x0, as_times(flat.owner, time, x0))[0].reshape(x0.shape)
    dimension = local_dimension(
        field, at_scale, time, schedule=schedule, points=points, seed=seed, max_memory=max_memory
    )
    alpha = float(flat.schedule.alpha(torch.tensor(_PERTURBED_AT, dtype=torch.float64)))
    perturbation = perturb(
        field,
        x0[:_PERTURBED],
        _PERTURBED_AT,
        count=min(4, flat.dim),
        size=0.2 * alpha * math.sqrt(flat.dim),
        schedule=schedule,
        seed=seed,
        max_memory=max_memory,
    )
    return TerminalStudy(spectrum, dimension, perturbation)


def time_of_scale(schedule: Schedule, scale: float) -> float:
    """The t with alpha / beta = scale.

    Raises:
        ValueError: the scale is not a positive number, or so small or large that its time rounds to an end.
    """
    if not (math.isfinite(scale) and scale > 0):
        raise ValueError(f"scale must be a positive number, got {scale!r}")

    def excess(t: float) -> float:
        time = torch.tensor(t, dtype=torch.float64)
        return float(schedule.alpha(time) - scale * schedule.beta(time))

    time = float(brentq(excess, 0.0, 1.0, xtol=1e-14))
    if not 1e-6 < time < 1 - 1e-6:
        raise ValueError(f"scale must be between about 1e-6 and 1e6, got {scale!r}")
    return time
