"""The classes of a data set as a page shows them: names, colours, and which point belongs to which."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.report.canvas import ACCENT, class_colours

__all__ = ["Classes", "classes_of", "one_class"]

_MOST_IN_LEGEND = 20


@dataclass(frozen=True)
class Classes:
    """K classes.

    Attributes:
        numbers: (K,) their labels, increasing.
        names: as the data call them.
        colours: as CSS does.
    """

    numbers: Tensor
    names: tuple[str, ...]
    colours: tuple[str, ...]

    def places(self, labels: Tensor) -> Tensor:
        """Which class, from 0 to K - 1, each of some labels is."""
        return torch.searchsorted(self.numbers, labels.cpu().contiguous())

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """Colours and names; none where they are too many to be told apart."""
        if len(self.names) > _MOST_IN_LEGEND:
            return ()
        return tuple(zip(self.colours, self.names, strict=True))


def classes_of(dataset: Dataset) -> Classes | None:
    """The classes that occur; None without labels, or where these are numbers with fractions."""
    if dataset.labels is None or dataset.labels.is_floating_point():
        return None
    numbers = torch.unique(dataset.labels.cpu())
    given = dataset.label_names
    names = tuple(str(number) if given is None else given[number] for number in numbers.tolist())
    return Classes(numbers, names, tuple(class_colours(len(names))))


def one_class(name: str) -> Classes:
    """All points in one, for data without classes."""
    return Classes(torch.zeros(1, dtype=torch.int64), (name,), (ACCENT,))
