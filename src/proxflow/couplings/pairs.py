"""Pairs of source and target points, what every coupling draws, and the checked rows that they are made from."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor, flat_points, point_weights, whole_number, working_dtype
from proxflow.errors import counted
from proxflow.fingerprint import source_probes
from proxflow.measures import Gaussian, Source, check_source, draw, draw_rows
from proxflow.results import brief_repr

__all__ = ["Pairs", "Rows", "check_count", "checked_labels", "joined", "rows_of"]


@brief_repr
@dataclass(frozen=True)
class Pairs:
    """n coupled pairs.

    Attributes:
        source: (n, *event) points of the source.
        target: (n, *event) points of the data.
        index: (n,) int64, the row of the data behind each target.
        label: (n,) or (n, k), the label of that row; None without labels.
    """

    source: Tensor
    target: Tensor
    index: Tensor
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(self.source)


def rows_of(pairs: Pairs, rows: slice) -> Pairs:
    """The pairs of a slice."""
    label = None if pairs.label is None else pairs.label[rows]
    return Pairs(pairs.source[rows], pairs.target[rows], pairs.index[rows], label)


def joined(parts: list[Pairs]) -> Pairs:
    """Pairs one after the other; all parts have labels, or none has."""
    if len(parts) == 1:
        return parts[0]
    labels = [part.label for part in parts if part.label is not None]
    return Pairs(
        torch.cat([part.source for part in parts]),
        torch.cat([part.target for part in parts]),
        torch.cat([part.index for part in parts]),
        torch.cat(labels) if labels else None,
    )


class Rows:
    """N data rows, flat inside and of their event shape outside, with a label for each or none.

    Args:
        name: name of the coupling, for messages.
        points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8; a tensor, a numpy
            array or a pandas object.
        labels: (N,) or (N, k), in the same forms, or None.
        weights: (N,), not negative, in the same forms; equal if None.

    Raises:
        ValueError: points are empty, of another dtype or not finite, labels are not one for each row, or weights are
            not.
    """

    def __init__(self, name: str, points: Numbers, labels: Numbers | None, weights: Numbers | None = None) -> None:
        points = as_tensor(name, "points", points)
        self.flat = flat_points(name, points, stored=True)
        self.name = name
        self.event_shape = tuple(points.shape[1:])
        labels = checked_labels(name, labels, len(points))
        self.labels = None if labels is None else labels.detach().to(points.device)
        self.weights = None if weights is None else point_weights(name, weights, self.flat)

    def __len__(self) -> int:
        return len(self.flat)

    def described(self, *more: str) -> str:
        """What a coupling of these rows prints: their number, shape and dtype, and what is added."""
        dtype = str(self.flat.dtype).removeprefix("torch.")
        parts = [f"{counted(len(self), 'row')} of {self.event_shape}", dtype, *more]
        return f"{self.name}({', '.join(parts)})"

    def tensors_with(self, source: Source, *numbers: float) -> list[Tensor | None]:
        """What a coupling of these rows depends on, for checkpoints: points, labels, source and its own numbers."""
        return [self.flat, self.labels, source_probes(source), torch.tensor(numbers, dtype=torch.float64)]

    @property
    def mass(self) -> Tensor:
        """The weight of each row, (N,) float64 of sum 1."""
        return point_weights(self.name, None, self.flat) if self.weights is None else self.weights

    @property
    def dtype(self) -> torch.dtype:
        """Of noise and targets: that of the points, and float32 where they are stored in fewer bytes."""
        return working_dtype(self.flat)

    @property
    def dim(self) -> int:
        """Number of coordinates of one row."""
        return math.prod(self.event_shape)

    def source_or_normal(self, source: Source | None) -> Source:
        """The source given, checked, or the standard normal law.

        Raises:
            ValueError: it is no source, or has another dimension.
        """
        if source is None:
            return Gaussian(self.dim)
        check_source(self.name, source, self.dim)
        return source

    def draw_noise(self, source: Source, n: int, generator: torch.Generator | None) -> Tensor:
        """n draws of the source, (n, d), on the points' device."""
        return draw(source, n, generator, self.dtype, self.flat.device)

    def draw_index(self, n: int, generator: torch.Generator | None) -> Tensor:
        """n rows, independent, each with its weight for a probability, (n,) int64."""
        if self.weights is not None:
            return draw_rows(self.weights, n, generator)
        drawn_on = self.flat.device if generator is None else generator.device
        return torch.randint(len(self), (n,), generator=generator, device=drawn_on).to(self.flat.device)

    def checked_index(self, index: Numbers) -> Tensor:
        """Rows that a caller names, (n,) int64, on the points' device.

        Raises:
            ValueError: index is not a vector of whole numbers, or names a row that is not there.
        """
        index = as_tensor(self.name, "index", index)
        if index.ndim != 1 or not (_is_whole(index) or index.numel() == 0):
            raise ValueError(
                f"{self.name}: index must be (n,) whole numbers, got {tuple(index.shape)} of {index.dtype}; "
                "torch.nonzero(mask)[:, 0] numbers the rows of a mask"
            )
        index = index.to(self.flat.device, torch.int64)  # unsigned numbers beyond it turn negative
        if len(index) and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise ValueError(f"{self.name}: index must name rows 0 to {len(self) - 1}")
        return index

    def checked_noise(self, noise: Numbers) -> Tensor:
        """Source points that a caller gives, (n, *event), as (n, d).

        Raises:
            ValueError: another shape or device than that of the points, another dtype than that of pairs, or rows that
                are not finite.
        """
        given = as_tensor("rows_for", "noise", noise).detach()
        if given.shape[1:] != self.event_shape or given.ndim != 1 + len(self.event_shape):
            raise ValueError(
                f"rows_for: noise must be (n, *event) = (n, {', '.join(map(str, self.event_shape))}), "
                f"got {tuple(given.shape)}"
            )
        if given.dtype != self.dtype or given.device != self.flat.device:
            raise ValueError(
                f"rows_for: noise is {given.dtype} on {given.device}, that of the points is {self.dtype} on "
                f"{self.flat.device}; convert it"
            )
        flat = given.reshape(len(given), self.dim)
        bad = torch.nonzero(~torch.isfinite(flat).all(1))[:, 0]
        if len(bad):
            found = counted(len(bad), "row of noise holds", "rows of noise hold")
            raise ValueError(f"rows_for: {found} NaN or inf, the first: {bad[:5].tolist()}")
        return flat

    def labels_of(self, index: Tensor) -> Tensor:
        """Labels of given rows.

        Raises:
            ValueError: there are no labels.
        """
        if self.labels is None:
            raise ValueError(f"{self.name}: the points have no labels")
        return self.labels[index.to(self.labels.device)]

    def pairs(self, source: Tensor, index: Tensor, target: Tensor | None = None) -> Pairs:
        """Source points (n, d) with the rows of ``index``, or given images of these (n, d), as their targets."""
        shape = (len(index), *self.event_shape)
        target = self.targets(index) if target is None else target
        label = None if self.labels is None else self.labels[index]
        return Pairs(source.reshape(shape), target.reshape(shape), index, label)

    def targets(self, index: Tensor) -> Tensor:
        """Rows by number, (n, d), in the dtype of pairs."""
        return self.flat.index_select(0, index).to(self.dtype)


def check_count(name: str, n: int) -> None:
    """Refuse a number of pairs below one."""
    if (whole_number(n) or 0) < 1:
        raise ValueError(f"{name}.sample: n must be at least 1, got {n}")


def checked_labels(name: str, labels: Numbers | None, count: int) -> Tensor | None:
    """Labels as a tensor with one entry for each of ``count`` rows, or None.

    Raises:
        ValueError: names in place of numbers, or not one for each row.
    """
    if labels is None:
        return None
    try:
        given = as_tensor(name, "labels", labels)
    except ValueError as error:
        raise ValueError(f"{error}; numpy.unique(labels, return_inverse=True) numbers names") from None
    if given.ndim == 0 or len(given) != count:
        raise ValueError(
            f"{name}: labels must be numbers, one for each of the {count} points, got {tuple(given.shape)}"
        )
    return given


def _is_whole(numbers: Tensor) -> bool:
    return not (numbers.is_floating_point() or numbers.is_complex() or numbers.dtype == torch.bool)
