"""Named and file data sets as tensors, with a standardisation that can be undone."""

from __future__ import annotations

import hashlib
import importlib
import math
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxflow.errors import MissingExtraError

__all__ = ["BUILT_IN", "Dataset", "Standardisation", "load"]


@dataclass(frozen=True)
class Standardisation:
    """x -> (x - mean) / scale with one scale for all coordinates, so that distances keep their proportions."""

    mean: Tensor
    scale: float

    def apply(self, x: Tensor) -> Tensor:
        """Standardise (N, *event) data."""
        x = x if x.is_floating_point() else x.to(self.mean.dtype)
        return (x - self.mean.to(x)) / self.scale

    def undo(self, x: Tensor) -> Tensor:
        """Back to the units of the data."""
        return x * self.scale + self.mean.to(x)


@dataclass(frozen=True)
class Dataset:
    """Standardised points (N, *event), labels (N,) or None, and where they came from.

    ``content_hash`` is the SHA-256 of the data before standardisation.
    """

    points: Tensor
    labels: Tensor | None
    name: str
    standardisation: Standardisation
    content_hash: str

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.points)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one point."""
        return tuple(self.points.shape[1:])

    @property
    def dim(self) -> int:
        """Number of coordinates of one point."""
        return math.prod(self.event_shape)


_Array = np.ndarray[Any, Any]
_Raw = tuple[_Array, _Array | None]


def load(
    source: str | Path, *, n: int = 2000, seed: int = 0, standardise: bool = True, dtype: torch.dtype = torch.float32
) -> Dataset:
    """A built-in data set by name, or a file or folder by path.

    Files: .npy, .npz (``points`` and optional ``labels``, or its only array), .pt (a tensor, or a dict with
    ``points`` and ``labels``; read without unpickling code), .csv and .parquet (numeric columns, and an optional
    ``label``), and a folder of images of one size (sub-folders are labels; 0 is black, 1 white). Labels are whole
    numbers; text is numbered in alphabetical order.

    Args:
        source: name or path.
        n: number of points of the synthetic sets (moons, 8gaussians, circle, swissroll, scurve).
        seed: of the synthetic sets, from 0 to 2^32 - 1.
        standardise: subtract the mean and divide by the root-mean-square standard deviation.
        dtype: of the points.

    Raises:
        ValueError: unknown name, unreadable file, empty or 1-D data, rows that are not finite, or labels that are
            neither whole numbers nor text.
        MissingExtraError: a reader's package is not installed.
    """
    if n < 1 or n != int(n):
        raise ValueError(f"data.load: n must be a positive integer, got {n!r}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"data.load: seed must be from 0 to 2^32 - 1, got {seed!r}")
    origin = str(source)
    path = Path(source)
    if origin in BUILT_IN:
        return _assemble(origin, origin, BUILT_IN[origin](int(n), seed), standardise, dtype)
    if path.is_dir():
        return _assemble(path.resolve().name, origin, _read_images(path), standardise, dtype)
    if path.is_file():
        return _assemble(path.stem, origin, _read_file(path), standardise, dtype)
    raise ValueError(
        f"no data set or file called {origin!r}; built-in: {', '.join(sorted(BUILT_IN))}; "
        f"files: {', '.join(_READERS)}, or a folder of images"
    )


def _assemble(name: str, origin: str, content: _Raw, standardise: bool, dtype: torch.dtype) -> Dataset:
    points, labels = content
    raw = _checked_points(points, origin)
    standardisation = _standardisation(raw) if standardise else Standardisation(torch.zeros_like(raw[0]), 1.0)
    final = standardisation.apply(raw).to(dtype)
    if not bool(torch.isfinite(final).all()):
        raise ValueError(f"{origin}: the values are too large for {dtype} (up to {raw.abs().max():.3g}); rescale them")
    return Dataset(
        points=final,
        labels=None if labels is None else _checked_labels(labels, len(raw), origin),
        name=name,
        standardisation=standardisation,
        content_hash=hashlib.sha256(repr(tuple(raw.shape)).encode() + raw.numpy().tobytes()).hexdigest(),
    )


def _checked_points(points: _Array, origin: str) -> Tensor:
    if points.ndim < 2 or points.size == 0:
        raise ValueError(f"{origin}: expected a non-empty array (N, *event), got shape {points.shape}")
    if points.dtype.kind not in "fiub":
        raise ValueError(f"{origin}: expected numbers, got an array of {points.dtype}")
    raw = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
    bad = torch.nonzero(~torch.isfinite(raw.flatten(1)).all(1))[:, 0]
    if len(bad):
        raise ValueError(f"{origin}: {len(bad)} rows hold NaN or inf, the first: {bad[:5].tolist()}; drop or fill them")
    return raw


def _checked_labels(labels: _Array, count: int, origin: str) -> Tensor:
    if labels.shape != (count,):
        raise ValueError(f"{origin}: {count} points need as many labels, got an array of shape {labels.shape}")
    if labels.dtype.kind == "U" or all(isinstance(label, str) for label in labels):
        return torch.from_numpy(np.unique(labels.astype(str), return_inverse=True)[1].astype(np.int64))
    if labels.dtype.kind not in "fiub":
        raise ValueError(f"{origin}: labels must be whole numbers or text, got {labels.dtype}")
    numbers = labels.astype(np.float64)
    bad = np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.rint(numbers))))
    if len(bad):
        raise ValueError(f"{origin}: labels must be whole numbers or text; row {bad[0]} holds {numbers[bad[0]]}")
    return torch.from_numpy(labels.astype(np.int64))


def _standardisation(raw: Tensor) -> Standardisation:
    """Mean and root-mean-square deviation; exact for constant columns, and without overflow on the way."""
    size = raw.abs().amax(0)
    size = torch.where(size > 0, size, 1.0)
    mean = torch.where((raw == raw[0]).all(0), raw[0], (raw / size).mean(0) * size)
    centred = raw - mean
    spread = float(centred.abs().max())
    scale = spread * float((centred / spread).square().mean().sqrt()) if spread > 0 else 1.0
    return Standardisation(mean, scale)


# -------------------------------------------------------------------- built in


def _package(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(module.partition(".")[0], "data") from error


def _digits(n: int, seed: int) -> _Raw:
    bunch = _package("sklearn.datasets").load_digits()
    return bunch.images, bunch.target


def _moons(n: int, seed: int) -> _Raw:
    points, labels = _package("sklearn.datasets").make_moons(n, noise=0.05, random_state=seed)
    return points, labels


def _eight_gaussians(n: int, seed: int) -> _Raw:
    """Eight normals of standard deviation 1 centred on a ring of radius 5."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(8, size=n)
    angle = labels * np.pi / 4
    centres = 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centres + generator.standard_normal((n, 2)), labels


