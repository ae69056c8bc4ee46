"""What the first line of a text table is: the names of its columns, a row of numbers, or no part of it.

Names that are one fewer than the cells of a row leave out that of the first column, as R and pandas write row names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from proxflow.data.labels import says_missing
from proxflow.data.reading import Request
from proxflow.data.text_form import SHOWN, SPACES, Form, is_number
from proxflow.errors import counted

__all__ = ["Names", "commented_names", "names_of"]

_NO_ACCIDENT = 20  # lines whose first cells do not count up by chance
# numbers that a separator cuts in two
_DECIMALS = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")
_THOUSANDS = {",": re.compile(r"[+-]?[1-9]\d{0,2},\d{3}"), SPACES: re.compile(r"[+-]?[1-9]\d{0,2} \d{3}")}
_OTHER_SEPARATOR = (
    "a file whose commas are decimal marks as well needs another separator to be read with decimal=',' and sep=';' "
    "(--decimal , --sep ';')"
)


@dataclass(frozen=True)
class Names:
    """Names of all columns; ``doubt`` says why the first line may be meant otherwise."""

    names: list[str]
    in_first_line: bool
    doubt: str | None = None


def commented_names(comments: list[str], form: Form) -> list[str] | None:
    """The names in the last comment before the table, where numpy.savetxt writes them."""
    lines = [line.lstrip("# ") for line in comments if line.startswith("#")]
    cells = form.cells(lines[-1]) if lines else []
    return cells if len(cells) == form.width and not any(map(is_number, cells)) else None


def names_of(head: list[str], form: Form, commented: list[str] | None, numbers: list[int], request: Request) -> Names:
    """The names of the columns.

    Args:
        head: the first lines that are no comments.
        form: how they are cut.
        commented: names in a comment before them, if there are some.
        numbers: how many lines of the file come before each of ``head``.
        request: what the user said about the form.

    Raises:
        ValueError: the first line does not fit the others, or may be meant in two ways.
    """
    first = form.cells(head[0])
    if form.width == len(first) and form.all_numbers(first):
        if _alone_in_quotes(head):
            return Names(first, in_first_line=True)
        return _without_names(head, form, commented, request)
    _refuse_names_below(head, form, numbers, request)
    if len(first) == form.width:
        return Names(first, in_first_line=True)
    if len(first) == form.width - 1 and not form.all_numbers(first) and _follows(head, form):
        if all(not form.cells(line)[-1] for line in head[1:]):
            return Names([*first, ""], in_first_line=True)
        _refuse_split_numbers(head, form, request)
        return Names(["", *first], in_first_line=True)  # R leaves out the rows' own name
    if len(first) == form.width + 1 and not first[-1]:
        return Names(first[:-1], in_first_line=True)
    raise ValueError(
        f"its first line has {counted(len(first), 'cell')} where the table has {form.width}: {head[0][:SHOWN]!r}; "
        f"{_advice(head, form, numbers)}"
    )


def _without_names(head: list[str], form: Form, commented: list[str] | None, request: Request) -> Names:
    first = form.cells(head[0])
    if commented is None and _counts(first) and (first[0] == "0" or not any(map(_counts, map(form.cells, head[1:])))):
        raise ValueError(
            f"its first line {','.join(first)[:SHOWN]!r} may be column names or numbers; put names in double quotes, "
            "or write a line of names, such as x0, x1, ..., before numbers"
        )
    doubt = None
    if form.width == 2 and request.sep is None and request.decimal is None and all(map(_DECIMALS.fullmatch, head)):
        doubt = (
            f"it has no line of names, and lines such as {head[0][:SHOWN]!r} are taken for two numbers each; sep=',' "
            "(--sep ,) says that this is right, decimal=',' (--decimal ,) that they are one number with a decimal comma"
        )
    return Names(commented or [f"x{i}" for i in range(len(first))], in_first_line=False, doubt=doubt)


def _alone_in_quotes(head: list[str]) -> bool:
    """Whether the first line is in double quotes and no other one has any, as programs write names but not numbers."""
    first = head[0].strip()
    return len(head) > 1 and first[0] == first[-1] == '"' and not any('"' in line for line in head[1:])


def _counts(cells: list[str]) -> bool:
    """Whether they are 0, 1, 2, ... or at least three numbers that count up from another one, such as years."""
    if not all(map(str.isdecimal, cells)) or (len(cells) < 3 and cells[0] != "0"):
        return False
    return cells == [str(int(cells[0]) + i) for i in range(len(cells))]


def _refuse_names_below(head: list[str], form: Form, numbers: list[int], request: Request) -> None:
    """Refuse a second line without numbers where those below have some: it holds the names, or units."""
    rows = [cells for cells in map(form.cells, head[1:]) if len(cells) == form.width]
    fits = len(form.cells(head[0])) == form.width
    if len(rows) < 2 or len(form.cells(head[1])) != form.width or (fits and request.drop_missing):
        return
    if any(says_missing(cell) or is_number(cell, form.decimal) for cell in rows[0]):
        return
    below = [[row[place] for row in rows[1:] if row[place]] for place in range(form.width)]
    if any(cells and form.all_numbers(cells) for cells in below):
        units = "; if it holds units, drop_missing=True (--drop-missing) leaves it out" if fits else ""
        raise ValueError(
            f"its second line {head[1][:SHOWN]!r} holds no number, unlike those below; if it holds the names of the "
            f"columns and {head[0][:SHOWN]!r} is not a part of the table, skip_lines={numbers[1]} "
            f"(--skip-lines {numbers[1]}){units}"
        )


def _refuse_split_numbers(head: list[str], form: Form, request: Request) -> None:
    """Refuse lines that may have one cell more than names because a mark inside of a number is taken for a separator.

    Row names in quotes, and those that count the rows of a longer table, are no parts of numbers.
    """
    said = request.sep is not None and request.decimal != ","
    if form.separator not in _THOUSANDS or said:
        return
    lines = [line.strip() for line in head[1:] if len(form.cells(line)) == form.width]
    rows = [form.cells(line) for line in lines]
    if all(line.startswith('"') for line in lines) or _count_up([row[0] for row in rows]):
        return
    thousands = _may_be_one(rows, lines, form, _THOUSANDS[form.separator])
    decimals = form.separator == "," and request.decimal != "." and _may_be_one(rows, lines, form, _DECIMALS)
    if thousands or decimals:
        raise ValueError(
            f"its first line {head[0][:SHOWN]!r} has {counted(form.width - 1, 'cell')} and those below {form.width}, "
            f"such as {lines[0][:SHOWN]!r}: {_meanings(form, thousands, decimals)}"
        )


def _may_be_one(rows: list[list[str]], lines: list[str], form: Form, number: re.Pattern[str]) -> bool:
    """Whether two neighbouring cells, with what is between them in their line, are such a number in all rows."""
    mark = " " if form.separator == SPACES else form.separator
    pairs = ([mark.join(row[place : place + 2]) for row in rows] for place in range(form.width - 1))
    return any(
        all(number.fullmatch(pair) and pair in line for pair, line in zip(column, lines, strict=True))
        for column in pairs
    )


def _meanings(form: Form, thousands: bool, decimals: bool) -> str:
    """What a mark in a number may mean, and the options that say so."""
    if form.separator == SPACES:
        return (
            "sep='space' (--sep space) says that the first cell is the name of its row; spaces between thousands must "
            "be taken out of the file"
        )
    names = "sep=',' (--sep ,) says that commas separate, after a first cell that is the name of its row"
    if form.width > 2:
        return f"{names}; {_OTHER_SEPARATOR}"
    decimal = (
        ["decimal=',' with sep=';' (--decimal , --sep ';') says that the comma is a decimal mark"] if decimals else []
    )
    point = ["decimal='.' with sep=';' (--decimal . --sep ';') that it separates thousands"] if thousands else []
    return "; ".join([*decimal, *point, names])


def _advice(head: list[str], form: Form, numbers: list[int]) -> str:
    start = _start(head, form)
    whole = all(cell.lstrip("+-").isdigit() for line in head[start:] for cell in form.cells(line))
    if form.separator == "," and whole and start == 1:
        return _OTHER_SEPARATOR
    return (
        f"if what comes before the table is not a part of it, skip_lines={numbers[start]} (--skip-lines "
        f"{numbers[start]})"
    )


def _count_up(cells: list[str]) -> bool:
    """Whether they are 0, 1, 2, ... or 1, 2, 3, ... and too many for an accident."""
    counts = [[str(start + i) for i in range(len(cells))] for start in (0, 1)]
    return len(cells) >= _NO_ACCIDENT and cells in counts


def _follows(head: list[str], form: Form) -> bool:
    """Whether the rows begin right after the first line; a cell of several lines may hide where."""
    return _start(head, form) == 1 or head[1].count('"') % 2 == 1


def _start(head: list[str], form: Form) -> int:
    """The line that the table seems to start with: the first of the usual length, or names before it of another one."""
    cells = [form.cells(line) for line in head]
    start = next(i for i, row in enumerate(cells) if len(row) == form.width)
    before = cells[start - 1]
    ends_in_separator = len(before) == form.width + 1 and not before[-1]
    lacks_one = len(before) == form.width - 1 and form.all_numbers(cells[start][1:])  # that of the names of the rows
    return start - 1 if start > 1 and (ends_in_separator or lacks_one) else start
