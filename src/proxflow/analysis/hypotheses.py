"""Which hypotheses of terminal normal hyperbolicity hold at a point: verified, assumed or failed (docs/theory.md 6).

The subdifferential is explored through its projection: the multiplier of prox_{r psi}(y + r v) tends to the projection
of v on dpsi(y) as r -> 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.epiderivative import EpiCheck, Units, check_second_epi_derivative
from proxflow.errors import counted
from proxflow.potentials import Potential
from proxflow.results import Verdict, brief_repr
from proxflow.seeding import seeded_generator

__all__ = ["TerminalHypotheses", "Verdict", "check_terminal_hypotheses"]

_REACH = 1e-4  # how far from u the subdifferential is explored, relative to the size of the noise and |u|
_PROX_STEP = 1e-9  # relative to the sizes of y over that of u: an error of 2e-7 by rounding
_COARSER = 4.0  # a second step, which must lead to the same projections
_TOLERANCE = 0.05  # relative to that reach
_DERIVATIVE_TOLERANCE = 1e-4  # on derivatives of the prox, which lie in [0, 1]


@brief_repr
@dataclass(frozen=True)
class TerminalHypotheses:
    """Verdicts, (B,) int64 of ``Verdict``, on the hypotheses of the theorem at (y, u); verified means numerically.

    Attributes:
        affine_hull: the affine hull of dpsi(y) has dimension d - m. Assumed, with m = d - ``affine_dimension``, if m
            was not given, and where projections on dpsi(y) have not converged (data too far from the origin, say).
        relative_interior: u is in the relative interior of dpsi(y), at least by 1e-4 (1 + |u|) for standard normal
            noise. Assumed where projections on dpsi(y) have not converged.
        quadratic_form: d2psi(y|u) is a quadratic form on a subspace, and the one that the potential claims. Assumed
            where difference quotients have not converged.
        finite_on_tangent: that subspace is the tangent space, or has its dimension m if no tangent space was given.
            Assumed where difference quotients, or the projections that m is inferred from, have not converged.
        smooth_support: y is in the support, and the support is a C^2 manifold around y: what the potential says of its
            law there (``Potential.smooth_support``), not measured; assumed where it says nothing.
        affine_dimension: measured dimension of the affine hull of dpsi(y), (B,) int64.
        subspace_dimension: measured dimension of the subspace, (B,) int64.
        manifold_dimension: m, (B,) int64, given or inferred.
        epi: the difference quotients behind it.
    """

    affine_hull: Tensor
    relative_interior: Tensor
    quadratic_form: Tensor
    finite_on_tangent: Tensor
    smooth_support: Tensor
    affine_dimension: Tensor
    subspace_dimension: Tensor
    manifold_dimension: Tensor
    epi: EpiCheck

    @property
    def holds(self) -> Tensor:
        """Whether no hypothesis failed, (B,) bool: the theorem then applies, given what is assumed."""
        return self._verdicts().amin(1) > int(Verdict.failed)

    def describe(self, row: int = 0) -> str:
        """The verdicts of one row, one line each."""
        names = ("affine hull", "relative interior", "quadratic form", "finite on tangent", "smooth support")
        verdicts = self._verdicts()[row].tolist()
        return "\n".join(f"{name}: {Verdict(verdict).name}" for name, verdict in zip(names, verdicts, strict=True))

    def _verdicts(self) -> Tensor:
        parts = (self.affine_hull, self.relative_interior, self.quadratic_form, self.finite_on_tangent)
        return torch.stack([*parts, self.smooth_support], 1)


def check_terminal_hypotheses(
    potential: Potential,
    u: Tensor,
    y: Tensor | None = None,
    *,
    manifold_dimension: int | None = None,
    tangent: Tensor | None = None,
    seed: int = 0,
) -> TerminalHypotheses:
    """Check, at source points u, what makes normal directions contract at rate -1 and tangent ones stay.

    Costs about 10 d + 16 proxes per row. Lengths are judged in units of the potential's data and noise, by draws.

    Args:
        potential: any.
        u: (B, d) float64 source points.
        y: (B, d) with u in dpsi(y); grad phi(u) if None. Give it where phi has a kink at u.
        manifold_dimension: m, if it is known.
        tangent: (B, d, m), the tangent space of the support at y, if it is known.
        seed: seed of random directions.

    Raises:
        ValueError: bad shapes, float32, u not in dpsi(y), or a dimension that contradicts the tangent space.
    """
    potential.check(u, "u")
    if u.dtype != torch.float64:
        raise ValueError(f"check_terminal_hypotheses: u must be float64, got {u.dtype}")
    u = u.detach()
    y = potential.brenier_map(u).detach() if y is None else y.detach()
    potential.check(y, "y")
    given = _given_dimension(u, manifold_dimension, tangent)
    at = _At(potential, y, Units.of(potential, u))
    reach = _REACH * at.units.noise_size(u)
    allowed = _TOLERANCE * reach
    outside = _distance(at.projected(u[:, None])[:, 0], u) > allowed
    if bool(outside.any()):
        rows = torch.nonzero(outside)[:, 0]
        raise ValueError(
            f"check_terminal_hypotheses: u is not in dpsi(y) in {counted(len(rows), 'row')}, first {rows[:5].tolist()}"
        )
    around = _around(u, reach, seed)
    steps = at.projected(around) - u[:, None, :]
    drift = at.projected(around, _COARSER) - u[:, None, :] - steps
    explored = at.resolved & (torch.linalg.vector_norm(drift, dim=2).amax(1) <= allowed)
    affine_dimension = (torch.linalg.svdvals(steps) > allowed[:, None]).sum(1)
    epi = check_second_epi_derivative(potential, y, u, radius=float(at.units.length / at.units.noise), seed=seed)
    m = u.shape[1] - affine_dimension if given is None else torch.full_like(affine_dimension, given)
    agrees, settled = _is_claimed_form(epi)
    settled = settled & at.resolved
    return TerminalHypotheses(
        affine_hull=_verdict(affine_dimension == u.shape[1] - m, explored, assumed=given is None),
        relative_interior=_verdict(_reflects(at, u, steps, allowed), explored),
        quadratic_form=_verdict(agrees, settled),
        finite_on_tangent=_verdict(_finite_on_tangent(epi, m, tangent), settled & (explored | (given is not None))),
        smooth_support=potential.smooth_support(y),
        affine_dimension=affine_dimension,
        subspace_dimension=epi.subspace_dimension,
        manifold_dimension=m,
        epi=epi,
    )


def _given_dimension(u: Tensor, m: int | None, tangent: Tensor | None) -> int | None:
    if tangent is not None:
        if tangent.ndim != 3 or tangent.shape[:2] != u.shape:
            raise ValueError(
                f"check_terminal_hypotheses: tangent must be {(*u.shape, 'm')}, got {tuple(tangent.shape)}"
            )
        if m is not None and m != tangent.shape[2]:
            raise ValueError(
                f"check_terminal_hypotheses: manifold_dimension is {m}, the tangent space has {tangent.shape[2]}"
            )
        return tangent.shape[2]
    if m is not None and not 0 <= m <= u.shape[1]:
        raise ValueError(f"check_terminal_hypotheses: manifold_dimension must be in [0, {u.shape[1]}], got {m}")
    return m


@dataclass(frozen=True)
class _At:
    """A potential at points y (B, d), and the units of its law."""

    potential: Potential
    y: Tensor
    units: Units

    @property
    def resolved(self) -> Tensor:
        """Whether a step of the prox far above the roundings is far below the size of the data, (B,) bool."""
        return _PROX_STEP * self.units.rounded_size(self.y) <= _TOLERANCE * self.units.data_size(self.y)

    def projected(self, v: Tensor, coarser: float = 1.0) -> Tensor:
        """Projections on dpsi(y) of several points (B, n, d) per row, by a step of the prox, or one so much coarser."""
        count, v_flat = v.shape[1], v.reshape(-1, v.shape[2])
        y = self.y.repeat_interleave(count, 0)
        step = coarser * _PROX_STEP * self.units.rounded_size(y) / self.units.noise_size(v_flat)
        return self.potential.prox(y + step[:, None] * v_flat, step).multiplier.detach().reshape(v.shape)


def _around(u: Tensor, reach: Tensor, seed: int) -> Tensor:
    """Points (B, 2 d, d) around u, in all directions of a frame."""
    generator = seeded_generator("check_terminal_hypotheses", seed)
    dim = u.shape[1]
    frame = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=u.dtype))[0].to(u.device)
    return u[:, None, :] + reach[:, None, None] * torch.cat([frame, -frame])


def _reflects(at: _At, u: Tensor, steps: Tensor, allowed: Tensor) -> Tensor:
    """Whether u - e stays in dpsi(y) for all explored u + e in it: u is in the relative interior (Rockafellar 6.4)."""
    opposite = u[:, None, :] - steps
    inside: Tensor = torch.linalg.vector_norm(at.projected(opposite) - opposite, dim=2).amax(1) <= allowed
    return inside


def _is_claimed_form(epi: EpiCheck) -> tuple[Tensor, Tensor]:
    """Whether quotients agree with the claimed form, and whether they have converged."""
    settled = epi.drift <= 16 * _DERIVATIVE_TOLERANCE
    agrees = (epi.nonlinearity <= _DERIVATIVE_TOLERANCE) & (epi.error <= _DERIVATIVE_TOLERANCE)
    return agrees, settled


def _finite_on_tangent(epi: EpiCheck, m: Tensor, tangent: Tensor | None) -> Tensor:
    same = epi.subspace_dimension == m
    if tangent is None:
        return same
    frame = torch.linalg.qr(tangent.to(epi.subspace))[0]
    off = epi.subspace - frame @ (frame.mT @ epi.subspace)
    aligned: Tensor = torch.linalg.matrix_norm(off) <= _DERIVATIVE_TOLERANCE**0.5
    return same & aligned


def _verdict(holds: Tensor, settled: Tensor, *, assumed: bool = False) -> Tensor:
    """Assumed where what was measured has not settled; else failed where it does not hold, and verified or assumed."""
    positive = int(Verdict.assumed if assumed else Verdict.verified)
    return torch.where(settled, torch.where(holds, positive, int(Verdict.failed)), int(Verdict.assumed))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    distance: Tensor = torch.linalg.vector_norm(a - b, dim=1)
    return distance
