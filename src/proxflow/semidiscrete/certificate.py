"""What a fit is worth: the error of its weights and its transport cost, from fresh independent draws."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.measures import Gaussian
from proxflow.semidiscrete.descent import Averages
from proxflow.semidiscrete.problem import SemiDual

__all__ = ["Cost", "MassError", "cell_counts", "mass_error", "transport_cost"]


@dataclass(frozen=True)
class MassError:
    """chi2 = sum_j (m_j - b_j)^2 / b_j, estimated without bias (it can be negative), and its standard error."""

    chi2: float
    stderr: float


@dataclass(frozen=True)
class Cost:
    """Squared 2-Wasserstein distance in the user's units and its 95% interval."""

    value: float
    interval: tuple[float, float]


def cell_counts(problem: SemiDual, heights: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """How many of ``n`` fresh draws fall in each Laguerre cell, (N,) float64."""
    counts = torch.zeros(len(problem), dtype=torch.float64, device=problem.points.device)
    for rows in _chunks(n, problem.rows_at_once):
        atom = problem.search(problem.noise(rows, generator), heights).index
        counts += torch.bincount(atom, minlength=len(problem))
    return counts


def mass_error(counts: Tensor, weights: Tensor) -> MassError:
    """Unbiased chi2 from multinomial counts (THEORY section 3), with the variance of that U-statistic."""
    n = float(counts.sum())
    estimate = float(((counts.square() - counts) / weights).sum()) / (n * (n - 1)) - 1
    mass = counts / n
    ratio = mass / weights
    pairs = 2 * max(float((mass * ratio / weights).sum()), 0.0) / (n * (n - 1))
    linear = 4 * (float((mass * ratio.square()).sum()) - float((mass * ratio).sum()) ** 2) / n
    # The plug-in linear term is inflated by the noise of the counts, about 4 (N - 1) / n^2; take that out.
    linear -= 4 * (len(counts) - 1) / n**2
    return MassError(estimate, math.sqrt(max(pairs + linear, 0.5 * pairs)))


def transport_cost(
    problem: SemiDual, averages: Averages, first_half: Averages, n: int, generator: torch.Generator
) -> Cost:
    """W2^2 = E|X0|^2 + E_b|y|^2 - 2 J(h*), from the dual value at the averaged heights.

    The heights miss the optimum by their own noise, which biases J upwards. The same noise makes J convex
    between the averages of the two halves of the run, so that the bias is measured on the same draws and removed.
    Where J still fell from the first half to the second (noise alone would make it rise, the second being the
    shorter), the optimum may lie as much again below: the upper end of the interval allows for that.
    """
    second_half = averages.since(first_half)
    rows = []
    for count in _chunks(n, problem.rows_at_once):
        noise = problem.noise(count, generator)
        best = [problem.search(noise, half.heights).value.double() for half in (averages, first_half, second_half)]
        rows.append(torch.cat([torch.stack(best, dim=1), noise[:, :-1].double()], dim=1))
    table = torch.cat(rows)
    scores, noise = table[:, :3] * problem.radius, table[:, 3:]
    dual, stderr = _dual_mean(problem, scores[:, 0], noise)
    levels = scores.mean(0) + problem.radius * torch.stack(
        [problem.weights @ half.heights for half in (averages, first_half, second_half)]
    )
    share = first_half.weight / averages.weight
    convexity = max(float(share * levels[1] + (1 - share) * levels[2] - levels[0]), 0.0)
    a, b = first_half.relative_variance, second_half.relative_variance
    bias = convexity * (share**2 * a + (1 - share) ** 2 * b) / (share * (1 - share) * (a + b))
    data = problem.radius**2 * float(problem.weights @ problem.points.square().sum(1))
    offset = float(problem.centre @ (problem.centre + 2 * problem.radius * (problem.weights @ problem.points)))
    penalty = 2 * problem.radius * float(problem.weights @ averages.heights)
    value = dual + data + offset - penalty + 2 * bias
    half = 1.96 * math.hypot(stderr, bias)
    drift = max(float(levels[1] - levels[2]), 0.0)
    return Cost(value, (value - half, value + half + 2 * drift))


def _dual_mean(problem: SemiDual, score: Tensor, noise: Tensor) -> tuple[float, float]:
    """E|X|^2 - 2 E phi(X) and its standard error; for Gaussian noise with x and |x|^2 as control variates."""
    square = noise.square().sum(1)
    terms = square - 2 * (score + noise @ problem.centre)
    if isinstance(problem.source, Gaussian):
        known = torch.cat([noise, (square - problem.source.second_moment)[:, None]], dim=1)
        slope = torch.linalg.lstsq(known, (terms - terms.mean())[:, None]).solution[:, 0]
        terms = terms - known @ slope
    return float(terms.mean()), float(terms.std()) / math.sqrt(len(terms))


def _chunks(n: int, size: int) -> list[int]:
    full, rest = divmod(n, size)
    return [size] * full + ([rest] if rest else [])
