"""Batched active-set solver for the prox of a polyhedral potential.

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

A system needs the squared distances between the atoms of its support only. They are kept, and grow by the distances
of one atom at a time, so that a step costs one search and O(K d) for a support of K atoms, in blocks of bounded
memory. Where there are fewer atoms than dimensions, rows that are still open after N searches in all continue in
coordinates of the atoms' span (from the Cholesky factor of the N x N Gram matrix, which costs as much as those
searches), where a step does not depend on d, and are then finished and certified in the space itself.

Atoms come as ``keys`` (N, d + 2) = [y, -h, -|y|^2 / 2], normalised by the caller to |y| <= 1.

At a solution, the face of the polyhedral potential is its contact set; affinely independent atoms of it span the face.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.geometry import ManyRows, finite_rows, row_blocks, row_norm
from proxflow.kernels.search import argmax_affine
from proxflow.results import Status

__all__ = ["affine_step", "atom_keys", "contact_basis", "contact_mask", "polyhedral_face", "score_size"]

_ROUNDINGS = 8.0  # scores agree to this many roundings of their size
_REGULARISATION = 1e-13  # relative to the mean of a diagonal
_REFINEMENTS = 3  # corrections of a support that repeats before the row counts as stalled
_BLOCK_BYTES = 1 << 21  # of atoms of supports held at once: they stay in a cache near the core
_GRAM_COLUMNS = 4096  # coordinates of all atoms that are held in float64 at once


def atom_keys(points: ManyRows, heights: Tensor) -> Tensor:
    """[y, -h, -|y|^2 / 2]: rows whose inner product with [x, alpha, beta] ranks the atoms, (N, d + 2)."""
    keys = heights.new_empty(len(points), points.shape[1] + 2)
    for part in row_blocks(points):
        y = points[part].to(heights.dtype)
        keys[part] = torch.cat([y, -heights[part, None], -0.5 * y.square().sum(1, keepdim=True)], dim=1)
    return keys


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
    finite = finite_rows(x) & torch.isfinite(alpha) & torch.isfinite(beta)
    clean = x if bool(finite.all()) else torch.where(finite[:, None], x, 0.0)
    alpha, beta = torch.where(finite, alpha, 1.0), torch.where(finite, beta, 1.0)
    vertex = argmax_affine(torch.cat([clean, alpha[:, None], beta[:, None]], dim=1), keys)
    gap, _ = _certify(clean, alpha, beta, keys, keys[vertex, :-1])
    support, weights = vertex[:, None], torch.ones_like(x[:, :1])
    iterations = torch.zeros_like(vertex)
    status = torch.where(finite, int(Status.converged), int(Status.non_finite))
    open_rows = torch.nonzero(finite & (gap > _tolerance(clean, alpha, beta, keys)))[:, 0]
    if len(open_rows):
        solved = _solve(clean[open_rows], alpha[open_rows], beta[open_rows], keys, vertex[open_rows], max_iterations)
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
    offsets = offsets * used.to(scores.dtype)[:, :, None]
    return _balanced_step(scores, offsets @ offsets.mT, used, beta, regularisation)


def _balanced_step(scores: Tensor, gram: Tensor, used: Tensor, beta: Tensor, regularisation: float) -> Tensor:
    """``affine_step`` from the Gram matrix (B, K, K) of the offsets, zero where a slot is not used."""
    mask = used.to(scores.dtype)
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


def _solve(x: Tensor, alpha: Tensor, beta: Tensor, keys: Tensor, vertex: Tensor, max_iterations: int) -> _Batch:
    """The active-set method for every row, in the span of the atoms where that is cheaper."""
    batch = _Batch.start(x, alpha, beta, keys, vertex, _tolerance(x, alpha, beta, keys))
    atoms, dim = len(keys), x.shape[1]
    if atoms < dim:
        batch.run(min(max_iterations, 1 + atoms // len(x)))
        rows = batch.unfinished(max_iterations)
        if len(rows):
            within, x_within = _span_coordinates(keys, x[rows])
            spanned = batch.moved(rows, within, x_within)
            spanned.run(max_iterations)
            batch.resume(rows, spanned)
            max_iterations += 2 * _REFINEMENTS  # to finish, where the span used up the steps
    batch.run(max_iterations)
    return batch


def _span_coordinates(keys: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Keys (N, N + 2) and queries (B, N) in float64 with the same scores and distances, up to a faint regularisation.

    With L L' the Gram matrix of the atoms, its rows have their inner products, and L^-1 Y x those of x with them.
    """
    points = keys[:, :-2]
    gram = torch.zeros(len(keys), len(keys), dtype=torch.float64, device=keys.device)
    products = torch.zeros(len(x), len(keys), dtype=torch.float64, device=keys.device)
    for left in range(0, points.shape[1], _GRAM_COLUMNS):
        columns = points[:, left : left + _GRAM_COLUMNS].double()
        gram += columns @ columns.mT
        products += x[:, left : left + _GRAM_COLUMNS].double() @ columns.mT
    gram.diagonal().add_(_REGULARISATION * len(keys) * gram.diagonal().mean())
    lower = torch.linalg.cholesky(gram)
    queries = torch.linalg.solve_triangular(lower, products.mT, upper=False).mT
    return torch.cat([lower, keys[:, -2:].double()], dim=1), queries


