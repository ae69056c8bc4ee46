"""The ways of noise to data under an exact flow: in a plane, over time on the line, and as images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.flow import ProximalFlow
from proxflow.measures import draw
from proxflow.metrics import nearest_rows
from proxflow.report import wording
from proxflow.report.canvas import ACCENT, INK, PALE, literal, mark_points, new_figure, svg
from proxflow.report.descriptions import column_names
from proxflow.report.figures import brightness, image_panel, is_image
from proxflow.report.live import Group, Live, frames_of, sprite_of
from proxflow.report.projections import RowsShown, few_rows, plane_axes, plane_in_words, scatter
from proxflow.report.template import Picture
from proxflow.semidiscrete import Fit

__all__ = ["Ways", "trajectory_images", "trajectory_picture", "ways_of"]

_COUNT = 60
_TIMES = 17
_HEIGHT = 4.8  # inches
_IMAGE_ROWS = 8
_MOST_IMAGES = 500  # rows of a picture in which each has its image


@dataclass(frozen=True)
class Ways:
    """Trajectories of the flow.

    Attributes:
        times: (T,) from 0 to 1.
        points: (T, n, *event), standardised, on the CPU.
        rows: (n,) the rows that they end on; None where they end between rows.
    """

    times: tuple[float, ...]
    points: Tensor
    rows: Tensor | None


def ways_of(fit: Fit, flow: ProximalFlow, dataset: Dataset, generator: torch.Generator) -> Ways:
    """Sixty exact trajectories: straight in alpha and beta from a noise point to where it is sent."""
    noise = draw(flow.potential.source, _COUNT, generator, dataset.points.dtype, dataset.points.device)
    ends = flow.transport(noise)
    times = torch.linspace(0, 1, _TIMES, dtype=torch.float64)
    alpha, beta = (weight(times).to(noise)[:, None, None] for weight in (flow.schedule.alpha, flow.schedule.beta))
    points = (alpha * noise.flatten(1) + beta * ends.flatten(1)).cpu().reshape(_TIMES, _COUNT, *dataset.event_shape)
    rows = None if fit.epsilon > 0 else nearest_rows(points[-1], dataset.points.cpu()).index
    return Ways(tuple(times.tolist()), points, rows)


def trajectory_picture(ways: Ways, dataset: Dataset, seed: int) -> Picture:
    """Over time in dimension 1, else in a plane."""
    return _over_time(ways, dataset) if dataset.dim == 1 else _in_a_plane(ways, dataset, seed)


def trajectory_images(ways: Ways, dataset: Dataset, caption: str) -> Picture:
    """Images along the first trajectories, one trajectory a row, from left to right."""
    chosen = torch.arange(0, len(ways.times), 2)
    stages = ways.points[chosen, :_IMAGE_ROWS].transpose(0, 1).reshape(-1, *dataset.event_shape)
    times = [ways.times[k] for k in chosen.tolist()]
    panel = image_panel(
        "stages",
        dataset.standardisation.undo(stages),
        len(times),
        limits=dataset.value_range,
        titles=[f"t = {t:.2f}" for t in times],
    )
    ends = (
        "" if ways.rows is None else f" They end on the rows {', '.join(map(str, ways.rows[:_IMAGE_ROWS].tolist()))}."
    )
    return Picture(
        "Images along the flow",
        f"{_IMAGE_ROWS} rows of {len(times)} images, from noise to data.{ends}",
        caption,
        (panel,),
    )


def _over_time(ways: Ways, dataset: Dataset) -> Picture:
    figure = new_figure(5.4, 4.0)
    axes = figure.add_subplot()
    shown = few_rows(dataset, 0)
    heights = dataset.points.cpu().flatten(1)[shown.rows, 0].numpy()
    axes.plot(ways.times, ways.points.flatten(1).numpy(), color=ACCENT, lw=0.7, alpha=0.7)
    axes.plot([1.0] * len(heights), heights, ls="", marker="o", ms=3.5, color=INK, gid=mark_points("line-rows"))
    axes.set(xlabel="time t", ylabel=f"{literal(column_names(dataset)[0])} (standardised)")
    drawn = svg(figure, "trajectories")
    return Picture(
        "From noise to data",
        f"{_COUNT} lines over time from {_span(ways.points[0])} at t = 0 to {_span(ways.points[-1])} at t = 1.",
        wording.path_caption(dataset.dim),
        (drawn,),
        (("var(--accent)", "trajectories"), ("var(--ink)", "data")),
        Live((Group("line-rows", shown.texts),)),
    )


def _in_a_plane(ways: Ways, dataset: Dataset, seed: int) -> Picture:
    pictured = is_image(dataset.event_shape)
    shown = few_rows(dataset, seed, _MOST_IMAGES) if pictured else few_rows(dataset, seed)
    points = dataset.points.cpu().flatten(1)
    plane, names = plane_axes(points, dataset.columns)
    seen = (ways.points.flatten(2).to(plane) @ plane).numpy()
    figure = new_figure(6.0, _HEIGHT)
    axes = figure.add_subplot()
    plain = len(shown.classes.names) == 1
    classes = shown.classes if not plain else type(shown.classes)(shown.classes.numbers, ("data",), (PALE,))
    groups = scatter(axes, "rows", (points[shown.rows] @ plane).numpy(), shown.belongs, classes)
    axes.plot(seen[:, :, 0], seen[:, :, 1], color=ACCENT if plain else INK, lw=0.6, alpha=0.5)
    axes.plot(*seen[0].T, ls="", marker="o", ms=4.5, mew=0, color=INK, gid=mark_points("moving"))
    axes.set(xlabel=f"{literal(names[0])} (standardised)", ylabel=f"{literal(names[1])} (standardised)")
    axes.set_aspect("equal", adjustable="datalim")
    panel = svg(figure, "trajectories")
    still = [Group(name, [shown.texts[i] for i in c.tolist()], c.tolist() if pictured else None) for name, c in groups]
    moving = Group("moving", _endings(ways, shown, dataset), frames=frames_of(axes, _HEIGHT, seen))
    live = Live(
        (*still, moving), ways.times, 0.0, "Move the noise",
        sprite_of(brightness(dataset.standardisation.undo(dataset.points.cpu()[shown.rows]), dataset.value_range))
        if pictured else None,
    )  # fmt: skip
    count = "" if len(shown.rows) == dataset.n else f" {len(shown.rows):,} of {dataset.n:,} rows are drawn."
    return Picture(
        "From noise to data",
        f"{_COUNT} lines in {plane_in_words(points, plane)}, from noise with standard deviations "
        f"{seen[0, :, 0].std():.2g} and {seen[0, :, 1].std():.2g} to data with "
        f"{(points @ plane)[:, 0].std(correction=0):.2g} and {(points @ plane)[:, 1].std(correction=0):.2g}.",
        f"{wording.path_caption(dataset.dim)}{count} Point at a dot to see what it is; the slider moves the noise.",
        (panel,),
        (("var(--ink)", "noise"), *(shown.legend or (("var(--pale)", "data"),))),
        live,
    )


def _endings(ways: Ways, shown: RowsShown, dataset: Dataset) -> list[str]:
    if ways.rows is None:
        return [f"trajectory {k}" for k in range(_COUNT)]
    return [f"trajectory {k}, to row {row:,}" for k, row in enumerate(ways.rows.tolist())]


def _span(values: Tensor) -> str:
    return f"{float(values.min()):.2g} to {float(values.max()):.2g}"
