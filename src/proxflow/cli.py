"""The command line: parse, call one public function per command, print."""

from __future__ import annotations

import json
import math
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from proxflow.data import Dataset
    from proxflow.semidiscrete import Fit

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

_SCHEDULES = ("linear", "cosine")
_FIT_FILE, _DATA_FILE, _RUN_FILE, _PAGE = "fit.safetensors", "standardisation.safetensors", "run.json", "report.html"

Data = Annotated[str, typer.Argument(help="A built-in data set (digits, moons, 8gaussians, ...) or a file or folder.")]
Seed = Annotated[int, typer.Option(help="Seed of all randomness.")]


@app.callback()
def _root() -> None:
    """Exact optimal-transport flow matching: fit, sample, measure."""


@app.command()
def fit(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME if not given.")] = None,
    tol: Annotated[float, typer.Option(help="Tolerance on chi2, the error of the atoms' weights.")] = 1e-2,
    max_samples: Annotated[int | None, typer.Option(help="Cap on noise draws.")] = None,
    schedule: Annotated[str, typer.Option(help="linear or cosine.")] = "linear",
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already there.")] = False,
) -> None:
    """Fit the exact OT-CFM flow of a data set and write a report.

    Example: `proxflow fit digits --out runs/digits`
    """
    import torch

    import proxflow as pf
    from proxflow.report import render_page
    from proxflow.storage import write_atomically

    if schedule not in _SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(_SCHEDULES)}")
    folder = out if out is not None else Path("runs") / Path(data).stem
    _claim(folder, overwrite)
    dataset = pf.data.load(data, seed=seed)
    result = pf.semidiscrete.fit(dataset.points, tol=tol, max_samples=max_samples, seed=seed)
    flow = pf.ProximalFlow(result.potential, pf.schedules.Cosine() if schedule == "cosine" else pf.schedules.Linear())
    folder.mkdir(parents=True, exist_ok=True)
    pf.save(result, folder / _FIT_FILE)
    pf.save(dataset.standardisation, folder / _DATA_FILE)
    write_atomically(folder / _PAGE, render_page(result, flow, dataset, seed=seed).encode())
    record = {
        "command": "fit",
        "arguments": {"data": data, "tol": tol, "max_samples": max_samples, "schedule": schedule, "seed": seed},
        "data": {"name": dataset.name, "event_shape": list(dataset.event_shape), "sha256": dataset.content_hash},
        "versions": {"proxflow": pf.__version__, "torch": torch.__version__, "python": platform.python_version()},
    }
    write_atomically(folder / _RUN_FILE, (json.dumps(record, indent=2) + "\n").encode())
    _print_fit(result, dataset, folder)


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="A run folder written by `proxflow fit`.")],
    count: Annotated[int, typer.Option(min=1, help="How many points to generate.")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps; default by method.")] = None,
    method: Annotated[str, typer.Option(help="proximal, euler, midpoint, heun or dopri5.")] = "proximal",
    seed: Seed = 0,
) -> None:
    """Generate with a fitted flow: writes samples.npy, and samples.png for images, into the run folder.

    Example: `proxflow sample runs/digits --count 64`
    """
    import io

    import numpy as np
    import torch

    import proxflow as pf
    from proxflow.report import figures
    from proxflow.storage import write_atomically

    record = _read_record(run)
    fitted, standardisation = pf.load(run / _FIT_FILE), pf.load(run / _DATA_FILE)
    shape = tuple(int(size) for size in record["data"]["event_shape"])
    cosine = record["arguments"]["schedule"] == "cosine"
    flow = pf.ProximalFlow(fitted.potential, pf.schedules.Cosine() if cosine else pf.schedules.Linear())
    generator = torch.Generator().manual_seed(seed)
    noise = flow.potential.source.sample(count, generator=generator, dtype=fitted.potential.points.dtype)
    end = pf.sampling.integrate(flow, noise, steps=steps, method=method).end
    samples = standardisation.undo(end.reshape((count, *shape)))
    buffer = io.BytesIO()
    np.save(buffer, samples.numpy())
    write_atomically(run / "samples.npy", buffer.getvalue())
    typer.echo(f"{count} samples of shape {shape}: {run / 'samples.npy'}")
    if figures.is_image(shape):
        write_atomically(run / "samples.png", figures.image_grid(samples[:256], math.ceil(math.sqrt(min(count, 256)))))
        typer.echo(f"picture: {run / 'samples.png'}")


def main() -> None:
    """Run the command line: a wrong input is one line on standard error and exit code 2."""
    from proxflow.errors import ConvergenceError, MissingExtraError

    try:
        app()
    except (ValueError, ConvergenceError, MissingExtraError, OSError) as error:
        typer.echo(f"proxflow: {error}", err=True)
        sys.exit(2)


def _claim(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give another --out")
    if (folder / _RUN_FILE).exists() and not overwrite:
        raise ValueError(f"{folder} already holds a run; give another --out, or --overwrite to replace it")


def _read_record(run: Path) -> dict[str, dict[str, str]]:
    path = run / _RUN_FILE
    if not path.exists():
        raise ValueError(f"{run} holds no run (no {_RUN_FILE}); make one with: proxflow fit DATA --out {run}")
    try:
        record: dict[str, dict[str, str]] = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); fit again with --overwrite") from error
    return record


def _print_fit(result: Fit, dataset: Dataset, folder: Path) -> None:
    low, high = result.transport_cost_interval
    verdict = "converged" if result.converged else "NOT converged"
    typer.echo(f"{dataset.name}: {dataset.n:,} points in dimension {dataset.dim}, {verdict} in {result.seconds:.1f} s")
    typer.echo(f"  chi2 of the weights  {result.chi2:.4g} +- {result.chi2_stderr:.2g} (tolerance {result.tol:g})")
    typer.echo(f"  transport cost W2^2  {result.transport_cost:.6g}, 95% interval [{low:.6g}, {high:.6g}]")
    typer.echo(f"  noise draws          {result.samples_used:,} to fit, {result.evaluation_samples:,} to evaluate")
    typer.echo(f"report: {folder / _PAGE}")
