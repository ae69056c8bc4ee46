"""Noise by the atom that it goes to: rejection sampling of Laguerre cells, keeping what is not yet wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.potentials import Discrete, Entropic

__all__ = ["NoiseLaw", "NoisePool"]

_BLOCK = 1 << 12
_MOST = 1 << 32  # occurrences of one atom
_NEAREST_AMONG = 1 << 12  # draws searched for the one nearest to a cell that none has hit


@dataclass(frozen=True)
class NoiseLaw:
    """How exact the noise served so far is.

    Attributes:
        served: rows served.
        approximated: those of them served by a draw outside of their cell, because no draw had hit it.
        largest_gap: the largest loss of score of those, max_j(<u, y_j> - h_j) - (<u, y_i> - h_i), a Fenchel-Young gap.
        draws: noise draws made for them all.
    """

    served: int = 0
    approximated: int = 0
    largest_gap: float = 0.0
    draws: int = 0


class NoisePool:
    """Draws waiting for their atom to be asked for.

    Args:
        draw: gives n source points (n, d) and their atoms (n,).
        potential: whose scores rank the draws for a cell that none has hit.
        max_draws: that one call may make.
        max_memory: bytes of waiting draws; of atoms with many, the surplus is dropped first.
    """

    def __init__(
        self,
        draw: Callable[[int, torch.Generator | None], tuple[Tensor, Tensor]],
        potential: Discrete | Entropic,
        max_draws: int,
        max_memory: int,
    ) -> None:
        self._draw, self._potential, self._max_draws = draw, potential, max_draws
        points = potential.points
        self._capacity = max(_BLOCK, max_memory // (points.element_size() * points.shape[1]))
        self._noise = points.new_empty(0, points.shape[1])
        self._atom = torch.empty(0, dtype=torch.int64, device=points.device)
        self.law = NoiseLaw()

    def take(self, atoms: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw for each atom asked for, (n, d), each draw given once."""
        noise = self._noise.new_empty(len(atoms), self._noise.shape[1])
        missing = self._serve(noise, atoms, torch.arange(len(atoms), device=atoms.device))
        drawn = 0
        while len(missing) and drawn < self._max_draws:
            fresh, cell = self._draw(_BLOCK, generator)
            drawn += _BLOCK
            self._noise, self._atom = torch.cat([self._noise, fresh]), torch.cat([self._atom, cell])
            missing = self._serve(noise, atoms, missing)
            self._shrink()
        gap = self._serve_nearest(noise, atoms, missing, generator) if len(missing) else 0.0
        law = self.law
        self.law = NoiseLaw(
            law.served + len(atoms),
            law.approximated + len(missing),
            max(law.largest_gap, gap),
            law.draws + drawn,
        )
        return noise

    def _serve(self, noise: Tensor, atoms: Tensor, wanted: Tensor) -> Tensor:
        """Give what is there to the requests ``wanted``, and return those still open."""
        if not len(self._atom):
            return wanted
        stock, stock_order = _occurrences(self._atom, len(self._potential.points))
        asked, asked_order = _occurrences(atoms[wanted], len(self._potential.points))
        place = torch.searchsorted(stock, asked).clamp(max=len(stock) - 1)
        found = stock[place] == asked
        given = stock_order[place[found]]
        noise[wanted[asked_order[found]]] = self._noise[given]
        kept = torch.ones_like(self._atom, dtype=torch.bool)
        kept[given] = False
        self._noise, self._atom = self._noise[kept], self._atom[kept]
        return wanted[asked_order[~found]]

    def _shrink(self) -> None:
        """Drop the later draws of the atoms that have most, where memory is short."""
        if len(self._atom) <= self._capacity:
            return
        key, order = _occurrences(self._atom, len(self._potential.points))
        earliest = (key % _MOST).argsort(stable=True)[: self._capacity // 2]
        kept = order[earliest].sort().values
        self._noise, self._atom = self._noise[kept], self._atom[kept]

    def _serve_nearest(self, noise: Tensor, atoms: Tensor, missing: Tensor, generator: torch.Generator | None) -> float:
        """Give each open request the fresh draw that loses least, and return the largest loss."""
        fresh, _ = self._draw(max(_NEAREST_AMONG, 2 * len(missing)), generator)
        best = self._potential.conjugate(fresh)
        free = torch.ones(len(fresh), dtype=torch.bool, device=fresh.device)
        largest = 0.0
        for request in missing.tolist():
            atom = atoms[request]
            loss = best - fresh @ self._potential.points[atom] + self._potential.heights[atom]
            choice = int(torch.where(free, loss, torch.inf).argmin())
            free[choice] = False
            noise[request] = fresh[choice]
            largest = max(largest, float(loss[choice]))
        return largest


def _occurrences(atoms: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sorted keys that pair each atom with the number of its earlier occurrences, and the order that sorts them."""
    sorted_atoms, order = atoms.sort(stable=True)
    sizes = torch.bincount(atoms, minlength=count)
    first = sizes.cumsum(0) - sizes
    rank = torch.arange(len(atoms), device=atoms.device) - first[sorted_atoms]
    return sorted_atoms * _MOST + rank, order
