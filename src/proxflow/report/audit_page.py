"""The page of an audit: a verdict, every figure on a scale with its marks, and the curves behind them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from proxflow.analysis import Audit, Figure
from proxflow.analysis.auditing.audit_record import GROUPS_OF_FIGURES
from proxflow.report.canvas import ACCENT, INK, PALE, literal, new_figure, svg
from proxflow.report.template import Facts, Picture, Row, Table, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["audit_table", "figure_in_words", "render_audit_page", "scales_of_figures"]

_ROW = 0.34  # inches of one figure on its scale
_MARGIN = 0.06  # of a scale, at both of its ends
_SHARES = 24  # groups that are drawn
_HEADROOM = 1.2  # times the largest share, for the names of both above it
_ZERO = 1e-9  # of a relative figure: rounding
_SCALES = "Dot: this field, with its 95% interval. Line: the exact flow. Ring: independent pairs."
_LEAST_ERROR = 1e-6  # at the top of a scale of errors: an exact flow shows a line at 0 and not its rounding


def render_audit_page(audit: Audit, name: str, subject: str, command: str | None = None) -> str:
    """One self-contained HTML page; ``subject`` says in a few words what field it is.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    return render(
        name=name,
        title=f"Audit of a flow of {name}",
        good=not audit.warnings,
        verdict=audit.verdict,
        summary=(
            "An exact optimal-transport flow obeys laws: its velocity is a gradient, the data point that it aims at "
            "does not move on the way, no exchange of targets is cheaper, and its samples are the data. Each figure "
            f"says how far this field is from one of them. The field is {subject}."
        ),
        sections=[
            *_scales(audit),
            *_curves(audit),
            audit_table(audit),
            Facts("The audit", tuple(_rows(audit, command))),
        ],
    )


def figure_in_words(figure: Figure) -> str:
    """Value and 95% interval, rounding left out; of an interval without an upper end its lower one; or why neither."""
    if math.isnan(figure.value):
        return "not measured"
    if figure.high == math.inf:
        return f"at least {_number(figure.low)}"
    return f"{_number(figure.value)} [{_number(figure.low)}, {_number(figure.high)}]"


def audit_table(audit: Audit) -> Table:
    """All figures with their marks."""
    rows = tuple(
        (_title(figure.name), figure_in_words(figure), _mark(figure.exact), _mark(figure.independent))
        for figure in audit.figures.values()
    )
    return Table("Figures", ("figure", "value [95%]", "exact flow", "independent pairs"), rows, names=1)


