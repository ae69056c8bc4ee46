"""What every figure shares: colours, an empty figure, ticks, and the bytes of its PNG."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxflow.errors import optional_package

if TYPE_CHECKING:
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = ["ACCENT", "INK", "PALE", "new_figure", "plain_ticks", "png"]

INK, ACCENT, PALE = "#1f2933", "#c2410c", "#94a3b8"


def plain_ticks(axis: Axis, show: Callable[[float], str]) -> None:
    """Two or three plain numbers a decade, instead of powers of ten with factors."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib_figure = optional_package("matplotlib.figure", "report")
    figure: Figure = matplotlib_figure.Figure(figsize=(width, height), layout="constrained", dpi=130)
    return figure


def png(figure: Figure) -> bytes:
    """The bytes of its PNG, the same for the same figure."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
