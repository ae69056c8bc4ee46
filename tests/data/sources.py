"""Data to write and read back, and what a refusal must look like."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray

import proxflow as pf

POINTS = np.random.default_rng(0).normal(size=(6, 2)) * [3.0, 0.5] + [10.0, -2.0]
LABELS = np.array([2, 0, 1, 1, 0, 2])
SYNTHETIC = ["8gaussians", "circle", "moons", "scurve", "swissroll"]
f64 = torch.float64


def raw(source: Any, **options: Any) -> pf.data.Dataset:
    return pf.data.load(source, standardise="none", dtype=f64, **options)


def table(points: NDArray[Any] = POINTS, **more: Any) -> pa.Table:
    return pa.table({f"x{i}": points[:, i] for i in range(points.shape[1])} | more)


def write_npy(path: Path) -> None:
    np.save(path, POINTS)


def write_npz(path: Path) -> None:
    np.savez(path, points=POINTS, labels=LABELS)


def write_pt(path: Path) -> None:
    torch.save({"points": torch.from_numpy(POINTS), "labels": torch.from_numpy(LABELS)}, path)


def write_csv(path: Path) -> None:
    pyarrow.csv.write_csv(table(label=LABELS), path)


def write_parquet(path: Path) -> None:
    pyarrow.parquet.write_table(table(label=LABELS), path)


def cells(matrix: Any = POINTS, obsm: dict[str, Any] | None = None, **columns: Any) -> anndata.AnnData:
    """An annotated matrix with columns of ``obs``."""
    index = [f"cell{row}" for row in range(len(next(iter(columns.values()))) if columns else matrix.shape[0])]
    return anndata.AnnData(matrix, obs=pd.DataFrame(columns, index=index), obsm=obsm)


def write_h5ad(path: Path) -> None:
    cells(label=LABELS).write_h5ad(path)


IMAGES = np.random.default_rng(0).integers(256, size=(12, 28, 28)).astype(np.uint8)
IMAGE_LABELS = np.array([9, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0], dtype=np.uint8)
IMAGE_FILE, LABEL_FILE = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def write_fashion_mnist(folder: Path, images: NDArray[Any] = IMAGES, labels: NDArray[Any] = IMAGE_LABELS) -> Path:
    """The two files that fashion-mnist is read from, one of them gzipped."""
    (folder / f"{IMAGE_FILE}.gz").write_bytes(gzip.compress(idx(images)))
    (folder / LABEL_FILE).write_bytes(idx(labels))
    return folder


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


WRITERS = {
    ".npy": write_npy,
    ".npz": write_npz,
    ".pt": write_pt,
    ".csv": write_csv,
    ".parquet": write_parquet,
    ".h5ad": write_h5ad,
}


def csv_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text)
    return path


def refusal(source: Any, **options: Any) -> str:
    """The one line that a refused source gives."""
    with pytest.raises(ValueError, match=r"\S") as caught:
        pf.data.load(source, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)
