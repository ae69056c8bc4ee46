"""proxflow audit: a run against the laws of the exact flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from proxflow.analysis import Audit
    from proxflow.cli.run_folder import RunFolder
    from proxflow.semidiscrete import Fit

__all__ = ["audit"]


@with_groups
def audit(
    run: Annotated[Path, typer.Argument(help="A run folder of `proxflow fit` or `train`.")],
    data: Annotated[
        str | None,
        typer.Option(metavar="DATA", help="What the model should generate, as for `fit`; else what its run kept."),
    ] = None,
    held_out: Annotated[
        str | None, typer.Option(metavar="DATA", help="Rows that it was not trained on, to see whether it copies.")
    ] = None,
    *,
    reading: Reading,
    destination: Destination,
    count: Annotated[int, typer.Option(min=64, help="Noise points that are followed.")] = 1024,
    steps: Annotated[int, typer.Option(min=8, help="Steps in which they are followed.")] = 32,
    marks: Annotated[bool, typer.Option("--marks/--no-marks", help="Measure independent pairs too.")] = True,
    seed: Seed = 0,
    output: Output,
) -> None:
    """Audit a flow or network: is it optimal transport, how far from it, does it make the data, what would help?

    Example: `proxflow audit runs/digits-network --data digits`
    """
    import proxflow as pf
    from proxflow.cli.run_folder import RunFolder
    from proxflow.report import render_audit_page

    source = RunFolder(run)
    found = _audited_run(source)
    if destination.out is not None and destination.out.resolve() == run.resolve():
        raise ValueError(f"--out {destination.out} is the run that is audited; give another folder")
    folder = destination.folder(run.with_name(f"{run.name}-audit"))
    rows, labels = found.rows_of(data, reading, seed)
    whole = replace(reading, points=None)
    new_rows = None if held_out is None else found.rows_of(held_out, whole, seed)[0]
    if rows is None and found.reference is None:
        raise ValueError(f"{run} keeps neither its data nor a fit of them; give --data")
    with folder.writing(resume=False):
        result = pf.analysis.audit(
            found.field,
            found.reference,
            data=rows,
            labels=labels,
            held_out=new_rows,
            schedule=schedule_named(found.schedule),
            count=count,
            steps=steps,
            marks=marks,
            seed=seed,
        )
        arguments: dict[str, Any] = {
            "run": str(run), "data": data, "held_out": held_out, **record_of(reading), "count": count, "steps": steps,
            "marks": marks, "seed": seed,
        }  # fmt: skip
        page = render_audit_page(result, found.name, found.words, command_line("audit", arguments))
        complete = {**arguments, "schedule": found.schedule}
        folder.write_study("audit", result, {"data": source.facts.data}, page, complete, _record(result))
    _print(output, result)
    output.say(f"report: {folder.page}")
    output.end(folder.path, report=str(folder.page), **folder.record)


@dataclass(frozen=True)
class _Audited:
    """The field of a run, and what the run knows of its data."""

    field: Callable[[Tensor, Tensor], Tensor]
    event_shape: tuple[int, ...]
    dtype: torch.dtype
    apply: Callable[[Tensor], Tensor]
    schedule: str
    name: str
    words: str
    reference: Fit | None
    rows: Tensor | None

    def rows_of(self, data: str | None, reading: Reading, seed: int) -> tuple[Tensor | None, Tensor | None]:
        """Data as the model sees them, and their labels; what the run kept if none are named."""
        if data is None:
            return self.rows, None
        dataset = reading.load(data, seed)
        if dataset.event_shape != self.event_shape:
            raise ValueError(f"{data} has points of {dataset.event_shape}, the model of {self.event_shape}")
        raw = dataset.standardisation.undo(dataset.points.double())
        return self.apply(raw).to(self.dtype), dataset.labels


def _audited_run(folder: RunFolder) -> _Audited:
    import torch

    import proxflow as pf

    name = str(folder.facts.data["name"])
    if folder.is_trained:
        network, standardisation, shape, schedule = folder.read_network()
        atoms = folder.read_atoms()
        rows = None if atoms is None else atoms.float().reshape(-1, *shape)
        fitted = folder.fit_of_training()
        words = f"the network of {folder.path}"
        return _Audited(pf.matching.field_of(network), shape, torch.float32, standardisation.apply, schedule, name,
                        words, fitted, rows)  # fmt: skip
    fitted, standardisation, shape, schedule = folder.read_fit()
    flow = pf.ProximalFlow(fitted.potential.double(), schedule_named(schedule))
    rows = fitted.potential.points.double().reshape(-1, *shape)
    words = f"the exact flow of {folder.path}"
    return _Audited(flow, shape, torch.float64, standardisation.apply, schedule, name, words, fitted, rows)


def _record(result: Audit) -> dict[str, Any]:
    """The audit for run.json; numbers that are not finite are null."""
    return {
        "verdict": result.verdict,
        "warnings": list(result.warnings),
        "advice": result.advice,
        "figures": {
            name: {
                "value": _finite(one.value), "interval": [_finite(one.low), _finite(one.high)],
                "exact": _finite(one.exact), "independent": _finite(one.independent),
            }
            for name, one in result.figures.items()
        },
    }  # fmt: skip


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _print(output: Output, result: Audit) -> None:
    output.say(result.verdict)
    output.say(f"  {'figure':<22s}{'value':>10s}{'95% interval':>24s}{'exact':>10s}{'independent':>13s}")
    for one in result.figures.values():
        interval = f"[{one.low:.3g}, {one.high:.3g}]"
        marks = ["" if mark is None else f"{mark:.3g}" for mark in (one.exact, one.independent)]
        output.say(f"  {one.name:<22s}{one.value:>10.3g}{interval:>24s}{marks[0]:>10s}{marks[1]:>13s}")
