"""What the commands share: groups of options, the folder and data they claim, and the command line that repeats them.

A group is a frozen dataclass whose fields are options; ``with_groups`` gives a command an option for each field.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import inspect
import json
import os
import shlex
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer

if TYPE_CHECKING:
    import torch

    from proxflow.cli.run_folder import RunFolder
    from proxflow.data import Dataset
    from proxflow.schedules import Schedule

__all__ = [
    "Data",
    "Destination",
    "Device",
    "Output",
    "Reading",
    "ResumableDestination",
    "ScheduleName",
    "Seed",
    "ShortlistCount",
    "Tolerance",
    "command_line",
    "device_named",
    "doubts_in_a_line",
    "free_file",
    "hint",
    "record_of",
    "schedule_named",
    "suggest_a_subset",
    "with_groups",
]

MANY_POINTS = 10_000  # above which a fit takes minutes and the command says so

Data = Annotated[
    str, typer.Argument(help="A built-in data set (digits, fashion-mnist, moons, ...) or a file or folder.")
]
Seed = Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of all randomness.")]
Device = Annotated[
    str, typer.Option(metavar="NAME", help="Where to compute: cpu, cuda, or one of several GPUs, such as cuda:1.")
]
ShortlistCount = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="For very many rows: search noise among so many groups of rows, of about sqrt(N); 16, say. Pairs are then "
        "nearly optimal. All rows are searched if not given.",
    ),
]
Tolerance = Annotated[float, typer.Option(help="Tolerance on chi2, the error of the atoms' weights.")]
ScheduleName = Annotated[Literal["linear", "cosine"], typer.Option(help="Schedule of the path.")]


@dataclass(frozen=True)
class Reading:
    """How the data are read.

    The options are the arguments of ``data.load`` of these names; ``points`` is its n.
    """

    points: Annotated[
        int | None,
        typer.Option(
            min=1, help="How many points: a random subset of real data (all), or the size of a synthetic set."
        ),
    ] = None
    label: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN", help="Column of labels of tables and .h5ad, entry of .npz and .pt; else 'label'."
        ),
    ] = None
    representation: Annotated[
        str | None, typer.Option(metavar="KEY", help="Entry of obsm of .h5ad, such as X_pca; else X.")
    ] = None
    data_dir: Annotated[
        Path | None, typer.Option(help="Folder of the files of fashion-mnist; else where Debian's package puts them.")
    ] = None
    array: Annotated[
        str | None, typer.Option(metavar="ENTRY", help="Entry of points of .npz and .pt, such as x_train.")
    ] = None
    split: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Which of train, test, ... in a folder of images or .parquet.")
    ] = None
    size: Annotated[
        int | None, typer.Option(min=1, help="Pixels a side: images are cut to the central square and resized.")
    ] = None
    frames: Annotated[
        Literal["first", "all"] | None, typer.Option(help="Images of TIFF stacks and animations; else refused.")
    ] = None
    standardise: Annotated[
        Literal["global", "columns", "whiten", "none"] | None,
        typer.Option(help="One scale, one for each column, or no correlations; columns for tables, else global."),
    ] = None
    columns: Annotated[
        str | None, typer.Option(metavar="A,B", help="Columns of a table that are coordinates; else all of numbers.")
    ] = None
    drop: Annotated[str | None, typer.Option(metavar="C,D", help="Columns of a table to leave out.")] = None
    drop_missing: Annotated[
        bool, typer.Option("--drop-missing", help="Leave out rows of a table or .h5ad with missing values.")
    ] = False
    layer: Annotated[str | None, typer.Option(metavar="KEY", help="Entry of layers of .h5ad; else X.")] = None
    sep: Annotated[
        str | None, typer.Option(help="Separator of .csv and .tsv: a character, tab or space; else found.")
    ] = None
    decimal: Annotated[str | None, typer.Option(help="Decimal mark of .csv and .tsv: . or , (found).")] = None
    encoding: Annotated[str | None, typer.Option(help="Encoding of .csv and .tsv, such as latin-1; else UTF-8.")] = None
    skip_lines: Annotated[int | None, typer.Option(min=0, help="Lines of .csv and .tsv before the table.")] = None

    def load(self, data: str, seed: int) -> Dataset:
        """The data set of a name or path."""
        import proxflow as pf

        if (Path(data).expanduser() / "run.json").is_file():
            raise ValueError(f"{data} is a run folder; give what its run was made of: a data set, a file or a folder")
        arguments = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        arguments |= {name: _listed(arguments[name]) for name in ("columns", "drop")}
        with doubts_in_a_line():
            dataset = pf.data.load(data, n=arguments.pop("points"), seed=seed, **arguments)
            for note in dataset.notes:
                typer.echo(f"{dataset.name}: {note}", err=True)
        return dataset


@contextlib.contextmanager
def doubts_in_a_line() -> Iterator[None]:
    """Warnings of the body are said after it, in a line each, without the place in the source."""
    from proxflow.errors import DataWarning

    with warnings.catch_warnings(record=True) as doubts:
        warnings.simplefilter("always", DataWarning)
        yield
    for doubt in doubts:
        typer.echo(f"warning: {doubt.message}", err=True)


def _listed(names: str | None) -> list[str] | None:
    """Names between commas; one that holds a comma is in double quotes."""
    return None if names is None else next(csv.reader([names], skipinitialspace=True))


def _folder(text: str) -> Path:
    """A path as given, where no shell has put the home directory for its ~ (as in --out=~/run)."""
    if not text.strip():
        raise typer.BadParameter("it is empty; give a folder, or leave the option out")
    return Path(text).expanduser()


@dataclass(frozen=True)
class Destination:
    """The run folder."""

    out: Annotated[
        Path | None,
        typer.Option(
            parser=_folder, metavar="PATH", help="Run folder; in runs/ and named after the data if not given."
        ),
    ] = None
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run that is already there.")] = False

    def resumes(self, folder: RunFolder) -> bool:
        """Whether the interrupted run in a folder is continued."""
        return False

    def folder(self, default: Path) -> RunFolder:
        """The folder asked for, or else the default one, if it may be written to.

        Raises:
            ValueError: it may not.
        """
        from proxflow.cli.run_folder import RunFolder

        folder = RunFolder(default if self.out is None else self.out)
        folder.claim(overwrite=self.overwrite, resume=self.resumes(folder))
        return folder

    def claimed(self, data: str, reading: Reading, seed: int, suffix: str = "") -> tuple[RunFolder, Dataset]:
        """The folder, refused before the data are read where that can be known, and the data.

        Raises:
            ValueError: the folder may not be written to, or the data cannot be read.
        """
        if self.out is not None:
            self.folder(self.out)
            if self.out.resolve() == Path(data).expanduser().resolve():
                raise ValueError(f"--out {self.out} holds the data; give another folder")
        dataset = reading.load(data, seed)
        return self.folder(Path("runs") / f"{dataset.name}{suffix}"), dataset


@dataclass(frozen=True)
class ResumableDestination(Destination):
    """The run folder.

    Of a command that can be interrupted and resumed.
    """

    resume: Annotated[
        bool, typer.Option("--resume", help="Continue an interrupted run: the same command, with --resume.")
    ] = False

    def folder(self, default: Path) -> RunFolder:
        """As of any command.

        Raises:
            ValueError: it may not be written to, or both options were given.
        """
        if self.overwrite and self.resume:
            raise ValueError("--overwrite begins again and --resume continues; give one of them")
        return super().folder(default)

    def resumes(self, folder: RunFolder) -> bool:
        """Whether the interrupted run in a folder is continued, as torchrun wants when it starts processes again."""
        started_again = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
        return self.resume or (started_again and folder.kept)


def free_file(path: Path, *, overwrite: bool) -> Path:
    """The file of ``--out``, refused before the work if it cannot be written.

    Raises:
        ValueError: something is there, or the folder is not.
    """
    path = path.expanduser()
    if path.is_dir() or (path.exists() and not overwrite):
        raise ValueError(f"{path} is already there; give another --out, or --overwrite to replace it")
    if not path.parent.is_dir():
        raise ValueError(f"{path} cannot be written: there is no folder {path.parent}; make it first")
    return path


@dataclass(frozen=True)
class Output:
    """What is printed."""

    json: Annotated[
        bool, typer.Option("--json", help="Print the run's record as one JSON object, and nothing else.")
    ] = False

    def say(self, text: str) -> None:
        """Print a line for people."""
        if not self.json:
            typer.echo(text)

    def end(self, run: Path, **record: Any) -> None:
        """Print a record for programs, with the folder that it is about."""
        self.record(run=str(run), **record)

    def record(self, **record: Any) -> None:
        """Print a record for programs."""
        if self.json:
            typer.echo(json.dumps(record))


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with an option for each field of those of its parameters that are groups."""
    hints = get_type_hints(command, include_extras=True)
    parameters = inspect.signature(command).parameters
    groups = {name: hints[name] for name in parameters if dataclasses.is_dataclass(hints[name])}
    shown: list[inspect.Parameter] = []
    for name, parameter in parameters.items():
        if name not in groups:
            shown.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=hints[name]))
        else:
            shown += _options(groups[name])

    def run(**given: Any) -> None:
        made = {
            name: kind(**{f.name: given.pop(f.name) for f in dataclasses.fields(kind)}) for name, kind in groups.items()
        }
        command(**given, **made)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in shown}
    setattr(run, "__signature__", inspect.Signature(shown))  # noqa: B010 - a function has no such attribute for mypy
    return run


