"""The command line: parse, call one public function per command, print."""

from __future__ import annotations

import contextlib
import math
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import torch
    from torch import Generator, Tensor

    from proxflow.analysis import MinibatchConvergence, TerminalStudy
    from proxflow.couplings import Coupling
    from proxflow.data import Dataset, Standardisation
    from proxflow.matching import MLP, TrainResult, UNet
    from proxflow.report import StepComparison
    from proxflow.run_folder import RunFolder
    from proxflow.schedules import Schedule
    from proxflow.semidiscrete import Fit

__all__ = ["app", "main"]

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="markdown"
)

_SCHEDULES = ("linear", "cosine")
_COUPLINGS = ("semidiscrete", "minibatch", "independent")
_NETWORKS = ("mlp", "unet")
_SOLVERS = ("exact", "sinkhorn")
_NETWORK_STEPS = 8
_LOOKS = 12  # at least, at a training run
_INTERRUPTED = 130
_MANY_POINTS = 10_000
_MOST_IMAGES = 256

Data = Annotated[
    str, typer.Argument(help="A built-in data set (digits, fashion-mnist, moons, ...) or a file or folder.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all randomness.")]
Out = Annotated[Path | None, typer.Option(help="Run folder; in runs/ and named after the data if not given.")]
Points = Annotated[
    int | None,
    typer.Option(min=1, help="How many points: a random subset of real data (all), or the size of a synthetic set."),
]
Label = Annotated[
    str | None, typer.Option(metavar="COLUMN", help="Column of labels of .csv, .parquet and .h5ad; else 'label'.")
]
Representation = Annotated[
    str | None, typer.Option(metavar="KEY", help="Entry of obsm of .h5ad, such as X_pca; else X.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Folder of the files of fashion-mnist; else where Debian's package puts them.")
]
ScheduleName = Annotated[str, typer.Option(help="linear or cosine.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already there.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with an interrupted run: the same command, with --resume.")
]


@app.callback()
def _root() -> None:
    """Exact optimal-transport flow matching: fit, sample, measure."""


