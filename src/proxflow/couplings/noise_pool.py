"""Noise by the atom that it goes to: rejection sampling of Laguerre cells, keeping what is not yet wanted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import working_dtype
from proxflow.couplings.noise_stock import NoiseStock
from proxflow.couplings.process_local import Reserve
from proxflow.potentials import AtomicPotential, Shortlisted, SymmetricDiscrete
from proxflow.progress import reporter
from proxflow.results import brief_repr
from proxflow.torch_support import in_full_precision

__all__ = ["WAITING", "NoiseLaw", "NoisePool"]

WAITING = 1 << 28  # bytes of draws that wait for their row, if nothing is said
_LARGEST_BLOCK = 1 << 12  # draws made at once,
_LISTED_BLOCK = 1 << 16  # and by shortlists, where many share the products of a group
_SMALLEST_BLOCK = 1 << 8  # draws made at once
_TELL_EVERY = 5.0  # seconds, of a wait for draws
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


@dataclass
class _Stock:
    """What a pool has at the moment: draws that wait, draws in a row that missed each atom (N,), and its record."""

    waiting: NoiseStock
    missed: Tensor
    law: NoiseLaw


class NoisePool:
    """Draws waiting for their atom to be asked for; a copy, or the pool in a forked process, begins with none.

    Args:
        draw: gives n source points (n, d) and their atoms (n,).
        potential: whose scores rank the draws for a cell that none has hit.
        max_draws: in a row that may miss a cell before it is given up, until one hits it; 32 for each atom, and 2^17 at
            the least, if None.
        max_memory: bytes of waiting draws, at least those of 512; of atoms with many, the surplus is dropped first.
    """

    def __init__(
        self,
        draw: Callable[[int, torch.Generator | None], tuple[Tensor, Tensor]],
        potential: AtomicPotential | SymmetricDiscrete,
        max_draws: int | None,
        max_memory: int,
    ) -> None:
        points = potential.points
        self._draw, self._potential = draw, potential
        self._max_draws = max(_LEAST_TRIES, _TRIES_PER_ATOM * len(points)) if max_draws is None else max_draws
        self._capacity = max(2 * _SMALLEST_BLOCK, max_memory // (working_dtype(points).itemsize * points.shape[1]))
        most = _LISTED_BLOCK if isinstance(potential, Shortlisted) else _LARGEST_BLOCK
        self._block = min(most, max(_SMALLEST_BLOCK, 4 * len(points)), self._capacity // 2)
        self._stock: Reserve[_Stock] = Reserve()

    @property
    def law(self) -> NoiseLaw:
        """How exact what the pool has given so far is."""
        with self._stock.opened() as stock:
            return NoiseLaw() if stock.kept is None else stock.kept.law

    def take(self, atoms: Tensor, generator: torch.Generator | None) -> Tensor:
        """A draw for each atom asked for, (n, d), each draw given once."""
        points = self._potential.points
        with self._stock.opened() as stock:
            noise = points.new_empty(len(atoms), points.shape[1], dtype=working_dtype(points))
            stock.kept = stock.kept or self._empty()
            self._fill(noise, atoms, generator, stock.kept)
        return noise

    def _empty(self) -> _Stock:
        points = self._potential.points
        missed = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        return _Stock(NoiseStock(points, self._capacity), missed, NoiseLaw())

    def _fill(self, noise: Tensor, atoms: Tensor, generator: torch.Generator | None, stock: _Stock) -> None:
        """Fill ``noise``, from what waits and then from new draws."""
        asked = atoms.tolist()
        missing, drawn = stock.waiting.take(noise, asked, list(range(len(asked)))), 0
        told = time.perf_counter()
        while missing and bool((stock.missed[atoms[missing]] < self._max_draws).any()):
            stock.waiting.add(*self._fresh(self._block, stock.missed, generator))
            missing, drawn = stock.waiting.take(noise, asked, missing), drawn + self._block
            if time.perf_counter() - told > _TELL_EVERY:
                told = time.perf_counter()
                reporter("noise_for", None)(
                    f"{drawn:,} draws so far, which are kept; {len(missing)} of {len(asked)} rows still wait for theirs"
                )
        gap = 0.0
        if missing:
            among = max(_NEAREST_AMONG, 2 * len(missing))
            fresh = NoiseStock(self._potential.points, among)  # of its own: what is left, now biased, is dropped
            fresh.add(*self._fresh(among, stock.missed, generator))
            missing, drawn = fresh.take(noise, asked, missing), drawn + among
            gap = self._serve_nearest(noise, atoms, torch.tensor(missing, dtype=torch.int64), fresh.rest)
        law = stock.law
        stock.law = NoiseLaw(
            served=law.served + len(asked),
            approximated=law.approximated + len(missing),
            largest_gap=max(law.largest_gap, gap),
            draws=law.draws + drawn,
        )

    def _fresh(self, count: int, missed: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """New draws and their atoms, counted in ``missed``."""
        noise, atom = self._draw(count, generator)
        missed += count
        missed[atom] = 0
        return noise, atom

    @in_full_precision
    def _serve_nearest(self, noise: Tensor, atoms: Tensor, missing: Tensor, fresh: Tensor) -> float:
        """Give each open request the draw (m, d) that loses least, and return the largest loss."""
        points, heights = self._potential.points, self._potential.heights
        dtype = torch.promote_types(points.dtype, heights.dtype)  # heights may have more digits than points
        best, draws = self._potential.conjugate(fresh).to(dtype), fresh.to(dtype)
        free = torch.ones(len(fresh), dtype=torch.bool, device=fresh.device)
        largest = 0.0
        for request in missing.tolist():
            atom = atoms[request]
            loss = best - (draws @ self._images(int(atom)).to(dtype).mT).amax(1) + heights[atom]
            choice = int(torch.where(free, loss, torch.inf).argmin())
            free[choice] = False
            noise[request] = fresh[choice]
            largest = max(largest, float(loss[choice]))
        return largest

    def _images(self, atom: int) -> Tensor:
        """The points (k, d) that noise of an atom goes to: itself, or its orbit."""
        potential = self._potential
        return potential.images_of(atom) if isinstance(potential, SymmetricDiscrete) else potential.points[[atom]]
