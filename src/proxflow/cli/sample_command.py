"""proxflow sample: points from a run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxflow.cli.options import Output, Seed, doubts_in_a_line, schedule_named, with_groups
from proxflow.cli.sample_file import SampleFile, npy
from proxflow.errors import counted

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from proxflow.cli.run_folder import RunFolder

__all__ = ["sample"]

_MOST_IMAGES = 256  # in the grid of a picture
_MOST_OF_A_CLASS = 10  # in its row of the picture


@with_groups
def sample(
    run: Annotated[Path, typer.Argument(help="A run folder written by `proxflow fit` or `proxflow train`.")],
    count: Annotated[
        int, typer.Option(min=1, help="How many points to generate; of each class with --label all.")
    ] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps; 8 for a network, else by method.")] = None,
    method: Annotated[str, typer.Option(help="proximal, euler, midpoint, heun or dopri5.")] = "proximal",
    label: Annotated[
        str | None, typer.Option(help="Class to generate, of a network that was told the labels; all for each of them.")
    ] = None,
    guidance: Annotated[float, typer.Option(help="Weight of the label; 1 is the network's own.")] = 1.0,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write this .npy, .csv or .parquet, and nothing else.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file of --out.")] = False,
    seed: Seed = 0,
    *,
    output: Output,
) -> None:
    """Generate with a fitted flow or a trained network: writes samples.npy, in the units of the data, into its folder.

    With it come samples.json, the arguments, for images samples.png, and with --label all samples-labels.npy. Samples
    of an exact flow are rows of the data, bit for bit.

    Example: `proxflow sample runs/digits --count 64`

    Example: `proxflow sample runs/digits-network --steps 4 --label 3 --guidance 2`

    Example: `proxflow sample runs/penguins-network --label all --count 100 --out penguins-drawn.csv`
    """
    import torch

    from proxflow.cli.run_folder import RunFolder
    from proxflow.report.drawn_samples import STEPS
    from proxflow.seeding import generator_of

    folder = RunFolder(run)
    file = (
        None
        if out is None
        else SampleFile.claimed(out, folder.facts.event_shape, overwrite=overwrite, labelled=label == "all")
    )
    generator = generator_of(seed)
    labels: tuple[str, ...] | None = None
    with torch.no_grad():
        if folder.is_trained:
            steps = steps or STEPS
            samples, labels, drawn = _sampled_network(folder, count, steps, method, label, guidance, generator)
        elif label is not None or guidance != 1:
            raise ValueError(f"{run} holds a fitted flow, which takes no --label or --guidance")
        else:
            samples, drawn = _sampled_flow(folder, count, steps, method, generator), ""
    shape = tuple(samples.shape[1:])
    said = f"{len(samples)} samples of shape {shape}{drawn}"
    if file is not None:
        written = file.write(samples, folder.facts.columns, labels)
        output.end(run, samples=str(written[0]), **_told(output, said, written))
        return
    arguments = {
        "count": count,
        "steps": steps,
        "method": method,
        "label": label,
        "guidance": guidance,
        "seed": seed,
    }
    with doubts_in_a_line():
        picture = _picture(samples, labels, folder.facts.value_range)
    written = folder.write_samples(npy(samples), None if labels is None else npy(labels), picture, arguments)
    output.end(run, samples=str(written[0]), **_told(output, said, written), arguments=arguments)


def _told(output: Output, said: str, written: Sequence[Path]) -> dict[str, str]:
    """Says what was drawn and where it is; the files beside the samples by what they hold."""
    output.say(f"{said}: {written[0]}")
    beside = {"picture" if path.suffix == ".png" else "labels": str(path) for path in written[1:]}
    for name, path in beside.items():
        output.say(f"{name}: {path}")
    return beside


def _picture(samples: Tensor, labels: tuple[str, ...] | None, limits: tuple[float, float] | None) -> bytes | None:
    """A grid of images, of several classes with a row for each; None if the samples are no images."""
    from proxflow.report import figures

    if not figures.is_image(tuple(samples.shape[1:])):
        return None
    names = list(dict.fromkeys(labels or ()))
    if len(names) < 2:
        columns = math.ceil(math.sqrt(min(len(samples), _MOST_IMAGES)))
        return figures.image_grid(samples[:_MOST_IMAGES], columns, limits=limits)
    columns = min(len(samples) // len(names), _MOST_OF_A_CLASS)
    first = samples.reshape(len(names), -1, *samples.shape[1:])[:, :columns]
    return figures.image_grid(first.flatten(0, 1), columns, limits=limits, row_names=names)


def _sampled_network(
    folder: RunFolder,
    count: int,
    steps: int,
    method: str,
    label: str | None,
    guidance: float,
    generator: Generator,
) -> tuple[Tensor, tuple[str, ...] | None, str]:
    """Samples, of all classes also their labels, and in words of which classes they are."""
    import torch

    import proxflow as pf

    network, standardisation, shape, schedule = folder.read_network()
    told: Tensor | int | None = None
    drawn, names, rows = "", None, count
    numbers = {} if label is None else folder.class_numbers(network.classes)
    if label is None and guidance != 1:
        raise ValueError(f"--guidance {guidance:g} is towards a class; name it by --label")
    if label == "all" and label not in numbers:
        names = tuple(name for name in numbers for _ in range(count))
        told, rows = torch.tensor([numbers[name] for name in names]), len(names)
        drawn = f" of {counted(len(numbers), 'class', 'classes')}"
    elif label is not None:
        told, drawn = folder.class_number(label, network.classes), f" of the class {label}"
    elif network.classes:
        drawn = " of all classes mixed (--label chooses)"
    field = pf.matching.field_of(network, told, guidance)
    noise = torch.randn((rows, *shape), generator=generator, dtype=next(network.parameters()).dtype)
    path = pf.sampling.integrate(field, noise, steps=steps, method=method, schedule=schedule_named(schedule))
    return standardisation.undo(path.end), names, drawn


def _sampled_flow(folder: RunFolder, count: int, steps: int | None, method: str, generator: Generator) -> Tensor:
    import proxflow as pf
    from proxflow.data.dataset import in_units
    from proxflow.measures import draw

    fitted, standardisation, shape, schedule = folder.read_fit()
    flow = pf.ProximalFlow(fitted.potential, schedule_named(schedule))
    points = fitted.potential.points
    noise = draw(flow.potential.source, count, generator, points.dtype, points.device)
    end = pf.sampling.integrate(flow, noise, steps=steps, method=method).end.reshape((count, *shape))
    rows = folder.read_rows(len(fitted.potential.points))  # missing in runs of earlier versions
    return standardisation.undo(end) if rows is None else in_units(end, fitted.potential.points, rows, standardisation)
