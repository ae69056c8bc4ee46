"""The figures of a terminal study: each takes results and returns an SVG."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.analysis import LocalDimension, Perturbation, TerminalSpectrum, local_scale
from proxflow.report.canvas import ACCENT, INK, PALE, new_figure, svg
from proxflow.report.projections import plane_axes

__all__ = ["dimensions", "perturbations", "rates", "regularity", "scales"]

_FEW = 6  # curves that are all shaded; of more, the two outermost


def rates(spectrum: TerminalSpectrum) -> str:
    """Each rate against rescaled time: mean over the initial points, and standard deviation where it can be seen."""
    figure = new_figure(5.4, 4.0)
    axes = figure.add_subplot()
    tau = -torch.log(spectrum.schedule.alpha(spectrum.times.double())).cpu()
    mean, spread = spectrum.rates.double().cpu().mean(1), spectrum.rates.double().cpu().std(1, correction=0)
    count = mean.shape[1]
    for k in range(count):
        color = ACCENT if k >= count - spectrum.highest and spectrum.highest else INK
        axes.plot(tau, mean[:, k], color=color, marker=".", lw=1.2 if count <= _FEW else 0.5, ms=4)
        if count <= _FEW or k in (0, count - 1):
            axes.fill_between(tau, mean[:, k] - spread[:, k], mean[:, k] + spread[:, k], color=color, alpha=0.15, lw=0)
    axes.axhline(-1, color=PALE, ls=":")
    axes.axhline(0, color=PALE, ls=":")
    axes.set(xlabel="rescaled time -log alpha(t)", ylabel="rate")
    return svg(figure, "rates")


def scales(spectrum: TerminalSpectrum) -> str:
    """Local standard deviations 1 / eta that the rates mean at each time: an exact flow has the same at all."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.4, 3.8)
    axes = figure.add_subplot()
    shades = colormaps["cividis"].resampled(len(spectrum.times) + 1)
    for k, t in enumerate(spectrum.times):
        eta = local_scale(spectrum.rates[k].double(), t.double(), spectrum.schedule).cpu()
        width = (1 / eta).median(0).values.flip(0)
        rank = torch.arange(1, len(width) + 1)
        seen = width > 0
        axes.plot(rank[seen], width[seen], color=shades(k), marker=".", lw=0.8, ms=4, label=f"t = {float(t):g}")
    axes.set(yscale="log", xlabel="direction, widest first", ylabel="local width 1 / η")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=8)
    return svg(figure, "scales")


def dimensions(dimension: LocalDimension) -> str:
    """Histogram of the local dimensions."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(5.4, 3.2)
    axes = figure.add_subplot()
    axes.hist(dimension.dimension.double().cpu().numpy(), bins=30, color=PALE)
    axes.axvline(float(dimension.dimension.mean()), color=ACCENT, label="mean")
    axes.set(xlabel=f"local dimension at scale {dimension.scale:.3g}", ylabel="number of points")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9)
    return svg(figure, "dimensions")


def regularity(dimension: LocalDimension, ends: Tensor) -> str:
    """The ends (B, d) of the trajectories in the plane that holds most of them, coloured by local dimension."""
    figure = new_figure(5.4, 4.4)
    axes = figure.add_subplot()
    flat = ends.flatten(1)
    plane, names = plane_axes(flat)
    seen = (flat @ plane).cpu().numpy()
    dots = axes.scatter(seen[:, 0], seen[:, 1], c=dimension.dimension.double().cpu().numpy(), s=14, cmap="cividis")
    axes.set(xlabel=names[0], ylabel=names[1])
    axes.set_aspect("equal", adjustable="datalim")
    figure.colorbar(dots, label="local dimension")
    return svg(figure, "regularity")


def perturbations(perturbation: Perturbation) -> str:
    """Share of each perturbation that arrives against what the linearised flow says."""
    figure = new_figure(5.4, 3.8)
    axes = figure.add_subplot()
    predicted, survival = perturbation.predicted.double().cpu(), perturbation.survival.double().cpu()
    low = predicted.shape[1] // 2
    axes.scatter(predicted[:, :low], survival[:, :low], color=INK, s=18, label="normal directions")
    axes.scatter(predicted[:, low:], survival[:, low:], color=ACCENT, s=18, label="tangent directions")
    most = max(float(predicted.max()), float(survival.max()), 0.1)
    axes.plot([0, most], [0, most], color=PALE, label="small perturbations of an exact flow")
    axes.set(xlabel="share that arrives, by the rate", ylabel="share that arrived")
    axes.legend(frameon=False, fontsize=9)
    return svg(figure, "perturbations")
