"""What readers share: what is asked for, what they give (points row by row, and labels), errors that name the file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from proxflow.checks import as_tensor, whole_number
from proxflow.data.standardisation import Kind
from proxflow.errors import MissingExtraError, counted

__all__ = ["Array", "Raw", "Request", "array_of_tensor", "fits_in_memory", "listed", "reading"]

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Raw:
    """``count`` points, of which ``take(rows)`` gives some as (len(rows), *event), and a label for each or None.

    Points are taken and not given, so that a subset of a large set is all that is decoded or made dense.
    ``label_names`` name the labels 0, 1, ...; labels of text name themselves. ``notes`` are lines that tell the user
    what was taken, changed or left out. ``columns`` are the names of the coordinates, ``left_out`` says why others are
    none, ``doubts`` are warnings about them, ``standardise`` is the standardisation for data of this kind, and
    ``own_units`` says that coordinates may have a unit each. ``notes_on_taken()`` are more notes, on the points that
    were taken last.
    """

    count: int
    take: Callable[[Array], Array]
    labels: Array | None = None
    label_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    columns: tuple[str, ...] | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)
    doubts: tuple[str, ...] = ()
    standardise: Kind = "global"
    own_units: bool = True
    notes_on_taken: Callable[[], Sequence[str]] = tuple

    @classmethod
    def of(cls, points: Array, labels: Array | None = None, notes: tuple[str, ...] = ()) -> Raw:
        """All points (N, *event) in memory.

        Raises:
            ValueError: no array of points.
        """
        if points.ndim < 2 or points.size == 0:
            raise ValueError(f"expected a non-empty array (N, *event), got shape {points.shape}")
        return cls(len(points), lambda rows: points[rows], labels, notes=notes)


_LONGEST = 500  # characters of a message: some libraries quote the bytes of a damaged file

_MEANT_FOR = {
    "label": "tables, .h5ad, .npz and .pt files",
    "representation": ".h5ad files",
    "data_dir": "fashion-mnist",
    "layer": ".h5ad files",
    "columns": "tables",
    "drop": "tables",
    "drop_missing": "tables and .h5ad files",
    "sep": ".csv and .tsv files",
    "decimal": ".csv and .tsv files",
    "encoding": ".csv and .tsv files",
    "skip_lines": ".csv and .tsv files",
    "array": ".npz and .pt files",
    "split": "folders of images and of .parquet files",
    "size": "images in folders and in .parquet",
    "frames": "images in folders and in .parquet",
}


@dataclass(frozen=True)
class Request:
    """The arguments of ``load`` that readers see, checked."""

    n: int | None = None
    seed: int = 0
    label: str | None = None
    representation: str | None = None
    data_dir: Path | None = None
    layer: str | None = None
    columns: tuple[str, ...] | None = None
    drop: tuple[str, ...] | None = None
    drop_missing: bool = False
    sep: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    skip_lines: int | None = None
    array: str | None = None
    split: str | None = None
    size: int | None = None
    frames: Literal["first", "all"] | None = None

    def __post_init__(self) -> None:
        if self.n is not None and (whole_number(self.n) or 0) < 1:
            raise ValueError(f"data.load: n must be a positive integer, got {self.n!r}")
        seed = whole_number(self.seed)
        if seed is None or not 0 <= seed < 2**32:
            raise ValueError(f"data.load: seed must be from 0 to 2^32 - 1, got {self.seed!r}")
        if self.size is not None and (whole_number(self.size) or 0) < 1:
            raise ValueError(f"data.load: size must be a positive integer, in pixels, got {self.size!r}")
        if self.frames not in (None, "first", "all"):
            raise ValueError(f"data.load: frames must be 'first' or 'all', got {self.frames!r}")
        if self.decimal not in (None, ".", ","):
            raise ValueError(f"data.load: decimal must be '.' or ',', got {self.decimal!r}")
        skipped = 0 if self.skip_lines is None else whole_number(self.skip_lines)
        if skipped is None or skipped < 0:
            raise ValueError(f"data.load: skip_lines must be an integer of at least 0, got {self.skip_lines!r}")

    def rows(self, count: int, origin: str) -> Array:
        """The rows asked for out of ``count``, ascending: all of them, or ``n`` drawn without replacement."""
        if self.n is None or self.n == count:
            return np.arange(count)
        if self.n > count:
            raise ValueError(
                f"{origin} has {counted(count, 'point')}, {self.n:,} were asked for; ask for fewer, or leave n= "
                "(--points) out"
            )
        # Rows are drawn because files are often sorted by class, and kept in order because series are sorted by time.
        return np.sort(np.random.default_rng(self.seed).choice(count, int(self.n), replace=False, shuffle=False))

    def refuse_unused(self, origin: str, used: frozenset[str]) -> None:
        """Arguments that would change nothing are mistakes."""
        for name, purpose in _MEANT_FOR.items():
            if name not in used and getattr(self, name) not in (None, False):
                raise ValueError(
                    f"{origin}: {name}= (--{name.replace('_', '-')}) is for {purpose} and changes nothing here; "
                    "leave it out"
                )


def array_of_tensor(caller: str, name: str, tensor: Tensor) -> Array:
    """The numbers of a tensor of any layout, in float32 where numpy does not have their dtype.

    Raises:
        ValueError: a nested, quantised or complex tensor.
    """
    dense = as_tensor(caller, name, tensor if tensor.is_nested else tensor.detach().cpu().to_dense()).resolve_neg()
    known = not dense.is_floating_point() or dense.dtype in (torch.float16, torch.float32, torch.float64)
    array: Array = (dense if known else dense.float()).numpy()
    return array


def listed(names: Sequence[str], most: int = 12) -> str:
    """Names for a message, of many the first ones: "cat, dog, eel and 7 more"."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def fits_in_memory(numbers: int, otherwise: str) -> None:
    """Refuse what cannot be held as float64, before memory is asked for: a damaged header may claim any size.

    Raises:
        ValueError: more than this machine has.
    """
    if not hasattr(os, "sysconf"):  # Windows does not say
        return
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if 8 * numbers > memory:
        raise ValueError(
            f"{numbers:,} numbers of 8 bytes need {8e-9 * numbers:,.0f} GB, and this machine has {1e-9 * memory:,.0f} "
            f"GB of memory; {otherwise}"
        )


@contextmanager
def reading(place: Path | str) -> Iterator[None]:
    """Turn whatever a reader raises into a ValueError of one line that names the file, or the place in it.

    Readers raise errors of many libraries; whatever it was, the file could not be read.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except Exception as error:
        raise ValueError(f"{place} cannot be read ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        return kind
    said = lines[0] if kind == "ValueError" else f"{kind}: {lines[0]}"
    return said if len(said) <= _LONGEST else f"{said[:_LONGEST]}..."
