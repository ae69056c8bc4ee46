"""Single-cell files as people have them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest

import proxflow as pf
from tests.data.sources import POINTS, cells, raw, refusal

COLUMNS: dict[str, tuple[Any, list[float], tuple[str, ...] | None]] = {
    "categories of numbers": (pd.Categorical([7.5, 0.0, 7.5, 14.0, 0.0, 14.0]), [7.5, 0, 7.5, 14, 0, 14], None),
    "fractions": (np.array([7.5, 0, 7.5, 14, 0, 14], np.float32), [7.5, 0, 7.5, 14, 0, 14], None),
    "whole float32": (np.array([1, 2, 1, 2, 1, 2], np.float32), [1, 2, 1, 2, 1, 2], None),
    "uint8": (np.array([1, 2, 1, 2, 1, 255], np.uint8), [1, 2, 1, 2, 1, 255], None),
    "nullable truth": (pd.array([True, False] * 3, dtype="boolean"), [1, 0] * 3, None),
    "nullable text": (pd.array(list("babaab"), dtype="string"), [1, 0, 1, 0, 0, 1], ("a", "b")),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_of_obs_of_any_dtype_is_labels(kind: str, tmp_path: Path) -> None:
    column, numbers, names = COLUMNS[kind]
    cells(day=column).write_h5ad(tmp_path / "x.h5ad")
    dataset = raw(tmp_path / "x.h5ad", label="day")
    assert dataset.labels.tolist() == numbers
    assert dataset.label_names == names


def test_a_layer_is_read_instead_of_x(tmp_path: Path) -> None:
    annotated = cells(np.zeros((6, 2)), kind=list("abcabc"), obsm={"X_pca": POINTS})
    annotated.layers["counts"] = POINTS
    annotated.var_names = ["SOX2", "NANOG"]
    annotated.write_h5ad(tmp_path / "x.h5ad")
    dataset = raw(tmp_path / "x.h5ad", layer="counts")
    assert np.array_equal(dataset.points.numpy(), POINTS)
    assert dataset.columns == ("SOX2", "NANOG")
    assert "there is no layer 'spliced'; those of the file: counts" in refusal(tmp_path / "x.h5ad", layer="spliced")
    assert "give one of them" in refusal(tmp_path / "x.h5ad", layer="counts", representation="X_pca")


def test_an_hdf5_file_of_another_program_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file["data"], file["barcodes"] = POINTS, np.arange(6)
    message = refusal(tmp_path / "x.h5ad")
    assert "not one that anndata wrote: it holds barcodes, data and no obs and var" in message


def test_cells_without_a_label_or_a_value_are_left_out_on_request(tmp_path: Path) -> None:
    points = POINTS.copy()
    points[4, 1] = np.nan
    cells(points, kind=pd.Categorical(["a", "b", None, "a", "b", "b"])).write_h5ad(tmp_path / "x.h5ad")
    dataset = raw(tmp_path / "x.h5ad", label="kind", drop_missing=True)
    assert np.array_equal(dataset.points.numpy(), points[[0, 1, 3, 5]])
    assert dataset.labels.tolist() == [0, 1, 0, 1]
    assert dataset.notes == ("2 rows of 6 left out, with missing values",)


def test_unlike_genes_are_not_doubted(tmp_path: Path) -> None:
    cells(POINTS * [1000, 1]).write_h5ad(tmp_path / "x.h5ad")
    assert pf.data.load(tmp_path / "x.h5ad").standardisation.kind == "global"
