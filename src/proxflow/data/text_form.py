"""The form of a text table: what separates its cells, and which mark its decimals have.

It is found from the first lines: of all separators and decimal marks, those under which the most cells are numbers.
"""

from __future__ import annotations

import contextlib
import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from proxflow.data.reading import Request

__all__ = ["SHOWN", "SPACES", "Form", "form_of", "is_number", "tabbed"]

SHOWN = 60  # characters of a line
SPACES = "whitespace"
_SEPARATORS = {"tab": "\t", "\\t": "\t", "space": SPACES, " ": SPACES, SPACES: SPACES}
_FORMS = [(sep, decimal) for decimal in ".," for sep in (",", ";", "\t", "|", SPACES) if sep != decimal]
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2}([.,]\d{3})+")


@dataclass(frozen=True)
class Form:
    """How the lines of a file are cut into cells; ``width`` is the usual number of cells."""

    separator: str
    decimal: str
    width: int

    def cells(self, line: str) -> list[str]:
        """The cells of a line, without spaces around them."""
        return _cells(line, self.separator)

    def all_numbers(self, cells: list[str]) -> bool:
        """Whether all of them are numbers with the decimal mark of the file."""
        return all(is_number(cell, self.decimal) for cell in cells)

    def only_in_threes(self, lines: Iterable[str]) -> str | None:
        """A cell such as 1,234, whose mark may separate thousands, where no cell of these lines rules that out."""
        example = None
        for line in lines:
            for cell in self.cells(line) if self.decimal in line else ():
                if self.decimal in cell and self.all_numbers([cell]):
                    if not _THOUSANDS.fullmatch(cell):
                        return None
                    example = example or cell
        return example

    def refuse_open_quotes(self, lines: list[str]) -> None:
        """Refuse a double quote that opens a cell and closes in no line, or in a later one before more text.

        What lies between would be one cell.

        Raises:
            ValueError: with the first line of such a cell.
        """
        delimiter = "\t" if self.separator == SPACES else self.separator
        with _cells_of_any_size(max(map(len, lines)) * len(lines)):
            reader = csv.reader(lines, delimiter=delimiter, strict=True)
            begun, more = 0, True
            while more:
                try:
                    more = next(reader, None) is not None
                except csv.Error as error:
                    if "end of data" in str(error) or reader.line_num > begun + 1:
                        raise ValueError(
                            f"a double quote opens a cell that does not end in its line, nor well in a later one: "
                            f"{lines[begun][:SHOWN]!r}; write a quote inside of a quoted cell twice, or take it away"
                        ) from error
                begun = reader.line_num


def form_of(head: list[str], request: Request) -> Form:
    """The form asked for; where it is open, the one under which most cells of the lines but the first are numbers."""
    asked = None if request.sep is None else _SEPARATORS.get(request.sep, request.sep)
    if asked is not None and asked != SPACES and (len(asked) != 1 or asked in '\r\n"'):
        raise ValueError(f"sep must be one character, 'tab' or 'space', got {request.sep!r}")
    rows = head[1:] or head
    known = _FORMS if asked is None else [(asked, decimal) for decimal in ".,"]
    if asked is None and request.decimal == "," and any("," in cell for line in rows for cell in _cells(line, ",")):
        known = [*known, (",", ",")]  # decimal commas inside quotes
    forms = [(sep, decimal) for sep, decimal in known if request.decimal in (None, decimal)]
    given = request.decimal is not None
    scores = [_score([_cells(line, sep) for line in rows], _cells(head[0], sep), mark, given) for sep, mark in forms]
    if asked is None and all(width < 2 for width, _ in scores):
        forms, scores = forms[:1], scores[:1]  # a single column
    best = max(range(len(forms)), key=lambda i: (scores[i][0] > 1, scores[i][1]))
    return Form(*forms[best], scores[best][0])


def _score(rows: list[list[str]], first: list[str], decimal: str, given: bool) -> tuple[int, float]:
    """The usual number of cells of a row, and the share of cells that are numbers, rows of other lengths not counted.

    A table without numbers counts a little, so that among those its rows decide, and one that the first line does not
    fit counts less. Where the decimal mark is given, the other one may separate thousands.
    """
    width, count = Counter(map(len, rows)).most_common(1)[0]
    cells = [cell for row in rows if len(row) == width for cell in row if cell]
    numbers = sum(is_number(cell, decimal) or (given and _THOUSANDS.fullmatch(cell) is not None) for cell in cells)
    fit = {0: 1.0, 1: 0.6}.get(abs(len(first) - width), 0.3)  # names of the rows, or a last separator, are one cell
    return width, fit * (numbers + 1e-3) / (len(cells) + 1) * count / len(rows)


def _cells(line: str, separator: str) -> list[str]:
    if separator == SPACES:
        line, separator = tabbed(line), "\t"
    with _cells_of_any_size(len(line)):  # of another separator a long line may be one cell
        return [cell.strip() for cell in next(csv.reader([line], delimiter=separator))]


@contextlib.contextmanager
def _cells_of_any_size(largest: int) -> Iterator[None]:
    usual = csv.field_size_limit()
    csv.field_size_limit(max(usual, largest))
    try:
        yield
    finally:
        csv.field_size_limit(usual)


def tabbed(line: str) -> str:
    """A line with a tab for each run of spaces outside of double quotes."""
    return re.sub(r'("[^"]*")|[ \t]+', lambda run: run[1] or "\t", line.strip())


def is_number(cell: str, decimal: str = ".") -> bool:
    """Whether a cell is a number with this decimal mark."""
    if decimal == ",":
        if "." in cell or cell.endswith(","):  # which separates cells, as in "1, 2"
            return False
        cell = cell.replace(",", ".")
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell
