"""Patches of data over which a local statistic is constant, and its value at scale 0.

Patches are nested groups, the largest that agree with their parts; the value is read from a curve measured at many
scales with correlated errors.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["UNEVEN", "Estimate", "Patch", "extrapolated", "homogeneous_patches"]

_SMALLEST = 128  # points of a patch
_STANDARD_ERRORS = 4.0  # by which parts may differ and still agree
_SAME = 0.5  # dimensions of manifolds are whole numbers
UNEVEN = 0.6  # standard deviation of log spacing: sampling alone gives up to 0.3, a normal law in the plane 0.45


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error; not a number where there is nothing to estimate it from."""

    value: float
    stderr: float


@dataclass(frozen=True)
class Patch:
    """Rows (n,) of the data and the estimate that holds for all of them."""

    rows: Tensor
    estimate: Estimate


@dataclass(frozen=True)
class _Cut:
    """By how much the two sides of a cut differ, and the standard error of that."""

    difference: float
    stderr: float


def homogeneous_patches(points: Tensor, log_spacing: Tensor, estimate: Callable[[Tensor], Estimate]) -> list[Patch]:
    """A partition of the points (N, d) by a tree of cuts, down to groups of 128.

    A cut is made across the direction of largest variance, or by the logarithm of the local spacing (N,) where that
    varies by more than sampling explains, at the value that leaves the least variance inside the two sides (Otsu's
    method): between two clumps.

    A group is kept whole if the two sides of every cut inside it agree, within 1/2 or 4 + sqrt(2 log of the number of
    cuts) standard errors of the difference. Sides are compared with each other, not with the whole: a smaller group
    sees larger scales only, which may bias it, and its other side alike.
    """
    return _judged(points, log_spacing, torch.arange(len(points), device=points.device), estimate)[0]


def _judged(
    points: Tensor, log_spacing: Tensor, rows: Tensor, estimate: Callable[[Tensor], Estimate]
) -> tuple[list[Patch], Estimate, list[_Cut]]:
    """The patches of a group, its estimate, and the cuts inside it."""
    own = estimate(rows)
    whole = [Patch(rows, own)]
    if len(rows) < 2 * _SMALLEST:
        return whole, own, []
    first, second = (_judged(points, log_spacing, part, estimate) for part in _sides(points, log_spacing, rows))
    cuts = [*first[2], *second[2]]
    difference = abs(first[1].value - second[1].value)
    if math.isfinite(difference):
        cuts.append(_Cut(difference, math.hypot(first[1].stderr, second[1].stderr)))
    allowed = _STANDARD_ERRORS + math.sqrt(2 * math.log(max(1, len(cuts))))
    agree = all(cut.difference <= max(_SAME, allowed * cut.stderr) for cut in cuts)
    return (whole if agree else [*first[0], *second[0]]), own, cuts


