"""What a page says about single points, in the data's own units."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from proxflow.data import Dataset
from proxflow.report.figures import is_image

__all__ = ["column_names", "four_digits", "is_table", "values_in_words"]

_MOST_VALUES = 8  # of one point


def is_table(dataset: Dataset) -> bool:
    """Whether its points are rows of columns."""
    return len(dataset.event_shape) == 1


def column_names(dataset: Dataset) -> tuple[str, ...]:
    """Names of the coordinates of a table."""
    return dataset.columns or tuple(f"coordinate {k + 1}" for k in range(dataset.dim))


def values_in_words(dataset: Dataset, points: Tensor) -> list[str]:
    """The coordinates of standardised points (n, *event), in the data's own units; of images nothing."""
    if is_image(dataset.event_shape):
        return [""] * len(points)
    names = column_names(dataset) if is_table(dataset) else tuple(f"entry {k}" for k in range(dataset.dim))
    own = dataset.standardisation.undo(points).flatten(1)[:, :_MOST_VALUES].tolist()
    more = f", and {dataset.dim - _MOST_VALUES} more" if dataset.dim > _MOST_VALUES else ""
    return [_listed(names, values) + more for values in own]


def four_digits(value: float) -> str:
    """A number to four digits, without powers of ten where these are not needed."""
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}"


def _listed(names: Sequence[str], values: list[float]) -> str:
    return ", ".join(f"{name} {four_digits(value)}" for name, value in zip(names, values, strict=False))
