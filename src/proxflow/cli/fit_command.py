"""proxflow fit: the exact flow of a data set."""

from __future__ import annotations

import dataclasses
import shlex
import warnings
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxflow.cli.options import (
    Data,
    Device,
    Output,
    Reading,
    ResumableDestination,
    ScheduleName,
    Seed,
    Tolerance,
    command_line,
    device_named,
    hint,
    record_of,
    schedule_named,
    suggest_a_subset,
    with_groups,
)
from proxflow.errors import counted

if TYPE_CHECKING:
    import torch

    from proxflow.data import Dataset
    from proxflow.semidiscrete import Fit

__all__ = ["fit"]


@with_groups
def fit(
    data: Data,
    reading: Reading,
    destination: ResumableDestination,
    tol: Tolerance = 1e-2,
    epsilon: Annotated[
        float,
        typer.Option(help="Smoothing, such as 0.5: the flow then ends between data points, at 0 on them."),
    ] = 0.0,
    max_samples: Annotated[int | None, typer.Option(help="Largest number of samples of the noise.")] = None,
    schedule: ScheduleName = "linear",
    seed: Seed = 0,
    device: Device = "cpu",
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Tell the time, memory and draws that the fit will take, and stop.")
    ] = False,
    *,
    output: Output,
) -> None:
    """Fit the exact OT-CFM flow of a data set and write a report.

    Ctrl-C keeps the best so far, and --resume continues from there.

    Example: `proxflow fit digits --out runs/digits`

    Example: `proxflow fit fashion-mnist --tol 0.1 --estimate`

    Example: `proxflow fit cells.h5ad --representation X_pca --label cell_type`
    """
    import proxflow as pf
    from proxflow.report import render_page
    from proxflow.semidiscrete.ranks import Ranks

    place, processes = device_named(device), Ranks.of_default_group()
    options = {"epsilon": epsilon, "tol": tol, "max_samples": max_samples, "seed": seed}
    if estimate:
        if processes.rank == 0:
            _estimate(output, reading.load(data, seed), place, **options)
        return
    folder, dataset = processes.from_first(lambda: destination.claimed(data, reading, seed))
    if processes.rank > 0:  # the first one writes and prints
        _fitted(dataset, place, **options)
        return
    suggest_a_subset(dataset, reading.points)
    arguments = {
        "data": data,
        **record_of(reading),
        "tol": tol,
        "epsilon": epsilon,
        "max_samples": max_samples,
        "schedule": schedule,
        "seed": seed,
        "device": None if device == "cpu" else device,
    }
    command = command_line("fit", arguments)
    with folder.writing(resume=destination.resumes(folder)), hint(folder):
        result = _fitted(dataset, place, **options, checkpoint=folder.checkpoint)
        flow = pf.ProximalFlow(result.potential, schedule_named(schedule))
        page = render_page(result, flow, dataset, seed=seed, command=command)
        folder.write_fit(result, dataset, page, arguments)
    _print_fit(output, result, dataset)
    if not result.converged:
        used_up = max_samples is not None and result.samples_used >= max_samples
        continued = arguments | {"max_samples": 2 * result.samples_used} if used_up else arguments
        more = ", with twice the samples" if used_up else ""
        output.say(f"  The flow is exact for its own weights. To continue{more}:")
        output.say(f"    {command_line('fit', continued)} --out {shlex.quote(str(folder.path))} --resume")
    output.say(f"report: {folder.page}")
    output.end(folder.path, report=str(folder.page), **folder.record)


def _fitted(dataset: Dataset, device: torch.device, **options: Any) -> Fit:
    """The fit on this device, kept on the CPU."""
    import proxflow as pf

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)  # what is printed says it
        found = pf.semidiscrete.fit(dataset.points.to(device), **options)
    return dataclasses.replace(
        found,
        potential=found.potential.cpu(),
        cell_mass=found.cell_mass.cpu(),
        atom_of_row=found.atom_of_row.cpu(),
    )


def _estimate(output: Output, dataset: Dataset, device: torch.device, **options: Any) -> None:
    import proxflow as pf

    found = pf.semidiscrete.estimate(dataset.points.to(device), **options)
    points = f"{dataset.name}: {counted(dataset.n, 'point')} in dimension {dataset.dim}"
    output.say(f"{points}, about {_duration(found.seconds)} on this machine")
    output.say(f"  method               {found.method}")
    if found.samples:
        output.say(f"  noise samples        {found.samples:,} to fit, {found.evaluation_samples:,} to evaluate")
    if found.memory is not None:
        output.say(f"  memory               {found.memory / 1e9:.1f} GB")
    output.record(data=dataset.name, **dataclasses.asdict(found))


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"


def _print_fit(output: Output, result: Fit, dataset: Dataset) -> None:
    from proxflow.report import wording

    verdict = "converged" if result.converged else "NOT converged"
    output.say(
        f"{dataset.name}: {counted(dataset.n, 'point')} in dimension {dataset.dim}, {verdict} in {result.seconds:.1f} s"
    )
    if counts := dataset.class_counts:
        output.say(f"  labels               {_classes(counts)}")
    output.say(f"  method               {wording.method_in_words(result)}")
    if result.epsilon > 0:
        output.say(f"  smoothing epsilon    {result.epsilon:g}")
    output.say(f"  chi2 of the weights  {wording.chi2_in_words(result, '+-')} (tolerance {result.tol:g})")
    of_smoothed = ", to what the smoothed flow makes" if result.epsilon > 0 else ""
    output.say(f"  transport cost W2^2  {wording.cost_in_words(result)}{of_smoothed}")
    if result.samples_used:
        output.say(f"  noise samples        {result.samples_used:,} to fit, {result.evaluation_samples:,} to evaluate")
    elif result.evaluation_samples:
        output.say(f"  noise samples        none to fit, {result.evaluation_samples:,} to check")


def _classes(counts: dict[str, int]) -> str:
    fewest, most = min(counts.values()), max(counts.values())
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{counted(len(counts), 'class', 'classes')} of {each} {'point' if most == 1 else 'points'}"
