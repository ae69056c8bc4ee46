"""Finite groups of orthogonal maps that leave the law of the data, and of the noise, as it is.

A data set that may as well be mirrored, shifted on a torus or turned has the images of each row for free: its optimal
heights are constant on orbits, max_j max_g <u, g y_j> - h_j = max_g max_j <g^-1 u, y_j> - h_j, so that a search moves
the noise and keeps one row of each orbit (docs/theory.md 9). Maps that permute coordinates, with or without signs, are
kept as permutations and round nothing.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor, in_fractions, whole_number
from proxflow.storage import storable
from proxflow.torch_support import in_full_precision

__all__ = ["Group", "HorizontalFlip", "Shifts", "Symmetry"]

_ROUNDINGS = 64.0  # of d products: by how much a matrix may miss being orthogonal, or the product of two others


class Symmetry(ABC):
    """A finite group G of orthogonal maps of R^d; element 0 is the identity."""

    @property
    @abstractmethod
    def dim(self) -> int:
        """Dimension d of the space."""

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of an event that it acts on; (d,) where any will do."""
        return (self.dim,)

    @property
    @abstractmethod
    def rounding(self) -> float:
        """Relative error of an image; 0 where coordinates are only moved and change signs."""

    @property
    @abstractmethod
    def tensors(self) -> list[Tensor]:
        """The group in numbers, for fingerprints."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def inverse(self, element: int) -> int:
        """The number of the inverse of an element."""

    @abstractmethod
    def apply(self, rows: Tensor, element: int | Tensor) -> Tensor:
        """The images (B, d) of rows (B, d) under one element, or under one for each row, (B,) int64."""

    def invariant_part(self, rows: Tensor) -> Tensor:
        """The mean of all images of rows (B, d): their projection on the vectors that G leaves in place, (B, d)."""
        total = rows = in_fractions(rows)
        for element in range(1, len(self)):
            total = total + self.apply(rows, element)
        return total / len(self)

    def __eq__(self, other: object) -> bool:
        """Whether the other is the same group, given in the same way."""
        if type(self) is not type(other) or not isinstance(other, Symmetry):
            return False
        return all(torch.equal(mine, its) for mine, its in zip(self.tensors, other.tensors, strict=True))

    def __hash__(self) -> int:
        return hash((type(self), len(self), self.dim))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} elements in dimension {self.dim})"


class _Permuting(Symmetry):
    """(g x)_i = sign_i x_(place_i): ``places`` (G, d) int64 and ``signs`` (G, d), None where all are 1."""

    def __init__(self, places: Tensor, signs: Tensor | None) -> None:
        self._places, self._signs = places, signs
        self._numbers: dict[bytes, int] = {}

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self._places.shape[1]

    @property
    def rounding(self) -> float:
        """0: coordinates are moved."""
        return 0.0

    @property
    def tensors(self) -> list[Tensor]:
        """Places and signs."""
        return [self._places] if self._signs is None else [self._places, self._signs]

    def __len__(self) -> int:
        return len(self._places)

    def inverse(self, element: int) -> int:
        """The number of the inverse of an element."""
        place = self._places[element].argsort()
        sign = None if self._signs is None else self._signs[element][place]
        return self._number(place, sign)

    def apply(self, rows: Tensor, element: int | Tensor) -> Tensor:
        """The images (B, d) of rows (B, d) under one element, or under one for each row, (B,) int64."""
        rows = rows if self._signs is None else in_fractions(rows)
        if isinstance(element, int):
            moved = rows if element == 0 else rows[:, self._places[element].to(rows.device)]
        else:
            moved = rows.gather(1, self._places.to(rows.device)[element])
        return moved if self._signs is None else moved * self._signs.to(rows)[element]

    def _number(self, place: Tensor, sign: Tensor | None) -> int:
        if not self._numbers:
            signs = itertools.repeat(None) if self._signs is None else self._signs
            for number, (known, its_sign) in enumerate(zip(self._places, signs, strict=False)):
                self._numbers[_key(known, its_sign)] = number
        return self._numbers[_key(place, sign)]


def _key(place: Tensor, sign: Tensor | None) -> bytes:
    bits: bytes = place.numpy().tobytes()
    return bits if sign is None else bits + sign.to(torch.int8).numpy().tobytes()


@storable
class HorizontalFlip(_Permuting):
    """Images and their mirror images: the last axis is reversed.

    Args:
        event_shape: shape of one image, (H, W) or (C, H, W).

    Raises:
        ValueError: ``event_shape`` is no such shape, or images are one pixel wide and thus their own mirror images.
    """

    def __init__(self, event_shape: Sequence[int]) -> None:
        self._shape = _checked_shape("HorizontalFlip", event_shape)
        if len(self._shape) < 2 or self._shape[-1] < 2:
            raise ValueError(
                f"HorizontalFlip: event_shape must be (H, W) or (C, H, W) with a width of at least 2, got {self._shape}"
            )
        still = torch.arange(math.prod(self._shape))
        super().__init__(torch.stack([still, still.reshape(self._shape).flip(-1).flatten()]), None)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one image."""
        return self._shape

    def constructor_arguments(self) -> dict[str, object]:
        """The shape of one image."""
        return {"event_shape": self._shape}


