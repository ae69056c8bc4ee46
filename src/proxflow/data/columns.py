"""Which columns of a table are coordinates: numbers and vectors of numbers that neither label nor count the rows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from proxflow.data.column_doubts import IDENTITY, doubt, doubt_of_index, doubt_of_numbers, doubt_of_rounding
from proxflow.data.column_values import (
    decoded,
    is_integer_type,
    is_number_type,
    is_text,
    numbers_of,
    plain_values,
    without_views,
)
from proxflow.data.number_text import (
    AS_WRITTEN,
    Marks,
    advice_on_text,
    doubt_of_codes,
    note_on_text,
    refuse_mixed_marks,
)
from proxflow.data.reading import Array, Raw, Request

__all__ = ["check_names", "class_names", "columns_given", "label_column", "points_of_table", "reasons", "unique_names"]

_NO_ACCIDENT = 20  # rows in which whole numbers do not count up by chance
# what pandas and R call the index of a data frame that they write
_ROW_NAMES = re.compile(r"(\.\d+)?|unnamed: \d+(_level_\d+)?|__index_level_\d+__|level_\d+", re.IGNORECASE)
_SHOWN = 12  # names in a note


@dataclass
class _Chosen:
    """The coordinates so far: their names and values, why others are none, what seems wrong, what was changed."""

    names: list[str] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    advice: list[str] = field(default_factory=list)  # on text that looks like numbers
    vectors: int = 0  # columns that are vectors

    def add(self, name: str, values: Array) -> None:
        if values.ndim == 1:
            self.names.append(name)
            self.values.append(values[:, None])
        else:
            self.names += [f"{name}[{i}]" for i in range(values.shape[1])]
            self.values.append(values)
            self.vectors += 1


def points_of_table(table: Any, request: Request, marks: Marks = AS_WRITTEN, doubts: Sequence[str] = ()) -> Raw:
    """Its columns of numbers as points, and one column as labels.

    Args:
        table: of arrow.
        request: what the user asked for.
        marks: how its numbers are written, where they are text.
        doubts: of the reader.

    Raises:
        ValueError: no such column, no column of numbers, one with a cell that is no number, or two decimal marks.
    """
    index = {str(name) for name in (table.schema.pandas_metadata or {}).get("index_columns", [])}
    table = without_views(table)
    table = table.rename_columns(unique_names(table.column_names)).replace_schema_metadata(table.schema.metadata)
    label = label_column(table.column_names, request.label)
    check_names(table.column_names, request)
    names = [name for name in table.column_names if name != label]
    refuse_mixed_marks(table, [name for name in names if name not in (request.drop or ())], marks)
    chosen = _chosen(table, request, names, index, marks)
    if not chosen.names:
        advice = "; ".join(["", *chosen.advice[:1]])
        raise ValueError(f"there are no columns of numbers{reasons(chosen.left_out)}{advice}")
    points = np.concatenate(chosen.values, axis=1)
    if len(points) == 0:
        raise ValueError(f"it has no rows, only the columns {_some([*map(_quoted, chosen.names)])}")
    labels = None if label is None else plain_values(table.column(label))
    return Raw(
        len(points),
        lambda rows: points[rows],
        labels,
        None if label is None or labels is None else class_names(table, label, labels),
        notes=(f"columns {_some([*map(_quoted, chosen.names)])}{reasons(chosen.left_out)}", *chosen.notes),
        columns=tuple(chosen.names),
        left_out=chosen.left_out,
        doubts=(*doubts, *chosen.doubts),
        standardise="global" if chosen.vectors == len(chosen.values) else "columns",
    )


def _chosen(table: Any, request: Request, names: list[str], index: set[str], marks: Marks) -> _Chosen:
    """The columns asked for, or else those of ``names`` that are meant; ``index`` is what pandas wrote as index."""
    if request.columns:
        return _asked(table, request, names, marks)
    chosen, counters, every = _Chosen(), dict[str, Array](), frozenset(table.column_names)
    for name in names:
        column = decoded(table.column(name))
        if name in (request.drop or ()):
            chosen.left_out[name] = "dropped"
        elif name in index or (_ROW_NAMES.fullmatch(name) and column.null_count < len(column)):
            chosen.left_out[name] = "row index"
            chosen.doubts += [] if name in index else _doubts_of_index(table, name, marks)
        else:
            values = numbers_of(column, name, marks, mistakes_are_missing=request.drop_missing)
            if not isinstance(values, str) and (counts := _counter(values, name)):
                counters[name], values = values, counts
            _take(chosen, name, values, column, marks)
            if not isinstance(values, str):
                found = doubt_of_numbers(values, name, every, request.label)
                chosen.doubts += [found] if found else []
    if not chosen.names:
        for name, values in counters.items():  # which are all there is
            chosen.add(name, values)
            del chosen.left_out[name]
    return chosen


def _asked(table: Any, request: Request, names: list[str], marks: Marks) -> _Chosen:
    """The columns that the user asked for, whatever they look like."""
    chosen = _Chosen()
    for name in request.columns or ():
        column = decoded(table.column(name))
        values = numbers_of(column, name, marks, mistakes_are_missing=request.drop_missing)
        if isinstance(values, str):
            advice = advice_on_text(column, marks) if is_text(column) else None
            raise ValueError(
                f"the column {name!r} cannot be a coordinate: it is {values}{'; ' if advice else ''}{advice or ''}"
            )
        _take(chosen, name, values, column, marks)
    chosen.doubts.clear()
    chosen.left_out = {name: "not asked for" for name in names if name not in (request.columns or ())}
    return chosen


def _take(chosen: _Chosen, name: str, values: Array | str, column: Any, marks: Marks) -> None:
    """Add a column to the coordinates, or to those left out for a reason; of text, say what it seems to be."""
    if isinstance(values, str):
        chosen.left_out[name] = values
        advice = advice_on_text(column, marks) if is_text(column) else None
        if advice:
            chosen.advice.append(advice)
            chosen.doubts.append(
                f"the column {name!r} is left out as text, but {advice}; "
                f"drop={name!r} (--drop {shlex.quote(name)}) leaves it out without this warning"
            )
        return
    chosen.add(name, values)
    if (is_integer_type(column) or is_text(column)) and len(values):
        rounded = doubt_of_rounding(values, column, name)
        chosen.doubts += [rounded] if rounded else []
    if is_text(column):
        note, code = note_on_text(column, name, marks), doubt_of_codes(column)
        chosen.notes += [note] if note else []
        chosen.doubts += [doubt(name, code)] if code else []


def _doubts_of_index(table: Any, name: str, marks: Marks) -> list[str]:
    if not is_number_type(table.column(name)):
        return []
    values = numbers_of(table.column(name), name, marks, mistakes_are_missing=True)
    earlier = (
        [] if name.strip(".0123456789") else table.column_names[: table.column_names.index(name)]
    )  # it has no name
    found = doubt_of_index(name, [other for other in earlier if not _ROW_NAMES.fullmatch(other)], values)
    return [found] if found else []


def label_column(columns: Sequence[str], asked: str | None) -> str | None:
    """The column of labels: the one asked for, else "label" if there is one."""
    if asked is None:
        return "label" if "label" in columns else None
    _require(asked, columns)
    return asked


def _require(name: str, columns: Sequence[str]) -> None:
    if name not in columns:
        raise ValueError(f"there is no column {name!r}; columns: {', '.join(columns) or 'none'}")


def class_names(table: Any, label: str, labels: Array) -> tuple[str, ...] | None:
    """The names of whole labels 0, 1, ..., where a Hugging Face data set wrote them beside its table."""
    written = (table.schema.metadata or {}).get(b"huggingface")
    try:
        names = json.loads(written)["info"]["features"][label]["names"] if written else None
    except (KeyError, TypeError, ValueError):
        return None
    if not isinstance(names, list) or labels.dtype.kind not in "iu" or len(labels) == 0:
        return None
    return tuple(map(str, names)) if labels.min() >= 0 and labels.max() < len(names) else None


def check_names(columns: Sequence[str], request: Request) -> None:
    """Refuse columns that are not there, or both wanted and dropped."""
    for name in (*(request.columns or ()), *(request.drop or ())):
        _require(name, columns)
    if both := set(request.columns or ()) & set(request.drop or ()):
        raise ValueError(f"the column {min(both)!r} is in columns= and in drop=; take it out of one of them")


def unique_names(names: Sequence[str]) -> list[str]:
    """Names in which the second x is x.1, as pandas reads them."""
    unique: dict[str, None] = {}
    for name in names:
        repeats = (f"{name}.{k}" for k in range(1, len(names) + 1))
        unique[name if name not in unique else next(new for new in repeats if new not in unique)] = None
    return list(unique)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _quoted(name: str) -> str:
    """As --columns takes it: in double quotes where there is a comma, or nothing."""
    return f'"{name}"' if "," in name or not name else name


def reasons(left_out: dict[str, str]) -> str:
    """Why columns are left out, for a note; nothing where none is."""
    listed = _some([f"{_quoted(name)} ({why})" for name, why in left_out.items()])
    return f"; left out: {listed}" if left_out else ""


def _counter(values: Array, name: str) -> str | None:
    """That a column counts the rows."""
    if values.ndim > 1 or len(values) < 2 or values[0] not in (0, 1) or not bool((np.diff(values) == 1).all()):
        return None
    if len(values) < _NO_ACCIDENT and not IDENTITY.fullmatch(name):
        return None
    return "counts 1..N" if values[0] else "counts 0..N-1"


def columns_given(columns: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names that a user gave, of one column or of several."""
    if columns is None:
        return None
    one = isinstance(columns, str) or not np.iterable(columns)  # a frame's names may be numbers
    return (str(columns),) if one else tuple(map(str, columns))