def _options(group: type) -> list[inspect.Parameter]:
    """The parameters that make a group, which --help shows under the first line of its docstring."""
    hints = get_type_hints(group, include_extras=True)
    for kind in hints.values():
        for option in getattr(kind, "__metadata__", ()):
            option.rich_help_panel = (group.__doc__ or "").splitlines()[0].rstrip(".")
    return [
        inspect.Parameter(f.name, inspect.Parameter.KEYWORD_ONLY, default=f.default, annotation=hints[f.name])
        for f in dataclasses.fields(group)
    ]


def record_of(group: Any) -> dict[str, Any]:
    """The options of a group by name, as a run's record keeps them."""
    options = {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    return {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}


def suggest_a_subset(dataset: Dataset, points: int | None) -> None:
    """Say that all of a large data set will be used."""
    if points is None and dataset.n > MANY_POINTS:
        typer.echo(
            f"{dataset.name}: fitting all {dataset.n:,} points; --points 5000 is a quicker random subset", err=True
        )


def schedule_named(name: str) -> Schedule:
    """The schedule of a ``ScheduleName``."""
    from proxflow.schedules import Cosine, Linear

    return Cosine() if name == "cosine" else Linear()


def device_named(name: str) -> torch.device:
    """The device of a ``Device``, and the GPU that this process works on from now on.

    Raises:
        ValueError: it is neither the CPU nor a GPU that PyTorch sees here.
    """
    import torch

    kind, _, number = name.partition(":")
    if kind not in ("cpu", "cuda") or (number and not number.isdecimal()):
        raise ValueError(f"--device {name} is not one of cpu, cuda, cuda:0, cuda:1, ...")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if count == 0:
        raise ValueError(f"--device {name}: PyTorch {torch.__version__} sees no GPU here; leave it out")
    place = int(number or int(os.environ.get("LOCAL_RANK", 0)) % count)
    if place >= count:
        raise ValueError(f"--device {name}: the GPUs here are cuda:0 to cuda:{count - 1}")
    torch.cuda.set_device(place)
    return torch.device("cuda", place)


def command_line(name: str, arguments: dict[str, Any]) -> str:
    """The command line that gives these arguments, the first of which is no option."""
    first, *options = [(key, value) for key, value in arguments.items() if value is not None and value is not False]
    words = []
    for key, value in options:
        words += [f"--{key.replace('_', '-')}"] if value is True else [f"--{key.replace('_', '-')}", str(value)]
    return shlex.join(["proxflow", name, str(first[1]), *words])


@contextlib.contextmanager
def hint(folder: RunFolder) -> Iterator[None]:
    """Say that a run can be resumed where Ctrl-C strikes outside of it."""
    try:
        yield
    except KeyboardInterrupt:
        if folder.kept:
            typer.echo(f"the run is kept in {folder.path}; the same command with --resume continues it", err=True)
        raise
