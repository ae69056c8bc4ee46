"""Terminal normal hyperbolicity, measured: the spectrum of A(t) along a field's own trajectories (docs/theory.md 6)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.terminal.flat_field import Field, FlatField, as_times
from proxflow.analysis.terminal.spectrum import Which, ends, point_spectrum
from proxflow.results import brief_repr
from proxflow.schedules import Schedule
from proxflow.seeding import seeded_generator
from proxflow.storage import storable

__all__ = ["TangentSplitting", "TerminalSpectrum", "tangent_splitting", "terminal_spectrum"]


@storable
@brief_repr
@dataclass(frozen=True)
class TerminalSpectrum:
    """Rates of a field in rescaled time tau = -log alpha along its own trajectories.

    Rates are the eigenvalues of the symmetric part of A(t) = (alpha / -alpha') grad v, ascending: -1 for a direction
    that dies like alpha (normal to the data), 0 for one that is kept (tangent). An exact optimal-transport flow has
    asymmetry 0 and rates in [-1, W / (-alpha' beta) - 1].

    Attributes:
        times: (T,) in t.
        rates: (T, B, k); the first ``lowest`` are the smallest rates, the other ``highest`` the largest.
        asymmetry: |A - A'| / |A| in Frobenius norm, between 0 and 2, (T, B); estimated by 16 probes where A is not
            written out.
        points: (T, B, *event), the trajectories.
        lowest, highest: how many rates come from each end; (d, 0) for the whole spectrum.
        residuals: |(A + A') w / 2 - r w| of unit eigenvectors w, a bound on the error of each rate, (T, B, k).
        asymmetry_stderr: (T, B), 0 where A was written out.
        schedule: schedule of the field.
        seed: seed of random directions.
    """

    times: Tensor
    rates: Tensor
    asymmetry: Tensor
    points: Tensor
    lowest: int
    highest: int
    residuals: Tensor
    asymmetry_stderr: Tensor
    schedule: Schedule
    seed: int

    @property
    def remaining_time_rates(self) -> Tensor:
        """The rates in the clock -log(1 - t) instead, (T, B, k): a normal one tends to -g where alpha ~ (1 - t)^g."""
        t = self.times
        return (-self.schedule.alpha_derivative(t) / self.schedule.alpha(t) * (1 - t))[:, None, None] * self.rates


@brief_repr
@dataclass(frozen=True)
class TangentSplitting:
    """How the spectrum of A(t) splits at a known tangent space of dimension m.

    Attributes:
        times: (T,).
        tangent_rates: (T, B, m), the m largest rates, ascending.
        next_rate: (T, B), the largest of the others: a normal rate.
        angle: largest principal angle between the eigenvectors of the m largest rates and the tangent space, in
            radians, (T, B); pi / 2 where a whole direction is wrong.
    """

    times: Tensor
    tangent_rates: Tensor
    next_rate: Tensor
    angle: Tensor

    @property
    def gap(self) -> Tensor:
        """(T, B), smallest tangent rate minus ``next_rate``; 1 in the limit of the theorem."""
        return self.tangent_rates[..., 0] - self.next_rate


def terminal_spectrum(
    field: Field,
    x0: Tensor,
    times: Tensor | Sequence[float] | float,
    *,
    schedule: Schedule | None = None,
    count: int | None = None,
    which: Which = "both",
    tolerance: float = 1e-3,
    rtol: float | None = None,
    seed: int = 0,
    max_memory: int = 2**28,
) -> TerminalSpectrum:
    """Spectrum of the linearised flow in rescaled time, from source points to the given times.

    Exact flows are followed exactly and use their analytic Jacobian. A bare callable is followed by dopri5 and
    differentiated by torch.func: in blocks of columns up to dimension 256, else by products only, never with a matrix
    of d x d numbers.

    Args:
        field: ``ProximalFlow``, or callable (t, x) whose rows do not depend on each other; t is 0-dimensional.
        x0: (B, *event) source points.
        times: increasing, inside (0, 1).
        schedule: schedule of a bare callable, Linear if None.
        count: extreme rates wanted; the whole spectrum if None, possible for flows and up to dimension 256. Above 256
            at most d / 4.
        which: "both" takes count // 2 smallest and the others largest; "lowest" and "highest" take one end.
        tolerance: on residuals of extreme rates, relative to the largest |rate|. Errors of rates are of its square.
        rtol: tolerance of dopri5, relative to alpha where it arrives; 1e-7 in float64 and 1e-4 in float32 if None.
        seed: seed of the random directions in high dimension.
        max_memory: bytes for what is computed at once.

    Returns:
        ``TerminalSpectrum``; rows whose points or velocities are not finite are NaN. Rates whose ``residuals`` exceed
        the tolerance had not converged after 600 products.

    Raises:
        ValueError: bad points, times or options, or a schedule that contradicts the flow's.
        ConvergenceError: dopri5 cannot follow the field.
    """
    flat = FlatField("terminal_spectrum", field, x0, schedule, max_memory)
    moments = as_times(flat.owner, times, x0)
    wanted = ends(flat, count, which, tolerance)
    generator = seeded_generator(flat.owner, seed)
    points = flat.trajectory(x0, moments, rtol)
    spectra = [point_spectrum(flat, t, x, wanted, generator) for t, x in zip(moments, points, strict=True)]
    return TerminalSpectrum(
        times=moments,
        rates=torch.stack([part.rates for part in spectra]),
        asymmetry=torch.stack([part.asymmetry for part in spectra]),
        points=points.reshape(len(moments), *x0.shape),
        lowest=wanted.lowest,
        highest=wanted.highest,
        residuals=torch.stack([part.residuals for part in spectra]),
        asymmetry_stderr=torch.stack([part.asymmetry_stderr for part in spectra]),
        schedule=flat.schedule,
        seed=seed,
    )


def tangent_splitting(
    field: Field,
    x0: Tensor,
    times: Tensor | Sequence[float] | float,
    tangent: Tensor | Callable[[Tensor], Tensor],
    *,
    schedule: Schedule | None = None,
    tolerance: float = 1e-3,
    rtol: float | None = None,
    seed: int = 0,
    max_memory: int = 2**28,
) -> TangentSplitting:
    """Compare the directions that a field keeps with the tangent space of the data, along trajectories from x0.

    Args:
        field: as in ``terminal_spectrum``.
        x0: (B, *event) source points.
        times: increasing, inside (0, 1).
        tangent: (B, d, m) with independent columns, 1 <= m < d; or a function that gives them at the recovered data
            points (B, d).
        schedule: schedule of a bare callable, Linear if None.
        tolerance: as in ``terminal_spectrum``.
        rtol: as in ``terminal_spectrum``.
        seed: seed of the random directions in high dimension.
        max_memory: bytes for what is computed at once.

    Raises:
        ValueError: as ``terminal_spectrum``, or a tangent space of another shape.
    """
    flat = FlatField("tangent_splitting", field, x0, schedule, max_memory)
    moments = as_times(flat.owner, times, x0)
    generator = seeded_generator(flat.owner, seed)
    rates, angles = [], []
    for t, x in zip(moments, flat.trajectory(x0, moments, rtol), strict=True):
        frame = _frame(flat, tangent, t, x)
        wanted = ends(flat, frame.shape[2] + 1, "highest", tolerance)
        spectrum = point_spectrum(flat, t, x, wanted, generator)
        kept = spectrum.vectors[:, :, 1:]
        off = kept - frame @ (frame.mT @ kept)
        broken = ~torch.isfinite(off).all(2).all(1)
        sine = torch.linalg.matrix_norm(off.masked_fill(broken[:, None, None], 0.0), ord=2).clamp(max=1)
        angles.append(torch.asin(sine).masked_fill(broken, torch.nan))
        rates.append(spectrum.rates)
    stacked = torch.stack(rates)
    return TangentSplitting(moments, stacked[..., 1:], stacked[..., 0], torch.stack(angles))


def _frame(flat: FlatField, tangent: Tensor | Callable[[Tensor], Tensor], t: Tensor, x: Tensor) -> Tensor:
    """Orthonormal basis of the tangent space of each row, (B, d, m)."""
    basis = tangent if isinstance(tangent, Tensor) else tangent(flat.recovered(t, x))
    if basis.ndim != 3 or basis.shape[:2] != x.shape or not 1 <= basis.shape[2] < flat.dim:
        raise ValueError(
            f"{flat.owner}: tangent must have shape ({len(x)}, {flat.dim}, m) with 1 <= m < {flat.dim}, "
            f"got {tuple(basis.shape)}"
        )
    frame: Tensor = torch.linalg.qr(basis.to(x))[0]
    return frame
