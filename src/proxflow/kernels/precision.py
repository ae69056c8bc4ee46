"""Queries keep their precision inside ``torch.autocast``: a bound that holds in float32 does not hold in bfloat16."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["in_full_precision"]

P = ParamSpec("P")
R = TypeVar("R")


def in_full_precision(query: Callable[P, R]) -> Callable[P, R]:
    """A function with autocast off on the device of its first tensor."""

    @functools.wraps(query)
    def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
        first = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if first is None or not torch.is_autocast_enabled(first.device.type):
            return query(*args, **kwargs)
        with torch.autocast(first.device.type, enabled=False):
            return query(*args, **kwargs)

    return guarded
