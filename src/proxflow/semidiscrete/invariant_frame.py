"""Coordinates that every element of a group keeps or turns round, for antithetic noise of symmetric fits.

A fit with a group searches max_g max_j <g^-1 u, y_j> - h_j. Where each g is its own inverse, as flips are, all of
them are diagonal in one orthonormal basis, with entries s_g of 1 and -1, and g^-1 u has the coordinates of u with these
signs. Then a product with the atoms serves all choices of signs of the parts of u again, one product for each element.

The basis is random where the group allows it: the eigenvectors of the sum of g S g^T over the group, for a random
symmetric S, are uniformly random within each space of vectors with the same signs s_g. An element that turned most of
each atom round would take a draw's opposite, which is a draw too, to about the same cell: such noise would be no better
than half of it. Two vectors at a cosine of .3 are in a half-space of mass .001 together in 1.5% of the cases that one
of them is.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.symmetry import Symmetry

__all__ = ["InvariantFrame", "invariant_frame"]

_ATOMS_REPAY = 1000  # eigenvectors in d dimensions cost less than the steps of a fit from d^2 over so many atoms on
_TURNED = 0.3  # cosine of atoms and the opposites of their images, that noise still gains by


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
        """Whether an element turns most of rows (n, d) round, of these weights (n,): cosines with its images tell."""
        squares = weights.double() @ (rows.double() @ self.columns).square()
        return bool((self.signs[1:] @ squares < -_TURNED * squares.sum()).any())


def invariant_frame(symmetry: Symmetry, atoms: int) -> InvariantFrame | None:
    """Always the same for a group; None where there is none, or where it would cost more than so many atoms repay."""
    dim, elements = symmetry.dim, range(len(symmetry))
    if dim**2 > _ATOMS_REPAY * atoms or any(symmetry.inverse(element) != element for element in elements):
        return None
    drawn = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    total = torch.zeros_like(drawn)
    for element in elements:
        total += symmetry.apply(symmetry.apply(drawn + drawn.mT, element).mT, element)
    vectors = torch.linalg.eigh(total).eigenvectors.mT
    vectors *= (vectors @ drawn[:, :1]).sign()  # which of a vector and its opposite comes depends on the processor
    kept = torch.stack([(symmetry.apply(vectors, g) * vectors).sum(1) for g in elements])  # 1 or -1
    signs, kind, counts = kept.sign().unique(dim=1, return_inverse=True, return_counts=True)
    order = kind.argsort(stable=True)
    return InvariantFrame(vectors[order].mT.contiguous(), signs[:, kind[order]], int(counts.min()))
