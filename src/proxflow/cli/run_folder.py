"""Run folders: what a command leaves on disk, who may write there, and in which order."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from proxflow import storage
from proxflow.cli.run_record import (
    DAMAGE,
    RunRecord,
    command_record,
    data_record,
    fit_record,
    training_record,
    written,
)
from proxflow.data import Dataset, Standardisation
from proxflow.semidiscrete import Fit

if TYPE_CHECKING:
    from proxflow.analysis.auditing.intervals import Estimate
    from proxflow.matching import MLP, AffineResidual, ResidualMLP, TrainResult, UNet
    from proxflow.metrics import FewSteps

__all__ = ["RunFolder"]

_POINTS, _ROWS = "points.safetensors", "rows.safetensors"
_RECORD, _FIT, _STANDARDISATION, _PAGE = "run.json", "fit.safetensors", "standardisation.safetensors", "report.html"
_SAMPLES, _SAMPLE_LABELS = "samples.npy", "samples-labels.npy"
_SAMPLE_RECORD, _SAMPLE_PICTURE = "samples.json", "samples.png"
_CHECKPOINT, _TRAINING, _GROUPS = "checkpoint.safetensors", "training.safetensors", "checkpoints"
_NETWORK = "network.safetensors"
_HISTORY, _EVENTS = "history.csv", "events.out.tfevents.*"
_STUDIES = {"audit": "audit.safetensors", "batch-size": "batch-size.safetensors", "terminal": "terminal.safetensors"}


class RunFolder:
    """One fit or training run, and what was made from it.

    A folder holds a run if and only if it holds its record, ``run.json``. While a command runs, after a fit that did
    not converge and after any training, the folder holds its checkpoints.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint(self) -> Path:
        """Where a fit keeps its state."""
        return self.path / _CHECKPOINT

    @property
    def group_checkpoints(self) -> Path:
        """The folder where the fits of a conditional coupling keep theirs."""
        return self.path / _GROUPS

    @property
    def training_checkpoint(self) -> Path:
        """Where training keeps its state."""
        return self.path / _TRAINING

    @property
    def kept(self) -> bool:
        """Whether there is something to resume."""
        return self.training_checkpoint.exists() or any(map(_holds_files, self._fit_checkpoints()))

    def fit_checkpoint(self, of_groups: bool, tol: float | None = None) -> Path:
        """Where the fit of a coupling keeps its state, or the fits of its groups; apart for another tolerance.

        A run is trained on the pairs of one tolerance: a fit to another one must leave those as they are.
        """
        path = self.group_checkpoints if of_groups else self.checkpoint
        return path if tol is None else path.with_name(f"{path.stem}-{tol:g}{path.suffix}")

    def _fit_checkpoints(self) -> list[Path]:
        return list(self.path.glob(f"{self.checkpoint.stem}*"))  # those of groups, too

    @property
    def page(self) -> Path:
        """Where the report is."""
        return self.path / _PAGE

    def claim(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse to write over what is there unless asked to, and to resume nothing.

        Raises:
            ValueError: the folder is a file or read-only, holds a run or a checkpoint, or lacks the checkpoint to
                resume.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; give another --out")
        self._require_writable()
        kept = self.kept
        if resume:
            if not kept:
                raise ValueError(
                    f"{self.path} holds nothing to resume (no {_CHECKPOINT}: none was begun, or it ended well); "
                    "leave out --resume"
                )
            return
        if overwrite:
            return
        if (self.path / _RECORD).exists():
            choice = ", --resume to continue it," if kept else ","
            raise ValueError(
                f"{self.path} already holds a run; give another --out{choice} or --overwrite to replace it"
            )
        if kept:
            raise ValueError(
                f"{self.path} holds an unfinished run; give another --out, --resume to continue it, or --overwrite "
                "to begin again"
            )

    def _require_writable(self) -> None:
        """Known before the work and not after it, and of the folder that exists or would be made in."""
        there = next(folder for folder in (self.path, *self.path.absolute().parents) if folder.exists())
        if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
            raise ValueError(f"{there} is read-only; give another --out")

    @contextlib.contextmanager
    def writing(self, *, resume: bool) -> Iterator[None]:
        """Have the folder while a command runs, without an earlier checkpoint unless to resume it.

        A folder that was made for this is taken away again if it stays empty.

        Raises:
            ValueError: the folder cannot be made.
        """
        new = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ValueError(f"{self.path} cannot be made ({error.strerror}); give another --out") from error
        if not resume:
            self.training_checkpoint.unlink(missing_ok=True)
            for each in self._fit_checkpoints():
                shutil.rmtree(each) if each.is_dir() else each.unlink(missing_ok=True)
        try:
            yield
        except BaseException:
            for each in (*self._fit_checkpoints(), *((self.path,) if new else ())):
                with contextlib.suppress(OSError):
                    each.rmdir()
            raise

    def write_fit(self, fit: Fit, dataset: Dataset, page: str, arguments: dict[str, Any]) -> None:
        """Replace an earlier run: its record goes first, and the new one comes last.

        What an interruption leaves thus never passes for a run. The checkpoint stays unless the fit converged.
        """
        record = command_record("fit", arguments) | data_record(dataset) | fit_record(fit)
        objects: dict[str, object] = {_FIT: fit, _STANDARDISATION: dataset.standardisation}
        if dataset.rows is not None:
            objects[_ROWS] = {"rows": dataset.rows[_first_row_of_each_atom(fit)]}
        self._write(objects, page, record)
        if fit.converged:
            self.checkpoint.unlink(missing_ok=True)

    def write_training(
        self,
        result: TrainResult,
        quality: FewSteps,
        nearest_row: Estimate,
        fit: Fit | None,
        dataset: Dataset,
        page: str,
        arguments: dict[str, Any],
    ) -> None:
        """Replace an earlier run, as ``write_fit`` does; the checkpoints stay, so that the run can be lengthened.

        Args:
            result: result of the training.
            quality: of its samples.
            nearest_row: distance of samples to the nearest training row, over that of rows to the nearest other.
            fit: of the data, that the network was coupled with, where there is one.
            dataset: trained on; its points and labels are kept, for studies of the network.
            page: the report.
            arguments: arguments of the command line.
        """
        outcome = training_record(result, quality, nearest_row)
        record = command_record("train", arguments) | data_record(dataset) | outcome
        classes = {} if dataset.labels is None or dataset.class_numbers is None else {"labels": dataset.labels}
        objects: dict[str, object] = {
            _NETWORK: result.network,
            _STANDARDISATION: dataset.standardisation,
            _POINTS: {"points": dataset.points, **classes},
        }
        if fit is not None:
            objects[_FIT] = fit
        self._write(objects, page, record)

    def write_study(
        self,
        command: str,
        study: object,
        data: dict[str, Any],
        page: str,
        arguments: dict[str, Any],
        result: dict[str, Any],
    ) -> None:
        """Replace an earlier run by what a command found out; ``data`` is a ``data_record``."""
        record = command_record(command, arguments) | data | {"result": result}
        self._write({_STUDIES[command]: study}, page, record)

    @property
    def record(self) -> dict[str, Any]:
        """The record of the run, as it is written.

        Raises:
            ValueError: there is no run, or its record is damaged.
        """
        path = self.path / _RECORD
        if not path.is_file() and self.kept:
            raise ValueError(
                f"{self.path} holds no run yet, only an unfinished one; continue it by the same command with --resume"
            )
        if self.path.is_file():
            raise ValueError(f"{self.path} is a file; give the folder of a run")
        if not path.is_file():
            raise ValueError(
                f"{self.path} holds no run (no {_RECORD}); make one with: proxflow fit DATA --out {self.path}"
            )
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            RunRecord.read(record)
        except DAMAGE as error:
            raise ValueError(f"{path} is damaged ({error!r}); fit again with --overwrite") from error
        return record

    @property
    def facts(self) -> RunRecord:
        """What the record says of the run.

        Raises:
            ValueError: there is no run, or its record is damaged.
        """
        return RunRecord.read(self.record)

    @property
    def is_trained(self) -> bool:
        """Whether the run is one of training.

        Raises:
            ValueError: there is no run, its record is damaged, or it is of a study, which leaves no flow.
        """
        command = self.facts.command
        if command in _STUDIES:
            raise ValueError(f"{self.path} holds a study by proxflow {command}; give a run of proxflow fit or train")
        return command == "train"

    def read_network(self) -> tuple[MLP | ResidualMLP | AffineResidual | UNet, Standardisation, tuple[int, ...], str]:
        """The network, its standardisation, and the event shape and the name of the schedule of its run.

        Raises:
            ValueError: there is no run, or it is damaged.
        """
        from proxflow.matching import MLP, AffineResidual, ResidualMLP, UNet  # here, since a fit needs no networks

        record = self.facts
        network, standardisation = storage.load(self.path / _NETWORK), self._standardisation(record.event_shape)
        known = isinstance(network, MLP | ResidualMLP | AffineResidual | UNet)
        self._require(_NETWORK, known and network.event_shape == record.event_shape)
        return network.eval(), standardisation, record.event_shape, record.schedule

    def read_trained_on(self) -> tuple[Tensor, Tensor | None]:
        """The standardised points of the data of a training run, (N, *event), and their classes (N,), if there are any.

        Raises:
            ValueError: there are none, or they are damaged or of another run.
        """
        if not (self.path / _POINTS).is_file():
            raise ValueError(f"{self.path} keeps no data, as runs of earlier versions may; train it again")
        kept: dict[str, Tensor] = storage.load(self.path / _POINTS)
        self._require(_POINTS, isinstance(kept, dict) and "points" in kept)
        points, labels = kept["points"], kept.get("labels")
        self._require(_POINTS, tuple(points.shape[1:]) == self.facts.event_shape)
        self._require(_POINTS, labels is None or tuple(labels.shape) == (len(points),))
        return points, labels

    def fit_of_training(self) -> Fit | None:
        """The fit that a network was coupled with, where its run keeps it."""
        return self.read_fit()[0] if (self.path / _FIT).is_file() else None

    def class_numbers(self, classes: int) -> dict[str, int]:
        """The numbers of all classes by their names, of a network that was told so many.

        Raises:
            ValueError: the network was not told labels.
        """
        if classes == 0:
            raise ValueError(f"{self.path}: the network was trained without labels; train with --conditional")
        return self.facts.classes

    def class_number(self, label: str, classes: int) -> int:
        """The number of a class that is given by its name or number.

        Raises:
            ValueError: the network was not told labels, or there is no such class.
        """
        numbers = self.class_numbers(classes)
        if label not in numbers:
            raise ValueError(f"{self.path}: no class {label!r}; known are {', '.join(list(numbers)[:30])}")
        return numbers[label]

    def _write(self, objects: dict[str, object], page: str, record: dict[str, Any]) -> None:
        made = (
            _RECORD,
            _FIT,
            _POINTS,
            _ROWS,
            _NETWORK,
            _STANDARDISATION,
            _PAGE,
            _SAMPLES,
            _SAMPLE_LABELS,
            _SAMPLE_RECORD,
            _SAMPLE_PICTURE,
        )
        logs = () if _NETWORK in objects else (self.path / _HISTORY, *self.path.glob(_EVENTS))
        for old in (*(self.path / name for name in (*made, *_STUDIES.values())), *logs):
            old.unlink(missing_ok=True)
        for name, entry in objects.items():
            storage.save(entry, self.path / name)
        storage.write_atomically(self.page, page.encode())
        storage.write_atomically(self.path / _RECORD, written(record))

    def read_fit(self) -> tuple[Fit, Standardisation, tuple[int, ...], str]:
        """The fit, its standardisation, and the event shape and the name of the schedule of its run.

        Raises:
            ValueError: there is no run, or it is damaged.
        """
        record = self.facts
        fit, standardisation = storage.load(self.path / _FIT), self._standardisation(record.event_shape)
        self._require(_FIT, isinstance(fit, Fit) and math.prod(record.event_shape) == fit.potential.dim)
        return fit, standardisation, record.event_shape, record.schedule

    def read_rows(self, atoms: int) -> Tensor | None:
        """The data as they were read, one row for each atom of the fit, where the run keeps them.

        Raises:
            ValueError: they are others.
        """
        if not (self.path / _ROWS).exists():
            return None
        kept = storage.load(self.path / _ROWS)
        rows = kept.get("rows") if isinstance(kept, dict) else None
        self._require(_ROWS, isinstance(rows, Tensor) and tuple(rows.shape) == (atoms, *self.facts.event_shape))
        return rows

    def _standardisation(self, event_shape: tuple[int, ...]) -> Standardisation:
        found = storage.load(self.path / _STANDARDISATION)
        self._require(_STANDARDISATION, isinstance(found, Standardisation) and tuple(found.mean.shape) == event_shape)
        return found  # type: ignore[no-any-return]

    def _require(self, part: str, fits: bool) -> None:
        """Refuse a part that comes from another run.

        Raises:
            ValueError: it does not fit the record.
        """
        if not fits:
            raise ValueError(
                f"{self.path / part} does not belong to {self.path / _RECORD}; repeat the run with --overwrite"
            )

    def write_samples(
        self, samples: bytes, labels: bytes | None, picture: bytes | None, arguments: dict[str, Any]
    ) -> list[Path]:
        """Write samples, their record, and their labels and picture if there are any; returns where they are.

        Labels and pictures of earlier samples go.
        """
        storage.write_atomically(self.path / _SAMPLES, samples)
        storage.write_atomically(self.path / _SAMPLE_RECORD, written(command_record("sample", arguments)))
        files = [self.path / _SAMPLES]
        for name, content in ((_SAMPLE_LABELS, labels), (_SAMPLE_PICTURE, picture)):
            if content is None:
                (self.path / name).unlink(missing_ok=True)
                continue
            storage.write_atomically(self.path / name, content)
            files.append(self.path / name)
        return files

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Call the record damaged where what is read from it is not there, or is something else.

        Raises:
            ValueError: that it is damaged.
        """
        try:
            yield
        except DAMAGE as error:
            raise ValueError(f"{self.path / _RECORD} is damaged ({error!r}); run again with --overwrite") from error


def _first_row_of_each_atom(fit: Fit) -> Tensor:
    first = torch.full((len(fit.potential.points),), len(fit.atom_of_row))
    rows = torch.arange(len(fit.atom_of_row))
    return first.scatter_reduce(0, fit.atom_of_row.cpu(), rows, "amin")


def _holds_files(path: Path) -> bool:
    """Whether it is a file, or a folder that is not empty."""
    return path.is_file() or (path.is_dir() and any(path.iterdir()))
