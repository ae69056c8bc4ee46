"""The softmax prox at every temperature: how Newton's method is started, and what is done at both ends.

A start is the better of v = 0 and the solution of the polyhedral problem, the limit of a sharp law; from there most
rows need 1 to 30 steps. Rows deep among many atoms, or over a face of many, may need hundreds at low temperature: they
are annealed instead, from a flat law through falling temperatures, in some 50 to 150 steps however sharp the law.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.kernels.active_set import atom_keys, polyhedral_face
from proxflow.kernels.softmax.newton import BOUND_ACCEPTED, ROUNDING, Problem, Solution, descend
from proxflow.results import Status

__all__ = ["evaluate", "minimise", "project", "projection_temperature"]

_START_STEPS = 50  # of the active-set method, for a start
_DIRECT_STEPS = 40  # of Newton's method, before annealing
_COOLING = 10.0  # factor from one temperature to the next; larger ones lose the start of Newton's method
_STAGE_TARGET = 1e-4  # gap at which a stage of annealing hands over
_FACE_STEPS = 1000  # of the active-set method, far more than it takes
_HEIGHT_ROUNDINGS = 16.0  # of the dual value, by which it may seem to fall
_PROXIMAL_TEMPERATURES = (1e-2, 1e-4, 1e-6, 1e-8, 1e-10, 1e-12)  # of the projection, relative to beta


def projection_temperature(tau: Tensor, beta: Tensor) -> Tensor:
    """tau, and where it is 0 the last temperature of the projection, at which derivatives are taken."""
    return torch.where(tau > 0, tau, _PROXIMAL_TEMPERATURES[-1] * beta)


def evaluate(problem: Problem, max_iterations: int) -> Solution:
    """Rows with beta = 0: v = x / tau, and its mean."""
    v = problem.x / problem.tau[:, None]
    law = torch.softmax(v @ problem.atoms.mT + problem.bias, dim=1)
    bound = 4 * ROUNDING * (1 + torch.linalg.vector_norm(v, dim=1) + law @ problem.bias.abs())
    zero = torch.zeros_like(problem.tau, dtype=torch.int64)
    return Solution(v, law @ problem.atoms, torch.zeros_like(bound), bound, zero, zero.clone())


def minimise(problem: Problem, max_iterations: int, start: Tensor | None = None) -> Solution:
    """Rows with tau > 0 and beta > 0, in at most ``max_iterations`` >= 1 Newton steps each."""
    start = _start(problem) if start is None else start
    found = descend(problem, start, min(_DIRECT_STEPS, max_iterations))
    left = found.status == int(Status.max_iterations)
    if max_iterations > _DIRECT_STEPS and bool(left.any()):
        annealed = _anneal(problem.rows(left), max_iterations - _DIRECT_STEPS)
        annealed.iterations += _DIRECT_STEPS
        found.put(left, annealed)
    return found


def _start(problem: Problem) -> Tensor:
    """The better of v = 0 and the solution with the law at its sharpest, (B, d)."""
    keys = atom_keys(problem.atoms, -problem.bias)
    support, weights, *_ = polyhedral_face(problem.x, problem.tau, problem.beta, keys, _START_STEPS)
    corner = (weights[:, None, :] @ problem.atoms[support])[:, 0]
    sharp = (problem.x - problem.beta[:, None] * corner) / problem.tau[:, None]
    better = problem.objective(sharp) < problem.objective(torch.zeros_like(sharp))
    return torch.where(better[:, None], sharp, 0.0)


def _anneal(problem: Problem, max_iterations: int) -> Solution:
    """The same rows through falling temperatures, the source point u ~ v / sharpness carried from one to the next."""
    flatness = max(1.0, float(problem.bias.max() - problem.bias.min()), float((problem.beta / problem.tau).max()))
    v, count = torch.zeros_like(problem.x), torch.zeros_like(problem.tau, dtype=torch.int64)
    while flatness > 1:
        flat = problem.softened(flatness)
        found = descend(flat, v, max(1, max_iterations - int(count.max())), _STAGE_TARGET)
        cooling = min(_COOLING, flatness)
        v, count, flatness = cooling * found.multiplier, count + found.iterations, flatness / cooling
    found = descend(problem, v, max(1, max_iterations - int(count.max())))
    found.iterations += count
    return found


def project(problem: Problem, max_iterations: int) -> Solution:
    """Rows with tau = 0: the projection of x / beta on the hull of the atoms.

    Outside the hull it is a face, which the polyhedral method finds. Inside, where that method would need one atom
    after the other, the proximal-point method with falling temperatures finds the law whose mean is the query.
    """
    inner = problem.x / problem.beta[:, None]
    v, height = None, torch.full_like(problem.tau, -torch.inf)
    pushed, count = torch.zeros_like(inner), torch.zeros_like(problem.tau, dtype=torch.int64)
    for relative in _PROXIMAL_TEMPERATURES:
        stage = problem.proximal(relative * problem.beta, pushed)
        found = minimise(stage, max_iterations, v)
        v, count = found.multiplier, count + found.iterations
        # the supremum of <v, y> - logsumexp(v) is what the stages climb: one that rounding spoilt is not kept, while
        # of two as high up to rounding the later is nearer
        reached = (v * inner).sum(1) - problem.log_sum(v)
        slack = _HEIGHT_ROUNDINGS * ROUNDING * (1 + torch.linalg.vector_norm(v, dim=1) + reached.abs())
        pushed = torch.where((reached >= height - slack)[:, None], v, pushed)
        height = torch.maximum(reached, height)
    distance = torch.linalg.vector_norm(inner - found.point, dim=1) + found.bound
    found = Solution(pushed, inner, torch.full_like(distance, torch.nan), distance, count, found.status)
    inside = distance <= BOUND_ACCEPTED
    found.status[inside] = int(Status.converged)
    if not bool(inside.all()):
        found.put(~inside, _face(problem.rows(~inside), found.rows(~inside)))
    return found


def _face(problem: Problem, found: Solution) -> Solution:
    """The polyhedral projection, unless the law found has come closer; the multiplier is the law's."""
    keys = atom_keys(problem.atoms, torch.zeros_like(problem.bias))
    zero = torch.zeros_like(problem.tau)
    support, weights, gap, iterations, status = polyhedral_face(problem.x, zero, problem.beta, keys, _FACE_STEPS)
    point = (weights[:, None, :] @ problem.atoms[support])[:, 0]
    size = torch.linalg.vector_norm(problem.x, dim=1) / problem.beta
    bound = (gap / problem.beta).sqrt() + 4 * ROUNDING * (1 + size)
    closer = found.bound < bound
    return Solution(
        multiplier=found.multiplier,
        point=torch.where(closer[:, None], found.point, point),
        gap=found.gap,
        bound=torch.minimum(found.bound, bound),
        iterations=found.iterations + iterations,
        status=torch.where(closer & (found.bound <= BOUND_ACCEPTED), int(Status.converged), status),
    )
