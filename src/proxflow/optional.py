"""Packages that may be missing."""

from __future__ import annotations

import importlib
from typing import Any

from proxflow.errors import MissingExtraError

__all__ = ["optional_package"]


def optional_package(module: str, extra: str, package: str | None = None) -> Any:
    """Import a module that an extra installs; ``package`` is its name for pip, where that is not the module's.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package or module.partition(".")[0], extra) from error