def _sides(points: Tensor, log_spacing: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """The two sides of a cut of a group, at least 128 rows each."""
    value = log_spacing[rows]
    if float(value.std()) < UNEVEN:
        centred = points[rows] - points[rows].mean(0)
        _, vectors = torch.linalg.eigh(centred.mT @ centred)
        value = centred @ vectors[:, -1]
    value, order = torch.sort(value, stable=True)
    first = torch.arange(1, len(rows), device=rows.device)
    sums = value.cumsum(0)
    apart = (sums[:-1] / first - (sums[-1] - sums[:-1]) / (len(rows) - first)).square() * first * (len(rows) - first)
    cut = _SMALLEST + int(apart[_SMALLEST - 1 : len(rows) - _SMALLEST].argmax())
    return rows[order[:cut]], rows[order[cut:]]


_FEWEST = 4  # scales: a parabola and one to judge it
_SHORTEST = 5  # scales in a window
_ACCEPTABLE = 1.5  # chi-square per degree of freedom
_NOISE_EVIDENCE = 16.0  # improvement of chi-square that lets a noise term in
_RIVAL = 3.0  # standard errors of the best within which a window says how much the choice of window matters
_RIDGE = 1e-3  # of the covariance between scales, which is nearly singular


@dataclass(frozen=True)
class _Fit:
    """The value at 0, its standard error (inflated where the fit is poor), and chi-square per degree of freedom."""

    value: float
    stderr: float
    misfit: float


def extrapolated(s: Tensor, curve: Tensor, covariance: Tensor) -> Estimate:
    """c_0 of c_0 + c_1 s + c_2 s^2, plus b / s with b > 0 if a falling curve insists, by generalised least squares.

    All windows of at least 5 neighbouring scales are fitted. Of those with chi-square per degree of freedom up to 1.5
    the one with the smallest standard error counts; if there is none, the one with the smallest chi-square. The spread
    of good windows is part of the standard error. Fewer than 5 scales are fitted as they are, by a polynomial with at
    least one degree of freedom where possible.

    Args:
        s: (S,) positive, ascending.
        curve: (S,).
        covariance: (S, S), of the errors of the curve.
    """
    if len(s) < _FEWEST:
        return Estimate(math.nan, math.nan)
    covariance = covariance + torch.diag(_RIDGE * covariance.diagonal() + torch.finfo(s.dtype).tiny)
    count = len(s)
    shortest = min(_SHORTEST, count)
    windows = [slice(a, b) for a in range(count) for b in range(a + shortest, count + 1)]
    fits = [_fit(s[w] / s[w][-1], curve[w], covariance[w, w]) for w in windows]
    good = [fit for fit in fits if fit.misfit <= _ACCEPTABLE]
    best = min(good, key=lambda fit: fit.stderr) if good else min(fits, key=lambda fit: fit.misfit)
    rivals = [fit for fit in good if fit.stderr <= _RIVAL * best.stderr]
    weight = sum(fit.stderr**-2 for fit in rivals)
    choice = sum(((fit.value - best.value) / fit.stderr) ** 2 for fit in rivals) / weight if rivals else 0.0
    return Estimate(best.value, math.hypot(best.stderr, math.sqrt(choice)))


def _fit(s: Tensor, curve: Tensor, covariance: Tensor) -> _Fit:
    degree = max(0, min(2, len(s) - 2))
    design = torch.stack([s**power for power in range(degree + 1)], 1)
    factor = torch.linalg.cholesky(covariance)
    coefficients, variance, misfit = _least_squares(design, curve, factor)
    freedom = len(s) - design.shape[1]
    if freedom > 1 and curve[0] > curve[-1]:
        noisy = _least_squares(torch.cat([design, 1 / s[:, None]], 1), curve, factor)
        if float(noisy[0][-1]) > 0 and misfit - noisy[2] > _NOISE_EVIDENCE:
            (coefficients, variance, misfit), freedom = noisy, freedom - 1
    per_freedom = misfit / freedom if freedom > 0 else 0.0
    return _Fit(float(coefficients[0]), math.sqrt(variance * max(1.0, per_freedom)), per_freedom)


def _least_squares(design: Tensor, curve: Tensor, factor: Tensor) -> tuple[Tensor, float, float]:
    """Coefficients, variance of the first, and chi-square, for the Cholesky factor of the covariance."""
    whitened = torch.linalg.solve_triangular(factor, torch.cat([design, curve[:, None]], 1), upper=False)
    matrix, wanted = whitened[:, :-1], whitened[:, -1:]
    orthogonal, triangle = torch.linalg.qr(matrix)
    identity = torch.eye(len(triangle), dtype=curve.dtype, device=curve.device)
    inverse = torch.linalg.solve_triangular(triangle, identity, upper=True)
    coefficients = inverse @ (orthogonal.mT @ wanted)
    misfit = (wanted - matrix @ coefficients).square().sum()
    return coefficients[:, 0], float(inverse[0].square().sum()), float(misfit)
