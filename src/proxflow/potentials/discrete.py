"""Finitely many data points: the polyhedral potential of semidiscrete optimal transport.

phi(u) = max_j <u, y_j> - h_j is a maximum of affine functions, and psi its conjugate: convex and piecewise affine on
the hull of the atoms, infinite elsewhere. Queries go to two kernels: ``search`` for phi, the Brenier map and masses,
one maximum over N scores each; ``active_set`` for the prox, whose gap certifies each row. Here atoms are checked, and
moved into the frame that both compute in: centred and of radius 1, with scores in the dtype of the heights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from proxflow.checks import count_of, working_dtype
from proxflow.kernels.active_set import affine_step, atom_keys, contact_basis, polyhedral_face, score_size
from proxflow.kernels.geometry import ScaledRows, finite_rows, polar_step, row_norm
from proxflow.kernels.search import Kept, argmax_affine, kept_for_searches
from proxflow.measures import Source
from proxflow.potentials.atoms import atoms_in_words, centre_and_radius, check_atoms, check_like_atoms, register_atoms
from proxflow.potentials.base import GeneralizedQuadratic, Potential
from proxflow.results import ProxResult, Status, Verdict
from proxflow.storage import storable
from proxflow.torch_support import Derived, in_full_precision

__all__ = ["Discrete"]

_SEARCH_BYTES = 1 << 28  # of scores held at once
_SCORE_ROUNDINGS = 8.0  # of the largest term of a score: what a gap may be wrong by
_CONTACT_ROUNDINGS = 256.0  # of the largest term of a score, within which scores count as equal
_STIFFNESS = -2, 13  # powers of 10, in natural units
_ORTHONORMAL_STEPS = 2  # squares an error each: from float32 to float64
_PLACE_ROUNDINGS = 64.0  # of a point's size, within which a step leaves it in place


@storable
class Discrete(Potential):
    """phi(u) = max_j <u, y_j> - h_j; psi is the lower convex envelope of the (y_j, h_j), +inf off their hull.

    Any heights give an exactly optimal flow, to the atoms weighted by the source mass of their Laguerre cells;
    ``proxflow.semidiscrete.fit`` finds the heights whose cells have the wanted ``weights``.
    State: ``points`` (N, d), ``heights`` (N,), ``weights`` (N,). Queries must have the dtype and device of the points;
    those of points in float16, bfloat16, uint8 or int8, which are storage alone, are float32, as are results.

    Scores <u, y_j> - h_j are taken in the dtype of the heights, about a centre of the points. Heights in float64 beside
    float32 points thus tell apart atoms that float32 scores cannot, at twice the cost of a query; results are float32.
    ``.to(torch.float32)`` and ``.float()`` round heights too: cells that needed float64 then have other masses.

    Args:
        points: (N, d) distinct finite rows, float32, float64, or stored as float16, bfloat16, uint8 or int8. Not
            copied, as heights are not: what changes them changes the potential. PyTorch does not see writes to their
            ``.data`` or to memory that they share with numpy: make it anew after these.
        heights: (N,) finite, in the dtype of queries or in float64.
        weights: (N,) positive, normalised to sum 1; equal if None. In the dtype of queries or in float64.
        source: law of the noise; standard normal if None.
        max_iterations: cap on active-set steps per query (2 searches suffice on a trajectory).

    Raises:
        ValueError: a shape, dtype or device does not match, rows are not finite or not distinct, or a weight is
            not positive.
    """

    points: Tensor
    heights: Tensor
    weights: Tensor

    def __init__(
        self,
        points: Tensor,
        heights: Tensor,
        weights: Tensor | None = None,
        *,
        source: Source | None = None,
        max_iterations: int = 1000,
    ) -> None:
        check_atoms("Discrete", points, heights, weights)
        super().__init__(points.shape[1], source)
        register_atoms(self, points, heights, weights)
        self.max_iterations = count_of("Discrete", "max_iterations", max_iterations)
        self._frame = Derived(centre_and_radius)
        self._as_given = Derived(_scored_as_given)
        self._panels = Derived(kept_for_searches)
        self._normalised = Derived(_normalised_atoms)

    def extra_repr(self) -> str:
        """Size and dtype of the atoms, for printing."""
        return atoms_in_words(self.points)

    def constructor_arguments(self) -> dict[str, object]:
        """Points, heights, weights and source."""
        return {
            "points": self.points,
            "heights": self.heights,
            "weights": self.weights,
            "source": self.source,
            "max_iterations": self.max_iterations,
        }

    @property
    def epsilon(self) -> float:
        """0: nothing is smoothed."""
        return 0.0

    @property
    def iterative(self) -> bool:
        """True: the active-set method reports a status per row."""
        return True

    def value(self, y: Tensor) -> Tensor:
        """psi(y), (B,): one linear programme per row, by the proximal-point method on its dual.

        Each step is one exact prox, stiffer than the last; it ends where it leaves the point in place, which happens
        after finitely many steps. Every step's value is a lower bound, and the best is returned.
        """
        self._check_query(y, "y")
        u = torch.zeros_like(y)
        best = torch.full_like(y[:, 0], -torch.inf)
        hull = self.decompose(y, 0.0, 1.0).point
        inside = row_norm(hull - y) <= self.domain_tolerance(y)
        radius = self._atoms.radius
        slope = ((self.heights.max() - self.heights.min()) / radius).clamp(min=1.0).detach().to(y.dtype)
        radius = radius.to(y.dtype)
        rounding = _PLACE_ROUNDINGS * torch.finfo(y.dtype).eps * (radius + row_norm(hull.detach()))
        for exponent in range(*_STIFFNESS):
            stiffness = 10.0**exponent * slope / radius
            pair = self.decompose(u + stiffness * hull, 1.0, stiffness)
            u = pair.multiplier
            best = torch.fmax(best, (u * hull).sum(1) - self.conjugate(u))
            if not bool((row_norm((pair.point - hull).detach()) > rounding).any()):
                break
        return torch.where(torch.isnan(y).any(1), torch.nan, torch.where(inside, best, torch.inf))

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(u), (B,)."""
        atom = self.nearest_atom(u)
        return ((u.double() * self.points[atom].double()).sum(1) - self.heights[atom].double()).to(u.dtype)

    @in_full_precision
    def nearest_atom(self, u: Tensor) -> Tensor:
        """Index of the Laguerre cell of each source point, (B,) int64: the atom that u is transported to."""
        self._check_query(u, "u")
        slopes, offsets, keep = self._scored
        return argmax_affine(u.detach().to(offsets.dtype), slopes, offsets, keep)

    def sample_atom(self, u: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """``nearest_atom(u)``, (B,) int64: nothing is left to chance; as ``Entropic`` and couplings have it."""
        return self.nearest_atom(u)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The Moreau pair by the active-set method, with its certificate; differentiable in all its inputs.

        Where alpha = 0 the point is the projection on the hull; multiplier and gap are NaN.
        """
        self._check_query(x, "x")
        return self._solved(x, alpha, beta)[0]

    def _solved(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> tuple[ProxResult, Tensor, Tensor]:
        """The record, its point before it is rounded to the dtype of the query, and whether that is one atom, (B,)."""
        alpha = self.per_row(alpha, x, "alpha", torch.float64)
        beta = self.per_row(beta, x, "beta", torch.float64)
        atoms, exact = self._atoms, x.double()
        query = atoms.query(exact.detach(), alpha.detach(), beta.detach())
        support, weights, gap_hat, iterations, status = polyhedral_face(*query, atoms.keys, self.max_iterations)
        point = self._point(exact, alpha, beta, support, weights.double(), atoms.radius)
        positive = torch.where(alpha > 0, alpha, torch.nan)
        multiplier = torch.addcmul(exact, beta[:, None], point, value=-1) / positive[:, None]
        rounding = _SCORE_ROUNDINGS * torch.finfo(atoms.keys.dtype).eps * score_size(*query, atoms.keys)
        slack = (gap_hat + rounding).double()
        bound = (torch.where(slack > 0, slack / beta, 0.0).sqrt() * atoms.radius.sqrt()).detach()
        bound = bound.clamp(max=2 * atoms.radius)  # both points are in the hull
        at_vertex = (weights > 0).sum(1) == 1
        delivered = torch.finfo(x.dtype).eps * row_norm(point.detach())
        bound = bound + torch.where(at_vertex, 0.0, delivered)
        result = ProxResult(
            point=point.to(x.dtype),
            multiplier=multiplier.to(x.dtype),
            gap=(atoms.radius * (gap_hat.double() / positive)).detach().to(x.dtype),
            error_bound=bound.to(x.dtype),
            iterations=iterations,
            status=status,
        )
        overflow = ~torch.isfinite(slack) | ~finite_rows(result.point)
        return _without_failures(result, overflow), point, at_vertex

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """Zero on the span of the differences of the contact set of u, +inf off it (docs/theory.md 3)."""
        self._check_query(y, "y")
        self._check_query(u, "u")
        ones = torch.ones_like(u[:, 0])
        query = self._atoms.query(u, ones, torch.zeros_like(ones))
        coarser = max(torch.finfo(u.dtype).eps, torch.finfo(query[0].dtype).eps)  # u may be a rounded multiplier
        return self._form(query[0], query[1], coarser * score_size(*query, self._atoms.keys), u.dtype)

    def smooth_support(self, y: Tensor) -> Tensor:
        """Verified at atoms whose height is psi's there, failed elsewhere, (B,) of ``Verdict``.

        The support is finitely many points. An atom above the envelope of the others has an empty cell and no mass.
        """
        self._check_query(y, "y")
        atoms = self._atoms
        unit = (y.double() - atoms.centre) / atoms.radius
        atom = argmax_affine(unit.to(atoms.keys.dtype), atoms.keys[:, :-2], atoms.keys[:, -1])
        at_atom = row_norm(y - self.points[atom]) <= self.domain_tolerance(y)
        above = self.heights[atom] - self.value(self.points[atom].to(y.dtype))
        rounding = _CONTACT_ROUNDINGS * torch.finfo(y.dtype).eps * (self.heights[atom].abs() + atoms.radius)
        return torch.where(at_atom & (above <= rounding), int(Verdict.verified), int(Verdict.failed))

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """(1 / beta) times the projector on the contact span, with the contact set at the query's own rounding.

        x may be float64 whatever the atoms are: what is left of I - beta D has no digits to spare.
        """
        self.check(x, "x")
        check_like_atoms("Discrete", x, "x", self.points, self.heights, or_float64=True)
        alpha = self.per_row(alpha, x, "alpha", torch.float64)
        beta = self.per_row(beta, x, "beta", torch.float64)
        atoms = self._atoms
        pair, point, at_vertex = self._solved(x, alpha, beta)
        query = atoms.query(x, alpha, beta)
        residual = (x.double() - beta[:, None] * point).to(query[0].dtype)
        mixed = torch.where(at_vertex, 0.0, query[2])  # an atom has no rounding, which near t = 1 would hide the gaps
        rounding = torch.finfo(query[0].dtype).eps * score_size(residual, query[1], mixed, atoms.keys)
        form = self._form(residual, query[1], rounding, x.dtype)
        derivative = form.resolvent(alpha.to(x.dtype), beta.to(x.dtype))
        return torch.where((pair.status == int(Status.non_finite))[:, None, None], torch.nan, derivative)

    # ---------------------------------------------------------------- inside

    @property
    def _atoms(self) -> _Atoms:
        """The atoms as they are now."""
        return self._normalised(self.points, self.heights, *self._frame(self.points))

    @property
    def _scored(self) -> tuple[Tensor, Tensor, Callable[[], Kept] | None]:
        """Slopes (N, d) and offsets (N,) of phi: the points themselves where that loses no digits, so that prox alone
        needs a copy of them; small batches keep a rounded one if it is small."""
        if not torch.compiler.is_compiling():
            as_given = self._as_given(self.points, self.heights, *self._frame(self.points))
            if as_given is not None:
                return self.points.detach(), as_given, partial(self._panels, self.points, as_given)
        atoms = self._atoms
        return atoms.keys[:, :-2], atoms.offsets, None

    def _form(self, residual: Tensor, alpha: Tensor, rounding: Tensor, dtype: torch.dtype) -> GeneralizedQuadratic:
        tolerance = _CONTACT_ROUNDINGS * rounding
        rows_at_once = max(1, _SEARCH_BYTES // (residual.element_size() * len(self.points)))
        basis = contact_basis(residual.detach(), alpha.detach(), self._atoms.keys, tolerance.detach(), rows_at_once)
        basis = basis.to(dtype) if basis.dtype.itemsize >= dtype.itemsize else _orthonormal(basis.to(dtype))
        return GeneralizedQuadratic(basis, torch.zeros_like(basis))

    def _point(
        self, x: Tensor, alpha: Tensor, beta: Tensor, support: Tensor, weights: Tensor, radius: Tensor
    ) -> Tensor:
        """sum_i p_i y_i in float64, with derivatives: a support's affine minimiser is smooth in x, heights, points."""
        differentiated = torch.is_grad_enabled() and any(each.requires_grad for each in (x, alpha, beta, self.heights))
        if not (differentiated or torch.compiler.is_compiling()) and support.shape[1] == 1:  # as on a trajectory
            return self.points[support[:, 0]].double()
        atoms = self.points[support].double()
        used = weights > 0
        if torch.is_grad_enabled():
            lifted = (weights[:, None, :] @ atoms)[:, 0]
            offsets = (atoms - lifted[:, None, :]) / radius
            residual = x - beta[:, None] * lifted
            heights = self.heights[support].double() / radius
            scores = (offsets @ residual[:, :, None])[:, :, 0] - alpha[:, None] * heights
            weights = weights + affine_step(scores, offsets, used, beta * radius, 1e-14)
        return (weights[:, None, :] @ atoms)[:, 0]

    def _check_query(self, x: Tensor, name: str) -> None:
        self.check(x, name)
        check_like_atoms("Discrete", x, name, self.points, self.heights)


class _Atoms(NamedTuple):
    """Atoms centred and scaled to the unit ball: scores then mean the same at every data scale.

    ``keys`` (N, d + 2) and ``offsets`` (N,) are in the dtype that scores are taken in, ``centre`` and ``radius`` in
    float64.
    """

    keys: Tensor
    offsets: Tensor
    centre: Tensor
    radius: Tensor

    def query(self, x: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A query in these units and in the dtype of the scores; its subtraction is made in float64."""
        dtype, exact = self.keys.dtype, beta.double()
        centred = torch.addcmul(x.double(), exact[:, None], self.centre, value=-1)
        return centred.to(dtype), alpha.to(dtype), (exact * self.radius).to(dtype)


def _scored_as_given(points: Tensor, heights: Tensor, centre: Tensor, radius: Tensor) -> Tensor | None:
    """Offsets (N,) of scores with the points as they are; None where scores about a centre keep more digits."""
    if working_dtype(points) != heights.dtype or bool(row_norm(centre[None])[0] > radius):
        return None
    exact = heights.detach().double()
    return (exact.median() - exact).to(heights.dtype)


def _normalised_atoms(points: Tensor, heights: Tensor, centre: Tensor, radius: Tensor) -> _Atoms:
    heights = heights.detach()
    unit_heights = (heights.double() - heights.median().double()) / radius
    keys = atom_keys(ScaledRows(points.detach(), centre, radius), unit_heights.to(heights.dtype))
    return _Atoms(keys, keys[:, -2].contiguous(), centre, radius)


def _orthonormal(basis: Tensor) -> Tensor:
    """Nearly orthonormal columns (B, d, k), or zeros, made so to rounding."""
    for _ in range(_ORTHONORMAL_STEPS):
        basis = polar_step(basis)
    return basis


def _without_failures(result: ProxResult, overflow: Tensor) -> ProxResult:
    """The record with NaN rows where a query was not finite or its point overflowed."""
    status = torch.where(overflow, int(Status.non_finite), result.status)
    failed = status == int(Status.non_finite)
    return dataclasses.replace(
        result,
        point=torch.where(failed[:, None], torch.nan, result.point),
        multiplier=torch.where(failed[:, None], torch.nan, result.multiplier),
        gap=torch.where(failed, torch.nan, result.gap),
        error_bound=torch.where(failed, torch.nan, result.error_bound),
        status=status,
    )
