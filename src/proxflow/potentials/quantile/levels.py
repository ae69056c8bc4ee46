"""Levels of a scalar source variable: how much of the noise lies below and above a point.

Both tails are kept apart, because a level that rounds to 1 says nothing about how far out a point is. The variable is
the coordinate of a one-dimensional source, or the distance of a rotation-invariant source from 0.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import special
from torch import Tensor

from proxflow.measures import Source, is_normal
from proxflow.potentials.base import Float64Module, check_rotation_invariant

__all__ = ["Levels", "coordinate_levels", "radius_levels"]

_PANEL_WIDTH = 0.25  # of the table of Gaussian radii, in standard deviations
_DEGREE = 11  # of its Chebyshev polynomials: rounding in a panel of that width
_SMALLEST_TAIL = 1e-304  # where the table ends


class Levels(Float64Module):
    """The law of a scalar source variable S.

    Attributes:
        signed: whether S takes both signs; a distance does not.
        keeps_upper_tail: whether P(S > s) stays accurate when it is below the rounding of 1.
    """

    signed: bool = True
    keeps_upper_tail: bool = True

    @abstractmethod
    def tails(self, s: Tensor) -> tuple[Tensor, Tensor]:
        """P(S <= s) and P(S > s), elementwise in float64."""

    @abstractmethod
    def density(self, s: Tensor) -> Tensor:
        """Density of S, elementwise in float64."""


def coordinate_levels(source: Source) -> Levels:
    """Levels of a one-dimensional source.

    Raises:
        ValueError: the source is not Gaussian and has no ``cdf`` method.
    """
    if is_normal(source):
        return _GaussianCoordinate()
    cdf = getattr(source, "cdf", None)
    if not callable(cdf):
        raise ValueError(
            f"Quantile: the source {source!r} needs a method cdf(x), P(X <= x) elementwise; or use a Gaussian source"
        )
    return _GivenCoordinate(source)


def radius_levels(source: Source) -> Levels:
    """Levels of the distance of a rotation-invariant source from 0.

    Raises:
        ValueError: the source is not Gaussian, and is not rotation-invariant or has no ``radius_cdf`` method.
    """
    if is_normal(source):
        return _GaussianRadius(source.dim)
    needed = "it also needs a method radius_cdf(r), P(|X| <= r) elementwise"
    check_rotation_invariant("Radial", source, needed)
    if not callable(getattr(source, "radius_cdf", None)):
        raise ValueError(f"Radial: the source {source!r} must be rotation-invariant, as it is, and {needed}")
    return _GivenRadius(source)


class _GaussianCoordinate(Levels):
    """The standard normal law; torch.special.ndtr is 0 at -10, erfc keeps the tail."""

    def tails(self, s: Tensor) -> tuple[Tensor, Tensor]:
        scaled = s / math.sqrt(2)
        return 0.5 * torch.erfc(-scaled), 0.5 * torch.erfc(scaled)

    def density(self, s: Tensor) -> Tensor:
        return (-0.5 * s.square()).exp() / math.sqrt(2 * math.pi)


class _GaussianRadius(Levels):
    """The chi law with ``dim`` degrees of freedom.

    torch.special.gammainc is off by 1e-9 above 40 degrees of freedom and has steps there, so the logarithm of the
    smaller tail is tabulated instead, in Chebyshev polynomials on panels that are aligned with the median m. Below it
    the table holds log P(S <= s) - dim log(s / m), an even analytic function of s.
    """

    signed = False
    _coefficients: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self._dim = dim
        self._median = math.sqrt(2 * special.gammaincinv(0.5 * dim, 0.5))
        below = math.ceil(self._median / _PANEL_WIDTH)
        self._start = self._median - below * _PANEL_WIDTH
        self._end = math.sqrt(2 * special.gammainccinv(0.5 * dim, _SMALLEST_TAIL))
        above = math.ceil((self._end - self._median) / _PANEL_WIDTH)
        nodes = np.cos(np.pi * (np.arange(_DEGREE + 1) + 0.5) / (_DEGREE + 1))
        places = self._start + _PANEL_WIDTH * (np.arange(below + above)[:, None] + 0.5 * (1 + nodes))
        logs = np.concatenate(
            [_log_lower_tail(places[:below], dim, self._median), _log_upper_tail(places[below:], dim)]
        )
        transform = np.linalg.inv(np.polynomial.chebyshev.chebvander(nodes, _DEGREE))
        self.register_buffer("_coefficients", torch.from_numpy(logs @ transform.T), persistent=False)
        self._log_norm = (0.5 * dim - 1) * math.log(2) + math.lgamma(0.5 * dim)

    def tails(self, s: Tensor) -> tuple[Tensor, Tensor]:
        position = (s.clamp(0, self._end) - self._start) / _PANEL_WIDTH
        panel = position.detach().floor().clamp(0, len(self._coefficients) - 1).nan_to_num()
        exponent = _clenshaw(self._coefficients[panel.long()], 2 * (position - panel) - 1)
        below = s < self._median
        ratio = torch.where(below & (s > 0), s, self._median) / self._median
        small = (exponent + self._dim * ratio.log()).exp()
        small = torch.where((s <= 0) | (s >= self._end), 0.0, small)
        return torch.where(below, small, 1 - small), torch.where(below, 1 - small, small)

    def density(self, s: Tensor) -> Tensor:
        return (torch.xlogy(torch.full_like(s, self._dim - 1.0), s) - 0.5 * s.square() - self._log_norm).exp()


class _GivenCoordinate(Levels):
    """A user's one-dimensional source; a level near 1 carries no more than the rounding of 1."""

    keeps_upper_tail = False

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = (source,)  # in a tuple: a source that is a module is not one of ours

    def tails(self, s: Tensor) -> tuple[Tensor, Tensor]:
        lower = cast(Any, self._source[0]).cdf(s).to(s)
        return lower, 1 - lower

    def density(self, s: Tensor) -> Tensor:
        return self._source[0].log_prob(s.reshape(-1, 1)).to(s).exp().reshape(s.shape)


