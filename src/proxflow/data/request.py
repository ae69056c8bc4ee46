"""What of a data set is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from proxflow.data.raw import Array
from proxflow.scalars import whole_number

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
        if self.n is not None and (whole_number(self.n) or 0) < 1:
            raise ValueError(f"data.load: n must be a positive integer, got {self.n!r}")
        seed = whole_number(self.seed)
        if seed is None or not 0 <= seed < 2**32:
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
