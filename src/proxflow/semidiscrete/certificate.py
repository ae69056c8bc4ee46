"""What a fit is worth: the error of its weights and its transport cost, from fresh independent draws."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.geometry import row_blocks, weighted_sum
from proxflow.measures import Gaussian
from proxflow.semidiscrete.descent import Averages
from proxflow.semidiscrete.light import LightAtoms
from proxflow.semidiscrete.problem import SemiDual, Tally, chunk_sizes, inner

__all__ = [
    "LEAST_DRAWS",
    "Cost",
    "MassError",
    "bracketed",
    "draws_to_judge",
    "mass_error",
    "smooth_transport_cost",
    "transport_cost",
]

LEAST_DRAWS = 1 << 14  # of an evaluation
_ROWS = 1 << 11  # of noise, of which float64 copies are made at once
_BIAS_SHARE = 4  # the bias is a difference on common draws: it needs fewer of them than the mean


@dataclass(frozen=True)
class MassError:
    """chi2 = sum_j (m_j - b_j)^2 / b_j, estimated without bias (it can be negative), and its standard error."""

    chi2: float
    stderr: float


@dataclass(frozen=True)
class Cost:
    """Squared 2-Wasserstein distance in the user's units.

    ``interval`` is its 95% interval, ``dual`` the dual value, a lower bound; ``draws`` were spent on them.
    """

    value: float
    interval: tuple[float, float]
    dual: float
    draws: int


def draws_to_judge(count: int, tol: float, chi2: float = 0.0) -> int:
    """Enough for a standard error of a tenth of the tolerance near the optimum; fewer where chi2 was far above."""
    return max(LEAST_DRAWS, math.ceil(10 * math.sqrt(2 * count) / max(tol, chi2 / 4)))


def mass_error(tally: Tally, weights: Tensor) -> MassError:
    """Unbiased chi2 from pairs of different draws (docs/theory.md 3), with the variance of that U-statistic.

    With r = m / b and theta = sum_j m_j r_j = 1 + chi2 the variance is 2 (2 (n - 2) zeta_1 + zeta_2) / (n (n - 1)),
    zeta_1 = sum_j m_j r_j^2 - theta^2, zeta_2 at most sum_j r_j^2 (Hoeffding 1948). Powers of m come from pairs and
    triples of different draws: from the counts themselves they would be far too large where atoms are more than draws.
    For softly assigned draws the triples, and with them the error, are an upper bound.
    """
    n, total, squares = float(tally.draws), tally.total, tally.squares
    pairs = (total.square() - squares) / (n * (n - 1))  # m^2
    triples = (total.pow(3) - 3 * total * squares + 2 * squares) / (n * (n - 1) * (n - 2))  # m^3
    overlap = float((pairs / weights).sum())
    least = 1 / float(weights.square().sum())  # of zeta_2, by Cauchy and Schwarz: without a coincidence it shows as 0
    quadratic = 2 * max(float((pairs / weights.square()).sum()), least) / (n * (n - 1))
    linear = 4 * (float((triples / weights.square()).sum()) - overlap**2) / n
    return MassError(overlap - 1, math.sqrt(max(quadratic + linear, 0.5 * quadratic)))


def transport_cost(
    problem: SemiDual,
    light: LightAtoms,
    averages: Averages,
    first_half: Averages,
    n: int,
    generator: torch.Generator,
) -> Cost:
    """W2^2 = E|X0|^2 + E_b|y|^2 - 2 J(h*), from the dual value at the averaged heights.

    The heights miss the optimum by their own noise, which biases J upwards. The same noise makes J convex
    between the averages of the two halves of the run, so that the bias is measured on the same draws and removed.
    Where J still fell from the first half to the second (noise alone would make it rise, the second being the
    shorter), the optimum may lie as much again below: the upper end of the interval allows for that.
    """
    parts = (averages, first_half, averages.since(first_half))
    candidates = [light.bounded(part.heights, problem.dtype) for part in parts]
    mean, stderr = _dual_mean(problem, *_scores(problem, candidates[:1], n, generator))
    scores, _ = _scores(problem, candidates, n // _BIAS_SHARE, generator)
    levels = scores.mean(0) + problem.radius * torch.stack([inner(problem.weights, heights) for heights in candidates])
    share = first_half.weight / averages.weight
    convexity = max(float(share * levels[1] + (1 - share) * levels[2] - levels[0]), 0.0)
    a, b = parts[1].relative_variance, parts[2].relative_variance
    bias = convexity * (share**2 * a + (1 - share) ** 2 * b) / (share * (1 - share) * (a + b))
    dual = mean + float(inner(problem.weights, _atom_costs(problem, candidates[0])))
    drift = max(float(levels[1] - levels[2]), 0.0)
    half = 1.96 * math.hypot(stderr, bias)
    value = dual + 2 * bias
    return Cost(value, (value - half, value + half + 2 * drift), dual, searches_for_cost(n)[0])


def searches_for_cost(n: int) -> tuple[int, int]:
    """How many draws ``transport_cost`` makes with ``n`` of them for the mean, and how many searches."""
    return n + n // _BIAS_SHARE, n + 3 * (n // _BIAS_SHARE)


def _scores(
    problem: SemiDual, candidates: list[Tensor], n: int, generator: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """phi at ``n`` common draws for each of the candidate heights, (n, candidates), and the draws, (m, d) at a time."""
    scores, draws = [], []
    for count in chunk_sizes(n, problem.rows_at_once):
        noise = problem.noise(count, generator)
        own = problem.ranks.share(noise)
        found = torch.stack([problem.conjugate(own, h) for h in candidates], dim=1)
        scores.append(problem.ranks.all_rows(found, count))
        draws.append(noise)
    return torch.cat(scores) * problem.radius, draws


def smooth_transport_cost(problem: SemiDual, heights: Tensor, n: int, generator: torch.Generator) -> Cost:
    """E|X - grad phi(X)|^2, the cost of the smooth map: optimal to its own image, whatever the heights."""
    terms = []
    for count in chunk_sizes(n, problem.rows_at_once):
        own = problem.ranks.share(problem.noise(count, generator))
        found = torch.cat([_moved(problem, part, heights) for part in own.split(_ROWS)])
        terms.append(problem.ranks.all_rows(found, count))
    costs = torch.cat(terms)
    value, half = float(costs.mean()), 1.96 * float(costs.std()) / math.sqrt(n)
    return Cost(value, (value - half, value + half), value - half, n)


def _moved(problem: SemiDual, noise: Tensor, heights: Tensor) -> Tensor:
    """|x - grad phi(x)|^2 of noise rows, (n,) float64."""
    images = problem.centre + problem.radius * problem.images(noise, heights)
    return (noise.double() - images).square().sum(1)


def bracketed(problem: SemiDual, heights: Tensor, mass: Tensor, cost: Cost) -> Cost:
    """The cost with an interval that holds however far the heights are from the optimum.

    Below, the dual value. Above, the triangle inequality for W2 through the law that the heights do reach: its map
    is optimal for the cell masses, and what those have too much of is moved to where it lacks.
    """
    excess = mass - problem.weights
    reached = cost.dual + float(inner(excess, _atom_costs(problem, heights)))
    gain, loss = excess.clamp(min=0), (-excess).clamp(min=0)
    moved = max(float(gain.sum()), torch.finfo(torch.float64).tiny)
    squares = torch.cat([problem.points[rows].square().sum(1) for rows in row_blocks(problem.points)])
    apart = float(inner(gain + loss, squares))
    apart -= 2 * float(inner(weighted_sum(gain, problem.points), weighted_sum(loss, problem.points))) / moved
    half = 0.5 * (cost.interval[1] - cost.interval[0])
    upper = (math.sqrt(max(reached + half, 0.0)) + problem.radius * math.sqrt(max(apart, 0.0))) ** 2
    low, high = cost.dual - half, max(upper, cost.interval[1])
    return dataclasses.replace(cost, value=min(max(cost.value, low), high), interval=(low, high))


def _atom_costs(problem: SemiDual, heights: Tensor) -> Tensor:
    """|y_j|^2 - 2 h_j in the user's units: what atom j adds to the cost beside E|X|^2 - 2 E phi_h(X)."""
    return problem.square_norms() - 2 * problem.radius * heights


def _dual_mean(problem: SemiDual, scores: Tensor, draws: list[Tensor]) -> tuple[float, float]:
    """E|X|^2 - 2 E phi(X) and its standard error; for Gaussian noise with x and |x|^2 as control variates.

    By Stein's identity E[phi(X) X] = E[grad phi(X)], at the optimum the mean of the atoms: the best multiple of x is
    known, and that of |x|^2 alone is estimated. As many as there are coordinates could not be from as few draws.

    Args:
        problem: whose noise this is.
        scores: phi of each draw, (n, 1).
        draws: (m, d) at a time.
    """
    draws = [part for noise in draws for part in noise.split(_ROWS)]
    squares = torch.cat([_squares(noise) for noise in draws])
    normal = isinstance(problem.source, Gaussian)
    slope = -problem.radius * problem.mean() if normal else problem.centre
    terms = squares - 2 * torch.cat([inner(noise.double(), slope) for noise in draws]) - 2 * scores[:, 0]
    if normal:
        known = squares - problem.source.dim
        terms = terms - inner(known, terms - terms.mean()) / inner(known, known) * known
    return float(terms.mean()), float(terms.std()) / math.sqrt(len(terms))


def _squares(noise: Tensor) -> Tensor:
    return noise.double().square().sum(1)
