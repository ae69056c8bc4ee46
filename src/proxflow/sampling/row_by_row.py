"""Whether a field gives each point its own velocity, whatever chance and the points beside it are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxflow.errors import ConvergenceError
from proxflow.flow import known_field

__all__ = ["check_row_by_row"]

_DIFFERENCE = 0.01  # of the velocities' size: dropout and batch normalisation make more, reduced precision less


@torch.no_grad()
def check_row_by_row(owner: str, field: Callable[[Any, Tensor], Any], t: Tensor, x: Tensor) -> None:
    """Refuse a field that gives the first half of the points (B, *event) other velocities beside another second half.

    Derivatives of such a field, and what is followed along it, mean nothing. It is called twice on B points; of one
    that has no answer at them nothing is said.

    Raises:
        ValueError: it does.
        Exception: whatever the field raises.
    """
    if known_field(field) is not None:
        return
    kept = (len(x) + 1) // 2
    try:
        beside = [field(t, points) for points in (x, torch.cat([x[:kept], x[: len(x) - kept]]))]
    except ConvergenceError:
        return
    if not all(isinstance(value, Tensor) and value.shape == x.shape for value in beside):
        return  # an error of its own, which says what is wanted
    first, second = (value[:kept].double() for value in beside)
    if float((first - second).square().mean().sqrt()) > _DIFFERENCE * float(first.square().mean().sqrt()):
        raise ValueError(
            f"{owner}: called twice at the same points, beside other ones, the field gave other velocities: rows must "
            "not depend on chance or on each other. Is it a network in training mode, with dropout or batch "
            "normalisation? Call its eval() first"
        )
