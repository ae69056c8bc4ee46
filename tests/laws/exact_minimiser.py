"""The exact minimiser of the flow-matching loss, for joint laws of pairs whose conditional means are known.

Problem: whatever network is trained, the loss is least at v*(t, x) = E[velocity | x_t = x] (docs/theory.md 8). Find the
law on which the flow of v* ends, without a network and without noise.

Method: the velocity is linear in the pair, so v* is the velocity of the mean pair E[(x0, x1) | x_t = x], which the
library's own ``sample_path`` gives. A joint law supplies the mean pair and the density of x_t. The flow starts at
quantiles of the source and follows v* by an adaptive Runge-Kutta method of order 8. On the line its map is monotone, so
that the quantiles of its end are the images of those of its start, and W2 is an integral over levels.

Not circular: that v* transports the law of x_0 to that of x_1 is used nowhere. A joint law that changes with time, as a
``Mixture`` may, goes through the same code and ends elsewhere. An error of the solver can make the end of an exact law
look wrong, but not the end of another law look right.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq
from torch import Tensor
from torch.special import log_ndtr, ndtr, ndtri

from proxflow.couplings import Pairs
from proxflow.matching import sample_path
from proxflow.schedules import Schedule

F64 = torch.float64
LEAST_NOISE = 1 / 6  # of half a gap between atoms: noise beyond 6 standard deviations, a mass of 10^-9, is mistaken
MOST_EVALUATIONS = 10_000  # of v*; right ones take fewer than 1,000
NO_ROWS = torch.empty(0, dtype=torch.int64)  # behind a mean pair


class MeanPair(NamedTuple):
    """Log-density (B,) of x_t at B points, and the means E[x0 | x_t = x] and E[x1 | x_t = x], (B, d)."""

    log_density: Tensor
    source: Tensor
    target: Tensor


class JointLaw(Protocol):
    """A joint law of source points, N(0, I), and target points."""

    def mean_pair(self, schedule: Schedule, t: Tensor, x: Tensor) -> MeanPair:
        """At times (B,) and points (B, d)."""


class AtomLaw(JointLaw, Protocol):
    """A joint law whose targets are finitely many atoms ``points`` (J, d)."""

    @property
    def points(self) -> Tensor:
        """The atoms."""

    def probability(self, source: Tensor) -> Tensor:
        """P(x1 = y_j | x0), (M, J), at source points (M, d)."""


# ---------------------------------------------------------------- the minimiser and its flow


def minimiser(law: JointLaw, schedule: Schedule, t: Tensor, x: Tensor) -> Tensor:
    """v*(t, x), (B, d), at times (B,)."""
    _, source, target = law.mean_pair(schedule, t, x)
    return sample_path(Pairs(source, target, NO_ROWS), t, schedule).velocity


@torch.inference_mode()
def ends(law: JointLaw, schedule: Schedule, starts: Tensor, until: float = 1.0, tolerance: float = 1e-7) -> Tensor:
    """Where the flow of v* takes starts (B, d), (B, d).

    It is followed to the time ``until``; the last step goes to E[x1 | x_t = x], as a sampler's does.
    """
    left = iter(range(MOST_EVALUATIONS))

    def derivative(t: float, flat: np.ndarray) -> np.ndarray:
        assert next(left, None) is not None, f"{MOST_EVALUATIONS} evaluations of v* led to t = {t:g} only"
        x = torch.from_numpy(flat).reshape(starts.shape)
        return minimiser(law, schedule, torch.full((len(x),), t, dtype=F64), x).flatten().numpy()

    solution = solve_ivp(
        derivative, (0.0, until), starts.flatten().numpy(), method="DOP853", rtol=tolerance, atol=tolerance
    )
    assert solution.success, solution.message
    x = torch.from_numpy(solution.y[:, -1]).reshape(starts.shape)
    return law.mean_pair(schedule, torch.full((len(x),), until, dtype=F64), x).target


def time_near_atoms(schedule: Schedule, points: Tensor) -> float:
    """The time at which noise is so small beside the gaps of atoms (J, 1) that x_t shows its atom."""
    gap = float(points[:, 0].sort().values.diff().min())
    return brentq(lambda t: float(schedule.alpha(t)) - LEAST_NOISE * gap / 2, 0.0, 1.0)


# ---------------------------------------------------------------- W2 on the line


def atom_levels(weights: Tensor, distance: float, others: int = 16) -> Tensor:
    """Levels in (0, 1) of the starts: evenly spread, and close below and above each jump of the target's quantiles."""
    jumps = weights.cumsum(0)[:-1]
    even = (torch.arange(others, dtype=F64) + 0.5) / others
    even = even[((even[:, None] - jumps).abs() > distance).all(1)]
    return torch.cat([even, jumps - distance, jumps + distance]).sort().values


