"""Whether samples are copies of the rows that a model was trained on."""

from __future__ import annotations

from torch import Tensor

from proxflow.checks import Numbers
from proxflow.kernels.geometry import row_norm
from proxflow.kernels.search import argmax_affine
from proxflow.metrics.clouds import common_frame

__all__ = ["nearest_row_ratio"]


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
    nearest = argmax_affine(clouds.x, clouds.y, -0.5 * clouds.y.square().sum(1))  # |x - y|^2 = |x|^2 - 2 score
    median: Tensor = row_norm(clouds.x - clouds.y[nearest]).quantile(0.5)
    return clouds.unit * float(median)
