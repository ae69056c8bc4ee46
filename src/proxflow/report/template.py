"""What every page shares: one HTML file without outside parts."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import proxflow
from proxflow.errors import optional_package

__all__ = ["Picture", "Row", "Table", "picture", "render"]

_TEMPLATE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ name }} - proxflow</title>
<style>
body{font:16px/1.55 system-ui,sans-serif;color:#1f2933;max-width:52rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem}h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%;table-layout:fixed}
th,td{border-top:1px solid #e2e8f0;padding:.35rem .6rem;vertical-align:top;text-align:left;overflow-wrap:anywhere}
th{font-weight:normal;color:#52606d;width:38%}th small{display:block}
img{max-width:100%;height:auto;display:block}footer{color:#52606d;font-size:.9rem;margin-top:2.5rem}
.verdict{padding:.7rem 1rem;border-left:4px solid {{ "#15803d" if good else "#c2410c" }};background:#f8fafc}
.wide{overflow-x:auto}.numbers{font-size:.9rem;table-layout:auto}
.numbers th,.numbers td{width:auto;text-align:right;overflow-wrap:normal}.numbers td{white-space:nowrap}
figcaption{color:#52606d;font-size:.9rem;margin-top:.5rem}figure{margin:1rem 0}
</style></head><body>
<h1>{{ title }}</h1>
<p class="verdict">{{ verdict }}</p>
<p>{{ summary }}</p>
<h2>{{ heading }}</h2>
<table>{% for row in rows %}
<tr><th scope="row">{{ row.name }}{% if row.meaning %}<small>{{ row.meaning }}</small>{% endif %}</th>
<td>{{ row.value }}</td></tr>{% endfor %}
</table>
{% if table %}
<h2>{{ table.title }}</h2>
<div class="wide"><table class="numbers">
<tr>{% for column in table.columns %}<th scope="col">{{ column }}</th>{% endfor %}</tr>{% for row in table.rows %}
<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>{% endfor %}
</table></div>
{% endif %}
{% for picture in pictures %}
<h2>{{ picture.title }}</h2>
<figure><img alt="{{ picture.title }}" src="data:image/png;base64,{{ picture.data }}">
<figcaption>{{ picture.caption }}</figcaption></figure>
{% endfor %}
<footer>Made by proxflow {{ version }}.</footer>
</body></html>
"""


@dataclass(frozen=True)
class Row:
    """A name, what it means in a few words, and its value."""

    name: str
    meaning: str
    value: str


@dataclass(frozen=True)
class Table:
    """Numbers under the names of their columns, as text."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """A figure, as base64 of a PNG, with its title and caption."""

    title: str
    caption: str
    data: str


def picture(title: str, caption: str, png: bytes) -> Picture:
    """A figure for a page."""
    return Picture(title, caption, base64.b64encode(png).decode("ascii"))


def render(
    *,
    name: str,
    title: str,
    good: bool,
    verdict: str,
    summary: str,
    heading: str,
    rows: Sequence[Row],
    pictures: Sequence[Picture],
    table: Table | None = None,
) -> str:
    """The page.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    jinja2 = optional_package("jinja2", "report")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(_TEMPLATE)
    page: str = template.render(
        name=name,
        title=title,
        good=good,
        verdict=verdict,
        summary=summary,
        heading=heading,
        rows=rows,
        pictures=pictures,
        table=table,
        version=proxflow.__version__,
    )
    return page
