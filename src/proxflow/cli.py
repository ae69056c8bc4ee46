"""The command line: parse, call one public function per command, print."""

from __future__ import annotations

import json
import math
import platform
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from proxflow.data import Dataset
    from proxflow.schedules import Schedule
    from proxflow.semidiscrete import Fit

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

_SCHEDULES = ("linear", "cosine")
_FIT_FILE, _DATA_FILE, _RUN_FILE, _PAGE = "fit.safetensors", "standardisation.safetensors", "run.json", "report.html"
_SAMPLES, _SAMPLE_RECORD, _SAMPLE_PICTURE = "samples.npy", "samples.json", "samples.png"
_INTERRUPTED = 130

Data = Annotated[str, typer.Argument(help="A built-in data set (digits, moons, 8gaussians, ...) or a file or folder.")]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all randomness.")]


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
    import proxflow as pf
    from proxflow.report import render_page
    from proxflow.storage import write_atomically

    if schedule not in _SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(_SCHEDULES)}")
    if out is not None:
        _claim(out, overwrite)
    dataset = pf.data.load(data, seed=seed)
    folder = out if out is not None else Path("runs") / dataset.name
    _claim(folder, overwrite)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)  # the verdict below says it
        result = pf.semidiscrete.fit(dataset.points, tol=tol, max_samples=max_samples, seed=seed)
    flow = pf.ProximalFlow(result.potential, _schedule(schedule))
    page = render_page(result, flow, dataset, seed=seed)
    arguments = {"data": data, "tol": tol, "max_samples": max_samples, "schedule": schedule, "seed": seed}
    record = {"command": "fit", "arguments": arguments, **_fit_record(result, dataset), "versions": _versions()}
    folder.mkdir(parents=True, exist_ok=True)
    _remove_run(folder)
    pf.save(result, folder / _FIT_FILE)
    pf.save(dataset.standardisation, folder / _DATA_FILE)
    write_atomically(folder / _PAGE, page.encode())
    write_atomically(folder / _RUN_FILE, _json(record))
    _print_fit(result, dataset, folder)


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="A run folder written by `proxflow fit`.")],
    count: Annotated[int, typer.Option(min=1, help="How many points to generate.")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps; default by method.")] = None,
    method: Annotated[str, typer.Option(help="proximal, euler, midpoint, heun or dopri5.")] = "proximal",
    seed: Seed = 0,
) -> None:
    """Generate with a fitted flow: writes samples.npy (in the units of the data) into the run folder.

    With it come samples.json, the arguments, and for images samples.png.

    Example: `proxflow sample runs/digits --count 64`
    """
    import io

    import numpy as np
    import torch

    import proxflow as pf
    from proxflow.report import figures
    from proxflow.storage import write_atomically

    shape, schedule = _read_record(run)
    fitted, standardisation = pf.load(run / _FIT_FILE), pf.load(run / _DATA_FILE)
    if not isinstance(fitted, pf.semidiscrete.Fit) or math.prod(shape) != fitted.potential.dim:
        raise ValueError(f"{run / _FIT_FILE} does not belong to {run / _RUN_FILE}; fit again with --overwrite")
    flow = pf.ProximalFlow(fitted.potential, _schedule(schedule))
    generator = torch.Generator().manual_seed(seed)
    noise = flow.potential.source.sample(count, generator=generator, dtype=fitted.potential.points.dtype)
    end = pf.sampling.integrate(flow, noise, steps=steps, method=method).end
    samples = standardisation.undo(end.reshape((count, *shape)))
    buffer = io.BytesIO()
    np.save(buffer, samples.numpy())
    arguments = {"count": count, "steps": steps, "method": method, "seed": seed}
    write_atomically(run / _SAMPLES, buffer.getvalue())
    write_atomically(
        run / _SAMPLE_RECORD, _json({"command": "sample", "arguments": arguments, "versions": _versions()})
    )
    typer.echo(f"{count} samples of shape {shape}: {run / _SAMPLES}")
    if figures.is_image(shape):
        columns = math.ceil(math.sqrt(min(count, 256)))
        write_atomically(run / _SAMPLE_PICTURE, figures.image_grid(samples[:256], columns))
        typer.echo(f"picture: {run / _SAMPLE_PICTURE}")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: a wrong input is one line on standard error and exit code 2, Ctrl-C is 130."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        status = app(given or ["--help"], prog_name="proxflow", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except Exception as error:
        message = _explanation(error)
        if message is None:
            raise
        typer.echo(f"proxflow: {' '.join(message.split())}", err=True)
        sys.exit(2)
    if status == _INTERRUPTED:
        typer.echo("proxflow: interrupted", err=True)
    if isinstance(status, int) and status:
        sys.exit(status)


