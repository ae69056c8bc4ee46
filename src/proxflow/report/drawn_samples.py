"""The samples of a network that its page shows: drawn as `proxflow sample` draws them, under labels where there are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.matching import TrainResult, field_of
from proxflow.matching.train_result import sample_count
from proxflow.sampling import integrate
from proxflow.schedules import Schedule
from proxflow.seeding import generator_of

__all__ = ["STEPS", "DrawnSamples", "draw_samples"]

STEPS = 8  # of `proxflow sample` unless told otherwise: a second or so on a CPU
_MOST_NUMBERS = 2**25  # of all samples at all times: 128 MB in float32
_FEWEST = 20
_NOISE, _LABELS = 6, 7  # with a 0 they number the generators, apart from those of the batches, which have one number


@dataclass(frozen=True)
class DrawnSamples:
    """Samples on their way.

    Attributes:
        times: (T,) from 0 to 1.
        points: (T, n, *event), standardised, on the CPU.
        labels: (n,) the class that each was asked for, in the proportions of the data; None without.
    """

    times: tuple[float, ...]
    points: Tensor
    labels: Tensor | None

    @property
    def end(self) -> Tensor:
        """(n, *event)."""
        return self.points[-1]

    @property
    def in_words(self) -> str:
        """How they were drawn."""
        asked = ", each asked for the class of a row" if self.labels is not None else ""
        return f"{len(self.end):,} samples at {len(self.times) - 1} steps{asked}"


@torch.no_grad()
def draw_samples(result: TrainResult, dataset: Dataset, schedule: Schedule | None) -> DrawnSamples:
    """Samples of the averaged network."""
    count = min(sample_count(result.network), max(_FEWEST, _MOST_NUMBERS // ((STEPS + 1) * dataset.dim)))
    noise = torch.randn((count, *dataset.event_shape), generator=generator_of(result.seed, _NOISE, 0))
    first = next(result.network.parameters())
    labels = None
    if dataset.labels is not None and getattr(result.network, "classes", 0) > 0:
        rows = torch.randint(dataset.n, (count,), generator=generator_of(result.seed, _LABELS, 0))
        labels = dataset.labels.cpu()[rows]
    path = integrate(
        field_of(result.network, labels), noise.to(first), steps=STEPS, method="proximal", schedule=schedule
    )
    return DrawnSamples(tuple(path.times.tolist()), path.points.cpu(), labels)
