"""Annotated matrices of single cells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse

from proxflow.data import single_cell
from tests.data.sources import LABELS, POINTS, cells, raw, refusal, write_h5ad
from tests.marks import slow_beyond

COUNTS = np.random.default_rng(1).poisson(0.7, size=(30, 8)) + np.eye(30, 8, dtype=np.int64)
KINDS = [f"kind {'bca'[i % 3]}" for i in range(30)]


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix, scipy.sparse.csr_array])
@pytest.mark.parametrize("dtype", slow_beyond(2, [np.float32, np.int64, np.float64]))
def test_dense_and_sparse_matrices_are_the_same_points(
    form: Callable[..., Any], dtype: type[np.generic], tmp_path: Path
) -> None:
    cells(form(COUNTS.astype(dtype)), kind=KINDS).write_h5ad(tmp_path / "x.h5ad")
    dataset = raw(tmp_path / "x.h5ad", label="kind")
    assert np.array_equal(dataset.points.numpy(), COUNTS)
    assert dataset.labels.tolist() == [(1, 2, 0)[i % 3] for i in range(30)]
    assert dataset.label_names == ("kind a", "kind b", "kind c")
    assert dataset.name == "x"


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix, scipy.sparse.csc_matrix])
def test_a_subset_takes_its_cells_with_their_labels(form: Callable[..., Any], tmp_path: Path) -> None:
    cells(form(COUNTS), number=np.arange(30)).write_h5ad(tmp_path / "x.h5ad")
    dataset = raw(tmp_path / "x.h5ad", label="number", n=7)
    assert np.array_equal(dataset.points.numpy(), COUNTS[dataset.labels])
    assert dataset.n == 7


@pytest.mark.parametrize(
    "embedding",
    [POINTS, POINTS.astype(np.float32), scipy.sparse.csr_matrix(POINTS), pd.DataFrame(POINTS, columns=["u", "v"])],
    ids=["float64", "float32", "sparse", "table"],
)
def test_a_representation_is_read_instead_of_x(embedding: Any, tmp_path: Path) -> None:
    if isinstance(embedding, pd.DataFrame):
        embedding.index = cells(label=LABELS).obs_names
    annotated = cells(np.eye(6), obsm={"X_pca": embedding}, label=LABELS)
    annotated.write_h5ad(tmp_path / "x.h5ad")
    dataset = raw(tmp_path / "x.h5ad", representation="X_pca")
    assert np.allclose(dataset.points.numpy(), POINTS, rtol=1e-7, atol=0)
    assert dataset.labels.tolist() == LABELS.tolist()
    assert np.array_equal(raw(tmp_path / "x.h5ad").points.numpy(), np.eye(6))


def test_without_a_column_called_label_there_are_no_labels(tmp_path: Path) -> None:
    cells(kind=KINDS[:6]).write_h5ad(tmp_path / "x.h5ad")
    assert raw(tmp_path / "x.h5ad").labels is None


def test_a_missing_representation_lists_those_that_are_there(tmp_path: Path) -> None:
    cells(obsm={"X_pca": POINTS, "X_umap": POINTS}, label=LABELS).write_h5ad(tmp_path / "x.h5ad")
    message = refusal(tmp_path / "x.h5ad", representation="X_tsne")
    assert "no representation 'X_tsne'; those of obsm: X_pca, X_umap" in message


def test_a_file_without_x_asks_for_a_representation(tmp_path: Path) -> None:
    cells(None, obsm={"X_pca": POINTS}, label=LABELS).write_h5ad(tmp_path / "x.h5ad")
    message = refusal(tmp_path / "x.h5ad")
    assert "no matrix X" in message
    assert "--representation" in message
    assert "X_pca" in message
    assert np.array_equal(raw(tmp_path / "x.h5ad", representation="X_pca").points.numpy(), POINTS)


def test_a_matrix_without_variables_is_refused(tmp_path: Path) -> None:
    cells(np.zeros((6, 0)), label=LABELS).write_h5ad(tmp_path / "x.h5ad")
    assert "6 cells and 0 variables is empty" in refusal(tmp_path / "x.h5ad")


@pytest.mark.parametrize("form", [np.asarray, scipy.sparse.csr_matrix])
def test_cells_that_are_not_finite_are_named(form: Callable[..., Any], tmp_path: Path) -> None:
    points = POINTS.copy()
    points[4, 1] = np.nan
    cells(form(points)).write_h5ad(tmp_path / "x.h5ad")
    assert "1 row holds NaN or inf, the first: [4]" in refusal(tmp_path / "x.h5ad")


def test_another_hdf5_file_is_named(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file["points"] = POINTS
    assert str(tmp_path / "x.h5ad") in refusal(tmp_path / "x.h5ad")


def test_the_file_is_closed_and_unchanged(tmp_path: Path) -> None:
    cells(label=LABELS).write_h5ad(tmp_path / "x.h5ad")
    before = (tmp_path / "x.h5ad").read_bytes()
    raw(tmp_path / "x.h5ad")
    assert (tmp_path / "x.h5ad").read_bytes() == before
    with h5py.File(tmp_path / "x.h5ad", "r+"):
        pass
    assert anndata.read_h5ad(tmp_path / "x.h5ad").n_obs == 6


@pytest.mark.slow
def test_a_file_on_which_hdf5_never_ends_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros in its list of texts, which HDF5 2.0 goes round for ever, and no signal is heard there."""
    monkeypatch.setattr(single_cell, "_PATIENCE", 8)
    path = tmp_path / "x.h5ad"
    write_h5ad(path)
    content = bytearray(path.read_bytes())
    heap = content.index(b"GCOL")
    content[heap + 16 : heap + 32] = bytes(16)
    path.write_bytes(content)
    assert "damaged: HDF5 does not come to the end of its names in 8 s" in refusal(path)


def test_a_file_on_which_hdf5_crashes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(single_cell, "_READ_TEXT", "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    path = tmp_path / "x.h5ad"
    write_h5ad(path)
    assert "damaged: HDF5 crashes while it reads its names" in refusal(path)
