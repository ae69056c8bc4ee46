"""Numbers written in text: decimal marks, marks between thousands, leading zeros, and what only looks like a number.

A mark that the user names settles what the other one means: with ``decimal=","`` the text 1.234 is 1,234. Where it was
found from the file, such text is not read as a number, and the message names the option that settles it.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from typing import Any

import numpy as np

from proxflow.data.reading import Array
from proxflow.errors import optional_package

__all__ = [
    "AS_WRITTEN",
    "Marks",
    "advice_on_text",
    "doubt_of_codes",
    "note_on_text",
    "numbers_in_text",
    "refuse_mixed_marks",
]

_MOSTLY = 0.5  # share of numbers among its cells from which a column of text is one of numbers with mistakes
_SHOWN = 20  # characters of a cell
_SPACE = r"[ \x{00A0}\x{2009}\x{202F}]"
_SIGN = r"[+\-\x{2212}\x{2013}]"
_NUMBER_LIKE = (  # an amount with its currency or percent, in parentheses if negative, of any marks and minus
    rf"^\(?{_SIGN}?{_SPACE}?[$€£¥₹]?{_SPACE}?{_SIGN}?"
    rf"(\d{{1,3}}((\.|,|'|_|\x{{2019}}|{_SPACE})\d{{3}})+([.,]\d+)?|\d+([.,]\d*)?|[.,]\d+)([eEdD][+-]?\d+)?"
    rf"{_SPACE}?[%‰$€£¥₹]?\)?$"
)


@dataclass(frozen=True)
class Marks:
    """How the numbers of a table are written.

    ``given`` says that the user named the decimal mark, and ``separator`` is that of a text file; None if the table
    comes from elsewhere, where text is not meant as numbers.
    """

    decimal: str = "."
    given: bool = False
    separator: str | None = None

    @property
    def other(self) -> str:
        """The mark that may be between thousands."""
        return "," if self.decimal == "." else "."

    @property
    def plain(self) -> str:
        """Of a number without marks between thousands."""
        mark = re.escape(self.decimal)
        return rf"^[+-]?(\d+{mark}?\d*|{mark}\d+)([eE][+-]?\d+)?$"

    @property
    def grouped(self) -> str:
        """Of a number in which the other mark is between thousands."""
        return rf"^[+-]?[1-9]\d{{0,2}}({re.escape(self.other)}\d{{3}})+({re.escape(self.decimal)}\d*)?$"

    @property
    def certain(self) -> str:
        """Of such a number that has both marks, so that it has one meaning."""
        return self.grouped.replace(")?$", ")$")

    def value(self, cell: str) -> float | None:
        """The number that a cell is with these marks."""
        if not (re.match(self.plain, cell) or re.match(self.grouped, cell)):
            return None
        return float(cell.replace(self.other, "").replace(self.decimal, "."))

    def advice(self, cell: str) -> str:
        """What to do about a cell that looks like a number and is none with these marks."""
        readings = {mark: Marks(mark).value(cell) for mark in ".," if not (self.given and mark == self.decimal)}
        settled = [
            f"decimal={mark!r} (--decimal {mark}) reads it as {value!r}"
            for mark, value in readings.items()
            if value is not None
        ]
        if self.separator is None or not settled:
            return "numbers are read where they are written plainly, such as 1234.5"
        return ", ".join(settled)


AS_WRITTEN = Marks()  # of tables that are no text files


def numbers_in_text(column: Any, name: str, marks: Marks, mistakes_are_missing: bool) -> Array | str:
    """Text is left out, unless most of its cells are numbers: then the others are mistakes, or missing.

    Raises:
        ValueError: a mistake that is not to be missing, or that looks like a number.
    """
    arrow, compute = optional_package("pyarrow", "data"), optional_package("pyarrow.compute", "data")
    text = compute.utf8_trim_whitespace(column)
    is_number, grouped = _matches(text, marks.plain), _in_thousands(text, marks)
    text = compute.if_else(grouped, compute.replace_substring(text, marks.other, ""), text)
    is_number = compute.or_(is_number, grouped)
    present = compute.fill_null(compute.not_equal(text, ""), False)
    numbers, cells = compute.sum(is_number).as_py(), compute.sum(present).as_py()
    if not cells:
        return "empty"
    if numbers <= _MOSTLY * cells:
        example = next(value for value in text.to_pylist() if value)
        return f"text such as {example[:_SHOWN]!r}" if any(map(str.isdigit, example)) else "text"
    mistakes = compute.and_not(present, is_number)
    if numbers < cells:
        _refuse_numbers_among(compute.filter(text, mistakes), name, marks)
    if mistakes_are_missing or numbers == cells:
        known = compute.if_else(is_number, text, arrow.scalar(None, text.type))
        values: Array = compute.replace_substring(known, marks.decimal, ".").cast(arrow.float64()).to_numpy()
        return values
    bad = np.flatnonzero(mistakes.to_numpy())
    raise ValueError(
        f"the column {name!r} holds {text[int(bad[0])].as_py()!r} in row {bad[0]}, and numbers elsewhere ({len(bad)} "
        f"such rows of {len(text)}); drop_missing=True (--drop-missing) leaves such rows out, drop={name!r} "
        f"(--drop {shlex.quote(name)}) the column"
    )


def _refuse_numbers_among(mistakes: Any, name: str, marks: Marks) -> None:
    """Mistakes among numbers that look like numbers: their rows must not be left out as missing ones."""
    example = _first(mistakes, _matches(mistakes, _NUMBER_LIKE))
    if example is not None:
        raise ValueError(
            f"the column {name!r} holds {example[:_SHOWN]!r}, and plain numbers elsewhere; {marks.advice(example)}; "
            f"drop={name!r} (--drop {shlex.quote(name)}) leaves the column out"
        )


def note_on_text(column: Any, name: str, marks: Marks) -> str | None:
    """What was changed in a column of text that was read as numbers."""
    text = optional_package("pyarrow.compute", "data").utf8_trim_whitespace(column)
    example = _first(text, _in_thousands(text, marks))
    if example is None:
        return None
    return f"{marks.other!r} separates thousands in the column {name!r}: {example!r} is {marks.value(example)!r}"


def advice_on_text(column: Any, marks: Marks) -> str | None:
    """What to do about a column of text most of whose cells look like numbers; None if they do not."""
    text = optional_package("pyarrow.compute", "data").utf8_trim_whitespace(column)
    like = _matches(text, _NUMBER_LIKE)
    if _share(text, like) <= _MOSTLY:
        return None
    example = _first(text, _only(like, _matches(text, marks.grouped))) or _first(text, like) or ""
    return f"{example[:_SHOWN]!r} looks like a number; {marks.advice(example)}"


def doubt_of_codes(column: Any) -> str | None:
    """Why numbers that are written as text may be codes, such as postal ones."""
    text = optional_package("pyarrow.compute", "data").utf8_trim_whitespace(column)
    example = _first(text, _matches(text, r"^0\d+$"))
    return None if example is None else f"has leading zeros, such as {example[:_SHOWN]!r}, as codes have"


def refuse_mixed_marks(table: Any, names: list[str], marks: Marks) -> None:
    """Refuse columns of a text file that have different decimal marks, unless the user said which one is right.

    Commas between thousands need quotes where commas separate, so that they are told from decimal marks there.
    """
    types = optional_package("pyarrow", "data").types
    with_mark = [name for name in names if types.is_floating(table.column(name).type)]
    if marks.given or marks.separator is None or not with_mark:
        return
    for name in names:
        if types.is_string(table.column(name).type):
            example = _with_other_mark(table.column(name), marks)
            if example is not None:
                raise ValueError(
                    f"both '.' and ',' occur as decimal marks: {marks.decimal!r} in the column {with_mark[0]!r} and "
                    f"{marks.other!r} in the column {name!r}, such as {example[:_SHOWN]!r}; decimal='.' or decimal=',' "
                    "(--decimal) says which one it is, and the other one is then between thousands"
                )


def _with_other_mark(column: Any, marks: Marks) -> str | None:
    """A cell of a column of numbers that have the other decimal mark; None if the column is something else."""
    compute = optional_package("pyarrow.compute", "data")
    text = compute.utf8_trim_whitespace(column)
    numbers = _matches(text, Marks(marks.other).plain)
    marked = compute.and_(numbers, _matches(text, re.escape(marks.other)))
    if marks.separator == ",":
        unsure = _only(marked, _matches(text, marks.grouped))
        marked = marked if compute.any(unsure).as_py() else unsure
    return _first(text, marked) if _share(text, numbers) > _MOSTLY else None


def _in_thousands(text: Any, marks: Marks) -> Any:
    """Which cells are numbers with the other mark between thousands; none where that is not certain."""
    compute = optional_package("pyarrow.compute", "data")
    grouped = _matches(text, marks.grouped)
    certain = marks.given or compute.any(_matches(text, marks.certain)).as_py()
    return grouped if certain else compute.and_(grouped, False)


def _share(text: Any, chosen: Any) -> float:
    """The share of chosen cells among those that are not empty."""
    compute = optional_package("pyarrow.compute", "data")
    present = compute.sum(compute.fill_null(compute.not_equal(text, ""), False)).as_py()
    return (compute.sum(chosen).as_py() or 0) / max(present or 0, 1)


def _only(chosen: Any, others: Any) -> Any:
    return optional_package("pyarrow.compute", "data").and_not(chosen, others)


def _first(text: Any, chosen: Any) -> str | None:
    """The first chosen cell."""
    found = optional_package("pyarrow.compute", "data").index(chosen, True).as_py()
    return None if found < 0 else text[found].as_py()


def _matches(text: Any, pattern: str) -> Any:
    compute = optional_package("pyarrow.compute", "data")
    return compute.fill_null(compute.match_substring_regex(text, pattern), False)
