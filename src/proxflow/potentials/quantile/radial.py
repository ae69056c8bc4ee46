"""Rotation-invariant targets, through the quantile function of the distance from 0."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxflow.kernels.geometry import frame_around, row_norm
from proxflow.measures import Source
from proxflow.potentials.base import DENSITY_ACCURACY, GeneralizedQuadratic
from proxflow.potentials.quantile.by_quantile import ByQuantile
from proxflow.potentials.quantile.levels import Levels, radius_levels
from proxflow.potentials.quantile.monotone_map import MonotonePair
from proxflow.potentials.quantile.quantile_function import QuantileLike
from proxflow.results import ProxResult
from proxflow.storage import storable

__all__ = ["Radial"]

_CENTRAL_LEVEL = 2.0**-900  # levels are resolved down to 2^-1000


@storable
class Radial(ByQuantile):
    """The potential of a rotation-invariant law: phi(u) is the integral of T = quantile o F0 from 0 to |u|.

    F0 is the cdf of |X0|. Flat stretches of the quantile function are spheres of positive mass, or an atom at 0; jumps
    are empty shells. Where levels cannot be resolved (a source tail of 2^-1000; of 2^-30 on the upper side of an
    unbounded callable without ``upper_quantile``) T continues linearly, as it does down to 0 if quantile(0) = 0: the
    flow is then exact for a law that differs from the target by that much mass.

    State: ``levels`` (K,), ``values`` (K,) of a table; none for a callable. Equations are solved in float64 whatever
    the dtype of a query; move the potential to the device of the queries.

    Args:
        dim: dimension d of the space.
        quantile: a callable from levels P(|X1| <= r) to r >= 0, elementwise on float64 tensors or numpy arrays; or a
            pair (levels, values), both (K,), interpolated linearly: levels from 0 to 1, equal ones for gaps, equal
            values for spheres. Only a table can be saved.
        upper_quantile: a callable from P(|X1| > r) to r, as ``isf`` in scipy; keeps the tail of an unbounded law exact
            where levels round to 1.
        source: law of the noise; standard normal if None, else rotation-invariant (its attribute
            ``rotation_invariant`` is true) with a method ``radius_cdf(r)``, P(|X0| <= r) elementwise.

    Raises:
        ValueError: no quantile function of a distance (the message names the level), or a source of another
            dimension or not as above.
    """

    def __init__(
        self,
        dim: int,
        quantile: QuantileLike,
        *,
        upper_quantile: Callable[[Any], Any] | None = None,
        source: Source | None = None,
    ) -> None:
        super().__init__(dim, quantile, upper_quantile, source)

    def _source_levels(self) -> Levels:
        return radius_levels(self.source)

    def constructor_arguments(self) -> dict[str, object]:
        """Dimension, table and source.

        Raises:
            TypeError: the quantile function is a callable, which cannot be written to a file.
        """
        return {"dim": self.dim, "quantile": self._quantile_argument(), "source": self.source}

    def value(self, y: Tensor) -> Tensor:
        """psi(y), (B,); +inf off the ball of radius sup T."""
        self.check(y, "y")
        radius = row_norm(y.double())
        outside = self._distance_from_domain(radius) > self.domain_tolerance(y)
        value = self.transport.conjugate_value(radius.clamp(max=self.transport.highest))
        return torch.where(outside, torch.inf, value).to(y.dtype)

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(u), (B,)."""
        self.check(u, "u")
        return self.transport.integral(row_norm(u.double())).to(u.dtype)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The Moreau pair along x: the root r of alpha r + beta T(r) = |x|, or |y| from a gap where T jumps there."""
        alpha, beta, radius, pair = self._pair(x, alpha, beta)
        centre = radius.detach() == 0
        safe = torch.where(centre, 1.0, radius)
        # at the centre, where the direction is lost, both parts are linear in x
        ratio = torch.where(centre, pair.target_gain, pair.target / safe)
        source_ratio = torch.where(centre, pair.source_gain, pair.source / safe)
        source_ratio = torch.where(alpha > 0, source_ratio, torch.nan)
        wide = x.double()
        point, multiplier = (wide * ratio[:, None]).to(x.dtype), (wide * source_ratio[:, None]).to(x.dtype)
        return self.exact_result(x, alpha, beta, point, multiplier, pair.magnitude.to(x.dtype))

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """1 / T'(|u|) along y and |u| / |y| across it.

        Zero along y in a gap; without that direction on a sphere of positive mass, where T' = 0; L = {0} at an atom at
        0. At a smooth centre 1 / T'(0) in all directions.
        """
        self.check(y, "y")
        self.check(u, "u")
        radius, source_radius = row_norm(y.double()), row_norm(u.double())
        along = 1 / self.transport.slope(source_radius, torch.finfo(u.dtype).eps)
        centre = radius == 0
        across = torch.where(centre & (source_radius == 0), along, source_radius / radius)
        first = torch.arange(self.dim, device=y.device) == 0
        curvature = torch.where(first, along[:, None], across[:, None]).to(y.dtype)
        used = torch.isfinite(curvature)
        direction = torch.where(centre[:, None], first.double(), y.double() / torch.where(centre, 1.0, radius)[:, None])
        basis = frame_around(direction).to(y.dtype) * used[:, None, :]
        return GeneralizedQuadratic(basis, torch.diag_embed(torch.where(used, curvature, 0.0)))

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """T' / (alpha + beta T') along x and |y| / |x| across it, (B, d, d)."""
        alpha, beta, radius, pair = self._pair(x, alpha, beta)
        centre = radius == 0
        safe = torch.where(centre, 1.0, radius)
        across = torch.where(centre, pair.target_gain, pair.target / safe)[:, None, None]
        along = pair.target_gain[:, None, None]
        direction = x.double() / safe[:, None]
        identity = torch.eye(self.dim, dtype=torch.float64, device=x.device)
        jacobian = across * identity + (along - across) * direction[:, :, None] * direction[:, None, :]
        finite = torch.isfinite(radius + alpha + beta)[:, None, None]
        return torch.where(finite, jacobian, torch.nan).to(x.dtype)

    def log_density(self, y: Tensor) -> Tensor:
        """The log-density of |X1| over the area of the sphere through y, (B,); -inf off the support.

        The source does not enter: it is the law's density, right to 1e-6 (1 + |value|), or NaN where that cannot be
        told: where the level of |y| rounds like 1 (give ``upper_quantile``), at kinks of a callable that torch cannot
        differentiate, and at the centre if the density has no limit there. Of a callable only flat stretches over
        1/4096 in level are seen to be spheres of positive mass or an atom: smaller ones, and singular continuous laws,
        are not recognised.

        Raises:
            ValueError: a sphere, or 0, has positive mass.
        """
        self.check(y, "y")
        self._check_density()
        radius = row_norm(y.double())
        quantile = self.transport.quantile
        if self.dim == 1:  # both signs
            density = quantile.log_density(radius) - math.log(2)
            return density.to(y.dtype)
        log_area = math.log(2) + 0.5 * self.dim * math.log(math.pi) - math.lgamma(0.5 * self.dim)
        safe = torch.where(radius > 0, radius, 1.0)
        density = quantile.log_density(radius) - log_area - (self.dim - 1) * safe.log()
        if quantile.ends[0] == 0:
            least = self._resolved_radius(radius)
            density = torch.where(radius < least, self._central_log_density(least, log_area), density)
        return density.to(y.dtype)

    def smooth_support(self, y: Tensor) -> Tensor:
        """Verified inside the shells of a table's support and on its isolated spheres; failed off them, on edges.

        Of a callable what lies inside its ends is assumed, gaps apart.
        """
        self.check(y, "y")
        return self.transport.quantile.smooth_at(row_norm(y.double()), self.domain_tolerance(y).double())

    def _resolved_radius(self, like: Tensor) -> Tensor:
        """A radius below which levels are not resolved, P(|X1| <= r) being some 2^-900, 0-dimensional."""
        level = torch.full((1,), _CENTRAL_LEVEL, dtype=like.dtype, device=like.device)
        return self.transport.quantile.value(level, 1 - level)[0]

    def _central_log_density(self, least: Tensor, log_area: float) -> Tensor:
        """The log-density around 0, 0-dimensional, if it is the same at two small radii; else NaN."""
        quantile, radii = self.transport.quantile, torch.stack([2 * least, 4 * least])
        near, far = (quantile.log_density(radii) - log_area - (self.dim - 1) * radii.log()).unbind(0)
        return torch.where((near - far).abs() <= DENSITY_ACCURACY * (1 + near.abs()), near, torch.nan)

    def _pair(
        self, x: Tensor, alpha: Tensor | float, beta: Tensor | float
    ) -> tuple[Tensor, Tensor, Tensor, MonotonePair]:
        """Arguments as rows, |x|, and the scalar pair of |x|."""
        self.check(x, "x")
        alpha = self.per_row(alpha, x, "alpha", torch.float64)
        beta = self.per_row(beta, x, "beta", torch.float64)
        radius = row_norm(x.double())
        return alpha, beta, radius, self.transport.pair(radius, alpha, beta)
