"""Whether samples are copies of the rows that a model was trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor
from proxflow.kernels.geometry import row_norm
from proxflow.kernels.search import argmax_affine, top_two_affine
from proxflow.metrics.clouds import common_frame
from proxflow.results import brief_repr

__all__ = ["NearestRows", "nearest_row_ratio", "nearest_rows"]


@brief_repr
@dataclass(frozen=True)
class NearestRows:
    """The training row that is nearest to each sample.

    Attributes:
        index: (n,) which row.
        distance: (n,) float64, how far.
    """

    index: Tensor
    distance: Tensor


def nearest_rows(samples: Numbers, rows: Numbers, *, left_out: Numbers | None = None) -> NearestRows:
    """The nearest of N rows to each of n samples, by Euclidean distance; takes n N d operations, in float64.

    With ``left_out`` a row of the data is compared with all others: how far a new draw of their law is from them, but
    for one row of N. ``nearest_rows(rows[chosen], rows, left_out=chosen)`` is what samples can be held against where
    no rows are held out.

    Args:
        samples: (n, *event), finite.
        rows: (N, *event), finite.
        left_out: (n,) integers, the row that does not count for each sample; -1 where all do, as they do if None.

    Raises:
        ValueError: a cloud is empty, has rows that are not finite, or is unlike the other; or ``left_out`` is not one
            integer from -1 to N - 1 for each sample, or leaves no row.
    """
    return _nearest("nearest_rows", samples, rows, left_out)


def nearest_row_ratio(samples: Numbers, rows: Numbers, held_out: Numbers) -> float:
    """Median distance of a sample to its nearest training row, over that of a held-out row.

    1 where samples are as far from the rows as new data are, 0 for copies of rows. Blurred samples have less than 1
    too, noise more: read it beside ``spread`` and ``energy_distance``, which do not see copies.

    Args:
        samples: (n, *event), finite.
        rows: (N, *event), finite, that the model was trained on.
        held_out: (m, *event), finite, of the same law and not trained on.

    Raises:
        ValueError: a cloud is empty, has rows that are not finite, or is unlike the rows; or the held-out rows are
            copies of the rows themselves.
    """
    ours, theirs = (
        float(_nearest("nearest_row_ratio", cloud, rows, None, name).distance.quantile(0.5))
        for name, cloud in (("samples", samples), ("held_out", held_out))
    )
    if theirs == 0:
        raise ValueError("nearest_row_ratio: half of the held-out rows are training rows too; hold out others")
    return ours / theirs


def _nearest(
    metric: str, samples: Numbers, rows: Numbers, left_out: Numbers | None, name: str = "samples"
) -> NearestRows:
    clouds = common_frame(metric, samples, rows, names=(name, "rows"))
    x, y = clouds.x, clouds.y
    offsets = -0.5 * y.square().sum(1)  # |x - y|^2 = |x|^2 - 2 score
    if left_out is None:
        index = argmax_affine(x, y, offsets)
    else:
        own = _rows_left_out(left_out, len(x), len(y)).to(x.device)
        found = top_two_affine(x, y, offsets)
        index = torch.where(found.best == own, found.second, found.best)
    return NearestRows(index, clouds.unit * row_norm(x - y[index]))


def _rows_left_out(given: Numbers, samples: int, rows: int) -> Tensor:
    left_out = as_tensor("nearest_rows", "left_out", given)
    if left_out.is_floating_point() or left_out.shape != (samples,):
        raise ValueError(
            f"nearest_rows: left_out must be ({samples},) integers, one row for each sample, got "
            f"{tuple(left_out.shape)} of {left_out.dtype}"
        )
    if not -1 <= int(left_out.min()) <= int(left_out.max()) < rows:
        raise ValueError(
            f"nearest_rows: left_out must be rows from 0 to {rows - 1}, or -1 for none, got {int(left_out.min())} to "
            f"{int(left_out.max())}"
        )
    if rows == 1 and bool((left_out == 0).any()):
        raise ValueError("nearest_rows: left_out leaves no row to compare with; give two rows or more")
    return left_out.long()
