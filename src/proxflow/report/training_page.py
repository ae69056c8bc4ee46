"""The page of a trained network: how training went, and what its samples are worth at few steps and at many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from proxflow.couplings import DirectionChoice
from proxflow.data import Dataset
from proxflow.matching import TrainResult
from proxflow.metrics import FewSteps
from proxflow.report import figures
from proxflow.report.table_rows import origin
from proxflow.report.template import Picture, Row, picture, render
from proxflow.report.wording import counted

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

_SHOWN = 10  # samples in a figure
_MOST_COLUMNS = 12  # whose spread is listed one by one


def render_training_page(
    result: TrainResult,
    comparison: FewSteps,
    dataset: Dataset,
    arguments: Mapping[str, Any],
    command: str | None = None,
    *,
    choice: DirectionChoice | None = None,
) -> str:
    """One self-contained HTML page about a training run.

    Args:
        result: result of the training.
        comparison: comparison of its samples.
        dataset: trained on.
        arguments: arguments of the command line.
        command: that repeats the run.
        choice: choice of the coupled directions, where they were chosen from the data.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    done = "Training finished" if result.finished else "Training was stopped"
    quality = ", ".join(
        f"{value:.3g} at {counted(k, 'step')}"
        for k, value in zip(comparison.steps, comparison.energy_distance, strict=True)
    )
    spreads = ", ".join(
        f"{found.total:.2f} at {counted(k, 'step')}"
        for k, found in zip(comparison.steps, comparison.spread, strict=True)
    )
    return render(
        name=dataset.name,
        title=f"A network trained on {dataset.name}",
        good=result.finished and not complaint(comparison),
        verdict=f"{done} after {counted(result.steps, 'step')}. Energy distance of its samples to the data: {quality}; "
        f"of the noise itself {comparison.of_noise:.3g}, of a normal law with the data's mean and covariance "
        f"{comparison.of_normal:.3g}. Their total variance over that of the data: {spreads}. {complaint(comparison)}",
        summary=(
            "The network is a velocity field from normal noise (t = 0) to the data (t = 1), learned from pairs of the "
            f"{arguments['coupling']} coupling. Samples come from the average of its parameters, by Euler's method."
        ),
        heading="The run",
        rows=[
            *_rows(result, dataset, arguments, choice),
            *_spread_rows(comparison, dataset),
            *origin(dataset, command),
        ],
        pictures=_pictures(result, comparison, dataset, choice),
    )


def complaint(comparison: FewSteps) -> str:
    """What is wrong with the samples of a network and what to do, empty where distance and spread are right."""
    if not comparison.beats_noise:
        return _NO_BETTER
    if not comparison.spreads_right:
        return _WRONG_SPREAD
    return "" if comparison.beats_normal else _NO_BETTER_THAN_NORMAL


def _spread_rows(comparison: FewSteps, dataset: Dataset) -> list[Row]:
    """Variances of the nearest samples over those of the data, with one standard error."""
    found, at = comparison.spread[comparison.best], counted(comparison.steps[comparison.best], "step")
    rows = [
        Row(
            "spread, in all",
            f"total variance of samples at {at} over the data's; 1 is right",
            f"{found.total:.3f} +- {found.total_error:.3f}",
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
        "not defined, the data do not vary" if math.isnan(value) else f"{value:.2f} +- {off:.2f}"
        for value, off in zip(ratio.tolist(), error.tolist(), strict=True)
    )


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


def _pictures(
    result: TrainResult, comparison: FewSteps, dataset: Dataset, choice: DirectionChoice | None
) -> list[Picture]:
    pictures = [
        picture(
            "Training",
            "Loss of the training batches, and error of the field on held-out pairs where an exact flow is known.",
            figures.training_curves(result),
        ),
        picture(
            "Few steps",
            "Left: energy distance between samples and data against Euler steps. It is unbiased: samples as good as "
            "the data themselves, as those of the exact flow are, scatter around zero. A normal law with the mean and "
            "covariance of the data is what an affine field makes. The straighter the flow, the less it falls. It "
            "forgives samples that are too smooth. Right: what it forgives, their total variance over the data's. "
            "Bars are one standard error.",
            figures.step_quality(comparison),
        ),
    ]
    if choice is not None and len(choice.counts) > 1:
        caption = (
            "Noise is coupled with the data in as many of the data's principal directions as two halves of the rows "
            "agree on: the share of the variance that the noise fixes in rows that the map was not fitted to. The "
            f"most is at {choice.count}; beyond it, the rows cannot tell the map from chance."
        )
        pictures.append(picture("Directions", caption, figures.direction_choice(choice)))
    if figures.is_image(dataset.event_shape):
        rows = comparison.samples[:, :_SHOWN].transpose(0, 1).reshape(-1, *dataset.event_shape)
        grid = figures.image_grid(
            dataset.standardisation.undo(rows),
            len(comparison.steps),
            [counted(k, "step") for k in comparison.steps],
            limits=dataset.value_range,
        )
        caption = "A row is one noise point: from left to right, the image that it becomes in more and more steps."
        pictures.append(picture("Samples", caption, grid))
    elif dataset.dim >= 2:
        scatter = figures.sample_clouds(comparison.steps, comparison.samples.flatten(2), dataset)
        pictures.append(picture("Samples", "Samples over the data, at each number of steps.", scatter))
    return pictures
