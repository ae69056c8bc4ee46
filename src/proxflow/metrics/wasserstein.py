"""The Wasserstein distance W2 of two clouds of points: exact, or sliced where that would take too long."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import torch
from torch import Tensor

from proxflow.errors import ConvergenceError
from proxflow.kernels.assignment import least_cost_permutation
from proxflow.metrics.clouds import Clouds, check_seed, common_frame, distances
from proxflow.optional import optional_package
from proxflow.points import Numbers
from proxflow.scalars import whole_number

__all__ = ["Wasserstein", "wasserstein"]

_MOST_PIVOTS = 100_000_000  # of the network simplex; clouds of 10,000 points need about a million
_LARGEST_GAP = 1e-2  # of W2^2, between primal and dual
_PROJECTED_NUMBERS = 1 << 20  # entries of one block of projections; POT holds about a dozen arrays of that size


@dataclass(frozen=True)
class Wasserstein:
    """A distance and how it was found.

    Attributes:
        value: W2, or the sliced W2: a length, not squared.
        method: "exact" or "sliced"; the two are not comparable with each other.
        projections: random directions behind a sliced value; 0 for an exact one.
    """

    value: float
    method: Literal["exact", "sliced"]
    projections: int


def wasserstein(
    x: Numbers, y: Numbers, *, exact_up_to: int = 10_000, projections: int = 1000, seed: int = 0
) -> Wasserstein:
    """W2 between two clouds of equally weighted points, in float64.

    Exact if neither cloud has more than ``exact_up_to`` points. Clouds of equal size are assigned: two of 10,000 take
    5 to 25 seconds and 2 GB. Others go through the network simplex of POT: some ten seconds and 1 GB for about 5,000
    points each, a minute or two and 4 GB for 10,000. Ctrl-C waits for the end of either. On the line exact at any size,
    by sorting. Else the sliced distance, sqrt of the mean of W2^2 over random directions, for any number of points, in
    blocks of directions that bound the memory: at most W2 / sqrt(d) in dimension d, and for a pure translation equal to
    it, both up to the choice of directions.

    It is the distance of the clouds. Its square exceeds that of the laws that they were drawn from on average, by an
    amount that fades slowly in high dimension: compare only values of equal numbers of points.

    Args:
        x: (n, *event), finite; float32 or float64.
        y: (m, *event), finite, on the same device; n and m may differ.
        exact_up_to: most points of a cloud for the exact distance; 0 for always sliced.
        projections: directions of the sliced distance, at least 1.
        seed: of these directions.

    Raises:
        ValueError: a cloud is empty, has rows that are not finite, or is unlike the other; or a bad setting.
        ConvergenceError: the network simplex did not finish, or finished with a duality gap of over 1% of W2^2.
        MissingExtraError: POT is not installed.

    Source: Peyre and Cuturi, Computational optimal transport (2019), sections 2.2 and 3.5; sliced: Bonneel, Rabin,
    Peyre and Pfister, Sliced and Radon Wasserstein barycenters of measures (2015).
    """
    exact_up_to, projections = _whole("exact_up_to", exact_up_to, 0), _whole("projections", projections, 1)
    seed = check_seed("wasserstein", seed)
    clouds, pot = common_frame("wasserstein", x, y), optional_package("ot", "metrics", "POT")
    if clouds.x.shape[1] == 1:
        return _record(clouds, _mean_squared(pot, clouds.x, clouds.y))
    n, m = len(clouds.x), len(clouds.y)
    if max(n, m) <= exact_up_to:
        return _record(clouds, _assigned(clouds) if n == m else _least_cost(pot, clouds))
    return _record(clouds, _sliced(pot, clouds, projections, seed), projections)


def _whole(name: str, value: object, least: int) -> int:
    number = whole_number(value)
    if number is None or number < least:
        raise ValueError(f"wasserstein: {name} must be an integer of at least {least}, got {value!r}")
    return number


def _record(clouds: Clouds, squared: float, projections: int = 0) -> Wasserstein:
    value = clouds.unit * math.sqrt(max(squared, 0.0))
    return Wasserstein(value, "sliced" if projections else "exact", projections)


def _whole_masses(n: int, m: int) -> tuple[int, int, int]:
    """Mass of each of n and of m points, and of the whole, as integers: sums of them round nothing."""
    divisor = math.gcd(n, m)
    return m // divisor, n // divisor, n * m // divisor


def _assigned(clouds: Clouds) -> float:
    """W2^2 of clouds of equal size: a permutation is among their optimal plans."""
    order = least_cost_permutation(clouds.x, clouds.y)
    return float((clouds.x - clouds.y[order]).square().sum(1).mean())


def _least_cost(pot: ModuleType, clouds: Clouds) -> float:
    """W2^2 by the network simplex."""
    x, y = clouds.x.cpu(), clouds.y.cpu()
    mass_x, mass_y, whole = _whole_masses(len(x), len(y))
    masses = (torch.full((len(cloud),), float(mass)).double().numpy() for cloud, mass in ((x, mass_x), (y, mass_y)))
    costs = distances(x, y).square_()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the log says the same
        cost, log = pot.emd2(*masses, costs.numpy(), numItermax=_MOST_PIVOTS, log=True)
    if log["warning"] is not None:
        raise ConvergenceError(
            f"wasserstein: the network simplex of POT did not finish ({log['warning']}). Give fewer points, or "
            "exact_up_to=0 for the sliced distance"
        )
    price_x = torch.from_numpy(log["u"])
    price_y = (costs - price_x[:, None]).amin(0)
    gap = float(cost) - float(mass_x * price_x.sum() + mass_y * price_y.sum())  # what the dual leaves open
    if gap > _LARGEST_GAP * float(cost):
        raise ConvergenceError(
            f"wasserstein: rounding leaves the network simplex of POT with a gap of {gap / float(cost):.1%} of W2^2, "
            "since the clouds extend far beyond the distance between them. Give clouds of equal size, which are "
            "assigned, or leave out what lies far off"
        )
    return float(cost) / whole


def _mean_squared(pot: ModuleType, x: Tensor, y: Tensor) -> float:
    """W2^2 on the line, the mean over the columns of x (n, k) and y (m, k)."""
    mass_x, mass_y, whole = _whole_masses(len(x), len(y))
    costs: Tensor = pot.wasserstein_1d(x, y, torch.full_like(x, mass_x), torch.full_like(y, mass_y), p=2)
    return float(costs.mean()) / whole


def _sliced(pot: ModuleType, clouds: Clouds, projections: int, seed: int) -> float:
    """The mean of W2^2 over random directions, a block of them at a time."""
    draws = torch.randn(
        (projections, clouds.x.shape[1]), generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    directions = (draws / draws.norm(dim=1, keepdim=True)).to(clouds.x.device)
    blocks = directions.split(max(1, _PROJECTED_NUMBERS // (len(clouds.x) + len(clouds.y))))
    sums = [len(block) * _mean_squared(pot, clouds.x @ block.mT, clouds.y @ block.mT) for block in blocks]
    return math.fsum(sums) / projections
