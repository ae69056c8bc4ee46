"""Where Triton's kernels run, on how many programs, and what happens where they turn out not to."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from proxflow.errors import in_a_line

__all__ = ["by_kernels", "has_kernels", "processors", "shares", "with_close_columns"]

T = TypeVar("T")

_SAID_WITHOUT_A_CLASS = ("C compiler", "libcuda", "ptxas", "kernel image")
_WAVES = 8  # of programs on all multiprocessors, at most
_WITHOUT: set[torch.device] = set()
"""GPUs that kernels did not compile for."""


def has_kernels(device: torch.device) -> bool:
    """Whether Triton is installed, and the device is a GPU of NVIDIA's that is of 2020 (Ampere) or later."""
    return _should_have(device) and device not in _WITHOUT


@functools.cache
def _should_have(device: torch.device) -> bool:
    if device.type != "cuda" or importlib.util.find_spec("triton") is None:
        return False
    return torch.version.hip is None and torch.cuda.get_device_capability(device) >= (8, 0)


def by_kernels(device: torch.device, compute: Callable[[], T | None]) -> T | None:
    """What kernels compute; None where they leave that to products, and where they do not compile.

    Raises:
        Exception: theirs, where it does not say that kernels cannot be compiled here.
    """
    try:
        return compute()
    except Exception as error:
        _without_kernels(device, error)
        return None


def processors(device: torch.device) -> int:
    """Multiprocessors of a GPU; 1 of a CPU, where Triton's interpreter runs."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 1


@functools.cache
def shares(tiles: int, steps: int, processors: int) -> int:
    """Parts of so many steps, one after another for each tile, whose programs leave few multiprocessors idle."""

    def busy(shares: int) -> float:
        programs = tiles * shares
        return programs / (-(-programs // processors) * processors)

    return max(range(1, max(1, min(steps, _WAVES * processors // tiles)) + 1), key=busy)


def with_close_columns(values: Tensor) -> Tensor:
    """Rows whose numbers lie one after another; a copy of them where they do not."""
    return values if values.stride(1) == 1 else values.contiguous()


def _without_kernels(device: torch.device, error: Exception) -> None:
    """Do without kernels on a device from now on, and warn of it, where this error says that none can be compiled.

    Triton compiles for the GPU, and with a compiler of C and Python's headers what launches a kernel; it keeps both in
    a folder. An older Triton lacks what the kernels import.

    Raises:
        Exception: the error, where it says something else.
    """
    if not _is_of_triton(error):
        raise error
    _WITHOUT.add(device)
    warnings.warn(
        f"searches and sums on {device} are products in blocks, which take several times as long, since Triton could "
        f"not compile their kernels: {in_a_line(error)}",
        RuntimeWarning,
        stacklevel=2,
    )


def _is_of_triton(error: Exception) -> bool:
    if isinstance(error, (RuntimeError, AssertionError)):
        return any(words in str(error) for words in _SAID_WITHOUT_A_CLASS)
    try:
        from triton.errors import TritonError
    except ImportError:
        return True
    return isinstance(error, (TritonError, subprocess.CalledProcessError, OSError, ImportError))
