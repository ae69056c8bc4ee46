"""Finite-time Lyapunov exponents in rescaled time: how much a flow has stretched what it started from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.terminal.flat_field import Field, FlatField, as_times
from proxflow.analysis.terminal.spectrum import ends, point_spectrum
from proxflow.results import brief_repr
from proxflow.schedules import Schedule
from proxflow.seeding import seeded_generator

__all__ = ["LyapunovExponents", "lyapunov_exponents"]


@brief_repr
@dataclass(frozen=True)
class LyapunovExponents:
    """log of the singular values of Dx_t / Dx_0 over tau = -log alpha(t), ascending.

    -1 for a direction that dies like alpha. An exact flow has Dx_t / Dx_0 = alpha I + beta Hess phi(x0), so that a
    direction in which phi has curvature c > 0 has log(alpha + beta c) / tau, which tends to 0.

    Attributes:
        times: (T,) in t.
        exponents: (T, B, k), those of the k most stretched directions.
        points: (T, B, *event), the trajectories.
        schedule: schedule of the field.
    """

    times: Tensor
    exponents: Tensor
    points: Tensor
    schedule: Schedule


def lyapunov_exponents(
    field: Field,
    x0: Tensor,
    times: Tensor | Sequence[float] | float,
    *,
    schedule: Schedule | None = None,
    count: int | None = None,
    rtol: float | None = None,
    seed: int = 0,
    max_memory: int = 2**28,
) -> LyapunovExponents:
    """Finite-time Lyapunov exponents from t = 0 to each of the times, along the field's own trajectories.

    Tangent vectors are carried along by the linearised field (dopri5, forward mode) and made orthonormal by QR at every
    time; the triangular factors multiply up to Dx_t / Dx_0 on the frame they started from. All exponents start from the
    whole space. ``count`` of them start from the eigenvectors of the largest rates at the first time, which an exact
    flow never turns: exact there, lower bounds for other fields.

    Args:
        field: ``ProximalFlow``, or callable (t, x) that can be evaluated at t = 0.
        x0: (B, *event) source points.
        times: increasing, inside (0, 1).
        schedule: schedule of a bare callable, Linear if None.
        count: exponents wanted, the largest ones; all if None, up to dimension 256. Above 256 at most d / 4.
        rtol: tolerance of dopri5, relative to alpha where it arrives; 1e-7 in float64 and 1e-4 in float32 if None.
        seed: seed of the random directions in high dimension.
        max_memory: bytes for what is computed at once.

    Returns:
        ``LyapunovExponents``; rows that are not finite are NaN.

    Raises:
        ValueError: bad points, times or options.
        ConvergenceError: dopri5 cannot follow the field.
    """
    flat = FlatField("lyapunov_exponents", field, x0, schedule, max_memory)
    moments = as_times(flat.owner, times, x0)
    wanted = ends(flat, count, "highest", 1e-3)
    points = flat.trajectory(x0, moments, rtol)
    if count is None:
        frame = torch.eye(flat.dim, dtype=x0.dtype, device=x0.device).expand(len(x0), -1, -1)
    else:
        generator = seeded_generator(flat.owner, seed)
        frame = point_spectrum(flat, moments[0], points[0], wanted, generator).vectors
    exponents, stretched, start, x = [], None, torch.zeros_like(moments[0]), x0.reshape(len(x0), flat.dim)
    for t, following in zip(moments, points, strict=True):
        frame, triangle = torch.linalg.qr(flat.carried(start, t, x, frame, rtol))
        stretched = triangle if stretched is None else triangle @ stretched
        exponents.append(_singular_values(stretched).log() / flat.schedule.rescaled_time(t))
        start, x = t, following
    return LyapunovExponents(moments, torch.stack(exponents), points.reshape(len(moments), *x0.shape), flat.schedule)


def _singular_values(matrix: Tensor) -> Tensor:
    """Ascending, (B, k); NaN where the matrix is not finite."""
    broken = ~torch.isfinite(matrix).all(2).all(1)
    values: Tensor = torch.linalg.svdvals(matrix.masked_fill(broken[:, None, None], 0.0)).flip(1)
    return values.masked_fill(broken[:, None], torch.nan)
