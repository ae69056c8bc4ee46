"""Files of columns: .csv and .parquet."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from proxflow.data.reading import Array, Raw, Request
from proxflow.errors import optional_package

__all__ = ["label_column", "read_table"]


def read_table(path: Path, request: Request) -> Raw:
    """Columns of numbers, and one of labels."""
    if path.suffix.lower() == ".csv":
        table = _read_csv(path)
    else:
        table = optional_package("pyarrow.parquet", "data").read_table(path)
    labels = None
    name = label_column(table.column_names, request.label)
    if name is not None:
        labels = _values(table.column(name))
        table = table.drop_columns([name])
    _check_columns(table)
    return Raw.of(np.stack([np.asarray(column, dtype=np.float64) for column in table.columns], axis=1), labels)


def _values(column: Any) -> Array:
    """Its values; of a categorical one, whose own conversion turns a missing value into the last category."""
    if optional_package("pyarrow", "data").types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    values: Array = column.to_numpy()
    return values


def label_column(columns: list[str], asked: str | None) -> str | None:
    """The column of labels: the one asked for, else "label" if there is one."""
    if asked is None:
        return "label" if "label" in columns else None
    if asked not in columns:
        raise ValueError(f"there is no column {asked!r}; columns: {', '.join(columns) or 'none'}")
    return asked


def _read_csv(path: Path) -> Any:
    """A table, with or without a line of column names: a first line of numbers is a row."""
    csv = optional_package("pyarrow.csv", "data")
    table = csv.read_csv(path)
    names = table.column_names
    if names == [str(i) for i in range(len(names))]:
        raise ValueError(
            f"its first line {','.join(names)!r} may be column names or numbers; name the columns x0, x1, ..."
        )
    if all(_is_number(name) for name in names):
        return csv.read_csv(path, read_options=csv.ReadOptions(autogenerate_column_names=True))
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_columns(table: Any) -> None:
    types = optional_package("pyarrow", "data").types
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    text = [f"{field.name!r} ({field.type})" for field in table.schema if not any(kind(field.type) for kind in kinds)]
    if text:
        raise ValueError(
            f"columns that are not numeric: {', '.join(text)}; drop them, or name the one of the classes with label= "
            "(--label)"
        )
    unnamed = [name for name in table.column_names if not name or name.startswith("__index_level_")]
    if unnamed:
        raise ValueError(f"the column {unnamed[0]!r} is a row index, not data; write the table without its index")
    if not table.column_names:
        raise ValueError("there are no columns of numbers")
