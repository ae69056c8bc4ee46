"""The last step into t = 1, where a field may be singular and is never called, and its inverse.

Problem: forwards, the step from a time c just before 1 ends at the data point that the velocity there recovers,
y(c, x); of a ``ProximalFlow`` that is its prox. Backwards, ``depart`` solves y(c, x) = x1 for x.

Method: since x = alpha u(c, x) + beta y(c, x), the solution is a fixed point of x -> beta x1 + alpha u(c, x), whose
derivative is I - beta D y. On the field of optimal pairs this is the gradient of a convex function with eigenvalues
alpha / (alpha + beta s) in [0, 1], s the derivative of the map from noise to data: the iteration never expands, and
where the data have a density a few steps are enough for alpha far below s. In a direction without spread, s = 0, every
x is a fixed point: many noise points lead to x1, and the iteration keeps what it began with. It begins with x1, and for
a ``ProximalFlow`` with the solution itself, alpha u + beta x1 with u = grad psi(x1).

Stopping rule: the root mean square of the change of u in each row is within its tolerance, or stops falling. It is
beta / alpha times that of y(c, x) - x1, which says little by itself: of data much thinner than alpha every x near x1
ends near x1. Cost: one evaluation a step.
"""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from proxflow.errors import ConvergenceWarning, NoDensityError
from proxflow.flow import ProximalFlow
from proxflow.kernels.geometry import finite_rows
from proxflow.sampling.solvers import CountedField
from proxflow.schedules import Schedule
from proxflow.torch_support import gradient

__all__ = ["depart", "last_departure", "refuse_without_density"]

_MOST_DEPARTING_STEPS = 30  # alpha / s below .6 comes to 1e-6 in these
_ROUNDINGS = 32.0  # of a point: no residual is asked to be smaller


def last_departure(schedule: Schedule, length: float, dtype: torch.dtype) -> float:
    """A time, at most ``length`` before 1, at which alpha too is at most that: its square is the last step's error.

    Where alpha falls so steeply that no time of this dtype has that, one of the last times before 1.
    """
    ahead, least, most = length, 2 * torch.finfo(dtype).eps, 1.01 * length  # of alpha, whose last digits are rounded
    while ahead > least and float(schedule.alpha(torch.tensor(1 - ahead, dtype=torch.float64))) > most:
        ahead *= 0.5
    return 1 - ahead


def depart(field: CountedField, start: Tensor, x1: Tensor, rtol: float, atol: float) -> Tensor:
    """The point at the time ``start`` whose last step ends at x1, (B, *event); rows go on while they improve.

    Warns:
        ConvergenceWarning: the noise behind the point returned still changes by more than rtol |u| + atol and what
            rounding of x1 leaves open, root mean square over the entries of a row. Rows that are not finite come out
            as NaN.
    """
    alpha, beta = field.schedule.alpha(start), field.schedule.beta(start)
    rounding = _ROUNDINGS * torch.finfo(x1.dtype).eps
    x = x1 if field.flow is None else _on_trajectory(field.flow, start, x1)
    miss = wanted = torch.full_like(_row_size(x1), torch.inf)
    for _ in range(_MOST_DEPARTING_STEPS):
        source = field.recover_source(start, x)
        following = beta * x1 + alpha * source
        missed = _row_size(x - following) / beta
        wanted = alpha / beta * (atol + max(rtol, rounding) * _row_size(source)) + rounding * _row_size(x1)
        better = ~(missed >= miss)  # a row that is not finite goes on, as NaN
        x = torch.where(better.reshape(-1, *[1] * (x.ndim - 1)), following, x)
        miss = torch.where(better, missed, miss)
        if not bool((better & (miss > wanted)).any()):
            break
    _warn(field.owner, miss / alpha, wanted / alpha)
    return x


def _on_trajectory(flow: ProximalFlow, t: Tensor, x1: Tensor) -> Tensor:
    """alpha u + beta x1 with u = grad psi(x1), with its derivative in x1; x1 itself where psi has no gradient."""
    flat = x1.reshape(len(x1), flow.dim)
    with torch.inference_mode(False), torch.enable_grad():
        y = flat.detach().clone().requires_grad_()
        value = flow.potential.value(y).sum()
        source = gradient(value, y) if value.requires_grad else torch.full_like(y, torch.nan)
    alpha, beta = flow.schedule.alpha(t), flow.schedule.beta(t)
    x = torch.where(finite_rows(source)[:, None], alpha * source + beta * y.detach(), y.detach())
    if flat.requires_grad:  # psi need not have second derivatives in autograd: by those of its prox
        derivative = flow.potential.decompose_jacobian(x, alpha, beta)
        x = x + torch.linalg.solve_ex(derivative, (flat - y.detach())[:, :, None])[0][:, :, 0]
    return x.reshape(x1.shape)


def refuse_without_density(field: CountedField, x: Tensor) -> None:
    """Refuse a ``ProximalFlow`` that cannot be inverted at t = 1.

    Raises:
        ValueError: its target has no density.
    """
    if field.flow is None:
        return
    potential, none = field.flow.potential, x.detach().reshape(len(x), field.flow.dim)[:0]
    potential.brenier_map(none)  # of another dtype than the atoms', that is to be said first
    try:
        potential.log_density(none)
    except NoDensityError as error:
        raise ValueError(
            f"{field.owner}: the flow has no inverse at t = 1, where many noise points end at one data point "
            f"({error}). For atoms, draw one of them by couplings.Semidiscrete(potential, points).noise_for(rows); or "
            "start from points before t = 1 with recover_source(t, x)"
        ) from error


def _row_size(x: Tensor) -> Tensor:
    """Root mean square of the entries of each row, (B,)."""
    flat = x.detach().reshape(len(x), math.prod(x.shape[1:]))
    # in float64: squares above 3e38 overflow in float32
    size: Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=torch.float64)
    return (size / math.sqrt(max(1, flat.shape[1]))).to(x.dtype)


def _warn(owner: str, miss: Tensor, wanted: Tensor) -> None:
    """Of changes of the noise."""
    failed = miss > wanted
    if bool(failed.any()):
        row = int(torch.where(failed, miss / wanted, 0.0).argmax())
        warnings.warn(
            f"{owner}: from the points found for {int(failed.sum())} of {len(miss)} rows another step moves the noise "
            f"by more than {float(wanted[row]):.1g}: row {row} by {float(miss[row]):.1g}. They may lie where this "
            "field generates nothing, or so little spread that much noise leads to them; loosen rtol and atol if that "
            "is near enough",
            ConvergenceWarning,
            stacklevel=5,
        )
