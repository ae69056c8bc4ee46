"""Targets on the boundary of a convex body: psi is the indicator of the body, phi its support function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from proxflow.checks import real_number
from proxflow.kernels.geometry import frame_around, row_norm
from proxflow.measures import Source
from proxflow.potentials.base import GeneralizedQuadratic, Potential, as_parameter, check_rotation_invariant
from proxflow.results import ProxResult, Verdict
from proxflow.storage import storable

__all__ = ["Ball", "Ellipsoid"]

_NEWTON_STEPS = 60  # safeguarded; float64 is reached in fewer from anywhere
_OTHERWISE = "for another source, fit samples of the target with semidiscrete.fit(points, source=...)"


@storable
class Ball(Potential):
    """The potential of the uniform law on the sphere of a given radius about 0: phi(u) = radius |u|.

    Args:
        dim: dimension d of the space.
        radius: positive.
        source: law of the noise, invariant under rotations; standard normal if None.

    Raises:
        ValueError: ``dim`` < 1, ``radius`` is not a positive finite number, or the source is not known to be invariant
            under rotations, without which the law on the sphere is not the uniform one.
    """

    def __init__(self, dim: int, radius: float = 1.0, *, source: Source | None = None) -> None:
        super().__init__(dim, source)
        if not 0 < real_number(radius) < math.inf:
            raise ValueError(f"Ball: the radius must be a positive finite number, got {radius!r}")
        check_rotation_invariant("Ball", self.source, _OTHERWISE)
        self.radius = float(radius)

    def constructor_arguments(self) -> dict[str, object]:
        """Dimension, radius and source."""
        return {"dim": self.dim, "radius": self.radius, "source": self.source}

    def value(self, y: Tensor) -> Tensor:
        """0 on the ball, +inf off it, (B,)."""
        self.check(y, "y")
        return _indicator(y, row_norm(y) - self.radius)

    def conjugate(self, u: Tensor) -> Tensor:
        """radius |u|, (B,)."""
        self.check(u, "u")
        return self.radius * row_norm(u)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """Projection of x / beta on the ball, whatever alpha / beta; at x = 0, beta = 0 the point 0."""
        self.check(x, "x")
        alpha, beta = self.per_row(alpha, x, "alpha"), self.per_row(beta, x, "beta")
        reach = beta[:, None] * self.radius
        inside = row_norm(x)[:, None] <= reach
        norm = row_norm(torch.where(inside, torch.ones_like(x), x))[:, None]
        point = torch.where(inside, x / torch.where(beta > 0, beta, 1.0)[:, None], self.radius * (x / norm))
        excess = torch.where(inside, torch.zeros_like(x), x * ((norm - reach) / norm))
        multiplier = excess / torch.where(alpha > 0, alpha, torch.nan)[:, None]
        return self.exact_result(x, alpha, beta, point, multiplier, row_norm(point.detach()))

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """|u| / radius on the tangent space where u != 0; where u = 0, zero on the whole space (y inside)."""
        self.check(y, "y")
        self.check(u, "u")
        length = torch.linalg.vector_norm(u, dim=1)
        outer = (length > 0)[:, None, None]
        frame = frame_around(u / torch.where(length > 0, length, 1.0)[:, None])
        tangent = frame.clone()
        tangent[:, :, 0] = 0
        identity = torch.eye(self.dim, dtype=y.dtype, device=y.device)
        curvature = (length / self.radius)[:, None, None] * identity
        curvature = curvature * (torch.arange(self.dim, device=y.device) > 0).to(y)
        return GeneralizedQuadratic(torch.where(outer, tangent, identity), curvature)

    def smooth_support(self, y: Tensor) -> Tensor:
        """Verified on the sphere, failed off it, (B,) of ``Verdict``."""
        self.check(y, "y")
        off = (row_norm(y) - self.radius).abs()
        return torch.where(off <= self.domain_tolerance(y), int(Verdict.verified), int(Verdict.failed))


@storable
class Ellipsoid(Potential):
    """The potential of a law on the boundary of an ellipsoid about 0: phi(u) = |diag(a) u|.

    That law has density (Gauss curvature / area of the unit sphere) on the boundary: it is not the uniform one
    (docs/theory.md 7). State: ``semi_axes`` (d,). Queries are answered in their own dtype and on their own device.

    Args:
        semi_axes: (d,), positive.
        source: law of the noise, invariant under rotations; standard normal if None.

    Raises:
        ValueError: the semi-axes are not (d,) positive finite numbers, or the source is not known to be invariant
            under rotations, without which the law is another one.
    """

    semi_axes: Tensor

    def __init__(self, semi_axes: Tensor | Sequence[float], *, source: Source | None = None) -> None:
        axes = as_parameter(semi_axes)
        if axes.ndim != 1:
            raise ValueError(f"Ellipsoid: semi_axes must have shape (d,), got {tuple(axes.shape)}")
        if not bool((torch.isfinite(axes) & (axes > 0)).all()):
            raise ValueError("Ellipsoid: semi_axes must be positive finite numbers")
        super().__init__(len(axes), source)
        check_rotation_invariant("Ellipsoid", self.source, _OTHERWISE)
        self.register_buffer("semi_axes", axes.detach().clone())

    def constructor_arguments(self) -> dict[str, object]:
        """Semi-axes and source."""
        return {"semi_axes": self.semi_axes, "source": self.source}

    def value(self, y: Tensor) -> Tensor:
        """0 on the ellipsoid, +inf off it, (B,)."""
        self.check(y, "y")
        one = torch.ones_like(y[:, 0])
        return _indicator(y, row_norm(y - self.decompose(y, 0 * one, one).point))

    def conjugate(self, u: Tensor) -> Tensor:
        """|diag(a) u|, (B,)."""
        self.check(u, "u")
        axes = self.semi_axes.to(u)
        return axes.max() * row_norm(u * (axes / axes.max()))

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """Projection of x / beta on the ellipsoid, whatever alpha / beta, by the root of its secular equation.

        With w = diag(a) x / c, c = |diag(a) x| and q = beta a^2 / c, the point is a w / (q + s) where s = 0 inside and
        else |w / (q + s)| = 1; the multiplier is then (c s / alpha) w / (a (q + s)).
        """
        self.check(x, "x")
        alpha, beta = self.per_row(alpha, x, "alpha"), self.per_row(beta, x, "beta")
        # in units of the largest axis and of the query, so that no square leaves the range of the dtype
        longest = self.semi_axes.to(x).max()
        axes = self.semi_axes.to(x) / longest
        unit = x.detach().abs().amax(1, keepdim=True)
        unit = torch.where(unit == 0, 1.0, unit)
        scaled, reach = x / unit, beta[:, None] * (longest / unit)
        size = row_norm(scaled * axes)[:, None]
        centre = size == 0
        size = torch.where(centre, 1.0, size)
        direction, offset = scaled * axes / size, reach * axes.square() / size
        inside = centre[:, 0] | (row_norm(direction / offset) <= 1)
        root = torch.where(inside, 0.0, _secular_root(direction, offset))[:, None]
        ray = torch.where(centre, 0.0, direction / torch.where(centre, 1.0, offset + root))
        multiplier = unit * ((size * root) * ray / axes) / torch.where(alpha > 0, alpha, torch.nan)[:, None]
        safe = torch.where(beta > 0, beta, 1.0)[:, None]
        point = torch.where(inside[:, None] & (beta > 0)[:, None], x / safe, longest * (axes * ray))
        return self.exact_result(x, alpha, beta, point, multiplier, row_norm(point.detach()))

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """The second fundamental form times |u| on the tangent space where u != 0; else zero on the whole space."""
        self.check(y, "y")
        self.check(u, "u")
        axes = self.semi_axes.to(u)
        length = torch.linalg.vector_norm(u, dim=1)
        outer = (length > 0)[:, None, None]
        frame = frame_around(u / torch.where(length > 0, length, 1.0)[:, None])
        tangent = frame.clone()
        tangent[:, :, 0] = 0
        # u = m y / a^2 with |y / a| = 1, so that m = |diag(a) u| and the form is m w' diag(a)^-2 w
        strength = torch.linalg.vector_norm(u * axes, dim=1)[:, None, None]
        form = strength * (tangent.mT @ (tangent / axes.square()[:, None]))
        identity = torch.eye(self.dim, dtype=y.dtype, device=y.device)
        return GeneralizedQuadratic(torch.where(outer, tangent, identity), form)

    def smooth_support(self, y: Tensor) -> Tensor:
        """Verified on the ellipsoid's boundary, failed off it, (B,) of ``Verdict``."""
        self.check(y, "y")
        axes = self.semi_axes.to(y)
        level = row_norm(y / axes)  # |grad level| = |y / a^2| / level
        off = (level - 1).abs() * level / row_norm(y / axes.square()).clamp(min=torch.finfo(y.dtype).tiny)
        off = torch.where(level > 0, off, axes.amin())
        return torch.where(off <= self.domain_tolerance(y), int(Verdict.verified), int(Verdict.failed))


