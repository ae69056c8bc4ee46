"""What a run of a fit shares: its clock, its progress line and its checkpoint file."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from proxflow.fingerprint import fingerprint, source_probes
from proxflow.measures import Source
from proxflow.progress import reporter
from proxflow.semidiscrete.ranks import ALONE, Ranks
from proxflow.storage import load, save, storable

__all__ = ["Checkpoint", "Session", "fit_fingerprint"]

_SAVE_EVERY = 10.0  # seconds


@storable
@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds: whose fit, the seconds spent, and the state of its method."""

    fingerprint: str
    seconds: float
    state: object


class Session:
    """One run: time spent (earlier, interrupted runs included), a line of progress, and where to save the state.

    Of several processes the first alone reports, saves and reads; all begin from what it read.

    Raises:
        ValueError: the checkpoint belongs to another fit, or is no checkpoint.
    """

    def __init__(
        self,
        began: float,
        progress: bool | None,
        path: str | os.PathLike[str] | None,
        identity: str | None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.ranks = ranks
        self._began = began
        self._path = None if path is None or ranks.rank > 0 else Path(path)
        self._fingerprint = identity
        self._saved_at = time.perf_counter()
        self.report = reporter("fit", progress if ranks.rank == 0 else False)
        earlier = ranks.from_first(self._earlier)
        self.state: object = None if earlier is None else earlier.state
        if earlier is not None:
            self._began -= earlier.seconds
            self.report(f"resumed from {path}, after {earlier.seconds:.1f} s")

    @property
    def seconds(self) -> float:
        """Wall time spent."""
        return time.perf_counter() - self._began

    def save(self, state: object, *, now: bool) -> None:
        """Keep a state: on disk if ``now`` or if the last time was long ago."""
        if self._path is None or not (now or time.perf_counter() - self._saved_at > _SAVE_EVERY):
            return
        save(Checkpoint(str(self._fingerprint), self.seconds, state), self._path)
        self._saved_at = time.perf_counter()

    def _earlier(self) -> Checkpoint | None:
        path = self._path
        if path is None:
            return None
        if not path.parent.is_dir():
            raise ValueError(f"fit: the folder of the checkpoint {path} does not exist; make it first")
        if not path.exists():
            return None
        if path.is_dir():
            raise ValueError(f"fit: the checkpoint {path} is a folder; give a file in it")
        checkpoint = load(path)
        if not isinstance(checkpoint, Checkpoint):
            raise ValueError(f"fit: {path} is not a checkpoint of a fit; give another path")
        if checkpoint.fingerprint != self._fingerprint:
            raise ValueError(
                f"fit: the checkpoint {path} belongs to a fit of other points, weights, source, epsilon, symmetry, "
                "count, warm start or seed; repeat that call to resume it, or give another path"
            )
        return checkpoint


def fit_fingerprint(tensors: list[Tensor | None], source: Source, numbers: list[float]) -> str:
    """A hash of what a fit depends on."""
    return fingerprint(numbers, [*tensors, source_probes(source)])
