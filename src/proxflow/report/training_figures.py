"""The charts of a training run: loss, quality against the number of steps, and the choice of directions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from proxflow.report.canvas import ACCENT, INK, name_level, new_figure, plain_ticks, svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from proxflow.couplings import DirectionChoice
    from proxflow.matching import TrainResult
    from proxflow.metrics import FewSteps

__all__ = ["direction_choice", "step_quality", "training_curves"]

_DECADE = 10.0  # a logarithmic axis that spans less has too few ticks


def training_curves(result: TrainResult) -> str:
    """Loss and field error at each evaluation of a training run."""
    figure = new_figure(5.4, 3.2)
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
    return svg(figure, "training")


def step_quality(comparison: FewSteps) -> tuple[str, str]:
    """Energy distance to the data, and spread, against the number of steps."""
    return _distances(comparison), _variances(comparison)


def _distances(comparison: FewSteps) -> str:
    figure = new_figure(4.2, 3.2)
    axes = figure.add_subplot()
    errors = comparison.energy_distance_error
    axes.errorbar(comparison.steps, comparison.energy_distance, errors, color=ACCENT, marker="o", capsize=2)
    name_level(axes, comparison.of_noise, "noise")
    name_level(axes, comparison.of_normal, "normal law", at=0.32)
    name_level(axes, 0, "exact flow", at=0.7)
    axes.set(ylabel="energy distance to the data")
    _name_steps(axes, comparison.steps)
    _apart(axes, [*comparison.energy_distance, comparison.of_noise, comparison.of_normal], max(errors))
    return svg(figure, "distance")


def _apart(axes: Axes, distances: list[float], error: float) -> None:
    """A logarithmic axis where distances span more than a decade, as far down as one is told from 0."""
    told = min((distance for distance in distances if distance > error), default=math.inf)
    if max(distances) < _DECADE * told:
        return
    axes.set_yscale("symlog", linthresh=told)
    decades = range(math.ceil(math.log10(told)), math.floor(math.log10(max(distances))) + 1)
    ticks = [0.0, *(10.0**power for power in decades)]
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_ylim(min(-0.3 * told, 1.5 * min(distances)), 2 * max(distances))


def _variances(comparison: FewSteps) -> str:
    figure = new_figure(4.2, 3.2)
    axes = figure.add_subplot()
    totals, errors = zip(*((found.total, found.total_error) for found in comparison.spread), strict=True)
    axes.errorbar(comparison.steps, totals, errors, color=ACCENT, marker="o", capsize=2)
    name_level(axes, 1, "data")
    axes.set(ylabel="total variance over the data's")
    _name_steps(axes, comparison.steps)
    return svg(figure, "variance")


def _name_steps(axes: Axes, steps: tuple[int, ...]) -> None:
    axes.set(xscale="log", xlabel="Euler steps")
    axes.margins(y=0.12)  # room for the names of the levels
    axes.set_xticks(steps, [str(k) for k in steps])
    axes.minorticks_off()


def direction_choice(choice: DirectionChoice) -> str:
    """What two halves of the data agree on, against the number of coupled directions."""
    figure = new_figure(5.4, 2.8)
    axes = figure.add_subplot()
    counts = list(choice.counts)
    axes.errorbar(counts, choice.agreement.tolist(), choice.error.tolist(), color=ACCENT, marker="o", capsize=2)
    axes.axvline(choice.count, color=INK, ls=":", lw=1)
    axes.set(xscale="log", xlabel="coupled directions", ylabel="share of the variance agreed on")
    axes.set_xticks(counts, [str(count) for count in counts])
    axes.minorticks_off()
    return svg(figure, "directions")
