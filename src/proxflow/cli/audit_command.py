"""proxflow audit: a run, or anyone's model in a file, against the laws of the exact flow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from proxflow.cli.audited_model import ModelReading, audited_model
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

if TYPE_CHECKING:
    from proxflow.analysis import Audit

__all__ = ["audit"]


@with_groups
def audit(
    model: Annotated[
        Path,
        typer.Argument(
            help="A run folder of `proxflow fit` or `train`; or a file of TorchScript, torch.export, safetensors or "
            "torch.save with --data."
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="What the model should generate, as for `fit`, in the units that a model in a file was trained in; "
            "else what its run kept.",
        ),
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(metavar="DATA", help="Rows that it was not trained on, to see whether it copies.")
    ] = None,
    *,
    given: ModelReading,
    reading: Reading,
    destination: Destination,
    count: Annotated[int, typer.Option(min=64, help="Noise points that are followed.")] = 1024,
    steps: Annotated[int, typer.Option(min=8, help="Steps in which they are followed.")] = 32,
    compare_independent: Annotated[
        bool,
        typer.Option(
            "--compare-independent/--no-compare-independent", help="Measure the field of independent pairs too."
        ),
    ] = True,
    likelihood: Annotated[
        bool, typer.Option("--likelihood", help="Measure the mean log-density of --held-out rows, or of the data, too.")
    ] = False,
    seed: Seed = 0,
    output: Output,
) -> None:
    """Audit a flow or network: is it optimal transport, how far from it, does it make the data, what would help?

    Example: `proxflow audit runs/digits-network --data digits`

    Example: `proxflow audit model.ts --data train.npy --convention torchcfm`
    """
    import proxflow as pf
    from proxflow.report import render_audit_page

    if destination.out is not None and destination.out.resolve() == model.resolve():
        raise ValueError(f"--out {destination.out} is the run that is audited; give another folder")
    folder = destination.folder(model.with_name(f"{model.stem if model.is_file() else model.name}-audit"))
    found = audited_model(model, given, data, held_out, reading, seed)
    if found.how is not None:
        output.say(f"{model}: {found.how}")
    with folder.writing(resume=False):
        result = pf.analysis.audit(
            found.field,
            found.reference,
            data=found.rows,
            labels=found.labels,
            class_names=found.class_names,
            conditional=found.conditional,
            held_out=found.held_out,
            schedule=schedule_named(found.schedule),
            count=count,
            steps=steps,
            compare_independent=compare_independent,
            likelihood=likelihood,
            seed=seed,
        )
        arguments: dict[str, Any] = {
            "run": str(model), "data": data, "held_out": held_out, **record_of(given), **record_of(reading),
            "count": count, "steps": steps, "compare_independent": compare_independent, "likelihood": likelihood,
            "seed": seed,
        }  # fmt: skip
        page = render_audit_page(result, found.name, found.words, command_line("audit", arguments))
        complete = {**arguments, "schedule": found.schedule}
        folder.write_study("audit", result, found.record, page, complete, _record(result))
    _print(output, result)
    output.say(f"report: {folder.page}")
    output.end(folder.path, report=str(folder.page), **folder.record)


def _record(result: Audit) -> dict[str, Any]:
    """The audit for run.json; numbers that are not finite are null."""
    from proxflow.cli.run_record import finite

    return {
        "verdict": result.verdict,
        "warnings": list(result.warnings),
        "advice": result.advice,
        "step_grid": list(result.step_grid),
        "figures": {
            name: {
                "value": finite(one.value), "interval": [finite(one.low), finite(one.high)],
                "exact": finite(one.exact), "independent": finite(one.independent),
            }
            for name, one in result.figures.items()
        },
    }  # fmt: skip


def _print(output: Output, result: Audit) -> None:
    from proxflow.report.audit_page import audit_table

    table = audit_table(result)
    rows = [table.columns, *((name, *row[1:]) for name, row in zip(result.figures, table.rows, strict=True))]
    widths = [max(len(row[k]) for row in rows) for k in range(len(table.columns))]
    output.say(result.verdict)
    for name, *cells in rows:
        words = [f"{cell:>{width}s}" for cell, width in zip(cells, widths[1:], strict=True)]
        output.say(f"  {name:<{widths[0]}s}  {'  '.join(words)}".rstrip())
