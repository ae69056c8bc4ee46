"""When and on what a page was made."""

from __future__ import annotations

import datetime
import os
import platform
from importlib import metadata
from pathlib import Path

import torch

import proxflow

__all__ = ["circumstances"]

_PACKAGES = ("numpy", "scipy", "matplotlib")


def circumstances() -> list[tuple[str, str, str]]:
    """Date, versions and machine, each with what it means and its value.

    The date is that of the environment variable SOURCE_DATE_EPOCH, where there is one, so that builds can be repeated.
    """
    versions = ", ".join([f"torch {torch.__version__}", *(f"{name} {metadata.version(name)}" for name in _PACKAGES)])
    return [
        ("date", "", _now().strftime("%Y-%m-%d %H:%M UTC")),
        ("versions", "", f"proxflow {proxflow.__version__}, {versions}, Python {platform.python_version()}"),
        ("machine", "", f"{_processor()}, {os.cpu_count()} cores, {platform.system()} {platform.machine()}"),
        ("threads", "of torch", str(torch.get_num_threads())),
    ]


def _now() -> datetime.datetime:
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given.isdecimal():
        return datetime.datetime.fromtimestamp(int(given), datetime.UTC)
    return datetime.datetime.now(datetime.UTC)


def _processor() -> str:
    """Its model where Linux says so, else what Python knows."""
    table = Path("/proc/cpuinfo")
    if table.is_file():
        for line in table.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or "processor not known"
