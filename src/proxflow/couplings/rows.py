"""The data of a coupling: checked rows with their labels, from which pairs are made."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from proxflow.couplings.pairs import Pairs
from proxflow.fingerprint import source_mark
from proxflow.measures import Gaussian, Source
from proxflow.points import Numbers, as_tensor, flat_points
from proxflow.scalars import whole_number

__all__ = ["Rows", "check_count", "check_labels"]


class Rows:
    """N data rows, flat inside and of their event shape outside, with a label for each or none.

    Args:
        name: of the coupling, for messages.
        points: (N, *event), finite, float32 or float64.
        labels: (N,) or (N, k), or None.

    Raises:
        ValueError: points are empty, of another dtype or not finite, or labels are not one for each row.
    """

    def __init__(self, name: str, points: Numbers, labels: Tensor | None) -> None:
        points = as_tensor(name, "points", points)
        self.flat = flat_points(name, points)
        check_labels(name, labels, len(points))
        self.name = name
        self.event_shape = tuple(points.shape[1:])
        self.labels = None if labels is None else labels.detach().to(points.device)

    def __len__(self) -> int:
        return len(self.flat)

    def tensors_with(self, source: Source, *numbers: float) -> list[Tensor | None]:
        """What a coupling of these rows depends on, for checkpoints: points, labels, source and its own numbers."""
        return [self.flat, self.labels, source_mark(source), torch.tensor(numbers, dtype=torch.float64)]

    @property
    def dim(self) -> int:
        """Number of coordinates of one row."""
        return math.prod(self.event_shape)

    def source_or_normal(self, source: Source | None) -> Source:
        """The source given, checked, or the standard normal law.

        Raises:
            ValueError: the source has another dimension.
        """
        if source is None:
            return Gaussian(self.dim)
        if source.dim != self.dim:
            raise ValueError(f"{self.name}: the source has dimension {source.dim}, the points {self.dim}")
        return source

    def draw_noise(self, source: Source, n: int, generator: torch.Generator | None) -> Tensor:
        """n draws of the source, (n, d), of the points' dtype and device."""
        return source.sample(n, generator=generator, dtype=self.flat.dtype, device=self.flat.device)

    def draw_index(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n rows, independent and equally likely, (n,) int64."""
        drawn_on = self.flat.device if generator is None else generator.device
        return torch.randint(len(self), (n,), generator=generator, device=drawn_on).to(self.flat.device)

    def checked_index(self, index: Tensor) -> Tensor:
        """Rows that a caller names, (n,) int64, on the points' device.

        Raises:
            ValueError: index is not a vector of whole numbers, or names a row that is not there.
        """
        if not isinstance(index, Tensor) or index.ndim != 1 or not _is_whole(index):
            got = f"{tuple(index.shape)} of {index.dtype}" if isinstance(index, Tensor) else type(index).__name__
            raise ValueError(f"noise_for: index must be an (n,) tensor of whole numbers, got {got}")
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(f"noise_for: index must name rows 0 to {len(self) - 1}")
        return index.to(self.flat.device, torch.int64)

    def labels_of(self, index: Tensor) -> Tensor:
        """Labels of given rows.

        Raises:
            ValueError: there are no labels.
        """
        if self.labels is None:
            raise ValueError(f"{self.name}: the points have no labels")
        return self.labels[index.to(self.labels.device)]

    def pairs(self, source: Tensor, index: Tensor) -> Pairs:
        """Source points (n, d) with the rows of ``index`` as their targets."""
        shape = (len(index), *self.event_shape)
        label = None if self.labels is None else self.labels[index]
        return Pairs(source.reshape(shape), self.flat.index_select(0, index).reshape(shape), index, label)


def check_count(name: str, n: int) -> None:
    """Refuse a number of pairs below one."""
    if (whole_number(n) or 0) < 1:
        raise ValueError(f"{name}.sample: n must be at least 1, got {n}")


def check_labels(name: str, labels: Tensor | None, count: int) -> None:
    """Refuse labels that are not one for each row."""
    if labels is not None and (not isinstance(labels, Tensor) or labels.ndim == 0 or len(labels) != count):
        got = tuple(labels.shape) if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(
            f"{name}: labels must be a tensor with one entry for each of the {count} points, got {got}; "
            "numpy.unique(labels, return_inverse=True) numbers names"
        )


def _is_whole(numbers: Tensor) -> bool:
    return not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)
