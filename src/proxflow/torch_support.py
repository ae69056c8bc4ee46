"""What queries need of PyTorch: raising from compiled code, full precision, values kept while tensors stay the same.

A bound that holds in float32 does not hold in bfloat16: ``in_full_precision`` turns autocast off. Inside vmap and
torch.compile Python cannot look at a tensor: ``require_converged`` is an operator that raises on failed rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Generic, ParamSpec, TypeVar

import torch
from torch import Tensor

from proxflow.errors import ConvergenceError
from proxflow.results import Status

__all__ = ["Derived", "failed_rows", "gradient", "in_full_precision", "require_converged"]


def failed_rows(status: Tensor) -> Tensor:
    """Rows whose iteration failed; a non-finite query is no failure of the solver."""
    return (status != int(Status.converged)) & (status != int(Status.non_finite))


@torch.library.custom_op("proxflow::require_converged", mutates_args=())
def require_converged(status: Tensor, error_bound: Tensor) -> Tensor:
    """A copy of ``status``; raises ``ConvergenceError`` where a row failed."""
    failed = failed_rows(status)
    if bool(failed.any()):
        raise ConvergenceError(
            f"{int(failed.sum())} of {len(status)} queries did not converge (largest error bound "
            f"{float(error_bound[failed].max()):.3g}); use float64, raise max_iterations, or build the flow with "
            "on_failure='nan' and look at solve(t, x).status"
        )
    return status.clone()


@require_converged.register_fake
def _(status: Tensor, error_bound: Tensor) -> Tensor:
    return torch.empty_like(status)


@require_converged.register_vmap
def _(info: object, in_dims: tuple[int | None, ...], status: Tensor, error_bound: Tensor) -> tuple[Tensor, int | None]:
    rows = status if in_dims[0] is None else status.movedim(in_dims[0], 0)
    bounds = error_bound if in_dims[1] is None else error_bound.movedim(in_dims[1], 0)
    checked = require_converged(rows.flatten(), bounds.expand_as(rows).flatten())
    return checked.reshape(rows.shape), None if in_dims[0] is None else 0


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


@in_full_precision
def gradient(value: Tensor, x: Tensor) -> Tensor:
    """Derivative of a 0-dimensional value in x: autocast would round what the way back multiplies."""
    (derivative,) = torch.autograd.grad(value, x)
    return derivative


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
