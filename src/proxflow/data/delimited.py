"""Text tables: .csv and .tsv, gzipped or not, of any separator and encoding, as arrow tables."""

from __future__ import annotations

import codecs
import gzip
import io
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxflow.data.columns import label_column, unique_names
from proxflow.data.first_line import Names, commented_names, names_of
from proxflow.data.number_text import Marks
from proxflow.data.reading import Request
from proxflow.data.text_form import SHOWN, SPACES, Form, form_of, tabbed
from proxflow.errors import counted, optional_package

__all__ = ["DELIMITED", "TextTable", "read_delimited"]

DELIMITED = (".csv", ".tsv", ".csv.gz", ".tsv.gz")

_GZIP = b"\x1f\x8b"
_BYTE_ORDER_MARKS = (  # the longer ones first, since that of UTF-32 begins with that of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_COMMENTS = "lines that begin with # are comments: put the first cell of a row that does so in double quotes"
_LARGEST_BLOCK = 2**31 - 1  # bytes that arrow reads at once
_BEYOND_INTEGERS = 2.0**63
_HEAD = 100  # lines that the form is found from


@dataclass(frozen=True)
class TextTable:
    """An arrow table, how its numbers are written, and what about its form may be meant otherwise."""

    table: Any
    marks: Marks
    doubts: tuple[str, ...]


def read_delimited(path: Path, request: Request) -> TextTable:
    """A table, with or without a line of column names (a first line of numbers is a row).

    Raises:
        ValueError: no text, no lines, lines of different lengths, a first line that is no part of the table, such as
            the counts that scikit-learn puts there, or a form that may be meant in two ways.
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
    form = form_of(head, request)
    names = names_of(head, form, commented_names(lines[: kept[0]], form), begun, request)
    if names.in_first_line and len(head) == 1 and not any(lines[number].strip() for number in kept[1:]):
        hashes = f"; {_COMMENTS}" if any(line.startswith("#") for line in lines[kept[0] :]) else ""
        raise ValueError(
            f"it has no rows, only the line {head[0][:SHOWN]!r}, which is taken for the names of columns{hashes}"
        )
    written = [tabbed(lines[number]) if form.separator == SPACES else lines[number] for number in kept]
    if quoted:
        form.refuse_open_quotes(written)
    body = _Body("\n".join(written), names, form)
    table = body.table()
    if names.in_first_line and names.names[:2] == [str(table.num_rows), str(table.num_columns - 1)]:
        raise ValueError(
            f"its first line counts the rows and columns rather than name them: {head[0][:SHOWN]!r}; "
            f"skip_lines={begun[0] + 1} (--skip-lines {begun[0] + 1})"
        )
    doubts = [names.doubt] if names.doubt else []
    doubts += _doubt_of_threes(itertools.islice(written, int(names.in_first_line), None), form, request)
    doubts += [] if quoted else _doubt_of_comments(lines[kept[0] :], form)
    table = _with_text(table.rename_columns(unique_names(names.names)), body, request.label)
    return TextTable(table, Marks(form.decimal, request.decimal is not None, form.separator), tuple(doubts))


def _doubt_of_threes(lines: Iterable[str], form: Form, request: Request) -> list[str]:
    """A doubt about points between semicolons that may separate thousands; such commas between others are refused.

    Semicolons separate where the comma is the decimal mark.
    """
    if request.decimal is not None or (form.separator == ";") == (form.decimal == ","):
        return []
    cell = form.only_in_threes(lines)
    if cell is None:
        return []
    other = "," if form.decimal == "." else "."
    settled = (
        f"decimal={form.decimal!r} (--decimal {form.decimal}) says that {cell!r} has decimals, decimal={other!r} "
        f"(--decimal {other}) that it is in thousands"
    )
    if form.decimal == ",":
        raise ValueError(f"its commas may be decimal marks or separate thousands; {settled}")
    return [f"its points are read as decimal marks, but semicolons separate its cells; {settled}"]


def _doubt_of_comments(lines: list[str], form: Form) -> list[str]:
    """A doubt about comments among the rows that have as many cells as these, numbers after the first."""
    hashes = ((line, form.cells(line)) for line in lines if line.startswith("#"))
    rows = [
        line for line, cells in hashes if len(cells) == form.width and any(form.all_numbers([c]) for c in cells[1:])
    ]
    if not rows:
        return []
    return [
        f"{counted(len(rows), 'line')} left out as comments, but of {counted(form.width, 'cell')} as a row has, such "
        f"as {rows[0][:SHOWN]!r}; {_COMMENTS}"
    ]


def _with_text(table: Any, body: _Body, label: str | None) -> Any:
    """The table with the words for missing labels, and with text in place of whole numbers with leading zeros, or with
    more digits than an integer of 64 bits has.

    Spaces around labels go, as they do around numbers and names.
    """
    types = optional_package("pyarrow", "data").types
    compute = optional_package("pyarrow.compute", "data")
    labels = label_column(table.column_names, label) if label is None or label in table.column_names else None
    whole = [i for i, kind in enumerate(table.schema.types) if types.is_integer(kind)] if body.may_be_padded() else []
    whole += [i for i, kind in enumerate(table.schema.types) if types.is_floating(kind) and _is_huge(table.column(i))]
    named = [
        i for i, name in enumerate(table.column_names) if name == labels and _has_words_for_missing(table.column(i))
    ]
    written = body.text([*named, *whole]) if named or whole else table
    for place in named:
        table = table.set_column(place, table.column_names[place], written.column(str(place)))
    for place in whole:
        text = written.column(str(place))
        if compute.any(compute.match_substring_regex(text, r"^\s*[+-]?(0\d|\d{19,}\s*$)")).as_py():
            known = compute.if_else(table.column(place).is_valid(), text, None)
            table = table.set_column(place, table.column_names[place], known)
    if labels is not None and types.is_string(table.column(labels).type):
        place = table.column_names.index(labels)
        table = table.set_column(place, labels, compute.utf8_trim_whitespace(table.column(place)))
    return table


def _is_huge(column: Any) -> bool:
    """Whether some numbers are beyond the integers of 64 bits."""
    compute = optional_package("pyarrow.compute", "data")
    largest = compute.max(compute.if_else(compute.is_finite(column), compute.abs(column), None)).as_py()
    return largest is not None and largest >= _BEYOND_INTEGERS


def _has_words_for_missing(column: Any) -> bool:
    """Whether some cells of a column of text are missing, which the text itself may say."""
    return bool(optional_package("pyarrow", "data").types.is_string(column.type) and column.null_count)


def _decoded(content: bytes, encoding: str | None) -> str:
    if content.startswith(_GZIP):
        content = gzip.decompress(content)
    if encoding is None:
        encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
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


@dataclass(frozen=True)
class _Body:
    """The lines of a table as one text, the names of its columns, and its form."""

    text_of_lines: str
    names: Names
    form: Form

    def table(self) -> Any:
        """The table with the types that arrow finds.

        Raises:
            ValueError: lines of different lengths.
        """
        broken: list[Any] = []
        table = self._read(broken)
        if broken:
            row = broken[0]
            raise ValueError(
                f"{len(broken)} of its lines do not have {counted(row.expected_columns, 'cell')}, the first of them "
                f"{row.actual_columns}: {row.text[:SHOWN]!r}; quote cells that hold the separator, or set it with sep= "
                f"(--sep){self._commas()}"
            )
        return table

    def _commas(self) -> str:
        found = self.form.separator == "," and self.form.decimal == "."
        return "; if its commas are decimal marks, decimal=',' with sep=';' (--decimal , --sep ';')" if found else ""

    def text(self, places: list[int]) -> Any:
        """Columns as they are written, named by their places."""
        arrow = optional_package("pyarrow", "data")
        kinds = {str(place): arrow.string() for place in places}
        return self._read([], column_types=kinds, include_columns=[*kinds], strings_can_be_null=False)

    def may_be_padded(self) -> bool:
        """Whether some cell may begin with a zero before another digit; quick, and true too often."""
        return re.search(r"(?<![\d.+-])0\d", self.text_of_lines) is not None

    def _read(self, broken: list[Any], **conversion: Any) -> Any:
        """The table, its columns named by their places, and in ``broken`` the lines of other lengths."""
        reader = optional_package("pyarrow.csv", "data")

        def remember(row: Any) -> str:
            broken.append(row)
            return "skip"

        content = self.text_of_lines.encode()
        return reader.read_csv(
            io.BytesIO(content),
            read_options=reader.ReadOptions(
                block_size=min(len(content) + 1, _LARGEST_BLOCK),  # a line must lie in one block
                column_names=list(map(str, range(len(self.names.names)))),
                skip_rows=int(self.names.in_first_line),
                use_threads=False,
            ),
            parse_options=reader.ParseOptions(
                delimiter="\t" if self.form.separator == SPACES else self.form.separator,
                newlines_in_values='"' in self.text_of_lines,
                invalid_row_handler=remember,
            ),
            convert_options=reader.ConvertOptions(
                decimal_point=self.form.decimal, **{"strings_can_be_null": True} | conversion
            ),
        )
