"""Coordinates that every element of a group keeps or turns round, for antithetic noise of symmetric fits.

A fit with a group searches max_g max_j <g^-1 u, y_j> - h_j. Where each g is its own inverse, as flips are, all of
them are diagonal in one orthonormal basis, with entries s_g of 1 and -1, and g^-1 u has the coordinates of u with these
signs. Then a product with the atoms serves all choices of signs of the parts of u again, one product for each element.

The basis is random where the group allows it: the eigenvectors of the sum of g S g^T over the group, for a random
symmetric S, are uniformly random within each space of vectors with the same signs s_g. A sum of r_g g, for random r_g,
is added, which keeps the eigenvalues of different spaces far apart: a group that is rounded would mix them else.

An element that turns an atom round takes the opposite of a draw of the atom, which is a draw too, to the atom again:
the mass of its cell is found no better than by half of the draws. Two vectors at a cosine of .5 are in a half-space of
mass .001 together in 5% of the cases that one of them is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.geometry import row_norm
from proxflow.symmetry import Symmetry

__all__ = ["InvariantFrame", "bytes_of_frame", "invariant_frame"]

_ATOMS_REPAY = 1000  # eigenvectors in d dimensions cost less than the steps of a fit from d^2 over so many atoms on
_BYTES = 48  # for each of d^2 numbers of a frame: six matrices in float64 at once
_APART = 32.0  # distances of eigenvalues of different spaces, relative to those within one
_MISSED = 1e-4  # of its length, by which an image may miss being a column or its opposite
_TURNED = 0.5  # cosine of an atom and the opposite of its image, from which on it is turned round
_FEW_TURNED = 0.1  # share of all weight, that adds as much to the variance


@dataclass(frozen=True)
class InvariantFrame:
    """An orthonormal basis, float64.

    Attributes:
        columns: (d, d), those with the same signs side by side.
        signs: (G, d) of 1 and -1, what each element does to each.
        least: the dimension of the smallest space of vectors with the same signs.
    """

    columns: Tensor
    signs: Tensor
    least: int

    def dealt(self, parts: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """The columns in parts of k, (d, m k), and their signs, (G, m, k), in the dtype and on the device of ``like``.

        Each part has about as many of those with the same signs. Zeros fill the last columns.
        """
        dim = len(self.columns)
        size = -(-dim // parts)
        place = torch.arange(parts * size).view(size, parts).mT.flatten()  # every part takes its turn
        padded = (torch.nn.functional.pad(each, (0, parts * size - dim)) for each in (self.columns, self.signs))
        columns, signs = (each[:, place].to(like) for each in padded)
        return columns, signs.view(-1, parts, size)

    def turns(self, rows: Tensor, weights: Tensor) -> bool:
        """Whether elements turn more than a few of rows (n, d) round, of these weights (n,)."""
        squares = (rows.double() @ self.columns).square()
        cosines = squares @ self.signs[1:].mT  # of rows with their images, times |row|^2
        turned = (cosines < -_TURNED * squares.sum(1, keepdim=True)).any(1)
        return bool(weights[turned].sum() > _FEW_TURNED * weights.sum())


def bytes_of_frame(dim: int) -> int:
    """What ``invariant_frame`` takes at the most."""
    return _BYTES * dim**2


def invariant_frame(symmetry: Symmetry, atoms: int) -> InvariantFrame | None:
    """A basis that each element keeps or turns round, the same one whenever it is asked for.

    None for a group with elements that are not their own inverses, for one that is rounded so much that there is no
    such basis, and in more dimensions than so many atoms repay.
    """
    dim, elements = symmetry.dim, range(len(symmetry))
    if dim**2 > _ATOMS_REPAY * atoms or any(symmetry.inverse(element) != element for element in elements):
        return None
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
    distances = _APART * len(symmetry) * dim**0.5 * (1 + torch.rand(len(symmetry), generator=generator))
    identity, total = torch.eye(dim, dtype=torch.float64), torch.zeros_like(drawn)
    for element, apart in zip(elements, distances.tolist(), strict=True):
        total += symmetry.apply(symmetry.apply(drawn + drawn.mT, element).mT, element)
        total += apart * symmetry.apply(identity, element)
    vectors = torch.linalg.eigh(total).eigenvectors.mT
    vectors *= (vectors @ drawn[:, :1]).sign()  # which of a vector and its opposite comes depends on the processor
    kept = torch.empty(len(symmetry), dim, dtype=torch.float64)
    for element in elements:
        images = symmetry.apply(vectors, element)
        kept[element] = (images * vectors).sum(1).sign()
        if float(row_norm(images - kept[element][:, None] * vectors).max()) > _MISSED:
            return None
    signs, kind, counts = kept.unique(dim=1, return_inverse=True, return_counts=True)
    order = kind.argsort(stable=True)
    return InvariantFrame(vectors[order].mT.contiguous(), signs[:, kind[order]], int(counts.min()))
