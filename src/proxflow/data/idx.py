"""The IDX format of MNIST and its like, gzipped or not.

Source: the format's only description, "THE IDX FILE FORMAT" at the foot of http://yann.lecun.com/exdb/mnist.
"""

from __future__ import annotations

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from proxflow.data.raw import Array

__all__ = ["read_idx"]

_TYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_GZIP = b"\x1f\x8b"


def read_idx(path: Path) -> Array:
    """The array of a file: two zero bytes, a byte for the type, one for the dimensions, their sizes, the values.

    Raises:
        ValueError: no IDX file, a truncated one, or one with bytes left over.
    """
    content = path.read_bytes()
    if content.startswith(_GZIP):
        content = gzip.decompress(content)
    dtype, shape, start = _header(content)
    size = len(content) - start
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        what = "truncated" if size < expected else "too long"
        raise ValueError(f"{what}: its sizes {_times(shape)} need {expected:,} bytes of values, it has {size:,}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _header(content: bytes) -> tuple[np.dtype[np.generic], tuple[int, ...], int]:
    """Type, shape, and where the values start."""
    if len(content) < 4:
        raise ValueError(f"truncated: an IDX file starts with 4 bytes, it has {len(content)}")
    zeros, code, dimensions = struct.unpack(">HBB", content[:4])
    if zeros != 0 or code not in _TYPES or dimensions == 0:
        raise ValueError(f"not an IDX file: it starts with {content[:4].hex(' ')}")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise ValueError(f"truncated: {dimensions} dimensions need a header of {start} bytes, it has {len(content)}")
    return np.dtype(_TYPES[code]), struct.unpack(f">{dimensions}I", content[4:start]), start


def _times(shape: tuple[int, ...]) -> str:
    return " x ".join(f"{size:,}" for size in shape)
