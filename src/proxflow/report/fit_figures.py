"""The charts of a fit: how it converged, and how the noise is shared out."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proxflow.report.canvas import ACCENT, INK, PALE, new_figure, plain_ticks, svg
from proxflow.semidiscrete import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["convergence", "noise_shares"]

_LEAST_CHI2 = 1e-30  # drawn for less
_BINS = 40  # about, of a histogram


def convergence(fit: Fit) -> str:
    """Error of the atoms' weights: after each Newton step of an exact fit, else against samples of the noise."""
    figure = new_figure(5.4, 3.6)
    axes = figure.add_subplot()
    exact = fit.samples_used == 0
    if exact:
        _draw_steps(axes, fit)
    else:
        _draw_evaluations(axes, fit)
    axes.axhline(fit.tol, color=PALE, label=f"tolerance, {fit.tol:g}")
    axes.set(ylabel="χ² of the atoms' weights")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return svg(figure, "convergence")


def noise_shares(fit: Fit) -> str:
    """Mass of each Laguerre cell against the weight it should have."""
    figure = new_figure(5.4, 3.0)
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    ratio = fit.cell_mass.double().cpu() / fit.potential.weights.double().cpu()
    axes.hist(ratio.numpy(), bins=_aligned_bins(ratio), color=PALE)
    axes.axvline(1, color=ACCENT, label="its weight in the data")
    axes.set(xlabel="share of the noise received / weight in the data", ylabel="number of atoms")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(loc="outside upper left", frameon=False, fontsize=9)
    return svg(figure, "shares")


def _draw_steps(axes: Axes, fit: Fit) -> None:
    """Exact chi2 after each Newton step; the last entry of the history is that of the heights as stored."""
    from matplotlib.ticker import MaxNLocator

    errors = [max(entry.chi2, _LEAST_CHI2) for entry in fit.history]
    steps = range(1, len(errors))
    stored = str(fit.potential.heights.dtype).removeprefix("torch.")
    axes.plot(steps, errors[:-1], color=ACCENT, marker="o", label="computed exactly")
    axes.plot(len(steps), errors[-1], color=INK, marker="D", ls="", label=f"as stored, in {stored}")
    axes.set(yscale="log", xlabel="Newton step")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _draw_evaluations(axes: Axes, fit: Fit) -> None:
    """Estimates of chi2 with their errors, against the number of samples used."""
    draws = [entry.samples_used for entry in fit.history]
    floor = fit.tol / 100
    errors = [max(entry.chi2, floor) for entry in fit.history]
    tops = [max(entry.chi2 + 2 * entry.chi2_stderr, error) for entry, error in zip(fit.history, errors, strict=True)]
    bottoms = [
        min(max(entry.chi2 - 2 * entry.chi2_stderr, floor), e) for entry, e in zip(fit.history, errors, strict=True)
    ]
    bars = [[e - b for e, b in zip(errors, bottoms, strict=True)], [t - e for e, t in zip(errors, tops, strict=True)]]
    axes.errorbar(draws, errors, yerr=bars, color=ACCENT, marker="o", capsize=3, label="measured, ± 2 standard errors")
    count = len(fit.potential.points)
    limit = "limit without smoothing" if fit.epsilon > 0 else "statistical limit"
    axes.plot(draws, [(count - 1) / d for d in draws], color=INK, ls="--", label=f"{limit}, (atoms - 1) / draws")
    axes.set(xscale="log", yscale="log", xlabel="samples of the noise used to fit")
    plain_ticks(axes.xaxis, lambda value: f"{value:,.0f}")
    plain_ticks(axes.yaxis, lambda value: f"{value:.2g}")


def _aligned_bins(values: Tensor, most: int = _BINS) -> list[float]:
    """Edges of at most about ``most`` equal bins that hold equally many of the values' possible levels.

    Counts of draws take evenly spaced levels; bins of another width would show a comb that is not there.
    """
    levels = torch.unique(values)
    low, high = float(levels[0]), float(levels[-1])
    steps = levels.diff()
    grain = max(float(steps.min()) if len(steps) else 0.0, (high - low) / 4096, 1e-9 * max(abs(high), 1.0))
    if high - low < grain:
        grain = 0.02
    width = grain * max(1, math.ceil((high - low) / grain / most))
    count = math.floor((high - low + grain / 2) / width) + 1
    return [low - grain / 2 + i * width for i in range(count + 1)]
