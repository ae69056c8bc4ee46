"""Rows that come in blocks, more than memory holds, written to one file that is mapped: what fits and couplings read.

Chunks of zarr and row groups of parquet are decompressed once, here, and not at each step of a fit.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from proxflow.checks import Numbers, as_tensor
from proxflow.errors import counted
from proxflow.storage import written_atomically

__all__ = ["mapped_rows"]

_DTYPES = torch.float16, torch.float32, torch.float64, torch.uint8, torch.int8
_AT_ONCE = 1 << 24  # bytes that are read of an array at once, or one chunk where that is more

Array = npt.NDArray[Any]


def mapped_rows(path: str | os.PathLike[str], blocks: Iterable[Numbers]) -> Array:
    """Write rows to a .npy file, a block after the other, and map it: ``semidiscrete.fit`` leaves it on disk.

    Memory holds one block at a time. The file is there only once it is whole, and replaces one of that name.

    Args:
        path: of the file, in a folder that exists; ends in .npy.
        blocks: arrays or tensors (n, *event), n as it comes, all of one event shape and of one dtype: float16, float32,
            float64, uint8 or int8. Or an array that is read by slices, as those of zarr, h5py and dask: some chunks of
            it at once.

    Returns:
        (N, *event), as ``numpy.load(path, mmap_mode="r")``.

    Raises:
        ValueError: no rows, a block of another shape or dtype than the first, or numbers that are not finite; the
            message says which block.
        FileNotFoundError: there is no such folder.
    """
    file = Path(path)
    if file.suffix != ".npy":
        raise ValueError(f"mapped_rows: the file must end in .npy, got {file}")
    count, first = 0, None
    with written_atomically(file) as target:
        for number, given in enumerate(_parts(blocks)):
            block = _checked(number, given, first)
            if first is None:
                first = block[:0]
                _write_header(target, 0, first)
            target.write(block.tobytes())
            count += len(block)
        if first is None or count == 0:
            raise ValueError("mapped_rows: the blocks hold no rows")
        target.seek(0)
        _write_header(target, count, first)
    return np.load(file, mmap_mode="r")  # type: ignore[no-any-return]


def _parts(blocks: Any) -> Iterator[Any]:
    """The blocks; of one array, rows of as many whole chunks as are read at once."""
    shape = getattr(blocks, "shape", None)
    if shape is None:
        yield from blocks
        return
    if len(shape) < 2:
        raise ValueError(f"mapped_rows: expected rows (N, *event), got an array of shape {tuple(shape)}")
    chunks, row = getattr(blocks, "chunks", None), int(np.prod(shape[1:], dtype=np.int64))
    chunk = int(np.max(chunks[0])) if chunks else 1  # dask names the rows of each, the last of which may be fewer
    size = chunk * max(1, _AT_ONCE // max(1, 8 * row * chunk))
    for start in range(0, shape[0], size):
        yield blocks[start : start + size]


def _checked(number: int, given: Any, first: Array | None) -> Array:
    """A block as an array, like the first."""
    where = f"mapped_rows: block {number}"
    tensor = as_tensor("mapped_rows", f"block {number}", given).detach().cpu()
    if tensor.ndim < 2 or 0 in tensor.shape[1:]:
        raise ValueError(f"{where} must be (n, *event), got {tuple(tensor.shape)}")
    if tensor.dtype not in _DTYPES:
        raise ValueError(
            f"{where} is {tensor.dtype}; convert it to float32 or float16, and its scale where that is due"
        )
    block: Array = tensor.contiguous().numpy()
    if first is not None and (block.shape[1:], block.dtype) != (first.shape[1:], first.dtype):
        raise ValueError(
            f"{where} has events {block.shape[1:]} of {block.dtype}, the first {first.shape[1:]} of {first.dtype}"
        )
    bad = np.flatnonzero(~np.isfinite(block).all(tuple(range(1, block.ndim))))
    if len(bad):
        found = counted(len(bad), "row with NaN or inf", "rows with NaN or inf")
        raise ValueError(f"{where} has {found}, the first: {bad[:5].tolist()}; drop them")
    return block


def _write_header(target: BinaryIO, count: int, like: Array) -> None:
    """Of so many rows; numpy leaves room for their number to grow."""
    header = {"descr": np.lib.format.dtype_to_descr(like.dtype), "fortran_order": False}
    np.lib.format.write_array_header_1_0(target, {**header, "shape": (count, *like.shape[1:])})
