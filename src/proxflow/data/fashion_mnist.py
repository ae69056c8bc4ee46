"""Fashion-MNIST from the IDX files that Debian's package installs, or from a folder of them, gzipped or not.

Source of the format: "THE IDX FILE FORMAT" at the foot of http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import math
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np

from proxflow.data.reading import Array, Raw, Request, fits_in_memory, reading
from proxflow.errors import counted

__all__ = ["CLASSES", "INSTALLED", "read_fashion_mnist", "read_idx"]

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"
_LONGEST_HEADER = 4 + 4 * 255  # bytes, of as many dimensions as its byte for them can say
_PART = 1 << 24  # bytes read at a time


def read_idx(path: Path) -> Array:
    """The array of a file: two zero bytes, a byte for the type, one for the dimensions, their sizes, the values.

    Raises:
        ValueError: no IDX file, a truncated one, or one with bytes left over.
    """
    with path.open("rb") as file:
        zipped = file.read(len(_GZIP)) == _GZIP
    with gzip.open(path) if zipped else path.open("rb") as stream:
        content = stream.read(_LONGEST_HEADER)
        dtype, shape, start = _header(content)
        expected = math.prod(shape) * dtype.itemsize
        if zipped:  # which may unpack to any size
            fits_in_memory(math.prod(shape), "fetch it again")
        content += _read_at_most(stream.read, start + expected + 1 - len(content))
    size = len(content) - start
    if size < expected:
        raise ValueError(f"truncated: its sizes {_times(shape)} need {expected:,} bytes of values, it has {size:,}")
    if size > expected:
        raise ValueError(f"too long: its sizes {_times(shape)} need {expected:,} bytes of values, it has more")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _read_at_most(read: Callable[[int], bytes], size: int) -> bytes:
    """Up to so many bytes; memory grows with what is there, not with what a header claims."""
    parts = []
    while size > 0 and (part := read(min(size, _PART))):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _header(content: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    """Type, shape, and where the values start."""
    if len(content) < 4:
        raise ValueError(f"truncated: an IDX file starts with 4 bytes, it has {len(content)}")
    zeros, code, dimensions = struct.unpack(">HBB", content[:4])
    if zeros != 0 or code not in _TYPES or dimensions == 0:
        raise ValueError(f"not an IDX file: it starts with {content[:4].hex(' ')}")
    start = 4 + 4 * dimensions
    if len(content) < start:
        needed = counted(dimensions, "dimension needs", "dimensions need")
        raise ValueError(f"truncated: {needed} a header of {start} bytes, it has {len(content)}")
    return np.dtype(_TYPES[code]), struct.unpack(f">{dimensions}I", content[4:start]), start


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)


INSTALLED = Path("/usr/share/datasets/fashion-mnist")
CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_IMAGES, _LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
_SIDE = 28  # pixels


def read_fashion_mnist(request: Request) -> Raw:
    """The training images (N, 28, 28) in [0, 1] and their classes.

    Raises:
        ValueError: a file is missing, damaged, or of other data.
    """
    folder = INSTALLED if request.data_dir is None else request.data_dir
    image_path, label_path = _find(folder, _IMAGES), _find(folder, _LABELS)
    images, labels = _read(image_path, ndim=3), _read(label_path, ndim=1)
    if images.shape[1:] != (_SIDE, _SIDE) or len(images) == 0:
        raise ValueError(f"{image_path}: expected images of 28 x 28 pixels, got an array of {images.shape}")
    if len(labels) != len(images):
        raise ValueError(f"{label_path} has {len(labels):,} labels for {len(images):,} images; fetch both files again")
    if labels.max() >= len(CLASSES):
        raise ValueError(f"{label_path} has the label {labels.max()}; the classes are 0 to {len(CLASSES) - 1}")
    return Raw(len(images), lambda rows: images[rows] / 255, labels, CLASSES)


def _read(path: Path, ndim: int) -> Array:
    with reading(path):
        array = read_idx(path)
        if array.ndim != ndim or array.dtype != "u1":
            raise ValueError(f"expected bytes in {counted(ndim, 'dimension')}, got {array.dtype} in {array.ndim}")
        return array


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise ValueError(
        f"fashion-mnist: {folder} holds no {name}(.gz); install Debian's package dataset-fashion-mnist, or give the "
        "folder of the files with data_dir= (--data-dir)"
    )
