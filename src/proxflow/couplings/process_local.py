"""Draws made and not yet given out: kept by one object in one process, and never given out twice."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections.abc import Iterator
from typing import Any, Generic, Self, TypeVar

import torch

__all__ = ["Reserve"]

T = TypeVar("T")


class Reserve(Generic[T]):
    """What is kept between calls, for one thread at a time.

    A copy (``copy``, ``deepcopy``, ``pickle``) begins empty, and so does the reserve itself in a forked process:
    otherwise both sides would give out the same draws. Whoever finds it empty draws afresh.

    Attributes:
        kept: what is kept, or None; to be read and written inside of ``opened`` only.
    """

    def __init__(self) -> None:
        self.kept: T | None = None
        self._lock = threading.Lock()
        _of_this_process.add(self)

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), ()

    @contextlib.contextmanager
    def opened(self) -> Iterator[Self]:
        """The reserve, while other threads wait; out of inference mode, whose tensors no later call could train on."""
        normal = torch.inference_mode(False) if torch.is_inference_mode_enabled() else contextlib.nullcontext()
        with self._lock, normal:
            yield self

    def forget(self) -> None:
        """Empty it without waiting: in a forked process, whose other threads are gone and may have held the lock."""
        self.kept, self._lock = None, threading.Lock()


_of_this_process: weakref.WeakSet[Reserve[Any]] = weakref.WeakSet()


def _forget_all() -> None:
    for reserve in list(_of_this_process):
        reserve.forget()


if hasattr(os, "register_at_fork"):  # where there is no fork there is nothing to forget
    os.register_at_fork(after_in_child=_forget_all)
