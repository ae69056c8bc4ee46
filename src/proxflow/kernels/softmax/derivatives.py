"""The softmax prox with implicit derivatives, and the log-sum-exp with recomputed ones.

Differentiating x = tau v + beta m(v) gives dv = M (dx - v dtau - m dbeta - beta dm), M = (tau I + beta Cov(v))^-1 and
dm the change of the mean with atoms and log-weights at fixed v; then dy = Cov(v) dv + dm. Both modes use this at the
solution, so that no iteration is recorded and memory does not grow with rows x atoms. First derivatives only: the
resolvent has no derivative of its own, and differentiating twice raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxflow.kernels.softmax.law import probabilities, row_blocks
from proxflow.kernels.softmax.prox import projection_temperature
from proxflow.kernels.softmax.prox_operators import Pair, resolvent, softmax_pair

__all__ = ["Pair", "log_normaliser", "moreau_pair"]

_ONCE = "an entropic prox has first derivatives only; differentiate prox_jacobian for more"


class _Resolvent(torch.autograd.Function):
    """``resolvent``, refusing to be differentiated: its derivative would be left out in silence."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        v: Tensor, tau: Tensor, beta: Tensor, atoms: Tensor, bias: Tensor, right: Tensor, max_memory: int
    ) -> Tensor:
        solved: Tensor = resolvent(v, tau, beta, atoms, bias, right, max_memory)
        return solved

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> None:
        raise NotImplementedError(_ONCE)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> None:
        raise NotImplementedError(_ONCE)


def _solve_linear(
    v: Tensor, tau: Tensor, beta: Tensor, atoms: Tensor, bias: Tensor, right: Tensor, max_memory: int
) -> Tensor:
    solve: Callable[..., Tensor] = _Resolvent.apply
    return solve(v, projection_temperature(tau, beta), beta, atoms, bias, right[:, None, :], max_memory)[:, 0]


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
    _, tau, beta, atoms, bias, _, max_memory = inputs
    ctx.save_for_backward(tau, beta, atoms, bias, output[0], output[1])
    ctx.max_memory = max_memory


