"""Where the heights start: the potential of independent marginals, scaled to fit; or an earlier fit, carried over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.measures import Gaussian
from proxflow.semidiscrete.problem import SemiDual

__all__ = ["Start", "marginal_form", "scaled_start"]

_DRAWS = 512
_BISECTIONS = 8
_QUANTILE_DRAWS = 1 << 12


@dataclass(frozen=True)
class Start:
    """Initial heights (N,), the natural units of height, and the noise draws spent on them.

    ``units`` has one entry for single atoms and one for each level of groups.
    """

    heights: Tensor
    units: tuple[float, ...]
    samples_used: int


def scaled_start(problem: SemiDual, groups: list[Tensor], generator: torch.Generator, heights: Tensor | None) -> Start:
    """Heights s h with h the marginal form and s minimising the convex s -> J(s h), by bisection.

    Given ``heights`` (a warm start) are kept. A unit is the median gap between the best and the second-best
    score of a draw, plus the smoothing: steps measured in it are invariant to the scale of the data.
    """
    noise = problem.noise(_DRAWS, generator)
    spent = 0
    if heights is None:
        form = marginal_form(problem, generator)
        target = float(problem.weights @ form)
        low, high = 0.0, 2.0
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            slope = target - float(problem.assign(noise, middle * form).mass @ form)
            low, high = (middle, high) if slope < 0 else (low, middle)
        heights, spent = 0.5 * (low + high) * form, _BISECTIONS * _DRAWS
    gaps = problem.score_gaps(noise, heights, groups).double().median(0).values
    return Start(heights, tuple((gaps + problem.epsilon).tolist()), spent + _DRAWS)


def marginal_form(problem: SemiDual, generator: torch.Generator) -> Tensor:
    """sum_k psi_k(y_k) over the principal axes, psi_k the Brenier potential of the k-th marginal, (N,).

    It is the optimum where the coordinates are independent, and strictly convex everywhere: no cell is empty.
    """
    centred = problem.points - problem.weights @ problem.points
    variances, axes = torch.linalg.eigh((centred * problem.weights[:, None]).mT @ centred)
    axes = axes[:, variances > 1e-12 * variances[-1]]
    draws = None if isinstance(problem.source, Gaussian) else problem.noise(_QUANTILE_DRAWS, generator).double()
    form = torch.zeros_like(problem.weights)
    for axis in axes.mT:
        form += _line_potential(centred @ axis, problem.weights, None if draws is None else draws @ axis)
    return form


def _line_potential(values: Tensor, weights: Tensor, draws: Tensor | None) -> Tensor:
    """The piecewise linear potential whose slopes are the noise's quantiles at the levels between sorted values.

    The noise is standard normal, or known by ``draws``.
    """
    order = values.argsort()
    levels = weights[order].cumsum(0)[:-1].clamp(1e-12, 1 - 1e-12)
    slopes = torch.special.ndtri(levels) if draws is None else torch.quantile(draws, levels)
    heights = torch.zeros_like(values)
    heights[order[1:]] = (values[order].diff() * slopes).cumsum(0)
    return heights
