"""Gaussian targets: quadratic potentials, with a singular covariance allowed."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.errors import NoDensityError
from proxflow.kernels.geometry import row_norm
from proxflow.potentials.base import DENSITY_ACCURACY, GeneralizedQuadratic, Potential, as_parameter
from proxflow.results import ProxResult, Verdict
from proxflow.storage import storable

__all__ = ["Quadratic"]


@storable
class Quadratic(Potential):
    """The potential of N(mean, covariance) from N(0, I): phi(u) = <mean, u> + u' S^(1/2) u / 2.

    psi(y) = (y - m)' S^(-1/2) (y - m) / 2 on m + range S and +inf elsewhere. State: ``mean`` (d,),
    ``covariance`` (d, d). Queries are answered in their own dtype and on their own device. Principal axes are those of
    the arguments, in float64: a cast rounds the state, not the law.

    Args:
        mean: (d,), finite.
        covariance: (d, d), symmetric positive semidefinite; an eigenvalue that roundings of the entries can make, of
            8 sqrt(d) eps times the variances of the coordinates that its axis mixes, is taken for zero.

    Raises:
        ValueError: a shape is wrong, an entry is not finite, or the covariance is not symmetric positive
            semidefinite.
    """

    mean: Tensor
    covariance: Tensor
    _mean: Tensor
    _axes: Tensor
    _deviations: Tensor
    _defect: Tensor

    def __init__(self, mean: Tensor, covariance: Tensor) -> None:
        mean, covariance = as_parameter(mean), as_parameter(covariance)
        if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
            raise ValueError(
                "Quadratic: expected mean (d,) and covariance (d, d), "
                f"got {tuple(mean.shape)} and {tuple(covariance.shape)}"
            )
        super().__init__(len(mean))
        self.register_buffer("mean", mean.detach().clone())
        self.register_buffer("covariance", covariance.detach().clone())
        axes, deviations, defect = _principal_axes(self.mean, self.covariance)
        self.register_buffer("_mean", self.mean.double(), persistent=False)
        self.register_buffer("_axes", axes, persistent=False)
        self.register_buffer("_deviations", deviations, persistent=False)
        self.register_buffer("_defect", defect, persistent=False)
        # Factored once and for all, not ``Derived``: compiled code would do it again in every call.
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]

    def constructor_arguments(self) -> dict[str, object]:
        """Mean and covariance."""
        return {"mean": self.mean, "covariance": self.covariance}

    def value(self, y: Tensor) -> Tensor:
        """psi(y), (B,); +inf off m + range S."""
        self.check(y, "y")
        mean, axes, deviations = self._like(y)
        coordinates = (y - mean) @ axes
        positive = deviations > 0
        off = row_norm(torch.where(positive, 0.0, coordinates))
        terms = torch.where(positive, coordinates.square() / torch.where(positive, deviations, 1.0), 0.0)
        return torch.where(off <= self.domain_tolerance(y), 0.5 * terms.sum(1), torch.inf)

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(u), (B,)."""
        self.check(u, "u")
        mean, axes, deviations = self._like(u)
        coordinates = u @ axes
        return u @ mean + 0.5 * (coordinates * (deviations * coordinates)).sum(1)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The Moreau pair, by a diagonal solve in the principal axes."""
        self.check(x, "x")
        alpha, beta = self.per_row(alpha, x, "alpha"), self.per_row(beta, x, "beta")
        mean, axes, deviations = self._like(x)
        denominator = alpha[:, None] + beta[:, None] * deviations
        coordinates = ((x - beta[:, None] * mean) @ axes) / denominator
        collapsed = (denominator == 0) & (deviations == 0)  # alpha = 0: a projection on the range
        point = mean + torch.where(collapsed, 0.0, deviations * coordinates) @ axes.mT
        gain = (deviations / denominator).nan_to_num(0.0, posinf=0.0).amax(1)
        scale = row_norm(x) + beta * row_norm(mean[None])
        magnitude = row_norm(point) + gain * scale
        return self.exact_result(x, alpha, beta, point, coordinates @ axes.mT, magnitude.detach())

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """S^(-1/2) on the range of S, the same at every point."""
        self.check(y, "y")
        _, axes, deviations = self._like(y)
        positive = deviations > 0
        basis = axes * positive
        hessian = torch.diag(torch.where(positive, 1 / torch.where(positive, deviations, 1.0), 0.0))
        return GeneralizedQuadratic(basis.expand(len(y), -1, -1), hessian.expand(len(y), -1, -1))

    def smooth_support(self, y: Tensor) -> Tensor:
        """Verified on m + range S, an affine space; failed off it, (B,) of ``Verdict``."""
        return torch.where(torch.isfinite(self.value(y)), int(Verdict.verified), int(Verdict.failed))

    def log_density(self, y: Tensor) -> Tensor:
        """log p0(u) - sum of the log standard deviations, u = S^(-1/2) (y - m), (B,), in float64 throughout.

        A row is right to 1e-6 (1 + |value|), or NaN where the eigenvectors of an ill-conditioned covariance leave
        more than that open.

        Raises:
            ValueError: the covariance is singular.
        """
        self.check(y, "y")
        mean, axes, deviations = self._like(y.double())
        if bool((deviations == 0).any()):
            raise NoDensityError(
                f"Quadratic: the law has no density, its covariance has rank {int((deviations > 0).sum())} in "
                f"dimension {self.dim}"
            )
        whitened = (y.double() - mean) @ axes / deviations
        density = self.source.log_prob(whitened @ axes.mT) - deviations.log().sum()
        # first order in the defect E = S - V D^2 V': tr(S^-1 E) and a'Ea with a = S^-1 (y - m), in the axes V
        defect = self._defect.to(y.device)
        weight = (whitened / deviations).detach()
        open_ = 0.5 * (defect.diagonal() / deviations.square()).abs().sum() + 0.5 * weight.abs().square() @ defect.sum(
            1
        )
        known = open_ <= DENSITY_ACCURACY * (1 + density.detach().abs())
        return torch.where(known | ~torch.isfinite(density), density, torch.nan).to(y.dtype)

    def _like(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self._mean.to(x), self._axes.to(x), self._deviations.to(x)


def _principal_axes(mean: Tensor, covariance: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eigenvectors V and standard deviations D of a covariance S, and |V'(S - V D^2 V')V|, all in float64."""
    if not (torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
        raise ValueError("Quadratic: mean and covariance must be finite")
    eps = torch.finfo(covariance.dtype if covariance.is_floating_point() else torch.float64).eps
    matrix = covariance.double()
    size = matrix.abs().max()
    asymmetry = (matrix - matrix.mT).abs().max()
    if asymmetry > 64 * eps * size:
        raise ValueError(f"Quadratic: the covariance is not symmetric (largest difference {asymmetry:.3g})")
    eigenvalues, axes = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    # entries are rounded relative to the deviations of their two coordinates, and eigenvalues in float64 to the largest
    mixed = matrix.diagonal().clamp(min=0) @ axes.square()
    zero = 8 * len(mean) ** 0.5 * (eps * mixed + torch.finfo(matrix.dtype).eps * eigenvalues.abs().max())
    if bool((eigenvalues < -zero).any()):
        raise ValueError(f"Quadratic: the covariance is not positive semidefinite (eigenvalue {eigenvalues[0]:.3g})")
    deviations = torch.where(eigenvalues > zero, eigenvalues.clamp(min=0).sqrt(), 0.0)
    defect = (axes.mT @ (matrix @ axes - axes * eigenvalues)).abs()
    return axes, deviations, defect


def _refresh(module: torch.nn.Module, _: object) -> None:
    if isinstance(module, Quadratic):
        module._mean = module.mean.double()
        module._axes, module._deviations, module._defect = _principal_axes(module.mean, module.covariance)
