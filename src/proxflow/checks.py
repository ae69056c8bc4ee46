"""Numbers, points and weights as users give them (Python, torch, numpy, pandas): checked, flat, normalised."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxflow.errors import counted

__all__ = [
    "STORED",
    "Numbers",
    "as_tensor",
    "count_of",
    "flat_points",
    "in_fractions",
    "normalised_weights",
    "point_weights",
    "real_number",
    "shares_memory",
    "whole_number",
    "working_dtype",
]


def whole_number(value: object) -> int | None:
    """An integer of any such type as Python's, exactly; None for all else, truth values and whole floats included."""
    if _is_truth(value):
        return None
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def count_of(owner: str, name: str, value: object, least: int = 1) -> int:
    """A whole number of at least so much that is an argument of this name.

    Raises:
        ValueError: it is not.
    """
    number = whole_number(value)
    if number is None or number < least:
        raise ValueError(f"{owner}: {name} must be an integer of at least {least}, got {value!r}")
    return number


def real_number(value: object) -> float:
    """A real number of any such type as Python's; NaN for all else, truth values and text included.

    So that a comparison of it refuses what is no number: ``0 < real_number(tol) < math.inf``.
    """
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 0:
        value = value.item()
    if _is_truth(value) or not isinstance(value, Real):
        return float("nan")
    try:
        return float(value)
    except OverflowError:
        return float("nan")


