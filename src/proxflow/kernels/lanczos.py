"""Extreme eigenvalues of a batch of symmetric operators known by their products, by restarted block Lanczos.

All operators of the batch move together: one product per step for the whole batch. The basis is orthogonalised in full,
the Rayleigh quotient is computed as it is (nothing is assumed tridiagonal), and residuals are measured, not estimated.
A Krylov space holds at most one copy per block row of a repeated eigenvalue, so converged values are believed only
after new random directions, orthogonal to the basis, have not changed them (Golub and Van Loan 2013, section 10.3).

Invariant: the basis is orthonormal to rounding, so that Ritz values lie inside the spectrum and a residual bounds the
distance to an eigenvalue. Stops when all wanted residuals are below the tolerance times the largest |Ritz value| and
two rounds of new directions changed nothing, or at the cap on products.

Cost: one product of the batch with 4 directions a step, O(d m) to orthogonalise against a basis of m, O(m^3) for the
Ritz values every fourth step.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BLOCK", "Extremes", "extreme_eigenvalues"]

BLOCK = 4  # directions multiplied at once: eigenvalues of this multiplicity are found together
"""Directions per operator that are multiplied at once."""

_STEPS = 4  # products between two evaluations of the eigenvalues
_EVALUATIONS = 2  # that new random directions get before converged values are believed


@dataclass(frozen=True)
class Extremes:
    """Eigenvalues (B, k) ascending with unit vectors (B, d, k), and residuals |A w - r w| (B, k).

    Attributes:
        values, vectors, residuals: see above.
        scale: (B,) largest |Ritz value|, an estimate of the spectral norm from below.
        products: how often the batch was multiplied by ``BLOCK`` directions.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    scale: Tensor
    products: int


def extreme_eigenvalues(
    multiply: Callable[[Tensor], Tensor],
    like: Tensor,
    lowest: int,
    highest: int,
    tolerance: float,
    max_products: int,
    generator: torch.Generator,
) -> Extremes:
    """The ``lowest`` smallest and ``highest`` largest eigenvalues of each operator.

    Args:
        multiply: symmetric operators on rows, (B, 4, d) -> (B, 4, d).
        like: (B, d), for shape, dtype and device; d >= 64 and at least four times the number wanted.
        lowest, highest: at least one of them positive.
        tolerance: on residuals, relative to ``scale``.
        max_products: cap on products of the batch.
        generator: generator of the starting directions.

    Returns:
        ``Extremes``, the lowest and then the highest; residuals above the tolerance are those of a cap reached.
    """
    search = _Search(multiply, like, lowest, highest)
    rows = _random(like, generator)
    settled: Tensor | None = None
    trusted = products = 0
    while True:
        for _ in range(_STEPS):
            rows = search.expand(_orthonormal(rows, search.basis, generator))
            products += 1
        if search.size < lowest + highest:
            continue
        found, residual = search.evaluate()
        allowed = tolerance * found.scale[:, None]
        done = bool((found.residuals <= allowed).all())
        steady = settled is not None and bool(((found.values - settled).abs() <= allowed).all())
        trusted = trusted + 1 if done and steady else 0
        if products >= max_products or trusted >= _EVALUATIONS:
            return Extremes(found.values, found.vectors, found.residuals, found.scale, products)
        if not done:
            settled, rows = None, _worst(residual, found.residuals)
        elif not steady:
            settled, rows = found.values, _random(like, generator)  # converged: are there copies outside?
        rows = _orthonormal(rows, search.basis, generator)  # before the basis shrinks
        search.make_room()


