"""The order in which a file of pairs is read, and how processes share an epoch."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from proxflow.checks import count_of, whole_number
from proxflow.couplings.pair_file import PairFile

__all__ = ["PairSampler"]


class PairSampler(Sampler[int]):
    """The pairs of one epoch of a file, or a process's share of them, in the order of the file.

    Give it as ``DataLoader(pairs, sampler=..., batch_size=...)``, and call ``set_epoch`` before each epoch; in a file
    of E epochs, epoch E is epoch 0 again. A file of drawn pairs is one epoch. Together the processes see each pair
    once, and shares differ by one pair at the most.

    Args:
        pairs: the file.
        rank: of this process.
        processes: that share an epoch.

    Raises:
        ValueError: rank and processes are not whole numbers with 0 <= rank < processes.
    """

    def __init__(self, pairs: PairFile, *, rank: int = 0, processes: int = 1) -> None:
        whole = whole_number(rank) is not None and whole_number(processes) is not None
        if not (whole and 0 <= rank < processes):
            raise ValueError(
                f"PairSampler: needs whole numbers, 0 <= rank < processes, got rank {rank!r} of {processes!r}"
            )
        self._epochs, self._rank, self._processes = pairs.record.epochs or 1, rank, processes
        self._size = len(pairs) // self._epochs
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0.

        Raises:
            ValueError: it is no whole number.
        """
        self.epoch = count_of("PairSampler", "epoch", epoch, 0)

    def __len__(self) -> int:
        return len(self._share)

    def __iter__(self) -> Iterator[int]:
        return iter(self._share)

    @property
    def _share(self) -> range:
        start = self.epoch % self._epochs * self._size
        return range(start + self._rank, start + self._size, self._processes)
