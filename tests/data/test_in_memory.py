"""Data sets of arrays and tensors in memory: what their numbers and labels may be."""

from __future__ import annotations

import datetime
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch

import proxflow as pf
from tests.data.sources import POINTS


def _quantised() -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.quint8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.ma.masked_greater(POINTS, 10), "masked"),
        (_quantised(), "dequantize"),
        (torch.eye(2).to(torch.complex64), "real and imaginary"),
        ([[1.0, 2.0], [3.0]], "x must be"),
        (scipy.sparse.csr_matrix(POINTS), "toarray"),
    ],
    ids=["masked", "quantised", "complex", "ragged", "sparse"],
)
def test_what_holds_no_plain_numbers_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=f"data.from_array: .*{message}"):
        pf.data.from_array(given)


@pytest.mark.parametrize("dtype", [torch.int64, torch.complex64, "float32"])
def test_points_are_of_floating_point(dtype: Any) -> None:
    """Whole numbers would cut standardised points to a few values."""
    with pytest.raises(
        ValueError, match=rf"data.from_array: dtype must be .*torch.float32 or torch.float64, got .*{dtype}"
    ):
        pf.data.from_array(POINTS, dtype=dtype)


def test_masked_labels_are_missing() -> None:
    labels = np.ma.masked_array([0, 1, 0, 1, 0, 1], [False, False, True, False, False, False])
    with pytest.raises(ValueError, match="row 2 holds None"):
        pf.data.from_array(POINTS, labels)
    assert pf.data.from_array(np.ma.masked_array(POINTS), np.ma.masked_array(labels.data)).labels is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
def test_dtypes_that_numpy_lacks_become_float32(dtype: torch.dtype) -> None:
    rows = pf.data.from_array(torch.eye(3).to(dtype)).rows
    assert rows is not None
    assert rows.tolist() == torch.eye(3).tolist()


@pytest.mark.parametrize(
    "labels",
    [
        np.array([*"abcabc"], dtype="S"),
        np.array([*"abcabc"], dtype=np.dtypes.StringDType()),
        np.array([b"a", b"b", b"c"] * 2, dtype=object),  # as h5py gives text
    ],
    ids=["S", "T", "objects"],
)
def test_labels_of_bytes_and_of_any_text(labels: Any) -> None:
    dataset = pf.data.from_array(POINTS, labels)
    assert dataset.label_names == ("a", "b", "c")
    assert dataset.class_numbers == {"a": 0, "b": 1, "c": 2}


@pytest.mark.parametrize("labels", [np.array([[2], [0], [1]] * 2), torch.eye(3)[[2, 0, 1] * 2]], ids=["N x 1", "ones"])
def test_labels_are_flattened_as_those_of_files_are(labels: Any) -> None:
    found = pf.data.from_array(POINTS, labels).labels
    assert found is not None
    assert found.tolist() == [2, 0, 1] * 2


def test_bytes_that_are_no_text_are_no_labels() -> None:
    with pytest.raises(ValueError, match=r"data.from_array: labels of bytes must be text in UTF-8"):
        pf.data.from_array(POINTS, np.array([b"\xe9", b"b"] * 3))


@pytest.mark.parametrize(
    "labels",
    [
        np.array(["2024-05-01", "2024-05-02"] * 3, dtype="M8[D]"),
        np.array([1, 2] * 3, dtype="m8[h]"),
        [datetime.date(2024, 5, 1)] * 6,
        pd.Series(pd.date_range("2024-05-01", periods=6, tz="UTC")),
    ],
    ids=["dates", "durations", "objects", "time zone"],
)
def test_labels_of_dates_are_refused_with_what_to_do(labels: Any) -> None:
    with pytest.raises(ValueError, match=r"labels must be numbers or text.*astype\(str\) for classes.*days since"):
        pf.data.from_array(POINTS, labels)


@pytest.mark.parametrize("label", [2**63, 1e30, -1e19])
def test_labels_too_large_for_a_number_of_a_class_are_refused(label: float) -> None:
    """int64 would wrap them round."""
    with pytest.raises(ValueError, match=r"row 2 has the label .*save them as text"):
        pf.data.from_array(POINTS, np.array([0, 1, label, 1, 2, 3]))
