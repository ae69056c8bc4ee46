"""What the commands share: options, the folder and data they claim, and the command line that repeats them."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from proxflow.cli.run_folder import RunFolder
    from proxflow.data import Dataset
    from proxflow.schedules import Schedule

__all__ = [
    "MANY_POINTS",
    "SCHEDULES",
    "Data",
    "DataDir",
    "Label",
    "Out",
    "Overwrite",
    "Points",
    "Representation",
    "Resume",
    "ScheduleName",
    "Seed",
    "check_choice",
    "claimed",
    "command_line",
    "data_arguments",
    "hint",
    "schedule_named",
    "suggest_a_subset",
]

SCHEDULES = ("linear", "cosine")
MANY_POINTS = 10_000  # above which a fit takes minutes and the command says so

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


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Refuse what is not known."""
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")


def claimed(
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
    from proxflow.cli.run_folder import RunFolder

    if overwrite and resume:
        raise ValueError("--overwrite begins again and --resume continues; give one of them")
    if out is not None:
        RunFolder(out).claim(overwrite=overwrite, resume=resume)
    dataset = pf.data.load(data, n=points, seed=seed, label=label, representation=representation, data_dir=data_dir)
    folder = RunFolder(out if out is not None else Path("runs") / f"{dataset.name}{suffix}")
    folder.claim(overwrite=overwrite, resume=resume)
    return folder, dataset


def data_arguments(
    points: int | None, label: str | None, representation: str | None, data_dir: Path | None
) -> dict[str, Any]:
    """The options of the data, as a run's record keeps them."""
    return {
        "points": points,
        "label": label,
        "representation": representation,
        "data_dir": None if data_dir is None else str(data_dir),
    }


def suggest_a_subset(dataset: Dataset, points: int | None) -> None:
    """Say that all of a large data set will be used."""
    if points is None and dataset.n > MANY_POINTS:
        typer.echo(
            f"{dataset.name}: fitting all {dataset.n:,} points; --points 5000 is a quicker random subset", err=True
        )


def schedule_named(name: str) -> Schedule:
    """One of ``SCHEDULES``."""
    from proxflow.schedules import Cosine, Linear

    return Cosine() if name == "cosine" else Linear()


def command_line(name: str, arguments: dict[str, Any]) -> str:
    """The command line that gives these arguments, the first of which is no option."""
    first, *options = [(key, value) for key, value in arguments.items() if value is not None and value is not False]
    words = []
    for key, value in options:
        words += [f"--{key.replace('_', '-')}"] if value is True else [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(["proxflow", name, str(first[1]), *words])


@contextlib.contextmanager
def hint(folder: RunFolder) -> Iterator[None]:
    """Say that a run can be gone on with where Ctrl-C strikes outside of it."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.kept:
            typer.echo(f"the run is kept in {folder.path}; the same command with --resume continues it", err=True)
        raise
