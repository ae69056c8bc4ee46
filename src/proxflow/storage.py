"""Saving and loading: one safetensors file with a JSON description, versioned, without unpickling.

An object is stored as its constructor call: its class and arguments, tensors apart. Loading calls the constructor
again, so that what is read passes the same checks as what a user builds. A class registers itself, by the decorator
``storable``; nothing here lists them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import importlib
import json
import math
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import safetensors
import torch
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from proxflow.version import __version__

__all__ = [
    "class_named", "is_storable", "load", "name_of", "save", "storable", "write_atomically", "written_atomically",
]  # fmt: skip

C = TypeVar("C", bound=type)

_OWN = "proxflow."
_PACKAGES = ("schedules", "measures", "symmetry", "potentials", "flow", "semidiscrete", "matching", "data", "analysis")
_CLASSES: dict[str, type] = {}


def storable(cls: C) -> C:
    """Let ``save`` and ``load`` take instances of a class: a decorator.

    An instance is stored as its constructor call. The class says what the arguments are by a method
    ``constructor_arguments()``, which gives them by name; of a dataclass these are its fields, of any other class its
    attributes, less a leading underscore. Arguments may be tensors, numbers, text, tuples, lists, dictionaries of
    these, and instances of storable classes. Loading calls the constructor.

    A file names a class of yours by its module: import that before ``load``, which itself imports nothing but proxflow.

    Raises:
        TypeError: a torch.nn.Module without ``constructor_arguments``, or two classes of proxflow with one name.
    """
    if issubclass(cls, nn.Module) and not hasattr(cls, "constructor_arguments"):
        raise TypeError(
            f"storable: {cls.__name__} is a module and needs a method constructor_arguments(), which gives the "
            "arguments that build it again, state_dict() among them"
        )
    name = name_of(cls)
    known = _CLASSES.get(name)
    if known is not None and known.__module__ != cls.__module__:
        raise TypeError(f"storable: {name} is a class of {known.__module__} already, here of {cls.__module__}")
    _CLASSES[name] = cls  # of two in one module the later is known, as when a notebook's cell runs again
    return cls


def name_of(cls: type) -> str:
    """What a file calls a class: proxflow's own by their name alone, so that they can move within it."""
    return cls.__name__ if cls.__module__.startswith(_OWN) else f"{cls.__module__}.{cls.__qualname__}"


def is_storable(value: object) -> bool:
    """Whether the class of a value is registered: that class itself, since a subclass may take other arguments."""
    return _CLASSES.get(name_of(type(value))) is type(value)


def class_named(name: str) -> type | None:
    """The class of this name, if it is registered; packages of proxflow that were not used yet are looked through."""
    packages = iter(_PACKAGES)
    while name not in _CLASSES and "." not in name and (package := next(packages, None)) is not None:
        importlib.import_module(_OWN + package)
    return _CLASSES.get(name)


_FORMAT_VERSION = 1
_NO_ROOM = errno.ENOSPC, errno.EDQUOT


