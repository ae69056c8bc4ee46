"""Atoms that processes share: each searches its part of them, and they exchange the best score of every draw.

``fit`` by itself shares the draws, and each process reads all atoms at every step. Where they fit no machine, as in a
file that all can read, the atoms are what is to be shared. Every process then makes every call alike, with the same
random draws, and does all but the searches itself.

Cost: 16 bytes a draw to exchange beside N d / processes products. Parts begin where blocks of a search do, so that each
score is rounded as in one process.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from proxflow.kernels.search import best_affine, searched_by
from proxflow.semidiscrete.ranks import Ranks

__all__ = ["split_atoms"]

_STEP = 1 << 13  # atoms of a part are a multiple of this many: blocks of a search begin there


@contextlib.contextmanager
def split_atoms() -> Iterator[None]:
    """In this block the processes of torch.distributed's default group share the atoms of every search.

    ``semidiscrete.fit``, potentials and couplings work as in one process, with its results. Every process of the group
    must make the same calls, with generators in the same state; a call in one process alone waits for the others. Each
    process searches N / processes of the atoms and reads no others for that: with an array that is mapped from a file
    all others stay there. A fit reads them all once to prepare itself, and heights are whole in each process; where a
    copy of all points is within its ``max_memory``, each process has one, and they share the noise of steps. Without a
    group, for fewer than 8,192 atoms a process, and in threads started in the block, as training draws its pairs in,
    nothing is shared.

    Raises:
        ConnectionError: in a call of the block, another process of the group stopped or failed.
    """
    with searched_by(None if Ranks.of_default_group().size == 1 else _best_of_all):
        yield


def _best_of_all(queries: Tensor, slopes: Tensor, offsets: Tensor | None) -> Tensor:
    """argmax_j <queries_i, slopes_j> + offsets_j, (B,), of queries that all processes have."""
    ranks = Ranks.of_default_group(queries.device)
    parts = len(slopes) // _STEP
    if parts < ranks.size:
        return best_affine(queries, slopes, offsets).place
    first, last = (_STEP * round(parts * k / ranks.size) for k in (ranks.rank, ranks.rank + 1))
    own = slice(first, len(slopes) if ranks.rank + 1 == ranks.size else last)
    found = best_affine(queries, slopes[own], None if offsets is None else offsets[own])
    ranks.agree()
    score = torch.where(found.score.isnan(), -torch.inf, found.score)
    best = ranks.largest(score)
    none = len(slopes)
    place = torch.where(score == best, found.place + first, none)
    return none - ranks.largest(none - place)
