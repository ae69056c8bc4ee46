"""Single numbers as users give them: Python's, numpy's, or tensors and arrays without axes."""

from __future__ import annotations

import operator
from numbers import Real

import numpy as np
import torch
from torch import Tensor

__all__ = ["real_number", "whole_number"]


def whole_number(value: object) -> int | None:
    """An integer of any such type as Python's, exactly; None for all else, truth values and whole floats included."""
    if _is_truth(value):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def real_number(value: object) -> float:
    """A real number of any such type as Python's; NaN for all else, truth values and text included.

    So that a comparison of it refuses what is no number: ``0 < real_number(tol) < math.inf``.
    """
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if _is_truth(value) or not isinstance(value, Real):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("nan")


def _is_truth(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.bool
    return isinstance(value, bool | np.bool_)
