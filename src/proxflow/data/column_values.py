"""The values of one column of an arrow table: numbers, vectors of numbers, or why it is neither."""

from __future__ import annotations

import re
import shlex
from typing import Any

import numpy as np

from proxflow.data.reading import Array
from proxflow.errors import optional_package

__all__ = ["holds_images", "numbers_of", "plain_values"]

_MOSTLY = 0.5  # share of numbers among its cells from which a column of text is one of numbers with mistakes
_SHOWN = 20  # characters of a cell


def numbers_of(column: Any, name: str, decimal: str, *, mistakes_are_missing: bool) -> Array | str:
    """Numbers (N,) or vectors (N, k) in float64, NaN where there is none; or in words why it is neither.

    Raises:
        ValueError: a cell is no number although most are, or vectors have different lengths.
    """
    arrow = optional_package("pyarrow", "data")
    types, column = arrow.types, _decoded(column)
    kind = column.type
    if column.null_count == len(column) and len(column):
        return "empty"
    if any(is_kind(kind) for is_kind in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)):
        return _floats(column)
    if any(is_kind(kind) for is_kind in (types.is_string, types.is_large_string, types.is_string_view)):
        return _numbers_in_text(column, name, decimal, mistakes_are_missing)
    if any(is_kind(kind) for is_kind in (types.is_list, types.is_large_list, types.is_fixed_size_list)):
        return _vectors(column, name)
    if types.is_struct(kind):
        return "images" if holds_images(kind) else str(kind)
    return "dates or times" if types.is_temporal(kind) else str(kind)


def holds_images(kind: Any) -> bool:
    """Whether the cells of this type of arrow are encoded images, as Hugging Face data sets have them."""
    types = optional_package("pyarrow", "data").types
    if not types.is_struct(kind) or "bytes" not in [part.name for part in kind]:
        return False
    inner = kind.field("bytes").type
    return bool(types.is_binary(inner) or types.is_large_binary(inner))


def _decoded(column: Any) -> Any:
    """The column without dictionary; the conversion of one makes the last category of a missing value."""
    types = optional_package("pyarrow", "data").types
    return column.cast(column.type.value_type) if types.is_dictionary(column.type) else column


def plain_values(column: Any) -> Array:
    """The values of a column as numpy has them."""
    types, column = optional_package("pyarrow", "data").types, _decoded(column)
    values: Array = _floats(column) if types.is_decimal(column.type) else column.to_numpy()
    return values


def _floats(column: Any) -> Array:
    """Numbers in float64, NaN for none."""
    arrow = optional_package("pyarrow", "data")
    floats: Array = column.cast(arrow.float64(), safe=False).to_numpy()
    return floats


def _numbers_in_text(column: Any, name: str, decimal: str, mistakes_are_missing: bool) -> Array | str:
    """Text is left out, unless most of its cells are numbers: then the others are mistakes, or missing."""
    arrow, compute = optional_package("pyarrow", "data"), optional_package("pyarrow.compute", "data")
    text = compute.utf8_trim_whitespace(column)
    mark = re.escape(decimal)
    pattern = rf"^[+-]?(\d+{mark}?\d*|{mark}\d+)([eE][+-]?\d+)?$"
    is_number = compute.fill_null(compute.match_substring_regex(text, pattern), False)
    present = compute.fill_null(compute.not_equal(text, ""), False)
    numbers, cells = compute.sum(is_number).as_py(), compute.sum(present).as_py()
    if not cells:
        return "empty"
    if numbers <= _MOSTLY * cells:
        example = next(value for value in text.to_pylist() if value)
        return f"text such as {example[:_SHOWN]!r}" if any(map(str.isdigit, example)) else "text"
    if mistakes_are_missing or numbers == cells:
        known = compute.if_else(is_number, text, arrow.scalar(None, text.type))
        return _floats(compute.replace_substring(known, decimal, "."))
    bad = np.flatnonzero(compute.and_not(present, is_number).to_numpy())
    raise ValueError(
        f"the column {name!r} holds {text[int(bad[0])].as_py()!r} in row {bad[0]}, and numbers elsewhere ({len(bad)} "
        f"such rows of {len(text)}); drop_missing=True (--drop-missing) leaves such rows out, drop={name!r} "
        f"(--drop {shlex.quote(name)}) the column"
    )


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
