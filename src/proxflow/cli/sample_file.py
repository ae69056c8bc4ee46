"""The file that samples are written to, where it is not that of the run folder."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from proxflow.cli.options import free_file
from proxflow.errors import optional_package

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SampleFile", "npy"]

_SUFFIXES = (".npy", ".csv", ".parquet")


@dataclass(frozen=True)
class SampleFile:
    """An array (.npy) or a table with the names of the columns (.csv, .parquet)."""

    path: Path

    @classmethod
    def claimed(cls, path: Path, event_shape: tuple[int, ...], *, overwrite: bool) -> SampleFile:
        """The file, refused before anything is drawn if it cannot be written.

        Raises:
            ValueError: an unknown suffix, a file that is there, or a table of points that are no vectors.
        """
        path = path.expanduser()
        suffix = path.suffix.lower()
        if suffix not in _SUFFIXES:
            raise ValueError(
                f"--out {path}: samples are written as {', '.join(_SUFFIXES)}; end its name in one of them"
            )
        free_file(path, overwrite=overwrite)
        if suffix != ".npy" and len(event_shape) != 1:
            shape = " x ".join(map(str, event_shape))
            raise ValueError(f"--out {path}: points of {shape} are no rows of a table; give a .npy file")
        return cls(path)

    def write(self, samples: Tensor, columns: tuple[str, ...] | None) -> None:
        """Write samples (B, *event); columns without names are x0, x1, ..."""
        from proxflow import storage

        storage.write_atomically(self.path, self._content(samples, columns))

    def _content(self, samples: Tensor, columns: tuple[str, ...] | None) -> bytes:
        if self.path.suffix.lower() == ".npy":
            return npy(samples)
        arrow = optional_package("pyarrow", "data")
        names = columns or tuple(f"x{i}" for i in range(math.prod(samples.shape[1:])))
        table = arrow.Table.from_arrays([arrow.array(column) for column in samples.numpy().T], names=list(names))
        buffer = io.BytesIO()
        if self.path.suffix.lower() == ".csv":
            optional_package("pyarrow.csv", "data").write_csv(table, buffer)
        else:
            optional_package("pyarrow.parquet", "data").write_table(table, buffer)
        return buffer.getvalue()


def npy(samples: Tensor) -> bytes:
    """What numpy.save writes of samples."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, samples.numpy())
    return buffer.getvalue()
