"""Where the heights start: the potential of the Gaussian with the data's moments, scaled to fit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.semidiscrete.problem import SemiDual

__all__ = ["Start", "scaled_gaussian"]

_DRAWS = 512
_BISECTIONS = 8


@dataclass(frozen=True)
class Start:
    """Initial heights (N,), the natural unit of height, and the noise draws spent on them."""

    heights: Tensor
    unit: float
    samples_used: int


def scaled_gaussian(problem: SemiDual, generator: torch.Generator, heights: Tensor | None) -> Start:
    """Heights s (y - m)' S^(-1/2) (y - m) / 2 with s minimising the convex s -> J(s h), by bisection.

    Given ``heights`` (a warm start) are kept. The unit is the median gap between the best and the second-best
    score of a draw: steps measured in it are invariant to the scale of the data.
    """
    noise = problem.noise(_DRAWS, generator)
    spent = 0
    if heights is None:
        form = _gaussian_form(problem.points, problem.weights)
        target = float(problem.weights @ form)
        low, high = 0.0, 2.0
        for _ in range(_BISECTIONS):
            middle = 0.5 * (low + high)
            slope = target - float(form[problem.search(noise, middle * form).index].mean())
            low, high = (middle, high) if slope < 0 else (low, middle)
        heights, spent = 0.5 * (low + high) * form, _BISECTIONS * _DRAWS
    gaps = problem.score_gaps(noise, heights)
    return Start(heights, float(gaps.double().median()), spent + _DRAWS)


def _gaussian_form(points: Tensor, weights: Tensor) -> Tensor:
    centred = points - weights @ points
    covariance = (centred * weights[:, None]).mT @ centred
    variances, axes = torch.linalg.eigh(covariance)
    kept = variances > 1e-12 * variances[-1]
    coordinates = centred @ axes[:, kept]
    form: Tensor = 0.5 * (coordinates.square() / variances[kept].sqrt()).sum(1)
    return form
