"""Parts of a search on as many threads as torch has, each of which is computed by one.

torch's own threads wait for one another after each operation, and numpy's maximum has one thread. Parts need nothing of
one another: what a thread makes of a part, from its products to their maxima, stays in the cache of its core.

Ctrl-C may interrupt the main thread between any two steps of Python, also inside of the standard library's pools, whose
threads then wait for ever. So it shares nothing with other threads but queues and locks that are written in C.
"""

from __future__ import annotations

import _thread
import atexit
import contextlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from queue import SimpleQueue
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

    def share() -> list[tuple[int, R]]:
        numbers: list[int] = []
        with left.nothing_after(), torch.no_grad():
            results = list(work(left.taken(numbers)))
        return list(zip(numbers, results, strict=True))

    with left.nothing_after():
        found = dict(itertools.chain.from_iterable(_workers(threads).each(share)))
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


class _Workers:
    """So many threads that wait for work; torch has one in each. To be made in a thread that Ctrl-C does not reach."""

    def __init__(self, count: int) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        of_new_threads = torch.get_num_threads()  # the first call in a thread gives it what the last one set anywhere
        try:
            for _ in range(count):
                self._start_one()
        except BaseException:  # no more threads to be had
            self.end()
            raise
        finally:
            torch.set_num_threads(of_new_threads)

    def _start_one(self) -> None:
        ready: SimpleQueue[None] = SimpleQueue()

        def serve() -> None:
            torch.get_num_threads()  # else the first search would undo the next line
            torch.set_num_threads(1)
            ready.put(None)
            while (task := self._work.get()) is not None:
                task()
                del task  # and the tensors that it knows

        thread = threading.Thread(target=serve, name=f"search-{len(self._threads)}", daemon=True)
        thread.start()
        self._threads.append(thread)
        ready.get()

    def each(self, share: Callable[[], R]) -> list[R]:
        """What as many calls give as there are threads, once all are over.

        Raises:
            BaseException: of one of the calls.
        """
        answers: SimpleQueue[tuple[list[R], BaseException | None]] = SimpleQueue()

        def answered() -> None:
            try:
                answers.put(([share()], None))
            except BaseException as error:
                answers.put(([], error))

        for _ in self._threads:
            self._work.put(answered)
        found = [answers.get() for _ in self._threads]
        for _, error in found:
            if error is not None:
                raise error
        return [result for results, _ in found for result in results]

    def end(self) -> None:
        """No thread is left after it, once each has done what it is doing."""
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join()


_known: dict[int, _Workers] = {}
_starting = threading.Lock()  # never held by the main thread


def _workers(count: int) -> _Workers:
    """So many, kept."""
    if count not in _known:
        failed: SimpleQueue[BaseException | None] = SimpleQueue()
        _thread.start_new_thread(_start, (count, failed))
        error = failed.get()
        if error is not None:
            raise error
    return _known[count]


def _start(count: int, failed: SimpleQueue[BaseException | None]) -> None:
    try:
        with _starting:
            if count not in _known:
                _known[count] = _Workers(count)
        failed.put(None)
    except BaseException as error:
        failed.put(error)


def _forget() -> None:
    """In a forked process, which has no threads of its parent."""
    global _starting
    _known.clear()
    _starting = threading.Lock()


def _end_all() -> None:
    """A thread that comes back from torch when Python is gone would abort the process."""
    while _known:
        _known.popitem()[1].end()


atexit.register(_end_all)
if hasattr(os, "register_at_fork"):  # where there is no fork there is nothing to forget
    os.register_at_fork(after_in_child=_forget)
