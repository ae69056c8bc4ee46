"""What a reader gives: points that can be taken row by row, and labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Array", "Raw"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Raw:
    """``count`` points, of which ``take(rows)`` gives some as (len(rows), *event), and a label for each or None.

    Points are taken and not given, so that a subset of a large set is all that is decoded or made dense.
    ``label_names`` name the labels 0, 1, ...; labels of text name themselves.
    """

    count: int
    take: Callable[[Array], Array]
    labels: Array | None = None
    label_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, points: Array, labels: Array | None = None) -> Raw:
        """All points (N, *event) in memory.

        Raises:
            ValueError: no array of points.
        """
        if points.ndim < 2 or points.size == 0:
            raise ValueError(f"expected a non-empty array (N, *event), got shape {points.shape}")
        return cls(len(points), lambda rows: points[rows], labels)
