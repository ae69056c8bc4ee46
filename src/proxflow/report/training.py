"""The page of a trained network: how training went, and what its samples are worth at few steps and at many."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.matching import MLP, TrainResult, field_of
from proxflow.metrics import energy_distance
from proxflow.report import figures
from proxflow.report.certificate import origin
from proxflow.report.template import Picture, Row, picture, render
from proxflow.report.wording import counted
from proxflow.sampling import integrate
from proxflow.schedules import Schedule

__all__ = ["NO_BETTER", "StepComparison", "compare_steps", "render_training_page"]

NO_BETTER = "The samples are no better than noise: train for longer, or take a larger network (for images, a U-Net)."

STEPS = (1, 2, 4, 8, 100)
_GENERATED, _COMPARED, _SHOWN = 1000, 2000, 10
_GENERATED_SLOWLY = 200  # by networks other than perceptrons


@dataclass(frozen=True)
class StepComparison:
    """Samples (K, n, *event) of the same noise at K numbers of Euler steps, and their energy distances to the data.

    ``of_noise`` is that of the noise itself: what no training gives.
    """

    steps: tuple[int, ...]
    samples: Tensor
    energy_distance: tuple[float, ...]
    of_noise: float

    @property
    def beats_noise(self) -> bool:
        """Whether samples of some number of steps are nearer to the data than the noise is."""
        return min(self.energy_distance) < self.of_noise


@torch.no_grad()
def compare_steps(result: TrainResult, dataset: Dataset, schedule: Schedule, seed: int) -> StepComparison:
    """Sample a trained network without labels at several numbers of Euler steps; Ctrl-C keeps those that are done."""
    generator = torch.Generator().manual_seed(seed)
    count = _GENERATED if isinstance(result.network, MLP) else _GENERATED_SLOWLY
    noise = torch.randn((count, *dataset.event_shape), generator=generator, dtype=dataset.points.dtype)
    data = dataset.points[torch.randperm(dataset.n, generator=generator)[:_COMPARED]]
    field = field_of(result.network)
    device = next(result.network.parameters()).device
    ends: list[Tensor] = []
    try:
        for k in STEPS:
            trajectory = integrate(field, noise.to(device), steps=k, method="euler", schedule=schedule)
            ends.append(trajectory.end.cpu())
    except KeyboardInterrupt:
        if not ends:
            raise
    distances = tuple(energy_distance(end, data, unbiased=True) for end in ends)
    of_noise = energy_distance(noise, data, unbiased=True)
    return StepComparison(STEPS[: len(ends)], torch.stack(ends), distances, of_noise)


def render_training_page(
    result: TrainResult,
    comparison: StepComparison,
    dataset: Dataset,
    arguments: Mapping[str, Any],
    command: str | None = None,
) -> str:
    """One self-contained HTML page about a training run; ``arguments`` are those of the command line.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    last = result.history[-1]
    done = "Training finished" if result.finished else "Training was stopped"
    quality = ", ".join(
        f"{value:.3g} at {counted(k, 'step')}"
        for k, value in zip(comparison.steps, comparison.energy_distance, strict=True)
    )
    return render(
        name=dataset.name,
        title=f"A network trained on {dataset.name}",
        good=result.finished and comparison.beats_noise,
        verdict=f"{done} after {result.steps:,} steps. Energy distance of its samples to the data: {quality}; "
        f"of the noise itself {comparison.of_noise:.3g}.{'' if comparison.beats_noise else ' ' + NO_BETTER}",
        summary=(
            "The network is a velocity field from normal noise (t = 0) to the data (t = 1), learned from pairs of the "
            f"{arguments['coupling']} coupling. Samples come from the average of its parameters, by Euler's method."
        ),
        heading="The run",
        rows=[*_rows(result, dataset, arguments, last.loss, last.field_error), *origin(dataset, command)],
        pictures=_pictures(result, comparison, dataset),
    )


def _rows(
    result: TrainResult, dataset: Dataset, arguments: Mapping[str, Any], loss: float, field_error: float
) -> list[Row]:
    count = sum(parameter.numel() for parameter in result.network.parameters())
    error = "not measured: no exact flow to compare with" if math.isnan(field_error) else f"{field_error:.4g}"
    return [
        Row("points", "", f"{dataset.n:,}"),
        Row("dimension", "", " x ".join(str(size) for size in dataset.event_shape)),
        Row("coupling", "", str(arguments["coupling"])),
        Row("network", "parameters", f"{arguments['network']}, {count:,}"),
        Row("labels", "", "given to the network" if arguments["conditional"] else "not used"),
        Row("steps", f"of {arguments['batch_size']} pairs", f"{result.steps:,}"),
        Row("loss", "mean squared error of the velocity, at the end", f"{loss:.4g}"),
        Row("field error", "to the exact flow on held-out noise; 1 is a field of zeros", error),
        Row("time", "", f"{result.seconds:.1f} s"),
        Row("seed", "", str(result.seed)),
        Row("schedule", "", str(arguments["schedule"])),
    ]


def _pictures(result: TrainResult, comparison: StepComparison, dataset: Dataset) -> list[Picture]:
    pictures = [
        picture(
            "Training",
            "Loss of the training batches, and error of the field on held-out pairs where an exact flow is known.",
            figures.training_curves(result),
        ),
        picture(
            "Few steps",
            "Energy distance between samples and data against Euler steps. It is unbiased: samples as good as the data "
            "themselves scatter around zero. The straighter the flow, the less it falls.",
            figures.step_quality(comparison.steps, comparison.energy_distance),
        ),
    ]
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
