"""From a name or a path to a data set, by the reader that a file belongs to."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from proxflow.data.arrays import read_npy, read_npz, read_pt
from proxflow.data.built_in import BUILT_IN
from proxflow.data.dataset import Dataset
from proxflow.data.images import read_images
from proxflow.data.labels import numbered
from proxflow.data.reading import Array, Raw, Request, reading
from proxflow.data.single_cell import read_h5ad
from proxflow.data.standardisation import Standardisation, standardisation_of
from proxflow.data.tables import read_table
from proxflow.errors import counted

__all__ = ["READERS", "load", "read_file"]


@dataclass(frozen=True)
class _Reader:
    read: Callable[[Path, Request], Raw]
    uses: frozenset[str] = frozenset()


READERS = {
    ".npy": _Reader(read_npy),
    ".npz": _Reader(read_npz, frozenset({"array", "label"})),
    ".pt": _Reader(read_pt, frozenset({"array", "label"})),
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


def load(
    source: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    label: str | None = None,
    representation: str | None = None,
    data_dir: str | Path | None = None,
    array: str | None = None,
    split: str | None = None,
    size: int | None = None,
    frames: Literal["first", "all"] | None = None,
    standardise: bool = True,
    dtype: torch.dtype = torch.float32,
) -> Dataset:
    """A built-in data set by name, or a file or folder by path.

    Built in: the synthetic 8gaussians, circle, moons, scurve and swissroll; digits (1,797 images of 8 x 8); and
    fashion-mnist (the 60,000 training images of 28 x 28, from 0 black to 1 white), when its files are there.

    Files: .npy, .npz (``points`` and optional ``labels``, ``X`` and ``y`` or the like, or its only array), .pt (a
    tensor, a pair of points and labels, or a dict as of .npz; read without unpickling code), .csv and .parquet
    (numeric columns, and one of labels), .h5ad (``X`` or an entry of ``obsm``, dense or sparse, and a column of
    ``obs`` as labels), and a folder of images (its sub-folders are classes; 0 is black, 1 white). Images in arrays
    with channels last, (N, H, W, C), are made (N, C, H, W). Labels are whole numbers or text, or rows with a single 1.
    Text is numbered in alphabetical order, whatever ``n`` is, and its names are kept in ``label_names``. ``notes`` of
    the result says what was changed or left out.

    Args:
        source: name or path.
        n: how many points. Synthetic sets are drawn with that many, 2000 if not given. Of real data, a random subset
            without replacement is taken, in the order of the data; all if not given.
        seed: seed of the synthetic sets and of the subset, from 0 to 2^32 - 1.
        label: the column of labels of .csv, .parquet and .h5ad; if not given, the one called "label" if there is one.
            The entry of labels of .npz and .pt; if not given, the one that goes with the points by its name.
        representation: the entry of ``obsm`` to read from .h5ad, such as "X_pca"; if not given, ``X``.
        data_dir: folder of fashion-mnist's train-images-idx3-ubyte and train-labels-idx1-ubyte, gzipped or not; if
            not given, where Debian's package dataset-fashion-mnist installs them.
        array: the entry of points of .npz and .pt, such as "x_train"; if not given, ``points`` or the only one.
        split: the sub-folder to read of a folder of images that has ``train``, ``test`` and the like.
        size: of a folder of images: cut out the central square and resize it to this many pixels a side.
        frames: of files with several images (TIFF stacks, animations) in a folder: "first" or "all"; if not given,
            they are refused.
        standardise: subtract the mean and divide by the root-mean-square standard deviation.
        dtype: dtype of the points.

    Raises:
        ValueError: unknown name, unreadable file, empty or 1-D data, rows that are not finite, labels that are
            neither whole numbers nor text, more points than there are, or an argument that the source does not use.
        MissingExtraError: a reader's package is not installed.
    """
    origin, path = str(source), Path(source).expanduser()
    folder = None if data_dir is None else Path(data_dir).expanduser()
    request = Request(n, seed, label, representation, folder, array, split, size, frames)
    name, raw = _read(origin, path, request)
    rows = request.rows(raw.count, origin)
    points = _checked_points(raw.take(rows), rows, origin)
    standardisation = standardisation_of(points) if standardise else Standardisation(torch.zeros_like(points[0]), 1.0)
    final = standardisation.apply(points).to(dtype)
    if not bool(torch.isfinite(final).all()):
        raise ValueError(
            f"{origin}: the values are too large for {dtype} (up to {points.abs().max():.3g}); rescale them"
        )
    labels, label_names = _labels(raw, rows, origin)
    return Dataset(final, labels, name, standardisation, _content_hash(points), label_names, raw.notes)


def _read(origin: str, path: Path, request: Request) -> tuple[str, Raw]:
    """The name of a data set, and all of it."""
    if origin in BUILT_IN:
        request.refuse_unused(origin, frozenset({"data_dir"} if origin == "fashion-mnist" else ()))
        return origin, BUILT_IN[origin](request)
    if path.is_dir():
        request.refuse_unused(origin, frozenset({"split", "size", "frames"}))
        return path.resolve().name, read_images(path, request)
    if path.is_file():
        return path.stem, read_file(path, request)
    raise ValueError(
        f"no data set or file called {origin!r}; built-in: {', '.join(sorted(BUILT_IN))}; "
        f"files: {', '.join(READERS)}, or a folder of images"
    )


def _checked_points(points: Array, rows: Array, origin: str) -> Tensor:
    if points.dtype.kind not in "fiub":
        raise ValueError(f"{origin}: expected numbers, got an array of {points.dtype}")
    checked = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
    bad = rows[~torch.isfinite(checked.flatten(1)).all(1).numpy()]
    if len(bad):
        found = counted(len(bad), "row holds", "rows hold")
        raise ValueError(f"{origin}: {found} NaN or inf, the first: {bad[:5].tolist()}; drop or fill them")
    return checked


def _labels(raw: Raw, rows: Array, origin: str) -> tuple[Tensor | None, tuple[str, ...] | None]:
    """Labels of the chosen rows; numbered before they are chosen, so that a class keeps its number."""
    if raw.labels is None:
        return None, None
    numbers, names = numbered(raw.labels, raw.count, origin)
    return numbers[torch.from_numpy(rows)], raw.label_names or names


def _content_hash(points: Tensor) -> str:
    content = hashlib.sha256(repr(tuple(points.shape)).encode())
    content.update(points.numpy().data)
    return content.hexdigest()
