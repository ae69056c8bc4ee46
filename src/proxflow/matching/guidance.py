"""From a conditional network to the field that samplers integrate."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from proxflow.checks import as_tensor, real_number, whole_number
from proxflow.matching.path import Network, for_each

__all__ = ["field_of"]


def field_of(
    network: Network, label: Tensor | int | None = None, guidance: float = 1.0
) -> Callable[[Tensor | float, Tensor], Tensor]:
    """The field (t, x) -> velocity of a network at given labels, with classifier-free guidance (Ho and Salimans 2022).

    The velocity is v + (guidance - 1) (v - v_none), v_none without label: 1 is the conditional field itself.

    Args:
        network: v(t, x) or v(t, x, label), called with times (B,) as in training; trained with a label dropout above 0
            where guidance is not 1. Call its ``eval()`` first where it has dropout or batch normalisation: as in
            training, samples would be random or depend on each other.
        label: one for all points, or (B,); None leaves it out.
        guidance: weight of the condition.

    Raises:
        ValueError: guidance without a label, or not finite; a network without labels, or a label that it has not, or
            that is no number.
    """
    if not math.isfinite(real_number(guidance)):
        raise ValueError(f"field_of: guidance must be a finite number, got {guidance!r}")
    if label is None:
        if guidance != 1:
            raise ValueError(f"field_of: guidance {guidance} needs a label")
        return lambda t, x: network(for_each(t, x), x)
    guidance, labels = float(guidance), _as_labels(label)
    classes = getattr(network, "classes", None)
    if classes is not None and labels.numel() and not -1 <= int(labels.min()) <= int(labels.max()) < classes:
        known = f"labels 0 to {classes - 1}" if classes else "no labels"
        raise ValueError(f"field_of: the network has {known}, got {label!r}")

    def field(t: Tensor | float, x: Tensor) -> Tensor:
        if labels.ndim and len(labels) != len(x):
            raise ValueError(f"field_of: there are {len(labels)} labels for {len(x)} points; give one, or one for each")
        times = for_each(t, x)
        conditional = network(times, x, labels.to(x.device).expand(len(x), *labels.shape[1:]))
        if guidance == 1:
            return conditional
        return conditional + (guidance - 1) * (conditional - network(times, x))

    return field


def _as_labels(label: object) -> Tensor:
    """One label as a tensor without axes, several as one with."""
    number = whole_number(label)
    if number is None and math.isnan(real_number(label)):
        labels = as_tensor("field_of", "label", label)
        return labels if labels.is_floating_point() else labels.long()
    return torch.tensor(real_number(label) if number is None else number)
