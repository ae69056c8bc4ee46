r"""Batched active-set solver for the prox of a polyhedral potential.

Each row minimises, over weights p on the simplex,

    alpha <p, h> + beta |Y'p|^2 / 2 - <x, Y'p>

whose solution y = Y'p, r = x - beta y (= alpha u) is the Moreau pair of x. Optimality is that no atom scores
higher under r than the support does: the *scaled gap*  max_j (<r, y_j> - alpha h_j) - (<r, y> - alpha <p, h>)
is alpha times the Fenchel-Young gap, needs no division by alpha, and certifies the row.

The best single vertex is tried first: on a flow trajectory it is the solution, found in two searches. The other
rows go through a simplicial active-set method (Wolfe 1976, with a linear term): solve for the affine minimiser
of the support, step towards it until a weight vanishes, drop that atom; where it is feasible, search and add the
best-scoring atom. Support systems are solved as corrections from the current residuals, so rounding does not build
up, and a faint regularisation turns an affinely dependent support into a pivot instead of a breakdown.

Atoms come as ``keys`` (N, d + 2) = [y, -h, -|y|^2 / 2], normalised by the caller to |y| <= 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.norms import row_norm
from proxflow.kernels.search import argmax_affine
from proxflow.results import Status

__all__ = ["affine_step", "atom_keys", "polyhedral_face", "score_size"]

_ROUNDINGS = 8.0  # scores agree to this many roundings of their size
_REGULARISATION = 1e-13
_REFINEMENTS = 3


def atom_keys(points: Tensor, heights: Tensor) -> Tensor:
    """[y, -h, -|y|^2 / 2]: rows whose inner product with [x, alpha, beta] ranks the atoms, (N, d + 2)."""
    return torch.cat([points, -heights[:, None], -0.5 * points.square().sum(1, keepdim=True)], dim=1)


@torch.library.custom_op("proxflow::polyhedral_face", mutates_args=())
def polyhedral_face(
    x: Tensor, alpha: Tensor, beta: Tensor, keys: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Solve every row; an opaque operator, so that autograd, vmap and compile see only its results.

    Args:
        x: (B, d) queries.
        alpha, beta: (B,), >= 0.
        keys: (N, d + 2) normalised atoms.
        max_iterations: cap on active-set steps per row.

    Returns:
        support (B, K) atom indices, 0 where unused; weights (B, K), 0 where unused; scaled gap (B,);
        iterations (B,); status (B,).
    """
    finite = torch.isfinite(x).all(1) & torch.isfinite(alpha) & torch.isfinite(beta)
    clean = torch.where(finite[:, None], x, 0.0)
    alpha, beta = torch.where(finite, alpha, 1.0), torch.where(finite, beta, 1.0)
    vertex = argmax_affine(torch.cat([clean, alpha[:, None], beta[:, None]], dim=1), keys)
    gap, _ = _certify(clean, alpha, beta, keys, keys[vertex, :-1])
    support, weights = vertex[:, None], torch.ones_like(x[:, :1])
    iterations = torch.zeros_like(vertex)
    status = torch.where(finite, int(Status.converged), int(Status.non_finite))
    open_rows = torch.nonzero(finite & (gap > _tolerance(clean, alpha, beta, keys)))[:, 0]
    if len(open_rows):
        solved = _Batch.start(clean[open_rows], alpha[open_rows], beta[open_rows], keys, vertex[open_rows])
        solved.run(max_iterations)
        extra = solved.support.shape[1] - 1
        support = torch.nn.functional.pad(support, (0, extra))
        weights = torch.nn.functional.pad(weights, (0, extra))
        support[open_rows], weights[open_rows] = solved.support, solved.weights.to(x.dtype)
        gap[open_rows], iterations[open_rows] = solved.gap, solved.iterations
        status[open_rows] = solved.status
    return support, weights, gap.clamp(min=0), iterations, status


