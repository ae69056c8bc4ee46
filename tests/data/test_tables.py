"""Tables: columns of numbers and one of labels."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.data.sources import POINTS, csv_file, raw, refusal, table


def test_a_table_without_column_names_keeps_its_first_row(tmp_path):
    path = tmp_path / "bare.csv"
    np.savetxt(path, POINTS, delimiter=",", fmt="%.17g")
    assert np.array_equal(raw(path).points.numpy(), POINTS)


def test_a_first_line_that_may_be_names_or_numbers_is_refused(tmp_path):
    assert "may be column names or numbers" in refusal(csv_file(tmp_path, "0,1\n2,3\n4,5\n"))


@pytest.mark.parametrize("cell", ["red", "2020-01-01", "1;2"])
def test_columns_that_are_not_numeric_are_named(cell, tmp_path):
    message = refusal(csv_file(tmp_path, f"x,colour,z\n1,{cell},3\n4,{cell},6\n"))
    assert "'colour'" in message
    assert "table.csv" in message
    assert "'x'" not in message


def test_an_empty_cell_is_a_row_that_is_not_finite(tmp_path):
    assert "1 row holds NaN or inf, the first: [1]" in refusal(csv_file(tmp_path, "x,y\n1,2\n3,\n5,6\n"))


def test_integer_and_boolean_columns_are_numbers(tmp_path):
    assert raw(csv_file(tmp_path, "x,y\n1,true\n3,false\n")).points.tolist() == [[1, 1], [3, 0]]


def test_a_written_row_index_is_refused(tmp_path):
    assert "row index" in refusal(csv_file(tmp_path, ",x\n0,5.5\n1,6.5\n"))
    indexed = table().append_column("__index_level_0__", pa.array(range(6)))
    pyarrow.parquet.write_table(indexed, tmp_path / "indexed.parquet")
    assert "row index" in refusal(tmp_path / "indexed.parquet")


@pytest.mark.parametrize(
    "text", ["", "x,y\n", "label\n1\n2\n", "x,y\n1,2\n3\n"], ids=["nothing", "header", "labels", "ragged"]
)
def test_tables_without_points_are_refused(text, tmp_path):
    assert "table.csv" in refusal(csv_file(tmp_path, text))
