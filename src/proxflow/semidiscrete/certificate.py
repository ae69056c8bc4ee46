"""What a fit is worth: the error of its weights and its transport cost, from fresh draws."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.geometry import square_norms, weighted_sum
from proxflow.measures import Source
from proxflow.semidiscrete.descent import Averages
from proxflow.semidiscrete.judgement import Judgement
from proxflow.semidiscrete.light import LightAtoms
from proxflow.semidiscrete.problem import SemiDual, Tally, chunk_sizes, inner

__all__ = [
    "Cost",
    "MassError",
    "bracketed",
    "mass_error",
    "mass_error_of_batches",
    "noise_cost",
    "smooth_transport_cost",
    "transport_cost",
]


@dataclass(frozen=True)
class MassError:
    """chi2 = sum_j (m_j - b_j)^2 / b_j, estimated without bias (it can be negative), and its standard error."""

    chi2: float
    stderr: float


@dataclass(frozen=True)
class Cost:
    """Squared 2-Wasserstein distance in the user's units, its 95% interval, and the dual value, a lower bound."""

    value: float
    interval: tuple[float, float]
    dual: float


def mass_error(tally: Tally, weights: Tensor) -> MassError:
    """Unbiased chi2 from pairs of different draws (docs/theory.md 3), with the variance of that U-statistic.

    With r = m / b and theta = sum_j m_j r_j = 1 + chi2 the variance is 2 (2 (n - 2) zeta_1 + zeta_2) / (n (n - 1)),
    zeta_1 = sum_j m_j r_j^2 - theta^2, zeta_2 at most sum_j r_j^2 (Hoeffding 1948). Powers of m come from pairs and
    triples of different draws: from the counts themselves they would be far too large where atoms are more than draws.
    For softly assigned draws the triples, and with them the error, are an upper bound.
    """
    return _mass_error((tally.total, tally.squares, tally.squares), tally.draws, 1, 1.0, weights)


def mass_error_of_batches(batches: Iterable[Tensor], draws: int, inflation: float, weights: Tensor) -> MassError:
    """``mass_error`` from pairs and triples of different batches, where draws in a batch may be dependent.

    Args:
        batches: three or more, each the masses (N,) by so many draws.
        draws: of each.
        inflation: how many times as much as by independent draws these masses vary.
        weights: (N,).
    """
    sums, count = [torch.zeros_like(weights) for _ in range(3)], 0
    for mass in batches:
        for power, so_far in enumerate(sums, 1):
            so_far += mass**power
        count += 1
    total, squares, cubes = sums
    return _mass_error((total, squares, cubes), count, draws, inflation, weights)


def _mass_error(
    sums: tuple[Tensor, Tensor, Tensor], count: int, draws: int, inflation: float, weights: Tensor
) -> MassError:
    """From sums of ``count`` estimates of the masses, of their squares and their cubes, each by so many draws."""
    n, (total, squares, cubes) = float(count), sums
    pairs = (total.square() - squares) / (n * (n - 1))  # m^2
    triples = (total.pow(3) - 3 * total * squares + 2 * cubes) / (n * (n - 1) * (n - 2))  # m^3
    overlap = float((pairs / weights).sum())
    least = 1 / float(weights.square().sum())  # of zeta_2, by Cauchy and Schwarz: without a coincidence it shows as 0
    quadratic = 2 * max(float((pairs / weights.square()).sum()), least) * inflation**2 / (n * (n - 1) * draws**2)
    linear = 4 * (float((triples / weights.square()).sum()) - overlap**2) * inflation / (n * draws)
    return MassError(overlap - 1, math.sqrt(max(quadratic + linear, 0.5 * quadratic)))


def noise_cost(judgement: Judgement, source: Source) -> tuple[float, float]:
    """The mean of the first of ``judgement.costs`` and its standard error.

    Where the source tells its second moment, |x|^2 is a control variate.
    """
    costs = judgement.costs
    moment = getattr(source, "second_moment", None)
    mean, spread = float(costs.mean[0]), float(costs.products[0, 0])
    if moment is not None and float(costs.products[1, 1]) > 0:
        slope = float(costs.products[0, 1] / costs.products[1, 1])
        mean -= slope * (float(costs.mean[1]) - moment)
        spread -= slope * float(costs.products[0, 1])
    return mean, math.sqrt(max(spread, 0.0) / max(costs.count - 1, 1) / costs.count)


