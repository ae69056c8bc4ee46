"""The values of one column of an arrow table: numbers, vectors of numbers, or why it is neither."""

from __future__ import annotations

import shlex
from typing import Any

import numpy as np

from proxflow.data.labels import as_text
from proxflow.data.number_text import Marks, numbers_in_text
from proxflow.data.reading import Array
from proxflow.errors import optional_package

__all__ = [
    "decoded",
    "holds_images",
    "is_integer_type",
    "is_number_type",
    "is_text",
    "numbers_of",
    "plain_values",
    "without_views",
]


_VIEWS = {"string_view": "large_string", "binary_view": "large_binary"}  # by the name of a type, that old arrows lack


def numbers_of(column: Any, name: str, marks: Marks, *, mistakes_are_missing: bool) -> Array | str:
    """Numbers (N,) or vectors (N, k) in float64, NaN where there is none; or in words why it is neither.

    Raises:
        ValueError: a cell is no number although most are, or vectors have different lengths.
    """
    arrow = optional_package("pyarrow", "data")
    types, column = arrow.types, decoded(column)
    kind = column.type
    if column.null_count == len(column) and len(column):
        return "empty"
    if is_number_type(column):
        return _floats(column)
    if is_text(column):
        return numbers_in_text(column, name, marks, mistakes_are_missing)
    if any(is_kind(kind) for is_kind in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        return _vectors(column, name)
    if types.is_struct(kind):
        return "images" if holds_images(kind) else str(kind)
    return "dates or times" if types.is_temporal(kind) else str(kind)


def is_number_type(column: Any) -> bool:
    """Whether the cells of a column are numbers by their type, or true and false."""
    types, kind = optional_package("pyarrow", "data").types, decoded(column).type
    return any(is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal))


def is_integer_type(column: Any) -> bool:
    """Whether the cells of a column are whole numbers by their type."""
    return bool(optional_package("pyarrow", "data").types.is_integer(decoded(column).type))


def is_text(column: Any) -> bool:
    """Whether the cells of a column are text."""
    types, kind = optional_package("pyarrow", "data").types, decoded(column).type
    return bool(types.is_string(kind) or types.is_large_string(kind))


def holds_images(kind: Any) -> bool:
    """Whether the cells of this type of arrow are encoded images, as Hugging Face data sets have them."""
    types = optional_package("pyarrow", "data").types
    if not types.is_struct(kind) or "bytes" not in [part.name for part in kind]:
        return False
    inner = kind.field("bytes").type
    return bool(types.is_binary(inner) or types.is_large_binary(inner))


def decoded(column: Any) -> Any:
    """The column without dictionary; the conversion of one makes the last category of a missing value."""
    arrow = optional_package("pyarrow", "data")
    if not arrow.types.is_dictionary(column.type):
        return column
    chunks = column.chunks if isinstance(column, arrow.ChunkedArray) else [column]
    return arrow.chunked_array([chunk.dictionary_decode() for chunk in chunks], column.type.value_type)


def without_views(table: Any) -> Any:
    """The table with plain text: polars gives views of it, which few of arrow's functions take."""
    for number, part in enumerate(table.schema):
        column = table.column(number)
        plain = _without_views(column)
        if plain is not column:
            table = table.set_column(number, part.name, plain)
    return table


def _without_views(column: Any) -> Any:
    arrow = optional_package("pyarrow", "data")
    if arrow.types.is_dictionary(column.type):
        if str(column.type.value_type) not in _VIEWS:
            return column
        chunks = [
            arrow.DictionaryArray.from_arrays(chunk.indices, _without_views(chunk.dictionary)).dictionary_decode()
            for chunk in column.chunks
        ]
        return arrow.chunked_array(chunks, _VIEWS[str(column.type.value_type)])
    plain = _VIEWS.get(str(column.type))
    return column if plain is None else column.cast(plain)


def plain_values(column: Any) -> Array:
    """The values of a column as numpy has them; those of bytes as text."""
    types, column = optional_package("pyarrow", "data").types, decoded(column)
    values: Array = _floats(column) if types.is_decimal(column.type) else as_text(column.to_numpy())
    return values


def _floats(column: Any) -> Array:
    """Numbers in float64, NaN for none."""
    arrow = optional_package("pyarrow", "data")
    floats: Array = column.cast(arrow.float64(), safe=False).to_numpy()
    return floats


def _vectors(column: Any, name: str) -> Array | str:
    """Lists of one length as vectors (N, k); a missing list is one of NaN."""
    arrow, compute = optional_package("pyarrow", "data"), optional_package("pyarrow.compute", "data")
    inner = column.type.value_type
    if not (arrow.types.is_integer(inner) or arrow.types.is_floating(inner)):
        return f"lists of {inner}"
    known = np.flatnonzero(column.is_valid().to_numpy())
    lengths = compute.list_value_length(column).drop_null().to_numpy()
    if len(lengths) == 0 or lengths[0] == 0:
        return "empty lists"
    odd = np.flatnonzero(lengths != lengths[0])
    if len(odd):
        raise ValueError(
            f"the column {name!r} has lists of {lengths[0]} numbers and in row {known[odd[0]]} of {lengths[odd[0]]}; "
            f"vectors need one length: drop={name!r} (--drop {shlex.quote(name)}) leaves the column out"
        )
    values = np.full((len(column), int(lengths[0])), np.nan)
    values[known] = _floats(compute.list_flatten(column)).reshape(len(known), -1)
    return values
