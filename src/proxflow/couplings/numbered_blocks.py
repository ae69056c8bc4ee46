"""Batches of an endless sequence of pairs that is drawn a block at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch

from proxflow.checks import count_of
from proxflow.couplings.pairs import Pairs, joined, rows_of
from proxflow.couplings.process_local import Reserve
from proxflow.seeding import generator_of

__all__ = ["NumberedBlocks"]

_SEEDS = 2  # that draw in turn, as for training and for validation
_MOST_PAIRS, _MOST_NUMBERS = 1 << 14, 1 << 24  # of a block: 128 MiB for noise and targets in float32


class NumberedBlocks:
    """Blocks of pairs laid end to end, that batches of any size are cut from.

    Block k of a seed is always the same, so that any process can draw any batch.

    Args:
        size: of a block.

    Attributes:
        size: as given.
        last: the blocks of the last batch of each of a few seeds, by number.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.last: Reserve[dict[int, dict[int, Pairs]]] = Reserve()

    @classmethod
    def within_memory(cls, wanted: int, dim: int) -> Self:
        """Blocks of as many pairs as are wanted, fewer where these are very many or have many coordinates."""
        return cls(max(1, min(wanted, _MOST_PAIRS, _MOST_NUMBERS // dim)))

    def batch(self, number: int, n: int, seed: int, draw: Callable[[torch.Generator], Pairs]) -> Pairs:
        """Batch ``number`` of n pairs; ``draw`` gives the pairs of a block.

        Raises:
            ValueError: ``number`` is no whole number of at least 0.
        """
        size, start = self.size, count_of("batch", "number", number, 0) * n
        needed = range(start // size, (start + n - 1) // size + 1)
        with self.last.opened() as last:
            kept = last.kept or {}
            known = kept.get(seed, {})
            own = {k: known.get(k) or draw(generator_of(seed, k)) for k in needed}
            others = [(other, blocks) for other, blocks in kept.items() if other != seed]
            last.kept = {**dict(others[1 - _SEEDS :]), seed: own}
            pairs = joined(list(own.values()))
        offset = start - needed.start * size
        return _copied(rows_of(pairs, slice(offset, offset + n)))


def _copied(pairs: Pairs) -> Pairs:
    """The same pairs, of which nothing is shared with a block."""
    label = None if pairs.label is None else pairs.label.clone()
    return Pairs(pairs.source.clone(), pairs.target.clone(), pairs.index.clone(), label)
