"""Where a training run shows what it does: a line on the terminal, a CSV file, and TensorBoard."""

from __future__ import annotations

import csv
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from proxflow.matching.train_result import TrainRecord
from proxflow.progress import BarColumn, Console, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

__all__ = ["TrainLog"]


class TrainLog:
    """Shows and keeps the evaluations of a run.

    Args:
        steps: number of steps of the whole run.
        progress: whether to show a bar; None shows one on a terminal.
        folder: for ``history.csv`` and TensorBoard's events (left out where TensorBoard is not installed); or None.
        earlier: evaluations of the interrupted run that this one resumes.
    """

    def __init__(
        self, steps: int, progress: bool | None, folder: str | os.PathLike[str] | None, earlier: Sequence[TrainRecord]
    ) -> None:
        self._bar: Progress | None = None
        if sys.stderr.isatty() if progress is None else progress:
            columns = TextColumn("train:"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
            self._bar = Progress(*columns, TextColumn("{task.description}"), console=Console(stderr=True))
            self._task = self._bar.add_task("", total=steps)
            self._bar.start()
        self._folder = None if folder is None else Path(folder)
        self._board = None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._begin_table(self._folder / "history.csv", earlier)
            self._board = _summary_writer(self._folder)

    def step(self, number: int) -> None:
        """A step was made."""
        if self._bar is not None:
            self._bar.update(self._task, completed=number)

    def record(self, record: TrainRecord) -> None:
        """The run was evaluated."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"loss {record.loss:.4g}, field error {record.field_error:.4g}")
        if self._folder is not None:
            with open(self._folder / "history.csv", "a", newline="") as file:
                csv.writer(file).writerow(dataclasses.astuple(record))
        if self._board is not None:
            self._board.add_scalar("loss", record.loss, record.step)
            self._board.add_scalar("field_error", record.field_error, record.step)

    def close(self) -> None:
        """End the bar and the files."""
        if self._bar is not None:
            self._bar.stop()
        if self._board is not None:
            self._board.close()

    @staticmethod
    def _begin_table(path: Path, earlier: Sequence[TrainRecord]) -> None:
        with open(path, "w", newline="") as file:
            table = csv.writer(file)
            table.writerow([field.name for field in dataclasses.fields(TrainRecord)])
            table.writerows(dataclasses.astuple(record) for record in earlier)


def _summary_writer(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder))
