"""The record of a loaded data set."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.data.standardisation import Standardisation
from proxflow.results import brief_repr

__all__ = ["Dataset"]


@brief_repr
@dataclass(frozen=True)
class Dataset:
    """Standardised points (N, *event), labels (N,) or None, and where they came from.

    ``content_hash`` is the SHA-256 of the data before standardisation. ``label_names[k]`` is the name of class k, or
    None where the labels are numbers of the data's own. ``columns`` are the names of the coordinates of a table.
    """

    points: Tensor
    labels: Tensor | None
    name: str
    standardisation: Standardisation
    content_hash: str
    label_names: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.points)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return tuple(self.points.shape[1:])

    @property
    def dim(self) -> int:
        """Number of coordinates of one point."""
        return math.prod(self.event_shape)

    @property
    def value_range(self) -> tuple[float, float]:
        """The least and the greatest number in the data, in their own units."""
        data = self.standardisation.undo(self.points)
        return float(data.min()), float(data.max())

    @property
    def class_counts(self) -> dict[str, int] | None:
        """Number of points of each class, by its name or else its number; None without labels."""
        if self.labels is None:
            return None
        if self.label_names is not None:
            counts = torch.bincount(self.labels, minlength=len(self.label_names))
            return dict(zip(self.label_names, counts.tolist(), strict=True))
        numbers, counts = torch.unique(self.labels, return_counts=True)
        return {str(number): count for number, count in zip(numbers.tolist(), counts.tolist(), strict=True)}
