"""The command line: parse, call one public function per command, print. One file for each command."""

from __future__ import annotations

import contextlib
import os
import sys
from contextlib import AbstractContextManager
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from proxflow.cli.audit_command import audit
from proxflow.cli.batch_size_command import batch_size
from proxflow.cli.compare_command import compare
from proxflow.cli.fit_command import fit
from proxflow.cli.pairs_command import pairs
from proxflow.cli.sample_command import sample
from proxflow.cli.terminal_command import terminal
from proxflow.cli.train_command import train
from proxflow.version import __version__

__all__ = ["app", "main"]

_INTERRUPTED = 130
_COMMANDS = {
    "fit": fit,
    "train": train,
    "sample": sample,
    "pairs": pairs,
    "batch-size": batch_size,
    "terminal": terminal,
    "audit": audit,
    "compare": compare,
}
_SHARED = ("fit", "train")  # by the processes that torchrun started


class _Command(TyperCommand):
    """A command whose help shows no kind of value for options that take none."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its own, and --help."""
        return _valueless(super().get_params(ctx))


class _Commands(TyperGroup):
    """The same for what comes before a command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Its own, and --help."""
        return _valueless(super().get_params(ctx))


def _valueless(parameters: list[Any]) -> list[Any]:
    for parameter in parameters:
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"proxflow {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Exact optimal-transport flow matching: fit, sample, measure."""


for _name, _run in _COMMANDS.items():
    app.command(_name, cls=_Command)(_run)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line: a wrong input is one line on standard error and exit code 2, Ctrl-C is 130."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with _processes(given[:1]):
            status = app(given or ["--help"], prog_name="proxflow", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except Exception as error:
        message = _explanation(error)
        if message is None:
            raise
        if _first() or isinstance(error, ConnectionError):
            typer.echo(f"proxflow: {' '.join(message.split())}", err=True)
        sys.exit(2)
    if status == _INTERRUPTED and _first():
        typer.echo("proxflow: interrupted", err=True)
    if isinstance(status, int) and status:
        sys.exit(status)


def _processes(command: list[str]) -> AbstractContextManager[None]:
    """The processes that torchrun started, joined for a fit or for training; alone without torch.

    Raises:
        ValueError: they were started for a command that they would only repeat.
    """
    name = next(iter(command), "")
    if name not in _COMMANDS or not _several():
        return contextlib.nullcontext()
    if name not in _SHARED:
        raise ValueError(f"proxflow {name} runs in one process; start it without torchrun")
    from proxflow.semidiscrete.ranks import joined_processes

    return joined_processes()


def _several() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


def _first() -> bool:
    """Whether this process speaks for all: an error of the user's is met by each."""
    return not _several() or os.environ.get("RANK", "0") == "0"


def _explanation(error: Exception) -> str | None:
    """What to tell the user about an error that is theirs to fix; None for one that is ours."""
    from proxflow.errors import ConvergenceError, MissingExtraError, in_a_line

    describe = getattr(error, "format_message", None)  # an error of the command line itself
    if describe is not None:
        context = getattr(error, "ctx", None)
        return f"{describe()} (see {'proxflow' if context is None else context.command_path} --help)"
    if _is_lack_of_memory(error):
        return f"there is not enough memory ({in_a_line(error)}); --points takes a random subset of the rows"
    known = isinstance(error, ValueError | ConvergenceError | MissingExtraError | OSError)
    return str(error) if known else None


def _is_lack_of_memory(error: Exception) -> bool:
    """Of Python or numpy, of PyTorch on a GPU, or of PyTorch on the CPU, which has no class for it."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
