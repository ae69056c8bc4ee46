"""Marks of parameters: the quick ones run in ``make test``, the others in ``make test-slow`` too."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["slow_beyond"]


def slow_beyond(quick: int, values: Iterable[Any]) -> list[Any]:
    """The first ``quick`` values as they are, and the others marked slow; tuples stand for several arguments."""
    return [
        value
        if place < quick
        else pytest.param(*(value if isinstance(value, tuple) else (value,)), marks=pytest.mark.slow)
        for place, value in enumerate(values)
    ]
