"""Labels: whole numbers and text, and what is neither."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray

import proxflow as pf
from tests.data.sources import LABELS, POINTS, WRITERS, cells, csv_file, raw, refusal, table


def test_text_labels_are_numbered_in_alphabetical_order(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "x,label\n1,dog\n2,cat\n3,eel\n4,cat\n")
    assert raw(path).labels.tolist() == [1, 0, 2, 0]
    assert raw(path).label_names == ("cat", "dog", "eel")
    assert raw(path).class_counts == {"cat": 2, "dog": 1, "eel": 1}
    np.savez(tmp_path / "x.npz", points=POINTS, labels=np.array(list("bacabb")))
    assert raw(tmp_path / "x.npz").labels.tolist() == [1, 0, 2, 0, 1, 1]


@pytest.mark.parametrize("labels", [LABELS.astype(np.uint8), LABELS.astype(np.float32), LABELS.astype(np.int32)])
def test_whole_numbers_of_any_dtype_are_labels(labels: NDArray[Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", points=POINTS, labels=labels)
    assert raw(tmp_path / "x.npz").labels.tolist() == LABELS.tolist()
    assert raw(tmp_path / "x.npz").labels.dtype == torch.int64
    assert raw(tmp_path / "x.npz").label_names is None
    assert raw(tmp_path / "x.npz").class_counts == {"0": 2, "1": 2, "2": 2}


def test_labels_that_are_not_whole_stay_numbers(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", points=POINTS, labels=[0, 7.5, 7.5, 14, 0, 10.25])
    dataset = raw(tmp_path / "x.npz")
    assert dataset.labels.dtype == torch.float64
    assert dataset.labels.tolist() == [0, 7.5, 7.5, 14, 0, 10.25]
    assert dataset.class_counts == {"0": 2, "7.5": 2, "10.25": 1, "14": 1}


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_labels_that_are_not_finite_are_named(bad: float, tmp_path: Path) -> None:
    labels = LABELS.astype(float)
    labels[3] = bad
    np.savez(tmp_path / "x.npz", points=POINTS, labels=labels)
    assert "row 3" in refusal(tmp_path / "x.npz")


def test_a_missing_label_is_refused(tmp_path: Path) -> None:
    assert "labels must be numbers or text; row 1" in refusal(csv_file(tmp_path, "x,label\n1,4\n2,\n3,1\n"))


@pytest.mark.parametrize("text", ["nan", "NA", " n/a ", "<NA>", "?"])
def test_text_that_says_that_a_label_is_missing_is_no_class(text: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", points=POINTS, labels=np.array(["a", "b", text, "a", "b", "a"]))
    assert "row 2 has the label" in refusal(tmp_path / "x.npz")


def test_a_class_called_na_is_taken_for_missing_and_said(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "a,label\n1,NA\n2,US\n3,#N/A\n4,DE\n5,\n")
    message = refusal(path)
    assert "row 0 has the label 'NA', which is read as missing" in message
    assert "drop_missing=True (--drop-missing)" in message
    dataset = raw(path, drop_missing=True)
    assert dataset.class_counts == {"DE": 1, "US": 1}
    assert dataset.notes[1:] == (
        "labels '#N/A', 'NA' were taken for missing",
        "3 rows of 5 left out, with missing values",
    )


def test_labels_with_leading_zeros_are_text(tmp_path: Path) -> None:
    dataset = raw(csv_file(tmp_path, "a,b,label\n1,2,01\n2,5,1\n3,3,10\n4,4,\n"), drop_missing=True)
    assert dataset.class_counts == {"01": 1, "1": 1, "10": 1}
    dataset = raw(csv_file(tmp_path, "label,a\n" + "7,1\n" * 200 + "007,2\n"))
    assert dataset.class_counts == {"007": 1, "7": 200}
    assert raw(csv_file(tmp_path, "zip;a\n01234;0,5\n99;1,5\n"), label="zip").label_names == ("01234", "99")


@pytest.mark.parametrize("labels", [LABELS[:5], LABELS[:, None][:5], np.stack([LABELS] * 2, axis=1), np.array(3)])
def test_labels_of_the_wrong_shape_are_refused(labels: NDArray[Any], tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", points=POINTS, labels=labels)
    assert "6 points need as many labels" in refusal(tmp_path / "x.npz")


def test_without_labels_there_are_no_classes(tmp_path: Path) -> None:
    dataset = raw(csv_file(tmp_path, "x\n1\n2\n"))
    assert (dataset.labels, dataset.label_names, dataset.class_counts) == (None, None, None)


COLUMNS: dict[str, tuple[Any, list[int], tuple[str, ...] | None]] = {
    "text": (list("bacabb"), [1, 0, 2, 0, 1, 1], ("a", "b", "c")),
    "categories": (pd.Categorical(list("bacabb"), categories=list("zcba")), [1, 0, 2, 0, 1, 1], ("a", "b", "c")),
    "numbers as categories": (pd.Categorical([30, 10, 30, 10, 20, 20]), [30, 10, 30, 10, 20, 20], None),
    "numbers as text": (["10", "9", "9", "10", "1", "1"], [1, 2, 2, 1, 0, 0], ("1", "10", "9")),
    "nullable numbers": (pd.array([1, 2, 3, 1, 2, 3], dtype="Int64"), [1, 2, 3, 1, 2, 3], None),
    "bytes": ([b"c", b"a", b"b"] * 2, [2, 0, 1] * 2, ("a", "b", "c")),
    "yes or no": ([True, False, True, True, False, False], [1, 0, 1, 1, 0, 0], None),
}


def write_column(path: Path, name: str, column: Any) -> Path:
    """A file with a column of any type beside the points."""
    if path.suffix == ".h5ad":
        cells(**{name: column}).write_h5ad(path)
    else:
        pyarrow.parquet.write_table(table().append_column(name, pa.array(column)), path)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".h5ad"])
@pytest.mark.parametrize(("column", "numbers", "names"), COLUMNS.values(), ids=COLUMNS)
def test_columns_of_every_type_are_labels(
    column: Any, numbers: list[int], names: tuple[str, ...] | None, suffix: str, tmp_path: Path
) -> None:
    dataset = raw(write_column(tmp_path / f"x{suffix}", "kind", column), label="kind")
    assert dataset.labels.tolist() == numbers
    assert dataset.label_names == names
    assert np.array_equal(dataset.points.numpy(), POINTS)


@pytest.mark.parametrize("suffix", [".parquet", ".h5ad"])
@pytest.mark.parametrize(
    "column",
    [
        ["a", "b", "a", None, "b", "b"],
        pd.Categorical(["a", "b", "a", None, "b", "b"]),
        pd.array([1, 2, 3, None, 5, 6], dtype="Int64"),
        ["a", "b", "a", "", "b", "b"],
    ],
    ids=["text", "categories", "numbers", "empty text"],
)
def test_the_row_of_a_missing_or_broken_label_is_named(column: Any, suffix: str, tmp_path: Path) -> None:
    path = write_column(tmp_path / f"x{suffix}", "kind", column)
    message = refusal(path, label="kind")
    assert str(path) in message
    assert "row 3" in message


def test_labels_of_dates_and_lists_are_refused(tmp_path: Path) -> None:
    for column in (np.array(["2020-01-01"] * 6, dtype="M8[s]"), [[1, 2]] * 6):
        path = write_column(tmp_path / "x.parquet", "kind", column)
        assert "labels must be numbers or text" in refusal(path, label="kind")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".h5ad"])
def test_a_column_that_is_not_there_lists_those_that_are(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"x{suffix}"
    WRITERS[suffix](path)
    message = refusal(path, label="kind")
    assert "there is no column 'kind'; columns: " in message
    assert message.endswith("label)")


def test_another_column_than_label_leaves_label_to_the_points(tmp_path: Path) -> None:
    with pytest.warns(pf.DataWarning, match="the column 'label' is a coordinate but"):
        dataset = raw(csv_file(tmp_path, "x,label,kind\n1,5,b\n2,6,a\n"), label="kind")
    assert dataset.points.tolist() == [[1, 5], [2, 6]]
    assert dataset.labels.tolist() == [1, 0]


def test_classes_are_numbered_alike_in_a_subset(tmp_path: Path) -> None:
    path = csv_file(tmp_path, "x,label\n" + "".join(f"{i},{'abcd'[i % 4]}\n" for i in range(40)))
    dataset = raw(path, n=3)
    assert dataset.label_names == tuple("abcd")
    assert dataset.labels.tolist() == [int(x) % 4 for x in dataset.points[:, 0]]
    assert sum(dataset.class_counts.values()) == 3
    assert list(dataset.class_counts) == list("abcd")
