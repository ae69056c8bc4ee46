"""Second epi-derivatives measured by difference quotients, for any potential (docs/theory.md 5).

d2psi(y|u)(w) is a liminf over nearby directions w' of D_s(w') = [psi(y + s w') - psi(y) - s <u, w'>] / (s^2 / 2): along
the ray itself the quotient may be infinite (a curved surface) where the limit is finite. Convex functions epi-converge
exactly if their Moreau envelopes converge, and the envelope of D_s is a prox of psi itself:

    min over w' of D_s(w') + |w' - w|^2 / r   is attained at   w' = (prox_{r psi}(y + r u + s w) - y) / s.

So the same w' is the best nearby direction and the difference quotient of the prox, whose limit is
argmin (r / 2) d2psi(y|u)(w') + |w' - w|^2 / 2, for a quadratic form on a subspace P_L (I + r H)^-1 P_L w.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.kernels.geometry import finite_rows, row_norm
from proxflow.measures import draw
from proxflow.potentials.base import GeneralizedQuadratic, Potential
from proxflow.results import brief_repr
from proxflow.seeding import generator_of, seeded_generator

__all__ = [
    "EpiCheck",
    "EpiQuotients",
    "Units",
    "check_second_epi_derivative",
    "directional_prox",
    "second_epi_quotients",
]

_FINER = 16.0  # how much smaller the second step of a differentiation is
_GROWTH = 2.0  # of a prox derivative from the finer to the coarser step that shows an infinite curvature
_PROBES = 4  # random directions in which linearity is tested
_DRAWS = 64  # of the noise, which say how large it and the data are


@dataclass(frozen=True)
class Units:
    """Where the noise and the data of a potential lie and how large they are, by some draws.

    Attributes:
        noise_centre, centre: their means, (d,).
        noise, length: their mean deviations per coordinate, ().
    """

    noise_centre: Tensor
    noise: Tensor
    centre: Tensor
    length: Tensor

    @classmethod
    def of(cls, potential: Potential, like: Tensor) -> Units:
        """Those of a potential, in the dtype and on the device of points."""
        noise = draw(potential.source, _DRAWS, generator_of(0), like.dtype, like.device)
        data = potential.brenier_map(noise).detach()
        return cls(*_centre_and_size(noise), *_centre_and_size(data[finite_rows(data)]))

    def noise_size(self, u: Tensor) -> Tensor:
        """How far source points (B, d) are from the centre, and a unit more, (B,)."""
        return self.noise + row_norm(u - self.noise_centre)

    def data_size(self, y: Tensor) -> Tensor:
        """The same of data (B, d)."""
        return self.length + row_norm(y - self.centre)

    def rounded_size(self, y: Tensor) -> Tensor:
        """The size of the numbers that data are made of, (B,): their roundings are eps times that."""
        return self.data_size(y) + row_norm(self.centre[None])


def _centre_and_size(points: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and mean deviation per coordinate; of points that are one up to rounding its own size, of the origin 1."""
    if len(points) == 0:
        return points.new_zeros(points.shape[1]), points.new_ones(())
    centre = points.mean(0)
    own, largest = row_norm(centre[None])[0], points.abs().max()
    size = row_norm(points - centre).mean()
    size = torch.where(size > 4 * torch.finfo(points.dtype).eps * largest, size, own)
    return centre, torch.where(size > 0, size / points.shape[1] ** 0.5, 1.0)


@brief_repr
@dataclass(frozen=True)
class EpiQuotients:
    """Second difference quotients of psi at y for u, at steps s (S,) and radii r (R,), for B rows.

    Attributes:
        steps, radii: see above.
        ray: D_s(w) along the ray, (S, B); +inf where the ray leaves the domain.
        nearby: D_s(w') at the best nearby direction, (S, R, B).
        distance: |w' - w|, (S, R, B).
        limit: the analytic limit of ``envelope``, (R, B): <w, (I - P_L (I + r H)^-1 P_L) w> / r.
        rounding: error that rounding makes in the quotients, (S, B), an estimate.
    """

    steps: Tensor
    radii: Tensor
    ray: Tensor
    nearby: Tensor
    distance: Tensor
    limit: Tensor
    rounding: Tensor

    @property
    def envelope(self) -> Tensor:
        """D_s(w') + |w' - w|^2 / r, (S, R, B): tends to ``limit`` as s -> 0, and that to d2psi(w) as r -> 0."""
        return self.nearby + self.distance.square() / self.radii[:, None]


@brief_repr
@dataclass(frozen=True)
class EpiCheck:
    """The derivative of the prox at y + r u by differences, and the analytic second epi-derivative, for B rows.

    Attributes:
        derivative: by central differences at the finer of two steps, (B, d, d).
        analytic: P_L (I + r H)^-1 P_L of the potential's own form, (B, d, d).
        form: that form.
        error: spectral norm of the difference, (B,).
        drift: spectral norm of the change from the coarser step to the finer, (B,): not small where the quotients have
            not converged.
        nonlinearity: largest |prox'(z; w) - derivative w| over random unit directions w and their opposites, (B,); not
            small where d2psi is finite on no subspace (a cone, say).
        subspace_dimension: dimension of the subspace where the quotients stay finite, (B,) int64.
        subspace: its orthonormal basis, (B, d, d), with zero columns in place of the others.
        radius: r.
    """

    derivative: Tensor
    analytic: Tensor
    form: GeneralizedQuadratic
    error: Tensor
    drift: Tensor
    nonlinearity: Tensor
    subspace_dimension: Tensor
    subspace: Tensor
    radius: float