@storable
class Shifts(_Permuting):
    """All circular shifts along given axes: fields on a torus, periodic signals.

    Args:
        event_shape: shape of one event.
        axes: the axes of the event to shift along, the last one by default. The group has as many elements as the
            product of their lengths, and a search costs as much as one over that many copies of the data.

    Raises:
        ValueError: ``event_shape`` is no shape, or ``axes`` are not distinct axes of it.
    """

    def __init__(self, event_shape: Sequence[int], axes: Sequence[int] = (-1,)) -> None:
        self._shape = _checked_shape("Shifts", event_shape)
        count = len(self._shape)
        numbers = [number for axis in axes if (number := whole_number(axis)) is not None and -count <= number < count]
        self._axes = tuple(number % count for number in numbers)
        if not axes or len(numbers) < len(axes) or len(set(self._axes)) < len(axes):
            raise ValueError(
                f"Shifts: axes must be distinct axes of an event of shape {self._shape}, got {tuple(axes)!r}"
            )
        still = torch.arange(math.prod(self._shape)).reshape(self._shape)
        steps = itertools.product(*(range(self._shape[axis]) for axis in self._axes))
        super().__init__(torch.stack([still.roll(step, self._axes).flatten() for step in steps]), None)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """The shape of one event."""
        return self._shape

    def constructor_arguments(self) -> dict[str, object]:
        """The shape of an event and the axes."""
        return {"event_shape": self._shape, "axes": self._axes}


def _checked_shape(owner: str, shape: Sequence[int]) -> tuple[int, ...]:
    entries = list(shape) if isinstance(shape, Sequence) else []
    sizes = tuple(size for entry in entries if (size := whole_number(entry)) is not None and size > 0)
    if not sizes or len(sizes) < len(entries):
        raise ValueError(f"{owner}: event_shape must be a tuple of positive integers, got {shape!r}")
    return sizes


@storable
class Group(Symmetry):
    """A group given by its matrices, in any order; the identity becomes element 0.

    Matrices whose entries are 0, 1 and -1 only permute coordinates and change signs: their images are exact.

    Args:
        matrices: (G, d, d), every element of the group once; float32 or float64, a tensor or a numpy array.

    Raises:
        ValueError: the shape or dtype is wrong, a matrix is not orthogonal, two are equal, the identity is missing, or
            an inverse or a product is; the message names the first such element.
    """

    def __init__(self, matrices: Numbers) -> None:
        given = _checked_matrices(as_tensor("Group", "matrices", matrices).detach().cpu())
        self.matrices = given
        self._inverses = _places(given.mT, given, _tolerance(given))
        self._moves = _as_permutations(given)
        self._converted: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self.matrices.shape[1]

    @property
    def rounding(self) -> float:
        """The rounding of the matrices; 0 where they permute coordinates and change signs."""
        return 0.0 if self._moves is not None else torch.finfo(self.matrices.dtype).eps

    @property
    def tensors(self) -> list[Tensor]:
        """The matrices."""
        return [self.matrices]

    def constructor_arguments(self) -> dict[str, object]:
        """The matrices."""
        return {"matrices": self.matrices}

    def __len__(self) -> int:
        return len(self.matrices)

    def inverse(self, element: int) -> int:
        """The number of the inverse of an element."""
        return self._inverses[element]

    @in_full_precision
    def apply(self, rows: Tensor, element: int | Tensor) -> Tensor:
        """The images (B, d) of rows (B, d) under one element, or under one for each row, (B,) int64."""
        if self._moves is not None:
            return self._moves.apply(rows, element)
        rows = in_fractions(rows)
        if isinstance(element, int):
            return rows if element == 0 else rows @ self._like(rows)[element].mT
        images = rows
        for number in range(1, len(self)):
            images = torch.where((element == number)[:, None], self.apply(rows, number), images)
        return images

    def _like(self, rows: Tensor) -> Tensor:
        """The matrices on the device and in the dtype of rows."""
        key = (rows.device, rows.dtype)
        if key not in self._converted:
            self._converted[key] = self.matrices.to(rows)
        return self._converted[key]


