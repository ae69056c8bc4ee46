"""From what a reader gave to a data set: complete and finite rows, a subset of them, standardised, and their labels."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from proxflow.data.dataset import Dataset
from proxflow.data.labels import missing, numbered
from proxflow.data.reading import Array, Raw, Request, listed
from proxflow.data.standardisation import Kind, Standardisation, deviation_ratio, in_float64, standardisation_of
from proxflow.errors import DataWarning, counted
from proxflow.kernels.equal_rows import first_equal_rows

__all__ = ["assembled"]

_AT_ONCE = 4096  # rows that are looked through for missing values
_UNLIKE = 10.0  # ratio of the columns' standard deviations from which one scale hides some of them


def assembled(raw: Raw, request: Request, name: str, origin: str, kind: Kind | None, dtype: torch.dtype) -> Dataset:
    """The data set of what a reader gave."""
    if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(
            f"{origin}: dtype must be one of floating point, torch.float32 or torch.float64, got {dtype!r}"
        )
    if request.drop_missing:
        raw = _complete(raw, origin)
    rows = request.rows(raw.count, origin)
    taken = raw.take(rows)
    points = _in_own_dtype(taken, origin)
    _check_finite(points, rows, origin, raw.columns)
    kind = kind or raw.standardise
    precision = np.finfo(taken.dtype).eps if taken.dtype.kind == "f" else 0.0
    standardisation = standardisation_of(points, kind, float(precision))
    final = _standardised(points, standardisation, dtype, origin)
    labels, label_names = _labels(raw, rows, origin)
    for doubt in (*raw.doubts, *_unlike(points, raw, kind)):
        warnings.warn(f"{name}: {doubt}", DataWarning, stacklevel=3)
    return Dataset(
        final,
        labels,
        name,
        standardisation,
        _content_hash(points),
        label_names,
        (*raw.notes, *raw.notes_on_taken()),
        columns=raw.columns,
        left_out=raw.left_out,
        rows=points,
    )


def _in_own_dtype(taken: Array, origin: str) -> Tensor:
    """The rows as they were read, where torch can index their dtype; else in float64, which holds them."""
    if taken.dtype.kind not in "fiub":
        raise ValueError(f"{origin}: expected numbers, got an array of {taken.dtype}")
    plain = taken.dtype.str[1:] in {"f2", "f4", "i1", "i2", "i4", "i8", "u1", "b1"} and taken.dtype.isnative
    return torch.from_numpy(np.ascontiguousarray(taken, dtype=None if plain else np.float64))


def _standardised(points: Tensor, standardisation: Standardisation, dtype: torch.dtype, origin: str) -> Tensor:
    """The points in the dtype asked for; equal ones stay equal."""
    final, finite, first = torch.empty(points.shape, dtype=dtype), True, 0
    for part in in_float64(points):
        block = final[first : first + len(part)].copy_(standardisation.apply(part))
        finite, first = finite and bool(torch.isfinite(block).all()), first + len(part)
    if not finite:
        largest = max(float(part.abs().max()) for part in in_float64(points))
        raise ValueError(f"{origin}: the values are too large for {dtype} (up to {largest:.3g}); rescale them")
    if standardisation.directions is None:
        return final
    kept, of_row = first_equal_rows(points.flatten(1))  # the rounding of a product depends on a row's place
    return final[kept[of_row]]


def _complete(raw: Raw, origin: str) -> Raw:
    """Without the points in which a coordinate or the label is missing."""
    if raw.labels is not None and raw.labels.shape != (raw.count,):
        return raw  # which is an error of its own
    parts = np.array_split(np.arange(raw.count), math.ceil(raw.count / _AT_ONCE))
    finite = [np.isfinite(raw.take(part).reshape(len(part), -1).astype(np.float64)) for part in parts]
    known = np.concatenate([part.all(1) for part in finite])
    if raw.labels is not None:
        known &= ~missing(raw.labels)
    kept = np.flatnonzero(known)
    if len(kept) == 0:
        share = 1 - sum(part.sum(0) for part in finite) / raw.count
        worst = int(share.argmax())
        named = worst if raw.columns is None else repr(raw.columns[worst])
        raise ValueError(
            f"{origin}: no row is complete; most is missing in column {named} ({share[worst]:.0%}): leave it out with "
            "drop= (--drop)"
        )
    without = raw.count - len(kept)
    words = [] if raw.labels is None else _words_for_missing(raw.labels)
    return replace(
        raw,
        count=len(kept),
        take=lambda rows: raw.take(kept[rows]),
        labels=None if raw.labels is None else raw.labels[kept],
        notes=(*raw.notes, *words, f"{counted(without, 'row')} of {raw.count:,} left out, with missing values"),
    )


def _words_for_missing(labels: Array) -> list[str]:
    """A note on labels of text that were taken for missing, since a class may have such a name."""
    words = sorted({label for label in labels[missing(labels)].tolist() if isinstance(label, str) and label.strip()})
    return [f"labels {listed([*map(repr, words)])} were taken for missing"] if words else []


def _unlike(points: Tensor, raw: Raw, kind: Kind) -> list[str]:
    """A warning where one scale serves columns of unlike deviations; those of genes and components are so by nature."""
    if kind != "global" or points.ndim != 2 or not raw.own_units:
        return []
    ratio, widest, narrowest = deviation_ratio(points)
    if ratio <= _UNLIKE:
        return []
    names = raw.columns or range(points.shape[1])
    return [
        f"one scale for all columns, but {names[widest]} varies {ratio:,.0f} times as much as {names[narrowest]}, "
        "which will hardly count; standardise='columns' (--standardise columns) gives each its own"
    ]


def _check_finite(points: Tensor, rows: Array, origin: str, columns: tuple[str, ...] | None) -> None:
    finite = torch.cat([torch.isfinite(part.flatten(1)).all(1) for part in in_float64(points)])
    bad = torch.nonzero(~finite)[:, 0].tolist()
    if not bad:
        return
    found = f"{counted(len(bad), 'row holds', 'rows hold')} NaN or inf, the first: "
    found += f"{rows[bad[:5]].tolist()}"
    if columns is None:
        raise ValueError(f"{origin}: {found}; drop or fill them")
    worst = points[bad[0]].double().flatten()
    place = int((~torch.isfinite(worst)).nonzero()[0])
    value = float(worst[place])
    raise ValueError(
        f"{origin}: {found} ({'no value' if math.isnan(value) else value} in the column {columns[place]!r}); "
        "drop_missing=True (--drop-missing) leaves such rows out"
    )


def _labels(raw: Raw, rows: Array, origin: str) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels of the chosen rows; numbered before they are chosen, so that a class keeps its number."""
    if raw.labels is None:
        return None, None
    numbers, names = numbered(raw.labels, raw.count, origin)
    return numbers[torch.from_numpy(rows)], raw.label_names or names


def _content_hash(points: Tensor) -> str:
    content = hashlib.sha256(repr(tuple(points.shape)).encode())
    for part in in_float64(points):
        content.update(part.numpy().data)
    return content.hexdigest()
