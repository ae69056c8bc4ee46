"""A shift and scales that can be undone.

Whitening is that of the correlations, R^(-1/2) of the columns each divided by its own deviation: of all whitenings the
one whose coordinates stay closest to the columns that they came from, and one that units do not change (Kessy, Lewin,
Strimmer 2018, "Optimal whitening and decorrelation", section 3.2).
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from proxflow.results import brief_repr
from proxflow.storage import storable

__all__ = ["Kind", "Standardisation", "checked_kind", "deviation_ratio", "in_float64", "standardisation_of"]

Kind = Literal["global", "columns", "whiten", "none"]

_AT_ONCE = 1 << 17  # numbers that are converted at once, in a cache
_ROUNDINGS = 4.0  # of the data's own numbers: a direction that varies by less is taken for one without variance


@storable
@brief_repr
@dataclass(frozen=True)
class Standardisation:
    """x -> (x - mean) / scale, whitened where there are ``directions``; computed and undone in float64.

    Attributes:
        mean: (*event).
        scale: one number for all coordinates, so that distances keep their proportions, or one for each, (*event).
        directions: (d, r), orthonormal: the principal directions of the scaled data that have variance; None where
            nothing is whitened.
        deviations: (r,), the standard deviations along them.
    """

    mean: Tensor
    scale: float | Tensor
    directions: Tensor | None = None
    deviations: Tensor | None = None

    @property
    def kind(self) -> Kind:
        """What ``standardise=`` made it."""
        if self.directions is not None:
            return "whiten"
        if isinstance(self.scale, Tensor):
            return "columns"
        return "none" if self.scale == 1 and not self.mean.any() else "global"

    def apply(self, x: Tensor) -> Tensor:
        """Standardise (N, *event) data, in their dtype; whole numbers become that of the mean."""
        dtype = x.dtype if x.is_floating_point() else self.mean.dtype
        scaled = (x.double() - _like(self.mean, x)) / _like(self.scale, x)
        return self._turned(scaled, inverse=True).to(dtype)

    def undo(self, x: Tensor) -> Tensor:
        """Back to the units of the data, (N, *event) in float64: data far from 0 have digits that float32 has not."""
        return self._turned(x.double(), inverse=False) * _like(self.scale, x) + _like(self.mean, x)

    def _turned(self, x: Tensor, *, inverse: bool) -> Tensor:
        if self.directions is None or self.deviations is None:
            return x
        directions, deviations = _like(self.directions, x), _like(self.deviations, x)
        along = x.flatten(1) @ directions
        return ((along / deviations if inverse else along * deviations) @ directions.mT).reshape(x.shape)


def _like(value: float | Tensor, x: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=torch.float64, device=x.device)


def checked_kind(caller: str, kind: object) -> Kind | None:
    """What a user gave for ``standardise``; False and True, its former values, are "none" and None.

    Raises:
        ValueError: something else.
    """
    if kind is None or isinstance(kind, bool):
        return None if kind in (None, True) else "none"
    if kind not in get_args(Kind):
        known = ", ".join(map(repr, get_args(Kind)))
        raise ValueError(f"{caller}: standardise must be one of {known}, got {kind!r}")
    return kind  # type: ignore[return-value]


def in_float64(points: Tensor) -> Iterator[Tensor]:
    """Points (N, *event) in float64, a block after the other: of all at once a copy would take 8 bytes a number.

    Blocks of float64 are the points themselves: they are not to be changed.
    """
    return (part.double() for part in points.split(max(1, _AT_ONCE // points[0].numel())))


def standardisation_of(points: Tensor, kind: Kind = "global", precision: float | None = None) -> Standardisation:
    """The standardisation of points (N, *event), in float64.

    Exact for constant columns, which get scale 1, and without overflow on the way. Only whitening makes a copy.

    Args:
        points: the data, of any real dtype.
        kind: "global", one scale, the root-mean-square deviation; "columns", each coordinate its own deviation;
            "whiten", also without correlations; "none".
        precision: relative rounding of the data's own numbers; that of float64 if None.
    """
    first = points[0].double()
    if kind == "none":
        return Standardisation(torch.zeros_like(first), 1.0)
    count = len(points)
    size = functools.reduce(torch.maximum, (part.abs().amax(0) for part in in_float64(points)))
    size = torch.where(size > 0, size, 1.0)
    total = functools.reduce(operator.add, ((part / size).sum(0) for part in in_float64(points)))
    mean = torch.where(_constant(points), first, total / count * size)
    spread = functools.reduce(torch.maximum, ((part - mean).abs_().amax(0) for part in in_float64(points)))
    unit = spread.max() if kind == "global" else spread
    unit = torch.where(unit > 0, unit, 1.0)
    squares = functools.reduce(operator.add, ((part - mean).div_(unit).square_().sum(0) for part in in_float64(points)))
    if kind == "global":
        widest = float(unit)
        return Standardisation(mean, widest * math.sqrt(float(squares.mean()) / count) if bool(spread.any()) else 1.0)
    deviation = (squares / count).sqrt_()
    scale = torch.where(deviation > 0, unit * deviation, 1.0)
    if kind == "columns":
        return Standardisation(mean, scale)
    precision = torch.finfo(torch.float64).eps if precision is None else precision
    scaled = (points.double() - mean).div_(scale)
    return _whitening(scaled, mean, scale, precision * float((size / scale).max()))


def _constant(points: Tensor) -> Tensor:
    """Which coordinates of points (N, *event) have one value, (*event)."""
    first = points[0].double()
    return functools.reduce(operator.and_, ((part == first).all(0) for part in in_float64(points)))


def _whitening(scaled: Tensor, mean: Tensor, scale: Tensor, rounding: float) -> Standardisation:
    """``rounding`` is the error of an entry of the scaled data."""
    rows = scaled.flatten(1)
    count, dim = rows.shape
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    deviations = values / math.sqrt(count)
    kept = deviations > _ROUNDINGS * rounding * (1 + math.sqrt(dim / count))  # the largest that errors alone would have
    return Standardisation(mean, scale, directions[kept].mT.contiguous(), deviations[kept])


def deviation_ratio(points: Tensor) -> tuple[float, int, int]:
    """How many times the largest standard deviation of a column (N, d) is the smallest that is not 0, and which."""
    deviations = standardisation_of(points, "columns").scale
    varying = ~_constant(points)
    if not isinstance(deviations, Tensor) or not bool(varying.any()):
        return 1.0, 0, 0
    widest = int(torch.where(varying, deviations, 0.0).argmax())
    narrowest = int(torch.where(varying, deviations, math.inf).argmin())
    return float(deviations[widest] / deviations[narrowest]), widest, narrowest
