"""What benchmarks/gpu.py measures with: a clock that waits for the device, and a report that no error takes away."""

from __future__ import annotations

import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

import proxflow as pf
from proxflow.semidiscrete.fit_estimate import peak_memory

__all__ = [
    "Deadline",
    "OutOfTime",
    "Report",
    "Stages",
    "Table",
    "Timing",
    "float32_products",
    "forget_peak",
    "machine",
    "peak_bytes",
    "synchronise",
    "timed",
]


class OutOfTime(Exception):
    """The budget was used up before a measurement began."""


class Deadline:
    """A moment that measurements are to end by.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._end = time.perf_counter() + seconds

    @property
    def left(self) -> float:
        """Seconds left; negative where it is over."""
        return self._end - time.perf_counter()

    def require(self) -> None:
        """Nothing begins after it.

        Raises:
            OutOfTime: it is over.
        """
        if self.left <= 0:
            raise OutOfTime("the budget was used up")


@dataclass(frozen=True)
class Timing:
    """Median seconds of ``repeats`` calls."""

    seconds: float
    repeats: int


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def timed(call: Callable[[], object], device: torch.device, repeats: int, deadline: Deadline) -> Timing:
    """Median of up to ``repeats`` calls after one that is not counted; of fewer, at least one, where time runs out.

    Raises:
        OutOfTime: the deadline was over before.
    """
    deadline.require()
    call()
    synchronise(device)
    seconds: list[float] = []
    while len(seconds) < repeats and (not seconds or deadline.left > 0):
        began = time.perf_counter()
        call()
        synchronise(device)
        seconds.append(time.perf_counter() - began)
    return Timing(statistics.median(seconds), len(seconds))


class Stages:
    """Seconds of the stages of a program, by name; each ends where the next one begins."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[str, float] = {}
        self._device = device
        self._began = time.perf_counter()

    def end(self, name: str) -> None:
        """What was done since the last call was part of this stage."""
        synchronise(self._device)
        now = time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._began
        self._began = now

    @property
    def total(self) -> float:
        """Of all stages."""
        return sum(self.seconds.values())


class Table:
    """A Markdown table that grows row by row; numbers are shown to three digits."""

    def __init__(self, *heads: str) -> None:
        self._heads = heads
        self._rows: list[Sequence[object]] = []
        print("  " + " | ".join(heads), flush=True)

    def add(self, *cells: object) -> None:
        """One more row."""
        self._rows.append(cells)
        print("  " + " | ".join(map(_shown, cells)), flush=True)

    def __str__(self) -> str:
        if not self._rows:
            return ""
        rows = [self._heads, ["---"] * len(self._heads), *self._rows]
        return "\n".join(f"| {' | '.join(map(_shown, row))} |" for row in rows)


def _shown(cell: object) -> str:
    if cell is None:
        return "not measured"
    if isinstance(cell, int):
        return f"{cell:,}"
    if isinstance(cell, float):
        return f"{cell:,.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
    return str(cell)


class Report:
    """The file, written anew after each measurement, so that nothing that comes later can lose it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._parts: list[object] = []

    def add(self, *lines: str) -> None:
        """Lines of text."""
        self._parts += lines
        print(*lines, sep="\n", flush=True)
        self._write()

    def table(self, *heads: str) -> Table:
        """A table in this place, that may still grow."""
        table = Table(*heads)
        self._parts.append(table)
        return table

    def attempt(self, what: str, measure: Callable[[], object]) -> None:
        """Measure something; where that fails, a line says how, and the rest goes on."""
        try:
            measure()
        except OutOfTime as reason:
            self.add(f"- {what}: left out, {reason}")
        except Exception as error:  # a full memory, a kernel that does not compile
            message = str(error).strip().split("\n")[0][:300]
            self.add(f"- {what}: failed with `{type(error).__name__}: {message}`")
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._write()

    def _write(self) -> None:
        self._path.write_text("\n".join(map(str, self._parts)))


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Products of float32 matrices in this precision of torch's: "highest" is float32, "high" takes TF32."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def machine(device: torch.device) -> str:
    """Names and versions, as a Markdown list."""
    facts = {
        "device": platform.processor() or platform.machine(),
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "Triton": _triton_version(),
        "proxflow": pf.__version__,
    }
    if device.type == "cuda":
        known = torch.cuda.get_device_properties(device)
        size = f"{known.total_memory / 2**30:.0f} GiB, {known.multi_processor_count} multiprocessors"
        facts |= {"device": f"{known.name}, {size}", "driver": _driver_version(), "CUDA": str(torch.version.cuda)}
    return "".join(f"- {name}: {value}\n" for name, value in facts.items())


def _triton_version() -> str:
    try:
        import triton
    except ImportError:
        return "not installed"
    return str(triton.__version__)


def _driver_version() -> str:
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        printed = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return printed.split("\n")[0]


def forget_peak(device: torch.device) -> None:
    """Begin to watch the memory of a GPU anew."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_bytes(device: torch.device) -> int:
    """The most memory taken at once: of a GPU by tensors since ``forget_peak``, else by the process."""
    return peak_memory(device) or 0