def second_epi_quotients(
    potential: Potential,
    y: Tensor,
    u: Tensor,
    w: Tensor,
    steps: Sequence[float] = (1e-1, 1e-2, 1e-3, 1e-4),
    radii: Sequence[float] = (1.0, 1e-1, 1e-2),
) -> EpiQuotients:
    """Quotients along w and at the best directions near it, with the limit that the potential claims.

    Args:
        potential: any.
        y: (B, d); float64 is needed for small steps.
        u: (B, d), in dpsi(y).
        w: (B, d) directions.
        steps: s, positive.
        radii: r, positive.

    Raises:
        ValueError: shapes that do not match, or a step or radius that is not positive.
    """
    _check(potential, y, u, w)
    s, r = _positive("steps", steps, y), _positive("radii", radii, y)
    conjugate, product = potential.conjugate(u), (u * y).sum(1)
    value = product - conjugate  # psi(y), as u is in dpsi(y)
    ray, nearby, distance = [], [], []
    for step in s:
        ray.append((potential.value(y + step * w) - value - step * (u * w).sum(1)) / (0.5 * step.square()))
        for radius in r:
            pair = potential.prox(y + radius * u + step * w, radius)
            # psi(y') = <u', y'> - phi(u'), so that psi(y') - psi(y) - <u, y' - y> = phi(u) - phi(u') - <u - u', y'>
            rise = conjugate - potential.conjugate(pair.multiplier) + ((pair.multiplier - u) * pair.point).sum(1)
            nearby.append(rise / (0.5 * step.square()))
            distance.append(torch.linalg.vector_norm((pair.point - y) / step - w, dim=1))
    shape = len(s), len(r), len(y)
    form = potential.second_epi_derivative(y, u)
    limit = [_envelope(form, radius, w) for radius in r]
    size = conjugate.abs() + torch.linalg.vector_norm(u, dim=1) * torch.linalg.vector_norm(y, dim=1) + 1
    return EpiQuotients(
        steps=s,
        radii=r,
        ray=torch.stack(ray),
        nearby=torch.stack(nearby).reshape(shape),
        distance=torch.stack(distance).reshape(shape),
        limit=torch.stack(limit),
        rounding=64 * torch.finfo(y.dtype).eps * size / s.square()[:, None],
    )


def directional_prox(
    potential: Potential, y: Tensor, u: Tensor, w: Tensor, *, radius: float = 1.0, step: float | None = None
) -> Tensor:
    """(prox_{r psi}(y + r u + s w) - y) / s, (B, d): the directional derivative of the prox, and the best nearby w'.

    As s -> 0 it tends to argmin (r / 2) d2psi(y|u)(w') + |w' - w|^2 / 2 wherever psi is twice epi-differentiable, be
    that form finite on a subspace or not.

    Args:
        potential: any.
        y: (B, d).
        u: (B, d), in dpsi(y).
        w: (B, d) directions.
        radius: r.
        step: s; if None the cube root of the rounding unit times |y| + r |u| and the size of the data, per row, where
            these are about the origin, and more where they are far from it.

    Raises:
        ValueError: shapes that do not match, or a radius or step that is not positive.
    """
    _check(potential, y, u, w)
    (r,) = _positive("radius", [radius], y)
    if step is None:
        return _directional(potential, y, u, w, r, _default_step(Units.of(potential, y), y, u, radius))
    return _directional(potential, y, u, w, r, _positive("step", [step], y).expand(len(y))[:, None])


def check_second_epi_derivative(
    potential: Potential, y: Tensor, u: Tensor, *, radius: float = 1.0, seed: int = 0
) -> EpiCheck:
    """Compare the analytic second epi-derivative at (y, u) with difference quotients, and find their finite subspace.

    An eigen-direction of the measured derivative is outside the subspace if its eigenvalue is rounding, or falls at
    least by half when the step falls to a sixteenth: curvatures above 1e7 / r cannot be told from infinite ones.

    Args:
        potential: any.
        y: (B, d) float64.
        u: (B, d) float64, in dpsi(y).
        radius: r, the step of the prox.
        seed: seed of the random directions.

    Raises:
        ValueError: shapes that do not match, a radius that is not positive, or float32.
    """
    _check(potential, y, u, u)
    if y.dtype != torch.float64:
        raise ValueError(f"check_second_epi_derivative: y and u must be float64, got {y.dtype}")
    (r,) = _positive("radius", [radius], y)
    units = Units.of(potential, y)
    step = _default_step(units, y, u, radius)
    coarse = _prox_derivative(potential, y, u, r, _FINER * step)
    fine = _prox_derivative(potential, y, u, r, step)
    form = potential.second_epi_derivative(y, u)
    analytic = form.resolvent(r.expand(len(y)), torch.ones_like(y[:, 0]))
    used, vectors = _finite_directions(fine, coarse, units.rounded_size(y)[:, None] / step)
    return EpiCheck(
        derivative=fine,
        analytic=analytic,
        form=form,
        error=torch.linalg.matrix_norm(fine - analytic, ord=2),
        drift=torch.linalg.matrix_norm(fine - coarse, ord=2),
        nonlinearity=_nonlinearity(potential, y, u, r, step, fine, seed),
        subspace_dimension=used.sum(1),
        subspace=vectors * used[:, None, :],
        radius=float(radius),
    )


