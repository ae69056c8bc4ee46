"""Values computed from tensors, kept for as long as these stay what they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Derived"]

T = TypeVar("T")


class Derived(Generic[T]):
    """``compute(*tensors)``, computed again when a tensor is another one or was changed in place.

    Changes are seen by PyTorch's own count of them, which optimisers, ``load_state_dict`` and ``copy_`` keep and
    ``.data`` evades. Tensors without a count (of inference mode) and compiled code compute each time.

    Args:
        compute: a function of the tensors alone, defined at the top of its module so that it can be pickled.
    """

    def __init__(self, compute: Callable[..., T]) -> None:
        self._compute = compute
        self._known: tuple[tuple[Tensor, ...], tuple[int, ...], T] | None = None

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._compute,)

    def __call__(self, *tensors: Tensor) -> T:
        """The value for these tensors."""
        if torch.compiler.is_compiling() or any(tensor.is_inference() for tensor in tensors):
            return self._compute(*tensors)
        versions = tuple(tensor._version for tensor in tensors)
        known = self._known
        if known is not None and known[1] == versions and all(a is b for a, b in zip(known[0], tensors, strict=True)):
            return known[2]
        with torch.inference_mode(False):  # what is kept may be differentiated later
            value = self._compute(*tensors)
        self._known = (tensors, versions, value)
        return value
