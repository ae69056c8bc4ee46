"""Noise for the rows that a loader of one's own has given."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from proxflow.adapters.row_lookup import RowLookup
from proxflow.checks import Numbers
from proxflow.couplings import pair
from proxflow.couplings.pairs import Rows
from proxflow.seeding import own_generator

__all__ = ["NoiseForRows", "PairedNoise"]


class NoiseForRows(Protocol):
    """A coupling that can be asked for the noise of given rows."""

    rows: Rows

    def noise_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """Source points (n, *event)."""


class PairedNoise:
    """``noise = paired_noise(batch)`` in place of ``torch.randn_like(batch)``.

    With a population coupling (``Semidiscrete``, ``Conditional``, ``Subspace``) each point of the batch is found among
    the coupling's rows and gets noise from its own part of the source, by ``noise_for``: exact in law where the loader
    visits every row as often as its weight says. A point that is not a row bit for bit (augmented, encoded anew, in
    half precision) needs ``index=``. Without a coupling fresh noise is paired with the batch exactly
    (``couplings.pair``), which keeps its law at every batch size and is optimal within the batch only.

    Args:
        coupling: one with ``noise_for``; None for pairs within each batch.
        generator: of the draws.

    Raises:
        ValueError: a coupling without ``noise_for``, such as ``Minibatch``.
    """

    def __init__(self, coupling: NoiseForRows | None = None, *, generator: torch.Generator | None = None) -> None:
        if coupling is not None and not (hasattr(coupling, "noise_for") and hasattr(coupling, "rows")):
            raise ValueError(
                f"PairedNoise: {type(coupling).__name__} has no noise for given rows; take Semidiscrete, "
                "Conditional or Subspace, or draw whole pairs by couplings.PairStream"
            )
        self.coupling: Any = coupling
        self._generator = generator
        self._lookup: RowLookup | None = None

    def __call__(self, batch: Tensor, index: Numbers | None = None) -> Tensor:
        """Noise of the shape, dtype and device of a batch (n, *event).

        Args:
            batch: points of the data.
            index: (n,), the row of the coupling behind each; found by comparison if None.

        Raises:
            ValueError: points that are no rows of the coupling, or an index that names none.
        """
        if self.coupling is None:
            generator = own_generator(self._generator)
            drawn_on = batch.device if generator is None else generator.device
            fresh = torch.randn(batch.shape, generator=generator, dtype=batch.dtype, device=drawn_on)
            return pair(batch.detach(), fresh.to(batch.device)).target
        rows = self.index_of(batch) if index is None else index
        noise: Tensor = self.coupling.noise_for(rows, generator=self._generator)
        if noise.shape != batch.shape:
            raise ValueError(
                f"PairedNoise: the batch is {tuple(batch.shape)}, the noise of the {len(noise)} rows asked for "
                f"{tuple(noise.shape)}"
            )
        return noise.to(batch)

    def index_of(self, batch: Tensor) -> Tensor:
        """The row of the coupling that each point of a batch is, (n,) int64."""
        if self._lookup is None:
            self._lookup = RowLookup(self.coupling.rows)
        return self._lookup.index_of("PairedNoise", batch)