def _explanation(error: Exception) -> str | None:
    """What to tell the user about an error that is theirs to mend; None for one that is ours."""
    from proxflow.errors import ConvergenceError, MissingExtraError

    describe = getattr(error, "format_message", None)  # an error of the command line itself
    if describe is not None:
        return f"{describe()} (see proxflow --help)"
    known = isinstance(error, ValueError | ConvergenceError | MissingExtraError | OSError)
    return str(error) if known else None


def _schedule(name: str) -> Schedule:
    from proxflow.schedules import Cosine, Linear

    return Cosine() if name == "cosine" else Linear()


def _fit_record(result: Fit, dataset: Dataset) -> dict[str, Any]:
    return {
        "data": {
            "name": dataset.name,
            "points": dataset.n,
            "event_shape": list(dataset.event_shape),
            "sha256": dataset.content_hash,
        },
        "result": {
            "atoms": len(result.potential.points),
            "converged": result.converged,
            "chi2": result.chi2,
            "chi2_stderr": result.chi2_stderr,
            "transport_cost": result.transport_cost,
            "transport_cost_interval": list(result.transport_cost_interval),
            "samples_used": result.samples_used,
            "evaluation_samples": result.evaluation_samples,
            "seconds": result.seconds,
        },
    }


def _versions() -> dict[str, str]:
    import numpy as np
    import torch

    import proxflow as pf

    return {
        "proxflow": pf.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def _json(record: dict[str, Any]) -> bytes:
    return (json.dumps(record, indent=2, allow_nan=False) + "\n").encode()


def _remove_run(folder: Path) -> None:
    """Take away an earlier run, its record first: what is left of it then never passes for a run."""
    for name in (_RUN_FILE, _FIT_FILE, _DATA_FILE, _PAGE, _SAMPLES, _SAMPLE_RECORD, _SAMPLE_PICTURE):
        (folder / name).unlink(missing_ok=True)


def _claim(folder: Path, overwrite: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give another --out")
    if (folder / _RUN_FILE).exists() and not overwrite:
        raise ValueError(f"{folder} already holds a run; give another --out, or --overwrite to replace it")


def _read_record(run: Path) -> tuple[tuple[int, ...], str]:
    """Event shape and schedule of a run."""
    path = run / _RUN_FILE
    if not path.is_file():
        raise ValueError(f"{run} holds no run (no {_RUN_FILE}); make one with: proxflow fit DATA --out {run}")
    try:
        record = json.loads(path.read_text())
        return tuple(int(size) for size in record["data"]["event_shape"]), str(record["arguments"]["schedule"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error!r}); fit again with --overwrite") from error


def _print_fit(result: Fit, dataset: Dataset, folder: Path) -> None:
    low, high = result.transport_cost_interval
    verdict = "converged" if result.converged else "NOT converged"
    typer.echo(f"{dataset.name}: {dataset.n:,} points in dimension {dataset.dim}, {verdict} in {result.seconds:.1f} s")
    typer.echo(f"  chi2 of the weights  {result.chi2:.4g} +- {result.chi2_stderr:.2g} (tolerance {result.tol:g})")
    typer.echo(f"  transport cost W2^2  {result.transport_cost:.6g}, 95% interval [{low:.6g}, {high:.6g}]")
    typer.echo(f"  noise draws          {result.samples_used:,} to fit, {result.evaluation_samples:,} to evaluate")
    if not result.converged:
        typer.echo(
            "  The flow is exact for its own weights; for the data's, give more --max-samples or a larger --tol."
        )
    typer.echo(f"report: {folder / _PAGE}")
