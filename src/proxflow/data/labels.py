"""Labels of any kind as whole numbers, with the names of the classes."""

from __future__ import annotations

from numbers import Real

import numpy as np
import torch
from torch import Tensor

from proxflow.data.reading import Array

__all__ = ["numbered"]


def numbered(labels: Array, count: int, origin: str) -> tuple[Tensor, tuple[str, ...] | None]:
    """Labels (count,) as int64, and for text, which is numbered in alphabetical order, the names of the classes.

    Raises:
        ValueError: another shape, a missing label, or labels that are neither whole numbers nor text.
    """
    if labels.shape != (count,):
        raise ValueError(f"{origin}: {count} points need as many labels, got an array of shape {labels.shape}")
    if labels.dtype.kind == "O" and all(isinstance(label, Real) for label in labels):
        labels = np.array(labels.tolist())
    if labels.dtype.kind in "UO":
        return _numbered_text(labels, origin)
    if labels.dtype.kind not in "fiub":
        raise ValueError(f"{origin}: labels must be whole numbers or text, got {labels.dtype}")
    numbers = labels.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.rint(numbers))))
    if len(bad):
        raise ValueError(f"{origin}: labels must be whole numbers or text; row {bad[0]} holds {numbers[bad[0]]}")
    return torch.from_numpy(labels.astype(np.int64)), None


def _numbered_text(labels: Array, origin: str) -> tuple[Tensor, tuple[str, ...]]:
    for row, label in enumerate(labels):
        if not isinstance(label, str):
            raise ValueError(f"{origin}: labels must be whole numbers or text; row {row} holds {label!r}")
        if not label.strip():
            raise ValueError(f"{origin}: row {row} has an empty label; every point needs one")
    names, numbers = np.unique(labels.astype(str), return_inverse=True)
    return torch.from_numpy(numbers.astype(np.int64)), tuple(names.tolist())
