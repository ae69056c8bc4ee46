"""proxflow batch-size: how far minibatch pairs are from the population coupling."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from proxflow.cli.options import (
    Data,
    Destination,
    Output,
    Reading,
    ScheduleName,
    Seed,
    command_line,
    record_of,
    schedule_named,
    suggest_a_subset,
    with_groups,
)
from proxflow.errors import counted

if TYPE_CHECKING:
    from proxflow.analysis import MinibatchConvergence
    from proxflow.data import Dataset

__all__ = ["batch_size"]


@with_groups
def batch_size(
    data: Data,
    reading: Reading,
    destination: Destination,
    max_batch: Annotated[
        int, typer.Option(min=1, help="Largest batch size; powers of two up to it, and up to the points, are tried.")
    ] = 1024,
    target_error: Annotated[
        float, typer.Option(help="Excess cost that you would accept, as a share of W2^2: what the advice aims at.")
    ] = 0.05,
    solver: Annotated[Literal["exact", "sinkhorn"], typer.Option(help="How batches are assigned.")] = "exact",
    schedule: ScheduleName = "linear",
    seed: Seed = 0,
    *,
    output: Output,
) -> None:
    """Measure how far minibatch OT-CFM is from the population flow at each batch size, and say what to do.

    Ctrl-C keeps the batch sizes that are done.

    Example: `proxflow batch-size digits`

    Example: `proxflow batch-size cells.h5ad --representation X_pca --max-batch 4096 --target-error 0.01`
    """
    import proxflow as pf
    from proxflow.cli.run_record import data_record
    from proxflow.report import render_batch_size_page

    if not (math.isfinite(target_error) and target_error > 0):
        raise ValueError(f"--target-error must be a positive number, such as 0.05, got {target_error:g}")
    folder, dataset = destination.claimed(data, reading, seed, "-batch-size")
    suggest_a_subset(dataset, reading.points)
    arguments = {
        "data": data,
        **record_of(reading),
        "max_batch": max_batch,
        "target_error": target_error,
        "solver": solver,
        "schedule": schedule,
        "seed": seed,
    }
    largest = min(max_batch, dataset.n)
    with folder.writing(resume=False):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", pf.ConvergenceWarning)
            study = pf.analysis.minibatch_convergence(
                dataset.points,
                sorted({min(2**k, largest) for k in range(largest.bit_length() + 1)}),
                solver=solver,
                seed=seed,
                schedule=schedule_named(schedule),
                wanted=target_error,
            )
        page = render_batch_size_page(study, dataset, command_line("batch-size", arguments))
        result = {
            "advice": study.advice,
            "transport_cost": study.transport_cost,
            "excess": dict(zip(map(str, study.batch_sizes.tolist()), (2 * study.gap).tolist(), strict=True)),
            "exponent": study.rate.exponent,
        }
        folder.write_study("batch-size", study, data_record(dataset), page, arguments, result)
    _print_warnings(caught)
    _print_study(output, study, dataset)
    output.say(f"report: {folder.page}")
    output.end(folder.path, report=str(folder.page), **folder.record)


def _print_warnings(caught: list[warnings.WarningMessage]) -> None:
    """The first warning of each place: a solver may repeat its own at every batch."""
    first = {(warning.filename, warning.lineno): warning.message for warning in reversed(caught)}
    for message in reversed(first.values()):
        typer.echo(f"proxflow: {message}", err=True)


def _print_study(output: Output, study: MinibatchConvergence, dataset: Dataset) -> None:
    from proxflow.report.batch_size_page import batch_table, draws_in_words, rate_in_words, routes_in_words

    low, high = study.transport_cost_interval
    output.say(f"{dataset.name}: {counted(dataset.n, 'point')} in dimension {dataset.dim}")
    output.say(f"  transport cost W2^2  {study.transport_cost:.4g}, 95% interval [{low:.4g}, {high:.4g}]")
    table = batch_table(study, "+-")
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        output.say("  ".join(["", *(cell.rjust(width) for cell, width in zip(line, widths, strict=True))]))
    output.say(f"  targets of a batch   {draws_in_words(study)}")
    output.say(f"  two routes           {routes_in_words(study)}")
    output.say(f"  rate                 {rate_in_words(study)}")
    output.say(study.advice)
