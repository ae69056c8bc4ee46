"""Tables: columns of numbers and one of labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.data.sources import POINTS, csv_file, raw, refusal, table


def test_a_table_without_column_names_keeps_its_first_row(tmp_path: Path) -> None:
    path = tmp_path / "bare.csv"
    np.savetxt(path, POINTS, delimiter=",", fmt="%.17g")
    assert np.array_equal(raw(path).points.numpy(), POINTS)


def test_a_first_line_that_may_be_names_or_numbers_is_refused(tmp_path: Path) -> None:
    assert "may be column names or numbers" in refusal(csv_file(tmp_path, "0,1\n2,3\n4,5\n"))


@pytest.mark.parametrize(
    ("cell", "why"), [("red", "text"), ("2020-01-01", "dates or times"), ("1;2", "text such as '1;2'"), ("", "empty")]
)
def test_columns_that_are_not_numeric_are_left_out_and_named(cell: str, why: str, tmp_path: Path) -> None:
    dataset = raw(csv_file(tmp_path, f"x,colour,z\n1,{cell},3\n4,{cell},6\n"))
    assert dataset.points.tolist() == [[1, 3], [4, 6]]
    assert dataset.columns == ("x", "z")
    assert dataset.left_out == {"colour": why}
    assert dataset.notes == (f"columns x, z; left out: colour ({why})",)


def test_an_empty_cell_is_named_and_its_row_left_out_on_request(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "x,y\n1,2\n3,\n5,6\n")
    message = refusal(path)
    assert "1 row holds NaN or inf, the first: [1] (no value in the column 'y')" in message
    assert "--drop-missing" in message
    dataset = raw(path, drop_missing=True)
    assert dataset.points.tolist() == [[1, 2], [5, 6]]
    assert dataset.notes[-1] == "1 row of 3 left out, with missing values"


def test_integer_and_boolean_columns_are_numbers(tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, "x,y\n1,true\n3,false\n")).points.tolist() == [[1, 1], [3, 0]]


def test_a_written_row_index_is_left_out(tmp_path: Path) -> None:
    assert raw(csv_file(tmp_path, ",x\n0,5.5\n1,6.5\n")).left_out == {"": "row index"}
    indexed = table().append_column("__index_level_0__", pa.array(range(6)))
    pyarrow.parquet.write_table(indexed, tmp_path / "indexed.parquet")
    dataset = raw(tmp_path / "indexed.parquet")
    assert dataset.left_out == {"__index_level_0__": "row index"}
    assert np.array_equal(dataset.points.numpy(), POINTS)


@pytest.mark.parametrize(
    "text", ["", "x,y\n", "label\n1\n2\n", "x,y\n1,2\n3\n"], ids=["nothing", "header", "labels", "ragged"]
)
def test_tables_without_points_are_refused(text: str, tmp_path: Path) -> None:
    assert "table.csv" in refusal(csv_file(tmp_path, text))
