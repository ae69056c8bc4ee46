"""Progress on the terminal, and Ctrl-C between steps: a step is not cut in two."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from proxflow.errors import global_generators_kept

__all__ = [
    "BarColumn",
    "Console",
    "MofNCompleteColumn",
    "Progress",
    "TextColumn",
    "TimeRemainingColumn",
    "deferred_interrupts",
    "reporter",
]

with global_generators_kept():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


def reporter(name: str, progress: bool | None) -> Callable[[str], None]:
    """A function that shows a line of progress on standard error, or does nothing; None shows it on a terminal."""
    if not (sys.stderr.isatty() if progress is None else progress):
        return lambda message: None
    console = Console(stderr=True)
    return lambda message: console.print(f"[dim]{name}:[/dim] {message}", highlight=False)


@contextlib.contextmanager
def deferred_interrupts() -> Iterator[Callable[[], bool]]:
    """Gives a function that says whether Ctrl-C was pressed; pressed again, it interrupts at once.

    Nothing is deferred outside of the main thread, which alone receives signals, and where a program that has Python in
    it handles Ctrl-C: Python could not install its handler again.
    """
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield pressed.is_set
        return

    def note(number: int, frame: FrameType | None) -> None:
        if pressed.is_set():
            raise KeyboardInterrupt
        pressed.set()

    earlier = signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, earlier)
