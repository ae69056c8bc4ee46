"""The scale law of docs/theory.md 6: rates at all times from one local scale, and how well a field keeps it.

Along an eigen-direction with Hessian eigenvalue eta of psi (local standard deviation 1 / eta against a unit source)
an exact flow has the rate r(t) = (W / -alpha') / (beta + alpha eta) - 1, with the same eta and direction at all times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.terminal.flat_field import Field, FlatField, as_times
from proxflow.analysis.terminal.spectrum import Which, ends, point_spectrum
from proxflow.results import brief_repr
from proxflow.schedules import Linear, Schedule
from proxflow.seeding import seeded_generator

__all__ = ["ScaleSpectrum", "local_scale", "scale_law", "scale_spectrum"]


def scale_law(eta: Tensor, t: Tensor, schedule: Schedule | None = None) -> Tensor:
    """Rate of a direction with Hessian eigenvalue ``eta``, elementwise; -1 where eta is infinite.

    Args:
        eta: 1 / (data units per source unit); any shape that goes with ``t``.
        t: times in (0, 1), as a tensor.
        schedule: Linear if None.
    """
    schedule = Linear() if schedule is None else schedule
    return _freedom(t, schedule) / (schedule.beta(t) + schedule.alpha(t) * eta) - 1


def local_scale(rate: Tensor, t: Tensor, schedule: Schedule | None = None) -> Tensor:
    """The eta of a rate, elementwise: inverse of ``scale_law``; inf where 1 + rate is rounding of 1.

    A negative eta is a rate above W / (-alpha' beta) - 1, which no optimal-transport flow has.
    """
    schedule = Linear() if schedule is None else schedule
    freedom = _freedom(t, schedule)
    lost = (1 + rate).abs() <= 64 * torch.finfo(rate.dtype).eps * (1 + freedom)
    eta = (freedom / torch.where(lost, 1.0, 1 + rate) - schedule.beta(t)) / schedule.alpha(t)
    return torch.where(lost, torch.inf, eta)


@brief_repr
@dataclass(frozen=True)
class ScaleSpectrum:
    """Local scales of a field along its trajectories, and how far they are from those of an exact flow.

    Attributes:
        times: (T,) in t.
        eta: (T, B, k), descending: Hessian eigenvalues of the potential, inf for a normal direction. An exact flow has
            the same at all times.
        misfit: (T, B, k), |(A + A') w / 2 - r w| for the eigenvectors w of the first time and the rates r that the
            scale law gives them at each time; between 0 and about 1. 0 for an exact flow, and at the first time.
        asymmetry: |A - A'| / |A|, (T, B).
        schedule: schedule of the field.
    """

    times: Tensor
    eta: Tensor
    misfit: Tensor
    asymmetry: Tensor
    schedule: Schedule


def scale_spectrum(
    field: Field,
    x0: Tensor,
    times: Tensor | Sequence[float] | float,
    *,
    schedule: Schedule | None = None,
    count: int | None = None,
    which: Which = "highest",
    tolerance: float = 1e-3,
    rtol: float | None = None,
    seed: int = 0,
    max_memory: int = 2**28,
) -> ScaleSpectrum:
    """Local scales eta at each time, with the test that one time predicts the others, values and directions.

    ``count`` directions of the largest rates (smallest eta) by default; other arguments and errors as in
    ``terminal_spectrum``.
    """
    flat = FlatField("scale_spectrum", field, x0, schedule, max_memory)
    moments = as_times(flat.owner, times, x0)
    wanted = ends(flat, count, which, tolerance)
    generator = seeded_generator(flat.owner, seed)
    eta, misfit, asymmetry = [], [], []
    frame: Tensor | None = None
    for t, x in zip(moments, flat.trajectory(x0, moments, rtol), strict=True):
        spectrum = point_spectrum(flat, t, x, wanted, generator)
        eta.append(local_scale(spectrum.rates, t, flat.schedule))
        asymmetry.append(spectrum.asymmetry)
        if frame is None:
            frame = spectrum.vectors
            misfit.append(spectrum.residuals)
        else:
            image = flat.symmetric_product(t, x, frame)
            predicted = frame * scale_law(eta[0], t, flat.schedule)[:, None, :]
            misfit.append(torch.linalg.vector_norm(image - predicted, dim=1))
    return ScaleSpectrum(moments, torch.stack(eta), torch.stack(misfit), torch.stack(asymmetry), flat.schedule)


def _freedom(t: Tensor, schedule: Schedule) -> Tensor:
    """W / -alpha', what 1 + rate would be at beta + alpha eta = 1; 1 for Linear."""
    return -schedule.wronskian(t) / schedule.alpha_derivative(t)
