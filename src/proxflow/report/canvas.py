"""What every figure shares: colours that follow the page, an empty figure, ticks, and its SVG or PNG.

A figure is drawn on nothing. In its SVG the colours below are variables of the page's style sheet, which sets them for
light and for dark pages; letters stay letters, in the page's own font.
"""

from __future__ import annotations

import colorsys
import io
import re
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxflow.errors import DataWarning, optional_package

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

__all__ = [
    "ACCENT", "INK", "PALE", "class_colours", "literal", "mark_points", "name_level", "new_figure", "plain_ticks",
    "png", "svg",
]  # fmt: skip

INK, ACCENT, PALE = "#1f2933", "#c2410c", "#94a3b8"

_VARIABLES = {INK: "var(--ink)", ACCENT: "var(--accent)", PALE: "var(--pale)", "#000000": "var(--ink)"}
_CLASSES = (  # of middle lightness: they are read on white and on black
    "#4e79a7", "#e15759", "#59a14f", "#b07aa1", "#f28e2b", "#2a9d94", "#9c755f", "#d3629a", "#8a9a2b", "#7b7fd1",
)  # fmt: skip
_LONGEST = 40  # characters of a name on an axis
_OWN_FONT = "DejaVu Sans"  # comes with matplotlib
_BOXES = "Last Resort"  # a font that has a box for every letter
_DOTS_PER_INCH = 130  # of a PNG
_POINTS_PER_INCH = 72  # of an SVG: its unit is the typographical point


def class_colours(count: int) -> list[str]:
    """Colours of this many classes; beyond ten, hues around the circle."""
    if count <= len(_CLASSES):
        return list(_CLASSES[:count])
    shades = [colorsys.hls_to_rgb(k / count, 0.5, 0.55) for k in range(count)]
    return ["#" + "".join(f"{round(255 * part):02x}" for part in shade) for shade in shades]


def literal(name: str, longest: int = _LONGEST) -> str:
    """A name of the user's as an axis should show it: its middle left out, and with dollars that begin no formula."""
    half = longest // 2
    short = name if len(name) <= longest else f"{name[:half]}…{name[half + 1 - longest :]}"
    return short.replace("$", r"\$")


def plain_ticks(axis: Axis, show: Callable[[float], str]) -> None:
    """Two or three plain numbers a decade, instead of powers of ten with factors."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter, NullLocator

    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0), numticks=8))
    axis.set_major_formatter(FuncFormatter(lambda value, _: show(value)))
    axis.set_minor_locator(NullLocator())
    axis.set_minor_formatter(NullFormatter())


def name_level(axes: Axes, level: float, name: str, at: float = 0.01) -> None:
    """A horizontal line with its name on it; ``at`` is how far to the right, as a share of the axis."""
    axes.axhline(level, color=INK, ls=":", lw=1)
    axes.annotate(name, (at, level), (0, 3), xycoords=("axes fraction", "data"), textcoords="offset points", fontsize=8)


def mark_points(name: str) -> str:
    """The gid of a matplotlib line whose markers the page's script should find under this name."""
    return f"points {name}"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, sizes in inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    matplotlib_figure = optional_package("matplotlib.figure", "report")
    figure: Figure = matplotlib_figure.Figure(figsize=(width, height), layout="constrained", dpi=_POINTS_PER_INCH)
    return figure


def png(figure: Figure) -> bytes:
    """The bytes of its PNG on white, the same for the same figure and fonts.

    Warns:
        DataWarning: no font that is installed has some of its letters.
    """
    matplotlib, texts = optional_package("matplotlib", "report"), optional_package("matplotlib.text", "report")
    letters = {letter for text in figure.findobj(texts.Text) for letter in text.get_text() if letter.isprintable()}
    families, without = _fonts(letters)
    if without:
        warnings.warn(
            f"no font that is installed has {' '.join(sorted(without))}: the picture shows boxes instead; install one, "
            "such as of Noto",
            DataWarning,
            stacklevel=2,
        )
    buffer = io.BytesIO()
    with matplotlib.rc_context({"font.sans-serif": families}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # which was said
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, metadata={"Software": None})
    return buffer.getvalue()


def _fonts(letters: set[str]) -> tuple[list[str], set[str]]:
    """matplotlib's own font, and others where it lacks some of these letters; and the letters that none has."""
    fonts = optional_package("matplotlib.font_manager", "report")
    upright = [
        (font.name, font.fname)
        for font in fonts.fontManager.ttflist
        if (font.style, font.weight, font.stretch) == ("normal", 400, "normal") and not font.name.startswith(_BOXES)
    ]
    families: list[str] = []
    for family, file in [(_OWN_FONT, fonts.findfont(_OWN_FONT)), *sorted(upright)]:
        known = fonts.get_font(file).get_charmap() if letters else {}
        found = {letter for letter in letters if ord(letter) in known}
        if found:
            families.append(family)
            letters = letters - found
    return families or [_OWN_FONT], letters


def svg(figure: Figure, name: str) -> str:
    """Its SVG element for a page, the same for the same figure; ``name`` keeps its ids apart from those of others."""
    matplotlib = optional_package("matplotlib", "report")
    buffer = io.StringIO()
    settings = {"svg.fonttype": "none", "svg.hashsalt": name}
    metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # the page's font has it
        figure.draw_without_rendering()
        figure.set_layout_engine("none")  # now the coordinates of marked points are final
        figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    return _inline(buffer.getvalue())


def _inline(text: str) -> str:
    """A file of SVG as a part of a page: no namespaces, and no ids but those that are referred to."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<style.*?</style>|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda found: _shortened(found[0]), text)
    return re.sub(r">\s*\n\s*<", "><", text).strip()


def _shortened(tag: str) -> str:
    """A tag in the page's fonts and colours, its coordinates to a hundredth of a point; letters are not in tags."""
    tag = re.sub(r' xmlns(:xlink)?="[^"]*"| version="1.1"', "", tag).replace("xlink:href", "href")
    tag = re.sub(r'<g id="points ([^"]*)">', r'<g data-points="\1">', tag)
    tag = re.sub(r'<g id="[^"]*">', "<g>", tag)
    tag = re.sub(r"font-family: [^;\"]*;? ?", "", tag)
    tag = re.sub(r' (?:d|x|y)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), tag)
    if "base64," in tag:
        return "".join(tag.split("\n"))
    for colour, variable in _VARIABLES.items():
        tag = tag.replace(colour, variable)
    return " ".join(tag.split())
