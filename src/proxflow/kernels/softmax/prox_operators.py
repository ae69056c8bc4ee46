"""The softmax prox as PyTorch operators that autograd, vmap and compile do not look into."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.kernels.geometry import finite_rows
from proxflow.kernels.softmax.law import covariance, probabilities, row_blocks, solve_shifted
from proxflow.kernels.softmax.newton import Problem, Solution
from proxflow.kernels.softmax.prox import evaluate, minimise, project
from proxflow.results import Status

__all__ = ["Pair", "resolvent", "softmax_pair"]

Pair = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


@torch.library.custom_op("proxflow::softmax_pair", mutates_args=())
def softmax_pair(
    x: Tensor, tau: Tensor, beta: Tensor, atoms: Tensor, bias: Tensor, max_iterations: int, max_memory: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Solve x = tau v + beta m(v) row by row, without derivatives.

    Args:
        x: (B, d) float64 queries.
        tau, beta: (B,), >= 0, not both 0. Where tau = 0 the point is the projection of x / beta on the hull, and v
            the limit of the proximal-point method: the gradient of the conjugate inside the hull, large outside.
        atoms: (N, d), |a_j| <= 1.
        bias: (N,) log-weights.
        max_iterations: cap on Newton steps per row.
        max_memory: bytes of scores or covariances at once.

    Returns:
        v (B, d), point y (B, d), gap (B,) in units of the entropy, bound (B,) on y, iterations (B,), status (B,).
    """
    out = Solution.unsolved(x)
    finite = finite_rows(x) & torch.isfinite(tau) & torch.isfinite(beta)
    out.status[~finite] = int(Status.non_finite)
    for rows, solve in ((beta == 0, evaluate), (tau == 0, project), ((tau > 0) & (beta > 0), minimise)):
        index = torch.nonzero(finite & rows)[:, 0]
        for block in row_blocks(len(index), _numbers(atoms), x.element_size(), max_memory):
            chosen = index[block]
            problem = Problem(x[chosen], tau[chosen], beta[chosen], atoms, bias, max_memory)
            out.put(chosen, solve(problem, max_iterations))
    return out.tensors()


@softmax_pair.register_fake
def _(x: Tensor, tau: Tensor, beta: Tensor, atoms: Tensor, bias: Tensor, max_iterations: int, max_memory: int) -> Pair:
    index = torch.empty(len(x), dtype=torch.int64, device=x.device)
    return torch.empty_like(x), torch.empty_like(x), x.new_empty(len(x)), x.new_empty(len(x)), index, index.clone()


@softmax_pair.register_vmap
def _(
    info: object,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    tau: Tensor,
    beta: Tensor,
    atoms: Tensor,
    bias: Tensor,
    max_iterations: int,
    max_memory: int,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    size = _batch_size(info, in_dims[3:5])
    rows = [_batch_first(t, dim, size).flatten(0, 1) for t, dim in zip((x, tau, beta), in_dims[:3], strict=True)]
    outputs = softmax_pair(*rows, atoms, bias, max_iterations, max_memory)
    return tuple(out.unflatten(0, (size, -1)) for out in outputs), (0,) * 6


@torch.library.custom_op("proxflow::softmax_resolvent", mutates_args=())
def resolvent(
    v: Tensor, tau: Tensor, beta: Tensor, atoms: Tensor, bias: Tensor, right: Tensor, max_memory: int
) -> Tensor:
    """(tau I + beta Cov(v))^-1 right, for ``right`` (B, k, d): a row's k vectors share one factorisation."""
    out = torch.full_like(right, torch.nan)
    usable = finite_rows(v) & torch.isfinite(tau) & torch.isfinite(beta)
    index = torch.nonzero(usable)[:, 0]
    for block in row_blocks(len(index), _numbers(atoms), v.element_size(), max_memory):
        rows = index[block]
        law = probabilities(v[rows], atoms, bias)
        spread = covariance(law, law @ atoms, atoms, max_memory)
        out[rows] = solve_shifted(spread, tau[rows], beta[rows], right[rows].mT).mT
    return out


@resolvent.register_fake
def _(v: Tensor, tau: Tensor, beta: Tensor, atoms: Tensor, bias: Tensor, right: Tensor, max_memory: int) -> Tensor:
    return torch.empty_like(right)


@resolvent.register_vmap
def _(
    info: object,
    in_dims: tuple[int | None, ...],
    v: Tensor,
    tau: Tensor,
    beta: Tensor,
    atoms: Tensor,
    bias: Tensor,
    right: Tensor,
    max_memory: int,
) -> tuple[Tensor, int]:
    size = _batch_size(info, in_dims[3:5])
    sides = _batch_first(right, in_dims[5], size)
    if in_dims[:3] == (None, None, None):  # many right sides at the same rows: one factorisation
        together = resolvent(v, tau, beta, atoms, bias, sides.movedim(0, 1).flatten(1, 2), max_memory)
        return together.unflatten(1, (size, -1)).movedim(1, 0), 0
    rows = [_batch_first(t, dim, size).flatten(0, 1) for t, dim in zip((v, tau, beta), in_dims[:3], strict=True)]
    return resolvent(*rows, atoms, bias, sides.flatten(0, 1), max_memory).unflatten(0, (size, -1)), 0


def _numbers(atoms: Tensor) -> int:
    return max(len(atoms), atoms.shape[1] ** 2)


def _batch_size(info: object, atom_dims: tuple[int | None, ...]) -> int:
    if any(dim is not None for dim in atom_dims):
        raise NotImplementedError("the atoms and heights of an entropic potential cannot be batched by vmap")
    size: int = info.batch_size  # type: ignore[attr-defined]
    return size


def _batch_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