@polyhedral_face.register_fake
def _(
    x: Tensor, alpha: Tensor, beta: Tensor, keys: Tensor, max_iterations: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    width = torch.library.get_ctx().new_dynamic_size()
    index = torch.empty(len(x), dtype=torch.int64, device=x.device)
    support = torch.empty((len(x), width), dtype=torch.int64, device=x.device)
    return support, x.new_empty((len(x), width)), x.new_empty(len(x)), index, index.clone()


@polyhedral_face.register_vmap
def _(
    info: object,
    in_dims: tuple[int | None, ...],
    x: Tensor,
    alpha: Tensor,
    beta: Tensor,
    keys: Tensor,
    max_iterations: int,
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    if in_dims[3] is not None:
        raise NotImplementedError("the atoms of a discrete potential cannot be batched by vmap")
    size: int = info.batch_size  # type: ignore[attr-defined]

    def batched(tensor: Tensor, dim: int | None) -> Tensor:
        moved = tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        return moved.flatten(0, 1)

    rows = [batched(a, b) for a, b in zip((x, alpha, beta), in_dims[:3], strict=True)]
    outputs = polyhedral_face(rows[0], rows[1], rows[2], keys, max_iterations)
    return tuple(out.unflatten(0, (size, -1)) for out in outputs), (0, 0, 0, 0, 0)


def affine_step(scores: Tensor, offsets: Tensor, used: Tensor, beta: Tensor, regularisation: float) -> Tensor:
    """The change of weights from a point of a support's hull to the minimiser on its affine hull.

    Args:
        scores: (B, K) scores <r, y_i - y> - alpha h_i of the support at the current point y.
        offsets: (B, K, d) y_i - y.
        used: (B, K) which slots hold an atom.
        beta: (B,); where it is 0 the support must be a single atom.
        regularisation: added to the diagonal, relative to its mean.

    Returns:
        (B, K) changes, summing to 0; differentiable in scores and offsets.
    """
    mask = used.to(scores.dtype)
    offsets = offsets * mask[:, :, None]
    gram = offsets @ offsets.mT
    count = mask.sum(1)
    size = (gram.diagonal(dim1=1, dim2=2).sum(1) / count)[:, None]
    size = torch.where(size > 0, size, 1.0)
    diagonal = torch.where(used, regularisation * size, 1.0)
    matrix = gram + size[:, :, None] * mask[:, :, None] * mask[:, None, :] + torch.diag_embed(diagonal)
    level = (scores * mask).sum(1, keepdim=True) / count[:, None]
    centred = (scores - level) * mask / beta.clamp(min=torch.finfo(beta.dtype).tiny)[:, None]
    factor = torch.linalg.cholesky_ex(matrix).L
    solution = torch.cholesky_solve(torch.stack([centred, mask], dim=2), factor)
    newton, ones = solution.unbind(2)
    return (newton - ones * (newton.sum(1, keepdim=True) / ones.sum(1, keepdim=True))) * mask


def score_size(x: Tensor, alpha: Tensor, beta: Tensor, keys: Tensor) -> Tensor:
    """Largest size of the terms of a scaled score, the unit of its rounding, (B,)."""
    return row_norm(x) + beta + alpha * keys[:, -2].abs().max()


def _tolerance(x: Tensor, alpha: Tensor, beta: Tensor, keys: Tensor) -> Tensor:
    return _ROUNDINGS * torch.finfo(x.dtype).eps * score_size(x, alpha, beta, keys)


def _certify(x: Tensor, alpha: Tensor, beta: Tensor, keys: Tensor, lifted: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled gap at lifted points [y, -psi] (B, d + 1), and the atom that attains it."""
    residual = torch.cat([x - beta[:, None] * lifted[:, :-1], alpha[:, None]], dim=1)
    best = argmax_affine(residual, keys[:, :-1])
    return ((keys[best, :-1] - lifted) * residual).sum(1), best


@dataclass
class _Batch:
    """The rows still being solved, written back into full-size results as they finish."""

    x: Tensor
    alpha: Tensor
    beta: Tensor
    keys: Tensor
    support: Tensor
    weights: Tensor
    used: Tensor
    gap: Tensor
    iterations: Tensor
    status: Tensor
    tolerance: Tensor

    @classmethod
    def start(cls, x: Tensor, alpha: Tensor, beta: Tensor, keys: Tensor, vertex: Tensor) -> _Batch:
        return cls(
            x=x,
            alpha=alpha,
            beta=beta,
            keys=keys,
            support=vertex[:, None],
            weights=torch.ones(len(x), 1, dtype=torch.float64, device=x.device),
            used=torch.ones(len(x), 1, dtype=torch.bool, device=x.device),
            gap=torch.full_like(alpha, torch.inf),
            iterations=torch.zeros_like(vertex),
            status=torch.full_like(vertex, int(Status.max_iterations)),
            tolerance=_tolerance(x, alpha, beta, keys),
        )

    def run(self, max_iterations: int) -> None:
        """Iterate until every row has converged, stalled or used its steps."""
        rows = torch.arange(len(self.x), device=self.x.device)
        refinements = torch.zeros_like(rows)
        feasible = torch.ones_like(rows, dtype=torch.bool)
        for _ in range(max_iterations):
            ready = rows[feasible]
            finished, repeated = self._search(ready)
            refinements[ready] += repeated
            stalled = repeated & (refinements[ready] > _REFINEMENTS) & ~finished
            self.status[ready[stalled]] = int(Status.stalled)
            over = torch.zeros_like(feasible)
            over[feasible] = finished | stalled
            rows, feasible = rows[~over], feasible[~over]
            if len(rows) == 0:
                return
            self.iterations[rows] += 1
            feasible = self._move(rows)
        self._search(rows)

    def _lifted(self, rows: Tensor) -> Tensor:
        """[y, -psi] of the current points, in float64."""
        atoms = self.keys[self.support[rows], :-1].double()
        return (self.weights[rows, None, :] @ atoms)[:, 0]

    def _search(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Certify rows; add the best atom where it is new. Returns which finished, which found nothing new."""
        if len(rows) == 0:
            empty = torch.zeros(0, dtype=torch.bool, device=rows.device)
            return empty, empty
        lifted = self._lifted(rows).to(self.x.dtype)
        gap, atom = _certify(self.x[rows], self.alpha[rows], self.beta[rows], self.keys, lifted)
        self.gap[rows] = gap
        known = ((self.support[rows] == atom[:, None]) & self.used[rows]).any(1)
        finished = gap <= self.tolerance[rows]
        self.status[rows[finished]] = int(Status.converged)
        self._add(rows[~finished & ~known], atom[~finished & ~known])
        return finished, known

    def _add(self, rows: Tensor, atom: Tensor) -> None:
        if len(rows) and bool(self.used[rows].all(1).any()):
            room = (0, 4)
            self.support = torch.nn.functional.pad(self.support, room)
            self.weights = torch.nn.functional.pad(self.weights, room)
            self.used = torch.nn.functional.pad(self.used, room)
        slot = self.used[rows].to(torch.uint8).argmin(1)
        self.support[rows, slot] = atom
        self.weights[rows, slot] = 0.0
        self.used[rows, slot] = True

    def _move(self, rows: Tensor) -> Tensor:
        """Step towards the affine minimiser of each support; True where it was reached with weights > 0."""
        used, weights = self.used[rows], self.weights[rows]
        atoms = self.keys[self.support[rows], :-1].double()
        lifted = (weights[:, None, :] @ atoms)[:, 0]
        beta, alpha = self.beta[rows].double(), self.alpha[rows].double()
        residual = self.x[rows].double() - beta[:, None] * lifted[:, :-1]
        offsets = atoms - lifted[:, None, :]
        scores = (offsets[:, :, :-1] @ residual[:, :, None])[:, :, 0] + alpha[:, None] * offsets[:, :, -1]
        change = affine_step(scores, offsets[:, :, :-1], used, beta, _REGULARISATION)
        falling = used & (weights + change < 0)
        ratio = torch.where(falling, weights / torch.where(falling, -change, 1.0), torch.inf)
        length = ratio.amin(1).clamp(max=1.0)
        blocked = falling & (ratio <= length[:, None])
        weights = torch.where(used & ~blocked, (weights + length[:, None] * change).clamp(min=0.0), 0.0)
        self.weights[rows] = weights / weights.sum(1, keepdim=True)
        self.used[rows] = used & ~blocked
        self.support[rows] = torch.where(self.used[rows], self.support[rows], 0)
        return ~falling.any(1)