def _finite_directions(fine: Tensor, coarse: Tensor, magnified: Tensor) -> tuple[Tensor, Tensor]:
    """Which eigenvectors of the finer derivative span the finite subspace, (B, d) bool, and those vectors.

    Rounding makes an error of eps times ``magnified`` (B, 1) in the finer derivative.
    """
    values, vectors = torch.linalg.eigh(0.5 * (fine + fine.mT))
    before = torch.einsum("bij,bik,bkj->bj", vectors, coarse, vectors)
    noise = 256 * torch.finfo(fine.dtype).eps * magnified
    return (values > noise) & (before < _GROWTH * values), vectors


def _prox_derivative(potential: Potential, y: Tensor, u: Tensor, radius: Tensor, step: Tensor) -> Tensor:
    """Central differences of prox at y + r u, (B, d, d)."""
    identity = torch.eye(y.shape[1], dtype=y.dtype, device=y.device)
    ahead, behind = (_along(potential, y, u, w.expand(len(y), -1, -1), radius, step) for w in (identity, -identity))
    return 0.5 * (ahead - behind).mT


def _nonlinearity(
    potential: Potential, y: Tensor, u: Tensor, radius: Tensor, step: Tensor, derivative: Tensor, seed: int
) -> Tensor:
    """Largest |prox'(z; w) - derivative w| over random unit w and -w, (B,), extrapolated to step 0."""
    generator = seeded_generator("check_second_epi_derivative", seed)
    draws = torch.randn(len(y), _PROBES, y.shape[1], generator=generator, dtype=y.dtype).to(y.device)
    draws = draws / torch.linalg.vector_norm(draws, dim=2, keepdim=True)
    w = torch.cat([draws, -draws], 1)
    limit = 2 * _along(potential, y, u, w, radius, 0.5 * step) - _along(potential, y, u, w, radius, step)
    deviation: Tensor = torch.linalg.vector_norm(limit - w @ derivative.mT, dim=2).amax(1)
    return deviation


def _along(potential: Potential, y: Tensor, u: Tensor, w: Tensor, radius: Tensor, step: Tensor) -> Tensor:
    """``_directional`` for several directions (B, n, d) per row, all in one prox."""
    count = w.shape[1]
    y, u, step = (part.repeat_interleave(count, 0) for part in (y, u, step))
    return _directional(potential, y, u, w.reshape(y.shape), radius, step).reshape(w.shape)


def _directional(potential: Potential, y: Tensor, u: Tensor, w: Tensor, radius: Tensor, step: Tensor) -> Tensor:
    point = potential.prox(y + radius * u + step * w, radius).point
    difference: Tensor = ((point - y) / step).detach()
    return difference


def _default_step(units: Units, y: Tensor, u: Tensor, radius: float) -> Tensor:
    """(B, 1): where the errors of rounding, eps rounded / s, and of a second-order formula, (s / size)^2, meet."""
    size = units.data_size(y) + radius * row_norm(u - units.noise_centre)
    rounded = size + row_norm(units.centre[None]) + radius * row_norm(units.noise_centre[None])
    step: Tensor = size * (torch.finfo(y.dtype).eps * rounded / size) ** (1 / 3)
    return step[:, None]


def _envelope(form: GeneralizedQuadratic, radius: Tensor, w: Tensor) -> Tensor:
    derivative = form.resolvent(radius.expand(len(w)), torch.ones_like(w[:, 0]))
    kept = (derivative @ w[:, :, None])[:, :, 0]
    envelope: Tensor = (w * (w - kept)).sum(1) / radius
    return envelope


def _check(potential: Potential, y: Tensor, u: Tensor, w: Tensor) -> None:
    for name, tensor in (("y", y), ("u", u), ("w", w)):
        potential.check(tensor, name)
        if tensor.shape != y.shape or tensor.dtype != y.dtype:
            raise ValueError(
                f"{name} must be like y, {tuple(y.shape)} of {y.dtype}; got {tuple(tensor.shape)} of {tensor.dtype}"
            )


def _positive(name: str, values: Sequence[float], like: Tensor) -> Tensor:
    tensor = torch.as_tensor(values, dtype=like.dtype, device=like.device)
    if tensor.ndim != 1 or len(tensor) == 0 or not bool((torch.isfinite(tensor) & (tensor > 0)).all()):
        raise ValueError(f"{name} must be positive finite numbers, got {list(values)}")
    return tensor