def _is_truth(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.dtype == torch.bool
    return isinstance(value, bool | np.bool_)


Numbers: TypeAlias = Tensor | npt.ArrayLike
"""What ``as_tensor`` takes: tensors, numpy arrays, pandas objects, nested sequences of numbers."""

_Array = npt.NDArray[Any]
_AT_ONCE = 1 << 24  # bytes of rows that are looked at
_CONVERTIBLE = "a torch tensor, a numpy array or a pandas object of numbers"
_PARTS = {
    "toarray": "call its .toarray()",
    "points": "give its .points",
    "obsm": "give its .X, or coordinates such as its .obsm['X_pca']",
    "tensors": "give its .tensors[0]",
}  # what to take of things that hold numbers, by an attribute of theirs


def as_tensor(caller: str, name: str, value: object) -> Tensor:
    """A tensor, a numpy array, a pandas object or a nested sequence of numbers as a dense tensor of real numbers.

    Values are taken in order: the index of a DataFrame or Series is ignored. A tensor comes back as it is, gradient
    included; an array shares its memory where torch can use it, and keeps its dtype; the numbers of plain sequences,
    which Python holds in float64, stay so.

    Raises:
        ValueError: a sparse, nested, quantised or complex tensor, one without data, text, objects, masked or missing
            entries, or no array at all.
    """
    if isinstance(value, Tensor):
        return _plain(caller, name, value)
    array = _array_of(caller, name, value)
    if array.dtype.kind not in "fiub":
        _refuse(caller, name, f"an array of {array.dtype}", _remedy(array.dtype.kind))
    try:
        return torch.from_numpy(_usable(array))
    except TypeError:  # longdouble, which torch does not have
        _refuse(caller, name, f"an array of {array.dtype}", "convert it to float64")


STORED = torch.float16, torch.bfloat16, torch.uint8, torch.int8
"""Dtypes that rows may be stored in, to be computed with in float32: whole numbers are those that they hold."""


def working_dtype(rows: Tensor) -> torch.dtype:
    """The dtype of noise, scores and results that go with rows: theirs, but float32 if they are stored in fewer bytes.

    A number of any dtype in ``STORED`` is one of float32 too: nothing is lost where rows are converted.
    """
    return torch.promote_types(rows.dtype, torch.float32)


def in_fractions(points: Tensor) -> Tensor:
    """Points, whole numbers as float32: their own dtype has no noise, and not all sums, negatives and products."""
    return points if points.is_floating_point() else points.to(torch.float32)


def flat_points(caller: str, points: Numbers, name: str = "points", *, stored: bool = False) -> Tensor:
    """Points (N, *event), in any form that ``as_tensor`` takes, as a tensor (N, d), detached.

    Args:
        caller: for messages, as is ``name``.
        points: in their dtype they stay.
        name: of the argument.
        stored: whether float16, bfloat16, uint8 and int8 are taken too, as storage: see ``working_dtype``.

    Raises:
        ValueError: nothing that ``as_tensor`` takes, no points, another dtype, or rows that are not finite.
    """
    tensor = as_tensor(caller, name, points)
    if tensor.ndim < 2 or tensor.numel() == 0:
        remedy = "reshape numbers of the line to (N, 1)" if tensor.ndim == 1 else "give rows of numbers"
        raise ValueError(f"{caller}: {name} must be a non-empty (N, *event) array, got {tuple(tensor.shape)}; {remedy}")
    if tensor.is_meta:
        raise ValueError(f"{caller}: {name} are on the meta device, without data; give them on another")
    if tensor.dtype not in (torch.float32, torch.float64, *(STORED if stored else ())):
        raise ValueError(f"{caller}: {name} must be float32 or float64, got {tensor.dtype}; convert them to float32")
    flat = tensor.detach().reshape(len(tensor), -1)
    parts = flat.split(max(1, _AT_ONCE // max(1, flat[:1].nbytes)))
    bad = torch.nonzero(~torch.cat([torch.isfinite(part).all(1) for part in parts]))[:, 0]
    if len(bad):
        raise ValueError(
            f"{caller}: {counted(len(bad), f'row of {name} holds', f'rows of {name} hold')} NaN or inf, the first: "
            f"{bad[:5].tolist()}; drop them"
        )
    return flat


def shares_memory(tensor: Tensor, given: Numbers) -> bool:
    """Whether a tensor may be in the memory of what a user gave and may change: a mapped file does not count."""
    if isinstance(given, Tensor):
        return tensor.untyped_storage().data_ptr() == given.untyped_storage().data_ptr()
    return not isinstance(given, np.ndarray) or np.may_share_memory(tensor.numpy(), given)


def point_weights(caller: str, weights: Numbers | None, points: Tensor, name: str = "weights") -> Tensor:
    """Weights (N,) of the rows of points as float64 of sum 1, on the points' device, detached; equal if None.

    Takes what ``as_tensor`` takes. Only their proportions count, whatever their size.

    Raises:
        ValueError: nothing that ``as_tensor`` takes, not one for each row, not finite, negative, or all zero.
    """
    if weights is None:
        return torch.full((len(points),), 1 / len(points), dtype=torch.float64, device=points.device)
    return normalised_weights(caller, weights, points, name).detach()


def normalised_weights(caller: str, weights: Numbers, points: Tensor, name: str = "weights") -> Tensor:
    """The same as ``point_weights``, differentiable in the weights given."""
    tensor = as_tensor(caller, name, weights).to(points.device, torch.float64)
    if tensor.shape != (len(points),):
        raise ValueError(f"{caller}: {name} must have shape ({len(points)},), got {tuple(tensor.shape)}")
    bad = torch.nonzero(~(torch.isfinite(tensor) & (tensor >= 0)))[:, 0]
    if len(bad):
        raise ValueError(f"{caller}: {name} must be finite and not negative; rows {bad[:5].tolist()} are not")
    largest = float(tensor.detach().max())
    if not largest > 0:
        raise ValueError(f"{caller}: the {name} are all zero")
    # a power of two rounds nothing; the sum of huge weights would overflow, that of tiny ones lose digits
    tensor = tensor / math.ldexp(1.0, max(math.frexp(largest)[1] - 1, -1000))
    return tensor / tensor.sum()


def _plain(caller: str, name: str, tensor: Tensor) -> Tensor:
    """The tensor, if its numbers can be read row by row."""
    if tensor.is_nested:
        _refuse(caller, name, "a nested tensor", "give rows of one shape, such as torch.stack(rows)")
    if tensor.layout != torch.strided:
        _refuse(caller, name, f"a tensor of layout {tensor.layout}", "call its .to_dense()")
    if tensor.is_quantized:
        _refuse(caller, name, "a quantised tensor", "call its .dequantize()")
    if tensor.is_complex():
        _refuse(caller, name, f"a tensor of {tensor.dtype}", _remedy("c"))
    return tensor


def _array_of(caller: str, name: str, value: object) -> _Array:
    """The numpy array that a value is, holds or converts to."""
    if isinstance(value, np.ma.MaskedArray):
        return _unmasked(caller, name, value)
    kind = type(value).__name__
    if not (isinstance(value, list | tuple) or hasattr(value, "__array__") or hasattr(value, "to_numpy")):
        remedies = (remedy for attribute, remedy in _PARTS.items() if hasattr(value, attribute))
        _refuse(caller, name, kind, next(remedies, "convert it"))
    try:
        if isinstance(value, np.memmap):
            return value
        return _column_values(value) if hasattr(value, "to_numpy") else np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{caller}: {name} must be {_CONVERTIBLE}, got {kind} ({error})") from error


def _column_values(value: Any) -> _Array:
    """Values of a pandas object in order; of numeric columns that can be missing, with NaN for what is missing."""
    array: _Array = np.asarray(value.to_numpy())
    if array.dtype.kind != "O":
        return array
    dtypes = getattr(value, "dtypes", None)
    columns = list(dtypes) if np.iterable(dtypes) else [dtypes]
    others = [number for number, column in enumerate(columns) if not _is_number_type(column)]
    if others:
        names = list(getattr(value, "columns", [getattr(value, "name", None)]))
        raise TypeError(f"no numbers in {', '.join(repr(names[number]) for number in others)}; drop or convert them")
    dtype = np.result_type(np.float32, *(getattr(column, "numpy_dtype", column) for column in columns))
    return np.asarray(value.to_numpy(dtype=dtype, na_value=np.nan))


def _is_number_type(dtype: Any) -> bool:
    """Whether a dtype, of pandas or of polars, is one of numbers that numpy has."""
    if hasattr(dtype, "is_numeric"):
        return bool(dtype.is_float() or dtype.is_integer())
    return getattr(dtype, "kind", "O") in "fiu"


def _unmasked(caller: str, name: str, array: np.ma.MaskedArray[Any, Any]) -> _Array:
    masked = np.ma.getmaskarray(array)
    rows = np.unique(np.nonzero(np.atleast_1d(masked))[0])
    if len(rows):
        raise ValueError(
            f"{caller}: {counted(len(rows), f'row of {name} is', f'rows of {name} are')} masked, the first: "
            f"{rows[:5].tolist()}; drop or fill them"
        )
    return np.ma.getdata(array)


def _usable(array: _Array) -> _Array:
    """The array, or a copy where torch cannot share its memory or must not write to it; of a file a mapping."""
    if isinstance(array, np.memmap) and array.ndim and array.mode == "r" and array.flags.c_contiguous:
        array = _mapped_again(array)
    shared = (
        array.flags.writeable
        and array.flags.aligned
        and array.dtype.isnative
        and all(stride >= 0 and stride % array.itemsize == 0 for stride in array.strides)
    )
    return array if shared else array.astype(array.dtype.newbyteorder("="), order="C")


def _mapped_again(array: np.memmap[Any, np.dtype[Any]]) -> _Array:
    """A mapping of the same part of the same file, written to in memory only; the array itself if the file changed."""
    root = array
    while isinstance(root.base, np.memmap):
        root = root.base
    start = root.offset + array.ctypes.data - root.ctypes.data
    try:
        private = np.memmap(str(array.filename), array.dtype, "c", start, array.shape)
    except (OSError, ValueError):
        return array
    size = max(1, _AT_ONCE // max(1, array[:1].nbytes))
    parts = (slice(first, first + size) for first in range(0, len(array), size))
    return private if all(array[part].tobytes() == private[part].tobytes() for part in parts) else array


def _remedy(kind: str) -> str:
    if kind == "c":
        return "give real and imaginary parts as coordinates of their own"
    return "convert it to numbers"


def _refuse(caller: str, name: str, got: str, remedy: str) -> NoReturn:
    raise ValueError(f"{caller}: {name} must be {_CONVERTIBLE}, got {got}; {remedy}")
