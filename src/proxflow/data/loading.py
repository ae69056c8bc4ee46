"""From a name or a path to a data set, by the reader that a file belongs to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from proxflow.data.arrays import read_npy, read_npz, read_pt
from proxflow.data.assembly import assembled
from proxflow.data.built_in import BUILT_IN
from proxflow.data.columns import columns_given
from proxflow.data.dataset import Dataset
from proxflow.data.delimited import DELIMITED
from proxflow.data.images import read_images
from proxflow.data.reading import Raw, Request, reading
from proxflow.data.single_cell import read_h5ad
from proxflow.data.standardisation import Kind, checked_kind
from proxflow.data.tables import OF_TABLES, parquet_files, read_parquet, read_text

__all__ = ["READERS", "load", "read_file"]


@dataclass(frozen=True)
class _Reader:
    read: Callable[[Path, Request], Raw]
    uses: frozenset[str] = frozenset()


_OF_PARQUET = OF_TABLES | {"size", "frames"}  # of those with images

READERS = {
    ".npy": _Reader(read_npy),
    ".npz": _Reader(read_npz, frozenset({"array", "label"})),
    ".pt": _Reader(read_pt, frozenset({"array", "label"})),
    **{suffix: _Reader(read_text, OF_TABLES | {"sep", "decimal", "encoding", "skip_lines"}) for suffix in DELIMITED},
    ".parquet": _Reader(read_parquet, _OF_PARQUET),
    ".h5ad": _Reader(read_h5ad, frozenset({"label", "representation", "layer", "drop_missing"})),
}


def read_file(path: Path, request: Request) -> Raw:
    """Points and labels of a file, by its suffix."""
    reader = next((READERS[suffix] for suffix in READERS if path.name.lower().endswith(suffix)), None)
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
    standardise: Kind | bool | None = None,
    dtype: torch.dtype = torch.float32,
    columns: str | Sequence[str] | None = None,
    drop: str | Sequence[str] | None = None,
    drop_missing: bool = False,
    layer: str | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    encoding: str | None = None,
    skip_lines: int | None = None,
) -> Dataset:
    """A built-in data set by name, or a file or folder by path.

    Built in: the synthetic 8gaussians, circle, moons, scurve and swissroll; digits (1,797 images of 8 x 8); and
    fashion-mnist (the 60,000 training images of 28 x 28, from 0 black to 1 white), when its files are there.

    Files: .npy, .npz (``points`` and optional ``labels``, ``X`` and ``y`` or the like, or its only array), .pt (a
    tensor, a pair of points and labels, or a dict as of .npz; read without unpickling code), tables, .h5ad (``X``, a
    layer, or an entry of ``obsm``, dense or sparse, and a column of ``obs`` as labels), and a folder of images (its
    sub-folders are classes; 0 is black, 1 white). Images in arrays with channels last, (N, H, W, C), are made (N, C, H,
    W). Labels are numbers or text, or rows with a single 1. Text is numbered in alphabetical order, whatever ``n`` is,
    and its names are kept in ``label_names``. ``notes`` of the result says what was changed or left out.

    Tables are .csv and .tsv, gzipped or not, .parquet, and folders of .parquet files. Columns of numbers and vectors
    are coordinates; text, dates, row indices and columns that count the rows are left out, which ``notes`` and
    ``left_out`` of the result say. Encoded images in a column of .parquet are the points instead.

    Args:
        source: name or path.
        n: how many points. Synthetic sets are drawn with that many, 2000 if not given. Of real data, a random subset
            without replacement is taken, in the order of the data; all if not given.
        seed: seed of the synthetic sets and of the subset, from 0 to 2^32 - 1.
        label: the column of labels of tables and .h5ad; if not given, the one called "label" if there is one.
            The entry of labels of .npz and .pt; if not given, the one that goes with the points by its name.
        representation: the entry of ``obsm`` to read from .h5ad, such as "X_pca"; if not given, ``X``.
        data_dir: folder of fashion-mnist's train-images-idx3-ubyte and train-labels-idx1-ubyte, gzipped or not; if
            not given, where Debian's package dataset-fashion-mnist installs them.
        array: the entry of points of .npz and .pt, such as "x_train"; if not given, ``points`` or the only one.
        split: which of ``train``, ``test`` and the like to read of a folder of images or of .parquet files.
        size: of a folder of images: cut out the central square and resize it to this many pixels a side.
        frames: of files with several images (TIFF stacks, animations) in a folder: "first" or "all"; if not given,
            they are refused.
        standardise: what is done after the mean is subtracted: "global" divides by one scale, the root-mean-square
            standard deviation, so that distances keep their proportions; "columns" divides each coordinate by its own
            deviation, whatever its unit; "whiten" also takes the correlations away (in the directions that have
            variance); "none" leaves the data as they are, mean included. If not given, "columns" for tables and
            "global" for all else.
        dtype: dtype of the points.
        columns: the columns of a table that are coordinates, in this order; if not given, all of numbers.
        drop: columns of a table to leave out.
        drop_missing: leave out rows of tables and .h5ad in which a coordinate or the label is missing or infinite.
        layer: the entry of ``layers`` to read from .h5ad, such as "counts".
        sep: separator of .csv and .tsv, one character, "tab" or "space"; found from the file if not given.
        decimal: decimal mark of .csv and .tsv, "." or ","; found from the file if not given. If given, the other one
            may separate thousands.
        encoding: encoding of .csv and .tsv, such as "latin-1"; if not given, by the file's mark, else UTF-8.
        skip_lines: lines of .csv and .tsv before the table.

    Raises:
        ValueError: unknown name, unreadable file, empty or 1-D data, rows that are not finite, labels that are
            neither numbers nor text, more points than there are, or an argument that the source does not use.
        MissingExtraError: a reader's package is not installed.

    Warns:
        DataWarning: a column looks like one that is not meant to be a coordinate, or one that is left out looks like
            numbers; an array that by its name holds labels holds none; or one scale serves columns whose deviations
            differ more than tenfold.
    """
    given: object = source
    if not isinstance(given, str | Path):
        taker = "from_frame takes data frames" if hasattr(given, "columns") else "from_array takes arrays and tensors"
        raise ValueError(f"data.load reads names and files, got {type(given).__name__}; data.{taker}")
    if not str(source).strip():
        raise ValueError("data.load: the name is empty; give a data set, a file or a folder")
    kind = checked_kind("data.load", standardise)
    origin, path = str(source), Path(source).expanduser()
    request = Request(
        n,
        seed,
        label,
        representation,
        None if data_dir is None else Path(data_dir).expanduser(),
        array=array,
        split=split,
        size=size,
        frames=frames,
        layer=layer,
        columns=columns_given(columns),
        drop=columns_given(drop),
        drop_missing=drop_missing,
        sep=sep,
        decimal=decimal,
        encoding=encoding,
        skip_lines=skip_lines,
    )
    name, raw = _read(origin, path, request)
    return assembled(raw, request, name, origin, kind, dtype)


def _read(origin: str, path: Path, request: Request) -> tuple[str, Raw]:
    """The name of a data set, and all of it."""
    if origin in BUILT_IN:
        request.refuse_unused(origin, frozenset({"data_dir"} if origin == "fashion-mnist" else ()))
        return origin, BUILT_IN[origin](request)
    if path.is_dir() and parquet_files(path):
        request.refuse_unused(origin, _OF_PARQUET | {"split"})
        with reading(path):
            return path.resolve().name, read_parquet(path, request)
    if path.is_dir():
        request.refuse_unused(origin, frozenset({"split", "size", "frames"}))
        return path.resolve().name, read_images(path, request)
    if path.is_file():
        return _without_suffix(path), read_file(path, request)
    raise ValueError(
        f"no data set or file called {origin!r}; built-in: {', '.join(sorted(BUILT_IN))}; "
        f"files: {', '.join(READERS)}, or a folder of images or of .parquet files"
    )


def _without_suffix(path: Path) -> str:
    """A file's name without .csv.gz, which is one suffix."""
    suffix = next((suffix for suffix in DELIMITED if path.name.lower().endswith(suffix)), path.suffix)
    return path.name.removesuffix(path.name[len(path.name) - len(suffix) :])
