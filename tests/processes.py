"""Processes with a gloo group, forked from a server that has imported everything: each costs milliseconds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from proxflow.errors import ConvergenceWarning
from proxflow.semidiscrete import session
from tests.semidiscrete.sources import PlainNormal

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.processes"])


class Signalled(PlainNormal):
    """Normal noise; during one of the draws the process gets a signal."""

    def __init__(self, dim: int, call: int, number: int) -> None:
        super().__init__(dim)
        self.call, self.number = call, number

    def sample(self, n: int, **options: Any) -> torch.Tensor:
        if self.calls + 1 == self.call:
            os.kill(os.getpid(), self.number)
        return super().sample(n, **options)


def _member(
    task: Callable[..., Any], rank: int, size: int, store: str, result: Path, arguments: tuple[Any, ...]
) -> None:
    torch.set_num_threads(1)  # a product is rounded as its threads divide it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    session._SAVE_EVERY = 0.0
    if store and size > 1:
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        try:
            found = task(rank, *arguments)
        except BaseException as error:
            found = error
    whole = result.with_suffix(".part")  # a process may be killed while it writes
    torch.save(found, whole, pickle_protocol=4)
    whole.replace(result)
    os._exit(0)


class Processes:
    """Runs a task in several processes at once.

    Args:
        folder: of the test.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.number = folder, 0

    def start(self, size: int, task: Callable[..., Any], *arguments: Any, group: bool = True) -> list[Any]:
        """The processes, running; with a group of torch.distributed, or one that they make themselves."""
        self.number += 1
        store = f"file://{self.folder}/store{self.number}" if group else ""
        members = [
            SERVER.Process(target=_member, args=(task, rank, size, store, self._result(rank), arguments))
            for rank in range(size)
        ]
        for member in members:
            member.start()
        return members

    def finish(self, members: Sequence[Any]) -> list[Any]:
        """What each returned or raised; None of one that was killed. None waits for ever."""
        for member in members:
            member.join(60)
            if member.is_alive():
                member.kill()
                raise AssertionError("a process waits for ever")
        files = [self._result(rank) for rank in range(len(members))]
        return [torch.load(file, weights_only=False) if file.exists() else None for file in files]

    def run(self, size: int, task: Callable[..., Any], *arguments: Any, group: bool = True) -> list[Any]:
        """What ``task(rank, *arguments)`` returned or raised in each process."""
        return self.finish(self.start(size, task, *arguments, group=group))

    def _result(self, rank: int) -> Path:
        return self.folder / f"result{self.number}-{rank}"