@dataclass
class _Batch:
    """The rows still being solved, written back into full-size results as they finish."""

    x: Tensor
    alpha: Tensor
    beta: Tensor
    keys: Tensor
    tolerance: Tensor
    support: Tensor
    weights: Tensor
    used: Tensor
    newest: Tensor  # slot of the last atom added, (B,)
    squares: Tensor  # squared distances between the atoms of a support, (B, K, K) float64
    lifted: Tensor  # [y, -psi] of the current points, (B, d + 1) float64
    gap: Tensor
    iterations: Tensor
    status: Tensor

    @classmethod
    def start(cls, x: Tensor, alpha: Tensor, beta: Tensor, keys: Tensor, vertex: Tensor, tolerance: Tensor) -> _Batch:
        """Every row at one vertex."""
        return cls(
            x=x,
            alpha=alpha,
            beta=beta,
            keys=keys,
            tolerance=tolerance,
            support=vertex[:, None],
            weights=torch.ones(len(x), 1, dtype=torch.float64, device=x.device),
            used=torch.ones(len(x), 1, dtype=torch.bool, device=x.device),
            newest=torch.zeros_like(vertex),
            squares=torch.zeros(len(x), 1, 1, dtype=torch.float64, device=x.device),
            lifted=keys[vertex, :-1].double(),
            gap=torch.full_like(alpha, torch.inf),
            iterations=torch.zeros_like(vertex),
            status=torch.full_like(vertex, int(Status.max_iterations)),
        )

    def unfinished(self, max_iterations: int) -> Tensor:
        """Rows that have neither converged nor stalled, with steps left."""
        return torch.nonzero((self.status == int(Status.max_iterations)) & (self.iterations < max_iterations))[:, 0]

    def moved(self, rows: Tensor, keys: Tensor, x: Tensor) -> _Batch:
        """Some rows in other coordinates of atoms and queries, in float64."""
        alpha, beta, tolerance = (part[rows].double() for part in (self.alpha, self.beta, self.tolerance))
        other = _Batch.start(x, alpha, beta, keys, self.support[rows, 0], tolerance)
        other.support, other.weights, other.used = self.support[rows], self.weights[rows], self.used[rows]
        other.newest, other.squares = self.newest[rows], self.squares[rows]
        other.iterations = self.iterations[rows]
        other.lifted = other.lifted.clone()
        other._measure(torch.arange(len(rows), device=rows.device))
        return other

    def resume(self, rows: Tensor, other: _Batch) -> None:
        """Take over the supports that another batch has found for some rows."""
        extra = other.support.shape[1] - self.support.shape[1]
        if extra > 0:
            self._widen(extra)
        self.support[rows], self.weights[rows], self.used[rows] = other.support, other.weights, other.used
        self.iterations[rows] = other.iterations
        self._measure(rows)

    def run(self, max_iterations: int) -> None:
        """Iterate until every row has converged, stalled or used its steps."""
        rows = self.unfinished(max_iterations)
        refinements = torch.zeros_like(self.iterations)
        feasible = torch.ones_like(rows, dtype=torch.bool)
        while len(rows):
            ready = rows[feasible]
            finished, repeated = self._search(ready)
            refinements[ready] += repeated
            stalled = repeated & (refinements[ready] > _REFINEMENTS) & ~finished
            self.status[ready[stalled]] = int(Status.stalled)
            over = self.iterations[rows] >= max_iterations
            over[feasible] |= finished | stalled
            unsearched = rows[over & ~feasible]
            rows = rows[~over]
            self._search(unsearched)
            self.iterations[rows] += 1
            feasible = self._move(rows)

    def _search(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Certify rows; add the best atom where it is new. Returns which finished, which found nothing new."""
        if len(rows) == 0:
            empty = torch.zeros(0, dtype=torch.bool, device=rows.device)
            return empty, empty
        lifted = self.lifted[rows].to(self.x.dtype)
        gap, atom = _certify(self.x[rows], self.alpha[rows], self.beta[rows], self.keys, lifted)
        self.gap[rows] = gap
        known = ((self.support[rows] == atom[:, None]) & self.used[rows]).any(1)
        finished = gap <= self.tolerance[rows]
        self.status[rows[finished]] = int(Status.converged)
        self._add(rows[~finished & ~known], atom[~finished & ~known])
        return finished, known

    def _add(self, rows: Tensor, atom: Tensor) -> None:
        if len(rows) and bool(self.used[rows].all(1).any()):
            self._widen(4)
        slot = self.used[rows].to(torch.uint8).argmin(1)
        self.support[rows, slot] = atom
        self.weights[rows, slot] = 0.0
        self.used[rows, slot] = True
        self.newest[rows] = slot

    def _widen(self, slots: int) -> None:
        room = (0, slots)
        self.support = torch.nn.functional.pad(self.support, room)
        self.weights = torch.nn.functional.pad(self.weights, room)
        self.used = torch.nn.functional.pad(self.used, room)
        self.squares = torch.nn.functional.pad(self.squares, room * 2)

    def _blocks(self, rows: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Blocks of rows with the offsets [y_i, -h_i] - [y, -psi] of their supports, (b, K, d + 1) in float64."""
        numbers = 8 * self.support.shape[1] * self.keys.shape[1]
        size = max(1, _BLOCK_BYTES // numbers)
        for top in range(0, len(rows), size):
            block = slice(top, top + size)
            atoms = self.keys[self.support[rows[block]], :-1].double()
            yield block, atoms.sub_(self.lifted[rows[block], None, :])

    def _measure(self, rows: Tensor) -> None:
        """Points and squared distances of supports that were set from outside."""
        for block, offsets in self._blocks(rows):
            some = rows[block]
            self.lifted[some] += (self.weights[some, None, :] @ offsets)[:, 0]
        for block, offsets in self._blocks(rows):
            gram = offsets[:, :, :-1] @ offsets[:, :, :-1].mT
            lengths = gram.diagonal(dim1=1, dim2=2)
            self.squares[rows[block]] = lengths[:, :, None] + lengths[:, None, :] - 2 * gram

    def _move(self, rows: Tensor) -> Tensor:
        """Step towards the affine minimiser of each support; True where it was reached with weights > 0."""
        reached = [torch.zeros(0, dtype=torch.bool, device=rows.device)]
        for block, offsets in self._blocks(rows):
            reached.append(self._move_block(rows[block], offsets))
        return torch.cat(reached)

    def _move_block(self, rows: Tensor, offsets: Tensor) -> Tensor:
        used, weights = self.used[rows], self.weights[rows]
        beta, alpha = self.beta[rows].double(), self.alpha[rows].double()
        residual = self.x[rows].double() - beta[:, None] * self.lifted[rows, :-1]
        each = torch.arange(len(rows), device=rows.device)
        newest = offsets[each, self.newest[rows]].clone()
        newest[:, -1] = 0.0
        scores, products = (offsets @ torch.stack([torch.cat([residual, alpha[:, None]], 1), newest], 2)).unbind(2)
        lengths = torch.linalg.vector_norm(offsets[:, :, :-1], dim=2).square()
        self._put_squares(rows, lengths + lengths[each, self.newest[rows], None] - 2 * products)
        change = _balanced_step(scores, self._gram(rows), used, beta, _REGULARISATION)
        falling = used & (weights + change < 0)
        ratio = torch.where(falling, weights / torch.where(falling, -change, 1.0), torch.inf)
        length = ratio.amin(1).clamp(max=1.0)
        blocked = falling & (ratio <= length[:, None])
        weights = torch.where(used & ~blocked, (weights + length[:, None] * change).clamp(min=0.0), 0.0)
        weights = weights / weights.sum(1, keepdim=True)
        self.weights[rows] = weights
        self.used[rows] = used & ~blocked
        self.support[rows] = torch.where(used & ~blocked, self.support[rows], 0)
        self.lifted[rows] += (weights[:, None, :] @ offsets)[:, 0]
        return ~falling.any(1)

    def _put_squares(self, rows: Tensor, squares: Tensor) -> None:
        """Squared distances (b, K) of the newest atoms from all."""
        newest = self.newest[rows]
        self.squares[rows, newest], self.squares[rows, :, newest] = squares, squares
        self.squares[rows, newest, newest] = 0.0

    def _gram(self, rows: Tensor) -> Tensor:
        """Inner products of a support's offsets from its current point, (b, K, K), 0 where a slot is not used.

        -2 <y_i - y, y_j - y> = |y_i - y_j|^2 - |y_i - y|^2 - |y_j - y|^2, and the last two are means of the first.
        """
        squares, weights, mask = self.squares[rows], self.weights[rows], self.used[rows].double()
        spread = (squares @ weights[:, :, None])[:, :, 0]
        spread = spread - 0.5 * (weights * spread).sum(1, keepdim=True)
        gram = 0.5 * (spread[:, :, None] + spread[:, None, :] - squares)
        return gram * mask[:, :, None] * mask[:, None, :]


_RANK_TOLERANCE = 1e-7  # relative to the radius of the atoms: data may have been rounded to float32 before
_RANK_ROUNDINGS = 16.0  # of each atom, below which no direction is seen


def contact_mask(residual: Tensor, alpha: Tensor, keys: Tensor, tolerance: Tensor) -> Tensor:
    """Atoms whose scaled score is within ``tolerance`` of the best, (B, N).

    Args:
        residual: (B, d) r = alpha u.
        alpha: (B,).
        keys: (N, d + 2) normalised atoms.
        tolerance: (B,) in scaled score units.
    """
    scores = torch.cat([residual, alpha[:, None]], dim=1) @ keys[:, :-1].mT
    return scores >= scores.amax(1, keepdim=True) - tolerance[:, None]


def contact_basis(residual: Tensor, alpha: Tensor, keys: Tensor, tolerance: Tensor, rows_at_once: int) -> Tensor:
    """Orthonormal basis (B, d, k) of the span of the contact sets' differences, zero columns where smaller.

    Works through ``rows_at_once`` rows at a time, so that memory does not grow with the batch.
    """
    d = keys.shape[1] - 2
    rounding = _RANK_ROUNDINGS * torch.finfo(keys.dtype).eps
    basis = residual.new_zeros(len(residual), d, d)
    for top in range(0, len(residual), rows_at_once):
        block = slice(top, top + rows_at_once)
        contact = contact_mask(residual[block], alpha[block], keys, tolerance[block])
        counts = contact.sum(1)
        for row in torch.nonzero(counts > 1)[:, 0].tolist():
            atoms = keys[contact[row], :d]
            _, size, directions = torch.linalg.svd(atoms - atoms.mean(0), full_matrices=False)
            kept = directions[size > max(_RANK_TOLERANCE, rounding * len(atoms) ** 0.5)]
            basis[top + row, :, : len(kept)] = kept.mT
    return basis
