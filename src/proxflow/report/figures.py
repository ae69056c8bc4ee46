"""The figures of a report: each takes results and returns the bytes of a PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.flow import ProximalFlow
from proxflow.report.canvas import ACCENT, INK, PALE, new_figure, plain_ticks, png
from proxflow.report.wording import counted
from proxflow.semidiscrete import Fit

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from proxflow.analysis import MinibatchConvergence
    from proxflow.couplings import DirectionChoice
    from proxflow.matching import TrainResult
    from proxflow.metrics import FewSteps

__all__ = [
    "batch_convergence",
    "convergence",
    "direction_choice",
    "image_grid",
    "is_image",
    "noise_shares",
    "path_images",
    "plane_axes",
    "sample_clouds",
    "step_quality",
    "training_curves",
    "trajectories",
]

_LEAST_CHI2 = 1e-30  # drawn for less
_DECADE = 10.0  # a logarithmic axis that spans less has too few ticks


def convergence(fit: Fit) -> bytes:
    """Error of the atoms' weights: after each Newton step of an exact fit, else against samples of the noise."""
    figure = new_figure(6.4, 3.8)
    axes = figure.add_subplot()
    exact = fit.samples_used == 0
    if exact:
        _draw_steps(axes, fit)
    else:
        _draw_evaluations(axes, fit)
    axes.axhline(fit.tol, color=PALE, label=f"tolerance, {fit.tol:g}")
    axes.set(ylabel="χ² of the atoms' weights")
    figure.legend(loc="outside upper left", ncols=3 if exact else 2, frameon=False, fontsize=9)
    return png(figure)


def noise_shares(fit: Fit) -> bytes:
    """Mass of each Laguerre cell against the weight it should have."""
    figure = new_figure(6.4, 3.2)
    from matplotlib.ticker import MaxNLocator

    axes = figure.add_subplot()
    ratio = fit.cell_mass.double().cpu() / fit.potential.weights.double().cpu()
    axes.hist(ratio.numpy(), bins=_aligned_bins(ratio), color=PALE)
    axes.axvline(1, color=ACCENT, label="its weight in the data")
    axes.set(xlabel="share of the noise received / weight in the data", ylabel="number of atoms")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False, fontsize=9)
    return png(figure)


def trajectories(flow: ProximalFlow, dataset: Dataset, generator: torch.Generator, count: int = 60) -> bytes:
    """Paths from noise to data: over time in dimension 1, else in a plane (see ``plane_axes``)."""
    points = dataset.points.reshape(dataset.n, -1)
    noise = flow.potential.source.sample(count, generator=generator, dtype=points.dtype)
    times = torch.linspace(0, 1, 17)
    paths = torch.stack([flow.interpolate(t, noise) for t in times.tolist()])
    figure = new_figure(6.4, 4.8)
    axes = figure.add_subplot()
    if dataset.dim == 1:
        axes.plot(times.numpy(), paths[:, :, 0].cpu().numpy(), color=ACCENT, lw=0.7, alpha=0.7)
        axes.scatter([1.0] * dataset.n, points[:, 0].cpu().numpy(), s=12, color=INK, label="data (t = 1)", zorder=3)
        axes.set(xlabel="time t", ylabel="value (standardised)")
    else:
        plane, names = plane_axes(points)
        seen, cloud = (paths @ plane).cpu().numpy(), (points @ plane).cpu().numpy()
        axes.scatter(cloud[:, 0], cloud[:, 1], s=5, color=PALE, label="data")
        axes.plot(seen[:, :, 0], seen[:, :, 1], color=ACCENT, lw=0.7, alpha=0.7)
        axes.scatter(seen[0, :, 0], seen[0, :, 1], s=10, color=INK, label="noise (t = 0)", zorder=3)
        axes.set(xlabel=f"{names[0]} (standardised)", ylabel=f"{names[1]} (standardised)")
        axes.set_aspect("equal", adjustable="datalim")
    figure.legend(loc="outside upper center", ncols=2, frameon=False, fontsize=9)
    return png(figure)


def plane_axes(points: Tensor) -> tuple[Tensor, tuple[str, str]]:
    """The plane that a picture of (N, d) points, d >= 2, is drawn in, (d, 2), and the names of its axes.

    The coordinates themselves in dimension 2, else the two directions of largest variance.
    """
    if points.shape[1] == 2:
        return torch.eye(2).to(points), ("first coordinate", "second coordinate")
    centred = points.double() - points.double().mean(0)
    _, axes = torch.linalg.eigh(centred.mT @ centred)
    return axes[:, -2:].flip(1).to(points), ("first principal direction", "second principal direction")


