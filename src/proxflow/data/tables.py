"""Tables: text files, parquet files and folders of them, and data frames, by way of arrow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxflow.data.columns import points_of_table
from proxflow.data.delimited import read_delimited
from proxflow.data.image_columns import image_column, images_of_table
from proxflow.data.reading import Raw, Request
from proxflow.errors import optional_package

__all__ = ["OF_TABLES", "holds_parquet", "read_frame", "read_parquet", "read_text"]

OF_TABLES = frozenset({"label", "columns", "drop", "drop_missing"})  # the arguments of a request that tables use


def read_text(path: Path, request: Request) -> Raw:
    """Columns of numbers of a text file, and one of labels."""
    found = read_delimited(path, request)
    return points_of_table(found.table, request, found.marks, found.doubts)


def read_parquet(path: Path, request: Request) -> Raw:
    """Columns of numbers of a parquet file, or of all those in a folder, or one of images; and one of labels."""
    table = optional_package("pyarrow.parquet", "data").read_table(path)
    images = image_column(table, request)
    if images is not None:
        return images_of_table(table, images, request, path)
    request.refuse_unused("its columns of numbers", OF_TABLES)
    return points_of_table(table, request)


def holds_parquet(folder: Path) -> bool:
    """Whether a folder is a data set of parquet files."""
    return any(folder.rglob("*.parquet"))


def read_frame(frame: Any, request: Request) -> Raw:
    """Columns of numbers of a data frame (pandas, polars, arrow), without its index, and one of labels.

    Raises:
        ValueError: no data frame, or one whose columns arrow cannot hold.
    """
    arrow = optional_package("pyarrow", "data")
    if type(frame).__module__.partition(".")[0] == "pandas" and hasattr(frame, "columns"):
        named = frame.rename(columns=str)
        try:
            table = arrow.Table.from_pandas(named, preserve_index=False)
        except arrow.ArrowException as error:
            raise ValueError(f"a column mixes types ({str(error).splitlines()[0]}); convert it or drop it") from error
        return points_of_table(table, request)
    if not hasattr(frame, "__arrow_c_stream__"):
        raise ValueError(f"it is no data frame but {type(frame).__name__}; from_array takes arrays and tensors")
    return points_of_table(arrow.table(frame), request)
