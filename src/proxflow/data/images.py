"""A folder of images."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from proxflow.data.reading import Array, Raw, reading
from proxflow.errors import optional_package

__all__ = ["read_images"]

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}


def read_images(folder: Path) -> Raw:
    """All images below a folder, in order of their paths, in [0, 1]: (N, H, W) if all grey, else (N, 3, H, W).

    Sub-folders are classes.
    """
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES)
    if not paths:
        raise ValueError(f"{folder} holds no images ({', '.join(sorted(_SUFFIXES))})")
    labels, names = _classes(folder, paths)
    return Raw(len(paths), lambda rows: _stacked([paths[row] for row in rows]), labels, names)


def _classes(folder: Path, paths: list[Path]) -> tuple[Array | None, tuple[str, ...] | None]:
    parents = [path.parent for path in paths]
    classes = {parent: number for number, parent in enumerate(sorted(set(parents)))}
    if len(classes) == 1:
        return None, None
    return np.array([classes[parent] for parent in parents]), tuple(str(c.relative_to(folder)) for c in classes)


def _stacked(paths: list[Path]) -> Array:
    images = [_read_image(path) for path in paths]
    for path, image in zip(paths, images, strict=True):
        if image.shape[:2] != images[0].shape[:2]:
            raise ValueError(
                f"{path} has {image.shape[0]} x {image.shape[1]} pixels, {paths[0]} has "
                f"{images[0].shape[0]} x {images[0].shape[1]}; resize them to one size"
            )
    if all(image.ndim == 2 for image in images):
        return np.stack(images)
    coloured = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in images]
    return np.moveaxis(np.stack(coloured), -1, 1)


def _read_image(path: Path) -> Array:
    """Pixels in [0, 1], (H, W) grey or (H, W, 3); transparency is dropped."""
    pillow = optional_package("PIL.Image", "data")
    with reading(path), pillow.open(path) as image:
        if image.mode.startswith("I;16"):
            return np.asarray(image) / 65535
        if image.mode in ("I", "F"):
            raise ValueError(f"its mode {image.mode!r} has no range; save it with 8 or 16 bits")
        return np.asarray(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")) / 255