def atom_quantile(points: Tensor, weights: Tensor, level: Tensor) -> Tensor:
    """Quantiles of ascending atoms (J,) at levels (B,)."""
    return points[torch.searchsorted(weights.cumsum(0)[:-1].contiguous(), level)]


def w2(level: Tensor, reached: Tensor, wanted: Tensor) -> float:
    """W2 of two laws from their quantiles (B,) at ascending levels (B,), by the trapezoidal rule."""
    return math.sqrt(float(torch.trapezoid((reached - wanted).square(), level)))


def standard_deviation(points: Tensor, weights: Tensor) -> float:
    """Of atoms (J,)."""
    mean = weights @ points
    return math.sqrt(float(weights @ (points - mean).square()))


# ---------------------------------------------------------------- joint laws with atoms


@dataclass(frozen=True)
class AtomPairs:
    """Atoms (J, d) that source points go to with given probabilities, which must not all vanish anywhere."""

    points: Tensor
    probability: Callable[[Tensor], Tensor]

    def mean_pair(self, schedule: Schedule, t: Tensor, x: Tensor) -> MeanPair:
        """By Bayes' rule: x_t = x and x1 = y_j mean that x0 = (x - beta y_j) / alpha."""
        alpha = schedule.alpha(t)
        source = _sources(self.points, alpha, schedule.beta(t), x)
        count, atoms, dim = source.shape
        own = self.probability(source.reshape(-1, dim)).reshape(count, atoms, atoms).diagonal(dim1=1, dim2=2)
        log_weight = _log_normal(source) + own.log()
        weight = log_weight.softmax(1)
        log_density = log_weight.logsumexp(1) - dim * alpha.log()
        return MeanPair(log_density, (weight[..., None] * source).sum(1), weight @ self.points)


@dataclass(frozen=True)
class OptimalAtoms:
    """Atoms (J, d) with heights (J,): x0 goes to the atom of its Laguerre cell, argmax_j <x0, y_j> - h_j.

    One pair at most passes a point x, the one without Fenchel-Young gap. Where none does the minimiser may be anything;
    here it is that of the pair of least gap, so that it is smooth around every trajectory.
    """

    points: Tensor
    heights: Tensor

    def probability(self, source: Tensor) -> Tensor:
        """0 or 1."""
        best = (source @ self.points.mT - self.heights).argmax(1)
        return torch.nn.functional.one_hot(best, len(self.points)).to(F64)

    def mean_pair(self, schedule: Schedule, t: Tensor, x: Tensor) -> MeanPair:
        """The pair that passes x."""
        alpha = schedule.alpha(t)
        source = _sources(self.points, alpha, schedule.beta(t), x)
        score = source @ self.points.mT - self.heights  # (B, J, J)
        gap, atom = (score.amax(2) - score.diagonal(dim1=1, dim2=2)).min(1)
        source = source[torch.arange(len(x)), atom]
        log_density = _log_normal(source) - x.shape[1] * alpha.log()
        return MeanPair(torch.where(gap > 0, -torch.inf, log_density), source, self.points[atom])


def softmax_probability(points: Tensor, heights: Tensor, weights: Tensor, epsilon: float) -> Callable[[Tensor], Tensor]:
    """Of entropic transport: P(y_j | u) proportional to b_j exp((<u, y_j> - h_j) / epsilon)."""
    return lambda source: ((source @ points.mT - heights) / epsilon + weights.log()).softmax(1)