def smooth_transport_cost(judgement: Judgement, source: Source) -> Cost:
    """E|X - grad phi(X)|^2, the cost of the smooth map: optimal to its own image, whatever the heights."""
    value, stderr = noise_cost(judgement, source)
    half = 1.96 * stderr
    return Cost(value, (value - half, value + half), value - half)


def transport_cost(
    problem: SemiDual,
    light: LightAtoms,
    averages: Averages,
    first_half: Averages,
    dual: float,
    stderr: float,
    n: int,
    generator: torch.Generator,
) -> Cost:
    """W2^2 = E|X0|^2 + E_b|y|^2 - 2 J(h*), from the dual value at the averaged heights.

    The heights miss the optimum by their own noise, which biases J upwards. The same noise makes J convex
    between the averages of the two halves of the run, so that the bias is measured, on common draws, and removed.
    Where J still fell from the first half to the second (noise alone would make it rise, the second being the
    shorter), the optimum may lie as much again below: the upper end of the interval allows for that.

    Args:
        problem: the semi-dual.
        light: atoms whose heights bound their cells.
        averages: the heights.
        first_half: of the run that they are averages of.
        dual: their dual value, from draws of its own.
        stderr: its standard error.
        n: draws that the bias is measured on.
        generator: of these.
    """
    parts = (averages, first_half, averages.since(first_half))
    levels = _levels(problem, [light.bounded(part.heights, problem.dtype) for part in parts], n, generator)
    share = first_half.weight / averages.weight
    convexity = max(float(share * levels[1] + (1 - share) * levels[2] - levels[0]), 0.0)
    a, b = parts[1].relative_variance, parts[2].relative_variance
    bias = convexity * (share**2 * a + (1 - share) ** 2 * b) / (share * (1 - share) * (a + b))
    drift = max(float(levels[1] - levels[2]), 0.0)
    half = 1.96 * math.hypot(stderr, bias)
    value = dual + 2 * bias
    return Cost(value, (value - half, value + half + 2 * drift), dual)


def _levels(problem: SemiDual, candidates: list[Tensor], n: int, generator: torch.Generator) -> Tensor:
    """J at each of the candidate heights, on common draws, in the user's units: (candidates,)."""
    scores = []
    for count in chunk_sizes(n, problem.rows_at_once):
        noise = problem.noise(count, generator)
        own = problem.ranks.share(noise)
        found = torch.stack([problem.conjugate(own, heights) for heights in candidates], dim=1)
        scores.append(problem.ranks.all_rows(found, count))
    weighted = torch.stack([inner(problem.weights, heights) for heights in candidates])
    return problem.radius * (torch.cat(scores).mean(0) + weighted)


def bracketed(problem: SemiDual, atom_costs: Tensor, mass: Tensor, cost: Cost) -> Cost:
    """The cost with an interval that holds however far the heights are from the optimum.

    Below, the dual value. Above, the triangle inequality for W2 through the law that the heights do reach: its map
    is optimal for the cell masses, and what those have too much of is moved to where it lacks. ``atom_costs`` (N,) are
    |y_j|^2 - 2 h_j in the user's units.
    """
    excess = mass - problem.weights
    reached = cost.dual + float(inner(excess, atom_costs))
    gain, loss = excess.clamp(min=0), (-excess).clamp(min=0)
    moved = max(float(gain.sum()), torch.finfo(torch.float64).tiny)
    apart = float(inner(gain + loss, square_norms(problem.points)))
    apart -= 2 * float(inner(weighted_sum(gain, problem.points), weighted_sum(loss, problem.points))) / moved
    half = 0.5 * (cost.interval[1] - cost.interval[0])
    upper = (math.sqrt(max(reached + half, 0.0)) + problem.radius * math.sqrt(max(apart, 0.0))) ** 2
    low, high = cost.dual - half, max(upper, cost.interval[1])
    return dataclasses.replace(cost, value=min(max(cost.value, low), high), interval=(low, high))