def _circle(n: int, seed: int) -> _Raw:
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1), None


def _swissroll(n: int, seed: int) -> _Raw:
    return _package("sklearn.datasets").make_swiss_roll(n, noise=0.0, random_state=seed)[0], None


def _scurve(n: int, seed: int) -> _Raw:
    return _package("sklearn.datasets").make_s_curve(n, noise=0.05, random_state=seed)[0], None


BUILT_IN: dict[str, Callable[[int, int], _Raw]] = {
    "8gaussians": _eight_gaussians,
    "circle": _circle,
    "digits": _digits,
    "moons": _moons,
    "scurve": _scurve,
    "swissroll": _swissroll,
}


# -------------------------------------------------------------------- files


def _read_file(path: Path) -> _Raw:
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(f"{path}: unknown file type {path.suffix!r}; known: {', '.join(_READERS)}")
    try:
        return reader(path)
    except MissingExtraError:
        raise
    except Exception as error:
        # Readers raise errors of many libraries; whatever it was, the file could not be read.
        raise ValueError(f"{path} cannot be read ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        return kind
    return lines[0] if kind == "ValueError" else f"{kind}: {lines[0]}"


def _read_npy(path: Path) -> _Raw:
    with path.open("rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False), None


def _read_npz(path: Path) -> _Raw:
    _require_archive(path, "numpy.savez")
    with np.load(path, allow_pickle=False) as archive:
        return _named(dict(archive))


def _read_pt(path: Path) -> _Raw:
    _require_archive(path, "torch.save")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(
            "it holds objects other than tensors, which would run code; save a tensor, or a dict of tensors"
        ) from error
    return _named(content) if isinstance(content, dict) else (_array(content), None)


def _require_archive(path: Path, writer: str) -> None:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"truncated, or not a file of {writer}")


def _named(content: dict[Any, Any]) -> _Raw:
    if "points" not in content and len(content) != 1:
        raise ValueError(f"expected an entry 'points', found {', '.join(map(str, content)) or 'nothing'}")
    points = content["points"] if "points" in content else next(iter(content.values()))
    labels = content.get("labels")
    return _array(points), None if labels is None else _array(labels)


def _array(value: Any) -> _Array:
    if isinstance(value, Tensor):
        value = value.detach().to_dense()
        value = value.double() if value.is_floating_point() else value
    return np.asarray(value)


def _read_table(path: Path) -> _Raw:
    table = _read_csv(path) if path.suffix.lower() == ".csv" else _package("pyarrow.parquet").read_table(path)
    labels = None
    if "label" in table.column_names:
        labels = table.column("label").to_numpy()
        table = table.drop_columns(["label"])
    _check_columns(table)
    return np.stack([np.asarray(column, dtype=np.float64) for column in table.columns], axis=1), labels


def _read_csv(path: Path) -> Any:
    """A table, with or without a line of column names: a first line of numbers is a row."""
    csv = _package("pyarrow.csv")
    table = csv.read_csv(path)
    names = table.column_names
    if names == [str(i) for i in range(len(names))]:
        raise ValueError(
            f"its first line {','.join(names)!r} may be column names or numbers; name the columns x0, x1, ..."
        )
    if all(_is_number(name) for name in names):
        return csv.read_csv(path, read_options=csv.ReadOptions(autogenerate_column_names=True))
    return table


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _check_columns(table: Any) -> None:
    types = _package("pyarrow").types
    kinds = (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal, types.is_null)
    text = [f"{field.name!r} ({field.type})" for field in table.schema if not any(kind(field.type) for kind in kinds)]
    if text:
        raise ValueError(
            f"columns that are not numeric: {', '.join(text)}; drop them, or call the class column 'label'"
        )
    unnamed = [name for name in table.column_names if not name or name.startswith("__index_level_")]
    if unnamed:
        raise ValueError(f"the column {unnamed[0]!r} is a row index, not data; write the table without its index")
    if not table.column_names:
        raise ValueError("there are no columns of numbers")


_READERS: dict[str, Callable[[Path], _Raw]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".pt": _read_pt,
    ".csv": _read_table,
    ".parquet": _read_table,
}

_IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def _read_images(folder: Path) -> _Raw:
    """All images below a folder, in order of their paths, in [0, 1]: (N, H, W) if all grey, else (N, 3, H, W)."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    images = [_read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"{path} has {image.shape[0]} x {image.shape[1]} pixels, {paths[0]} has "
                f"{images[0].shape[0]} x {images[0].shape[1]}; resize them to one size"
            )
    parents = [path.parent for path in paths]
    classes = sorted(set(parents))
    labels = np.array([classes.index(parent) for parent in parents]) if len(classes) > 1 else None
    if all(image.ndim == 2 for image in images):
        return np.stack(images), labels
    coloured = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in images]
    return np.moveaxis(np.stack(coloured), -1, 1), labels


def _read_image(path: Path) -> _Array:
    """Pixels in [0, 1], (H, W) grey or (H, W, 3); transparency is dropped."""
    pillow = _package("PIL.Image")
    try:
        with pillow.open(path) as image:
            if image.mode.startswith("I;16"):
                return np.asarray(image) / 65535
            if image.mode in ("I", "F"):
                raise ValueError(f"its mode {image.mode!r} has no range; save it with 8 or 16 bits")
            return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")) / 255
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({_one_line(error)})") from error