def _sources(points: Tensor, alpha: Tensor, beta: Tensor, x: Tensor) -> Tensor:
    """x0 of the pairs with each atom (J, d) that pass points (B, d), (B, J, d)."""
    return (x[:, None] - beta[:, None, None] * points) / alpha[:, None, None]


def _log_normal(source: Tensor) -> Tensor:
    """Of N(0, I) at (..., d)."""
    return -0.5 * (source.square().sum(-1) + source.shape[-1] * math.log(2 * math.pi))


# ---------------------------------------------------------------- joint laws with densities


@dataclass(frozen=True)
class GaussianPairs:
    """x1 normal with standard deviations (d,), and one correlation with x0 in every coordinate.

    1 is the optimal coupling, 0 the independent one, cos a that of (cos a x0 + sin a x0', x1) with (x0, x1) optimal and
    x0' independent noise.
    """

    deviation: Tensor
    correlation: float

    def mean_pair(self, schedule: Schedule, t: Tensor, x: Tensor) -> MeanPair:
        """By regression."""
        alpha, beta = schedule.alpha(t)[:, None], schedule.beta(t)[:, None]
        shared = self.correlation * self.deviation
        variance = alpha.square() + 2 * alpha * beta * shared + (beta * self.deviation).square()
        source = (alpha + beta * shared) / variance * x
        target = (alpha * shared + beta * self.deviation.square()) / variance * x
        return MeanPair(_log_normal(x / variance.sqrt()) - 0.5 * variance.log().sum(1), source, target)


