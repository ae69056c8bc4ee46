"""What survives of a perturbation: points moved along normal and tangent directions at t, and carried on to the data.

An exact flow says it in advance: a small perturbation of unit length along an eigen-direction of D recover_target,
with rate r, arrives with the length |1 + r| (-alpha') / W, which is 0 across a data manifold and about 1 / beta
along it. What a network does to them may differ, as it need not lead to the target that it recovers at t.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.terminal.flat_field import Field, FlatField, as_times
from proxflow.analysis.terminal.spectrum import ends, point_spectrum
from proxflow.checks import real_number, whole_number
from proxflow.results import brief_repr
from proxflow.schedules import Schedule
from proxflow.seeding import seeded_generator
from proxflow.storage import storable

__all__ = ["Perturbation", "perturb"]


@storable
@brief_repr
@dataclass(frozen=True)
class Perturbation:
    """Perturbations at one time and where they lead.

    Attributes:
        time: t of the perturbations.
        size: their length.
        rates: (B, k) of the directions, ascending: normal ones first.
        ends: (B, k, *event), where perturbed points arrive.
        unperturbed: (B, *event), where the points arrive by themselves.
        survival: (B, k), distance between the two over ``size``.
        predicted: (B, k), the same for infinitely small ones of an exact flow with these rates.
    """

    time: float
    size: float
    rates: Tensor
    ends: Tensor
    unperturbed: Tensor
    survival: Tensor
    predicted: Tensor


def perturb(
    field: Field,
    x0: Tensor,
    t: float,
    *,
    count: int = 4,
    size: float = 1.0,
    schedule: Schedule | None = None,
    rtol: float | None = None,
    seed: int = 0,
    max_memory: int = 2**28,
) -> Perturbation:
    """Move the points of trajectories at time t along extreme eigen-directions, and follow them to t = 1.

    Args:
        field: ``ProximalFlow``, whose end is known from x_t, or callable (t, x), which is followed by dopri5.
        x0: (B, *event) source points.
        t: in (0, 1).
        count: directions, half from each end of the spectrum, 2 at least; above 256 dimensions at most d / 4.
        size: length of the perturbation.
        schedule: schedule of a bare callable, Linear if None.
        rtol: tolerance of dopri5; 1e-7 in float64 and 1e-4 in float32 if None.
        seed: seed of random directions in high dimension.
        max_memory: bytes for what is computed at once.

    Raises:
        ValueError: bad points, time or options, or a schedule that contradicts the flow's.
        ConvergenceError: dopri5 cannot follow the field.
    """
    flat = FlatField("perturb", field, x0, schedule, max_memory)
    time = as_times(flat.owner, t, x0)
    if not 0 < real_number(size) < math.inf:
        raise ValueError(f"perturb: size must be a positive number, got {size!r}")
    if (whole_number(count) or 0) < 2:
        raise ValueError(f"perturb: count must be at least 2, got {count!r}")
    count, size = int(count), float(size)
    x = flat.trajectory(x0, time, rtol)[0]
    found = point_spectrum(flat, time[0], x, ends(flat, count, "both", 1e-3), seeded_generator(flat.owner, seed))
    moved = x[:, None] + size * found.vectors.mT
    arrived = flat.arrival(time[0], torch.cat([x[:, None], moved], 1).flatten(0, 1), rtol)
    arrived = arrived.reshape(len(x), count + 1, flat.dim)
    apart = torch.linalg.vector_norm(arrived[:, 1:] - arrived[:, :1], dim=2)
    slope = -flat.schedule.alpha_derivative(time) / flat.schedule.wronskian(time)
    return Perturbation(
        time=float(t),
        size=float(size),
        rates=found.rates,
        ends=arrived[:, 1:].reshape(len(x), count, *x0.shape[1:]),
        unperturbed=arrived[:, 0].reshape(x0.shape),
        survival=apart / size,
        predicted=(1 + found.rates).abs() * slope,
    )
