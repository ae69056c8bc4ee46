"""Targets on the boundary of a convex body: psi is the indicator of the body, phi its support function."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from proxflow.measures import Source
from proxflow.potentials.base import GeneralizedQuadratic, Potential
from proxflow.results import ProxResult

__all__ = ["Ball"]


class Ball(Potential):
    """The potential of the uniform law on the sphere of a given radius about 0: phi(u) = radius |u|.

    Args:
        dim: dimension d of the space.
        radius: positive.

    Raises:
        ValueError: ``dim`` < 1, or ``radius`` is not a positive finite number.
    """

    def __init__(self, dim: int, radius: float = 1.0, *, source: Source | None = None) -> None:
        super().__init__(dim, source)
        if not (math.isfinite(radius) and radius > 0):
            raise ValueError(f"Ball: the radius must be a positive finite number, got {radius!r}")
        self.radius = float(radius)

    def constructor_arguments(self) -> dict[str, object]:
        """Dimension, radius and source."""
        return {"dim": self.dim, "radius": self.radius, "source": self.source}

    def value(self, y: Tensor) -> Tensor:
        """0 on the ball, +inf off it, (B,)."""
        self.check(y, "y")
        outside = torch.linalg.vector_norm(y, dim=1) - self.radius
        return torch.where(outside <= self.domain_tolerance(y), outside * 0, torch.inf)

    def conjugate(self, u: Tensor) -> Tensor:
        """radius |u|, (B,)."""
        self.check(u, "u")
        norm: Tensor = torch.linalg.vector_norm(u, dim=1)
        return self.radius * norm

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """Projection of x / beta on the ball, whatever alpha / beta; at x = 0, beta = 0 the point 0."""
        self.check(x, "x")
        alpha, beta = self.per_row(alpha, x, "alpha"), self.per_row(beta, x, "beta")
        reach = beta[:, None] * self.radius
        inside = x.square().sum(1, keepdim=True).sqrt() <= reach
        norm = torch.where(inside, torch.ones_like(x), x).square().sum(1, keepdim=True).sqrt()
        point = torch.where(inside, x / torch.where(beta > 0, beta, 1.0)[:, None], self.radius * x / norm)
        excess = torch.where(inside, torch.zeros_like(x), x * ((norm - reach) / norm))
        multiplier = excess / alpha[:, None]
        return self.exact_result(x, alpha, beta, point, multiplier, torch.linalg.vector_norm(point.detach(), dim=1))

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """|u| / radius on the tangent space where u != 0; where u = 0, zero on the whole space (y inside)."""
        self.check(y, "y")
        self.check(u, "u")
        length = torch.linalg.vector_norm(u, dim=1)
        outer = (length > 0)[:, None, None]
        frame = _frame(u / torch.where(length > 0, length, 1.0)[:, None])
        tangent = frame.clone()
        tangent[:, :, 0] = 0
        identity = torch.eye(self.dim, dtype=y.dtype, device=y.device)
        curvature = (length / self.radius)[:, None, None] * identity
        curvature = curvature * (torch.arange(self.dim, device=y.device) > 0).to(y)
        return GeneralizedQuadratic(torch.where(outer, tangent, identity), curvature)


def _frame(normal: Tensor) -> Tensor:
    """Orthonormal frames (B, d, d) whose first column is +-``normal`` (a Householder reflection)."""
    identity = torch.eye(normal.shape[1], dtype=normal.dtype, device=normal.device)
    sign = torch.where(normal[:, :1] >= 0, 1.0, -1.0).to(normal)
    reflector = normal + sign * identity[0]
    squared = reflector.square().sum(1)[:, None, None]
    return identity - 2 * reflector[:, :, None] * reflector[:, None, :] / squared