def scales_of_figures(figures: Sequence[Figure], name: str) -> str:
    """Each figure on a scale of its own: a dot with its interval, a line for the exact flow, a ring for independent."""
    figure = new_figure(6.2, 0.5 + _ROW * len(figures))
    axes = figure.add_subplot()
    for place, one in enumerate(reversed(figures)):
        _draw(axes, place, one)
    axes.set_yticks(range(len(figures)), [_title(one.name) for one in reversed(figures)], fontsize=9)
    axes.set(xlim=(-0.2, 1.2), ylim=(-0.6, len(figures) - 0.4), xticks=[])
    for side in ("top", "right", "bottom", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(axis="y", length=0)
    return svg(figure, name)


def _draw(axes: Axes, place: int, one: Figure) -> None:
    marks = [mark for mark in (one.exact, one.independent) if mark is not None]
    ends = [end for end in (one.value, one.low, one.high, *marks) if math.isfinite(end)]
    low, high = min(ends, default=0.0), max(ends, default=1.0)
    width = max(high - low, _ZERO, 1e-6 * abs(high))

    def at(value: float) -> float:
        return _MARGIN + (1 - 2 * _MARGIN) * (value - low) / width

    axes.plot([0, 1], [place, place], color=PALE, lw=0.6, zorder=1)
    if one.exact is not None:
        axes.plot([at(one.exact)] * 2, [place - 0.28, place + 0.28], color=INK, lw=2, zorder=2)
    if one.independent is not None and math.isfinite(one.independent):
        axes.plot(at(one.independent), place, "o", mfc="none", mec=INK, ms=7, zorder=3)
    if math.isfinite(one.value):
        axes.plot([at(one.low), min(at(one.high), 1.0)], [place, place], color=ACCENT, lw=3, alpha=0.5, zorder=4)
        axes.plot(at(one.value), place, "o", color=ACCENT, ms=5, zorder=5)
    for end, place_of_end, away, side in ((low, 0.0, -3, "right"), (high, 1.0, 3, "left")):
        axes.annotate(
            _number(end), (place_of_end, place), xytext=(away, 0), textcoords="offset points", ha=side, va="center",
            fontsize=7,
        )  # fmt: skip


def _scales(audit: Audit) -> list[Picture]:
    pictures: list[Picture] = []
    for question, entries in GROUPS_OF_FIGURES.items():
        shown = [audit.figures[name] for name in entries if name in audit.figures]
        if shown:
            terms = tuple((_title(one.name), one.meaning) for one in shown)
            alt = "; ".join(f"{_title(one.name)} {figure_in_words(one)}" for one in shown)
            scales = scales_of_figures(shown, f"scales{len(pictures)}")
            pictures.append(Picture(question, alt, _SCALES, (scales,), terms=terms))
    return pictures


def _curves(audit: Audit) -> list[Picture]:
    found = [] if audit.times is None else [_velocity_errors(audit)]
    if audit.steps:
        found.append(_few_steps(audit))
    if len(audit.group_names) > 1:
        found.append(_shares(audit))
    return found


def _velocity_errors(audit: Audit) -> Picture:
    times, error, bound = (
        [] if values is None else values.tolist()
        for values in (audit.times, audit.velocity_error, audit.velocity_bound)
    )
    figure = new_figure(5.4, 3.2)
    axes = figure.add_subplot()
    axes.plot(times, error, color=ACCENT, marker=".", label="this field")
    axes.plot(times, bound, color=PALE, ls="--", label="bound for the cheapest pairs")
    axes.set(xlabel="t", ylabel="error of the velocity")
    axes.set_ylim(0, _top(*error, *bound))
    axes.legend(frameon=False, fontsize=8)
    caption = (
        "Root mean square error on the field's own trajectories, and what the convergence theorem allows the field of "
        "pairs that cost as little more than the least as this error allows."
    )
    alt = "Error of the velocity: " + ", ".join(
        f"{_number(e)} at t = {t:.2g}" for t, e in zip(times, error, strict=True)
    )
    return Picture("Velocity error", alt, caption, (svg(figure, "velocity"),))


def _top(*errors: float) -> float:
    """The upper end of a scale of errors."""
    return 1.05 * max((error for error in errors if _LEAST_ERROR < error < math.inf), default=_LEAST_ERROR)


def _few_steps(audit: Audit) -> Picture:
    figure = new_figure(5.4, 3.0)
    axes = figure.add_subplot()
    axes.plot(audit.steps, audit.step_error, color=ACCENT, marker="o", label="this field")
    axes.axhline(0, color=INK, lw=1.5, label="exact flow")
    axes.set(xlabel="steps", ylabel="error over deviation", xscale="log")
    axes.set_xticks(audit.steps, [str(count) for count in audit.steps])
    axes.minorticks_off()
    top = _top(*audit.step_error)
    axes.set_ylim(-0.05 * top, top)
    axes.legend(frameon=False, fontsize=8)
    points = zip(audit.steps, audit.step_error, strict=True)
    alt = "Error of few steps: " + ", ".join(f"{_number(error)} in {count}" for count, error in points)
    caption = "How far samples made in few steps are from those of many, from the same noise."
    return Picture("Few steps", alt, caption, (svg(figure, "steps"),))


def _shares(audit: Audit) -> Picture:
    order = audit.group_shares[:, 1].argsort(descending=True)[:_SHARES].tolist()
    made, wanted = (audit.group_shares[order, k].tolist() for k in (0, 1))
    names = [audit.group_names[k] for k in order]
    figure = new_figure(5.4, 3.0)
    axes = figure.add_subplot()
    axes.bar(range(len(order)), made, color=ACCENT, alpha=0.6, label="samples")
    axes.plot(range(len(order)), wanted, "_", color=INK, ms=12, mew=2, label="data")
    axes.set_xticks(range(len(order)), [literal(name) for name in names], rotation=60, ha="right", fontsize=7)
    axes.set(ylabel="share", ylim=(0, _HEADROOM * max(*made, *wanted)))
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper right")
    rows = zip(names, made, wanted, strict=True)
    alt = "Shares of samples and of data: " + ", ".join(
        f"{name} {one:.1%} and {other:.1%}" for name, one, other in rows
    )
    caption = "Share of samples that are nearest to each, and its share of the data."
    return Picture("Classes or clusters", alt, caption, (svg(figure, "shares"),))


def _rows(audit: Audit, command: str | None) -> list[Row]:
    rows = [
        Row("warnings", "", str(len(audit.warnings)) if audit.warnings else "none"),
        Row("advice", "what to do first, and why", audit.advice),
        *_best_times(audit),
        Row("seed", "", str(audit.seed)),
        Row("seconds", "", f"{audit.seconds:.3g}"),
    ]
    return rows if command is None else [*rows, Row("command", "repeats this run", command, is_command=True)]


def _best_times(audit: Audit) -> list[Row]:
    times = ", ".join(f"{t:.3g}" for t in audit.step_grid)
    return [Row("times of four steps", "the best that were tried", times)] if times else []


def _title(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float) -> str:
    return "0" if abs(value) < _ZERO else f"{value:.3g}"


def _mark(value: float | None) -> str:
    return "" if value is None or math.isnan(value) else _number(value)
