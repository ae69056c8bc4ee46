"""proxflow train: a network on a coupling."""

from __future__ import annotations

import math
import shlex
import sys
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from proxflow.cli.options import (
    SCHEDULES,
    Data,
    DataDir,
    Label,
    Out,
    Overwrite,
    Points,
    Representation,
    Resume,
    ScheduleName,
    Seed,
    check_choice,
    claimed,
    command_line,
    data_arguments,
    hint,
    schedule_named,
)

if TYPE_CHECKING:
    from torch import Tensor

    from proxflow.cli.run_folder import RunFolder
    from proxflow.couplings import Coupling, DirectionChoice
    from proxflow.data import Dataset
    from proxflow.matching import AffineResidual, TrainResult, UNet
    from proxflow.metrics import FewSteps
    from proxflow.schedules import Schedule
    from proxflow.semidiscrete import Fit

__all__ = ["train"]

_COUPLINGS = ("subspace", "semidiscrete", "minibatch", "independent")
_WIDTHS = {"residual": 512, "mlp": 512, "unet": 64}  # of the networks, where none is given
_LOOKS = 12  # at least, at a long training run


def train(
    data: Data,
    out: Out = None,
    coupling: Annotated[
        str,
        typer.Option(
            help="subspace (the population coupling in the directions that the rows can estimate), semidiscrete (in "
            "all), minibatch or independent."
        ),
    ] = "subspace",
    directions: Annotated[
        int | None,
        typer.Option(min=1, help="Principal directions that subspace couples; chosen from the data if not given."),
    ] = None,
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
        int | None,
        typer.Option(
            min=1, help="Pairs assigned at once by minibatch; the batch size, or all points if fewer, if not given."
        ),
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Of AdamW, at its largest.")] = 1e-3,
    network: Annotated[str, typer.Option(help="residual or mlp, or unet for images.")] = "residual",
    width: Annotated[
        int | None, typer.Option(min=8, help="Hidden width of residual and mlp (512), or first channels of unet (64).")
    ] = None,
    depth: Annotated[int, typer.Option(min=1, help="Blocks of residual, hidden layers of mlp, or levels of unet.")] = 3,
    schedule: ScheduleName = "linear",
    seed: Seed = 0,
    overwrite: Overwrite = False,
    resume: Resume = False,
) -> None:
    """Train a flow-matching network on a data set and write a report.

    Ctrl-C keeps the state, and --resume continues from there.

    Example: `proxflow train digits --conditional --out runs/digits-network`

    Example: `proxflow train cells.csv --coupling minibatch --ot-batch 1024`
    """
    import torch

    import proxflow as pf
    from proxflow.report import compare_steps, render_training_page

    check_choice("coupling", coupling, _COUPLINGS)
    check_choice("network", network, tuple(_WIDTHS))
    width = width or _WIDTHS[network]
    check_choice("schedule", schedule, SCHEDULES)
    folder, dataset = claimed(
        out, "-network", data, points, seed, label, representation, data_dir, overwrite=overwrite, resume=resume
    )
    conditional = conditional or label is not None
    _check_batches(coupling, ot_batch, dataset)
    if directions is not None and coupling != "subspace":
        raise ValueError(f"--directions is for --coupling subspace; {coupling} has none to choose")
    if directions is not None and directions > dataset.dim:
        raise ValueError(f"--directions {directions} is more than the {dataset.dim} coordinates of a point")
    if conditional and (dataset.labels is None or int(dataset.labels.min()) < 0):
        raise ValueError(f"{dataset.name} has no labels to train on, numbered from 0; leave out --conditional")
    arguments = {
        "data": data,
        "coupling": coupling,
        "directions": directions,
        "conditional": conditional,
        **data_arguments(points, label, representation, data_dir),
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
    command = command_line("train", arguments)
    path = schedule_named(schedule)
    with folder.writing(resume=resume), hint(folder):
        coupled = _coupling(
            coupling, dataset, conditional, directions, ot_batch or min(batch_size, dataset.n), folder, seed
        )
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = _network(network, dataset, conditional, width, depth, coupled.coupling, path, seed)
        result = pf.matching.train(
            model,
            coupled.coupling,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            schedule=path,
            evaluate_every=min(500, math.ceil(steps / _LOOKS)),
            checkpoint=folder.training_checkpoint,
            log_dir=folder.path,
            seed=seed,
        )
        if sys.stderr.isatty():
            typer.echo("measuring samples of few steps and of many; Ctrl-C keeps those that are done", err=True)
        comparison = compare_steps(result, dataset, path, seed)
        page = render_training_page(result, comparison, dataset, arguments, command, choice=coupled.choice)
        folder.write_training(result, coupled.kept, dataset, page, arguments)
    if coupled.choice is not None:
        typer.echo(f"{coupled.choice.count} of {dataset.dim} principal directions coupled")
    _print_training(result, comparison, dataset)
    if not result.finished:
        typer.echo("  stopped early; to continue:")
        typer.echo(f"    {command} --out {shlex.quote(str(folder.path))} --resume")
    typer.echo(f"report: {folder.page}")


def _check_batches(coupling: str, ot_batch: int | None, dataset: Dataset) -> None:
    if dataset.n < 2:
        raise ValueError(f"{dataset.name} has one point; a network needs at least two")
    if ot_batch is None:
        return
    if coupling != "minibatch":
        raise ValueError(f"--ot-batch is for --coupling minibatch; {coupling} assigns no batches")
    if ot_batch > dataset.n:
        raise ValueError(
            f"--ot-batch {ot_batch} is more than the {dataset.n} points; --coupling semidiscrete couples all of them "
            "at any batch size"
        )


@dataclass(frozen=True)
class _Coupled:
    """A coupling; what the run folder keeps of it, a fit in the space of the data or else the points; and the choice
    of its directions.
    """

    coupling: Coupling
    kept: Fit | Tensor | None = None
    choice: DirectionChoice | None = None


def _coupling(
    name: str,
    dataset: Dataset,
    conditional: bool,
    directions: int | None,
    ot_batch: int,
    folder: RunFolder,
    seed: int,
) -> _Coupled:
    import proxflow as pf

    labels = dataset.labels if conditional else None
    if name == "independent":
        return _Coupled(pf.couplings.Independent(dataset.points, labels))
    if name == "minibatch":
        if conditional:
            typer.echo(
                "minibatch with labels: within a class the noise is not normal in training but is in sampling; "
                "--coupling subspace and semidiscrete keep it normal",
                err=True,
            )
        return _Coupled(pf.couplings.Minibatch(dataset.points, ot_batch, labels))
    in_subspace = name == "subspace"
    if labels is not None:
        wanted: int | Literal["auto"] | None = (directions or "auto") if in_subspace else None
        return _Coupled(pf.couplings.Conditional.fit(dataset.points, labels, directions=wanted, seed=seed))
    features, frame, choice = dataset.points.flatten(1), None, None
    if in_subspace and directions is None:
        choice = pf.couplings.choose_directions(features, seed=seed)
        frame = choice.directions
    elif in_subspace and directions is not None:
        frame = pf.couplings.principal_directions(features, directions)
    if frame is not None:
        features = features @ frame
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)  # any fit is an exact coupling of its own weights
        fitted = pf.semidiscrete.fit(features, seed=seed, checkpoint=folder.checkpoint)
    if frame is None:
        return _Coupled(pf.couplings.Semidiscrete(fitted.potential, dataset.points), fitted)
    subspace = pf.couplings.Subspace.from_potential(fitted.potential, dataset.points, frame)
    return _Coupled(subspace, dataset.points, choice)


