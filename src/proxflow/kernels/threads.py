"""Parts of a search on as many threads as torch has, each of which is computed by one.

torch's own threads wait for one another after each operation, and numpy's maximum has one thread. Parts need nothing of
one another: what a thread makes of a part, from its products to their maxima, stays in the cache of its core.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

__all__ = ["on_threads"]

T = TypeVar("T")
R = TypeVar("R")

_FEWEST = 4  # parts: of fewer, one thread would do one while others wait
_MOST_THREADS = 16  # more would wait for Python's lock


def on_threads(work: Callable[[Iterator[T]], Iterator[R]], parts: Sequence[T], device: torch.device) -> list[R]:
    """What ``work`` yields for each part, in their order, without derivatives.

    Each thread does ``work`` on the parts that it comes to, so that one buffer may serve these; few parts, and those on
    a GPU, are this thread's. Others do not share its modes, as inference mode: ``work`` writes to its own tensors only.
    """
    threads = min(torch.get_num_threads(), _MOST_THREADS)
    if threads == 1 or len(parts) < _FEWEST or device.type != "cpu":
        with torch.no_grad():
            return list(work(iter(parts)))
    left = _Left(parts)

    def share(_: int) -> list[tuple[int, R]]:
        numbers: list[int] = []
        with left.nothing_after(), torch.no_grad():
            results = list(work(left.taken(numbers)))
        return list(zip(numbers, results, strict=True))

    with left.nothing_after():
        found = dict(itertools.chain.from_iterable(_pool(threads).map(share, range(threads))))
    return [found[number] for number in range(len(parts))]


class _Left(Generic[T]):
    """Parts that no thread has taken yet."""

    def __init__(self, parts: Sequence[T]) -> None:
        self._left = iter(enumerate(parts))
        self._one_at_a_time = threading.Lock()

    def taken(self, numbers: list[int]) -> Iterator[T]:
        """Parts as a thread comes to them, until none is left; their numbers go to the list."""
        while True:
            with self._one_at_a_time:
                taken = next(self._left, None)
            if taken is None:
                return
            numbers.append(taken[0])
            yield taken[1]

    @contextlib.contextmanager
    def nothing_after(self) -> Iterator[None]:
        """No part is left after the block: an error, or Ctrl-C, in one thread is the end of all."""
        try:
            yield
        finally:
            with self._one_at_a_time:
                for _ in self._left:
                    pass


_pools: dict[int, ThreadPoolExecutor] = {}
_lock = threading.Lock()


def _pool(threads: int) -> ThreadPoolExecutor:
    """So many threads, kept; torch has one in each."""
    with _lock:
        if threads not in _pools:
            _pools[threads] = _started(threads)
        return _pools[threads]


def _started(threads: int) -> ThreadPoolExecutor:
    pool, together = ThreadPoolExecutor(threads, thread_name_prefix="search"), threading.Barrier(threads)

    def start(_: int) -> int:
        of_new_threads = torch.get_num_threads()  # the first call in a thread gives it what the last one set anywhere
        together.wait()
        torch.set_num_threads(1)
        together.wait()
        return of_new_threads

    try:
        of_new_threads, *_ = pool.map(start, range(threads))
    except BaseException:  # no more threads to be had, or Ctrl-C: none is to wait for the others
        together.abort()
        raise
    restoring = threading.Thread(target=torch.set_num_threads, args=(of_new_threads,))
    restoring.start()
    restoring.join()
    return pool


def _forget() -> None:
    """In a forked process, which has the pools but not their threads."""
    global _lock
    _pools.clear()
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):  # where there is no fork there is nothing to forget
    os.register_at_fork(after_in_child=_forget)
