"""From the rows a user gives to distinct atoms with positive weights, in the affine span of the data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proxflow.checks import Numbers, flat_points, point_weights, shares_memory, working_dtype
from proxflow.errors import counted
from proxflow.kernels.equal_rows import first_equal_rows
from proxflow.kernels.geometry import row_norm, tall_blocks
from proxflow.measures import Gaussian, Source, is_normal
from proxflow.potentials.atoms import centre_and_radius
from proxflow.potentials.orbits import orbit_of_row
from proxflow.potentials.symmetric import check_symmetry
from proxflow.symmetry import Symmetry

__all__ = ["Atoms", "Span", "gather_atoms", "spans_of"]


@dataclass(frozen=True)
class Atoms:
    """Distinct rows (N, d), their weights (N,) in float64 with sum 1, and the atom of every given row.

    Under a symmetry they are rows of different orbits, with the weights of those.
    """

    points: Tensor
    weights: Tensor
    atom_of_row: Tensor
    symmetry: Symmetry | None = None


def gather_atoms(points: Numbers, weights: Numbers | None, symmetry: Symmetry | None = None) -> Atoms:
    """Check the data, normalise the weights, and merge equal rows, and rows that are images of one another.

    Raises:
        ValueError: points are empty, 1-D, of another dtype or not finite; weights have the wrong length, are
            negative, not finite, zero on a whole atom, or all zero.
    """
    flat = flat_points("fit", points, stored=True)
    mass = point_weights("fit", weights, flat)
    first, atom_of_row = first_equal_rows(flat)
    kept_as_is = len(first) == len(flat) and flat.is_contiguous() and not shares_memory(flat, points)
    distinct = flat if kept_as_is else flat[first].contiguous()
    if symmetry is not None:
        check_symmetry("fit", symmetry, np.shape(points)[1:])
        kept, orbit = torch.unique(orbit_of_row(distinct, symmetry), return_inverse=True)
        distinct = distinct if len(kept) == len(distinct) else distinct[kept]
        atom_of_row = orbit[atom_of_row]
    total = torch.zeros(len(distinct), dtype=torch.float64, device=flat.device).index_add_(0, atom_of_row, mass)
    empty = torch.nonzero(total == 0)[:, 0]
    if len(empty):
        rows = torch.nonzero(torch.isin(atom_of_row, empty))[:, 0]
        found = counted(len(rows), "row has", "rows have")
        raise ValueError(f"fit: {found} weight zero, the first: {rows[:5].tolist()}; leave them out")
    return Atoms(distinct, total / total.sum(), atom_of_row, symmetry)


_ROUNDINGS = 4.0  # rows this many roundings of their own size away from a plane, in the mean square, lie in it
_BREAK = 1024.0  # least extent of the data inside their span, in those distances: else they may be data too


@dataclass(frozen=True)
class Span:
    """Atoms in coordinates of their affine span, the noise that they see, and the cost of what they do not see.

    Heights are the same in the span as in space. W2^2 in space is W2^2 in the span plus ``rest``. ``residual`` is the
    largest distance of a row from the span: its scores are wrong by about that much.
    """

    points: Tensor
    source: Source
    rest: float = 0.0
    residual: float = 0.0


def spans_of(atoms: Atoms, source: Source) -> tuple[Span, Span]:
    """The span of distinct rows (N, d) in their own precision, and in float64; one and the same if both are alike.

    It is the whole space, with the rows, unless the source is normal. Images of the rows may leave their span: under a
    symmetry it is the whole space, too.

    A projection of N(0, I) on any subspace is N(0, I) again, so that atoms on a line in R^20 make a problem in R^1.
    A direction is left out where every row's share of it is rounding of that row, and only if all others are far above
    their rounding: a far row must not hide the extent of the near ones, nor an offset that of small data.
    """
    points, dim = atoms.points, atoms.points.shape[1]
    whole = Span(points, source)
    if not is_normal(source) or len(points) == 1 or atoms.symmetry is not None:
        return whole, whole
    rows, roundings = _RelativeRows(points), _ROUNDINGS * len(points) ** 0.5
    coarse, least = (roundings * torch.finfo(precision).eps for precision in (working_dtype(points), torch.float64))
    if len(points) > dim and _reach_all_directions(rows, coarse):
        return whole, whole
    _, sizes, axes = torch.linalg.svd(_triangle(rows), full_matrices=False)
    ranks = _rank(sizes, coarse, dim), _rank(sizes, least, dim)
    spans = {rank: _projected(whole, axes[:rank].mT, rows.centre) if rank < dim else whole for rank in set(ranks)}
    return spans[ranks[0]], spans[ranks[1]]


def _rank(sizes: Tensor, least: float, dim: int) -> int:
    """Of singular values, in falling order, how many are no rounding, whose size is ``least``; all of ``dim`` if any is
    near to it."""
    kept = sizes[sizes > least]
    return len(kept) if len(kept) and bool(kept[-1] >= _BREAK * least) else dim


def _projected(whole: Span, basis: Tensor, centre: Tensor) -> Span:
    """The span of a basis (d, r) about a centre (d,) of the atoms in space; space itself if atoms become equal."""
    exact, (dim, rank) = whole.points.double(), basis.shape
    inside = exact @ basis
    if len(first_equal_rows(inside)[0]) < len(exact):
        return whole
    across = centre - basis @ (basis.mT @ centre)
    off = exact - centre - (inside - basis.mT @ centre) @ basis.mT
    rest = dim - rank + float(across.square().sum())
    return Span(inside, Gaussian(rank), rest, float(row_norm(off).max()))


class _RelativeRows:
    """Rows about their centre in units of their own sizes, in float64: blocks of them, one after the other."""

    def __init__(self, points: Tensor) -> None:
        self.centre, self._radius = centre_and_radius(points)
        self._points = points

    def __iter__(self) -> Iterator[Tensor]:
        about = row_norm(self.centre[None] / self._radius)
        for rows in tall_blocks(self._points):
            exact = self._points[rows].double()
            size = row_norm(exact / self._radius) + about
            yield torch.where(size > 0, 1 / size, 0.0)[:, None] * ((exact - self.centre) / self._radius)

    def __len__(self) -> int:
        return len(self._points)


def _reach_all_directions(parts: _RelativeRows, least: float) -> bool:
    """Whether all singular values of the rows (N, d) are above ``least``; False also where rounding leaves that open.

    The Cholesky factor of the Gram matrix less a multiple of the identity exists only if its eigenvalues are above
    that. Products and a factorisation of it take a small part of the time of singular values. Their rounding is below
    N + d roundings of the trace.
    """
    dim = len(parts.centre)
    gram = torch.zeros(dim, dim, dtype=torch.float64, device=parts.centre.device)
    for block in parts:
        gram += block.mT @ block
    rounding = (len(parts) + dim) * torch.finfo(torch.float64).eps * gram.trace()
    gram.diagonal().sub_(least**2 + 2 * rounding)
    return int(torch.linalg.cholesky_ex(gram).info) == 0


def _triangle(parts: _RelativeRows) -> Tensor:
    """R of a QR factorisation of the rows."""
    triangle = parts.centre.new_empty(0, len(parts.centre))
    for block in parts:
        triangle = torch.linalg.qr(torch.cat([triangle, block]), mode="r").R
    return triangle
