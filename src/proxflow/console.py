"""The parts of rich that show progress, imported without its draws from Python's global generator."""

from __future__ import annotations

from proxflow.optional import global_generators_kept

with global_generators_kept():
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["BarColumn", "Console", "MofNCompleteColumn", "Progress", "TextColumn", "TimeRemainingColumn"]
