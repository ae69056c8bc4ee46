"""Calculus on potentials: rotation with shift, and scaling, as wrappers."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from proxflow.kernels.norms import row_norm
from proxflow.potentials.base import GeneralizedQuadratic, Potential, as_parameter, check_rotation_invariant
from proxflow.registry import storable
from proxflow.results import ProxResult

__all__ = ["Rotated", "Scaled"]


@storable
class Rotated(Potential):
    """The law of Q y + shift, y from a known law: phi(Q'u) + <shift, u>, psi(Q'(y - shift)).

    State: ``rotation`` (d, d), ``shift`` (d,), ``potential.*``.

    Raises:
        ValueError: a shape is wrong, Q is not orthogonal, or the source is not invariant under rotations.
    """

    rotation: Tensor
    shift: Tensor

    def __init__(self, potential: Potential, rotation: Tensor, shift: Tensor | None = None) -> None:
        d = potential.dim
        rotation = as_parameter(rotation)
        shift = torch.zeros(d, dtype=rotation.dtype, device=rotation.device) if shift is None else shift
        super().__init__(d, potential.source)
        _check_motion(potential, rotation, shift)
        self.potential = potential
        self.register_buffer("rotation", rotation.detach().clone())
        self.register_buffer("shift", shift.detach().clone())

    def constructor_arguments(self) -> dict[str, object]:
        """The inner potential, the rotation and the shift."""
        return {"potential": self.potential, "rotation": self.rotation, "shift": self.shift}

    @property
    def iterative(self) -> bool:
        """As the inner potential."""
        return self.potential.iterative

    def value(self, y: Tensor) -> Tensor:
        """psi(Q'(y - shift)), (B,)."""
        self.check(y, "y")
        return self.potential.value(self._within_rounding(self._inner(y), self.domain_tolerance(y)))

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(Q'u) + <shift, u>, (B,)."""
        self.check(u, "u")
        return self.potential.conjugate(u @ self.rotation.to(u)) + u @ self.shift.to(u)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The inner pair of Q'(x - beta shift), moved back."""
        self.check(x, "x")
        rotation, shift = self.rotation.to(x), self.shift.to(x)
        pair = self.potential.decompose(self._centred(x, beta) @ rotation, alpha, beta)
        point = pair.point @ rotation.mT + shift
        rounding = 16 * torch.finfo(x.dtype).eps * row_norm(point.detach())
        return dataclasses.replace(
            pair,
            point=point,
            multiplier=pair.multiplier @ rotation.mT,
            error_bound=pair.error_bound + rounding,
        )

    def _within_rounding(self, inner: Tensor, tolerance: Tensor) -> Tensor:
        """Inner points; those that a large shift has rounded off the domain are taken back to it."""
        domain = self.potential.decompose(inner, 0.0, 1.0).point
        distance = row_norm((domain - inner).detach())
        rounded = (distance > self.domain_tolerance(inner)) & (distance <= tolerance)
        return torch.where(rounded[:, None], domain, inner)

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """The inner form in rotated directions."""
        rotation = self.rotation.to(y)
        inner = self.potential.second_epi_derivative(self._inner(y), u @ rotation)
        return GeneralizedQuadratic(rotation @ inner.basis, inner.hessian)

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """Q D Q', D the inner derivative."""
        self.check(x, "x")
        rotation = self.rotation.to(x)
        return (
            rotation @ self.potential.decompose_jacobian(self._centred(x, beta) @ rotation, alpha, beta) @ rotation.mT
        )

    def smooth_support(self, y: Tensor) -> Tensor:
        """The inner verdict at Q'(y - shift), (B,)."""
        self.check(y, "y")
        return self.potential.smooth_support(self._inner(y))

    def log_density(self, y: Tensor) -> Tensor:
        """The inner log-density at Q'(y - shift), (B,).

        Raises:
            ValueError: the inner law has no density.
        """
        self.check(y, "y")
        return self.potential.log_density(self._inner(y))

    def _centred(self, x: Tensor, beta: Tensor | float) -> Tensor:
        """x - beta shift, which may cancel: in float64, then in the dtype of x."""
        shift = self.per_row(beta, x, "beta", torch.float64)[:, None] * self.shift.to(x.device).double()
        return (x.double() - shift).to(x.dtype)

    def _inner(self, y: Tensor) -> Tensor:
        """Q'(y - shift), in float64: a shift much larger than the law must not cost digits; in the dtype of y."""
        return ((y.double() - self.shift.to(y.device).double()) @ self.rotation.to(y.device).double()).to(y.dtype)


@storable
class Scaled(Potential):
    """The law of factor * y, y from a known law: factor phi(u), factor psi(y / factor).

    Raises:
        ValueError: ``factor`` is not a positive finite number.
    """

    def __init__(self, potential: Potential, factor: float) -> None:
        if not (math.isfinite(factor) and factor > 0):
            raise ValueError(f"scale: the factor must be a positive finite number, got {factor!r}")
        super().__init__(potential.dim, potential.source)
        self.potential = potential
        self.factor = float(factor)

    def constructor_arguments(self) -> dict[str, object]:
        """The inner potential and the factor."""
        return {"potential": self.potential, "factor": self.factor}

    @property
    def iterative(self) -> bool:
        """As the inner potential."""
        return self.potential.iterative

    def value(self, y: Tensor) -> Tensor:
        """Factor times psi(y / factor), (B,)."""
        self.check(y, "y")
        return self.factor * self.potential.value(y / self.factor)

    def conjugate(self, u: Tensor) -> Tensor:
        """Factor times phi(u), (B,)."""
        return self.factor * self.potential.conjugate(u)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The inner pair at beta * factor, its point scaled back."""
        self.check(x, "x")
        pair = self.potential.decompose(x, alpha, self.factor * self.per_row(beta, x, "beta", torch.float64))
        return dataclasses.replace(
            pair,
            point=self.factor * pair.point,
            gap=self.factor * pair.gap,
            error_bound=self.factor * pair.error_bound,
        )

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """The inner form divided by the factor."""
        inner = self.potential.second_epi_derivative(y / self.factor, u)
        return GeneralizedQuadratic(inner.basis, inner.hessian / self.factor)

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """Factor times the inner derivative at beta * factor."""
        self.check(x, "x")
        return self.factor * self.potential.decompose_jacobian(
            x, alpha, self.factor * self.per_row(beta, x, "beta", torch.float64)
        )

    def smooth_support(self, y: Tensor) -> Tensor:
        """The inner verdict at y / factor, (B,)."""
        self.check(y, "y")
        return self.potential.smooth_support(y / self.factor)

    def log_density(self, y: Tensor) -> Tensor:
        """The inner log-density at y / factor minus d log factor, (B,).

        Raises:
            ValueError: the inner law has no density.
        """
        self.check(y, "y")
        return self.potential.log_density(y / self.factor) - self.dim * math.log(self.factor)


def _check_motion(potential: Potential, rotation: Tensor, shift: Tensor) -> None:
    d = potential.dim
    if rotation.shape != (d, d) or shift.shape != (d,):
        raise ValueError(
            f"rotate: expected a rotation ({d}, {d}) and a shift ({d},), "
            f"got {tuple(rotation.shape)} and {tuple(shift.shape)}"
        )
    if not (torch.isfinite(rotation).all() and torch.isfinite(shift).all()):
        raise ValueError("rotate: the rotation and the shift must be finite")
    matrix = rotation.double()
    error = (matrix @ matrix.mT - torch.eye(d, dtype=matrix.dtype, device=matrix.device)).abs().max()
    if error > 64 * d * torch.finfo(rotation.dtype).eps:
        raise ValueError(f"rotate: the matrix is not orthogonal (|Q Q' - I| = {error:.3g})")
    if not torch.equal(matrix, torch.eye(d, dtype=matrix.dtype, device=matrix.device)):
        check_rotation_invariant("rotate", potential.source, "only a shift is possible here")
