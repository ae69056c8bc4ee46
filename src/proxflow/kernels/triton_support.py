"""Where Triton's kernels run, and what happens where they turn out not to."""

from __future__ import annotations

import functools
import importlib.util
import subprocess
import warnings

import torch

from proxflow.errors import in_a_line

__all__ = ["has_kernels", "without_kernels"]

_SAID_WITHOUT_A_CLASS = ("C compiler", "libcuda", "ptxas", "kernel image")
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


def without_kernels(device: torch.device, error: Exception) -> None:
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
        f"searches on {device} are products in blocks, which take several times as long, since Triton could not "
        f"compile their kernels: {in_a_line(error)}",
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