@dataclass(frozen=True)
class TwoModes:
    """The law on the line of .7 N(-2, .3^2) + .3 N(2, .3^2), and its optimal map to the source and back."""

    share: float = 0.7
    place: float = 2.0
    deviation: float = 0.3

    @property
    def variance(self) -> float:
        """Of the law."""
        return self.deviation**2 + 4 * self.share * (1 - self.share) * self.place**2

    def log_density(self, y: Tensor) -> Tensor:
        """Elementwise."""
        left, right = (_log_normal(z[..., None]) - math.log(self.deviation) for z in self._scaled(y))
        return torch.logaddexp(math.log(self.share) + left, math.log(1 - self.share) + right)

    def cdf(self, y: Tensor) -> Tensor:
        """Elementwise."""
        left, right = self._scaled(y)
        return self.share * ndtr(left) + (1 - self.share) * ndtr(right)

    def to_source(self, y: Tensor) -> Tensor:
        """The optimal map to N(0, 1), elementwise."""
        left, right = self._scaled(y)
        above = self.share * ndtr(-left) + (1 - self.share) * ndtr(-right)  # keeps its digits where the cdf is near 1
        image = torch.where(y < 0, ndtri(self.cdf(y)), -ndtri(above))
        return image.clamp(-37.0, 37.0)  # beyond, tails are no numbers of float64

    def inverse(self, alpha: Tensor, beta: Tensor, x: Tensor) -> Tensor:
        """The y with alpha to_source(y) + beta y = x, all (B, 1); at alpha = 1, beta = 0 the optimal map of x.

        By Newton's method between neighbours of a table.
        """
        node, image = self._table
        place = (alpha * image + beta * node < x).sum(1, keepdim=True)
        low, high = node[place - 1], node[place]
        y = 0.5 * (low + high)
        for _ in range(5):  # slopes differ by a factor of 1.6 at most from node to node: digits double
            source = self.to_source(y)
            slope = alpha * torch.exp(self.log_density(y) - _log_normal(source[..., None])) + beta
            y = (y - (alpha * source + beta * y - x) / slope).clamp(low, high)
        return y

    @functools.cached_property
    def _table(self) -> tuple[Tensor, Tensor]:
        node = torch.linspace(-6, 6, 601, dtype=F64)
        return node, self.to_source(node)

    def _scaled(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return (y + self.place) / self.deviation, (y - self.place) / self.deviation


@dataclass(frozen=True)
class MonotonePairs:
    """Optimal pairs of N(0, 1) and two modes."""

    target: TwoModes

    def mean_pair(self, schedule: Schedule, t: Tensor, x: Tensor) -> MeanPair:
        """The pair that passes x."""
        alpha, beta = schedule.alpha(t)[:, None], schedule.beta(t)[:, None]
        y = self.target.inverse(alpha, beta, x)
        source = self.target.to_source(y)
        spread = alpha * torch.exp(-_log_normal(source[..., None])) + beta * torch.exp(-self.target.log_density(y))
        return MeanPair(-spread[:, 0].log(), source, y)


@dataclass(frozen=True)
class SmoothPairs:
    """A joint density on the plane, by the trapezoidal rule along the line of pairs that pass x.

    The line is followed in x1 while alpha > beta and in x0 afterwards, so that the integrand is always as smooth as the
    density; errors of the rule are then below rounding: its step is a third of the modes' standard deviation or less.
    """

    log_density: Callable[[Tensor, Tensor], Tensor]
    step: float = 0.1
    reach: float = 6.5

    def mean_pair(self, schedule: Schedule, t: Tensor, x: Tensor) -> MeanPair:
        """By Bayes' rule on the nodes."""
        alpha, beta = schedule.alpha(t)[:, None], schedule.beta(t)[:, None]
        count = round(self.reach / self.step)
        node = self.step * torch.arange(-count, count + 1, dtype=F64)
        early = alpha > beta
        source = torch.where(early, (x - beta * node) / alpha.clamp(min=0.1), node)
        target = torch.where(early, node, (x - alpha * node) / beta.clamp(min=0.1))
        log_weight = self.log_density(source, target)
        weight = log_weight.softmax(1)
        log_density = log_weight.logsumexp(1) + math.log(self.step) - torch.maximum(alpha, beta).log()[:, 0]
        mean = ((weight * end).sum(1, keepdim=True) for end in (source, target))
        return MeanPair(log_density, *mean)


def rank_pairs(target: TwoModes, n: int) -> SmoothPairs:
    """Optimal assignment of n draws each: the k-th smallest go together, for each k; n = 1 are independent pairs."""
    rank = torch.arange(n, dtype=F64)
    log_binomial = torch.lgamma(torch.tensor(n, dtype=F64)) - torch.lgamma(rank + 1) - torch.lgamma(n - rank)

    def log_rank(below: Tensor, above: Tensor) -> Tensor:
        """log P(k of the other n - 1 lie below), from the logarithms of both tails."""
        return log_binomial + rank * below[..., None] + (n - 1 - rank) * above[..., None]

    def log_density(source: Tensor, y: Tensor) -> Tensor:
        image = target.to_source(y)
        ranks = log_rank(log_ndtr(source), log_ndtr(-source)) + log_rank(log_ndtr(image), log_ndtr(-image))
        return _log_normal(source[..., None]) + target.log_density(y) + math.log(n) + ranks.logsumexp(-1)

    return SmoothPairs(log_density)


def turned_pairs(target: TwoModes, angle: float) -> SmoothPairs:
    """(cos a u + sin a u', T(u)) with u and u' independent N(0, 1) and T optimal."""

    def log_density(source: Tensor, y: Tensor) -> Tensor:
        noise = (source - math.cos(angle) * target.to_source(y)) / math.sin(angle)
        return _log_normal(noise[..., None]) - math.log(math.sin(angle)) + target.log_density(y)

    return SmoothPairs(log_density)


# ---------------------------------------------------------------- mixtures


@dataclass(frozen=True)
class Mixture:
    """Pairs of the law ``other`` with probability q, else of ``law``.

    ``share`` gives q at times (B,). Constant, it makes one joint law; changing with t it does not, and what a network
    that is not told q learns is this field all the same.
    """

    law: JointLaw
    other: JointLaw
    share: Callable[[Tensor], Tensor]

    def mean_pair(self, schedule: Schedule, t: Tensor, x: Tensor) -> MeanPair:
        """By Bayes' rule over both laws."""
        first, second = (law.mean_pair(schedule, t, x) for law in (self.law, self.other))
        q = self.share(t)
        log_weight = torch.stack([first.log_density + torch.log1p(-q), second.log_density + q.log()], dim=1)
        left, right = log_weight.softmax(1).split(1, dim=1)
        return MeanPair(
            log_weight.logsumexp(1),
            left * first.source + right * second.source,
            left * first.target + right * second.target,
        )
