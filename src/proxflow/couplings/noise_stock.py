"""Draws that wait for their atom to be asked for: found in a time that does not grow with how many wait.

Method: the draws of an atom are a linked list. ``first`` has the place of the newest draw of each atom, ``following``
that of the next one of the same atom; -1 ends a list. Places are used one after the other; when none is left, those
that were taken are closed up. Invariant: what a list reaches is marked as waiting, and what was taken is in no list.
Every change is made in such an order that Ctrl-C in the middle can lose draws but never give one twice.

Cost: half a microsecond a draw taken, the sorting of a block for a block added.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["NoiseStock"]

_Places = npt.NDArray[np.int64]
_NONE = -1


@dataclass
class _Lists:
    """Places for draws, of which the first ``end`` are used.

    Attributes:
        noise: (places, d) the draws.
        atom: (places,) the atom of each.
        following: (places,) the place of the next draw of the same atom, or -1.
        waiting: (places,) whether the draw was not taken yet.
        first: (N,) the place of the newest draw of each atom, or -1.
    """

    noise: Tensor
    atom: _Places
    following: _Places
    waiting: npt.NDArray[np.bool_]
    first: _Places
    end: int = 0


class NoiseStock:
    """Draws by their atom, at most ``capacity`` of them.

    Args:
        points: (N, d) the atoms; draws are on their device.
        capacity: draws; of atoms with many, the surplus is dropped first.
    """

    def __init__(self, points: Tensor, capacity: int) -> None:
        self._atoms, self._capacity = len(points), capacity
        self._lists = self._empty(points[:0], 0)

    def add(self, noise: Tensor, atom: Tensor) -> None:
        """Draws (n, d) and their atoms (n,); n must not exceed the capacity."""
        self._make_room(len(atom), noise)
        _append(self._lists, noise, atom.cpu().numpy())

    def take(self, noise: Tensor, atoms: list[int], wanted: list[int]) -> list[int]:
        """Put a draw of atom ``atoms[i]`` into ``noise[i]`` for each i of ``wanted``; return those that find none."""
        lists, places, found, left = self._lists, [], [], []
        for request in wanted:
            place = int(lists.first[atoms[request]])
            if place == _NONE:
                left.append(request)
                continue
            lists.first[atoms[request]] = lists.following[place]
            places.append(place)
            found.append(request)
        if found:
            lists.waiting[places] = False
            noise[found] = lists.noise[places]
        return left

    @property
    def rest(self) -> Tensor:
        """The draws that were not taken, (m, d)."""
        return self._lists.noise[torch.from_numpy(np.flatnonzero(self._lists.waiting)).to(self._lists.noise.device)]

    def _make_room(self, count: int, noise: Tensor) -> None:
        """Room for ``count`` more draws: close up, grow, or drop the surplus, so that it is seldom done again."""
        size = len(self._lists.atom)
        if self._lists.end + count <= size:
            return
        kept = np.flatnonzero(self._lists.waiting)
        if len(kept) + count > self._capacity:
            kept = self._without_surplus(kept, min(self._capacity // 2, self._capacity - count))
        if 2 * (len(kept) + count) > size:
            size = max(size, min(self._capacity, 2 * (len(kept) + count)))
        lists = self._empty(noise, size)
        _append(lists, self._lists.noise[torch.from_numpy(kept).to(noise.device)], self._lists.atom[kept])
        self._lists = lists

    def _without_surplus(self, places: _Places, most: int) -> _Places:
        """At most so many places: of each atom first one, then a second where there is one, and so on."""
        rank, order = _rank_and_order(self._lists.atom[places])
        fewest_first = order[rank.argsort(kind="stable")]
        return np.sort(places[fewest_first[:most]])

    def _empty(self, like: Tensor, size: int) -> _Lists:
        return _Lists(
            noise=like.new_empty(size, like.shape[1]),
            atom=np.empty(size, np.int64),
            following=np.empty(size, np.int64),
            waiting=np.zeros(size, np.bool_),
            first=np.full(self._atoms, _NONE, np.int64),
        )


def _append(lists: _Lists, noise: Tensor, atom: _Places) -> None:
    """Put draws at the head of their atoms' lists."""
    start, lists.end = lists.end, lists.end + len(atom)
    lists.noise[start : lists.end] = noise
    lists.atom[start : lists.end] = atom
    order = atom.argsort(kind="stable")
    place, of = start + order, atom[order]
    begins = np.ones(len(of), np.bool_)
    begins[1:] = of[1:] != of[:-1]
    lists.following[place[:-1]] = place[1:]
    ends = np.roll(begins, -1)
    lists.following[place[ends]] = lists.first[of[ends]]
    lists.waiting[start : lists.end] = True
    lists.first[of[begins]] = place[begins]


def _rank_and_order(atom: _Places) -> tuple[_Places, _Places]:
    """The order that sorts atoms, and for each entry in it how many of the same atom come before."""
    order = atom.argsort(kind="stable")
    of = atom[order]
    begin = np.flatnonzero(np.r_[True, of[1:] != of[:-1]])
    rank = np.arange(len(of)) - np.repeat(begin, np.diff(np.r_[begin, len(of)]))
    return rank, order
