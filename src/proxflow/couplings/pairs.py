"""Pairs of source and target points: what every coupling draws."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.results import brief_repr

__all__ = ["Pairs", "joined", "rows_of"]


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