class _GivenRadius(Levels):
    """The distance from 0 of a user's rotation-invariant source."""

    signed = False
    keeps_upper_tail = False

    def __init__(self, source: Source) -> None:
        super().__init__()
        self._source = (source,)
        self._log_area = math.log(2) + 0.5 * source.dim * math.log(math.pi) - math.lgamma(0.5 * source.dim)

    def tails(self, s: Tensor) -> tuple[Tensor, Tensor]:
        lower = cast(Any, self._source[0]).radius_cdf(s).to(s)
        return lower, 1 - lower

    def density(self, s: Tensor) -> Tensor:
        source = self._source[0]
        flat = s.reshape(-1, 1)
        ray = torch.cat([flat, flat.new_zeros(len(flat), source.dim - 1)], dim=1)
        log_prob = source.log_prob(ray).to(s).reshape(s.shape)
        return (log_prob + torch.xlogy(torch.full_like(s, source.dim - 1.0), s) + self._log_area).exp()


def _log_lower_tail(r: NDArray[np.float64], dim: int, median: float) -> NDArray[np.float64]:
    """log P(S <= r) - dim log(r / median), from the series of the incomplete gamma function in x = r^2 / 2."""
    x = 0.5 * np.square(np.concatenate([r.ravel(), [median]]))
    total, term, n = np.ones_like(x), np.ones_like(x), 0
    while term.max() > 1e-18 * total.max():
        n += 1
        term = term * x / (0.5 * dim + n)
        total += term
    shape = np.log(total) - x
    result: NDArray[np.float64] = shape[:-1].reshape(r.shape) - shape[-1] + math.log(0.5)
    return result


def _log_upper_tail(r: NDArray[np.float64], dim: int) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.log(np.maximum(special.gammaincc(0.5 * dim, 0.5 * r**2), 1e-308))
    return result


def _clenshaw(coefficients: Tensor, t: Tensor) -> Tensor:
    """Chebyshev sums of ``coefficients`` (*, n) at ``t`` (*) in [-1, 1]."""
    later = latest = torch.zeros_like(t)
    for k in range(coefficients.shape[-1] - 1, 0, -1):
        later, latest = coefficients[..., k] + 2 * t * later - latest, later
    return coefficients[..., 0] + t * later - latest
