"""Batches of pairs for training: drawn ahead in the background, the same whoever draws them and wherever one begins."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NoReturn, Protocol, Self

import torch

from proxflow.checks import count_of, whole_number
from proxflow.couplings.pairs import Pairs, rows_of
from proxflow.couplings.process_local import Reserve
from proxflow.seeding import generator_of

__all__ = ["Coupling", "PairStream", "batch_of"]


class Coupling(Protocol):
    """What training draws from: any object with ``sample``.

    One that keeps pairs between calls also has ``batch(number, n, seed)``, which gives batch ``number`` of a sequence
    whatever was drawn before.
    """

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs."""


class PairStream:
    """An endless sequence of batches, of which each is known by its number.

    Batch k depends on the coupling, the seed and k only: every draw has a generator of its own. So a run is
    resumed from ``position`` alone; and several processes, each with its ``rank``, share out the batches that one would
    draw. A ``Minibatch`` coupling is drawn by whole assignments, that batches of any size are cut from.

    Two streams of one coupling, seed and position give the same batches: that is what makes them repeatable. A stream
    therefore stays in the process that made it, and refuses to be copied, pickled or used after a fork, where it would
    give its batches a second time. Threads may share one: each batch is given once.

    Args:
        coupling: to draw from; the stream uses it in a thread, so leave it alone meanwhile.
        batch_size: pairs of a batch, all processes together.
        seed: seed of all draws.
        position: the batch to begin with; setting it later goes on from there.
        rank: rank of this process, which gets the pairs rank, rank + processes, ... of each batch.
        processes: that share the batches.
        ahead: batches drawn before they are asked for; 0 draws in the caller's thread.

    Raises:
        ValueError: a number out of range.
        TypeError: copying or pickling it.
        RuntimeError: taking a batch after ``close``, or in another process than its own.
    """

    def __init__(
        self,
        coupling: Coupling,
        batch_size: int,
        *,
        seed: int = 0,
        position: int = 0,
        rank: int = 0,
        processes: int = 1,
        ahead: int = 2,
    ) -> None:
        whole = all(whole_number(number) is not None for number in (rank, processes, batch_size, position, ahead))
        if not (whole and 0 <= rank < processes <= batch_size and position >= 0 and ahead >= 0):
            raise ValueError(
                "PairStream: needs whole numbers, 0 <= rank < processes <= batch_size, position >= 0 and ahead >= 0, "
                f"got rank {rank!r}, processes {processes!r}, batch_size {batch_size!r}, position {position!r}, ahead "
                f"{ahead!r}"
            )
        if whole_number(seed) is None:
            raise ValueError(f"PairStream: seed must be a whole number, got {seed!r}")
        _check_coupling(coupling)
        self._position = position
        self._coupling, self._batch_size, self._seed = coupling, batch_size, seed
        self._share = slice(rank, None, processes)
        self._ahead = ahead
        self._drawing: Reserve[_Drawing] = Reserve()
        self._drawing.kept = _Drawing(ThreadPoolExecutor(1, thread_name_prefix="coupling") if ahead else None)

    @property
    def position(self) -> int:
        """Number of the batch that comes next."""
        return self._position

    @position.setter
    def position(self, number: int) -> None:
        if (whole := whole_number(number)) is None or whole < 0:
            raise ValueError(f"PairStream: position must be a whole number of at least 0, got {number!r}")
        with self._drawing.opened() as reserve:
            if reserve.kept is not None:
                for ahead in reserve.kept.pending:
                    ahead.cancel()
                reserve.kept.pending.clear()
            self._position = whole

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Pairs]:
        return self

    def __next__(self) -> Pairs:
        with self._drawing.opened() as reserve:
            if reserve.kept is None:
                raise RuntimeError(
                    "PairStream: a forked process has no part in the stream of its parent and would only repeat its "
                    "batches; make a stream of its own there, with rank= and processes= to share the batches out"
                )
            if reserve.kept.closed:
                raise RuntimeError("PairStream: it is closed; make another one with position=, to go on from there")
            worker, pending = reserve.kept.worker, reserve.kept.pending
            if worker is None:
                pairs = self._batch(self._position)
            else:
                while len(pending) <= self._ahead:
                    pending.append(worker.submit(self._batch, self._position + len(pending)))
                pairs = pending[0].result()  # raises, and stays first, where the draw failed
                pending.popleft()
            self._position += 1
        return pairs

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "PairStream: a copy would give the same batches again; pickle stream.position and make another stream "
            "with position=, or several with rank= and processes= to share the batches out"
        )

    def close(self) -> None:
        """Stop drawing ahead."""
        drawing = self._drawing.kept  # without its lock, which a thread that waits for a batch has until this is done
        if drawing is None:
            return
        drawing.closed = True
        if drawing.worker is not None:
            drawing.worker.shutdown(wait=True, cancel_futures=True)
            with self._drawing.opened():
                drawing.pending.clear()

    def _batch(self, number: int) -> Pairs:
        """This process's part of a batch."""
        return rows_of(batch_of(self._coupling, number, self._batch_size, self._seed), self._share)


@dataclass
class _Drawing:
    """The thread that draws ahead, if any, the batches that it is at work on, and whether the stream was closed."""

    worker: ThreadPoolExecutor | None
    pending: deque[Future[Pairs]] = field(default_factory=deque)
    closed: bool = False


def batch_of(coupling: Coupling, number: int, n: int, seed: int) -> Pairs:
    """Batch ``number`` of n pairs of a coupling, the same whenever and wherever it is drawn.

    Raises:
        ValueError: no coupling, or one, somebody's own, that gave something else; or ``number`` is no whole number of
            at least 0.
    """
    _check_coupling(coupling)
    number = count_of("batch", "number", number, 0)
    numbered = getattr(coupling, "batch", None)
    pairs = (
        numbered(number, n, seed) if numbered is not None else coupling.sample(n, generator=generator_of(seed, number))
    )
    _check_pairs(pairs, n)
    return pairs


def _check_coupling(coupling: object) -> None:
    if not hasattr(coupling, "sample"):
        raise ValueError(
            f"a coupling must have sample(n, generator=...), got {type(coupling).__name__}; for plain points "
            "couplings.Independent(points)"
        )


def _check_pairs(pairs: object, count: int) -> None:
    """Refuse what is not the pairs that were asked for."""
    if not isinstance(pairs, Pairs) or len(pairs) != count:
        given = f"{len(pairs)} of them" if isinstance(pairs, Pairs) else type(pairs).__name__
        raise ValueError(f"PairStream: sample(n) of the coupling must give Pairs, n = {count}, got {given}")
