"""The page of a trained network: its samples beside the data, how training went, and what it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from proxflow.couplings import DirectionChoice
from proxflow.data import Dataset
from proxflow.matching import TrainResult
from proxflow.metrics import FewSteps, LabelAccuracy
from proxflow.report import training_figures
from proxflow.report.column_comparison import column_table, marginals
from proxflow.report.descriptions import is_table
from proxflow.report.drawn_samples import DrawnSamples, draw_samples
from proxflow.report.figures import image_panel, is_image
from proxflow.report.image_comparison import accuracy_fact, accuracy_of, data_beside_samples
from proxflow.report.neighbours import (
    Neighbours,
    distance_picture,
    nearest_row_fact,
    nearest_row_pairs,
    neighbours_of,
)
from proxflow.report.projections import projection, umap_projection
from proxflow.report.table_rows import origin
from proxflow.report.template import Facts, Picture, Row, Table, render
from proxflow.report.wording import counted
from proxflow.schedules import Schedule

__all__ = ["complaint", "render_training_page"]

_NO_BETTER = (
    "The samples are hardly better than noise: train for longer, or take a larger network (for images, a U-Net)."
)
_NO_BETTER_THAN_NORMAL = (
    "The samples are hardly nearer to the data than a normal law of their mean and covariance is: little more has been "
    "learned so far. Train for longer, or take a larger network."
)
_WRONG_SPREAD = (
    "The samples do not spread as the data do: below 1 they are blurred or miss some of the data, above 1 noise is "
    "left. Train for longer, or take a larger network."
)

_COLUMN_WITHIN = 0.2  # of 1, or three standard errors if these are more: variance of a column over the data's
_STANDARD_ERRORS = 3.0

_SHOWN = 8  # noise points whose images are shown at each number of steps
_MOST_COLUMNS = 12  # whose spread is listed one by one


def render_training_page(
    result: TrainResult,
    comparison: FewSteps,
    dataset: Dataset,
    arguments: Mapping[str, Any],
    command: str | None = None,
    *,
    choice: DirectionChoice | None = None,
    schedule: Schedule | None = None,
    drawn: DrawnSamples | None = None,
    near: Neighbours | None = None,
) -> str:
    """One self-contained HTML page about a training run.

    Args:
        result: result of the training.
        comparison: comparison of its samples.
        dataset: trained on.
        arguments: arguments of the command line.
        command: that repeats the run.
        choice: choice of the coupled directions, where they were chosen from the data.
        schedule: schedule of the path; Linear if None.
        drawn: samples to show; drawn here if None.
        near: their nearest training rows; found here if None.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    done = "Training finished" if result.finished else "Training was stopped"
    drawn = drawn or draw_samples(result, dataset, schedule)
    near = near or neighbours_of(dataset, drawn, result.seed)
    accuracy = accuracy_of(dataset, drawn, result.seed)
    return render(
        name=dataset.name,
        title=f"A network trained on {dataset.name}",
        good=result.finished and not complaint(comparison),
        verdict=f"{done} after {counted(result.steps, 'step')}. {_quality(comparison)} {complaint(comparison)}",
        summary=(
            "The network is a velocity field from normal noise (t = 0) to the data (t = 1), learned from pairs of the "
            f"{arguments['coupling']} coupling. Samples come from the average of its parameters. Those shown are "
            f"{drawn.in_words}, as proxflow sample draws them; those that are measured, without labels, are by Euler's "
            "method."
        ),
        sections=[
            *_samples(dataset, drawn, accuracy, near, result.seed),
            _step_picture(comparison),
            _step_table(comparison),
            *_same_noise(comparison, dataset),
            _training_picture(result),
            *_direction_pictures(choice),
            Facts(
                "The run",
                (
                    *_rows(result, dataset, arguments, choice),
                    *([] if accuracy is None else [accuracy_fact(accuracy)]),
                    nearest_row_fact(near),
                    *_spread_rows(comparison, dataset),
                ),
            ),
            Facts("Origin", tuple(origin(dataset, command))),
        ],
    )


def complaint(comparison: FewSteps) -> str:
    """What is wrong with the samples of a network and what to do, empty where distance and spread are right."""
    if not comparison.beats_noise:
        return _NO_BETTER
    if not comparison.spreads_right:
        return _WRONG_SPREAD
    return _columns_off(comparison) if comparison.beats_normal else _NO_BETTER_THAN_NORMAL


