"""The command line: parse, call one public function per command, print."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from proxflow.data import Dataset
    from proxflow.run_folder import RunFolder
    from proxflow.schedules import Schedule
    from proxflow.semidiscrete import Fit

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

_SCHEDULES = ("linear", "cosine")
_INTERRUPTED = 130
_MANY_POINTS = 10_000
_MOST_IMAGES = 256

Data = Annotated[
    str, typer.Argument(help="A built-in data set (digits, fashion-mnist, moons, ...) or a file or folder.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all randomness.")]


@app.callback()
def _root() -> None:
    """Exact optimal-transport flow matching: fit, sample, measure."""


@app.command()
def fit(
    data: Data,
    out: Annotated[Path | None, typer.Option(help="Run folder; runs/NAME if not given.")] = None,
    points: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many points: a random subset of real data (all), or the size of a synthetic set."
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Column of labels of .csv, .parquet and .h5ad; else 'label'.")
    ] = None,
    representation: Annotated[
        str | None, typer.Option(metavar="KEY", help="Entry of obsm of .h5ad, such as X_pca; else X.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the files of fashion-mnist; else where Debian's package puts them.")
    ] = None,
    tol: Annotated[float, typer.Option(help="Tolerance on chi2, the error of the atoms' weights.")] = 1e-2,
    epsilon: Annotated[
        float,
        typer.Option(help="Smoothing, such as 0.5: the flow then ends between data points, at 0 on them."),
    ] = 0.0,
    max_samples: Annotated[int | None, typer.Option(help="Cap on noise draws.")] = None,
    schedule: Annotated[str, typer.Option(help="linear or cosine.")] = "linear",
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already there.")] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted run: the same command, with --resume.")
    ] = False,
) -> None:
    """Fit the exact OT-CFM flow of a data set and write a report.

    Ctrl-C keeps the best so far, and --resume goes on from there.

    Example: `proxflow fit digits --out runs/digits`

    Example: `proxflow fit fashion-mnist --points 1000`

    Example: `proxflow fit cells.h5ad --representation X_pca --label cell_type`
    """
    import proxflow as pf
    from proxflow.report import render_page
    from proxflow.run_folder import RunFolder

    if schedule not in _SCHEDULES:
        raise ValueError(f"unknown schedule {schedule!r}; known: {', '.join(_SCHEDULES)}")
    if overwrite and resume:
        raise ValueError("--overwrite begins again and --resume goes on; give one of them")
    if out is not None:
        RunFolder(out).claim(overwrite=overwrite, resume=resume)
    dataset = pf.data.load(data, n=points, seed=seed, label=label, representation=representation, data_dir=data_dir)
    folder = RunFolder(out if out is not None else Path("runs") / dataset.name)
    folder.claim(overwrite=overwrite, resume=resume)
    if points is None and dataset.n > _MANY_POINTS:
        typer.echo(
            f"{dataset.name}: fitting all {dataset.n:,} points; --points 5000 is a quicker random subset", err=True
        )
    arguments = {
        "data": data,
        "points": points,
        "label": label,
        "representation": representation,
        "data_dir": None if data_dir is None else str(data_dir),
        "tol": tol,
        "epsilon": epsilon,
        "max_samples": max_samples,
        "schedule": schedule,
        "seed": seed,
    }
    command = _command("fit", arguments)
    with folder.writing(resume=resume), _hint(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", pf.ConvergenceWarning)  # the verdict below says it
            result = pf.semidiscrete.fit(
                dataset.points,
                epsilon=epsilon,
                tol=tol,
                max_samples=max_samples,
                seed=seed,
                checkpoint=folder.checkpoint,
            )
        flow = pf.ProximalFlow(result.potential, _schedule(schedule))
        page = render_page(result, flow, dataset, seed=seed, command=command)
        folder.write_fit(result, dataset, page, arguments)
    _print_fit(result, dataset)
    if not result.converged:
        typer.echo("  The flow is exact for its own weights. To go on, if need be with more --max-samples:")
        typer.echo(f"    {command} --out {shlex.quote(str(folder.path))} --resume")
    typer.echo(f"report: {folder.page}")


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
    from proxflow.run_folder import RunFolder

    fitted, standardisation, shape, schedule = RunFolder(run).read_fit()
    flow = pf.ProximalFlow(fitted.potential, _schedule(schedule))
    generator = torch.Generator().manual_seed(seed)
    noise = flow.potential.source.sample(count, generator=generator, dtype=fitted.potential.points.dtype)
    end = pf.sampling.integrate(flow, noise, steps=steps, method=method).end
    samples = standardisation.undo(end.reshape((count, *shape)))
    buffer = io.BytesIO()
    np.save(buffer, samples.numpy())
    columns = math.ceil(math.sqrt(min(count, _MOST_IMAGES)))
    picture = figures.image_grid(samples[:_MOST_IMAGES], columns) if figures.is_image(shape) else None
    arguments = {"count": count, "steps": steps, "method": method, "seed": seed}
    written = RunFolder(run).write_samples(buffer.getvalue(), picture, arguments)
    typer.echo(f"{count} samples of shape {shape}: {written[0]}")
    for path in written[1:]:
        typer.echo(f"picture: {path}")


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


def _command(name: str, arguments: dict[str, Any]) -> str:
    """The command line that gives these arguments, the first of which is no option."""
    first, *options = [(key, value) for key, value in arguments.items() if value is not None]
    words = [word for key, value in options for word in (f"--{key.replace('_', '-')}", str(value))]
    return shlex.join(["proxflow", name, str(first[1]), *words])


def _print_fit(result: Fit, dataset: Dataset) -> None:
    from proxflow.report import wording

    verdict = "converged" if result.converged else "NOT converged"
    typer.echo(f"{dataset.name}: {dataset.n:,} points in dimension {dataset.dim}, {verdict} in {result.seconds:.1f} s")
    if counts := dataset.class_counts:
        typer.echo(f"  labels               {_classes(counts)}")
    typer.echo(f"  method               {wording.method_in_words(result)}")
    if result.epsilon > 0:
        typer.echo(f"  smoothing epsilon    {result.epsilon:g}")
    typer.echo(f"  chi2 of the weights  {wording.chi2_in_words(result, '+-')} (tolerance {result.tol:g})")
    typer.echo(f"  transport cost W2^2  {wording.cost_in_words(result)}")
    if result.samples_used:
        typer.echo(f"  noise draws          {result.samples_used:,} to fit, {result.evaluation_samples:,} to evaluate")
    elif result.evaluation_samples:
        typer.echo(f"  noise draws          none to fit, {result.evaluation_samples:,} to check")


@contextlib.contextmanager
def _hint(folder: RunFolder) -> Iterator[None]:
    """Say that a fit can be gone on with where Ctrl-C strikes outside of it."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.checkpoint.exists():
            typer.echo(f"the fit is kept in {folder.path}; the same command with --resume goes on with it", err=True)
        raise


def _classes(counts: dict[str, int]) -> str:
    fewest, most = min(counts.values()), max(counts.values())
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{len(counts):,} {'class' if len(counts) == 1 else 'classes'} of {each} points"
