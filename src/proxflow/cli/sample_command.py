"""proxflow sample: points from a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxflow.cli.options import Output, Seed, schedule_named, with_groups
from proxflow.cli.sample_file import SampleFile, npy

if TYPE_CHECKING:
    from torch import Generator, Tensor

    from proxflow.cli.run_folder import RunFolder

__all__ = ["sample"]

_MOST_IMAGES = 256  # in the grid of a picture


@with_groups
def sample(
    run: Annotated[Path, typer.Argument(help="A run folder written by `proxflow fit` or `proxflow train`.")],
    count: Annotated[int, typer.Option(min=1, help="How many points to generate.")] = 64,
    steps: Annotated[int | None, typer.Option(min=1, help="Sampler steps; 8 for a network, else by method.")] = None,
    method: Annotated[str, typer.Option(help="proximal, euler, midpoint, heun or dopri5.")] = "proximal",
    label: Annotated[str | None, typer.Option(help="Class to generate, of a network that was told the labels.")] = None,
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

    With it come samples.json, the arguments, and for images samples.png. Samples of an exact flow are rows of the data,
    bit for bit.

    Example: `proxflow sample runs/digits --count 64`

    Example: `proxflow sample runs/digits-network --steps 4 --label 3 --guidance 2`

    Example: `proxflow sample runs/penguins-network --count 1000 --out penguins-drawn.csv`
    """
    import torch

    from proxflow.cli.run_folder import RunFolder
    from proxflow.report import figures
    from proxflow.seeding import generator_of

    folder = RunFolder(run)
    file = None if out is None else SampleFile.claimed(out, folder.event_shape, overwrite=overwrite)
    generator = generator_of(seed)
    with torch.no_grad():
        if folder.is_trained:
            samples = _sampled_network(folder, count, steps, method, label, guidance, generator)
        elif label is not None or guidance != 1:
            raise ValueError(f"{run} holds a fitted flow, which takes no --label or --guidance")
        else:
            samples = _sampled_flow(folder, count, steps, method, generator)
    shape = tuple(samples.shape[1:])
    if file is not None:
        file.write(samples, folder.columns)
        output.say(f"{count} samples of shape {shape}: {file.path}")
        output.end(run, samples=str(file.path))
        return
    columns = math.ceil(math.sqrt(min(count, _MOST_IMAGES)))
    picture = None
    if figures.is_image(shape):
        picture = figures.image_grid(samples[:_MOST_IMAGES], columns, limits=folder.value_range)
    arguments = {
        "count": count,
        "steps": steps,
        "method": method,
        "label": label,
        "guidance": guidance,
        "seed": seed,
    }
    written = folder.write_samples(npy(samples), picture, arguments)
    output.say(f"{count} samples of shape {shape}: {written[0]}")
    for path in written[1:]:
        output.say(f"picture: {path}")
    output.end(run, samples=str(written[0]), arguments=arguments)


def _sampled_network(
    folder: RunFolder,
    count: int,
    steps: int | None,
    method: str,
    label: str | None,
    guidance: float,
    generator: Generator,
) -> Tensor:
    import torch

    import proxflow as pf
    from proxflow.report.drawn_samples import STEPS

    network, standardisation, shape, schedule = folder.read_network()
    number = None if label is None else folder.class_number(label, network.classes)
    field = pf.matching.field_of(network, number, guidance)
    noise = torch.randn((count, *shape), generator=generator, dtype=next(network.parameters()).dtype)
    path = pf.sampling.integrate(field, noise, steps=steps or STEPS, method=method, schedule=schedule_named(schedule))
    return standardisation.undo(path.end)


def _sampled_flow(folder: RunFolder, count: int, steps: int | None, method: str, generator: Generator) -> Tensor:
    import proxflow as pf
    from proxflow.data.dataset import in_units

    fitted, standardisation, shape, schedule = folder.read_fit()
    flow = pf.ProximalFlow(fitted.potential, schedule_named(schedule))
    noise = flow.potential.source.sample(count, generator=generator, dtype=fitted.potential.points.dtype)
    end = pf.sampling.integrate(flow, noise, steps=steps, method=method).end.reshape((count, *shape))
    rows = folder.read_rows()  # missing in runs of earlier versions
    return standardisation.undo(end) if rows is None else in_units(end, fitted.potential.points, rows, standardisation)
