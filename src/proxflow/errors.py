"""Exceptions and warnings of the package, and packages that may be missing."""

from __future__ import annotations

import importlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = [
    "ConvergenceError",
    "ConvergenceWarning",
    "DataWarning",
    "MissingExtraError",
    "NoDensityError",
    "UndefinedTimeError",
    "counted",
    "global_generators_kept",
    "in_a_line",
    "optional_package",
]


_LONGEST = 240  # characters of a message that was not written here


class ConvergenceError(RuntimeError):
    """A query could not be solved to its tolerance; the message says how many rows, and what to try."""


class ConvergenceWarning(UserWarning):
    """An iteration stopped before its tolerance: a fit, whose result is valid for the weights that it reports; or the
    last step of a field is too long for its inverse or its density, where the message says what it misses."""


class DataWarning(UserWarning):
    """Data were read, but something about them is probably not intended; the message says what to do."""


class NoDensityError(ValueError):
    """A law has no density, as of atoms or of a manifold; the message says why."""


class UndefinedTimeError(ValueError):
    """A quantity of a path does not exist at the time that was asked for, such as a velocity at t = 1."""


class MissingExtraError(ImportError):
    """An optional dependency is missing; the message names the extra that installs it."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f'this needs the package {module!r}: pip install "proxflow[{extra}]"', name=module)


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number and its noun, for messages: "1 row", "8 rows", "1,797 classes"."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def in_a_line(error: Exception) -> str:
    """Kind and text of an error that somebody else's code raised, for a message of one line."""
    said = str(error).rpartition("\nRuntimeError: ")[2]  # TorchScript puts a traceback of its own before it
    text = " ".join(f"{type(error).__name__}: {said}".split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def optional_package(module: str, extra: str, package: str | None = None) -> Any:
    """Import a module that an extra installs; ``package`` is its name for pip, where that is not the module's.

    Some packages draw from the global generators while they are imported (POT does); these are left as they were.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        if module in sys.modules:
            return importlib.import_module(module)
        with global_generators_kept():
            return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package or module.partition(".")[0], extra) from error


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Python's, numpy's and torch's generators are afterwards as if nothing had been drawn."""
    import numpy as np  # here, since the command line begins with this module and must not wait for torch
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002
        torch.set_rng_state(states[2])
