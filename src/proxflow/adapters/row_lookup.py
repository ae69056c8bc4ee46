"""Which row of the data a point of a batch is."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.couplings.pairs import Rows
from proxflow.kernels.equal_rows import row_keys

__all__ = ["RowLookup"]


class RowLookup:
    """Finds rows by their numbers, bit for bit, in the time of hashing the batch and a binary search.

    What is found by its key (``kernels.equal_rows``) is compared with the row itself.

    Args:
        rows: of a coupling.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._keys, self._row = row_keys(rows.flat).sort(stable=True)
        self._first = torch.searchsorted(self._keys, self._keys)  # place of the first row with the same key
        self._ambiguous = self._unlike_labels()

    def index_of(self, caller: str, batch: Tensor) -> Tensor:
        """The row of each point of a batch (n, *event), (n,) int64; of equal rows the first.

        Raises:
            ValueError: another shape, a point that is no row, or one that is several rows with unlike labels.
        """
        if tuple(batch.shape[1:]) != self._rows.event_shape:
            raise ValueError(
                f"{caller}: the batch has points of shape {tuple(batch.shape[1:])}, the coupling of "
                f"{self._rows.event_shape}"
            )
        flat = batch.detach().to(self._rows.flat.device, self._rows.dtype).flatten(1)
        keys = row_keys(flat.to(self._rows.flat.dtype))
        place = torch.searchsorted(self._keys, keys).clamp(max=len(self._keys) - 1)
        row = self._row[place]
        strangers = torch.nonzero((self._rows.flat[row] != flat).any(1))[:, 0]
        if len(strangers):
            raise ValueError(
                f"{caller}: {len(strangers)} points of the batch are no rows of the coupling, the first: "
                f"{strangers[:5].tolist()}; give index=, the row that each was made from"
            )
        if bool(self._ambiguous[place].any()):
            raise ValueError(f"{caller}: equal rows of the coupling have unlike labels; give index=")
        return row

    def _unlike_labels(self) -> Tensor:
        """Whether another row of the same key has another label, (N,) by place."""
        labels = self._rows.labels
        if labels is None:
            return torch.zeros_like(self._keys, dtype=torch.bool)
        ordered = labels[self._row].reshape(len(self._row), -1)
        unlike = (ordered != ordered[self._first]).any(1)
        groups = torch.zeros(len(unlike), dtype=torch.int64, device=unlike.device)
        return groups.index_add_(0, self._first, unlike.to(torch.int64))[self._first] > 0
