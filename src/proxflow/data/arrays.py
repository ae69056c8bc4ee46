"""Files of arrays: .npy, .npz and .pt, read without unpickling code."""

from __future__ import annotations

import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxflow.data.labels import flat
from proxflow.data.reading import Array, Raw, Request, array_of_tensor, fits_in_memory, listed

__all__ = ["read_npy", "read_npz", "read_pt"]

# What points are called, and then their labels; also as a part of a name, such as x_train and y_train.
_PARTNERS = {
    "points": ("labels",),
    "x": ("y",),
    "X": ("y", "Y"),
    "images": ("labels",),
    "image": ("label",),
    "data": ("labels", "label", "target", "targets"),
    "features": ("labels", "label"),
    "embeddings": ("labels", "label"),
    "inputs": ("targets", "labels"),
}
_LEGACY = bytes.fromhex("80028a0a6cfc9c46f9206aa850192e")  # how files of torch.save begin that are no archives
_SAVED_PLAINLY = "save it as numbers, or as text with astype(str)"
_LEAST_SIDE = 5  # pixels of an image whose channels come last; a side of 1, 3 or 4 could be the channels


class _Objects:
    """In place of an array of Python objects, which is not read."""


def read_npy(path: Path, request: Request) -> Raw:
    """An array of points, of which those asked for are read."""
    with path.open("rb") as file:
        shape, dtype = _header(file, path.stat().st_size)
        if not dtype.hasobject and math.prod(shape) > 0:
            share = 1 if request.n is None or not shape else min(request.n, shape[0]) / shape[0]
            fits_in_memory(math.ceil(share * math.prod(shape)), "take fewer points with n= (--points)")
            return _raw(np.load(path, mmap_mode="r", allow_pickle=False))
        file.seek(0)
        return _raw(np.lib.format.read_array(file, allow_pickle=False))


def read_npz(path: Path, request: Request) -> Raw:
    """Points and labels among its entries."""
    if not zipfile.is_zipfile(path):
        raise ValueError("truncated, or not a file of numpy.savez")
    with zipfile.ZipFile(path) as content:
        members = [member for member in content.infolist() if member.filename.endswith(".npy")]
        plain = {member.filename.removesuffix(".npy"): _is_plain(content, member) for member in members}
    with np.load(path, allow_pickle=False) as archive:
        return _chosen({name: archive[name] if plain[name] else _Objects() for name in plain}, request)


def _is_plain(content: zipfile.ZipFile, member: zipfile.ZipInfo) -> bool:
    with content.open(member) as file:
        return not _check_header(file, member.file_size).hasobject


def read_pt(path: Path, request: Request) -> Raw:
    """A tensor, a pair of points and labels, or points and labels among the entries of a dict."""
    with path.open("rb") as file:
        legacy = file.read(len(_LEGACY)) == _LEGACY
    if not legacy and not zipfile.is_zipfile(path):
        raise ValueError("truncated, or not a file of torch.save")
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except pickle.UnpicklingError as error:
        raise ValueError(
            "it holds objects other than tensors, which would run code; save a tensor, or a dict of tensors"
        ) from error
    if isinstance(content, Mapping):
        return _chosen({str(name): entry for name, entry in content.items()}, request)
    if request.array is not None or request.label is not None:
        raise ValueError("its entries have no names; leave out array= (--array) and label= (--label)")
    return _of_sequence(content) if isinstance(content, list | tuple) else _raw(_array(content))


def _check_header(file: Any, size: int) -> np.dtype[Any]:
    """The dtype of an array, which is refused if larger than its file or memory, before memory is asked for."""
    shape, dtype = _header(file, size)
    if not dtype.hasobject:
        fits_in_memory(math.prod(shape), "save a part of the array in a file of its own")
    return dtype


def _header(file: Any, size: int) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """The shape and dtype of an array, which is refused if larger than its file."""
    version = np.lib.format.read_magic(file)
    if version[0] > 2:  # written for names of fields that are not ASCII, and structured arrays are no points
        raise ValueError(f"its format {version[0]}.{version[1]} is not that of an array of numbers")
    read = np.lib.format.read_array_header_1_0 if version[0] == 1 else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    needed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if needed > there and not dtype.hasobject:
        raise ValueError(f"truncated: an array {shape} of {dtype} needs {needed:,} bytes, it has {there:,}")
    return shape, dtype


def _of_sequence(content: list[Any] | tuple[Any, ...]) -> Raw:
    """A pair of points and labels, as torchvision kept MNIST, or a nested list of numbers."""
    if not any(isinstance(entry, Tensor | np.ndarray) for entry in content):
        return _raw(np.asarray(content))
    entries = [_array(entry) for entry in content]
    if len(entries) == 2 and entries[0].ndim > 1 and _are_labels(entries[1], len(entries[0])):
        return _raw(entries[0], entries[1])
    found = listed([_shape(entry) for entry in entries], 4)
    raise ValueError(
        f"it holds a {type(content).__name__} of arrays {found}; save the points alone (torch.stack makes one tensor "
        "of many), a pair of points and labels, or a dict with the entries 'points' and 'labels'"
    )


