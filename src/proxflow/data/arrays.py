"""Files of arrays: .npy, .npz and .pt, read without unpickling code."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxflow.data.reading import Array, Raw, Request

__all__ = ["read_npy", "read_npz", "read_pt"]


def read_npy(path: Path, request: Request) -> Raw:
    """An array of points."""
    with path.open("rb") as file:
        return Raw.of(np.lib.format.read_array(file, allow_pickle=False))


def read_npz(path: Path, request: Request) -> Raw:
    """``points`` and optional ``labels``, or the only array."""
    _require_archive(path, "numpy.savez")
    with np.load(path, allow_pickle=False) as archive:
        return _named(dict(archive))


def read_pt(path: Path, request: Request) -> Raw:
    """A tensor, or a dict with ``points`` and optional ``labels``."""
    _require_archive(path, "torch.save")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(
            "it holds objects other than tensors, which would run code; save a tensor, or a dict of tensors"
        ) from error
    return _named(content) if isinstance(content, dict) else Raw.of(_array(content))


def _require_archive(path: Path, writer: str) -> None:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"truncated, or not a file of {writer}")


def _named(content: dict[Any, Any]) -> Raw:
    if "points" not in content and len(content) != 1:
        raise ValueError(f"expected an entry 'points', found {', '.join(map(str, content)) or 'nothing'}")
    points = content["points"] if "points" in content else next(iter(content.values()))
    labels = content.get("labels")
    return Raw.of(_array(points), None if labels is None else _array(labels))


def _array(value: Any) -> Array:
    if isinstance(value, Tensor):
        value = value.detach().to_dense()
        value = value.double() if value.is_floating_point() else value
    return np.asarray(value)
