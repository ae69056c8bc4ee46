"""Spectrum of the symmetric part of A(t) at given points, written out or by extreme eigenvalues."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from proxflow.analysis.terminal.flat_field import (
    DENSE_LIMIT,
    FlatField,
    probed_products,
    random_signs,
    symmetric_part,
)
from proxflow.checks import whole_number
from proxflow.kernels.lanczos import BLOCK, extreme_eigenvalues

__all__ = ["Ends", "Spectrum", "Which", "ends", "point_spectrum"]

Which = Literal["both", "lowest", "highest"]

_PROBES = 16  # random directions that estimate the asymmetry of a large Jacobian
_MOST_PRODUCTS = 600  # with the Jacobian, before eigenvalues count as not found


@dataclass(frozen=True)
class Ends:
    """How many eigenvalues are taken from each end, the tolerance on them, and whether matrices are written out."""

    lowest: int
    highest: int
    dense: bool
    tolerance: float


@dataclass(frozen=True)
class Spectrum:
    """Eigenvalues of (A + A') / 2 at B points, ascending, and how far A is from symmetric.

    Attributes:
        rates: (B, k).
        vectors: (B, d, k), orthonormal columns.
        residuals: |(A + A') w / 2 - r w|, (B, k).
        asymmetry: |A - A'| / |A| in Frobenius norm, (B,), between 0 and 2.
        asymmetry_stderr: its standard error, (B,); 0 where A was written out.
    """

    rates: Tensor
    vectors: Tensor
    residuals: Tensor
    asymmetry: Tensor
    asymmetry_stderr: Tensor


def ends(field: FlatField, count: int | None, which: Which, tolerance: float) -> Ends:
    """What a request for ``count`` eigenvalues means in this dimension.

    Raises:
        ValueError: a count that cannot be had, an unknown end, or a tolerance that is not positive.
    """
    owner, dim = field.owner, field.dim
    if which not in get_args(Which):
        raise ValueError(f"{owner}: which must be one of {', '.join(get_args(Which))}, got {which!r}")
    if not 0 < tolerance < 1:
        raise ValueError(f"{owner}: tolerance must be a number in (0, 1), got {tolerance!r}")
    if count is None:
        if dim > DENSE_LIMIT and field.flow is None:
            raise ValueError(
                f"{owner}: in dimension {dim} > {DENSE_LIMIT} the whole spectrum of a bare callable is not computed; "
                "give count, the number of extreme eigenvalues wanted"
            )
        return Ends(dim, 0, True, tolerance)
    dense = dim <= DENSE_LIMIT
    most = dim if dense else dim // 4
    number = whole_number(count)
    if number is None or not 1 <= number <= most:
        raise ValueError(f"{owner}: count must be an integer from 1 to {most} in dimension {dim}, got {count!r}")
    count = number
    highest = {"both": (count + 1) // 2, "lowest": 0, "highest": count}[which]
    return Ends(count - highest, highest, dense, tolerance)


def point_spectrum(field: FlatField, t: Tensor, x: Tensor, wanted: Ends, generator: torch.Generator) -> Spectrum:
    """The wanted eigenvalues at the flat points ``x`` (B, d); NaN where point or velocity are not finite.

    Written out in blocks of bounded memory up to dimension 256 (for a ``ProximalFlow`` whenever all are wanted); else
    by ``extreme_eigenvalues``, which holds no (d, d) matrix.
    """
    good = torch.isfinite(x).all(1)
    good[good.clone()] = torch.isfinite(field.velocity(t, x[good]).detach()).all(1)
    size = wanted.lowest + wanted.highest
    method, rows = (_dense, _dense_rows(field)) if wanted.dense else (_sparse, _sparse_rows(field, size))
    out = _blank(x, size)
    for part in torch.nonzero(good)[:, 0].split(rows):
        for whole, piece in zip(out, method(field, t, x[part], wanted, generator), strict=True):
            whole[part] = piece
    return Spectrum(*out)


def _blank(x: Tensor, size: int) -> tuple[Tensor, ...]:
    shapes = (size,), (x.shape[1], size), (size,), (), ()
    return tuple(x.new_full((len(x), *shape), torch.nan) for shape in shapes)


def _dense(field: FlatField, t: Tensor, x: Tensor, wanted: Ends, _: torch.Generator) -> tuple[Tensor, ...]:
    matrix = field.jacobian(t, x)
    symmetric = 0.5 * (matrix + matrix.mT)
    values, vectors = torch.linalg.eigh(symmetric)
    chosen = [*range(wanted.lowest), *range(field.dim - wanted.highest, field.dim)]
    values, vectors = values[:, chosen], vectors[:, :, chosen]
    residuals = torch.linalg.vector_norm(symmetric @ vectors - vectors * values[:, None, :], dim=1)
    asymmetry = _ratio(torch.linalg.matrix_norm(matrix - matrix.mT), torch.linalg.matrix_norm(matrix))
    return values, vectors, residuals, asymmetry, torch.zeros_like(asymmetry)


def _sparse(field: FlatField, t: Tensor, x: Tensor, wanted: Ends, generator: torch.Generator) -> tuple[Tensor, ...]:
    products = field.block_products(t, x, BLOCK)
    found = extreme_eigenvalues(
        symmetric_part(products), x, wanted.lowest, wanted.highest, wanted.tolerance, _MOST_PRODUCTS, generator
    )
    forward, transposed = probed_products(products, random_signs(len(x), _PROBES, x, generator), BLOCK)
    skew = (forward - transposed).square().sum(2)
    size = 0.5 * (forward.square() + transposed.square()).sum(2)
    return found.values, found.vectors, found.residuals, *_root_of_ratio(skew, size)


def _root_of_ratio(numerator: Tensor, denominator: Tensor) -> tuple[Tensor, Tensor]:
    """sqrt(mean numerator / mean denominator) over probes (B, p), and its standard error by linearisation."""
    below = denominator.mean(1)
    ratio = _ratio(numerator.mean(1), below)
    spread = _ratio((numerator - ratio[:, None] * denominator).std(1), below) / numerator.shape[1] ** 0.5
    root = ratio.sqrt()
    return root, _ratio(0.5 * spread, root)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, 0 where both vanish."""
    return torch.where(a == 0, 0.0, a / b)


def _dense_rows(field: FlatField) -> int:
    """Points whose matrices, a dozen of them each, fit into the memory allowed."""
    return max(1, field.max_memory // (8 * 12 * field.dim**2))


def _sparse_rows(field: FlatField, size: int) -> int:
    """Points whose Lanczos bases fit into the memory allowed."""
    return max(1, field.max_memory // (8 * field.dim * 8 * (size + 16)))
