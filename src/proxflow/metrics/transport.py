"""The Wasserstein distance W2 of two clouds of points: exact, or sliced where that would take too long."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Literal, overload

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from proxflow.checks import Numbers, whole_number
from proxflow.errors import ConvergenceError, optional_package
from proxflow.kernels.assignment import least_cost_permutation
from proxflow.metrics.clouds import Clouds, common_frame, distances
from proxflow.seeding import seeded_generator

__all__ = ["Wasserstein", "wasserstein"]

_MOST_PIVOTS = 100_000_000  # of the network simplex; clouds of 10,000 points need about a million
_LARGEST_GAP = 1e-2  # of W2^2, between primal and dual
_ROUNDING = 8 * 2.0**-53  # of the terms of the dual value, in which a gap says nothing
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


@overload
def wasserstein(
    a: Numbers,
    b: Numbers,
    a_weights: Numbers | None = None,
    b_weights: Numbers | None = None,
    *,
    exact_up_to: int = 10_000,
    projections: int = 1000,
    seed: int = 0,
    differentiable: Literal[False] = False,
) -> Wasserstein: ...


@overload
def wasserstein(
    a: Numbers,
    b: Numbers,
    a_weights: Numbers | None = None,
    b_weights: Numbers | None = None,
    *,
    exact_up_to: int = 10_000,
    projections: int = 1000,
    seed: int = 0,
    differentiable: Literal[True],
) -> Tensor: ...


def wasserstein(
    a: Numbers,
    b: Numbers,
    a_weights: Numbers | None = None,
    b_weights: Numbers | None = None,
    *,
    exact_up_to: int = 10_000,
    projections: int = 1000,
    seed: int = 0,
    differentiable: bool = False,
) -> Wasserstein | Tensor:
    """W2 between two clouds of weighted points, in float64.

    Exact if neither cloud has more than ``exact_up_to`` points. Clouds of equal size and weights are assigned: two of
    10,000 take 5 to 25 seconds and 2 GB. Others go through the network simplex of POT: some ten seconds and 1 GB for
    about 5,000 points each, a minute or two and 4 GB for 10,000. Ctrl-C waits for the end of either. On the line exact
    at any size, by sorting. Else the sliced distance, sqrt of the mean of W2^2 over random directions, for any number
    of points, in blocks of directions that bound the memory: at most W2 / sqrt(d) in dimension d, and for a pure
    translation equal to it, both up to the choice of directions.

    It is the distance of the clouds. Its square exceeds that of the laws that they were drawn from on average, by an
    amount that fades slowly in high dimension: compare only values of equal numbers of points. With weights W2^2 is
    exact up to the rounding of weights times squared extent, about 1e-16 of the latter.

    A differentiable distance is W2 itself, not its square (which is ``wasserstein(...)**2``). By the envelope theorem
    its gradient is that of the cost at the optimal plan: for W2^2 in a point 2 sum_j plan_ij (a_i - b_j), in a weight
    the optimal dual potential. Both exist where the plan and the potential are unique, which clouds in general position
    have; elsewhere (equal points, or partial sums of weights that agree) they are one of the one-sided derivatives, or
    lie between them. At W2 = 0, where a norm has no derivative, the gradient is 0.

    Args:
        a: (n, *event), finite; float32 or float64; a tensor, a numpy array or a pandas object.
        b: (m, *event), finite, on the same device; n and m may differ.
        a_weights: (n,), finite, not negative, normalised here; equal if None.
        b_weights: (m,), likewise.
        exact_up_to: most points of a cloud for the exact distance; 0 for always sliced.
        projections: directions of the sliced distance, at least 1.
        seed: seed of these directions.
        differentiable: give the value alone, as a tensor without axes, of the points' dtype, differentiable in points
            and weights: a loss.

    Raises:
        ValueError: a cloud is empty, has rows that are not finite, or is unlike the other; bad weights or settings.
        ConvergenceError: the network simplex did not finish, or finished with a duality gap of over 1% of W2^2.
        MissingExtraError: POT is not installed.

    Source: Peyre and Cuturi, Computational optimal transport (2019), sections 2.2, 3.5 and 9.1; sliced: Bonneel, Rabin,
    Peyre and Pfister, Sliced and Radon Wasserstein barycenters of measures (2015).
    """
    exact_up_to, projections = _whole("exact_up_to", exact_up_to, 0), _whole("projections", projections, 1)
    generator = seeded_generator("wasserstein", seed)
    clouds = common_frame("wasserstein", a, b, a_weights, b_weights, differentiable=differentiable)
    pot = optional_package("ot", "metrics", "POT")
    exact = clouds.x.shape[1] == 1 or max(len(clouds.x), len(clouds.y)) <= exact_up_to
    squared = _exact(pot, clouds) if exact else _sliced(pot, clouds, projections, generator)
    if differentiable:
        return (clouds.unit * _root(squared)).to(clouds.dtype)
    value = clouds.unit * math.sqrt(max(float(squared), 0.0))
    return Wasserstein(value, "exact", 0) if exact else Wasserstein(value, "sliced", projections)


def _whole(name: str, value: object, least: int) -> int:
    number = whole_number(value)
    if number is None or number < least:
        raise ValueError(f"wasserstein: {name} must be an integer of at least {least}, got {value!r}")
    return number


def _root(squared: Tensor) -> Tensor:
    """The square root, at 0 with derivative 0."""
    positive = squared > 0
    return torch.where(positive, torch.where(positive, squared, 1.0).sqrt(), 0.0)


def _exact(pot: ModuleType, clouds: Clouds) -> Tensor:
    """W2^2."""
    if clouds.x.shape[1] == 1:
        return _mean_squared(pot, clouds, clouds.x, clouds.y)
    if len(clouds.x) == len(clouds.y) and clouds.x_weights is None and clouds.y_weights is None:
        order = least_cost_permutation(clouds.x.detach(), clouds.y.detach())
        return (clouds.x - clouds.y[order]).square().sum(1).mean()
    return _least_cost(pot, clouds)


def _masses(clouds: Clouds) -> tuple[Tensor, Tensor, int]:
    """Mass of each point of both clouds, and of the whole; of equal weights as integers, whose sums round nothing."""
    n, m = len(clouds.x), len(clouds.y)
    if clouds.x_weights is None and clouds.y_weights is None:
        divisor = math.gcd(n, m)
        return clouds.x.new_full((n,), m // divisor), clouds.y.new_full((m,), n // divisor), n * m // divisor
    equal_x, equal_y = clouds.x.new_full((n,), 1 / n), clouds.y.new_full((m,), 1 / m)
    return (
        equal_x if clouds.x_weights is None else clouds.x_weights,
        equal_y if clouds.y_weights is None else clouds.y_weights,
        1,
    )


def _least_cost(pot: ModuleType, clouds: Clouds) -> Tensor:
    """W2^2 by the network simplex; points of no mass take no part."""
    mass_x, mass_y, whole = _masses(clouds)
    known_x, known_y = mass_x.detach().cpu(), mass_y.detach().cpu()
    rows, columns = known_x.nonzero()[:, 0], known_y.nonzero()[:, 0]
    costs = distances(clouds.x.detach().cpu(), clouds.y.detach().cpu()).square_()
    inside = costs if costs.shape == (len(rows), len(columns)) else costs[rows][:, columns].contiguous()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the log says the same
        plan, log = pot.emd(
            known_x[rows].numpy(), known_y[columns].numpy(), inside.numpy(), numItermax=_MOST_PIVOTS, log=True
        )
    if log["warning"] is not None:
        raise ConvergenceError(
            f"wasserstein: the network simplex of POT did not finish ({log['warning']}). Give fewer points, or "
            "exact_up_to=0 for the sliced distance"
        )
    price_x = known_x.new_full((len(known_x),), -math.inf)
    price_x[rows] = torch.from_numpy(log["u"])
    price_y = (costs - price_x[:, None]).amin(0)  # feasible for all points, those of no mass too: a bound from below
    price_x = (costs - price_y).amin(1)
    squared = clouds.x.new_tensor(_confirmed(float(log["cost"]), known_x * price_x, known_y * price_y)) / whole
    if not (clouds.x.requires_grad or clouds.y.requires_grad or mass_x.requires_grad or mass_y.requires_grad):
        return squared
    moved = torch.from_numpy(plan).to_sparse_coo().coalesce()
    sources, targets = (
        end[index].to(clouds.x.device) for end, index in zip((rows, columns), moved.indices(), strict=True)
    )
    lengths = (clouds.x[sources] - clouds.y[targets]).square().sum(1)
    along: Tensor = moved.values().to(lengths) @ lengths + mass_x @ price_x.to(mass_x) + mass_y @ price_y.to(mass_y)
    return squared + (along - along.detach()) / whole


def _confirmed(cost: float, dual_x: Tensor, dual_y: Tensor) -> float:
    """The cost of a plan, if the dual value confirms it; the latter where the plan left out masses below 1e-16."""
    dual = float(dual_x.sum() + dual_y.sum())
    rounding = _ROUNDING * float(dual_x.abs().sum() + dual_y.abs().sum())
    if cost - dual > _LARGEST_GAP * cost + rounding:
        raise ConvergenceError(
            f"wasserstein: rounding leaves the network simplex of POT with a gap of {(cost - dual) / cost:.1%} of "
            "W2^2, since the clouds extend far beyond the distance between them. Give clouds of equal size, which are "
            "assigned, or leave out what lies far off"
        )
    return max(cost, dual)


def _mean_squared(pot: ModuleType, clouds: Clouds, x: Tensor, y: Tensor) -> Tensor:
    """W2^2 on the line, the mean over the columns of x (n, k) and y (m, k)."""
    mass_x, mass_y, whole = _masses(clouds)
    mass_x, mass_y = mass_x[:, None].expand_as(x), mass_y[:, None].expand_as(y)
    costs: Tensor = pot.wasserstein_1d(x, y, mass_x, mass_y, p=2)
    return costs.mean() / whole


def _sliced(pot: ModuleType, clouds: Clouds, projections: int, generator: torch.Generator) -> Tensor:
    """The mean of W2^2 over random directions, a block of them at a time; made again for a gradient, not kept."""
    draws = torch.randn((projections, clouds.x.shape[1]), generator=generator, dtype=torch.float64)
    directions = (draws / draws.norm(dim=1, keepdim=True)).to(clouds.x.device)

    def total(block: Tensor) -> Tensor:
        return len(block) * _mean_squared(pot, clouds, clouds.x @ block.mT, clouds.y @ block.mT)

    blocks = directions.split(max(1, _PROJECTED_NUMBERS // (len(clouds.x) + len(clouds.y))))
    sums = [checkpoint(total, block, use_reentrant=False, preserve_rng_state=False) for block in blocks]
    return torch.stack(sums).sum() / projections
