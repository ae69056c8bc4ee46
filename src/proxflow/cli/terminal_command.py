"""proxflow terminal: how a flow arrives at its data."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from proxflow.cli.options import (
    Destination,
    Output,
    Reading,
    Seed,
    command_line,
    record_of,
    schedule_named,
    with_groups,
)
from proxflow.errors import counted

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from proxflow.analysis import TerminalStudy
    from proxflow.cli.run_folder import RunFolder
    from proxflow.data import Dataset, Standardisation

__all__ = ["terminal"]


@with_groups
def terminal(
    subject: Annotated[
        str, typer.Argument(metavar="RUN|DATA", help="A run folder of `proxflow fit` or `train`, or data as for `fit`.")
    ],
    reading: Reading,
    destination: Destination,
    epsilon: Annotated[
        float | None, typer.Option(help="Smoothing of the flow that is fitted to data, 0.1 if not given; 0 memorises.")
    ] = None,
    scale: Annotated[
        float, typer.Option(help="alpha / beta at which local dimensions are taken, in standardised units.")
    ] = 0.2,
    count: Annotated[int, typer.Option(min=2, help="Initial points.")] = 100,
    times: Annotated[
        str | None, typer.Option(metavar="T,T,...", help="Times of the rates, increasing, inside (0, 1); from 0.5 on.")
    ] = None,
    schedule: Annotated[
        Literal["linear", "cosine"] | None, typer.Option(help="Schedule of the flow fitted to data.")
    ] = None,
    seed: Seed = 0,
    *,
    output: Output,
) -> None:
    """Measure how a flow or network arrives at its data: rates, scales, local dimension, perturbations.

    Of a run of a conditional network, --label is the class that it is told, none if not given.

    Example: `proxflow terminal moons --epsilon 0.02`

    Example: `proxflow terminal runs/digits-network --scale 0.5`
    """
    import proxflow as pf
    from proxflow.analysis.terminal.terminal_study import TIMES
    from proxflow.cli.run_folder import RunFolder
    from proxflow.report import render_terminal_page
    from proxflow.report.terminal_page import study_warnings

    own = {**record_of(reading), "epsilon": epsilon, "schedule": schedule}
    arguments: dict[str, Any] = {"subject": subject, "scale": scale, "count": count, "times": times, "seed": seed}
    moments = TIMES if times is None else _times(times)
    if (Path(subject) / "run.json").is_file():
        asked = [name for name, value in own.items() if value not in (None, False) and name != "label"]
        given = [f"--{name.replace('_', '-')}" for name in asked]
        if given:
            raise ValueError(f"{', '.join(given)}: for data only; the run in {subject} has its own")
        source = RunFolder(Path(subject))
        found = _arriving_run(source, reading.label)
        arguments["label"] = reading.label
        if destination.out is not None and destination.out.resolve() == source.path.resolve():
            raise ValueError(f"--out {destination.out} is the run that is studied; give another folder")
        folder = destination.folder(source.path.with_name(f"{source.path.name}-terminal"))
    else:
        own |= {"epsilon": 0.1 if epsilon is None else epsilon, "schedule": schedule or "linear"}
        arguments |= own
        folder, dataset = destination.claimed(subject, reading, seed, "-terminal")
        found = _arriving_data(dataset, own["epsilon"], own["schedule"], seed)
    with folder.writing(resume=False):
        study = pf.analysis.terminal_study(
            found.field,
            found.noise(count, seed),
            scale=scale,
            times=moments,
            schedule=schedule_named(found.schedule),
            points=found.points,
            seed=seed,
        )
        command = command_line("terminal", arguments)
        page = render_terminal_page(study, found.standardisation, found.name, found.words, command)
        warned = study_warnings(study)
        result = {
            "local_dimension": float(study.dimension.dimension.mean()),
            "warning": " ".join(warned) or None,
        }
        complete = {**arguments, "schedule": found.schedule}
        folder.write_study("terminal", study, found.record, page, complete, result)
    _print_arrival(output, study, found.name)
    for warning in warned:
        output.say(f"  warning: {warning}")
    output.say(f"report: {folder.page}")
    output.end(folder.path, report=str(folder.page), **folder.record)


def _times(text: str) -> list[float]:
    try:
        times = [float(part) for part in text.split(",")]
    except ValueError:
        times = []
    if not times or not all(0 < t < 1 for t in times) or any(b <= a for a, b in itertools.pairwise(times)):
        raise ValueError(f"--times must be increasing numbers inside (0, 1) such as 0.5,0.9,0.99, got {text!r}")
    return times


@dataclass(frozen=True)
class _Arriving:
    """A field to study, and where it is from."""

    field: Callable[[Tensor, Tensor], Tensor]
    event_shape: tuple[int, ...]
    dtype: torch.dtype
    standardisation: Standardisation
    schedule: str
    name: str
    words: str
    record: dict[str, Any]
    points: Tensor | None = None  # data of a network, for warnings of memorisation; a flow knows its own

    def noise(self, count: int, seed: int) -> Tensor:
        """Initial points of the trajectories."""
        import torch

        from proxflow.seeding import generator_of

        return torch.randn((count, *self.event_shape), generator=generator_of(seed), dtype=self.dtype)


def _arriving_run(folder: RunFolder, label: str | None) -> _Arriving:
    from proxflow.cli.run_field import read_run_field

    found, record = read_run_field(folder, label), {"data": folder.facts.data}
    name = str(record["data"]["name"])
    if folder.is_trained:
        words = f"the network of {folder.path}{_told(found.classes, label)}"
        name = name if label is None else f"{name}, class {label}"
        points = found.rows
    else:
        epsilon = 0.0 if found.fit is None else found.fit.epsilon
        words = f"the exact flow of {folder.path}, smoothed by epsilon = {epsilon:g}"
        points = None
    return _Arriving(
        found.field, found.event_shape, found.dtype, found.standardisation, found.schedule, name, words, record, points
    )


def _told(classes: int, label: str | None) -> str:
    """Which label a network is told."""
    if classes == 0:
        return ""
    return ", told no label: the mixture of its classes" if label is None else f", told the label {label}"


def _arriving_data(dataset: Dataset, epsilon: float, schedule: str, seed: int) -> _Arriving:
    import torch

    import proxflow as pf
    from proxflow.cli.run_record import data_record
    from proxflow.semidiscrete.fit_result import uninterrupted

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)  # any fit is an exact flow of its own weights
        fitted = uninterrupted(pf.semidiscrete.fit(dataset.points, epsilon=epsilon, seed=seed))
    words = f"the exact flow of the data, smoothed by epsilon = {epsilon:g}"
    flow = pf.ProximalFlow(fitted.potential.double(), schedule_named(schedule))
    return _Arriving(
        flow, dataset.event_shape, torch.float64, dataset.standardisation, schedule, dataset.name, words,
        data_record(dataset),
    )  # fmt: skip


def _print_arrival(output: Output, study: TerminalStudy, name: str) -> None:
    spectrum, dimension = study.spectrum, study.dimension.dimension
    _, points, rates = spectrum.rates.shape
    output.say(f"{name}: {counted(points, 'initial point')}, {counted(rates, 'rate')} at each")
    output.say(f"  {'t':>7s}{'lowest rate':>20s}{'highest rate':>20s}")
    for k, t in enumerate(spectrum.times.tolist()):
        ends = [spectrum.rates[k, :, i] for i in (0, -1)]
        cells = [f"{end.mean():z.3f} +- {end.std(correction=0):.3f}" for end in ends]
        output.say(f"  {t:7.4g}{cells[0]:>20s}{cells[1]:>20s}")
    output.say(
        f"  local dimension at scale {study.dimension.scale:.3g}: {dimension.mean():.3g}, "
        f"from {dimension.min():.3g} to {dimension.max():.3g}"
    )
    survival = study.perturbation.survival
    across, along = (f"{survival[:, k].mean():.0%}" for k in (0, -1))
    output.say(
        f"  of a perturbation at t = {study.perturbation.time:g}, {across} arrives across the data, {along} along them"
    )
