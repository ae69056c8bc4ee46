"""The page of runs side by side: what differs between them, every figure in one table, and curves in one chart."""

from __future__ import annotations

import re
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxflow.report.canvas import class_colours, mark_points, name_level, new_figure, svg
from proxflow.report.live import Group, Live
from proxflow.report.run_comparison import ComparedFigure, Comparison, Measured, joined
from proxflow.report.template import Facts, Picture, Row, Table, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["render_comparison_page"]

_APART = 0.05  # of their number of steps, by which bars of neighbouring runs are apart
_LEVELS = {"energy distance": (0.0, "exact flow"), "variance ratio": (1.0, "data")}
_NAMES = {"energy distance": "energy distance to the data", "variance ratio": "total variance over the data's"}
_TOLD_FROM_ZERO = 2.0  # standard errors; below it distances are drawn on a linear axis, above on a logarithmic one
_SPAN = 10.0  # times that, from which on small distances are not seen on a linear axis
_SUMMARY = (
    "Each column is a run. All figures are those that the runs measured when they were made; nothing was measured "
    "again."
)
_STEPS = re.compile(r"(.*), ([\d,]+) steps?")  # the name of a figure at a number of steps
_CAPTION = (
    "What samples are like by the number of Euler steps. Left: energy distance to the data, 0 for samples as good as "
    "the data; beyond two standard errors the axis may be logarithmic. Right: total variance over the data's, 1 where "
    "samples spread as the data do. Bars are one standard error; runs stand a little apart so that their bars are "
    "seen."
)


def render_comparison_page(comparison: Comparison, folders: Sequence[str], command: str | None = None) -> str:
    """One self-contained HTML page.

    Args:
        comparison: of the runs.
        folders: of the runs, as they were given.
        command: that makes the page again.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    return render(
        name=" - ".join(comparison.names),
        title=f"{comparison.title}, side by side",
        good=not comparison.obstacles and not comparison.cautions,
        verdict=comparison.verdict,
        summary=_SUMMARY,
        sections=[
            _differing(comparison),
            *_cautions(comparison),
            _side_by_side(comparison),
            *_curves(comparison),
            Facts("Settings that agree", tuple(Row(*setting) for setting in _agreeing(comparison)), folded=True),
            Facts("The runs", _runs(comparison, folders, command)),
        ],
    )


def _cautions(comparison: Comparison) -> list[Facts]:
    rows = tuple(Row(joined(names), "", said) for said, names in comparison.cautions.items())
    return [Facts("What is wrong with single runs", rows)] if rows else []


def _differing(comparison: Comparison) -> Table:
    rows = tuple((name, *values) for name, values in comparison.differing.items())
    said = "" if rows else "None: the runs were told the same."
    return Table("Settings that differ", ("", *comparison.names), rows, said, names=1 + len(comparison.names))


def _agreeing(comparison: Comparison) -> list[tuple[str, str, str]]:
    return [(name, "", value) for name, value in comparison.agreeing.items()]


def _runs(comparison: Comparison, folders: Sequence[str], command: str | None) -> tuple[Row, ...]:
    rows = [
        Row(name, "folder of the run, with a page of its own", folder)
        for name, folder in zip(comparison.names, folders, strict=True)
    ]
    return (*rows, *([] if command is None else [Row("command", "makes this page again", command, is_command=True)]))


def _side_by_side(comparison: Comparison) -> Table:
    """Facts, then figures, with the run that leads marked and named."""
    ranked = not comparison.obstacles
    facts = [(name, *values, *([""] if ranked else [])) for name, values in comparison.facts.items()]
    figures = [
        (
            figure.name,
            *("not measured" if one is None else one.in_words for one in figure.measured),
            *([figure.in_words(comparison.names)] if ranked else []),
        )
        for figure in comparison.figures
    ]
    best = {
        (len(facts) + k, 1 + place)
        for k, figure in enumerate(comparison.figures)
        for place in comparison.leaders_of(figure)[: 1 if figure.best is not None else 0]
    }
    return Table(
        "Side by side",
        ("", *comparison.names, *(["best"] if ranked else [])),
        (*facts, *figures),
        comparison.notes,
        names=1,
        best=frozenset(best),
    )


def _curves(comparison: Comparison) -> list[Picture]:
    """Figures that are known at numbers of steps, against these."""
    drawn: dict[str, dict[int, ComparedFigure]] = {}
    for figure in comparison.figures:
        if found := _STEPS.fullmatch(figure.name):
            drawn.setdefault(found[1], {})[int(found[2].replace(",", ""))] = figure
    if not drawn:
        return []
    panels, groups = [], []
    for what, by_steps in drawn.items():
        panel, marked = _panel(what, by_steps, comparison.names)
        panels.append(panel)
        groups += marked
    words = [
        f"{figure.name}: {', '.join(f'{name} {one.in_words}' for name, one in _known(comparison.names, figure))}"
        for by_steps in drawn.values()
        for figure in by_steps.values()
    ]
    legend = tuple(zip(class_colours(len(comparison.names)), comparison.names, strict=True))
    return [Picture("Few steps", "; ".join(words), _CAPTION, tuple(panels), legend, Live(tuple(groups)))]


def _known(names: Sequence[str], figure: ComparedFigure) -> list[tuple[str, Measured]]:
    return [(name, one) for name, one in zip(names, figure.measured, strict=True) if one is not None]


def _panel(what: str, by_steps: dict[int, ComparedFigure], names: Sequence[str]) -> tuple[str, list[Group]]:
    """Curves of one figure, and what their points are."""
    figure = new_figure(4.2, 3.2)
    axes = figure.add_subplot()
    groups = [
        _curve(axes, by_steps, k, name, colour, f"{what.split()[0]}-{k}", (k - (len(names) - 1) / 2) * _APART)
        for k, (name, colour) in enumerate(zip(names, class_colours(len(names)), strict=True))
    ]
    level, name = _LEVELS[what]
    name_level(axes, level, name, at=0.7)
    steps = sorted(by_steps)
    axes.set(xscale="log", xlabel="Euler steps", ylabel=_NAMES[what])
    axes.margins(y=0.12)  # room for the name of the level
    if level == 0:
        _spread_small(axes, [one for found in by_steps.values() for one in found.measured if one is not None])
    axes.set_xticks(steps, [f"{count:,}" for count in steps])
    axes.minorticks_off()
    return svg(figure, what.split()[0]), groups


def _spread_small(axes: Axes, measured: Sequence[Measured]) -> None:
    """A logarithmic axis above what is told from 0, where small values would else lie on one another."""
    from matplotlib.ticker import FuncFormatter

    told = _TOLD_FROM_ZERO * statistics.median(one.error for one in measured)
    if max(one.value for one in measured) > _SPAN * told > 0:
        axes.set_yscale("symlog", linthresh=told, linscale=0.6)
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: "" if 0 < abs(value) < told else f"{value:g}"))


def _curve(
    axes: Axes,
    by_steps: dict[int, ComparedFigure],
    run: int,
    name: str,
    colour: str,
    group: str,
    shift: float,
) -> Group:
    points = [(count, figure.measured[run]) for count, figure in by_steps.items()]
    known = [(count, one) for count, one in points if one is not None]
    places = [count * (1 + shift) for count, _ in known]
    values, errors = [one.value for _, one in known], [one.error for _, one in known]
    line = axes.errorbar(places, values, errors, color=colour, marker="o", ms=4, lw=1.2, capsize=2)[0]
    line.set_gid(mark_points(group))
    return Group(group, [f"{name}, {by_steps[count].name.rpartition(', ')[2]}\n{one.in_words}" for count, one in known])
