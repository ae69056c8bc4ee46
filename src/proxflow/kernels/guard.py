"""Raising on failed rows from inside vmap and torch.compile, where Python cannot look at a tensor."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.errors import ConvergenceError
from proxflow.results import Status

__all__ = ["failed_rows", "require_converged"]


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
