"""The entropic potential: a discrete one smoothed at a stated scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import count_of
from proxflow.errors import NoDensityError, counted
from proxflow.kernels.softmax.derivatives import log_normaliser, moreau_pair
from proxflow.kernels.softmax.law import covariance, draw, probabilities, row_blocks, solve_shifted
from proxflow.kernels.softmax.prox import projection_temperature
from proxflow.measures import Source
from proxflow.potentials.atoms import atoms_in_words, centre_and_radius, check_atoms, check_like_atoms, register_atoms
from proxflow.potentials.base import DENSITY_ACCURACY, GeneralizedQuadratic, Potential
from proxflow.results import ProxResult, Status, Verdict
from proxflow.storage import storable
from proxflow.torch_support import Derived

__all__ = ["Entropic"]

_RANK_ROUNDINGS = 4.0  # of the largest eigenvalue of a covariance, below which a direction counts as flat
_HULL_ROUNDINGS = 4.0  # of a query, beyond which it is outside of the hull
_POLISHING_STEPS = 2  # of Newton's method, which doubles the digits


@dataclass(frozen=True)
class _Scaled:
    """Atoms centred and scaled to the unit ball, in float64: y = centre + radius a, u = (epsilon / radius) v."""

    centre: Tensor
    radius: Tensor
    atoms: Tensor
    bias: Tensor
    height: Tensor
    epsilon: float

    @property
    def source_unit(self) -> Tensor:
        return self.epsilon / self.radius


@storable
class Entropic(Potential):
    """phi(u) = epsilon log sum_j w_j exp((<u, y_j> - h_j) / epsilon), w_j = N weights_j; w_j = 1 for equal weights.

    psi is finite exactly on the convex hull of the atoms. Any heights and any epsilon give an exactly optimal flow, to
    the law of the softmax mean grad phi(X0), which has a density where the atoms span the space. As epsilon falls to 0
    this becomes ``Discrete``; ``sample_atom`` draws from the coupling of source points and atoms behind phi.

    Weights enter relative to equal ones: phi differs by epsilon log N from the average over the atoms.

    All is computed in float64 and delivered in the query's dtype. First derivatives in queries, steps, heights and
    points are exact in both modes; differentiating a prox twice raises. State: ``points`` (N, d), ``heights`` (N,),
    ``weights`` (N,). Queries must have the dtype and device of the points; those of points that are stored in fewer
    bytes are float32.

    Args:
        points: (N, d) distinct finite rows, float32, float64, or stored as float16, bfloat16, uint8 or int8. Not
            copied, as heights are not: what changes them changes the potential.
        heights: (N,) finite, in the dtype of queries or in float64.
        epsilon: positive; in units of <u, y>. Sharp laws (1e-3 of the data's variance) cost more steps, not accuracy.
        weights: (N,) positive, normalised to sum 1; equal if None. In the dtype of queries or in float64.
        source: law of the noise; standard normal if None.
        max_iterations: cap on Newton steps per query.
        max_memory: bytes of scores and covariances held at once.

    Raises:
        ValueError: a shape, dtype or device does not match, rows are not finite or not distinct, a weight is not
            positive, epsilon is not a positive number, or max_iterations or max_memory not one of at least 1.
    """

    points: Tensor
    heights: Tensor
    weights: Tensor

    def __init__(
        self,
        points: Tensor,
        heights: Tensor,
        epsilon: float,
        weights: Tensor | None = None,
        *,
        source: Source | None = None,
        max_iterations: int = 400,
        max_memory: int = 2**28,
    ) -> None:
        check_atoms("Entropic", points, heights, weights)
        if not (math.isfinite(epsilon) and epsilon > 0):
            raise ValueError(
                f"Entropic: epsilon must be a positive finite number, got {epsilon!r}; epsilon = 0 is Discrete"
            )
        super().__init__(points.shape[1], source)
        register_atoms(self, points, heights, weights)
        self.epsilon = float(epsilon)
        self.max_iterations = count_of("Entropic", "max_iterations", max_iterations)
        self.max_memory = count_of("Entropic", "max_memory", max_memory)
        self._frame = Derived(centre_and_radius)

    def extra_repr(self) -> str:
        """Size and dtype of the atoms, for printing."""
        return atoms_in_words(self.points, f"epsilon={self.epsilon:g}")

    def constructor_arguments(self) -> dict[str, object]:
        """Points, heights, epsilon, weights, source and caps."""
        return {
            "points": self.points,
            "heights": self.heights,
            "epsilon": self.epsilon,
            "weights": self.weights,
            "source": self.source,
            "max_iterations": self.max_iterations,
            "max_memory": self.max_memory,
        }

    @property
    def iterative(self) -> bool:
        """True: Newton's method reports a status per row."""
        return True

    def value(self, y: Tensor) -> Tensor:
        """psi(y) = sup_u <u, y> - phi(u), (B,); finite on the whole hull, its boundary included.

        The supremum is followed by the proximal-point method; on the boundary it lies at infinity and is reached to
        rounding.
        """
        self._check_query(y, "y")
        scaled = self._scaled()
        zero, one = torch.zeros_like(y[:, 0]), torch.ones_like(y[:, 0])
        hull = self._pair(scaled, y, zero, one)[1]
        outside = torch.linalg.vector_norm(scaled.centre + scaled.radius * hull - y, dim=1) > self.domain_tolerance(y)
        inner = scaled.centre + scaled.radius * hull
        v = self._pair(scaled, inner, zero, one)[0]
        # the excess over the supremum at v is of second order: nothing is differentiated through v
        v = v.detach()
        psi = scaled.height + self.epsilon * ((v * hull).sum(1) - self._log_normaliser(scaled, v))
        return torch.where(outside, torch.inf, psi).to(y.dtype)

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(u), (B,)."""
        self._check_query(u, "u")
        scaled = self._scaled()
        v = u.double() / scaled.source_unit
        log_sum = self._log_normaliser(scaled, v)
        return (u.double() @ scaled.centre - scaled.height + self.epsilon * log_sum).to(u.dtype)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The Moreau pair by Newton's method, with its certificate; differentiable in all its inputs.

        Where alpha = 0 the point is the projection on the hull; multiplier and gap are NaN.
        """
        self._check_query(x, "x")
        alpha = self.per_row(alpha, x, "alpha", torch.float64)
        beta = self.per_row(beta, x, "beta", torch.float64)
        scaled = self._scaled()
        v, y, gap, bound, iterations, status = self._pair(scaled, x, alpha, beta)
        point = scaled.centre + scaled.radius * y
        multiplier = torch.where((alpha > 0)[:, None], scaled.source_unit * v, torch.nan)
        bound = scaled.radius * bound + self._rounding(scaled, x, alpha, beta, point)
        return ProxResult(
            point=point.to(x.dtype),
            multiplier=multiplier.to(x.dtype),
            gap=(self.epsilon * gap).detach().to(x.dtype),
            error_bound=bound.detach().to(x.dtype),
            iterations=iterations,
            status=status,
        )

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """(Hess phi(u))^-1 on its range, as far as float64 can tell it from 0 (docs/theory.md 5)."""
        self._check_query(y, "y")
        self._check_query(u, "u")
        scaled = self._scaled()
        spread = self._spread(scaled, u.double() / scaled.source_unit)
        finite = torch.isfinite(spread).all(2).all(1)[:, None]
        size, axes = torch.linalg.eigh(torch.where(finite[:, :, None], spread, 0.0))
        least = _RANK_ROUNDINGS * self.dim * torch.finfo(size.dtype).eps * size[:, -1:]
        unit = self.epsilon / scaled.radius.square()
        used = (size > least) & (unit < size * torch.finfo(u.dtype).max)
        inverse = torch.where(used, unit / torch.where(used, size, 1.0), 0.0)
        hessian = torch.diag_embed(torch.where(finite, inverse, torch.nan))
        return GeneralizedQuadratic((axes * used[:, None, :]).to(u.dtype), hessian.to(u.dtype))

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """Hess phi (alpha I + beta Hess phi)^-1 at the solution, (B, d, d).

        x may be float64 whatever the atoms are: what is left of I - beta D has no digits to spare.
        """
        self.check(x, "x")
        check_like_atoms("Entropic", x, "x", self.points, self.heights, or_float64=True)
        alpha = self.per_row(alpha, x, "alpha", torch.float64)
        beta = self.per_row(beta, x, "beta", torch.float64)
        scaled = self._scaled()
        v, *_, status = self._pair(scaled, x, alpha, beta)
        tau, radial = self._temperature(scaled, alpha, beta)
        parts = [x.new_empty(0, self.dim, self.dim)]
        for rows in self._blocks(len(x)):
            spread = self._spread(scaled, v[rows])
            derivative = scaled.radius * solve_shifted(
                spread, projection_temperature(tau, radial)[rows], radial[rows], spread
            )
            parts.append((0.5 * (derivative + derivative.mT)).to(x.dtype))
        failed = (status == int(Status.non_finite))[:, None, None]
        return torch.where(failed, torch.nan, torch.cat(parts))

    def log_density(self, y: Tensor) -> Tensor:
        """log p1(y) = log p0(u) + logdet Hess psi(y), u = grad psi(y), (B,); -inf off the hull of the atoms.

        A row is right to 1e-6 (1 + |value|), or NaN where float64 leaves more open: within some 1e-9 of the atoms'
        radius of the hull's boundary, where u runs away, and where epsilon is so small that the softmax law is flatter
        than 1e-9 of its width in some direction. y may be float64 whatever the atoms are, as is the answer then.

        Raises:
            ValueError: the atoms span less than the space, so that the target has no density.
        """
        self.check(y, "y")
        check_like_atoms("Entropic", y, "y", self.points, self.heights, or_float64=True)
        scaled = self._scaled()
        rank = int(torch.linalg.matrix_rank(scaled.atoms.detach()))
        if rank < self.dim:
            raise NoDensityError(
                f"Entropic: the atoms span {rank} of {self.dim} dimensions, so the target has no density; "
                "reduce the data to their span first"
            )
        zero, one = torch.zeros_like(y[:, 0]), torch.ones_like(y[:, 0])
        v, hull, _, distance, *_ = self._pair(scaled, y, zero, one)
        off = torch.linalg.vector_norm(scaled.centre + scaled.radius * hull - y, dim=1)
        wide = y.double()
        outside = off > self.domain_tolerance(wide) + _HULL_ROUNDINGS * self._rounding(scaled, wide, zero, one, wide)
        target = ((wide - scaled.centre) / scaled.radius).detach()
        parts = [self._log_density_at(scaled, v[rows], target[rows]) for rows in self._blocks(len(y))]
        density = torch.cat([v.new_empty(0), *parts])
        unfinished = ~torch.isfinite(y).all(1) | (outside & ~torch.isfinite(distance))
        density = torch.where(outside, -torch.inf, density)
        return torch.where(unfinished, torch.nan, density).to(y.dtype)

    def _log_density_at(self, scaled: _Scaled, v: Tensor, target: Tensor) -> Tensor:
        """The log-density at normalised points ``target`` whose multipliers are v up to an error that is removed here.

        Newton's method for m(v) = target ends at what rounding leaves; what that can change is estimated, and rows
        where it is more than ``DENSITY_ACCURACY`` are NaN.
        """
        at = v.detach()
        for _ in range(_POLISHING_STEPS):
            at = at + self._newton_change(scaled, at, target)[0]
        change, least, condition = self._newton_change(scaled, at, target)
        left = torch.linalg.vector_norm(change, dim=1) + 2 * torch.finfo(at.dtype).eps / least
        v = v + (at - v).detach()
        log_det = torch.linalg.slogdet(self._spread(scaled, v))[1]
        prior = self.source.log_prob(scaled.source_unit * v).to(v)
        density = prior - log_det - self.dim * (scaled.radius / scaled.source_unit).log()
        with torch.no_grad():
            moved = at + left[:, None] * torch.nn.functional.normalize(at, dim=1)
            of_source = (self.source.log_prob(scaled.source_unit * moved).to(v) - prior).abs().nan_to_num(0.0)
            of_scores = left + torch.finfo(at.dtype).eps * torch.linalg.vector_norm(at, dim=1)
            open_ = of_source + 4 * self.dim * of_scores + self.dim * torch.finfo(at.dtype).eps * condition
            known = open_ <= DENSITY_ACCURACY * (1 + density.abs())
        return torch.where(known | torch.isneginf(prior), density, torch.nan)

    def _newton_change(self, scaled: _Scaled, v: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Cov(v)^-1 (target - m(v)), the least eigenvalue of Cov(v) and its condition number; NaN where singular."""
        with torch.no_grad():
            law = probabilities(v, scaled.atoms, scaled.bias)
            centre = law @ scaled.atoms
            spread = covariance(law, centre, scaled.atoms, self.max_memory)
            finite = torch.isfinite(spread).all(2).all(1)
            size, axes = torch.linalg.eigh(torch.where(finite[:, None, None], spread, 0.0))
            size = torch.where(size > 0, size, torch.nan)
            change = (axes @ ((axes.mT @ (target - centre)[:, :, None]) / size[:, :, None]))[:, :, 0]
            return change, size[:, 0], size[:, -1] / size[:, 0]

    def smooth_support(self, y: Tensor) -> Tensor:
        """Failed off the hull of the atoms; assumed in it, whose boundary is not told apart, (B,) of ``Verdict``."""
        return torch.where(torch.isfinite(self.value(y)), int(Verdict.assumed), int(Verdict.failed))

    def sees_one_atom(self, y: Tensor, u: Tensor) -> Tensor:
        """Whether an atom's probability at u is over 1/2, (B,) bool."""
        rows = max(1, self.max_memory // (8 * len(self.points)))
        return torch.cat([self.atom_probabilities(part).amax(1) > 0.5 for part in u.split(rows)])

    def atom_probabilities(self, u: Tensor) -> Tensor:
        """The probability of each atom at each source point, (B, N): the softmax law whose mean is grad phi(u)."""
        self._check_query(u, "u")
        scaled = self._scaled()
        return probabilities(u.double() / scaled.source_unit, scaled.atoms, scaled.bias).to(u.dtype)

    def sample_atom(self, u: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One atom for each source point, (B,) int64, with the softmax probabilities whose mean is grad phi(u).

        Raises:
            ValueError: a row of ``u`` (B, d) is not finite.
        """
        self._check_query(u, "u")
        bad = torch.nonzero(~torch.isfinite(u).all(1))[:, 0]
        if len(bad):
            found = counted(len(bad), "row of u is", "rows of u are")
            raise ValueError(f"sample_atom: {found} not finite, the first: {bad[:5].tolist()}")
        drawn_on = u.device if generator is None else generator.device
        uniform = torch.rand(len(u), generator=generator, dtype=torch.float64, device=drawn_on).to(u.device)
        scaled = self._scaled()
        with torch.no_grad():
            return draw(u.double() / scaled.source_unit, scaled.atoms, scaled.bias, uniform, self.max_memory)

    # ---------------------------------------------------------------- inside

    def _scaled(self) -> _Scaled:
        """Computed at every use: heights and points may be moved by an optimiser."""
        heights = self.heights.double()
        centre, radius = self._frame(self.points)
        atoms = (self.points.double() - centre) / radius
        height = heights.detach().median()
        bias = self.weights.double().log() + math.log(len(atoms)) - (heights - height) / self.epsilon
        return _Scaled(centre, radius, atoms, bias, height, self.epsilon)

    def _pair(
        self, scaled: _Scaled, x: Tensor, alpha: Tensor, beta: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
        centred = x.double() - beta.double()[:, None] * scaled.centre
        tau, radial = self._temperature(scaled, alpha, beta)
        return moreau_pair(centred, tau, radial, scaled.atoms, scaled.bias, self.max_iterations, self.max_memory)

    def _temperature(self, scaled: _Scaled, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        return alpha.double() * scaled.source_unit, beta.double() * scaled.radius

    def _log_normaliser(self, scaled: _Scaled, v: Tensor) -> Tensor:
        return log_normaliser(v, scaled.atoms, scaled.bias, self.max_memory)

    def _spread(self, scaled: _Scaled, v: Tensor) -> Tensor:
        """Covariance of the softmax law in normalised units, (B, d, d)."""
        parts = [v.new_empty(0, self.dim, self.dim)]
        for rows in self._blocks(len(v)):
            law = probabilities(v[rows], scaled.atoms, scaled.bias)
            parts.append(covariance(law, law @ scaled.atoms, scaled.atoms, self.max_memory))
        return torch.cat(parts)

    def _blocks(self, rows: int) -> list[slice]:
        return list(row_blocks(rows, max(len(self.points), self.dim**2), 8, self.max_memory))

    def _rounding(self, scaled: _Scaled, x: Tensor, alpha: Tensor, beta: Tensor, point: Tensor) -> Tensor:
        """Error of the point by its rounding to x's dtype and by centring the query, (B,)."""
        tau, radial = self._temperature(scaled, alpha, beta)
        centring = torch.linalg.vector_norm(x.double(), dim=1) + beta * torch.linalg.vector_norm(scaled.centre)
        of_query = 4 * torch.finfo(torch.float64).eps * scaled.radius * centring / (tau + radial)
        rounding: Tensor = of_query + torch.finfo(x.dtype).eps * torch.linalg.vector_norm(point, dim=1)
        return rounding

    def _check_query(self, x: Tensor, name: str) -> None:
        self.check(x, name)
        check_like_atoms("Entropic", x, name, self.points, self.heights)
