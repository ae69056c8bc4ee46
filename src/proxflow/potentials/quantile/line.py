"""One-dimensional targets, through their quantile function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxflow.measures import Source
from proxflow.potentials.base import GeneralizedQuadratic
from proxflow.potentials.quantile.by_quantile import ByQuantile
from proxflow.potentials.quantile.levels import Levels, coordinate_levels
from proxflow.potentials.quantile.quantile_function import QuantileLike
from proxflow.results import ProxResult
from proxflow.storage import storable

__all__ = ["Quantile"]


@storable
class Quantile(ByQuantile):
    """The potential of any law on the line: phi(u) is the integral of T = quantile o cdf from 0 to u.

    Flat stretches of the quantile function are atoms, jumps are gaps of the law. Where levels cannot be resolved (a
    source tail of 2^-1000; of 2^-30 on a side where an unbounded callable is infinite there, or on the upper side
    without ``upper_quantile``) T continues linearly: the flow is then exact for a law that differs from the target by
    that much mass.

    State: ``levels`` (K,), ``values`` (K,) of a table; none for a callable. Equations are solved in float64 whatever
    the dtype of a query; move the potential to the device of the queries.

    Args:
        quantile: a callable from levels P(X1 <= x) to x, elementwise on float64 tensors or numpy arrays; or a pair
            (levels, values), both (K,), interpolated linearly: levels from 0 to 1, equal ones for gaps, equal values
            for atoms. Only a table can be saved.
        upper_quantile: a callable from P(X1 > x) to x, as ``isf`` in scipy; keeps the upper tail of an unbounded law
            exact beyond five standard deviations of the source, where levels round to 1.
        source: law of the noise; standard normal if None, else one-dimensional with a method ``cdf(x)``, P(X0 <= x)
            elementwise.

    Raises:
        ValueError: no quantile function (the message names the level), or a source of another dimension or
            without ``cdf``.
    """

    def __init__(
        self,
        quantile: QuantileLike,
        *,
        upper_quantile: Callable[[Any], Any] | None = None,
        source: Source | None = None,
    ) -> None:
        super().__init__(1, quantile, upper_quantile, source)

    def _source_levels(self) -> Levels:
        return coordinate_levels(self.source)

    def constructor_arguments(self) -> dict[str, object]:
        """The table and the source.

        Raises:
            TypeError: the quantile function is a callable, which cannot be written to a file.
        """
        return {"quantile": self._quantile_argument(), "source": self.source}

    def value(self, y: Tensor) -> Tensor:
        """psi(y), (B,); +inf off the hull of the support."""
        self.check(y, "y")
        scalar = y[:, 0].double()
        outside = self._distance_from_domain(scalar) > self.domain_tolerance(y)
        value = self.transport.conjugate_value(scalar.clamp(self.transport.lowest, self.transport.highest))
        return torch.where(outside, torch.inf, value).to(y.dtype)

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(u), (B,), with phi(0) = 0."""
        self.check(u, "u")
        return self.transport.integral(u[:, 0].double()).to(u.dtype)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The Moreau pair: the root u of alpha u + beta T(u) = x, or y from a gap where T jumps there."""
        self.check(x, "x")
        alpha = self.per_row(alpha, x, "alpha", torch.float64)
        beta = self.per_row(beta, x, "beta", torch.float64)
        pair = self.transport.pair(x[:, 0].double(), alpha, beta)
        multiplier = torch.where(alpha > 0, pair.source, torch.nan)
        point, multiplier, magnitude = (part.to(x.dtype) for part in (pair.target, multiplier, pair.magnitude))
        return self.exact_result(x, alpha, beta, point[:, None], multiplier[:, None], magnitude)

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """1 / T'(u), (B, 1, 1): zero in a gap, and L = {0} at an atom, where T' = 0."""
        self.check(y, "y")
        self.check(u, "u")
        curvature = (1 / self.transport.slope(u[:, 0].double(), torch.finfo(u.dtype).eps)).to(u.dtype)
        smooth = torch.isfinite(curvature)
        curvature = torch.where(smooth, curvature, 0.0)
        return GeneralizedQuadratic(smooth.to(u.dtype)[:, None, None], curvature[:, None, None])

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """T' / (alpha + beta T'), (B, 1, 1); 1 / beta in a gap, 0 at an atom."""
        self.check(x, "x")
        alpha = self.per_row(alpha, x, "alpha", torch.float64)
        beta = self.per_row(beta, x, "beta", torch.float64)
        gain = self.transport.pair(x[:, 0].double(), alpha, beta).target_gain[:, None]
        finite = torch.isfinite(x) & torch.isfinite(alpha + beta)[:, None]
        return torch.where(finite, gain.to(x.dtype), torch.nan)[:, :, None]

    def log_density(self, y: Tensor) -> Tensor:
        """-log of the quantile function's derivative at the level of y, (B,); -inf off the support and in gaps.

        The source does not enter: it is the law's density, right to 1e-6 (1 + |value|), or NaN where that cannot be
        told: where the level of y rounds like 1 (give ``upper_quantile``), at kinks of a callable that torch cannot
        differentiate. Of a callable only flat stretches over 1/4096 in level are seen to be atoms: smaller ones, and
        singular continuous laws such as Cantor's, are not recognised.

        Raises:
            ValueError: the law has an atom.
        """
        self.check(y, "y")
        self._check_density()
        return self.transport.quantile.log_density(y[:, 0].double()).to(y.dtype)

    def smooth_support(self, y: Tensor) -> Tensor:
        """Verified inside the intervals of a table's support and at its isolated atoms; failed in gaps and at ends.

        Of a callable what lies inside its ends is assumed, gaps apart.
        """
        self.check(y, "y")
        return self.transport.quantile.smooth_at(y[:, 0].double(), self.domain_tolerance(y).double())
