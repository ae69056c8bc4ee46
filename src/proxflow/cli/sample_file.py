"""The file that samples are written to, where it is not that of the run folder."""

from __future__ import annotations

import io
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
    def claimed(
        cls, path: Path, event_shape: tuple[int, ...], *, overwrite: bool, labelled: bool = False
    ) -> SampleFile:
        """The file, refused before anything is drawn if it, or that of labels beside it, cannot be written.

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
        file = cls(path)
        if labelled and file._is_array:
            free_file(file._beside, overwrite=overwrite)
        return file

    def write(self, samples: Tensor, columns: tuple[str, ...] | None, labels: tuple[str, ...] | None) -> list[Path]:
        """Write samples (B, *event) and what class each is of; returns where they are.

        Columns without names are x0, x1, ... Labels are the column ``label`` of a table, and beside ``name.npy`` the
        file ``name-labels.npy``.
        """
        from proxflow import storage

        storage.write_atomically(self.path, self._content(samples, columns, labels))
        if labels is None or not self._is_array:
            return [self.path]
        storage.write_atomically(self._beside, npy(labels))
        return [self.path, self._beside]

    @property
    def _is_array(self) -> bool:
        return self.path.suffix.lower() == ".npy"

    @property
    def _beside(self) -> Path:
        return self.path.with_name(f"{self.path.stem}-labels.npy")

    def _content(self, samples: Tensor, columns: tuple[str, ...] | None, labels: tuple[str, ...] | None) -> bytes:
        if self._is_array:
            return npy(samples)
        arrow = optional_package("pyarrow", "data")
        names = [*(columns or (f"x{i}" for i in range(samples.shape[1])))]
        values = [arrow.array(column) for column in samples.numpy().T]
        if labels is not None:
            names.append("label" if "label" not in names else "class")
            values.append(arrow.array(labels))
        table = arrow.table(values, names)
        buffer = io.BytesIO()
        if self.path.suffix.lower() == ".csv":
            optional_package("pyarrow.csv", "data").write_csv(table, buffer)
        else:
            optional_package("pyarrow.parquet", "data").write_table(table, buffer)
        return buffer.getvalue()


def npy(values: Tensor | tuple[str, ...]) -> bytes:
    """What numpy.save writes of samples, or of the names of their classes."""
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, np.array(values) if isinstance(values, tuple) else values.numpy())
    return buffer.getvalue()