def save(obj: object, path: str | os.PathLike[str]) -> None:
    """Write a potential, flow, fit, schedule, standardisation or network to ``path``.

    The file is complete or not there: an interrupted write leaves an older file as it was.

    Raises:
        TypeError: the object, or something inside it, is of a class that cannot be stored.
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    tensors: dict[str, Tensor] = {}
    tree = _encode(obj, "root", tensors)
    header = {"format_version": _FORMAT_VERSION, "proxflow": __version__, "object": tree}
    write_atomically(Path(path), to_bytes(tensors, metadata={"proxflow": json.dumps(header)}))


def load(path: str | os.PathLike[str]) -> Any:
    """Read what ``save`` wrote; tensors come back on the CPU in their dtype.

    Raises:
        FileNotFoundError: there is no such file.
        IsADirectoryError: it is a folder; those of the command line keep several files.
        ValueError: the file is not from proxflow, is damaged, or is of a newer format.
    """
    path = Path(path)
    if path.is_dir():
        stored = ", ".join(sorted(file.name for file in path.glob("*.safetensors"))) or "none is there"
        raise IsADirectoryError(f"{path} is a folder; load one of its .safetensors files ({stored})")
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error})") from error
    if "proxflow" not in metadata:
        raise ValueError(f"{path} is not a proxflow file; write one with proxflow.save")
    try:
        header = json.loads(metadata["proxflow"])
        version, writer, tree = header["format_version"], header["proxflow"], header["object"]
        if version > _FORMAT_VERSION:
            raise ValueError(
                f"{path} has format {version}, written by proxflow {writer}; this version "
                f"reads up to {_FORMAT_VERSION}: upgrade proxflow"
            )
        return _decode(tree, tensors, path)
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged: its description cannot be read ({error!r})") from error


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, the old content or the new one is there.

    Raises:
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    with written_atomically(path) as file:
        file.write(content)


@contextlib.contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """A file to write to that takes the place of ``path`` at the end of the block, and is gone after an error.

    Where ``path`` is a link, the file that it leads to is replaced, and the link stays.

    Raises:
        FileNotFoundError: the folder of ``path`` does not exist.
    """
    whole = Path(os.path.realpath(path))
    if not whole.parent.is_dir():
        folder = whole.parent if path.is_symlink() else path.parent
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {folder}; make it first")
    partial = whole.with_name(f".{whole.name}.{secrets.token_hex(4)}")
    try:
        with open(partial, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, whole)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and (
            error.filename in (str(partial), str(whole))  # the first nobody gave
            or (error.filename is None and error.errno in _NO_ROOM)  # of writing to a file that is open
        ):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def _encode(value: object, key: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor) and value.layout == torch.strided and not value.is_meta:
        while key in tensors:  # as of {"a.b": x, "a": {"b": y}}, or of {1: x, "1": y}
            key = f"{key} ({len(tensors)})"
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {"tensor": key}
    if isinstance(value, dict):
        items = [[_encoded_name(key, name), _encode(item, f"{key}.{name}", tensors)] for name, item in value.items()]
        return {"items": items}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{key}.{i}", tensors) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if not is_storable(value):
        raise TypeError(f"save: {key} is a {type(value).__name__}, which cannot be stored; {_instead_of(value)}")
    arguments = {k: _encode(v, f"{key}.{k}", tensors) for k, v in _arguments(value).items()}
    return {"class": name_of(type(value)), "arguments": arguments}


def _encoded_name(key: str, name: object) -> Any:
    """A key of the dictionary at ``key``: text, a number, None, or a tuple of these."""
    tensors: dict[str, Tensor] = {}
    encoded = _encode(name, f"a key of {key}", tensors)
    if tensors:
        raise TypeError(f"save: a key of {key} is a {type(name).__name__}, which cannot be stored; name it by text")
    return encoded


def _instead_of(value: object) -> str:
    """What to do with an object that cannot be stored."""
    if isinstance(value, torch.nn.Module):
        return (
            "decorate its class with proxflow.storable, or keep the state_dict of a module of your own with torch.save"
        )
    if isinstance(value, Tensor):
        return "give a dense tensor that holds numbers, as of .to_dense()"
    if hasattr(value, "sample") and hasattr(value, "directions"):
        return (
            "of a coupling in some directions, save its potential and its directions, "
            'as proxflow.save({"potential": c.potential, "directions": c.directions}, path)'
        )
    if hasattr(value, "sample"):
        return "of a coupling, save its potential"
    return "storable are proxflow's potentials, flows, fits, schedules, standardisations, networks and results"


def _unknown(name: str) -> str:
    """What to do about a class that is not registered."""
    module, _, _ = name.rpartition(".")
    if not module:
        return "which this version of proxflow does not know"
    return f"a class of somebody's own; import {module} first, where proxflow.storable is to decorate it"


def _arguments(value: object) -> dict[str, object]:
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    describe = getattr(value, "constructor_arguments", None)
    if describe is not None:
        arguments: dict[str, object] = describe()
        return arguments
    return {name.lstrip("_"): entry for name, entry in vars(value).items()}


def _decode(tree: Any, tensors: dict[str, Tensor], path: Path) -> Any:
    if isinstance(tree, list):
        return [_decode(item, tensors, path) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if "tensor" in tree:
        return tensors[tree["tensor"]]
    if "float" in tree:
        return float(tree["float"])
    if "items" in tree:
        return {_decode(name, tensors, path): _decode(item, tensors, path) for name, item in tree["items"]}
    if "tuple" in tree:
        return tuple(_decode(item, tensors, path) for item in tree["tuple"])
    name = tree["class"]
    known = class_named(name)
    if known is None:
        raise ValueError(f"{path} holds a {name!r}, {_unknown(name)}")
    arguments = {key: _decode(value, tensors, path) for key, value in tree["arguments"].items()}
    try:
        value = known(**arguments)
    except TypeError as error:
        raise ValueError(
            f"{path} holds a {name} that this version of proxflow builds from other arguments ({error}): make the file "
            "again with this version, or read it with the one that wrote it"
        ) from error
    except ValueError as error:
        raise ValueError(f"{path} holds a {name} that cannot be built ({error})") from error
    if hasattr(value, "constructor_arguments"):
        _restore_tensors(value, arguments)
    return value


def _restore_tensors(value: Any, arguments: dict[str, Any]) -> None:
    """Undo the rounding of constructors that normalise, so that what comes back is what was saved, bit by bit."""
    with torch.no_grad():
        for name, argument in arguments.items():
            kept = getattr(value, name, None)
            if isinstance(argument, Tensor) and isinstance(kept, Tensor):
                kept.copy_(argument)
