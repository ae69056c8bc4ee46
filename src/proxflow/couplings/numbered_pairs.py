"""Which row goes with which numbered vector of noise: as the coupling has it, or every row once an epoch.

Drawn: vectors 0, 1, ... each go to the row that the coupling gives them. The noise is exactly N(0, I), and rows come as
often as their cells are large.

By epochs: vectors are drawn one after the other, and a row keeps the first ones that fall to it, one for each epoch:
rejection sampling, so that its noise has exactly the law of its cell, and every row comes equally often. The noise of
all rows then has the source's law up to chi2 of the cells' masses. It takes more draws than pairs, until the rarest
cell has enough: about N log N for one epoch, little more than one draw a pair for very many. What is still open after
``max_draws`` gets fresh noise of no particular cell, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxflow.couplings.numbered_noise import NumberedNoise
from proxflow.seeding import generator_of

__all__ = ["NumberedPairs", "drawn_pairs", "pairs_by_epochs"]

_BLOCK_NUMBERS = 1 << 22  # of noise drawn at once: 32 MB in float64
_MOST_VECTORS = 1 << 14  # drawn at once
_ORDER, _CHANCE = 1, 2  # number the generators of the order of an epoch, and of what noise does not decide


@dataclass(frozen=True)
class NumberedPairs:
    """Pairs in the order in which they are to be read.

    Attributes:
        row: (P,) int64.
        number: (P,) int64, of the noise; None where pair p has noise p.
        counts: (N,) int64, how many of all vectors drawn fell to each row.
        draws: vectors drawn by the coupling.
        approximated: pairs whose noise is independent of their row.
    """

    row: Tensor
    number: Tensor | None
    counts: Tensor
    draws: int
    approximated: int


def drawn_pairs(coupling: Any, pairs: int, seed: int, report: Callable[[str], None]) -> NumberedPairs:
    """``pairs`` pairs of a coupling that has ``rows_for``."""
    parts: list[Tensor] = []
    block, first = _block(coupling), 0
    while first < pairs:
        parts.append(_rows(coupling, seed, first, min(block, pairs - first)))
        first += len(parts[-1])
        report(f"{first:,} of {pairs:,} pairs")
    row = torch.cat(parts)
    counts = torch.bincount(row, minlength=len(coupling.rows))
    return NumberedPairs(row, None, counts, pairs, 0)


def pairs_by_epochs(
    coupling: Any, epochs: int, seed: int, max_draws: int, report: Callable[[str], None]
) -> NumberedPairs:
    """``epochs`` pairs of every row of a coupling that has ``rows_for``, each epoch in a random order."""
    rows, block = len(coupling.rows), _block(coupling)
    number = torch.zeros(rows, epochs, dtype=torch.int64)
    counts, draws = torch.zeros(rows, dtype=torch.int64), 0
    while int(counts.min()) < epochs and draws < max_draws:
        row = _rows(coupling, seed, draws, min(block, max_draws - draws))
        by_row = row.argsort(stable=True)
        fell, own = torch.bincount(row, minlength=rows), row[by_row]
        earlier = torch.arange(len(row)) - (fell.cumsum(0) - fell)[own]  # in this block, to the same row
        epoch = counts[own] + earlier
        kept = epoch < epochs
        number[own[kept], epoch[kept]] = draws + by_row[kept]
        counts, draws = counts + fell, draws + len(row)
        report(f"{draws:,} draws, {int(counts.clamp(max=epochs).sum()):,} of {rows * epochs:,} pairs")
    still_open = torch.arange(epochs) >= counts[:, None]
    missing = int(still_open.sum())
    number[still_open] = draws + torch.arange(missing)
    order = torch.stack([torch.randperm(rows, generator=generator_of(seed, _ORDER, epoch)) for epoch in range(epochs)])
    return NumberedPairs(order.flatten(), number.T.gather(1, order).flatten(), counts, draws, missing)


def _block(coupling: Any) -> int:
    dim: int = coupling.rows.dim
    return max(1, min(_MOST_VECTORS, _BLOCK_NUMBERS // dim))


def _rows(coupling: Any, seed: int, first: int, count: int) -> Tensor:
    """The rows that vectors first, first + 1, ... go to, (count,), on the CPU."""
    rows = coupling.rows
    noise = NumberedNoise(seed, rows.dim).run(first, count).to(rows.flat.device, rows.dtype)
    noise = noise.reshape(count, *rows.event_shape)
    row: Tensor = coupling.rows_for(noise, generator=generator_of(seed, _CHANCE, first))
    return row.cpu()
