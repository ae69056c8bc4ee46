"""proxflow train: a network on a coupling."""

from __future__ import annotations

import math
import shlex
import sys
from typing import TYPE_CHECKING

import typer

from proxflow.cli.options import (
    Data,
    Output,
    Reading,
    ResumableDestination,
    ScheduleName,
    Seed,
    command_line,
    hint,
    record_of,
    schedule_named,
    with_groups,
)
from proxflow.cli.train_options import Coupled, CouplingOptions, NetworkOptions, OptimiserOptions
from proxflow.errors import counted

if TYPE_CHECKING:
    from proxflow.cli.run_folder import RunFolder
    from proxflow.data import Dataset
    from proxflow.matching import TrainResult
    from proxflow.metrics import FewSteps
    from proxflow.schedules import Schedule

__all__ = ["train"]

_EVALUATIONS = 12  # at least, of a long training run


@with_groups
def train(
    data: Data,
    reading: Reading,
    destination: ResumableDestination,
    pairs: CouplingOptions,
    architecture: NetworkOptions,
    optimiser: OptimiserOptions,
    schedule: ScheduleName = "linear",
    seed: Seed = 0,
    *,
    output: Output,
) -> None:
    """Train a flow-matching network on a data set and write a report.

    Ctrl-C keeps the state, and --resume continues from there; with more --steps it lengthens a finished run.

    Example: `proxflow train digits --conditional --out runs/digits-network`

    Example: `proxflow train cells.csv --coupling minibatch --ot-batch 1024`
    """
    from proxflow.report import render_training_page
    from proxflow.report.drawn_samples import draw_samples
    from proxflow.report.neighbours import neighbours_of
    from proxflow.semidiscrete.ranks import Ranks

    conditional = pairs.conditional or reading.label is not None

    def claimed() -> tuple[RunFolder, Dataset]:
        folder, dataset = destination.claimed(data, reading, seed, "-network")
        pairs.check(dataset, conditional)
        architecture.check(dataset)
        optimiser.check()
        return folder, dataset

    processes = Ranks.of_default_group()
    folder, dataset = processes.from_first(claimed)
    path = schedule_named(schedule)
    options = (conditional, pairs, architecture, optimiser, path, seed)
    if processes.rank > 0:  # the first one writes and prints
        processes.agree()
        _trained(dataset, folder, *options)
        return
    arguments = {
        "data": data,
        **record_of(reading),
        **record_of(pairs),
        "conditional": conditional,
        **record_of(optimiser),
        **record_of(architecture),
        "width": architecture.size,
        "schedule": schedule,
        "seed": seed,
    }
    command = command_line("train", arguments)
    with folder.writing(resume=destination.resumes(folder)), hint(folder):
        processes.agree()  # an earlier run's state is gone, or is to be read, before any process looks for it
        coupled, result = _trained(dataset, folder, *options)
        if sys.stderr.isatty():
            typer.echo("measuring samples of few steps and of many; Ctrl-C keeps those that are done", err=True)
        comparison = result.few_steps(dataset.points, schedule=path, seed=seed)
        drawn = draw_samples(result, dataset, path)
        near = neighbours_of(dataset, drawn, seed)
        page = render_training_page(
            result,
            comparison,
            dataset,
            arguments,
            command,
            choice=coupled.choice,
            schedule=path,
            drawn=drawn,
            near=near,
        )
        folder.write_training(result, comparison, near.ratio(seed), coupled.fit, dataset, page, arguments)
    if coupled.choice is not None:
        output.say(f"{coupled.choice.count} of {dataset.dim} principal directions coupled")
    if coupled.classes is not None:
        output.say(coupled.classes)
    _print_training(output, result, comparison, dataset)
    if not result.finished:
        output.say("  stopped early; to continue:")
        output.say(f"    {command} --out {shlex.quote(str(folder.path))} --resume")
    output.say(f"report: {folder.page}")
    output.end(folder.path, report=str(folder.page), **folder.record)


def _trained(
    dataset: Dataset,
    folder: RunFolder,
    conditional: bool,
    pairs: CouplingOptions,
    architecture: NetworkOptions,
    optimiser: OptimiserOptions,
    path: Schedule,
    seed: int,
) -> tuple[Coupled, TrainResult]:
    """The coupling, and the network that it trained; by all processes that torchrun started."""
    import proxflow as pf

    coupled = pairs.build(dataset, conditional, optimiser.batch_size, folder, seed)
    result = pf.matching.train(
        architecture.build(dataset, conditional, coupled.coupling, path, seed),
        coupled.coupling,
        **record_of(optimiser),
        schedule=path,
        evaluate_every=min(500, math.ceil(optimiser.steps / _EVALUATIONS)),
        checkpoint=folder.training_checkpoint,
        log_dir=folder.path,
        seed=seed,
    )
    return coupled, result


def _print_training(output: Output, result: TrainResult, comparison: FewSteps, dataset: Dataset) -> None:
    from proxflow.report.training_page import complaint, ratio_in_words

    last = result.history[-1]
    output.say(f"{dataset.name}: {counted(result.steps, 'step')} in {result.seconds:.1f} s, loss {last.loss:.4g}")
    if math.isfinite(last.field_error):
        output.say(f"  field error          {last.field_error:.4g}, relative to the exact flow on held-out noise")
    columns = comparison.steps, comparison.energy_distance, comparison.energy_distance_error, comparison.spread
    for steps, distance, error, spread in zip(*columns, strict=True):
        output.say(
            f"  {counted(steps, 'Euler step'):20s} energy distance {distance:.4g} +- {error:.1g}, "
            f"total variance over the data's {ratio_in_words(spread.total, spread.total_error)}"
        )
    output.say(f"  {'noise itself':20s} energy distance {comparison.of_noise:.4g}")
    output.say(f"  {'normal law':20s} energy distance {comparison.of_normal:.4g}, of the data's mean and covariance")
    if found := complaint(comparison):
        output.say(f"  {found}")
