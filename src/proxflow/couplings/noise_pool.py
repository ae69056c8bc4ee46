"""Noise by the atom that it goes to: rejection sampling of Laguerre cells, keeping what is not yet wanted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.couplings.process_local import Reserve
from proxflow.potentials import AtomicPotential
from proxflow.results import brief_repr

__all__ = ["NoiseLaw", "NoisePool"]

_LARGEST_BLOCK = 1 << 12  # draws made at once
_SMALLEST_BLOCK = 1 << 8  # draws made at once
_MOST = 1 << 32  # occurrences of one atom
_NEAREST_AMONG = 1 << 12  # draws searched for the one nearest to a cell that none has hit
_LEAST_TRIES = 1 << 17  # in a row that miss a cell, however few atoms
_TRIES_PER_ATOM = 32  # in a row that miss a cell of average mass once in e^32


@brief_repr
@dataclass(frozen=True)
class NoiseLaw:
    """How exact the noise served so far is.

    Attributes:
        served: rows served.
        approximated: those of them served by a draw outside of their cell, because too many in a row had missed it.
        largest_gap: the largest loss of score of those, max_j(<u, y_j> - h_j) - (<u, y_i> - h_i), a Fenchel-Young gap.
        draws: noise samples drawn for them all.
    """

    served: int = 0
    approximated: int = 0
    largest_gap: float = 0.0
    draws: int = 0


@dataclass(frozen=True)
class _Draws:
    """Source points (n, d) and their atoms (n,)."""

    noise: Tensor
    atom: Tensor

    def __len__(self) -> int:
        return len(self.atom)

    def rows(self, rows: Tensor) -> _Draws:
        return _Draws(self.noise[rows], self.atom[rows])


@dataclass(frozen=True)
class _Stock:
    """What a pool has at the moment: draws that wait, draws in a row that missed each atom (N,), and its record."""

    waiting: _Draws
    missed: Tensor
    law: NoiseLaw


class NoisePool:
    """Draws waiting for their atom to be asked for; a copy, or the pool in a forked process, begins with none.

    Args:
        draw: gives n source points (n, d) and their atoms (n,).
        potential: whose scores rank the draws for a cell that none has hit.
        max_draws: in a row that may miss a cell before it is given up, until one hits it; 32 for each atom, and 2^17 at
            the least, if None.
        max_memory: bytes of waiting draws; of atoms with many, the surplus is dropped first.
    """

    def __init__(
        self,
        draw: Callable[[int, torch.Generator | None], tuple[Tensor, Tensor]],
        potential: AtomicPotential,
        max_draws: int | None,
        max_memory: int,
    ) -> None:
        points = potential.points
        self._draw, self._potential = draw, potential
        self._max_draws = max(_LEAST_TRIES, _TRIES_PER_ATOM * len(points)) if max_draws is None else max_draws
        self._block = min(_LARGEST_BLOCK, max(_SMALLEST_BLOCK, 4 * len(points)))
        self._capacity = max(self._block, max_memory // (points.element_size() * points.shape[1]))
        self._stock: Reserve[_Stock] = Reserve()

    @property
    def law(self) -> NoiseLaw:
        """How exact what the pool has given so far is."""
        with self._stock.opened() as stock:
            return NoiseLaw() if stock.kept is None else stock.kept.law

    def take(self, atoms: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw for each atom asked for, (n, d), each draw given once."""
        noise = self._potential.points.new_empty(len(atoms), self._potential.points.shape[1])
        with self._stock.opened() as stock:
            stock.kept = self._given(noise, atoms, generator, stock.kept or self._empty())
        return noise

    def _empty(self) -> _Stock:
        points = self._potential.points
        none = torch.empty(0, dtype=torch.int64, device=points.device)
        missed = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        return _Stock(_Draws(points.new_empty(0, points.shape[1]), none), missed, NoiseLaw())

    def _given(self, noise: Tensor, atoms: Tensor, generator: torch.Generator | None, stock: _Stock) -> _Stock:
        """Fill ``noise`` and return what the pool has then."""
        missing = torch.arange(len(atoms), device=atoms.device)
        missing, waiting = self._serve(noise, atoms, missing, stock.waiting)
        missed, drawn, left = stock.missed.clone(), 0, [waiting]
        while bool((missed[atoms[missing]] < self._max_draws).any()):
            missing, unused = self._serve(noise, atoms, missing, self._fresh(self._block, missed, generator))
            drawn += self._block
            left.append(unused)
            if sum(map(len, left)) > self._capacity:
                left = [self._shrunk(_joined(left))]
        gap = 0.0
        if len(missing):
            among = max(_NEAREST_AMONG, 2 * len(missing))
            missing, unused = self._serve(noise, atoms, missing, self._fresh(among, missed, generator))
            gap = self._serve_nearest(noise, atoms, missing, unused.noise)  # the rest, now biased, is dropped
            drawn += among
        law = NoiseLaw(
            stock.law.served + len(atoms),
            stock.law.approximated + len(missing),
            max(stock.law.largest_gap, gap),
            stock.law.draws + drawn,
        )
        return _Stock(_joined(left), missed, law)

    def _fresh(self, count: int, missed: Tensor, generator: torch.Generator | None) -> _Draws:
        """New draws, counted in ``missed``."""
        draws = _Draws(*self._draw(count, generator))
        missed += count
        missed[draws.atom] = 0
        return draws

    def _serve(self, noise: Tensor, atoms: Tensor, wanted: Tensor, draws: _Draws) -> tuple[Tensor, _Draws]:
        """Give what is there to the requests ``wanted``; return those still open, and the draws not used."""
        if not len(draws):
            return wanted, draws
        stock, stock_order = _occurrences(draws.atom, len(self._potential.points))
        asked, asked_order = _occurrences(atoms[wanted], len(self._potential.points))
        place = torch.searchsorted(stock, asked).clamp(max=len(stock) - 1)
        found = stock[place] == asked
        given = stock_order[place[found]]
        noise[wanted[asked_order[found]]] = draws.noise[given]
        kept = torch.ones_like(draws.atom, dtype=torch.bool)
        kept[given] = False
        return wanted[asked_order[~found]], draws.rows(kept)

    def _shrunk(self, draws: _Draws) -> _Draws:
        """Half of what memory holds, without the later draws of the atoms that have most."""
        key, order = _occurrences(draws.atom, len(self._potential.points))
        earliest = (key % _MOST).argsort(stable=True)[: self._capacity // 2]
        return draws.rows(order[earliest].sort().values)

    def _serve_nearest(self, noise: Tensor, atoms: Tensor, missing: Tensor, fresh: Tensor) -> float:
        """Give each open request the draw (m, d) that loses least, and return the largest loss."""
        points, heights = self._potential.points, self._potential.heights
        dtype = torch.promote_types(points.dtype, heights.dtype)  # heights may have more digits than points
        best, draws = self._potential.conjugate(fresh).to(dtype), fresh.to(dtype)
        free = torch.ones(len(fresh), dtype=torch.bool, device=fresh.device)
        largest = 0.0
        for request in missing.tolist():
            atom = atoms[request]
            loss = best - draws @ points[atom].to(dtype) + heights[atom]
            choice = int(torch.where(free, loss, torch.inf).argmin())
            free[choice] = False
            noise[request] = fresh[choice]
            largest = max(largest, float(loss[choice]))
        return largest


def _joined(parts: list[_Draws]) -> _Draws:
    return _Draws(torch.cat([part.noise for part in parts]), torch.cat([part.atom for part in parts]))


def _occurrences(atoms: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Sorted keys that pair each atom with the number of its earlier occurrences, and the order that sorts them."""
    sorted_atoms, order = atoms.sort(stable=True)
    sizes = torch.bincount(atoms, minlength=count)
    first = sizes.cumsum(0) - sizes
    rank = torch.arange(len(atoms), device=atoms.device) - first[sorted_atoms]
    return sorted_atoms * _MOST + rank, order
