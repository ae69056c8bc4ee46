"""What readers share: errors that name the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from proxflow.errors import MissingExtraError

__all__ = ["reading"]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a reader raises into a ValueError of one line that names the file.

    Readers raise errors of many libraries; whatever it was, the file could not be read.
    """
    try:
        yield
    except MissingExtraError:
        raise
    except Exception as error:
        raise ValueError(f"{path} cannot be read ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        return kind
    return lines[0] if kind == "ValueError" else f"{kind}: {lines[0]}"
