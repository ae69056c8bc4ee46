"""Noise for the rows that a loader of one's own has given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from proxflow.adapters.row_lookup import RowLookup
from proxflow.checks import Numbers, in_fractions
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

    Data of several shapes (aspect buckets) take several couplings, one for each shape; that of a batch is chosen by its
    shape, and the noise of each shape keeps its law.

    Args:
        coupling: one with ``noise_for``, or several of points of different shapes; None for pairs within each batch.
        generator: of the draws.

    Attributes:
        couplings: by the shape of their points; empty for pairs within each batch.

    Raises:
        ValueError: a coupling without ``noise_for``, such as ``Minibatch``, or with a symmetry; no coupling; or two of
            points of one shape.
    """

    def __init__(
        self,
        coupling: NoiseForRows | Sequence[NoiseForRows] | None = None,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        given = [] if coupling is None else list(coupling) if isinstance(coupling, Sequence) else [coupling]
        if coupling is not None and not given:
            raise ValueError("PairedNoise: a sequence of no couplings; leave it out for pairs within each batch")
        self.couplings: dict[tuple[int, ...], NoiseForRows] = {}
        for one in given:
            shape = _shape_of(one)
            if shape in self.couplings:
                raise ValueError(f"PairedNoise: two couplings of points of shape {shape}; give one for each shape")
            self.couplings[shape] = one
        self._generator = generator
        self._lookups: dict[tuple[int, ...], RowLookup] = {}

    def __call__(self, batch: Tensor, index: Numbers | None = None) -> Tensor:
        """Noise of the shape and device of a batch (n, *event), and of its dtype; for whole numbers that of pairs.

        Args:
            batch: points of the data, of one shape.
            index: (n,), the row behind each in the coupling of this shape; found by comparison if None.

        Raises:
            ValueError: points that are no rows of a coupling, or an index that names none.
        """
        if not self.couplings:
            points = in_fractions(batch.detach())
            generator = own_generator(self._generator)
            drawn_on = points.device if generator is None else generator.device
            fresh = torch.randn(points.shape, generator=generator, dtype=points.dtype, device=drawn_on)
            return pair(points, fresh.to(points.device)).target
        coupling = self._coupling_of(batch)
        rows = self.index_of(batch) if index is None else index
        noise = coupling.noise_for(rows, generator=self._generator)
        if len(noise) != len(batch):
            raise ValueError(f"PairedNoise: the batch has {len(batch)} points, the index names {len(noise)} rows")
        return noise.to(batch.device, batch.dtype if batch.is_floating_point() else noise.dtype)

    def index_of(self, batch: Tensor) -> Tensor:
        """The row of each point of a batch in the coupling of its shape, (n,) int64."""
        rows = self._coupling_of(batch).rows
        if rows.event_shape not in self._lookups:
            self._lookups[rows.event_shape] = RowLookup(rows)
        return self._lookups[rows.event_shape].index_of("PairedNoise", batch)

    def _coupling_of(self, batch: Tensor) -> NoiseForRows:
        shape = tuple(batch.shape[1:])
        if shape not in self.couplings:
            known = ", ".join(map(str, sorted(self.couplings))) or "none"
            raise ValueError(f"PairedNoise: the batch has points of shape {shape}, the couplings are of {known}")
        return self.couplings[shape]


def _shape_of(coupling: NoiseForRows) -> tuple[int, ...]:
    """Of the points of a coupling that has noise for given rows."""
    if not (hasattr(coupling, "noise_for") and hasattr(coupling, "rows")):
        raise ValueError(
            f"PairedNoise: {type(coupling).__name__} has no noise for given rows; take Semidiscrete, Conditional or "
            "Subspace, or draw whole pairs by couplings.PairStream"
        )
    if getattr(coupling, "symmetry", None) is not None:
        raise ValueError(
            "PairedNoise: with a symmetry noise goes to an image of a row, which the loader would have to take; draw "
            "whole pairs, noise and images, by couplings.PairStream or pairs_for(index)"
        )
    return coupling.rows.event_shape