def _chosen(content: dict[str, Any], request: Request) -> Raw:
    """The points asked for or the only ones, and the labels asked for or those that go with them by name."""
    name = _points_among(content) if request.array is None else _entry(content, request.array, "array")
    points = np.atleast_1d(_array(content[name]))
    doubts = []
    if request.label is not None:
        label: str | None = _entry(content, request.label, "label")
    else:
        label = next((other for other in _partners(name) if other in content and other != name), None)
        if label not in (None, "labels") and not _are_labels(content[label], len(points)):
            doubts.append(_why_no_labels(content[label], label, name, len(points)))
            label = None  # such as the target of a regression
    others = [other for other in content if other not in (name, label)]
    notes = (
        []
        if len(content) == 1 or name == "points"
        else [f"points: {name}, {f'labels: {label}' if label else 'no labels'}"]
    )
    if others:
        notes.append(f"left out: {listed(others)}; array= (--array) and label= (--label) choose")
    labels = None if label is None else _array(content[label])
    return replace(_raw(points, labels, tuple(notes)), doubts=tuple(doubts))


def _why_no_labels(entry: Any, label: str, points: str, count: int) -> str:
    """A doubt about an entry that goes with the points by its name."""
    said = f"the entry {label!r} is left out, though by its name it holds the labels of {points!r}: it "
    if isinstance(entry, _Objects):
        return f"{said}holds Python objects, which are not read, since that would run code; {_SAVED_PLAINLY}"
    labels = flat(_array(entry))
    if labels.shape != (count,):
        return f"{said}has the shape {labels.shape}, and there are {count:,} points; save a label for each of them"
    if labels.dtype.kind != "f":
        return f"{said}holds {labels.dtype}; {_SAVED_PLAINLY}"
    return f"{said}holds numbers that are not whole; label={label!r} (--label {label}) takes them as they are"


def _entry(content: dict[str, Any], name: str, argument: str) -> str:
    if name not in content:
        raise ValueError(f"there is no entry {name!r} for {argument}= (--{argument}); it holds {_inventory(content)}")
    return name


def _points_among(content: dict[str, Any]) -> str:
    """The entry called points, the only one, or the only one of two dimensions or more that is nobody's labels."""
    if "points" in content or not content:
        return _entry(content, "points", "array")
    if len(content) == 1:
        return next(iter(content))
    labels = {label for name in content for label in _partners(name) if label != name}
    found = [name for name in content if name not in labels and len(_shape_of(content[name])) > 1]
    if len(found) != 1:
        raise ValueError(
            f"it holds {_inventory(content)}; choose the points with array= (--array), and their labels with label= "
            "(--label)"
        )
    return found[0]


def _partners(name: str) -> list[str]:
    """What the labels of points of this name may be called."""
    found = []
    for points, labels in _PARTNERS.items():
        part = re.compile(rf"(?<![^_]){points}(?![^_])")
        if part.search(name):
            found += [part.sub(label, name) for label in labels]
    return [*found, "labels"]


def _are_labels(entry: Any, count: int) -> bool:
    """Whether an entry can be the labels of so many points: whole numbers, text, or rows with a single 1."""
    if isinstance(entry, _Objects):
        return False
    labels = flat(_array(entry))
    if labels.shape != (count,):
        return False
    return labels.dtype.kind in "iubU" or (labels.dtype.kind == "f" and bool((labels == np.rint(labels)).all()))


def _raw(points: Array, labels: Array | None = None, notes: tuple[str, ...] = ()) -> Raw:
    points, said = _channels_first(points)
    return Raw.of(points, None if labels is None else flat(labels), (*notes, *said))


def _channels_first(points: Array) -> tuple[Array, tuple[str, ...]]:
    """(N, C, H, W) of images (N, H, W, C), which networks and pages of images need."""
    shape = points.shape
    last = len(shape) == 4 and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4) and min(shape[1:3]) >= _LEAST_SIDE
    if not last:
        return points, ()
    made = np.moveaxis(points, -1, 1)
    return made, (f"images {shape} with channels last were made {made.shape}, channels first",)


def _inventory(content: dict[str, Any]) -> str:
    return listed([f"{name} {_shape(entry)}" for name, entry in content.items()], 8) or "nothing"


def _shape(entry: Any) -> str:
    return str(_shape_of(entry)) if isinstance(entry, Tensor | np.ndarray) else type(entry).__name__.strip("_").lower()


def _shape_of(entry: Any) -> tuple[int, ...]:
    return tuple(entry.shape) if isinstance(entry, Tensor | np.ndarray) else ()


def _array(value: Any) -> Array:
    if isinstance(value, _Objects):
        raise ValueError(f"it holds an array of Python objects, which would run code; {_SAVED_PLAINLY}")
    if isinstance(value, Tensor):
        array = array_of_tensor("torch.load", "an entry", value)
        return array.astype(np.float64) if array.dtype.kind == "f" else array
    return np.asarray(value)