@app.command()
def fit(
    data: Data,
    out: Out = None,
    points: Points = None,
    label: Label = None,
    representation: Representation = None,
    data_dir: DataDir = None,
    tol: Annotated[float, typer.Option(help="Tolerance on chi2, the error of the atoms' weights.")] = 1e-2,
    epsilon: Annotated[
        float,
        typer.Option(help="Smoothing, such as 0.5: the flow then ends between data points, at 0 on them."),
    ] = 0.0,
    max_samples: Annotated[int | None, typer.Option(help="Cap on noise draws.")] = None,
    schedule: ScheduleName = "linear",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Fit the exact OT-CFM flow of a data set and write a report.

    Ctrl-C keeps the best so far, and --resume goes on from there.

    Example: `proxflow fit digits --out runs/digits`

    Example: `proxflow fit fashion-mnist --points 1000`

    Example: `proxflow fit cells.h5ad --representation X_pca --label cell_type`
    """
    import proxflow as pf
    from proxflow.report import render_page

    _check_choice("schedule", schedule, _SCHEDULES)
    folder, dataset = _claimed(
        out, "", data, points, seed, label, representation, data_dir, overwrite=overwrite, resume=resume
    )
    _suggest_a_subset(dataset, points)
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
def train(
    data: Data,
    out: Out = None,
    coupling: Annotated[
        str, typer.Option(help="semidiscrete (the population coupling), minibatch or independent.")
    ] = "semidiscrete",
    conditional: Annotated[
        bool, typer.Option("--conditional", help="Tell the network the label; implied by --label.")
    ] = False,
    points: Points = None,
    label: Label = None,
    representation: Representation = None,
    data_dir: DataDir = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 6000,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs a step.")] = 256,
    ot_batch: Annotated[
        int | None, typer.Option(min=1, help="Pairs assigned at once by minibatch; the batch size if not given.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, at its largest.")] = 1e-3,
    network: Annotated[str, typer.Option(help="mlp, or unet for images.")] = "mlp",
    width: Annotated[int, typer.Option(min=8, help="Hidden width of mlp, or first channels of unet.")] = 512,
    depth: Annotated[int, typer.Option(min=1, help="Hidden layers of mlp, or levels of unet.")] = 3,
    schedule: ScheduleName = "linear",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Train a flow-matching network on a data set and write a report.

    Ctrl-C keeps the state, and --resume goes on from there.

    Example: `proxflow train digits --conditional --out runs/digits-network`

    Example: `proxflow train cells.csv --coupling minibatch --ot-batch 1024`
    """
    import torch

    import proxflow as pf
    from proxflow.report import compare_steps, render_training_page

    _check_choice("coupling", coupling, _COUPLINGS)
    _check_choice("network", network, _NETWORKS)
    _check_choice("schedule", schedule, _SCHEDULES)
    folder, dataset = _claimed(
        out, "-network", data, points, seed, label, representation, data_dir, overwrite=overwrite, resume=resume
    )
    conditional = conditional or label is not None
    if conditional and (dataset.labels is None or int(dataset.labels.min()) < 0):
        raise ValueError(f"{dataset.name} has no labels to train on, numbered from 0; leave out --conditional")
    arguments = {
        "data": data,
        "coupling": coupling,
        "conditional": conditional,
        "points": points,
        "label": label,
        "representation": representation,
        "data_dir": None if data_dir is None else str(data_dir),
        "steps": steps,
        "batch_size": batch_size,
        "ot_batch": ot_batch,
        "learning_rate": learning_rate,
        "network": network,
        "width": width,
        "depth": depth,
        "schedule": schedule,
        "seed": seed,
    }
    command = _command("train", arguments)
    with folder.writing(resume=resume), _hint(folder):
        pairs, fitted = _coupling(coupling, dataset, conditional, ot_batch or batch_size, folder, seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _network(network, dataset, conditional, width, depth)
        result = pf.matching.train(
            model,
            pairs,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=_schedule(schedule),
            evaluate_every=max(1, min(500, steps // _LOOKS)),
            checkpoint=folder.training_checkpoint,
            log_dir=folder.path,
            seed=seed,
        )
        comparison = compare_steps(result, dataset, _schedule(schedule), seed)
        page = render_training_page(result, comparison, dataset, arguments, command)
        folder.write_training(result, fitted, dataset, page, arguments)
    _print_training(result, comparison, dataset)
    if not result.finished:
        typer.echo("  stopped early; to go on:")
        typer.echo(f"    {command} --out {shlex.quote(str(folder.path))} --resume")
    typer.echo(f"report: {folder.page}")


@app.command("batch-size")
def batch_size(
    data: Data,
    out: Out = None,
    points: Points = None,
    label: Label = None,
    representation: Representation = None,
    data_dir: DataDir = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Largest batch size; powers of two up to it are tried.")] = 1024,
    target_error: Annotated[
        float, typer.Option(help="Excess cost that you would accept, as a share of W2^2: what the advice aims at.")
    ] = 0.05,
    solver: Annotated[str, typer.Option(help="exact or sinkhorn.")] = "exact",
    schedule: ScheduleName = "linear",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Measure how far minibatch OT-CFM is from the population flow at each batch size, and say what to do.

    Ctrl-C keeps the batch sizes that are done.

    Example: `proxflow batch-size digits`

    Example: `proxflow batch-size cells.h5ad --representation X_pca --max-batch 4096 --target-error 0.01`
    """
    import proxflow as pf
    from proxflow.report import render_batch_size_page
    from proxflow.run_folder import data_record

    _check_choice("solver", solver, _SOLVERS)
    _check_choice("schedule", schedule, _SCHEDULES)
    if not (math.isfinite(target_error) and target_error > 0):
        raise ValueError(f"--target-error must be a positive number, such as 0.05, got {target_error:g}")
    folder, dataset = _claimed(
        out, "-batch-size", data, points, seed, label, representation, data_dir, overwrite=overwrite, resume=False
    )
    _suggest_a_subset(dataset, points)
    arguments = {
        "data": data,
        "points": points,
        "label": label,
        "representation": representation,
        "data_dir": None if data_dir is None else str(data_dir),
        "max_batch": max_batch,
        "target_error": target_error,
        "solver": solver,
        "schedule": schedule,
        "seed": seed,
    }
    with folder.writing(resume=False):
        with warnings.catch_warnings(record=True) as remarks:
            warnings.simplefilter("always", pf.ConvergenceWarning)
            study = pf.analysis.minibatch_convergence(
                dataset.points,
                sorted({min(2**k, max_batch) for k in range(max_batch.bit_length() + 1)}),
                solver=solver,
                seed=seed,
                schedule=_schedule(schedule),
                wanted=target_error,
            )
        page = render_batch_size_page(study, dataset, _command("batch-size", arguments))
        folder.write_study("batch-size", study, data_record(dataset), page, arguments)
    _print_remarks(remarks)
    _print_study(study, dataset)
    typer.echo(f"report: {folder.page}")


@app.command()
def terminal(
    subject: Annotated[
        str, typer.Argument(metavar="RUN|DATA", help="A run folder of `proxflow fit` or `train`, or data as for `fit`.")
    ],
    out: Out = None,
    points: Points = None,
    representation: Representation = None,
    data_dir: DataDir = None,
    epsilon: Annotated[
        float, typer.Option(help="Smoothing of the flow that is fitted to data; 0 memorises them.")
    ] = 0.1,
    scale: Annotated[
        float, typer.Option(help="alpha / beta at which local dimensions are taken, in standardised units.")
    ] = 0.2,
    count: Annotated[int, typer.Option(min=2, help="Initial points.")] = 100,
    schedule: ScheduleName = "linear",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Measure how a flow or network arrives at its data: rates, scales, local dimension, and what survives of pushes.

    Example: `proxflow terminal moons --epsilon 0.02`

    Example: `proxflow terminal runs/digits-network --scale 0.5`
    """
    import proxflow as pf
    from proxflow.report import render_terminal_page
    from proxflow.report.terminal import memorised
    from proxflow.run_folder import RunFolder

    _check_choice("schedule", schedule, _SCHEDULES)
    arguments = {
        "subject": subject,
        "points": points,
        "representation": representation,
        "data_dir": None if data_dir is None else str(data_dir),
        "epsilon": epsilon,
        "scale": scale,
        "count": count,
        "schedule": schedule,
        "seed": seed,
    }
    if (Path(subject) / "run.json").is_file():
        source = RunFolder(Path(subject))
        arguments = {name: arguments[name] for name in ("subject", "scale", "count", "seed")}
        found = _arriving_run(source)
        arguments["schedule"] = found.schedule
        folder = RunFolder(out if out is not None else source.path.with_name(f"{source.path.name}-terminal"))
        folder.claim(overwrite=overwrite, resume=False)
    else:
        folder, dataset = _claimed(
            out, "-terminal", subject, points, seed, None, representation, data_dir, overwrite=overwrite, resume=False
        )
        found = _arriving_data(dataset, epsilon, schedule, seed)
    with folder.writing(resume=False):
        study = pf.analysis.terminal_study(
            found.field,
            found.noise(count, seed),
            scale=scale,
            schedule=_schedule(found.schedule),
            seed=seed,
        )
        repeat = {name: value for name, value in arguments.items() if name != "schedule" or "epsilon" in arguments}
        page = render_terminal_page(study, found.standardisation, found.name, found.words, _command("terminal", repeat))
        folder.write_study("terminal", study, found.record, page, arguments)
    _print_arrival(study, found.name)
    if warning := memorised(study):
        typer.echo(f"  warning: {warning}")
    typer.echo(f"report: {folder.page}")


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(help="A run folder written by `proxflow fit` or `proxflow train`.")],
    count: Annotated[int, typer.Option(min=1, help="How many points to generate.")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps; 8 for a network, else by method.")] = None,
    method: Annotated[str, typer.Option(help="proximal, euler, midpoint, heun or dopri5.")] = "proximal",
    label: Annotated[str | None, typer.Option(help="Class to generate, of a network that was told the labels.")] = None,
    guidance: Annotated[float, typer.Option(help="Weight of the label; 1 is the network's own.")] = 1.0,
    seed: Seed = 0,
) -> None:
    """Generate with a fitted flow or a trained network: writes samples.npy, in the units of the data, into its folder.

    With it come samples.json, the arguments, and for images samples.png.

    Example: `proxflow sample runs/digits --count 64`

    Example: `proxflow sample runs/digits-network --steps 4 --label 3 --guidance 2`
    """
    import io

    import numpy as np
    import torch

    from proxflow.report import figures
    from proxflow.run_folder import RunFolder

    folder = RunFolder(run)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        if folder.is_trained:
            end, standardisation, shape = _sampled_network(folder, count, steps, method, label, guidance, generator)
        elif label is not None or guidance != 1:
            raise ValueError(f"{run} holds a fitted flow, which takes no --label or --guidance")
        else:
            end, standardisation, shape = _sampled_flow(folder, count, steps, method, generator)
    samples = standardisation.undo(end.reshape((count, *shape)))
    buffer = io.BytesIO()
    np.save(buffer, samples.numpy())
    columns = math.ceil(math.sqrt(min(count, _MOST_IMAGES)))
    picture = figures.image_grid(samples[:_MOST_IMAGES], columns) if figures.is_image(shape) else None
    arguments = {
        "count": count,
        "steps": steps,
        "method": method,
        "label": label,
        "guidance": guidance,
        "seed": seed,
    }
    written = folder.write_samples(buffer.getvalue(), picture, arguments)
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


def _sampled_network(
    folder: RunFolder,
    count: int,
    steps: int | None,
    method: str,
    label: str | None,
    guidance: float,
    generator: Generator,
) -> tuple[Tensor, Standardisation, tuple[int, ...]]:
    import torch

    import proxflow as pf

    network, standardisation, shape, schedule = folder.read_network()
    number = None if label is None else folder.class_number(label, network.classes)
    field = pf.matching.field_of(network, number, guidance)
    noise = torch.randn((count, *shape), generator=generator, dtype=next(network.parameters()).dtype)
    path = pf.sampling.integrate(
        field, noise, steps=steps or _NETWORK_STEPS, method=method, schedule=_schedule(schedule)
    )
    return path.end, standardisation, shape


def _sampled_flow(
    folder: RunFolder, count: int, steps: int | None, method: str, generator: Generator
) -> tuple[Tensor, Standardisation, tuple[int, ...]]:
    import proxflow as pf

    fitted, standardisation, shape, schedule = folder.read_fit()
    flow = pf.ProximalFlow(fitted.potential, _schedule(schedule))
    noise = flow.potential.source.sample(count, generator=generator, dtype=fitted.potential.points.dtype)
    return pf.sampling.integrate(flow, noise, steps=steps, method=method).end, standardisation, shape


def _check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def _claimed(
    out: Path | None,
    suffix: str,
    data: str,
    points: int | None,
    seed: int,
    label: str | None,
    representation: str | None,
    data_dir: Path | None,
    *,
    overwrite: bool,
    resume: bool,
) -> tuple[RunFolder, Dataset]:
    """The folder to write to, refused before the data are read where that can be known, and the data."""
    import proxflow as pf
    from proxflow.run_folder import RunFolder

    if overwrite and resume:
        raise ValueError("--overwrite begins again and --resume goes on; give one of them")
    if out is not None:
        RunFolder(out).claim(overwrite=overwrite, resume=resume)
    dataset = pf.data.load(data, n=points, seed=seed, label=label, representation=representation, data_dir=data_dir)
    folder = RunFolder(out if out is not None else Path("runs") / f"{dataset.name}{suffix}")
    folder.claim(overwrite=overwrite, resume=resume)
    return folder, dataset


def _suggest_a_subset(dataset: Dataset, points: int | None) -> None:
    if points is None and dataset.n > _MANY_POINTS:
        typer.echo(
            f"{dataset.name}: fitting all {dataset.n:,} points; --points 5000 is a quicker random subset", err=True
        )


def _coupling(
    name: str, dataset: Dataset, conditional: bool, ot_batch: int, folder: RunFolder, seed: int
) -> tuple[Coupling, Fit | None]:
    """The coupling, and the fit behind it where it has one to write down."""
    import proxflow as pf

    labels = dataset.labels if conditional else None
    if name == "independent":
        return pf.couplings.Independent(dataset.points, labels), None
    if name == "minibatch":
        if conditional:
            typer.echo(
                "minibatch with labels: within a class the noise is not normal in training but is in sampling; "
                "--coupling semidiscrete keeps it normal",
                err=True,
            )
        return pf.couplings.Minibatch(dataset.points, ot_batch, labels), None
    if labels is not None:
        return pf.couplings.Conditional.fit(dataset.points, labels, seed=seed), None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)  # any fit is an exact coupling of its own weights
        fitted = pf.semidiscrete.fit(dataset.points, seed=seed, checkpoint=folder.checkpoint)
    return pf.couplings.Semidiscrete(fitted.potential, dataset.points), fitted


def _network(name: str, dataset: Dataset, conditional: bool, width: int, depth: int) -> MLP | UNet:
    from proxflow.matching import MLP, UNet

    classes = int(dataset.labels.max()) + 1 if conditional and dataset.labels is not None else 0
    if name == "mlp":
        return MLP(dataset.event_shape, width=width, depth=depth, classes=classes)
    return UNet(dataset.event_shape, channels=[width * min(2**level, 4) for level in range(depth)], classes=classes)


def _schedule(name: str) -> Schedule:
    from proxflow.schedules import Cosine, Linear

    return Cosine() if name == "cosine" else Linear()


def _command(name: str, arguments: dict[str, Any]) -> str:
    """The command line that gives these arguments, the first of which is no option."""
    first, *options = [(key, value) for key, value in arguments.items() if value is not None and value is not False]
    words = []
    for key, value in options:
        words += [f"--{key.replace('_', '-')}"] if value is True else [f"--{key.replace('_', '-')}", str(value)]
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


def _print_training(result: TrainResult, comparison: StepComparison, dataset: Dataset) -> None:
    from proxflow.report.wording import counted

    last = result.history[-1]
    typer.echo(f"{dataset.name}: {result.steps:,} steps in {result.seconds:.1f} s, loss {last.loss:.4g}")
    if math.isfinite(last.field_error):
        typer.echo(f"  field error          {last.field_error:.4g}, relative to the exact flow on held-out noise")
    for steps, distance in zip(comparison.steps, comparison.energy_distance, strict=True):
        typer.echo(f"  energy distance      {distance:.4g} at {counted(steps, 'Euler step')}")


def _print_remarks(remarks: list[warnings.WarningMessage]) -> None:
    """The first warning of each place: a solver may repeat its own at every batch."""
    first = {(remark.filename, remark.lineno): remark.message for remark in reversed(remarks)}
    for message in reversed(first.values()):
        typer.echo(f"proxflow: {message}", err=True)


def _print_study(study: MinibatchConvergence, dataset: Dataset) -> None:
    from proxflow.report.batch_size import batch_table, rate_in_words

    low, high = study.transport_cost_interval
    typer.echo(f"{dataset.name}: {dataset.n:,} points in dimension {dataset.dim}")
    typer.echo(f"  transport cost W2^2  {study.transport_cost:.4g}, 95% interval [{low:.4g}, {high:.4g}]")
    table = batch_table(study, "+-")
    lines = [table.columns, *table.rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        typer.echo("  ".join(["", *(cell.rjust(width) for cell, width in zip(line, widths, strict=True))]))
    typer.echo(f"  rate                 {rate_in_words(study)}")
    typer.echo(study.advice)


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

    def noise(self, count: int, seed: int) -> Tensor:
        """Initial points of the trajectories."""
        import torch

        generator = torch.Generator().manual_seed(seed)
        return torch.randn((count, *self.event_shape), generator=generator, dtype=self.dtype)


def _arriving_run(folder: RunFolder) -> _Arriving:
    import torch

    import proxflow as pf

    record = folder.data
    name = str(record["data"]["name"])
    if folder.is_trained:
        network, standardisation, shape, schedule = folder.read_network()
        words = f"the network of {folder.path}"
        field = pf.matching.field_of(network)
        return _Arriving(field, shape, torch.float32, standardisation, schedule, name, words, record)
    fitted, standardisation, shape, schedule = folder.read_fit()
    words = f"the exact flow of {folder.path}, smoothed by epsilon = {fitted.epsilon:g}"
    flow = pf.ProximalFlow(fitted.potential.double(), _schedule(schedule))
    return _Arriving(flow, shape, torch.float64, standardisation, schedule, name, words, record)


def _arriving_data(dataset: Dataset, epsilon: float, schedule: str, seed: int) -> _Arriving:
    import torch

    import proxflow as pf
    from proxflow.run_folder import data_record

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)  # any fit is an exact flow of its own weights
        fitted = pf.semidiscrete.fit(dataset.points, epsilon=epsilon, seed=seed)
    words = f"the exact flow of the data, smoothed by epsilon = {epsilon:g}"
    flow = pf.ProximalFlow(fitted.potential.double(), _schedule(schedule))
    return _Arriving(
        flow, dataset.event_shape, torch.float64, dataset.standardisation, schedule, dataset.name, words,
        data_record(dataset),
    )  # fmt: skip


def _print_arrival(study: TerminalStudy, name: str) -> None:
    spectrum, dimension = study.spectrum, study.dimension.dimension
    typer.echo(f"{name}: {spectrum.rates.shape[1]} initial points, {spectrum.rates.shape[2]} rates at each")
    typer.echo(f"  {'t':>7s}{'lowest rate':>20s}{'highest rate':>20s}")
    for k, t in enumerate(spectrum.times.tolist()):
        ends = [spectrum.rates[k, :, i] for i in (0, -1)]
        cells = [f"{end.mean():.3f} +- {end.std(correction=0):.3f}" for end in ends]
        typer.echo(f"  {t:7.4g}{cells[0]:>20s}{cells[1]:>20s}")
    typer.echo(
        f"  local dimension at scale {study.dimension.scale:.3g}: {dimension.mean():.3g}, "
        f"from {dimension.min():.3g} to {dimension.max():.3g}"
    )
    survival = study.perturbation.survival
    typer.echo(f"  of a push at t = {study.perturbation.time:g} across the data {survival[:, 0].mean():.2g} arrives, "
               f"along them {survival[:, -1].mean():.2g}")  # fmt: skip


@contextlib.contextmanager
def _hint(folder: RunFolder) -> Iterator[None]:
    """Say that a run can be gone on with where Ctrl-C strikes outside of it."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.kept:
            typer.echo(f"the run is kept in {folder.path}; the same command with --resume goes on with it", err=True)
        raise


def _classes(counts: dict[str, int]) -> str:
    fewest, most = min(counts.values()), max(counts.values())
    each = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return f"{len(counts):,} {'class' if len(counts) == 1 else 'classes'} of {each} points"
