"""Tables: text files, parquet files and folders of them, and data frames, by way of arrow."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from proxflow.data.columns import points_of_table, unique_names
from proxflow.data.delimited import read_delimited
from proxflow.data.image_columns import image_column, images_of_table
from proxflow.data.images import SPLITS
from proxflow.data.pixels import SUFFIXES
from proxflow.data.reading import Raw, Request, listed
from proxflow.errors import counted, optional_package

__all__ = ["OF_TABLES", "parquet_files", "read_frame", "read_parquet", "read_text"]

OF_TABLES = frozenset({"label", "columns", "drop", "drop_missing"})  # the arguments of a request that tables use
_SPLIT = re.compile(rf"({'|'.join(sorted(SPLITS))})(?![a-z])", re.IGNORECASE)  # at the start of a name


def read_text(path: Path, request: Request) -> Raw:
    """Columns of numbers of a text file, and one of labels."""
    found = read_delimited(path, request)
    return points_of_table(found.table, request, found.marks, found.doubts)


def read_parquet(path: Path, request: Request) -> Raw:
    """Columns of numbers of a parquet file, or of all those in a folder, or one of images; and one of labels."""
    if path.is_dir():
        left_out = _other_files(path)
        files = _of_split(path, parquet_files(path), request.split)
        raw = _points_or_images(_table_of_files(path, files), request, path)
        return replace(raw, notes=(*raw.notes, *left_out))
    with optional_package("pyarrow.parquet", "data").ParquetFile(path) as file:
        return _points_or_images(file.read(), request, path)


def _points_or_images(table: Any, request: Request, path: Path) -> Raw:
    images = image_column(table, request)
    if images is not None:
        return images_of_table(table, images, request, path)
    request.refuse_unused("its columns of numbers", OF_TABLES | {"split"})
    return points_of_table(table, request)


def parquet_files(folder: Path) -> list[Path]:
    """The parquet files in a folder and below, relative to it; none that begin with a dot or underscore, as logs do."""
    return [file for file in _visible(folder) if file.suffix.lower() == ".parquet"]


def _visible(folder: Path) -> list[Path]:
    found = (file.relative_to(folder) for file in sorted(folder.rglob("*")) if file.is_file())
    return [file for file in found if not any(part.startswith((".", "_")) for part in file.parts)]


def _other_files(folder: Path) -> list[str]:
    """A note on the files that are not read.

    Raises:
        ValueError: some of them are images, which may be the data that a table only describes.
    """
    others = [file.suffix.lower() or "no suffix" for file in _visible(folder) if file.suffix.lower() != ".parquet"]
    if not SUFFIXES.isdisjoint(others):
        raise ValueError("it holds .parquet files and images; name the file of the table, or move it from the images")
    return [f"left out {counted(len(others), 'other file')}: {listed(sorted(set(others)))}"] if others else []


def _of_split(folder: Path, files: list[Path], split: str | None) -> list[Path]:
    """The files of the split asked for; all if there is one at most.

    Raises:
        ValueError: there are several and none is chosen, or there is no such one.
    """
    belongs = {file: found[1].lower() for file in files for part in file.parts if (found := _SPLIT.match(part))}
    splits = sorted(set(belongs.values()))
    if split is None and len(splits) < 2:
        return files
    if split is None:
        raise ValueError(
            f"{listed(splits)} are splits of the data; choose one with split={splits[0]!r} (--split {splits[0]})"
        )
    if split not in splits:
        raise ValueError(f"it has no split {split!r}; it has {listed(splits) or 'none'}")
    return [file for file in files if belongs.get(file) == split]


def _table_of_files(folder: Path, files: list[Path]) -> Any:
    """The rows of all files, with every column that one of them has, and those that the names of folders tell."""
    data, systems = optional_package("pyarrow.dataset", "data"), optional_package("pyarrow.fs", "data")
    factory = data.FileSystemDatasetFactory(
        systems.SubTreeFileSystem(str(folder), systems.LocalFileSystem()),
        [file.as_posix() for file in files],
        data.ParquetFileFormat(),
        data.FileSystemFactoryOptions(partitioning=data.HivePartitioning.discover(infer_dictionary=True)),
    )
    return factory.finish(factory.inspect(promote_options="permissive", fragments=None)).to_table()


def read_frame(frame: Any, request: Request) -> Raw:
    """Columns of numbers of a data frame (pandas, polars, arrow), without its index, and one of labels.

    Raises:
        ValueError: no data frame, or one whose columns arrow cannot hold.
    """
    arrow = optional_package("pyarrow", "data")
    if type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        return points_of_table(_of_pandas(frame, request), request)
    if not hasattr(frame, "__arrow_c_stream__"):
        raise ValueError(f"it is no data frame but {type(frame).__name__}; from_array takes arrays and tensors")
    return points_of_table(arrow.table(frame), request)


def _of_pandas(frame: Any, request: Request) -> Any:
    """The frame as arrow has it, without its index; columns that are not used may hold anything, and are empty."""
    arrow = optional_package("pyarrow", "data")
    columns = {}
    for number, name in enumerate(unique_names([*map(str, frame.columns)])):
        asked = request.columns is None or name in (*request.columns, request.label or "label")
        used = asked and name not in (request.drop or ())
        columns[name] = _column(frame.iloc[:, number], name) if used else arrow.nulls(len(frame))
    return arrow.table(columns)


def _column(column: Any, name: str) -> Any:
    arrow = optional_package("pyarrow", "data")
    try:
        return arrow.array(column.sparse.to_dense() if hasattr(column, "sparse") else column, from_pandas=True)
    except (arrow.ArrowException, TypeError, OverflowError) as error:
        raise ValueError(
            f"the column {name!r} cannot be read ({str(error).splitlines()[0]}); convert it, or leave it out with "
            f"drop={name!r}"
        ) from error
