"""Images in a column of a table, encoded as Hugging Face data sets store them: PNG, JPEG and others."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from proxflow.data.column_values import holds_images, plain_values
from proxflow.data.columns import check_names, class_names, label_column, reasons
from proxflow.data.images import notes_on_changes, stack_images
from proxflow.data.pixels import read_pixels
from proxflow.data.reading import Array, Raw, Request, reading
from proxflow.errors import optional_package

__all__ = ["image_column", "images_of_table"]


def image_column(table: Any, request: Request) -> str | None:
    """The column of encoded images that is meant; None if the points are other columns.

    Raises:
        ValueError: there are several, and neither ``columns`` nor ``drop`` chooses.
    """
    found = [field.name for field in table.schema if holds_images(field.type)]
    if request.columns is not None:
        return request.columns[0] if len(request.columns) == 1 and request.columns[0] in found else None
    found = [name for name in found if name not in (request.drop or ())]
    if len(found) > 1:
        raise ValueError(
            f"the columns {', '.join(found)} hold images; choose one with columns={found[0]!r} (--columns {found[0]})"
        )
    return found[0] if found else None


def images_of_table(table: Any, name: str, request: Request, origin: Path) -> Raw:
    """The images of a column in [0, 1]: (N, H, W) if all are grey, else (N, 3, H, W); and one column as labels.

    Raises:
        ValueError: no such column, or a row without an image. One that cannot be read is an error once it is taken.
    """
    if request.frames == "all":
        raise ValueError("frames='all' (--frames all) is for folders; in a table a row is one image: frames='first'")
    check_names(table.column_names, request)
    label = label_column(table.column_names, request.label)
    notes = []
    if request.drop_missing:
        table, whole = table.filter(_encoded(table, name).is_valid()), len(table)
        notes = [f"{whole - len(table):,} of {whole:,} rows left out, without an image"] if len(table) < whole else []
    if len(table) == 0:
        raise ValueError("it has no rows")
    encoded = _encoded(table, name)
    if encoded.null_count:
        row = int(np.flatnonzero(encoded.is_null().to_numpy())[0])
        raise ValueError(
            f"row {row} of the column {name!r} holds no image (at most the name of its file); drop_missing=True "
            "(--drop-missing) leaves such rows out"
        )
    changes: Counter[str] = Counter()
    left_out = {other: _why(other, request) for other in table.column_names if other not in (name, label)}
    labels = None if label is None else plain_values(table.column(label))
    return Raw(
        len(table),
        lambda rows: _decoded(encoded, rows, f"of the column {name!r} of {origin}", request, changes),
        labels,
        None if label is None or labels is None else class_names(table, label, labels),
        (f"images of the column {name}{reasons(left_out)}", *notes),
        left_out=left_out,
        notes_on_taken=lambda: notes_on_changes(changes),
    )


def _encoded(table: Any, name: str) -> Any:
    return optional_package("pyarrow.compute", "data").struct_field(table.column(name), "bytes")


def _why(name: str, request: Request) -> str:
    return "dropped" if name in (request.drop or ()) else "beside images"


def _decoded(encoded: Any, rows: Array, where: str, request: Request, changes: Counter[str]) -> Array:
    changes.clear()
    places = [f"row {row} {where}" for row in rows]
    images = (
        _pixels(encoded[int(row)].as_py(), place, request, changes) for row, place in zip(rows, places, strict=True)
    )
    return stack_images(images, places, changes)


def _pixels(content: bytes, place: str, request: Request, changes: Counter[str]) -> Array:
    with reading(place):
        frames = [0] if request.frames == "first" else None
        return read_pixels(content, frames, request.size, changes)[0]
