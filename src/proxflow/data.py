"""Named and file data sets as tensors, with a standardisation that can be undone."""

from __future__ import annotations

import hashlib
import importlib
import math
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


_Raw = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]


def load(
    source: str | Path, *, n: int = 2000, seed: int = 0, standardise: bool = True, dtype: torch.dtype = torch.float32
) -> Dataset:
    """A built-in data set by name, or a file or folder by path.

    Files: .npy, .npz (``points`` and optional ``labels``, or its only array), .pt (a tensor, or a dict with
    ``points`` and ``labels``; read without unpickling code), .csv and .parquet (numeric columns), and a folder of
    images of one size (sub-folders are labels).

    Args:
        source: name or path.
        n: number of points of the synthetic sets (moons, 8gaussians, circle, swissroll, scurve).
        seed: of the synthetic sets.
        standardise: subtract the mean and divide by the root-mean-square standard deviation.
        dtype: of the points.

    Raises:
        ValueError: unknown name, unreadable file, empty or 1-D data, or rows that are not finite.
        MissingExtraError: a reader's package is not installed.
    """
    name = str(source)
    path = Path(source)
    if name in BUILT_IN:
        points, labels = BUILT_IN[name](n, seed)
    elif path.is_dir():
        points, labels = _read_images(path)
    elif path.is_file():
        points, labels = _read_file(path)
    else:
        raise ValueError(
            f"no data set or file called {name!r}; built-in: {', '.join(sorted(BUILT_IN))}; "
            f"files: {', '.join(_READERS)}, or a folder of images"
        )
    return _assemble(path.stem, points, labels, standardise, dtype)


def _assemble(name: str, points: Any, labels: Any, standardise: bool, dtype: torch.dtype) -> Dataset:
    points = np.asarray(points)
    if points.ndim < 2 or points.size == 0:
        raise ValueError(f"{name}: expected a non-empty array (N, *event), got shape {points.shape}")
    if points.dtype.kind not in "fiub":
        raise ValueError(f"{name}: expected numbers, got an array of {points.dtype}")
    raw = torch.from_numpy(np.ascontiguousarray(points, dtype=np.float64))
    bad = torch.nonzero(~torch.isfinite(raw.flatten(1)).all(1))[:, 0]
    if len(bad):
        raise ValueError(f"{name}: {len(bad)} rows hold NaN or inf, the first: {bad[:5].tolist()}; drop or fill them")
    if labels is not None and len(labels) != len(points):
        raise ValueError(f"{name}: {len(points)} points but {len(labels)} labels")
    mean, scale = torch.zeros_like(raw[0]), 1.0
    if standardise:
        mean = raw.mean(0)
        scale = float((raw - mean).square().mean().sqrt()) or 1.0
    standardisation = Standardisation(mean, scale)
    return Dataset(
        points=standardisation.apply(raw).to(dtype),
        labels=None if labels is None else torch.from_numpy(np.asarray(labels, dtype=np.int64)),
        name=name,
        standardisation=standardisation,
        content_hash=hashlib.sha256(repr(points.shape).encode() + raw.numpy().tobytes()).hexdigest(),
    )


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
        raise ValueError(f"{path} cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})") from error


def _read_npy(path: Path) -> _Raw:
    return np.load(path, allow_pickle=False), None


def _read_npz(path: Path) -> _Raw:
    with np.load(path, allow_pickle=False) as archive:
        return _named(dict(archive))


def _read_pt(path: Path) -> _Raw:
    content = torch.load(path, weights_only=True, map_location="cpu")
    return _named(content) if isinstance(content, dict) else (np.asarray(content), None)


def _named(content: dict[str, Any]) -> _Raw:
    if "points" not in content and len(content) != 1:
        raise ValueError(f"expected an entry 'points', found {', '.join(content)}")
    points = content["points"] if "points" in content else next(iter(content.values()))
    labels = content.get("labels")
    return np.asarray(points), None if labels is None else np.asarray(labels)


def _read_table(path: Path) -> _Raw:
    if path.suffix.lower() == ".csv":
        table = _package("pyarrow.csv").read_csv(path)
    else:
        table = _package("pyarrow.parquet").read_table(path)
    labels = None
    if "label" in table.column_names:
        labels = np.asarray(table.column("label"))
        table = table.drop_columns(["label"])
    return np.stack([np.asarray(column, dtype=np.float64) for column in table.columns], axis=1), labels


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
    pillow = _package("PIL.Image")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(_IMAGE_SUFFIXES))})")
    images = []
    for path in paths:
        try:
            with pillow.open(path) as image:
                images.append(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")) / 255)
        except (OSError, SyntaxError) as error:
            raise ValueError(f"{path} cannot be read ({error})") from error
        if images[-1].shape != images[0].shape:
            raise ValueError(
                f"{path} has shape {images[-1].shape}, {paths[0]} has {images[0].shape}; resize them to one size"
            )
    stack = np.stack(images)
    parents = [path.parent for path in paths]
    classes = sorted(set(parents))
    labels = np.array([classes.index(parent) for parent in parents]) if len(classes) > 1 else None
    return (np.moveaxis(stack, -1, 1) if stack.ndim == 4 else stack), labels