def _columns_off(comparison: FewSteps) -> str:
    """Which columns of a table do not vary as the data's do: those of small scale count little in all distances."""
    if comparison.samples.ndim != 3:
        return ""
    found = comparison.spread[comparison.best]
    off = (found.column - 1).abs()
    wrong = off > (_STANDARD_ERRORS * found.column_error).clamp(min=_COLUMN_WITHIN)  # not where NaN: no variance
    if not bool(wrong.any()):
        return ""
    worst = int(torch.where(wrong, found.column.log().abs(), -1.0).argmax())
    return (
        f"{int(wrong.sum())} of {len(wrong)} columns do not vary as the data's do; the worst is column {worst + 1}, "
        f"with {float(found.column[worst]):.3g} times its variance. Train for longer, or take --standardise columns."
    )


def _samples(
    dataset: Dataset, drawn: DrawnSamples, accuracy: LabelAccuracy | None, near: Neighbours, seed: int
) -> list[Picture | Table]:
    """Data beside samples: as images, in a plane, by column; and whether they are copies."""
    sections: list[Picture | Table] = []
    if is_image(dataset.event_shape):
        sections.append(data_beside_samples(dataset, drawn, accuracy, seed))
    if dataset.dim > 1:
        sections.append(projection(dataset, drawn, seed))
    sections += [embedded] if (embedded := umap_projection(dataset, drawn, seed)) is not None else []
    if is_table(dataset):
        sections.append(marginals(dataset, drawn.end, drawn.in_words))
        sections.append(column_table(dataset, drawn.end, drawn.labels, drawn.in_words))
    return [*sections, nearest_row_pairs(near, dataset, drawn), distance_picture(near, dataset)]


def _step_picture(comparison: FewSteps) -> Picture:
    return Picture(
        "Few steps",
        f"Two charts. {_quality(comparison)} The table below has their numbers.",
        "Left: energy distance between samples and data against Euler steps. It is unbiased: samples as good as "
        "the data themselves, as those of the exact flow are, scatter around zero. A normal law with the mean and "
        "covariance of the data is what an affine field makes. The straighter the flow, the less it falls. It "
        "forgives samples that are too smooth. Right: what it forgives, their total variance over the data's. "
        "Bars are one standard error.",
        training_figures.step_quality(comparison),
    )


def _same_noise(comparison: FewSteps, dataset: Dataset) -> list[Picture]:
    """Of images, what the same noise becomes in more and more steps."""
    if not is_image(dataset.event_shape):
        return []
    steps = [counted(k, "step") for k in comparison.steps]
    rows = comparison.samples[:, :_SHOWN].transpose(0, 1).reshape(-1, *dataset.event_shape)
    images = dataset.standardisation.undo(rows.cpu())
    return [
        Picture(
            "The same noise at few steps and at many",
            f"{_SHOWN} rows of images, at {', '.join(steps)}.",
            "A row is one noise point: from left to right, the image that it becomes in more and more steps.",
            (image_panel("steps", images, len(steps), limits=dataset.value_range, titles=steps),),
        )
    ]


def _training_picture(result: TrainResult) -> Picture:
    first, last = result.history[0], result.history[-1]
    alt = f"Loss {first.loss:.3g} at step {first.step:,}, {last.loss:.3g} at step {last.step:,}."
    if not math.isnan(last.field_error):
        alt += f" Field error {first.field_error:.3g} and {last.field_error:.3g}."
    return Picture(
        "Training",
        alt,
        "Loss of the training batches, and error of the field on held-out pairs where an exact flow is known.",
        (training_figures.training_curves(result),),
    )


def _direction_pictures(choice: DirectionChoice | None) -> list[Picture]:
    if choice is None or len(choice.counts) < 2:
        return []
    agreed = ", ".join(f"{a:.2f} in {k}" for k, a in zip(choice.counts, choice.agreement.tolist(), strict=True))
    return [
        Picture(
            "Directions",
            f"Share of the variance that two halves of the rows agree on, by the number of directions: {agreed}.",
            "Noise is coupled with the data in as many of the data's principal directions as two halves of the rows "
            "agree on: the share of the variance that the noise fixes in rows that the map was not fitted to. The "
            f"most is at {choice.count}; beyond it, the rows cannot tell the map from chance.",
            (training_figures.direction_choice(choice),),
        )
    ]


