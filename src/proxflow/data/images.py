"""A folder of images, read as torchvision's ImageFolder reads it: its sub-folders are classes."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from proxflow.data.pixels import ON_WHITE, SUFFIXES, frames_of, read_pixels
from proxflow.data.reading import Array, Raw, Request, fits_in_memory, listed, reading
from proxflow.errors import counted

__all__ = ["SPLITS", "notes_on_changes", "read_images", "stack_images"]

SPLITS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"})
_SYSTEM_FILES = frozenset({"__macosx", "@eadir", "thumbs.db", "desktop.ini"})  # beside those that begin with a dot
_GREY = "grey"  # an image that is grey among coloured ones, as it is counted
_Frame = tuple[Path, int | None]  # a file, and which of its images; None for the only one


def read_images(folder: Path, request: Request) -> Raw:
    """All images below a folder in order of their paths, in [0, 1]: (N, H, W) if all are grey, else (N, 3, H, W).

    The sub-folders of the folder are classes, with all that lies below them. What the system or an editor hides is
    skipped; links are followed.

    Raises:
        ValueError: no images, splits such as ``train`` and ``test`` of which none is chosen, or images beside the
            sub-folders of classes.
    """
    root = _split(folder, request.split)
    files = sorted(_visible(root))
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if not paths:
        raise ValueError(f"{root} holds no images ({', '.join(sorted(SUFFIXES))}){_others(files)}")
    classes = _classes(root, paths)
    if request.split is None:
        _refuse_splits(folder, classes)
    frames = [frame for path in paths for frame in _frames(path, request)]
    notes = [f"{counted(len(classes), 'class', 'classes')} by sub-folder: {listed(classes)}"] if classes else []
    if len(paths) < len(files):
        notes.append(f"left out {_others(files).removeprefix('; ')}")
    changes: Counter[str] = Counter()
    number = {name: number for number, name in enumerate(classes)}
    labels = np.array([number[path.relative_to(root).parts[0]] for path, _ in frames]) if classes else None
    return Raw(
        len(frames),
        lambda rows: _stacked([frames[row] for row in rows], request.size, changes),
        labels,
        tuple(classes) or None,
        tuple(notes),
        notes_on_taken=lambda: notes_on_changes(changes),
    )


def _split(folder: Path, split: str | None) -> Path:
    if split is None:
        return folder
    there = sorted(path.name for path in folder.iterdir() if path.is_dir() and not _hidden(path.name))
    if split not in there:
        raise ValueError(f"{folder} has no sub-folder {split!r}; it has {listed(there) or 'none'}")
    return folder / split


def _refuse_splits(folder: Path, classes: list[str]) -> None:
    """One name of a split among many may be a class, such as ``train`` among vehicles; two are splits."""
    splits = [name for name in classes if name.lower() in SPLITS]
    if len(splits) >= min(2, max(1, len(classes))):
        raise ValueError(
            f"{folder}: {listed(splits)} are splits of the data rather than classes; choose one with "
            f"split={splits[0]!r} (--split {splits[0]})"
        )


def _visible(folder: Path) -> Iterator[Path]:
    """Files below a folder; a folder that is reached twice, through a link, is read once."""
    seen = {os.path.realpath(folder)}
    for parent, folders, names in os.walk(folder, onerror=_unreadable, followlinks=True):
        new = {name: os.path.realpath(os.path.join(parent, name)) for name in sorted(folders) if not _hidden(name)}
        folders[:] = [name for name, place in new.items() if place not in seen]
        seen |= set(new.values())
        yield from (Path(parent, name) for name in names if not _hidden(name))


def _unreadable(error: OSError) -> None:
    """A folder that may not be entered would otherwise be a class that is missing without a word."""
    raise ValueError(f"{error.filename} cannot be read ({error.strerror})") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM_FILES


def _others(files: list[Path]) -> str:
    """The files that are no images, by their suffixes."""
    suffixes = Counter(path.suffix.lower() for path in files)
    kinds = sorted(suffix for suffix in suffixes if suffix not in SUFFIXES)
    count = sum(suffixes[kind] for kind in kinds)
    return f"; {counted(count, 'other file')}: {listed([kind or 'no suffix' for kind in kinds])}" if count else ""


def _classes(root: Path, paths: list[Path]) -> list[str]:
    parts = [path.relative_to(root).parts for path in paths]
    classes = sorted({part[0] for part in parts if len(part) > 1})
    beside = [part[0] for part in parts if len(part) == 1]
    if classes and beside:
        raise ValueError(
            f"{root}: {listed(beside, 3)} {'lies' if len(beside) == 1 else 'lie'} beside sub-folders of images "
            f"({listed(classes, 3)}), which are classes; move images into sub-folders, or others out of {root}"
        )
    return classes


def _frames(path: Path, request: Request) -> list[_Frame]:
    if request.frames != "all":
        return [(path, None if request.frames is None else 0)]
    with reading(path):
        return [(path, frame) for frame in range(frames_of(path))]


def _stacked(frames: list[_Frame], size: int | None, changes: Counter[str]) -> Array:
    changes.clear()
    return stack_images(_pixels(frames, size, changes), [path for path, _ in frames], changes)


def _pixels(frames: list[_Frame], size: int | None, changes: Counter[str]) -> Iterator[Array]:
    for path, group in itertools.groupby(frames, key=lambda frame: frame[0]):
        chosen = [number for _, number in group if number is not None]
        with reading(path):
            images = read_pixels(path, chosen or None, size, changes)
        yield from images


def notes_on_changes(changes: Counter[str]) -> list[str]:
    """What was changed, without being asked for, in the images that were taken."""
    notes = []
    if changes[_GREY]:
        notes.append(f"{counted(changes[_GREY], 'grey image')} made red, green and blue, as the others are")
    if changes[ON_WHITE]:
        notes.append(f"{counted(changes[ON_WHITE], 'image')} with transparent pixels put on white")
    return notes


def stack_images(images: Iterable[Array], places: Sequence[object], changes: Counter[str]) -> Array:
    """Images one after another, from as many places: (N, H, W) if all are grey, else (N, 3, H, W).

    In ``changes`` the grey ones among others are counted.

    Raises:
        ValueError: they have different sizes, or all together do not fit in memory.
    """
    found: list[Array] = []
    for image in images:
        found.append(image)
        _require_one_size(found, places)
        fits_in_memory(len(places) * image.size, "take fewer with n= (--points), or smaller ones with size= (--size)")
    if all(image.ndim == 2 for image in found):
        return np.stack(found)
    changes[_GREY] += sum(image.ndim == 2 for image in found)
    coloured = [image if image.ndim == 3 else np.repeat(image[:, :, None], 3, axis=2) for image in found]
    return np.moveaxis(np.stack(coloured), -1, 1)


def _require_one_size(images: list[Array], places: Sequence[object]) -> None:
    (height, width), last = images[0].shape[:2], images[-1].shape[:2]
    if last != (height, width):
        raise ValueError(
            f"{places[len(images) - 1]} has {last[0]} x {last[1]} pixels, {places[0]} has {height} x {width}; "
            "resize them to one size, such as with size=32 (--size 32)"
        )
