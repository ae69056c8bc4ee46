"""A shift and a scale that can be undone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.results import brief_repr
from proxflow.storage import storable

__all__ = ["Standardisation", "standardisation_of"]


@storable
@brief_repr
@dataclass(frozen=True)
class Standardisation:
    """x -> (x - mean) / scale with one scale for all coordinates, so that distances keep their proportions."""

    mean: Tensor
    scale: float

    def apply(self, x: Tensor) -> Tensor:
        """Standardise (N, *event) data."""
        x = x if x.is_floating_point() else x.to(self.mean.dtype)
        return (x - self.mean.to(x)) / self.scale

    def undo(self, x: Tensor) -> Tensor:
        """Back to the units of the data."""
        return x * self.scale + self.mean.to(x)


def standardisation_of(points: Tensor) -> Standardisation:
    """Mean and root-mean-square deviation; exact for constant columns, and without overflow on the way."""
    size = points.abs().amax(0)
    size = torch.where(size > 0, size, 1.0)
    mean = torch.where((points == points[0]).all(0), points[0], (points / size).mean(0) * size)
    centred = points - mean
    spread = float(centred.abs().max())
    scale = spread * float(centred.div_(spread).square_().mean().sqrt()) if spread > 0 else 1.0
    return Standardisation(mean, scale)