def _quality(comparison: FewSteps) -> str:
    """Of the nearest samples."""
    k = comparison.best
    distance, off, found = comparison.energy_distance[k], comparison.energy_distance_error[k], comparison.spread[k]
    variance = (
        "The data do not vary, so that no variance is over theirs."
        if math.isnan(found.total)
        else f"Their total variance is {found.total:.3f} ± {found.total_error:.3f} times the data's."
    )
    return (
        f"Samples at {counted(comparison.steps[k], 'step')} are at energy distance {distance:.3g} ± {off:.1g} from "
        f"the data, the noise itself at {comparison.of_noise:.3g}, a normal law with the data's mean and covariance at "
        f"{comparison.of_normal:.3g}. {variance}"
    )


def _step_table(comparison: FewSteps) -> Table:
    columns = comparison.steps, comparison.energy_distance, comparison.energy_distance_error, comparison.spread
    rows = [
        (
            counted(steps, "step"),
            f"{distance:.3g} ± {off:.1g}",
            ratio_in_words(found.total, found.total_error, plus_minus="±"),
        )
        for steps, distance, off, found in zip(*columns, strict=True)
    ]
    rows += [("noise itself", f"{comparison.of_noise:.3g}", ""), ("normal law", f"{comparison.of_normal:.3g}", "")]
    return Table(
        "Step by step",
        ("", "energy distance", "total variance over the data's"),
        (*rows, ("exact flow", "0", "1")),
        f"{len(comparison.samples[0]):,} samples of each; one standard error.",
        names=1,
    )


def _spread_rows(comparison: FewSteps, dataset: Dataset) -> list[Row]:
    """Variances of the nearest samples over those of the data, with one standard error."""
    found, at = comparison.spread[comparison.best], counted(comparison.steps[comparison.best], "step")
    rows = [
        Row(
            "spread, in all",
            f"total variance of samples at {at} over the data's; 1 is right",
            ratio_in_words(found.total, found.total_error, plus_minus="±"),
        ),
        Row(
            "spread by direction",
            "the same along the first principal directions of the data",
            _ratios(found.direction, found.direction_error),
        ),
    ]
    if len(dataset.event_shape) == 1 and dataset.dim <= _MOST_COLUMNS:
        rows.append(Row("spread by column", "the same for each", _ratios(found.column, found.column_error)))
    return rows


def _ratios(ratio: Tensor, error: Tensor) -> str:
    return ", ".join(
        ratio_in_words(value, off, 2, "±") for value, off in zip(ratio.tolist(), error.tolist(), strict=True)
    )


def ratio_in_words(ratio: float, error: float, digits: int = 3, plus_minus: str = "+-") -> str:
    """A variance over the data's, with its standard error."""
    if math.isnan(ratio):
        return "not defined, the data do not vary"
    return f"{ratio:.{digits}f} {plus_minus} {error:.{digits}f}"


def _rows(
    result: TrainResult,
    dataset: Dataset,
    arguments: Mapping[str, Any],
    choice: DirectionChoice | None,
) -> list[Row]:
    loss, field_error = result.history[-1].loss, result.history[-1].field_error
    count = sum(parameter.numel() for parameter in result.network.parameters())
    error = "not measured: no exact flow to compare with" if math.isnan(field_error) else f"{field_error:.4g}"
    return [
        Row("points", "", f"{dataset.n:,}"),
        Row("dimension", "", " x ".join(str(size) for size in dataset.event_shape)),
        Row("coupling", "", str(arguments["coupling"])),
        *([] if choice is None else [Row("coupled directions", "", f"{choice.count} of {dataset.dim}, chosen")]),
        Row("network", "parameters", f"{arguments['network']}, {count:,}"),
        Row("labels", "", "given to the network" if arguments["conditional"] else "not used"),
        Row("steps", f"of {arguments['batch_size']} pairs", f"{result.steps:,}"),
        Row("loss", "mean squared error of the velocity, at the end", f"{loss:.4g}"),
        Row("field error", "to the exact flow on held-out noise; 1 is a field of zeros", error),
        Row("time", "", f"{result.seconds:.1f} s"),
        Row("seed", "", str(result.seed)),
        Row("schedule", "", str(arguments["schedule"])),
    ]
