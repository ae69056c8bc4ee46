"""What every page shares: one HTML file without outside parts, of sections with facts, numbers or pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

import proxflow
from proxflow.errors import optional_package
from proxflow.report.circumstances import circumstances
from proxflow.report.live import Live

__all__ = ["Facts", "Picture", "Row", "Table", "render"]

_WORD = r"(?:'[^']*'|\"[^\"]*\"|\\.|[^\s'\"\\])+"  # of a command line, as shlex.join quotes it


@dataclass(frozen=True)
class Row:
    """A name, what it means in a few words, and its value."""

    name: str
    meaning: str
    value: str
    is_command: bool = False

    @property
    def parts(self) -> list[str]:
        """A command line in parts that should not break: a word, or an option and its value."""
        words = re.findall(_WORD, self.value)
        parts: list[str] = []
        for before, word in zip(["", *words], words, strict=False):
            if before.startswith("--") and not word.startswith("-"):
                parts[-1] += f" {word}"
            else:
                parts.append(word)
        return parts


@dataclass(frozen=True)
class Facts:
    """Names and values under one another; ``folded`` shows no more than their title until it is asked for."""

    title: str
    rows: tuple[Row, ...]
    folded: bool = False
    kind = "facts"


@dataclass(frozen=True)
class Table:
    """Numbers under the names of their columns, as text.

    Attributes:
        title: heading.
        columns: names.
        rows: cells.
        caption: what they mean.
        names: number of first columns that are names rather than numbers.
        off: places of rows that should be seen, since something is wrong with them.
        best: places (row, column) of cells that are better than the others of their row.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""
    names: int = 0
    off: frozenset[int] = frozenset()
    best: frozenset[tuple[int, int]] = frozenset()
    kind = "numbers"


@dataclass(frozen=True)
class Picture:
    """A figure.

    Attributes:
        title: heading.
        alt: what is to be seen, with numbers, for those who do not see it.
        caption: what it means.
        panels: SVG elements, side by side where there is room.
        legend: colours and what they stand for.
        live: what the page's script shows of its points.
        terms: names in the figure and what they mean, under the caption.
    """

    title: str
    alt: str
    caption: str
    panels: tuple[str, ...]
    legend: tuple[tuple[str, str], ...] = ()
    live: Live | None = None
    terms: tuple[tuple[str, str], ...] = ()
    kind = "picture"


def render(
    *, name: str, title: str, good: bool, verdict: str, summary: str, sections: Sequence[Facts | Table | Picture]
) -> str:
    """The page; date, versions and machine come last.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = optional_package("jinja2", "report")
    html, css, script = (resources.files("proxflow.report").joinpath(f"page.{end}").read_text("utf-8")
                         for end in ("html", "css", "js"))  # fmt: skip
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    made = Facts("Made with", tuple(Row(*fact) for fact in circumstances()))
    page: str = environment.from_string(html).render(
        name=name,
        title=title,
        good=good,
        verdict=verdict,
        summary=summary,
        sections=[*sections, made],
        css=css,
        script=script,
        version=proxflow.__version__,
    )
    return page
