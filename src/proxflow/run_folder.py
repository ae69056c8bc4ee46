"""Run folders: what a command leaves on disk, who may write there, and in which order."""

from __future__ import annotations

import contextlib
import json
import math
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import proxflow
from proxflow import storage
from proxflow.data import Dataset, Standardisation
from proxflow.semidiscrete import Fit

__all__ = ["RunFolder"]

_RECORD, _FIT, _STANDARDISATION, _PAGE = "run.json", "fit.safetensors", "standardisation.safetensors", "report.html"
_SAMPLES, _SAMPLE_RECORD, _SAMPLE_PICTURE = "samples.npy", "samples.json", "samples.png"
_CHECKPOINT = "checkpoint.safetensors"


class RunFolder:
    """One fit and what was made from it. A folder holds a run if and only if it holds its record, ``run.json``.

    While a fit runs, and after one that did not converge, the folder holds its checkpoint.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def checkpoint(self) -> Path:
        """Where a fit keeps its state."""
        return self.path / _CHECKPOINT

    @property
    def page(self) -> Path:
        """Where the report is."""
        return self.path / _PAGE

    def claim(self, *, overwrite: bool, resume: bool) -> None:
        """Refuse to write over what is there unless asked to, and to go on with nothing.

        Raises:
            ValueError: the folder is a file, holds a run or a checkpoint, or lacks the checkpoint to go on from.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ValueError(f"{self.path} is a file; give another --out")
        kept = self.checkpoint.exists()
        if resume:
            if not kept:
                raise ValueError(
                    f"{self.path} holds no fit to go on with (no {_CHECKPOINT}: none was begun, or it converged); "
                    "leave out --resume"
                )
            return
        if overwrite:
            return
        if (self.path / _RECORD).exists():
            choice = ", --resume to go on with it," if kept else ","
            raise ValueError(
                f"{self.path} already holds a run; give another --out{choice} or --overwrite to replace it"
            )
        if kept:
            raise ValueError(
                f"{self.path} holds an unfinished fit; give another --out, --resume to go on with it, or --overwrite "
                "to begin again"
            )

    @contextlib.contextmanager
    def writing(self, *, resume: bool) -> Iterator[None]:
        """Have the folder while a fit runs, without an earlier checkpoint unless to go on from it.

        A folder that was made for this is taken away again if it stays empty.
        """
        new = not self.path.exists()
        self.path.mkdir(parents=True, exist_ok=True)
        if not resume:
            self.checkpoint.unlink(missing_ok=True)
        try:
            yield
        except BaseException:
            if new:
                with contextlib.suppress(OSError):
                    self.path.rmdir()
            raise

    def write_fit(self, fit: Fit, dataset: Dataset, page: str, arguments: dict[str, Any]) -> None:
        """Replace an earlier run: its record goes first, and the new one comes last.

        What an interruption leaves thus never passes for a run. The checkpoint stays unless the fit converged.
        """
        for name in (_RECORD, _FIT, _STANDARDISATION, _PAGE, _SAMPLES, _SAMPLE_RECORD, _SAMPLE_PICTURE):
            (self.path / name).unlink(missing_ok=True)
        storage.save(fit, self.path / _FIT)
        storage.save(dataset.standardisation, self.path / _STANDARDISATION)
        storage.write_atomically(self.page, page.encode())
        storage.write_atomically(self.path / _RECORD, _json(_record("fit", arguments) | _fit_record(fit, dataset)))
        if fit.converged:
            self.checkpoint.unlink(missing_ok=True)

    def read_fit(self) -> tuple[Fit, Standardisation, tuple[int, ...], str]:
        """The fit, its standardisation, and the event shape and the name of the schedule of its run.

        Raises:
            ValueError: there is no run, or it is damaged.
        """
        shape, schedule = self._read_record()
        fit, standardisation = storage.load(self.path / _FIT), storage.load(self.path / _STANDARDISATION)
        if not isinstance(fit, Fit) or math.prod(shape) != fit.potential.dim:
            raise ValueError(f"{self.path / _FIT} does not belong to {self.path / _RECORD}; fit again with --overwrite")
        return fit, standardisation, shape, schedule

    def write_samples(self, samples: bytes, picture: bytes | None, arguments: dict[str, Any]) -> list[Path]:
        """Write samples, their record, and their picture if there is one; returns where samples and picture are."""
        written = [self.path / _SAMPLES]
        storage.write_atomically(self.path / _SAMPLES, samples)
        storage.write_atomically(self.path / _SAMPLE_RECORD, _json(_record("sample", arguments)))
        if picture is not None:
            storage.write_atomically(self.path / _SAMPLE_PICTURE, picture)
            written.append(self.path / _SAMPLE_PICTURE)
        return written

    def _read_record(self) -> tuple[tuple[int, ...], str]:
        path = self.path / _RECORD
        if not path.is_file():
            raise ValueError(
                f"{self.path} holds no run (no {_RECORD}); make one with: proxflow fit DATA --out {self.path}"
            )
        try:
            record = json.loads(path.read_text())
            return tuple(int(size) for size in record["data"]["event_shape"]), str(record["arguments"]["schedule"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} is damaged ({error!r}); fit again with --overwrite") from error


def _record(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What repeats a command."""
    versions = {
        "proxflow": proxflow.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return {"command": command, "arguments": arguments, "versions": versions}


def _fit_record(fit: Fit, dataset: Dataset) -> dict[str, Any]:
    """What was fitted, and what the fit is worth."""
    return {
        "data": {
            "name": dataset.name,
            "points": dataset.n,
            "event_shape": list(dataset.event_shape),
            "sha256": dataset.content_hash,
            "labels": dataset.class_counts,
        },
        "result": {
            "method": fit.method,
            "epsilon": fit.epsilon,
            "atoms": len(fit.potential.points),
            "converged": fit.converged,
            "chi2": fit.chi2,
            "chi2_stderr": fit.chi2_stderr,
            "transport_cost": fit.transport_cost,
            "transport_cost_interval": [end if math.isfinite(end) else None for end in fit.transport_cost_interval],
            "samples_used": fit.samples_used,
            "evaluation_samples": fit.evaluation_samples,
            "seconds": fit.seconds,
        },
    }


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()
