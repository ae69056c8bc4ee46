"""Whether samples are copies of the rows that a model was trained on."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.metrics.clouds import common_frame
from proxflow.points import Numbers

__all__ = ["nearest_row_ratio"]

_BLOCK_NUMBERS = 1 << 22  # entries of one block of distances


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
    ours, theirs = (_median_distance(cloud, rows) for cloud in (samples, held_out))
    if theirs == 0:
        raise ValueError("nearest_row_ratio: half of the held-out rows are training rows too; hold out others")
    return ours / theirs


def _median_distance(cloud: Numbers, rows: Numbers) -> float:
    """Median distance of a point of the cloud to its nearest row, a length."""
    clouds = common_frame("nearest_row_ratio", cloud, rows)
    size = max(1, _BLOCK_NUMBERS // len(clouds.y))
    nearest = [torch.cdist(block, clouds.y).amin(1) for block in clouds.x.split(size)]
    median: Tensor = torch.cat(nearest).quantile(0.5)
    return clouds.unit * float(median)
