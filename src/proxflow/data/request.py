"""What of a data set is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proxflow.data.raw import Array

__all__ = ["Request"]

_MEANT_FOR = {
    "label": ".csv, .parquet and .h5ad files",
    "representation": ".h5ad files",
    "data_dir": "fashion-mnist",
}


@dataclass(frozen=True)
class Request:
    """The arguments of ``load`` that readers see, checked."""

    n: int | None = None
    seed: int = 0
    label: str | None = None
    representation: str | None = None
    data_dir: Path | None = None

    def __post_init__(self) -> None:
        if self.n is not None and (self.n < 1 or self.n != int(self.n)):
            raise ValueError(f"data.load: n must be a positive integer, got {self.n!r}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"data.load: seed must be from 0 to 2^32 - 1, got {self.seed!r}")

    def rows(self, count: int, origin: str) -> Array:
        """The rows asked for out of ``count``, ascending: all of them, or ``n`` drawn without replacement."""
        if self.n is None or self.n == count:
            return np.arange(count)
        if self.n > count:
            raise ValueError(
                f"{origin} has {count:,} points, {self.n:,} were asked for; ask for fewer, or leave n= (--points) out"
            )
        # Rows are drawn because files are often sorted by class, and kept in order because series are sorted by time.
        return np.sort(np.random.default_rng(self.seed).choice(count, int(self.n), replace=False, shuffle=False))

    def refuse_unused(self, origin: str, used: frozenset[str]) -> None:
        """Arguments that would change nothing are mistakes."""
        for name, purpose in _MEANT_FOR.items():
            if name not in used and getattr(self, name) is not None:
                raise ValueError(
                    f"{origin}: {name}= (--{name.replace('_', '-')}) is for {purpose} and changes nothing here; "
                    "leave it out"
                )
