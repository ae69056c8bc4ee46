"""The chart of a study of batch sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from proxflow.report.canvas import ACCENT, INK, PALE, name_level, new_figure, plain_ticks, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from proxflow.analysis import MinibatchConvergence

__all__ = ["batch_convergence"]


def batch_convergence(study: MinibatchConvergence) -> str:
    """Excess against batch size by both routes, the bound on the field's error, and the semidiscrete coupling."""
    figure = new_figure(5.4, 4.2)
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
    name_level(axes, wanted, f"excess wanted: {100 * study.wanted:.3g}% of W₂²")
    if drawn:
        name_level(axes, missed, "semidiscrete coupling, at any batch size: what its fit misses")
    else:
        name_level(axes, floor, "semidiscrete coupling: 0 at any batch size, below this axis")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    return svg(figure, "batch-sizes")


def _draw_excess(axes: Axes, sizes: list[int], values: Tensor, interval: Tensor, floor: float, **look: Any) -> None:
    """Values with their intervals, as far as they are above the floor of a logarithmic axis."""
    seen = values > floor
    bars = torch.stack([values - interval[:, 0].clamp(min=floor), interval[:, 1] - values])[:, seen]
    shown = [size for size, above in zip(sizes, seen.tolist(), strict=True) if above]
    axes.errorbar(shown, values[seen].tolist(), yerr=bars.clamp(min=0).numpy(), capsize=3, **look)