def _pull_pair(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
    tau, beta, atoms, bias, v, y = ctx.saved_tensors
    grad_v, grad_y = grads[:2]
    pulled = grad_v + _covariance_action(v, grad_y, atoms, bias, ctx.max_memory)
    solved = _solve_linear(v, tau, beta, atoms, bias, pulled, ctx.max_memory)
    grad_atoms = grad_bias = None
    if ctx.needs_input_grad[3] or ctx.needs_input_grad[4]:
        grad_atoms, grad_bias = _pull_mean(v, grad_y - beta[:, None] * solved, atoms, bias, ctx.max_memory)
    return solved, -(solved * v).sum(1), -(solved * y).sum(1), grad_atoms, grad_bias, None, None


softmax_pair.register_autograd(_pull_pair, setup_context=_remember)


class _MoreauPair(torch.autograd.Function):
    """``softmax_pair`` with both modes; the operator alone has no forward mode, and torch.compile cannot trace this."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        x: Tensor, tau: Tensor, beta: Tensor, atoms: Tensor, bias: Tensor, max_iterations: int, max_memory: int
    ) -> Pair:
        pair: Pair = softmax_pair(x, tau, beta, atoms, bias, max_iterations, max_memory)
        return pair

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Pair) -> None:
        _remember(ctx, inputs, output)
        ctx.mark_non_differentiable(*output[2:])
        ctx.save_for_forward(*inputs[1:5], *output[:2])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return _pull_pair(ctx, *grads)

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        tau, beta, atoms, bias, v, y = ctx.saved_tensors
        dx, dtau, dbeta, datoms, dbias = tangents[:5]
        moved = _push_mean(v, datoms, dbias, atoms, bias, ctx.max_memory)
        change = -beta[:, None] * moved
        change = change if dx is None else change + dx
        change = change if dtau is None else change - dtau[:, None] * v
        change = change if dbeta is None else change - dbeta[:, None] * y
        dv = _solve_linear(v, tau, beta, atoms, bias, change, ctx.max_memory)
        dy = moved + _covariance_action(v, dv, atoms, bias, ctx.max_memory)
        return dv, dy, None, None, None, None


class _LogNormaliser(torch.autograd.Function):
    """log sum_j exp(<v, a_j> + b_j), recomputed block by block when differentiated."""

    generate_vmap_rule = True

    @staticmethod
    def forward(v: Tensor, atoms: Tensor, bias: Tensor, max_memory: int) -> Tensor:
        return _log_normaliser(v, atoms, bias, max_memory)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        v, atoms, bias, max_memory = inputs
        ctx.save_for_backward(v, atoms, bias)
        ctx.save_for_forward(v, atoms, bias)
        ctx.max_memory = max_memory

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        v, atoms, bias = ctx.saved_tensors
        grad_v = []
        grad_atoms, grad_bias = torch.zeros_like(atoms), torch.zeros_like(bias)
        for rows in row_blocks(len(v), len(atoms), v.element_size(), ctx.max_memory):
            law = probabilities(v[rows], atoms, bias)
            grad_v.append(grads[0][rows, None] * (law @ atoms))
            weighted = grads[0][rows, None] * law
            grad_atoms = grad_atoms + weighted.mT @ v[rows]
            grad_bias = grad_bias + weighted.sum(0)
        return torch.cat([v.new_empty(0, v.shape[1]), *grad_v]), grad_atoms, grad_bias, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        v, atoms, bias = ctx.saved_tensors
        dv, datoms, dbias = tangents[:3]
        parts = []
        for rows in row_blocks(len(v), len(atoms), v.element_size(), ctx.max_memory):
            change = _score_change(v[rows], None if dv is None else dv[rows], datoms, dbias, atoms)
            parts.append((probabilities(v[rows], atoms, bias) * change).sum(1))
        return torch.cat([v.new_empty(0), *parts])


def moreau_pair(
    x: Tensor, tau: Tensor, beta: Tensor, atoms: Tensor, bias: Tensor, max_iterations: int, max_memory: int
) -> Pair:
    """``softmax_pair``, differentiable in its tensors: v and y with x = tau v + beta y."""
    solve: Callable[..., Pair] = softmax_pair if torch.compiler.is_compiling() else _MoreauPair.apply
    return solve(x, tau, beta, atoms, bias, max_iterations, max_memory)


def log_normaliser(v: Tensor, atoms: Tensor, bias: Tensor, max_memory: int) -> Tensor:
    """log sum_j exp(<v, a_j> + b_j), (B,), differentiable; ``v`` (B, d), ``atoms`` (N, d), ``bias`` (N,)."""
    function: Callable[..., Tensor] = _log_normaliser if torch.compiler.is_compiling() else _LogNormaliser.apply
    return function(v, atoms, bias, max_memory)


def _log_normaliser(v: Tensor, atoms: Tensor, bias: Tensor, max_memory: int) -> Tensor:
    blocks = row_blocks(len(v), len(atoms), v.element_size(), max_memory)
    return torch.cat([v.new_empty(0), *(torch.logsumexp(v[rows] @ atoms.mT + bias, dim=1) for rows in blocks)])


def _covariance_action(v: Tensor, w: Tensor, atoms: Tensor, bias: Tensor, max_memory: int) -> Tensor:
    """Cov(v) w, (B, d)."""
    parts = []
    for rows in row_blocks(len(v), len(atoms), v.element_size(), max_memory):
        law = probabilities(v[rows], atoms, bias)
        parts.append(_centred(law, w[rows] @ atoms.mT) @ atoms)
    return torch.cat([v.new_empty(0, v.shape[1]), *parts])


def _pull_mean(v: Tensor, grad: Tensor, atoms: Tensor, bias: Tensor, max_memory: int) -> tuple[Tensor, Tensor]:
    """Gradients in atoms and log-weights of sum_i <grad_i, m(v_i)>, (N, d) and (N,)."""
    grad_atoms, grad_bias = torch.zeros_like(atoms), torch.zeros_like(bias)
    for rows in row_blocks(len(v), len(atoms), v.element_size(), max_memory):
        law = probabilities(v[rows], atoms, bias)
        change = _centred(law, grad[rows] @ atoms.mT)
        grad_atoms = grad_atoms + law.mT @ grad[rows] + change.mT @ v[rows]
        grad_bias = grad_bias + change.sum(0)
    return grad_atoms, grad_bias


def _push_mean(
    v: Tensor, datoms: Tensor | None, dbias: Tensor | None, atoms: Tensor, bias: Tensor, max_memory: int
) -> Tensor:
    """Change of m(v) with the atoms and log-weights at fixed v, (B, d)."""
    if datoms is None and dbias is None:
        return torch.zeros_like(v)
    parts = []
    for rows in row_blocks(len(v), len(atoms), v.element_size(), max_memory):
        law = probabilities(v[rows], atoms, bias)
        moved = _centred(law, _score_change(v[rows], None, datoms, dbias, atoms)) @ atoms
        parts.append(moved if datoms is None else moved + law @ datoms)
    return torch.cat([v.new_empty(0, v.shape[1]), *parts])


def _centred(law: Tensor, scores: Tensor) -> Tensor:
    """p_j (s_j - mean s): the change of a law with its scores."""
    return law * (scores - (law * scores).sum(1, keepdim=True))


def _score_change(v: Tensor, dv: Tensor | None, datoms: Tensor | None, dbias: Tensor | None, atoms: Tensor) -> Tensor:
    change = v.new_zeros(len(v), len(atoms))
    change = change if dv is None else change + dv @ atoms.mT
    change = change if datoms is None else change + v @ datoms.mT
    return change if dbias is None else change + dbias
