"""The independent coupling: plain conditional flow matching."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.checks import Numbers
from proxflow.couplings.pairs import Pairs, Rows, check_count
from proxflow.measures import Source
from proxflow.seeding import own_generator

__all__ = ["Independent"]


class Independent:
    """Noise and data drawn apart.

    Args:
        points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8: pairs are then
            float32.
        labels: (N,) or (N, k), or None.
        source: law of the noise; standard normal if None.

    Raises:
        ValueError: bad points, labels not one for each point, or a source of another dimension.
    """

    def __init__(self, points: Numbers, labels: Numbers | None = None, *, source: Source | None = None) -> None:
        self.rows = Rows("Independent", points, labels)
        self.source = self.rows.source_or_normal(source)

    def __repr__(self) -> str:
        return self.rows.described()

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        return self.rows.tensors_with(self.source)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n independent pairs; the generator must be on a device that the noise can be drawn on.

        Raises:
            ValueError: n is no whole number of at least 1.
        """
        check_count("Independent", n)
        generator = own_generator(generator)
        return self.rows.pairs(self.rows.draw_noise(self.source, n, generator), self.rows.draw_index(n, generator))

    def rows_for(self, noise: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """A row for each source point (n, *event), (n,) int64: any, whatever the noise."""
        return self.rows.draw_index(len(self.rows.checked_noise(noise)), own_generator(generator))

    @property
    def row_weights(self) -> Tensor:
        """How often each row is to come, (N,) float64 of sum 1: equally."""
        return self.rows.mass
