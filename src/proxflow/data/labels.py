"""Labels of any kind as numbers, with the names of the classes."""

from __future__ import annotations

from datetime import date, time, timedelta
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from proxflow.data.reading import Array

__all__ = ["as_text", "flat", "missing", "numbered", "says_missing"]

# also what arrow takes for missing in text files, such as the errors of Excel
_MISSING = {"", "nan", "na", "n/a", "<na>", "nat", "null", "?", "#n/a", "#na", "#n/a n/a"}
_MISSING |= {"-nan", "1.#ind", "-1.#ind", "1.#qnan", "-1.#qnan"}
_TOO_LARGE = 2.0**63  # for int64
_OF_TIMES = (
    "; make text of dates and times, such as with astype(str) for classes, or numbers, such as days since the first "
    "one for conditions"
)
_DROPPED = "every point needs a label: drop_missing=True (--drop-missing) leaves such rows of a table out"


def as_text(labels: Array) -> Array:
    """Labels as they are, those of bytes (in UTF-8) or of numpy's StringDType as text.

    Raises:
        ValueError: bytes that are no text.
    """
    try:
        if labels.dtype.kind == "S":
            return np.char.decode(labels, "utf-8")
        if labels.dtype.kind == "O" and any(isinstance(label, bytes) for label in labels.flat):
            return np.asarray(np.vectorize(_decoded, otypes=[object])(labels))
    except UnicodeDecodeError as error:
        raise ValueError(f"labels of bytes must be text in UTF-8 ({error}); decode them") from error
    return labels.astype(object) if labels.dtype.kind == "T" else labels


def _decoded(label: object) -> object:
    return label.decode() if isinstance(label, bytes) else label


def flat(labels: Array) -> Array:
    """(N, 1) as (N,), and the places of the ones of rows with a single 1 among zeros."""
    labels = as_text(labels)
    if labels.ndim != 2 or labels.dtype.kind not in "fiubU":
        return labels
    if labels.shape[1] == 1:
        return labels[:, 0]
    if labels.dtype.kind == "U" or not (((labels == 0) | (labels == 1)).all() and (labels.sum(1) == 1).all()):
        return labels
    return np.asarray(labels.argmax(1))


def missing(labels: Array) -> Array:
    """Which labels are missing, (N,): none at all, NaN, blank text or such as says so."""
    if labels.dtype.kind in "UO":
        return np.array([label is None or says_missing(label) for label in labels], dtype=bool)
    return ~np.isfinite(labels) if labels.dtype.kind == "f" else np.zeros(len(labels), dtype=bool)


def says_missing(label: object) -> bool:
    """Whether a cell is blank, or says that its value is missing."""
    return str(label).strip().lower() in _MISSING


def numbered(labels: Array, count: int, origin: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels (count,) as numbers, and for text, which is numbered in alphabetical order, the names of the classes.

    Numbers are int64 if all of them are whole, else float64, such as times or doses.

    Raises:
        ValueError: another shape, a missing label, or labels that are neither numbers nor text.
    """
    if labels.shape != (count,):
        raise ValueError(f"{origin}: {count} points need as many labels, got an array of shape {labels.shape}")
    if labels.dtype.kind == "O" and all(isinstance(label, Real) for label in labels):
        labels = np.array(labels.tolist())
    if labels.dtype.kind in "UO":
        return _numbered_text(labels, origin)
    if labels.dtype.kind not in "fiub":
        advice = _OF_TIMES if labels.dtype.kind in "mM" else ""
        raise ValueError(f"{origin}: labels must be numbers or text, got {labels.dtype}{advice}")
    numbers = labels.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        raise ValueError(f"{origin}: labels must be numbers or text; row {bad[0]} holds {numbers[bad[0]]}; {_DROPPED}")
    large = np.flatnonzero(np.abs(numbers) >= _TOO_LARGE)
    if len(large):
        raise ValueError(
            f"{origin}: row {large[0]} has the label {labels[large[0]]}, and labels must be below 2^63; save them as "
            "text, or as numbers of classes"
        )
    whole = bool((numbers == np.rint(numbers)).all())
    return torch.from_numpy(labels.astype(np.int64) if whole else numbers), None


def _numbered_text(labels: Array, origin: str) -> tuple[Tensor, tuple[str, ...]]:
    without = np.flatnonzero(missing(labels))
    if len(without):
        raise ValueError(f"{origin}: {_said_missing(int(without[0]), labels[without[0]])}")
    for row, label in enumerate(labels):
        if not isinstance(label, str):
            advice = _OF_TIMES if isinstance(label, date | time | timedelta) else ""
            raise ValueError(f"{origin}: labels must be numbers or text; row {row} holds {label!r}{advice}")
    names, numbers = np.unique(labels.astype(str), return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), tuple(names.tolist())


def _said_missing(row: int, label: object) -> str:
    if not isinstance(label, str):
        return f"labels must be numbers or text; row {row} holds {label!r}; {_DROPPED}"
    if not label.strip():
        return f"row {row} has an empty label; {_DROPPED}"
    named = "a class of this name needs another one"
    return f"row {row} has the label {label!r}, which is read as missing; {_DROPPED}; {named}"