def _network(
    name: str,
    dataset: Dataset,
    conditional: bool,
    width: int,
    depth: int,
    coupling: Coupling,
    schedule: Schedule,
    seed: int,
) -> AffineResidual | UNet:
    """A perceptron for what the affine part of the velocity leaves, or a U-Net for all of it."""
    from proxflow.matching import MLP, AffineResidual, ResidualMLP, UNet

    classes = int(dataset.labels.max()) + 1 if conditional and dataset.labels is not None else 0
    if name == "unet":
        return UNet(dataset.event_shape, channels=[width * min(2**level, 4) for level in range(depth)], classes=classes)
    perceptron = (MLP if name == "mlp" else ResidualMLP)(dataset.event_shape, width=width, depth=depth, classes=classes)
    return AffineResidual.fit(perceptron, coupling, schedule=schedule, seed=seed)


def _print_training(result: TrainResult, comparison: FewSteps, dataset: Dataset) -> None:
    from proxflow.report.training_page import complaint
    from proxflow.report.wording import counted

    last = result.history[-1]
    typer.echo(f"{dataset.name}: {result.steps:,} steps in {result.seconds:.1f} s, loss {last.loss:.4g}")
    if math.isfinite(last.field_error):
        typer.echo(f"  field error          {last.field_error:.4g}, relative to the exact flow on held-out noise")
    columns = comparison.steps, comparison.energy_distance, comparison.energy_distance_error, comparison.spread
    for steps, distance, error, spread in zip(*columns, strict=True):
        typer.echo(
            f"  {counted(steps, 'Euler step'):20s} energy distance {distance:.4g} +- {error:.1g}, "
            f"total variance over the data's {spread.total:.3f} +- {spread.total_error:.3f}"
        )
    typer.echo(f"  {'noise itself':20s} energy distance {comparison.of_noise:.4g}")
    typer.echo(f"  {'normal law':20s} energy distance {comparison.of_normal:.4g}, of the data's mean and covariance")
    if found := complaint(comparison):
        typer.echo(f"  {found}")
