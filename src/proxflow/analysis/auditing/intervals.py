"""Values with 95% intervals, from independent rows: means, ratios of means, shares, medians.

All are by linearisation over rows, with Student's quantile of as many, but shares, which are Wilson's, and medians,
which are resampled. Rows are trajectories of independent noise, so that whatever is averaged along one counts once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

__all__ = [
    "QUANTILE",
    "Estimate",
    "jackknifed",
    "mean_of",
    "median_ratio",
    "normal_estimate",
    "ratio",
    "root",
    "root_ratio",
    "share",
]

QUANTILE = 1.959964
"""Of the normal law at 97.5%."""

_RESAMPLED = 400  # draws of rows with replacement


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 95% interval."""

    value: float
    low: float
    high: float


def normal_estimate(value: float, stderr: float) -> Estimate:
    """A value with a standard error."""
    return Estimate(value, value - QUANTILE * stderr, value + QUANTILE * stderr)


def ratio(above: Tensor, below: Tensor) -> Estimate:
    """Mean of ``above`` (n,) over the mean of ``below`` (n,), rows in pairs; NaN where the latter is 0."""
    above, below = above.double(), below.double()
    under = float(below.mean())
    if not under > 0:
        return Estimate(math.nan, math.nan, math.nan)
    value = float(above.mean()) / under
    scatter = float((above - value * below).std()) if len(above) > 1 else math.nan
    return _of_rows(value, scatter / under / math.sqrt(len(above)), len(above))


def mean_of(values: Tensor) -> Estimate:
    """Mean of a few independent values (n,)."""
    return ratio(values, torch.ones_like(values))


def jackknifed(value: float, without: Tensor) -> Estimate:
    """A value of all rows, with those (K,) that leave out each of K equal groups of them in turn."""
    k = len(without)
    return _of_rows(value, math.sqrt((k - 1) / k * float((without - without.mean()).square().sum())), k)


def _of_rows(value: float, stderr: float, rows: int) -> Estimate:
    """A value whose standard error is known from so few rows (Student 1908)."""
    half = float(student.ppf(0.975, max(rows - 1, 1))) * stderr
    return Estimate(value, value - half, value + half)


def root(estimate: Estimate) -> Estimate:
    """The square root of a value that cannot be negative."""
    ends = (estimate.value, estimate.low, estimate.high)
    return Estimate(*(math.sqrt(max(end, 0.0)) if not math.isnan(end) else end for end in ends))


def root_ratio(above: Tensor, below: Tensor) -> Estimate:
    """Root of the mean of squares ``above`` (n,) over that of ``below`` (n,)."""
    return root(ratio(above, below))


def share(hits: Tensor) -> Estimate:
    """Share of rows (n,) that are true, with Wilson's interval (1927), which neither 0 nor all of n collapses."""
    n, value, z = len(hits), float(hits.double().mean()), QUANTILE
    centre = (value + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    return Estimate(value, min(max(centre - half, 0.0), value), max(min(centre + half, 1.0), value))


def median_ratio(above: Tensor, below: Tensor, seed: int) -> Estimate:
    """Median of ``above`` (n,) over that of ``below`` (m,), two independent samples, resampled for the interval."""
    one, other = above.double().cpu().numpy(), below.double().cpu().numpy()
    if not np.median(other) > 0:
        return Estimate(math.nan, math.nan, math.nan)
    random = np.random.default_rng(seed % 2**64)
    drawn = [
        np.median(random.choice(one, len(one))) / max(np.median(random.choice(other, len(other))), 1e-300)
        for _ in range(_RESAMPLED)
    ]
    value, ends = float(np.median(one) / np.median(other)), np.quantile(drawn, (0.025, 0.975))
    return Estimate(value, min(float(ends[0]), value), max(float(ends[1]), value))
