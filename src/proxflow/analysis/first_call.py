"""What an error of a field's first call is told: fields are called (t, x), models of other libraries often (x, t)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import OutOfMemoryError, Tensor

from proxflow.flow import known_field

__all__ = ["HINT", "hinted"]

HINT = (
    "proxflow: fields are called field(t, x); adapters.flow_matching.to_field turns a model(x, t) into one, and "
    "adapters.detect_field finds out how a model is called"
)
"""The note of an error of the first call."""


class _HintedField:
    """A field; an exception of its first call is raised as it is, with a note."""

    def __init__(self, field: Callable[[Any, Tensor], Tensor]) -> None:
        self._field, self._first = field, True

    def __call__(self, t: Any, x: Tensor) -> Tensor:
        first, self._first = self._first, False
        try:
            return self._field(t, x)
        except Exception as error:  # whatever the user's code raises
            if first and not isinstance(error, OutOfMemoryError):
                error.add_note(HINT)
            raise


def hinted(field: Callable[[Any, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    """The field, with a hint where its first call fails; one that is known as it is."""
    return field if known_field(field) is not None or isinstance(field, _HintedField) else _HintedField(field)
