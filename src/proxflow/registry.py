"""Classes whose instances ``save`` and ``load`` know, by name. A class registers itself; nothing here lists them."""

from __future__ import annotations

import importlib
from typing import TypeVar

from torch import nn

__all__ = ["class_named", "is_storable", "name_of", "storable"]

C = TypeVar("C", bound=type)

_OWN = "proxflow."
_PACKAGES = ("schedules", "measures", "potentials", "flow", "semidiscrete", "matching", "data", "analysis")
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
