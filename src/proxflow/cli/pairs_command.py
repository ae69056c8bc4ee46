"""proxflow pairs: pairs of noise and rows in a file, for a training loop of one's own."""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from proxflow.cli.options import (
    Data,
    Device,
    Output,
    Reading,
    Seed,
    ShortlistCount,
    Tolerance,
    device_named,
    free_file,
    with_groups,
)

if TYPE_CHECKING:
    from torch import Tensor

    import proxflow as pf

__all__ = ["pairs"]


@with_groups
def pairs(
    data: Data,
    epochs: Annotated[int, typer.Option(min=1, help="How often every row comes, each time with new noise.")],
    out: Annotated[Path | None, typer.Option(help="The file; DATA-pairs.safetensors if not given.")] = None,
    *,
    reading: Reading,
    directions: Annotated[
        int | None,
        typer.Option(min=1, help="Principal directions that are coupled; chosen from the data if not given."),
    ] = None,
    shortlist: ShortlistCount = None,
    tol: Tolerance = 1e-2,
    conditional: Annotated[
        bool,
        typer.Option(
            "--conditional",
            help="Couple each class by itself, for a network that is told the label; implied by --label.",
        ),
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that is already there.")] = False,
    seed: Seed = 0,
    device: Device = "cpu",
    output: Output,
) -> None:
    """Pair noise with the rows of a data set, a few bytes a pair, for any loader to read with `couplings.PairFile`.

    The points are those of `pf.data.load` with the same options, standardised.

    Example: `proxflow pairs digits --epochs 100 --conditional`
    """
    import proxflow as pf

    place, dataset = device_named(device), reading.load(data, seed)
    file = free_file(out or Path(f"{dataset.name}-pairs.safetensors"), overwrite=overwrite)
    conditional = conditional or reading.label is not None
    if conditional and dataset.labels is None:
        raise ValueError(f"{dataset.name} has no labels; name their column by --label, or leave out --conditional")
    if directions is not None and directions > dataset.dim:
        raise ValueError(f"--directions {directions} is more than the {dataset.dim} coordinates of a point")
    coupling: pf.couplings.Coupling
    if conditional and dataset.labels is not None:
        coupling = pf.couplings.Conditional.fit(
            dataset.points.to(place),
            dataset.labels.to(place),
            directions=directions or "auto",
            shortlist=shortlist,
            tol=tol,
            seed=seed,
        )
    else:
        coupling = _of_all(dataset.points.to(place), directions, shortlist, tol, seed)
    record = pf.couplings.PairFile.write(coupling, file, epochs=epochs, seed=seed)
    size = file.stat().st_size / record.pairs
    output.say(f"{dataset.name}: {record.pairs:,} pairs of {record.rows:,} rows, {size:.1f} bytes each: {file}")
    output.say(f"  chi2 of the weights  {record.chi2:.3g} +- {record.chi2_stderr:.1g}")
    output.say(f"  approximated pairs   {record.approximated:,}, whose noise is independent of their row")
    output.end(file, **dataclasses.asdict(record))


def _of_all(
    points: Tensor, directions: int | None, shortlist: int | None, tol: float, seed: int
) -> pf.couplings.Subspace:
    """One coupling of all rows."""
    import proxflow as pf
    from proxflow.semidiscrete.fit_result import uninterrupted

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)  # what is printed says it
        coupling = pf.couplings.Subspace.fit(points, directions, shortlist=shortlist, tol=tol, seed=seed)
    uninterrupted(coupling.record)
    return coupling