def _checked_matrices(matrices: Tensor) -> Tensor:
    """The matrices with the identity in front, once they are known to be a group."""
    if matrices.ndim != 3 or matrices.shape[1] != matrices.shape[2] or 0 in matrices.shape:
        raise ValueError(f"Group: matrices must have shape (G, d, d), got {tuple(matrices.shape)}")
    if matrices.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"Group: matrices must be float32 or float64, got {matrices.dtype}; convert them")
    tolerance = _tolerance(matrices)
    identity = torch.eye(matrices.shape[1], dtype=matrices.dtype)
    errors = (matrices @ matrices.mT - identity).abs().amax((1, 2))
    bad = torch.nonzero(~(errors <= tolerance))[:, 0].tolist()  # NaN is none, too
    if bad:
        raise ValueError(f"Group: matrix {bad[0]} is not orthogonal (|Q Q' - I| = {float(errors[bad[0]]):.3g})")
    same = torch.nonzero((matrices - identity).abs().amax((1, 2)) <= tolerance)[:, 0].tolist()
    if not same:
        raise ValueError("Group: the identity is missing; add torch.eye(d)")
    _check_distinct(matrices, tolerance)
    first = same[0]
    ordered = torch.cat([matrices[first : first + 1], matrices[:first], matrices[first + 1 :]])
    number = [first, *(k for k in range(len(matrices)) if k != first)]
    _check_closed(ordered, number, tolerance)
    return ordered


def _tolerance(matrices: Tensor) -> float:
    return _ROUNDINGS * matrices.shape[1] * torch.finfo(matrices.dtype).eps


def _check_distinct(matrices: Tensor, tolerance: float) -> None:
    for number in range(1, len(matrices)):
        twin = torch.nonzero((matrices[:number] - matrices[number]).abs().amax((1, 2)) <= tolerance)[:, 0].tolist()
        if twin:
            raise ValueError(f"Group: matrices {twin[0]} and {number} are equal; give every element once")


def _check_closed(matrices: Tensor, number: list[int], tolerance: float) -> None:
    """Refuse an inverse or a product that is no element; ``number`` says what the user calls each."""
    for element, inverse in enumerate(_places(matrices.mT, matrices, tolerance)):
        if inverse < 0:
            raise ValueError(f"Group: the inverse of matrix {number[element]} is missing; add its transpose")
    for element, matrix in enumerate(matrices):
        places = _places(matrix @ matrices, matrices, tolerance)
        missing = [other for other, place in enumerate(places) if place < 0]
        if missing:
            raise ValueError(
                f"Group: the product of matrices {number[element]} and {number[missing[0]]} is missing; add it"
            )


def _places(wanted: Tensor, matrices: Tensor, tolerance: float) -> list[int]:
    """Where each wanted matrix (G, d, d) is among the matrices, -1 where it is not; found by its image of a vector."""
    probe = torch.randn(matrices.shape[1], generator=torch.Generator().manual_seed(0), dtype=matrices.dtype)
    apart = torch.cdist(wanted @ probe, matrices @ probe, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = apart.argmin(1)
    equal = (wanted - matrices[nearest]).abs().amax((1, 2)) <= tolerance
    places: list[int] = torch.where(equal, nearest, -1).tolist()
    return places


def _as_permutations(matrices: Tensor) -> _Permuting | None:
    """The same group as permutations with signs, None if an entry is neither 0 nor 1 nor -1."""
    if not bool(((matrices == 0) | (matrices.abs() == 1)).all()):
        return None
    places = matrices.abs().argmax(2)
    signs = matrices.gather(2, places[:, :, None])[:, :, 0]
    return _Permuting(places, None if bool((signs == 1).all()) else signs)
