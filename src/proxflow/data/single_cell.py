"""Annotated matrices of single cells: .h5ad, through anndata."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from proxflow.data.columns import label_column, unique_names
from proxflow.data.reading import Array, Raw, Request
from proxflow.errors import optional_package

__all__ = ["read_h5ad"]

_PATIENCE = 120  # seconds; names of a million cells take about one
_READ_TEXT = """
import sys
import h5py

def read(name, entry):
    try:
        dict(entry.attrs)
        if isinstance(entry, h5py.Dataset) and entry.dtype.kind == "O":
            entry[()]
    except Exception:
        pass

with h5py.File(sys.argv[1], "r") as file:
    read("", file)
    file.visititems(read)
"""


def read_h5ad(path: Path, request: Request) -> Raw:
    """``X``, or the layer or entry of ``obsm`` asked for, dense or sparse, and a column of ``obs`` as labels."""
    _require_sound(path)
    _require_anndata(path)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(Variable|Observation) names are not unique")  # they are made so below
        cells = optional_package("anndata", "data").read_h5ad(path)
    matrix = _matrix(cells, request)
    if 0 in matrix.shape:
        raise ValueError(f"its matrix of {matrix.shape[0]} cells and {matrix.shape[1]} variables is empty")
    name = label_column(list(cells.obs.columns), request.label)
    labels = None if name is None else cells.obs[name].to_numpy()
    columns = None if request.representation is not None else tuple(unique_names([*map(str, cells.var_names)]))
    # genes and components have unlike variances by nature: one scale keeps the distances that single-cell methods use
    return Raw(len(cells), lambda rows: _dense(matrix[rows]), labels, columns=columns, own_units=False)


def _require_sound(path: Path) -> None:
    """Refuse a file on which HDF5 would crash or never end: another process tries first.

    HDF5 2.0 follows damaged lists of text without a check. Its names, attributes and columns of text are all that is
    read here. An error that Python sees is left to the reader, which says more.
    """
    command = [sys.executable, "-c", _READ_TEXT, str(path)]
    try:
        ended = subprocess.run(command, capture_output=True, timeout=_PATIENCE, check=False).returncode
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"damaged: HDF5 does not come to the end of its names in {_PATIENCE} s") from error
    if ended < 0:
        raise ValueError("damaged: HDF5 crashes while it reads its names")


def _require_anndata(path: Path) -> None:
    """Refuse other HDF5 files, of which anndata would say which key it misses."""
    with optional_package("h5py", "data").File(path, "r") as file:
        entries = sorted(file)
    if "obs" not in entries or "var" not in entries:
        raise ValueError(
            f"it is an HDF5 file, but not one that anndata wrote: it holds {', '.join(entries[:8]) or 'nothing'} and "
            "no obs and var; write it with AnnData.write_h5ad, or its array with numpy.save"
        )


def _matrix(cells: Any, request: Request) -> Any:
    """A numpy array, or a sparse matrix whose rows are quickly taken."""
    representation, layer = request.representation, request.layer
    if representation is not None and layer is not None:
        raise ValueError("representation= (--representation) and layer= (--layer) each name the data; give one of them")
    known = f"those of obsm: {', '.join(cells.obsm) or 'none'}"
    layers = ", ".join(cells.layers) or "none"
    if representation is not None and representation not in cells.obsm:
        raise ValueError(f"there is no representation {representation!r}; {known}")
    if layer is not None and layer not in cells.layers:
        raise ValueError(f"there is no layer {layer!r}; those of the file: {layers}")
    if representation is not None:
        matrix = cells.obsm[representation]
    else:
        matrix = cells.X if layer is None else cells.layers[layer]
    if matrix is None:
        raise ValueError(
            f"it has no matrix X; choose with representation= (--representation) among {known}; or with layer= "
            f"(--layer) among: {layers}"
        )
    return matrix.tocsr() if hasattr(matrix, "tocsr") else np.asarray(matrix)


def _dense(rows: Any) -> Array:
    dense: Array = rows.toarray() if hasattr(rows, "toarray") else rows
    return dense