class _Search:
    """An orthonormal basis of each operator's search space, its image, and the Rayleigh quotient on it."""

    def __init__(self, multiply: Callable[[Tensor], Tensor], like: Tensor, lowest: int, highest: int) -> None:
        batch, dim = like.shape
        self._multiply, self._lowest, self._highest = multiply, lowest, highest
        # a restart keeps the wanted pairs and some of their neighbours
        self._low = lowest + max(BLOCK, lowest // 2) if lowest else 0
        self._high = highest + max(BLOCK, highest // 2) if highest else 0
        longest = self._low + self._high + 2 * _STEPS * BLOCK
        self._basis, self._image = like.new_empty(batch, longest, dim), like.new_empty(batch, longest, dim)
        self._quotient = like.new_zeros(batch, longest, longest)
        self.size = 0

    @property
    def basis(self) -> Tensor:
        """(B, m, d), rows orthonormal."""
        return self._basis[:, : self.size]

    def expand(self, rows: Tensor) -> Tensor:
        """Take new rows (B, c, d) into the basis; their images, which are the next directions of a Krylov space."""
        image = self._multiply(rows)
        new = slice(self.size, self.size + rows.shape[1])
        self._basis[:, new], self._image[:, new] = rows, image
        self.size = new.stop
        block = self.basis @ image.mT
        self._quotient[:, : self.size, new] = block
        self._quotient[:, new, : self.size] = block.mT
        corner = self._quotient[:, new, new]
        self._quotient[:, new, new] = 0.5 * (corner + corner.mT)
        return image

    def evaluate(self) -> tuple[Extremes, Tensor]:
        """The wanted Ritz pairs and their residual vectors (B, k, d)."""
        values, rotation = torch.linalg.eigh(self._quotient[:, : self.size, : self.size])
        self._values, self._rotation = values, rotation
        chosen = [*range(self._lowest), *range(self.size - self._highest, self.size)]
        turned = rotation[:, :, chosen].mT
        vectors = turned @ self.basis
        residual = turned @ self._image[:, : self.size] - values[:, chosen, None] * vectors
        norms = torch.linalg.vector_norm(residual, dim=2)
        return Extremes(values[:, chosen], vectors.mT, norms, values.abs().amax(1), 0), residual

    def make_room(self) -> None:
        """Shrink the basis to the extreme Ritz vectors of the last evaluation if the next steps would not fit."""
        if self.size + _STEPS * BLOCK <= self._basis.shape[1]:
            return
        kept = [*range(self._low), *range(self.size - self._high, self.size)]
        turned = self._rotation[:, :, kept].mT
        self._basis[:, : len(kept)] = turned @ self.basis
        self._image[:, : len(kept)] = turned @ self._image[:, : self.size]
        self._quotient[:, : len(kept), : len(kept)] = torch.diag_embed(self._values[:, kept])
        self.size = len(kept)


def _worst(residual: Tensor, norms: Tensor) -> Tensor:
    """Residuals of the pairs that are farthest from converged: in a Krylov space these span its next block."""
    order = norms.topk(min(BLOCK, norms.shape[1]), dim=1).indices
    rows = residual.gather(1, order[:, :, None].expand(-1, -1, residual.shape[2]))
    return torch.nn.functional.pad(rows, (0, 0, 0, BLOCK - rows.shape[1]))


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    draws = torch.randn(len(like), BLOCK, like.shape[1], generator=generator, dtype=torch.float64)
    return draws.to(like)


def _orthonormal(rows: Tensor, basis: Tensor, generator: torch.Generator) -> Tensor:
    """Orthonormal rows, orthogonal to the basis; those that vanish in what is there are replaced by random ones."""
    while True:
        size = torch.linalg.vector_norm(rows, dim=2, keepdim=True)
        unit = rows / torch.where(size > 0, size, 1.0)
        frame, triangle = torch.linalg.qr(_without(unit, basis).mT)
        lost = triangle.diagonal(dim1=1, dim2=2).abs() <= 64 * torch.finfo(rows.dtype).eps
        if not bool(lost.any()):
            clean: Tensor = torch.linalg.qr(_without(frame.mT, basis).mT)[0].mT
            return clean
        rows = torch.where(lost[:, :, None], _random(rows[:, 0], generator), frame.mT)


def _without(rows: Tensor, basis: Tensor) -> Tensor:
    return rows - (rows @ basis.mT) @ basis
