"""Whether a field makes the data: distances, spread, shares of groups, neighbours, copies of rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.vq import kmeans2
from scipy.stats import beta
from torch import Tensor

from proxflow.analysis.auditing.generated_pairs import centred
from proxflow.analysis.auditing.intervals import (
    QUANTILE,
    Estimate,
    mean_of,
    median_ratio,
    normal_estimate,
    ratio,
    share,
)
from proxflow.kernels.assignment import least_cost_permutation
from proxflow.kernels.geometry import principal_axes
from proxflow.metrics.clouds import distances
from proxflow.metrics.energy import energy_bounds
from proxflow.metrics.memorisation import nearest_rows
from proxflow.metrics.variances import spread, variance_ratio

__all__ = [
    "Groups",
    "Shares",
    "copies",
    "energy_share",
    "generation_figures",
    "group_shares",
    "groups_of",
    "paired_variances",
    "row_variances",
]

_GROUPS = 16  # that unlabelled data are split into
_LEAST_GROUP = 8  # rows of the data in a group on average
_NO_ROW = 0.5  # rows of a class that is no row's neighbour
_BATCHES, _BATCH = 4, 256  # of the Wasserstein distance, whose bias depends on the size alone
_NEIGHBOURS = 3  # whose distance is the radius of a point (Kynkaanniemi et al. 2019)
_NEIGHBOURHOOD_ROWS = 1024  # of each cloud
_TAIL = 0.025  # of an interval, on each side
_AXES = 3  # principal directions whose variances are figures
_ROUNDING = 1e-5  # of the root of the variance, within which two points are one


@dataclass(frozen=True)
class Groups:
    """Data in G groups, by labels or by clusters.

    ``prototypes`` (R, d) are points, each of the group ``group_of`` (R,): a sample belongs to that of the nearest. All
    are on the device of the data.

    Attributes:
        shares: (G,) of the data, of sum 1, which copies of the data have.
        shares_of_new: (G,) likewise, which new draws of the law of the data have: where prototypes are the rows
            themselves, each row by the nearest other one. In many dimensions that is one of a compact class for most
            rows of a wide one.
    """

    names: tuple[str, ...]
    shares: Tensor
    shares_of_new: Tensor
    prototypes: Tensor
    group_of: Tensor

    def counts(self, samples: Tensor) -> Tensor:
        """How many samples (n, d) belong to each group, (G,) int64."""
        return torch.bincount(self.group_of[nearest_rows(samples, self.prototypes).index], minlength=len(self.names))

    def right_shares(self, counts: Tensor) -> Tensor:
        """Of copies or of new draws, whichever these counts (G,) are nearer to in chi2; (G,) float64 on the CPU."""
        found = counts.double().cpu() / float(counts.sum())
        either = [shares.double().cpu() for shares in (self.shares, self.shares_of_new)]
        return min(either, key=lambda shares: float(((found - shares).square() / shares).sum()))


@dataclass(frozen=True)
class Shares:
    """Shares of the samples in G groups, (G,), upper bounds on all at once, (G,), at 99.9%, and those of the data."""

    names: tuple[str, ...]
    found: Tensor
    upper: Tensor
    right: Tensor


def groups_of(data: Tensor, labels: Tensor | None, seed: int, class_names: Mapping[int, str] | None = None) -> Groups:
    """The classes of labelled data (N, d); else its distinct rows or, of more than 16, clusters of k-means.

    At most 16 groups, and not below 8 rows in each on average. Classes without a name are called by their number.
    """
    if labels is not None:
        names, group = labels.unique(return_inverse=True)
        known = class_names or {}
        classes = tuple(f"class {known.get(name, name)}" for name in names.tolist())
        shares = torch.bincount(group).double() / len(group)
        if len(data) == 1:
            return Groups(classes, shares, shares, data, group)
        nearest = nearest_rows(data, data, left_out=torch.arange(len(data), device=data.device)).index
        of_new = torch.bincount(group[nearest], minlength=len(names)).double().clamp(min=_NO_ROW)
        return Groups(classes, shares, of_new / of_new.sum(), data, group)
    count = min(_GROUPS, len(data) // _LEAST_GROUP)
    if count < 2:
        whole = torch.ones(1, dtype=torch.float64, device=data.device)
        return Groups(("all",), whole, whole, data[:1], torch.zeros(1, dtype=torch.int64, device=data.device))
    distinct = data.unique(dim=0)
    prototypes = distinct if len(distinct) <= count else _centres(data, count, seed)
    counts = torch.bincount(nearest_rows(data, prototypes).index, minlength=len(prototypes))
    kept = counts > 0
    names = tuple(f"cluster {k}" for k in range(int(kept.sum())))
    shares = counts[kept].double() / len(data)
    return Groups(names, shares, shares, prototypes[kept], torch.arange(len(names), device=data.device))


def _centres(data: Tensor, count: int, seed: int) -> Tensor:
    """Of k-means; one that is nearest to no row is left out by whoever asks for its share."""
    random = np.random.default_rng(seed % 2**64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "One of the clusters is empty"
        centres = kmeans2(data.double().cpu().numpy(), count, minit="++", seed=random, missing="warn")[0]
    return torch.from_numpy(centres).to(data)


def group_shares(samples: Tensor, groups: Groups) -> Shares:
    """Shares of the samples and their upper bounds (Clopper and Pearson 1934, Bonferroni over the groups)."""
    counts = groups.counts(samples).double().cpu()
    upper = _upper_shares(counts.numpy(), len(samples), 1e-3)
    return Shares(groups.names, counts / len(samples), torch.from_numpy(upper), groups.right_shares(counts))


def _upper_shares(counts: npt.NDArray[np.float64], n: float, tail: float) -> npt.NDArray[np.float64]:
    """Bounds that the shares behind counts (G,) of n exceed, any of them, with a chance of at most ``tail``."""
    return np.where(counts < n, beta.ppf(1 - tail / len(counts), counts + 1, np.maximum(n - counts, 1)), 1.0)


def generation_figures(samples: Tensor, data: Tensor, groups: Groups) -> dict[str, Estimate]:
    """Of samples (n, d) against the data (m, d)."""
    counts = groups.counts(samples).double().cpu()
    shares = groups.right_shares(counts)
    return {
        "energy_distance": energy_share(samples, data),
        "wasserstein": _wasserstein(samples, data),
        "group_error": _group_error(counts, shares),
        "group_least": _group_least(counts, shares),
        **_neighbours(samples, data),
    }


def row_variances(samples: Tensor, data: Tensor) -> dict[str, Estimate]:
    """Variances over those of the data, (m, d), in all and along each principal direction of the data.

    Along a direction it is by ``spread``, which new draws have right, or by the variances of all rows along their own
    directions, which copies of them have, whichever is nearer to 1.
    """
    wide, axes = spread(samples, data, directions=_AXES), _directions(data)
    ours, theirs = (centred(cloud.double()) @ axes for cloud in (samples, data))
    of_copies = torch.stack(variance_ratio(ours.square(), theirs.square())).mT.tolist()
    of_new = torch.stack([wide.direction, wide.direction_error]).mT.tolist()
    found = {"variance_ratio": normal_estimate(wide.total, wide.total_error)}
    for k, either in enumerate(zip(of_copies, of_new, strict=False), 1):
        found[f"variance_ratio_{k}"] = normal_estimate(*min(either, key=lambda one: abs(one[0] - 1)))
    return found


def paired_variances(samples: Tensor, exact: Tensor, data: Tensor) -> dict[str, Estimate]:
    """Variances over those of the exact flow's samples of the same noise: what scatters both alike drops out.

    In all, and along the principal directions of the data, (m, d). These have nothing to do with the noise, so that
    the figure is the ratio along them, and its interval holds that. Directions of the samples themselves would be known
    no better than the ratio is, and nearly equal variances would leave them undefined.
    """
    ours, theirs = centred(samples.double()), centred(exact.double())
    found = {"variance_ratio": ratio(ours.square().sum(1), theirs.square().sum(1))}
    for k, axis in enumerate(_directions(data).mT):
        found[f"variance_ratio_{k + 1}"] = ratio((ours @ axis).square(), (theirs @ axis).square())
    return found


def _directions(data: Tensor) -> Tensor:
    """The first principal directions of the data along which they vary, (d, k), k at most 3."""
    rows = centred(data.double())
    axes = principal_axes(rows, min(_AXES, rows.shape[1], len(rows) - 1))
    return axes[:, (rows @ axes).square().sum(0) > _ROUNDING**2 * rows.square().sum()]


def copies(samples: Tensor, rows: Tensor, held_out: Tensor, seed: int) -> Estimate:
    """Median distance to the nearest training row, of samples over held-out rows (``metrics.nearest_row_ratio``)."""
    ours, theirs = (nearest_rows(cloud, rows).distance for cloud in (samples, held_out))
    return median_ratio(ours, theirs, seed)


def energy_share(samples: Tensor, data: Tensor, errors: float = QUANTILE) -> Estimate:
    """Energy distance over the root mean square distance of two rows of the data, which scales with them.

    Its ends are so many standard errors away (``metrics.energy.energy_bounds``).
    """
    size = math.sqrt(2.0) * float(centred(data.double()).square().sum(1).mean().sqrt())
    if not size > 0:
        return Estimate(math.nan, math.nan, math.nan)
    return Estimate(*(each / size for each in energy_bounds(samples, data, errors)))


def _wasserstein(samples: Tensor, data: Tensor) -> Estimate:
    """W2 of batches of equal size over the root of the data's variance: mean over batches, which share no row."""
    size = float(centred(data.double()).square().sum(1).mean().sqrt())
    batch = min(_BATCH, len(samples) // _BATCHES, len(data) // _BATCHES)
    if batch < 2 or not size > 0:
        return Estimate(math.nan, math.nan, math.nan)
    parts = [slice(k * batch, (k + 1) * batch) for k in range(_BATCHES)]
    values = torch.tensor([_assigned_distance(samples[part], data[part]) / size for part in parts])
    return mean_of(values)


def _assigned_distance(x: Tensor, y: Tensor) -> float:
    """W2 of two clouds of equal size."""
    a, b = x.double(), y.double()
    return float((a - b[least_cost_permutation(a, b)]).square().sum(1).mean().sqrt())


def _group_error(counts: Tensor, shares: Tensor) -> Estimate:
    """chi2 = sum_g (m_g - b_g)^2 / b_g of the shares, without bias (docs/theory.md 3), with its error to two orders."""
    n = float(counts.sum())
    value = float(((counts.square() - counts) / shares).sum()) / (n * (n - 1)) - 1
    linear = counts / n / shares  # of a sample in each group, half of its share in the value
    mean = float((counts / n * linear).sum())
    first = 4 / n * float((counts / n * (linear - mean).square()).sum())
    second = 2 * max(len(counts) - 1, 0) / (n * (n - 1))
    return normal_estimate(value, math.sqrt(first + second))


def _group_least(counts: Tensor, shares: Tensor) -> Estimate:
    """Share of the samples over the share of the data, in the group where this is least.

    Which group that is depends on chance: the interval holds for the least of all (Clopper and Pearson, Bonferroni).
    """
    hits, n = counts.numpy(), float(counts.sum())
    low, high = 1 - _upper_shares(n - hits, n, _TAIL), _upper_shares(hits, n, _TAIL)
    return Estimate(*(float((each / shares.numpy()).min()) for each in (hits / n, low, high)))


def _neighbours(samples: Tensor, data: Tensor) -> dict[str, Estimate]:
    """Precision and recall: points of one cloud within the third-neighbour radius of a point of the other."""
    x, y = samples[:_NEIGHBOURHOOD_ROWS].double(), data[:_NEIGHBOURHOOD_ROWS].double()
    if min(len(x), len(y)) <= _NEIGHBOURS:
        return {}
    rounding = _ROUNDING * float(centred(y).square().sum(1).mean().sqrt())
    across = distances(x, y)
    radius_x, radius_y = (_radii(cloud) + rounding for cloud in (x, y))
    return {
        "precision": share((across <= radius_y).any(1)),
        "recall": share((across <= radius_x[:, None]).any(0)),
    }


def _radii(cloud: Tensor) -> Tensor:
    """The distance of each point (n, d) to its third neighbour, of equal points as of one, (n,)."""
    distinct, place = cloud.unique(dim=0, return_inverse=True)
    neighbour = min(_NEIGHBOURS + 1, len(distinct))
    return distances(distinct, distinct).kthvalue(neighbour, dim=1).values[place]
