"""The record of a run, ``run.json``: the command that repeats it, what it was made from, and what came out."""

from __future__ import annotations

import json
import math
import platform
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch

import proxflow
from proxflow.data import Dataset
from proxflow.semidiscrete import Fit

if TYPE_CHECKING:
    from proxflow.analysis.auditing.intervals import Estimate
    from proxflow.matching import TrainResult
    from proxflow.metrics import FewSteps

__all__ = ["DAMAGE", "RunRecord", "command_record", "data_record", "finite", "fit_record", "training_record", "written"]

DAMAGE = (ValueError, KeyError, TypeError, AttributeError, IndexError)  # of reading a record that is not as written

_SCHEDULES = ("linear", "cosine")


@dataclass(frozen=True)
class RunRecord:
    """What reading a run needs of its record."""

    command: str
    event_shape: tuple[int, ...]
    schedule: str
    classes: dict[str, int]
    columns: tuple[str, ...] | None
    value_range: tuple[float, float] | None
    data: dict[str, Any]

    @classmethod
    def read(cls, record: dict[str, Any]) -> Self:
        """From a record as it is written; any of ``DAMAGE`` is raised where something is missing or another thing."""
        data = record["data"]
        span, columns = data.get("range"), data.get("columns")
        shape, schedule = tuple(int(size) for size in data["event_shape"]), str(record["arguments"]["schedule"])
        if min(shape, default=1) < 1 or (columns is not None and (len(columns),) != shape):
            raise ValueError(f"points {shape} with the columns {columns}")
        if schedule not in _SCHEDULES:
            raise ValueError(f"the schedule {schedule!r}")
        return cls(
            command=str(record["command"]),
            event_shape=shape,
            schedule=schedule,
            classes=_class_numbers(data),
            columns=None if columns is None else tuple(map(str, columns)),
            value_range=None if span is None else (float(span[0]), float(span[1])),
            data=data,
        )


def _class_numbers(data: dict[str, Any]) -> dict[str, int]:
    """The label of each class by its name; runs of earlier versions tell the names alone."""
    if "label_numbers" in data:
        return {str(name): int(number) for name, number in (data["label_numbers"] or {}).items()}
    names = tuple(data.get("labels") or ())
    are_numbers = all(name.isdecimal() for name in names)
    return {name: int(name) if are_numbers else place for place, name in enumerate(names)}


def command_record(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """What repeats a command."""
    versions = {
        "proxflow": proxflow.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
    return {"command": command, "arguments": arguments, "versions": versions}


def data_record(dataset: Dataset) -> dict[str, Any]:
    """What a run was made from."""
    return {
        "data": {
            "name": dataset.name,
            "points": dataset.n,
            "event_shape": list(dataset.event_shape),
            "sha256": dataset.content_hash,
            "labels": dataset.class_counts,
            "label_numbers": dataset.class_numbers,
            "range": list(dataset.value_range),
            "standardise": dataset.standardisation.kind,
            "columns": None if dataset.columns is None else list(dataset.columns),
            "left_out": dict(dataset.left_out),
            "notes": list(dataset.notes),
        }
    }


def training_record(result: TrainResult, quality: FewSteps, nearest_row: Estimate) -> dict[str, Any]:
    """How training went."""
    last = result.history[-1]
    return {
        "result": {
            "finished": result.finished,
            "steps": result.steps,
            "loss": last.loss,
            "field_error": finite(last.field_error),
            "seconds": result.seconds,
            "parameters": sum(parameter.numel() for parameter in result.network.parameters()),
            "quality": {
                "samples": len(quality.samples[0]),
                "compared": quality.compared,
                "steps": list(quality.steps),
                "energy_distance": list(quality.energy_distance),
                "energy_distance_error": list(quality.energy_distance_error),
                "energy_distance_of_noise": quality.of_noise,
                "energy_distance_of_normal_law": quality.of_normal,
                "total_variance_over_data": [finite(found.total) for found in quality.spread],
                "total_variance_error": [finite(found.total_error) for found in quality.spread],
                "nearest_row_ratio": finite(nearest_row.value),
                "nearest_row_ratio_interval": [finite(nearest_row.low), finite(nearest_row.high)],
            },
        }
    }


def fit_record(fit: Fit) -> dict[str, Any]:
    """What a fit is worth."""
    return {
        "result": {
            "method": fit.method,
            "epsilon": fit.epsilon,
            "atoms": len(fit.potential.points),
            "converged": fit.converged,
            "chi2": fit.chi2,
            "chi2_stderr": fit.chi2_stderr,
            "transport_cost": fit.transport_cost,
            "transport_cost_interval": [finite(end) for end in fit.transport_cost_interval],
            "samples_used": fit.samples_used,
            "evaluation_samples": fit.evaluation_samples,
            "seconds": fit.seconds,
        },
    }


def finite(value: float | None) -> float | None:
    """A number that JSON can hold; None for one that is not finite."""
    return value if value is not None and math.isfinite(value) else None


def written(record: dict[str, Any]) -> bytes:
    """A record as it is written."""
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()
