"""What `proxflow audit` audits: the flow or network of a run folder, or a model in a file of any library's."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from proxflow.cli.options import Reading, schedule_named

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from proxflow.cli.run_folder import RunFolder
    from proxflow.data import Dataset
    from proxflow.semidiscrete import Fit

__all__ = ["AuditedModel", "ModelReading", "audited_model"]


@dataclass(frozen=True)
class ModelReading:
    """How a model in a file is read."""

    network: Annotated[
        str | None,
        typer.Option(
            metavar="PACKAGE.MODULE:NAME",
            help="For a file of weights: a callable that builds the network. The module is imported, from the current "
            "folder too, and runs: it is your own code.",
        ),
    ] = None
    convention: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="What the model predicts: torchcfm, flow_matching, diffusers, diffusers-sigma, sbi, or velocity, "
            "noise, data, score, negative-velocity, with -reversed for time from data to noise and :1000 for its "
            "unit, as in noise-reversed:1000. Else found from the data, or refused.",
        ),
    ] = None
    call: Annotated[
        Literal["t,x", "x,t", "column-t,x", "x,column-t", "concatenated"] | None,
        typer.Option(help="Order of the model's arguments, and whether its time is a column; else found by trying."),
    ] = None
    schedule: Annotated[
        Literal["linear", "cosine"] | None, typer.Option(help="Schedule of the path that it was trained on (linear).")
    ] = None
    trust: Annotated[
        bool,
        typer.Option(
            "--trust",
            help="Run what the file tells Python to run: needed for torch.export and for networks of torch.save. Only "
            "for files that you made, or whose maker you trust.",
        ),
    ] = False


@dataclass(frozen=True)
class AuditedModel:
    """A field, what is known of its data, and how both are described.

    Attributes:
        field: field(t, x) -> velocity.
        schedule: its name.
        name: of the data.
        words: what is audited, for the page.
        how: how a model in a file was read, or None.
        reference: the fit that the run was made of, or None.
        rows: data as the model sees them.
        labels: of the rows, or None.
        class_names: of the labels that have names.
        conditional: conditional(t, x, label) -> velocity of a network that was told these labels, or None.
        held_out: rows that it was not trained on, or None.
        record: what a run's record says of the data.
    """

    field: Callable[[Tensor, Tensor], Tensor]
    schedule: str
    name: str
    words: str
    how: str | None
    reference: Fit | None
    rows: Tensor
    labels: Tensor | None
    class_names: dict[int, str]
    conditional: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    held_out: Tensor | None
    record: dict[str, Any]


def audited_model(
    model: Path, given: ModelReading, data: str | None, held_out: str | None, reading: Reading, seed: int
) -> AuditedModel:
    """The model of a run folder or file, with the data that it is compared with.

    Raises:
        ValueError: there is neither, it cannot be read or takes other points than the data, or data are missing.
    """
    if model.is_file():
        return _of_file(model, given, data, held_out, reading, seed)
    stated = [f"--{field.name}" for field in fields(given) if getattr(given, field.name)]
    if stated:
        raise ValueError(f"{model} is no file: leave out what tells how a file is read, {', '.join(stated)}")
    return _of_run(model, data, held_out, reading, seed)


def _of_file(
    file: Path, given: ModelReading, data: str | None, held_out: str | None, reading: Reading, seed: int
) -> AuditedModel:
    import proxflow as pf
    from proxflow.cli.run_record import data_record

    stated = None if given.convention is None else pf.adapters.convention_named(given.convention)
    if data is None:
        raise ValueError(f"{file} keeps no data; give --data")
    schedule = given.schedule or "linear"
    with _current_folder_importable():
        network = pf.adapters.read_model(file, network=given.network, trust=given.trust)
    dataset = reading.load(data, seed)
    own_units = reading.standardise is None  # the model's coordinates are the user's, unless it is said otherwise
    rows = dataset.standardisation.undo(dataset.points.double()) if own_units else dataset.points
    found = pf.adapters.detect_field(
        network, rows.float(), convention=stated, order=given.call, schedule=schedule_named(schedule), seed=seed
    )
    as_seen = (lambda raw: raw) if own_units else dataset.standardisation.apply
    new_rows = _held_out_rows(held_out, reading, seed, dataset.event_shape, as_seen, found.dtype)
    return AuditedModel(
        field=found.field,
        schedule=schedule,
        name=dataset.name,
        words=f"the model in {file}",
        how=str(found),
        reference=None,
        rows=rows.to(found.dtype),
        labels=_classes(dataset),
        class_names=_names_of(dataset.class_numbers),
        conditional=None,
        held_out=new_rows,
        record=data_record(dataset),
    )


@contextlib.contextmanager
def _current_folder_importable() -> Iterator[None]:
    """As with ``python -m``: a command that is installed looks for modules beside itself alone."""
    sys.path.insert(0, "")
    try:
        yield
    finally:
        sys.path.remove("")


def _of_run(run: Path, data: str | None, held_out: str | None, reading: Reading, seed: int) -> AuditedModel:
    from proxflow.cli.run_field import read_run_field
    from proxflow.cli.run_folder import RunFolder

    folder = RunFolder(run)
    found, facts = read_run_field(folder), folder.facts
    rows, labels, names = found.rows, found.labels, _names_of(facts.classes)
    told = labels if found.classes else None
    if data is not None:
        raw, dataset = _raw_rows(data, reading, seed, found.event_shape)
        rows = found.standardisation.apply(raw).to(found.dtype)
        told = _labels_told(folder, found.classes, dataset)
        if told is None:
            labels, names = _classes(dataset), _names_of(dataset.class_numbers)
        else:
            labels = told
    as_seen = found.standardisation.apply
    return AuditedModel(
        field=found.field,
        schedule=found.schedule,
        name=str(facts.data["name"]),
        words=f"the {'network' if folder.is_trained else 'exact flow'} of {run}",
        how=None,
        reference=found.fit,
        rows=rows,
        labels=labels,
        class_names=names,
        conditional=None if told is None else found.conditional,
        held_out=_held_out_rows(held_out, reading, seed, found.event_shape, as_seen, found.dtype),
        record={"data": facts.data},
    )


def _classes(dataset: Dataset) -> Tensor | None:
    """Labels that are classes; those that are numbers with fractions are none."""
    return None if dataset.class_numbers is None else dataset.labels


def _names_of(class_numbers: dict[str, int] | None) -> dict[int, str]:
    return {number: name for name, number in (class_numbers or {}).items()}


def _labels_told(folder: RunFolder, classes: int, dataset: Dataset) -> Tensor | None:
    """The labels of data as the numbers that a network was told; None where it was told none, or not all of these."""
    import torch

    of_data = dataset.class_numbers
    if classes == 0 or dataset.labels is None or of_data is None:
        return None
    of_network = folder.class_numbers(classes)
    if not set(of_data) <= set(of_network):
        return None
    told = torch.empty_like(dataset.labels)
    for name, number in of_data.items():
        told[dataset.labels == number] = of_network[name]
    return told


def _held_out_rows(
    held_out: str | None,
    reading: Reading,
    seed: int,
    event_shape: tuple[int, ...],
    as_seen: Callable[[Tensor], Tensor],
    dtype: torch.dtype,
) -> Tensor | None:
    """All held-out rows, as the model sees what is in its data's own units; ``--points`` is a number of the data."""
    if held_out is None:
        return None
    raw, _ = _raw_rows(held_out, replace(reading, points=None), seed, event_shape)
    return as_seen(raw).to(dtype)


def _raw_rows(data: str, reading: Reading, seed: int, event_shape: tuple[int, ...]) -> tuple[Tensor, Dataset]:
    """Data in their own units, float64, and all that was read with them.

    Raises:
        ValueError: they cannot be read, or have points of another shape than the model.
    """
    dataset = reading.load(data, seed)
    if dataset.event_shape != event_shape:
        raise ValueError(f"{data} has points of {dataset.event_shape}, the model of {event_shape}")
    return dataset.standardisation.undo(dataset.points.double()), dataset
