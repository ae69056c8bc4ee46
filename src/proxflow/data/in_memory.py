"""Data sets of arrays, tensors and data frames in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxflow.checks import as_tensor
from proxflow.data.assembly import assembled
from proxflow.data.columns import columns_given
from proxflow.data.dataset import Dataset
from proxflow.data.labels import flat
from proxflow.data.reading import Array, Raw, Request, array_of_tensor
from proxflow.data.standardisation import Kind, checked_kind
from proxflow.data.tables import read_frame

__all__ = ["from_array", "from_frame"]


def from_array(
    x: Any,
    labels: Any = None,
    standardise: Kind = "global",
    *,
    n: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    name: str = "array",
) -> Dataset:
    """A data set of an array or tensor in memory, as ``load`` makes it of a file.

    Args:
        x: (N, *event), numpy array, torch tensor or what numpy can make one of; images with channels first.
        labels: (N,), numbers or text; (N, 1), or rows with a single 1; or None.
        standardise: as for ``load``; one scale, which keeps distances, unless told otherwise.
        n: how many points, drawn without replacement as ``load`` draws them; all if None.
        seed: seed of the subset.
        dtype: dtype of the points.
        name: what commands and pages call it.

    Raises:
        ValueError: no numbers, another shape, rows that are not finite, or bad labels.
    """
    kind = checked_kind("data.from_array", standardise) or "global"
    points = array_of_tensor(
        "data.from_array", "x", x if isinstance(x, Tensor) else as_tensor("data.from_array", "x", x)
    )
    try:
        raw = Raw.of(points, None if labels is None else _labels(labels))
    except ValueError as error:
        raise ValueError(f"data.from_array: {error}") from error
    return assembled(raw, Request(n, seed), name, "data.from_array", kind, dtype)


def from_frame(
    frame: Any,
    label: str | None = None,
    columns: str | Sequence[str] | None = None,
    *,
    drop: str | Sequence[str] | None = None,
    drop_missing: bool = False,
    standardise: Kind = "columns",
    n: int | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    name: str = "frame",
) -> Dataset:
    """A data set of a data frame in memory (pandas, polars, arrow), as ``load`` makes it of a table in a file.

    The index of a pandas frame is no column.

    Args:
        frame: the table.
        label: the column of labels; if None, the one called "label" if there is one.
        columns: the columns that are coordinates; if None, all of numbers, as ``load`` chooses them.
        drop: columns to leave out.
        drop_missing: leave out rows in which a coordinate or the label is missing or infinite.
        standardise: as for ``load``.
        n: how many points, drawn without replacement as ``load`` draws them; all if None.
        seed: seed of the subset.
        dtype: dtype of the points.
        name: what commands and pages call it.

    Raises:
        ValueError: no data frame, no such column, or data that ``load`` would refuse.
    """
    kind = checked_kind("data.from_frame", standardise) or "columns"
    request = Request(
        n, seed, label, columns=columns_given(columns), drop=columns_given(drop), drop_missing=drop_missing
    )
    try:
        raw = read_frame(frame, request)
    except ValueError as error:
        raise ValueError(f"data.from_frame: {error}") from error
    return assembled(raw, request, name, "data.from_frame", kind, dtype)


def _labels(labels: Any) -> Array:
    """Labels as an array; masked ones are none."""
    if isinstance(labels, Tensor):
        return flat(array_of_tensor("data.from_array", "labels", labels))
    if isinstance(labels, np.ma.MaskedArray):
        known = np.ma.getdata(labels).astype(object)
        known[np.ma.getmaskarray(labels)] = None
        return known
    return flat(np.asarray(labels))
