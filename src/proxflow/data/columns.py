"""Which columns of a table are coordinates: numbers and vectors of numbers that neither label nor count the rows."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from proxflow.data.column_values import numbers_of, plain_values
from proxflow.data.reading import Array, Raw, Request

__all__ = ["check_names", "class_names", "columns_given", "label_column", "points_of_table", "reasons"]

_NO_ACCIDENT = 20  # rows in which whole numbers do not count up by chance
# what pandas and R call the index of a data frame that they write
_ROW_NAMES = re.compile(r"|unnamed: \d+(_level_\d+)?|__index_level_\d+__|level_\d+", re.IGNORECASE)
_IDENTITY = re.compile(
    r"(?i:(.*[ _.-])?(id|idx|index|no|nr|number|obs|row)|row[ _.-]?(id|names?|numbers?)|case|observation)|.*[a-z]I[dD]"
)
_TARGETS = {"label", "labels", "target", "class", "y", "species"}
_SHOWN = 12  # names in a note


@dataclass
class _Chosen:
    """The coordinates so far: their names and values, why other columns are none, and what seems wrong."""

    names: list[str] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)
    vectors: int = 0  # columns that are vectors

    def add(self, name: str, values: Array) -> None:
        if values.ndim == 1:
            self.names.append(name)
            self.values.append(values[:, None])
        else:
            self.names += [f"{name}[{i}]" for i in range(values.shape[1])]
            self.values.append(values)
            self.vectors += 1


def points_of_table(table: Any, request: Request, decimal: str = ".") -> Raw:
    """Its columns of numbers as points, and one column as labels.

    Raises:
        ValueError: no such column, no column of numbers, or one with a cell that is no number.
    """
    index = {str(name) for name in (table.schema.pandas_metadata or {}).get("index_columns", [])}
    table = table.rename_columns(_unique(table.column_names)).replace_schema_metadata(table.schema.metadata)
    label = label_column(table.column_names, request.label)
    check_names(table.column_names, request)
    chosen = _chosen(table, request, [name for name in table.column_names if name != label], index, decimal)
    if not chosen.names:
        raise ValueError(f"there are no columns of numbers{reasons(chosen.left_out)}")
    points = np.concatenate(chosen.values, axis=1)
    if len(points) == 0:
        raise ValueError(f"it has no rows, only the columns {_some([*map(_quoted, chosen.names)])}")
    labels = None if label is None else plain_values(table.column(label))
    return Raw(
        len(points),
        lambda rows: points[rows],
        labels,
        None if label is None or labels is None else class_names(table, label, labels),
        notes=(f"columns {_some([*map(_quoted, chosen.names)])}{reasons(chosen.left_out)}",),
        columns=tuple(chosen.names),
        left_out=chosen.left_out,
        doubts=tuple(chosen.doubts),
        standardise="global" if chosen.vectors == len(chosen.values) else "columns",
    )


def _chosen(table: Any, request: Request, names: list[str], index: set[str], decimal: str) -> _Chosen:
    """The columns asked for, or else those of ``names`` that are meant; ``index`` is what pandas wrote as index."""
    chosen, counters = _Chosen(), dict[str, Array]()
    for name in request.columns or names:
        is_index = not request.columns and (name in index or _ROW_NAMES.fullmatch(name))
        why = "dropped" if name in (request.drop or ()) else "row index" if is_index else None
        values = why or numbers_of(table.column(name), name, decimal, mistakes_are_missing=request.drop_missing)
        if isinstance(values, str) and request.columns:
            raise ValueError(f"the column {name!r} cannot be a coordinate: it is {values}")
        if not isinstance(values, str) and not request.columns and (counts := _counter(values, name)):
            counters[name], values = values, counts
        if isinstance(values, str):
            chosen.left_out[name] = values
        else:
            chosen.add(name, values)
            if not request.columns and (doubt := _identity(values, name) or _target(name, table, request.label)):
                chosen.doubts.append(doubt)
    if not chosen.names:
        for name, values in counters.items():  # which are all there is
            chosen.add(name, values)
            del chosen.left_out[name]
    if request.columns:
        chosen.left_out |= {name: "not asked for" for name in names if name not in request.columns}
    return chosen


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


def _unique(names: Sequence[str]) -> list[str]:
    """Names in which the second x is x.1, as pandas reads them."""
    unique: list[str] = []
    for name in names:
        repeats = (f"{name}.{k}" for k in range(1, len(names) + 1))
        unique.append(name if name not in unique else next(new for new in repeats if new not in unique))
    return unique


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
    if len(values) < _NO_ACCIDENT and not _IDENTITY.fullmatch(name):
        return None
    return "counts 1..N" if values[0] else "counts 0..N-1"


def _identity(values: Array, name: str) -> str | None:
    """A doubt about whole numbers that are all different, of a column that is called like one that tells rows apart."""
    if values.ndim > 1 or not _IDENTITY.fullmatch(name) or len(np.unique(values)) < len(values):
        return None
    return _doubt(name, "looks like a number that only tells rows apart") if (values == np.rint(values)).all() else None


def _target(name: str, table: Any, label: str | None) -> str | None:
    """A doubt about a column that is called like what the others are to tell; y is none where there is an x."""
    if name.lower() not in _TARGETS or (name.lower() == "y" and "x" in map(str.lower, table.column_names)):
        return None
    classes = "" if label is not None else f"; label={name!r} (--label {shlex.quote(name)}) makes it the classes"
    return _doubt(name, "is called like what the others tell", classes)


def _doubt(name: str, what: str, more: str = "") -> str:
    advice = f"drop={name!r} (--drop {shlex.quote(name)}) leaves it out{more}"
    return f"the column {name!r} is a coordinate but {what}; {advice}"


def columns_given(columns: str | Sequence[str] | None) -> tuple[str, ...] | None:
    """Names that a user gave, of one column or of several."""
    if columns is None:
        return None
    return (columns,) if isinstance(columns, str) else tuple(map(str, columns))
