"""Annotated matrices of single cells: .h5ad, through anndata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from proxflow.data.reading import Array, Raw, Request
from proxflow.data.tables import label_column
from proxflow.errors import optional_package

__all__ = ["read_h5ad"]


def read_h5ad(path: Path, request: Request) -> Raw:
    """``X`` or the entry of ``obsm`` asked for, dense or sparse, and a column of ``obs`` as labels."""
    cells = optional_package("anndata", "data").read_h5ad(path)
    matrix = _matrix(cells, request.representation)
    if 0 in matrix.shape:
        raise ValueError(f"its matrix of {matrix.shape[0]} cells and {matrix.shape[1]} variables is empty")
    name = label_column(list(cells.obs.columns), request.label)
    labels = None if name is None else cells.obs[name].to_numpy()
    return Raw(len(cells), lambda rows: _dense(matrix[rows]), labels)


def _matrix(cells: Any, representation: str | None) -> Any:
    """A numpy array, or a sparse matrix whose rows are quickly taken."""
    known = f"those of obsm: {', '.join(cells.obsm) or 'none'}"
    if representation is not None and representation not in cells.obsm:
        raise ValueError(f"there is no representation {representation!r}; {known}")
    matrix = cells.X if representation is None else cells.obsm[representation]
    if matrix is None:
        raise ValueError(f"it has no matrix X; choose with representation= (--representation) among {known}")
    return matrix.tocsr() if hasattr(matrix, "tocsr") else np.asarray(matrix)


def _dense(rows: Any) -> Array:
    dense: Array = rows.toarray() if hasattr(rows, "toarray") else rows
    return dense
