"""Where the heights start: the potential of independent marginals, scaled to fit; or an earlier fit, carried over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.measures import Gaussian
from proxflow.semidiscrete.problem import SMALL_GAP, SemiDual

__all__ = ["Start", "isolation", "marginal_form", "scaled_start"]

_DRAWS = 512  # of a step of the bisection, and of the gaps: a median to about 5%
_BISECTIONS = 8  # steps, after which the scale is known to 1 / 256
_QUANTILE_DRAWS = 1 << 12  # that stand for the marginals of a source that is not normal
_FAR = 16.0  # median distances from the centre; farther atoms count as this far when the axes are chosen
_NEIGHBOURS = 1 << 8  # atoms among which the nearest is sought
_ROWS = 1 << 14  # atoms at once
_ISOLATED = 4.0  # median distances to the nearest of those, from which an atom counts as isolated
_LEAST_LEVEL = 1e-300  # of a quantile


@dataclass(frozen=True)
class Start:
    """Initial heights (N,), the natural units of height, and the noise draws spent on them.

    ``units`` has one entry for single atoms and one for each level of groups; ``small_gap`` is the gap between best and
    second-best score that few draws fall below.
    """

    heights: Tensor
    units: tuple[float, ...]
    small_gap: float
    samples_used: int


def scaled_start(problem: SemiDual, groups: list[Tensor], generator: torch.Generator, heights: Tensor | None) -> Start:
    """Heights s h with h the marginal form and s minimising the convex s -> J(s h), by bisection.

    Given ``heights`` (a warm start) are kept. A unit is the median gap between the best and the second-best
    score of a draw, plus the smoothing: steps measured in it are invariant to the scale of the data.
    """
    draws = _DRAWS if heights is not None else (1 + _BISECTIONS) * _DRAWS
    first, *others = problem.noise(draws, generator).split(_DRAWS)
    if heights is None:
        form = marginal_form(problem, generator)
        draws += 0 if isinstance(problem.source, Gaussian) else _QUANTILE_DRAWS
        target = float(problem.weights @ form)
        low, high = 0.0, 2.0
        for noise in others:
            middle = 0.5 * (low + high)
            slope = target - float(problem.assign(noise, middle * form).mass @ form)
            low, high = (middle, high) if slope < 0 else (low, middle)
        heights = 0.5 * (low + high) * form
    gaps = problem.score_gaps(first, heights, groups).double() + problem.epsilon
    units = tuple(gaps.median(0).values.tolist())
    return Start(heights, units, float(gaps[:, 0].quantile(SMALL_GAP)), draws)


def isolation(points: Tensor) -> Tensor:
    """By how much a step of each atom's height must be longer than a typical one's, (N,) of at least 1.

    The scores of an atom and its neighbours part in proportion to their distance: an atom a million spacings away from
    all others moves the border of its cell a million times less with the same step.
    """
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:_NEIGHBOURS].to(points.device)
    distances = []
    for rows in points.split(_ROWS):
        apart = torch.cdist(rows, points[chosen], compute_mode="donot_use_mm_for_euclid_dist")
        distances.append(torch.where(apart > 0, apart, torch.inf).amin(1))
    nearest = torch.cat(distances)
    return (nearest / (_ISOLATED * nearest.median())).clamp(min=1)


def marginal_form(problem: SemiDual, generator: torch.Generator) -> Tensor:
    """sum_k psi_k(y_k) over the principal axes, psi_k the Brenier potential of the k-th marginal, (N,).

    It is the optimum where the coordinates are independent, and strictly convex everywhere: no cell is empty.
    """
    axes = _principal_axes(problem.points, problem.weights)
    centred = problem.points - problem.weights @ problem.points
    draws = None if isinstance(problem.source, Gaussian) else problem.noise(_QUANTILE_DRAWS, generator).double()
    form = torch.zeros_like(problem.weights)
    for axis in axes.mT:
        form += _line_potential(centred @ axis, problem.weights, None if draws is None else draws @ axis)
    return form


def _principal_axes(points: Tensor, weights: Tensor) -> Tensor:
    """Principal axes (d, k) of some extent; neither a few far atoms nor a few heavy ones hide the others."""
    distance = torch.linalg.vector_norm(points, dim=1)
    farthest = _FAR * distance[distance > 0].median()
    near = points * (farthest / distance.clamp(min=farthest))[:, None]
    share = 0.5 * (weights + 1 / len(weights))
    centred = near - share @ near
    variances, axes = torch.linalg.eigh((centred * share[:, None]).mT @ centred)
    kept: Tensor = axes[:, variances > 1e-12 * variances[-1]]
    return kept


def _line_potential(values: Tensor, weights: Tensor, draws: Tensor | None) -> Tensor:
    """The piecewise linear potential whose slopes are the noise's quantiles at the levels between sorted values.

    The noise is standard normal, or known by ``draws``.
    """
    order = values.argsort()
    below = weights[order].cumsum(0)[:-1].clamp(min=_LEAST_LEVEL)
    above = weights[order].flip(0).cumsum(0).flip(0)[1:].clamp(min=_LEAST_LEVEL)
    if draws is None:
        slopes = torch.where(below < above, torch.special.ndtri(below), -torch.special.ndtri(above))
    else:
        slopes = torch.quantile(draws, below.clamp(max=1))
    heights = torch.zeros_like(values)
    heights[order[1:]] = (values[order].diff() * slopes).cumsum(0)
    return heights