def path_images(flow: ProximalFlow, dataset: Dataset, generator: torch.Generator, rows: int = 8) -> bytes:
    """Images along exact trajectories, one trajectory a row, t = 0 to 1 from left to right."""
    points = dataset.points
    noise = flow.potential.source.sample(rows, generator=generator, dtype=points.dtype)
    times = torch.linspace(0, 1, 8).tolist()
    stages = torch.stack([flow.interpolate(t, noise) for t in times], dim=1)
    images = dataset.standardisation.undo(stages.reshape(-1, *dataset.event_shape))
    return image_grid(images, len(times), [f"t = {t:.2f}" for t in times], limits=dataset.value_range)


def image_grid(
    images: Tensor, columns: int, titles: list[str] | None = None, limits: tuple[float, float] | None = None
) -> bytes:
    """Images (n, H, W) or (n, C, H, W) in a grid, on one scale of brightness: ``limits`` are black and white."""
    low, high = limits if limits is not None else (float(images.min()), float(images.max()))
    shown = ((images - low) / max(high - low, 1e-12)).clamp(0, 1)
    mosaic, tile = _mosaic(shown if shown.ndim == 4 else shown[:, None], columns)
    height, width, _ = mosaic.shape
    inches = min(1.0 * columns, 8.0)
    figure = new_figure(inches, inches * height / width + (0.3 if titles else 0))
    axes = figure.add_subplot()
    axes.imshow(mosaic.squeeze(2).cpu().numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    axes.set_frame_on(False)
    axes.set(yticks=[], xticks=[])
    if titles:
        axes.xaxis.tick_top()
        axes.set_xticks([(i + 0.5) * tile - 1 for i in range(len(titles))], titles, fontsize=8)
        axes.tick_params(length=0)
    return png(figure)


def training_curves(result: TrainResult) -> bytes:
    """Loss and field error at each evaluation of a training run."""
    figure = new_figure(6.4, 3.6)
    axes = figure.add_subplot()
    steps = [record.step for record in result.history]
    axes.plot(steps, [record.loss for record in result.history], color=INK, marker=".", label="loss")
    if not math.isnan(result.history[-1].field_error):
        errors = [record.field_error for record in result.history]
        axes.plot(steps, errors, color=ACCENT, marker=".", label="field error")
    axes.set(xlabel="step", yscale="log")
    low, high = axes.get_ylim()
    if high < _DECADE * low:
        axes.set_yscale("linear")
    else:
        plain_ticks(axes.yaxis, lambda value: f"{value:.2g}")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return png(figure)


def step_quality(comparison: FewSteps) -> bytes:
    """Energy distance to the data, and spread, against the number of steps."""
    figure = new_figure(7.2, 3.2)
    distance, variance = figure.subplots(1, 2)
    steps = list(comparison.steps)
    errors = comparison.energy_distance_error
    distance.errorbar(steps, comparison.energy_distance, errors, color=ACCENT, marker="o", capsize=2)
    _name_level(distance, comparison.of_noise, "noise")
    _name_level(distance, comparison.of_normal, "normal law")
    _name_level(distance, 0, "exact flow")
    distance.set(ylabel="energy distance to the data")
    totals, errors = zip(*((found.total, found.total_error) for found in comparison.spread), strict=True)
    variance.errorbar(steps, totals, errors, color=ACCENT, marker="o", capsize=2)
    _name_level(variance, 1, "data")
    variance.set(ylabel="total variance over the data's")
    for axes in (distance, variance):
        axes.set(xscale="log", xlabel="Euler steps")
        axes.margins(y=0.12)  # room for the names of the levels
        axes.set_xticks(steps, [str(k) for k in steps])
        axes.minorticks_off()
    return png(figure)


def direction_choice(choice: DirectionChoice) -> bytes:
    """What two halves of the data agree on, against the number of coupled directions."""
    figure = new_figure(6.4, 2.8)
    axes = figure.add_subplot()
    counts = list(choice.counts)
    axes.errorbar(counts, choice.agreement.tolist(), choice.error.tolist(), color=ACCENT, marker="o", capsize=2)
    axes.axvline(choice.count, color=INK, ls=":", lw=1)
    axes.set(xscale="log", xlabel="coupled directions", ylabel="share of the variance agreed on")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    return png(figure)


def sample_clouds(steps: Sequence[int], samples: Tensor, dataset: Dataset) -> bytes:
    """Samples (K, n, d), d >= 2, over the data, one panel for each number of steps."""
    points = dataset.points.reshape(dataset.n, -1)
    plane, _ = plane_axes(points)
    cloud = (points @ plane).cpu().numpy()
    figure = new_figure(2.2 * len(steps), 2.5)
    for i, (k, generated) in enumerate(zip(steps, samples, strict=True)):
        axes = figure.add_subplot(1, len(steps), i + 1)
        seen = (generated.to(plane) @ plane).cpu().numpy()
        axes.scatter(cloud[:, 0], cloud[:, 1], s=2, color=PALE)
        axes.scatter(seen[:, 0], seen[:, 1], s=2, color=ACCENT, alpha=0.5)
        axes.set(xticks=[], yticks=[])
        axes.set_aspect("equal", adjustable="datalim")
        axes.set_title(counted(k, "step"), fontsize=9)
    return png(figure)


def batch_convergence(study: MinibatchConvergence) -> bytes:
    """Excess against batch size by both routes, the bound on the field's error, and the semidiscrete coupling."""
    figure = new_figure(6.4, 4.4)
    axes = figure.add_subplot()
    sizes = study.batch_sizes.tolist()
    by_costs, by_gaps = study.excess_interval, 2 * study.gap_interval
    wanted, missed = study.wanted * study.transport_cost, max(2 * study.height_error, 0.0)
    positive = [value for value in (*study.excess.tolist(), *(2 * study.gap).tolist(), wanted) if value > 0]
    lowest = max(min(positive), 1e-4 * max(positive))
    drawn = missed > 1e-3 * lowest  # else the axis would be mostly empty
    floor = 0.5 * (min(missed, lowest) if drawn else lowest)
    axes.plot(sizes, study.bound(0.5).tolist(), color=PALE, marker=".", label="bound on E|v(n) - v|² at t = 1/2")
    _draw_excess(
        axes, sizes, study.excess, by_costs, floor, color=INK, marker="s", mfc="none", ls="", label="excess by costs"
    )
    _draw_excess(axes, sizes, 2 * study.gap, by_gaps, floor, color=ACCENT, marker=".", label="excess by gaps")
    axes.set(xscale="log", yscale="log", xlabel="batch size n", ylabel="squared units of the data")
    axes.set_ylim(floor, 2 * max(*positive, float(study.bound(0.5).max())))
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
    axes.minorticks_off()
    plain_ticks(axes.yaxis, lambda value: f"{value:g}")
    _name_level(axes, wanted, f"excess wanted: {100 * study.wanted:.3g}% of W₂²")
    if drawn:
        _name_level(axes, missed, "semidiscrete coupling, at any batch size: what its fit misses")
    else:
        _name_level(axes, floor, "semidiscrete coupling: 0 at any batch size, below this axis")
    figure.legend(loc="outside upper left", ncols=3, frameon=False, fontsize=9)
    return png(figure)


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether points of this shape are grey (H, W) or colour (C, H, W) images."""
    return (len(event_shape) == 2 and min(event_shape) > 2) or (len(event_shape) == 3 and event_shape[0] in (1, 3, 4))


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


def _draw_excess(axes: Axes, sizes: list[int], values: Tensor, interval: Tensor, floor: float, **look: Any) -> None:
    """Values with their intervals, as far as they are above the floor of a logarithmic axis."""
    seen = values > floor
    bars = torch.stack([values - interval[:, 0].clamp(min=floor), interval[:, 1] - values])[:, seen]
    shown = [size for size, above in zip(sizes, seen.tolist(), strict=True) if above]
    axes.errorbar(shown, values[seen].tolist(), yerr=bars.clamp(min=0).numpy(), capsize=3, **look)


def _name_level(axes: Axes, level: float, name: str) -> None:
    """A horizontal line with its name on it."""
    axes.axhline(level, color=INK, ls=":", lw=1)
    axes.annotate(
        name, (0.01, level), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8
    )


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


def _mosaic(images: Tensor, columns: int) -> tuple[Tensor, int]:
    """Images (n, C, H, W) as one image (height, width, C) on white, and the width of a tile with its gap."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    gap = max(1, min(height, width) // 8)
    tiles = images.new_ones(rows * columns, channels, height + gap, width + gap)
    tiles[:n, :, :height, :width] = images
    grid = tiles.reshape(rows, columns, channels, height + gap, width + gap).permute(0, 3, 1, 4, 2)
    whole = grid.reshape(rows * (height + gap), columns * (width + gap), channels)
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap], width + gap


def _aligned_bins(values: Tensor, most: int = 40) -> list[float]:
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
