"""Which reader a file belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from proxflow.data.arrays import read_npy, read_npz, read_pt
from proxflow.data.raw import Raw
from proxflow.data.reading import reading
from proxflow.data.request import Request
from proxflow.data.single_cell import read_h5ad
from proxflow.data.tables import read_table

__all__ = ["READERS", "read_file"]


@dataclass(frozen=True)
class _Reader:
    read: Callable[[Path, Request], Raw]
    uses: frozenset[str] = frozenset()


READERS = {
    ".npy": _Reader(read_npy),
    ".npz": _Reader(read_npz),
    ".pt": _Reader(read_pt),
    ".csv": _Reader(read_table, frozenset({"label"})),
    ".parquet": _Reader(read_table, frozenset({"label"})),
    ".h5ad": _Reader(read_h5ad, frozenset({"label", "representation"})),
}


def read_file(path: Path, request: Request) -> Raw:
    """Points and labels of a file, by its suffix."""
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: unknown file type {path.suffix!r}; known: {', '.join(READERS)}")
    request.refuse_unused(str(path), reader.uses)
    with reading(path):
        return reader.read(path, request)