def _indicator(y: Tensor, outside: Tensor) -> Tensor:
    """0 where y is no farther outside of the body, (B,), than rounding, else +inf; NaN where y is."""
    value = torch.where(outside <= Potential.domain_tolerance(y), outside * 0, torch.inf)
    return torch.where(torch.isnan(y).any(1), torch.nan, value)


def _secular_root(direction: Tensor, offset: Tensor) -> Tensor:
    """s >= 0 with |direction / (offset + s)| = 1 for rows where the norm at 0 exceeds 1; differentiable.

    1 / norm is concave and increasing in s, so Newton's method for it climbs from a lower bound to the root without
    passing it; the bounds come from the extreme offsets, as |direction| = 1.
    """
    with torch.no_grad():
        w, q = direction.detach(), offset.detach()
        low = (1 - q.amax(1)).clamp(min=0)
        high = (1 - q.amin(1)).clamp(min=0)
        s = low
        for _ in range(_NEWTON_STEPS):
            s = torch.minimum(torch.maximum(_newton_step(w, q, s), low), high)
    return _newton_step(direction, offset, s)


def _newton_step(direction: Tensor, offset: Tensor, s: Tensor) -> Tensor:
    """One step of Newton's method for 1 / |direction / (offset + s)| = 1."""
    shifted = offset + s[:, None]
    safe = torch.where(shifted > 0, shifted, torch.finfo(shifted.dtype).tiny ** 0.25)
    ray = direction / safe
    norm = torch.linalg.vector_norm(ray, dim=1)
    slope = (ray.square() / safe).sum(1) / norm.square()
    following: Tensor = s + (norm - 1) / slope
    return following
