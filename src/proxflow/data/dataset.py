"""The record of a loaded data set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from proxflow.data.standardisation import Standardisation
from proxflow.results import brief_repr

__all__ = ["Dataset", "in_units"]


@brief_repr
@dataclass(frozen=True)
class Dataset:
    """Standardised points (N, *event), labels (N,) or None, and where they came from.

    ``content_hash`` is the SHA-256 of the data before standardisation. ``label_names[k]`` is the name of class k, or
    None where the labels are numbers of the data's own: int64, or float64 where some are not whole. ``notes`` are lines
    on what was taken, changed or left out when the data were read. ``columns`` are the names of the coordinates of a
    table, and ``left_out`` says of its other columns why they are none. ``rows`` (N, *event) are the data as they were
    read, in their own units and dtype.
    """

    points: Tensor
    labels: Tensor | None
    name: str
    standardisation: Standardisation
    content_hash: str
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    rows: Tensor | None = None

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
        data = self.standardisation.undo(self.points) if self.rows is None else self.rows
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
        named = (str(number).removesuffix(".0") for number in numbers.tolist())
        return dict(zip(named, counts.tolist(), strict=True))

    @property
    def class_numbers(self) -> dict[str, int] | None:
        """The label of each class by its name, as in ``class_counts``; None without labels or if some are not whole."""
        if self.labels is None or self.labels.is_floating_point():
            return None
        if self.label_names is not None:
            return {name: number for number, name in enumerate(self.label_names)}
        return {str(number): number for number in torch.unique(self.labels).tolist()}

    def undo(self, x: Tensor) -> Tensor:
        """Samples (B, *event) in the units of the data.

        One that is a point of the data, as the end of every trajectory of an exact flow is, becomes its row as it was
        read, bit for bit; any other one is ``standardisation.undo`` of it. The dtype is that of the data where all
        samples are points of them, else float64.
        """
        return (
            self.standardisation.undo(x)
            if self.rows is None
            else in_units(x, self.points, self.rows, self.standardisation)
        )


def in_units(x: Tensor, points: Tensor, rows: Tensor, standardisation: Standardisation) -> Tensor:
    """Samples (B, *event) in the units of the data: of those that are one of the points, its row; else undone.

    Args:
        x: samples.
        points: (N, *event), the standardised data.
        rows: (N, *event), the data as they were read.
        standardisation: between the two.

    Returns:
        (B, *event), of the rows' dtype if all samples are points, else float64.
    """
    place = {row: number for number, row in reversed(list(enumerate(_in_bytes(points))))}  # the first of equal ones
    found = torch.tensor([place.get(row, -1) for row in _in_bytes(x.to(points.dtype))], dtype=torch.int64)
    exact = rows[found.clamp(min=0)]
    if bool((found >= 0).all()):
        return exact
    known = (found >= 0).reshape(-1, *[1] * (x.ndim - 1))
    return torch.where(known, exact.double(), standardisation.undo(x).cpu())


def _in_bytes(x: Tensor) -> list[bytes]:
    """The numbers of each row; 0 and -0 are equal."""
    return [row.tobytes() for row in (x.detach().cpu().flatten(1) + 0.0).numpy()]
