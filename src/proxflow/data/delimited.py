"""Text tables: .csv and .tsv, gzipped or not, of any separator and encoding, as arrow tables.

The form of a file is found from its first lines: of all separators and decimal marks, those under which the most cells
are numbers. pyarrow then reads it.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxflow.data.reading import Request
from proxflow.errors import optional_package

__all__ = ["DELIMITED", "read_delimited"]

DELIMITED = (".csv", ".tsv", ".csv.gz", ".tsv.gz")

_GZIP = b"\x1f\x8b"
_MARKS = (  # the longer ones first, since that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_SPACES = "whitespace"
_SEPARATORS = {"tab": "\t", "\\t": "\t", "space": _SPACES, " ": _SPACES, _SPACES: _SPACES}
_FORMS = [(sep, decimal) for decimal in ".," for sep in (",", ";", "\t", "|", _SPACES) if sep != decimal]
_HEAD = 100  # lines that the form is found from
_SHOWN = 60  # characters of a broken line


@dataclass(frozen=True)
class _Form:
    """How the lines of a file are cut into cells; ``width`` is the usual number of cells."""

    separator: str
    decimal: str
    width: int

    def cells(self, line: str) -> list[str]:
        return _cells(line, self.separator)

    def all_numbers(self, cells: list[str]) -> bool:
        return all(_is_number(cell, self.decimal) for cell in cells)


def read_delimited(path: Path, request: Request) -> tuple[Any, str]:
    """A table, with or without a line of column names (a first line of numbers is a row), and its decimal mark.

    Raises:
        ValueError: no text, no lines, lines of different lengths, or a first line that is no part of the table, such as
            the counts that scikit-learn puts there.
    """
    lines = _decoded(path.read_bytes(), request.encoding).replace("\r\n", "\n").replace("\r", "\n").split("\n")
    quoted = any('"' in line for line in lines)  # then a line may be a part of a cell
    kept: list[int] = []
    for number, line in enumerate(lines):
        if number >= (request.skip_lines or 0) and ((quoted and kept) or (line.strip() and not line.startswith("#"))):
            kept.append(number)
    if not kept:
        raise ValueError("it is empty")
    begun = [number for number in kept[:_HEAD] if lines[number].strip()]
    head = [lines[number] for number in begun]
    form = _form(head, request)
    names = _names(head, form, _commented_names(lines[: kept[0]], form), begun)
    written = (lines[number] for number in kept)
    body = "\n".join(map(_tabbed, written) if form.separator == _SPACES else written)
    table = _parsed(body, names.names, names.in_first_line, form)
    if names.in_first_line and names.names[:2] == [str(table.num_rows), str(table.num_columns - 1)]:
        raise ValueError(
            f"its first line counts the rows and columns rather than name them: {head[0][:_SHOWN]!r}; "
            f"skip_lines={begun[0] + 1} (--skip-lines {begun[0] + 1})"
        )
    return table, form.decimal


def _decoded(content: bytes, encoding: str | None) -> str:
    if content.startswith(_GZIP):
        content = gzip.decompress(content)
    if encoding is None:
        encoding = next((name for mark, name in _MARKS if content.startswith(mark)), "utf-8")
        if encoding in ("utf-8", "utf-8-sig") and b"\0" in content:
            raise ValueError(
                "it holds zero bytes: no text, or UTF-16 that does not say so; then encoding='utf-16-le' (--encoding)"
            )
    try:
        return content.decode(encoding)
    except LookupError as error:
        raise ValueError(f"there is no encoding {encoding!r}; common are utf-8, latin-1 and utf-16") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        advice = "" if encoding == "latin-1" else "; many older files are encoding='latin-1' (--encoding latin-1)"
        found = content[error.start : error.start + 1].hex()
        raise ValueError(f"line {line} is not {encoding}: byte 0x{found}{advice}") from error


def _cells(line: str, separator: str) -> list[str]:
    if separator == _SPACES:
        line, separator = _tabbed(line), "\t"
    return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


def _tabbed(line: str) -> str:
    """A line with a tab for each run of spaces outside of double quotes."""
    return re.sub(r'("[^"]*")|[ \t]+', lambda run: run[1] or "\t", line.strip())


def _is_number(cell: str, decimal: str = ".") -> bool:
    if decimal == ",":
        if "." in cell:
            return False
        cell = cell.replace(",", ".")
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell


def _form(head: list[str], request: Request) -> _Form:
    """The form asked for; where it is open, the one under which most cells of the lines but the first are numbers."""
    asked = None if request.sep is None else _SEPARATORS.get(request.sep, request.sep)
    if asked is not None and asked != _SPACES and (len(asked) != 1 or asked in '\r\n"'):
        raise ValueError(f"sep must be one character, 'tab' or 'space', got {request.sep!r}")
    known = _FORMS if asked is None else [(asked, decimal) for decimal in ".,"]
    forms = [(sep, decimal) for sep, decimal in known if request.decimal in (None, decimal)]
    rows = head[1:] or head
    scores = [_score([_cells(line, sep) for line in rows], _cells(head[0], sep), decimal) for sep, decimal in forms]
    if asked is None and all(width < 2 for width, _ in scores):
        forms, scores = [(",", forms[0][1])], scores[:1]  # a single column
    best = max(range(len(forms)), key=lambda i: (scores[i][0] > 1, scores[i][1]))
    return _Form(*forms[best], scores[best][0])


def _score(rows: list[list[str]], first: list[str], decimal: str) -> tuple[int, float]:
    """The usual number of cells of a row, and the share of cells that are numbers, rows of other lengths not counted.

    A table without numbers counts a little, so that among those its rows decide, and one that the first line does not
    fit counts less.
    """
    width, count = Counter(map(len, rows)).most_common(1)[0]
    cells = [cell for row in rows if len(row) == width for cell in row if cell]
    numbers = sum(_is_number(cell, decimal) for cell in cells)
    fit = {0: 1.0, 1: 0.6}.get(abs(len(first) - width), 0.3)  # names of the rows, or a last separator, are one cell
    return width, fit * (numbers + 1e-3) / (len(cells) + 1) * count / len(rows)


@dataclass(frozen=True)
class _Names:
    names: list[str]
    in_first_line: bool


def _commented_names(comments: list[str], form: _Form) -> list[str] | None:
    """The names in the last comment before the table, where numpy.savetxt writes them."""
    lines = [line.lstrip("# ") for line in comments if line.startswith("#")]
    cells = form.cells(lines[-1]) if lines else []
    return cells if len(cells) == form.width and not any(map(_is_number, cells)) else None


def _names(head: list[str], form: _Form, commented: list[str] | None, numbers: list[int]) -> _Names:
    first = form.cells(head[0])
    if form.width == len(first) and form.all_numbers(first):
        if commented is None and first == [str(i) for i in range(len(first))]:
            raise ValueError(
                f"its first line {','.join(first)!r} may be column names or numbers; name the columns x0, x1, ..."
            )
        return _Names(commented or [f"x{i}" for i in range(len(first))], in_first_line=False)
    if len(first) == form.width:
        return _Names(first, in_first_line=True)
    if len(first) == form.width - 1 and not form.all_numbers(first):
        trailing = all(not form.cells(line)[-1] for line in head[1:])
        return _Names([*first, ""] if trailing else ["", *first], in_first_line=True)  # R leaves out the rows' own name
    if len(first) == form.width + 1 and not first[-1]:
        return _Names(first[:-1], in_first_line=True)
    start = _start(head, form)
    raise ValueError(
        f"its first line has {_counted(len(first))} where the table has {form.width}: {head[0][:_SHOWN]!r}; if what "
        f"comes before the table is not a part of it, skip_lines={numbers[start]} (--skip-lines {numbers[start]})"
    )


def _start(head: list[str], form: _Form) -> int:
    """The line that the table seems to start with: the first of the usual length, or names before it of another one."""
    cells = [form.cells(line) for line in head]
    start = next(i for i, row in enumerate(cells) if len(row) == form.width)
    before = cells[start - 1]
    ends_in_separator = len(before) == form.width + 1 and not before[-1]
    lacks_one = len(before) == form.width - 1 and form.all_numbers(cells[start][1:])  # that of the names of the rows
    return start - 1 if start > 1 and (ends_in_separator or lacks_one) else start


def _counted(cells: int) -> str:
    return "1 cell" if cells == 1 else f"{cells} cells"


def _parsed(body: str, names: list[str], named: bool, form: _Form) -> Any:
    reader = optional_package("pyarrow.csv", "data")
    broken: list[Any] = []

    def remember(row: Any) -> str:
        broken.append(row)
        return "skip"

    table = reader.read_csv(
        io.BytesIO(body.encode()),
        read_options=reader.ReadOptions(column_names=names, skip_rows=int(named), use_threads=False),
        parse_options=reader.ParseOptions(
            delimiter="\t" if form.separator == _SPACES else form.separator,
            newlines_in_values='"' in body,
            invalid_row_handler=remember,
        ),
        convert_options=reader.ConvertOptions(decimal_point=form.decimal, strings_can_be_null=True),
    )
    if broken:
        row = broken[0]
        raise ValueError(
            f"{len(broken)} of its lines do not have {_counted(row.expected_columns)}, the first of them "
            f"{row.actual_columns}: {row.text[:_SHOWN]!r}; quote cells that hold the separator, or set it with sep= "
            "(--sep)"
        )
    return table
