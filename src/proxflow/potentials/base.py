"""The abstract extended Brenier potential, and everything that follows from its four primitives.

The central primitive is the *Moreau pair* in homogeneous form: ``decompose(x, alpha, beta)`` returns the
unique (y, u) with x = alpha u + beta y and u in dpsi(y). It contains the prox (beta = 1), the Brenier map
(alpha = 1, beta = 0) and the projection on the domain (alpha = 0), and has no division that blows up at
either end of a flow. ``rotate`` (with a shift) and ``scale`` wrap any potential.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from proxflow.checks import whole_number, working_dtype
from proxflow.errors import NoDensityError
from proxflow.kernels.geometry import finite_rows, polar_step, row_norm
from proxflow.measures import Gaussian, Source, is_normal
from proxflow.results import ProxResult, Status, Verdict, brief_repr
from proxflow.storage import storable
from proxflow.torch_support import in_full_precision

__all__ = [
    "DENSITY_ACCURACY",
    "Float64Module",
    "GeneralizedQuadratic",
    "Potential",
    "Rotated",
    "Scaled",
    "as_parameter",
    "check_rotation_invariant",
]

DENSITY_ACCURACY = 1e-6  # relative to 1 + |log-density|: coarser rows are NaN. Ten roundings of float32

_EPS = torch.finfo(torch.float64).eps
_ORTHOGONAL_ROUNDINGS = 64.0  # of float32, per square root of the dimension: what Q Q' of a rotation may miss I by
_POLAR_STEPS = 6  # each squares the error; 4 suffice
_MOTION_ROUNDINGS = 16.0  # of float64: x - beta shift, a product by Q, and its inverse

_QUERIES = (
    "value",
    "conjugate",
    "decompose",
    "second_epi_derivative",
    "log_density",
    "decompose_jacobian",
    "smooth_support",
    "brenier_map",
    "sees_one_atom",
    "atom_probabilities",
    "nearest_atom",
    "sample_atom",
    "nearest_image",
    "nearest_image_of",
)


def as_parameter(value: object) -> Tensor:
    """Tensors and arrays in their own dtype, Python numbers in float64: nothing is rounded on its way in.

    Raises:
        ValueError: a gradient with respect to it is asked for.
    """
    own = hasattr(value, "dtype")
    parameter = torch.as_tensor(value, dtype=None if own else torch.float64)
    if parameter.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"a parameter {tuple(parameter.shape)} of a potential requires a gradient, which it would not get: queries "
            "and times have gradients, and of atoms their points and heights; detach it"
        )
    return parameter


def check_rotation_invariant(owner: str, source: Source, otherwise: str) -> None:
    """Refuse a source whose law is not known to be invariant under rotations about 0.

    Raises:
        ValueError: it is neither Gaussian nor says so by an attribute ``rotation_invariant``; ``otherwise`` is what
            else the user can do.
    """
    if not (is_normal(source) or getattr(source, "rotation_invariant", False)):
        raise ValueError(
            f"{owner}: the source {source!r} must be rotation-invariant: a Gaussian, or an object whose "
            f"rotation_invariant attribute is true; {otherwise}"
        )


@brief_repr
@dataclass(frozen=True)
class GeneralizedQuadratic:
    """q(w) = <w, H w> on a subspace L and +inf off it (docs/theory.md 5), one per row.

    Attributes:
        basis: orthonormal basis of L as columns, (B, d, k); rows with a smaller L have zero columns.
        hessian: the compressed form in that basis, (B, k, k); zero on the zero columns.
    """

    basis: Tensor
    hessian: Tensor

    @property
    def subspace_dimension(self) -> Tensor:
        """Dimension of L per row, (B,) int64."""
        return self._used().sum(1)

    @in_full_precision
    def __call__(self, w: Tensor) -> Tensor:
        """q at directions ``w`` (B, d), (B,); +inf where ``w`` is not in L up to rounding."""
        coordinates = (self.basis.mT @ w[..., None])[..., 0]
        off = torch.linalg.vector_norm(w - (self.basis @ coordinates[..., None])[..., 0], dim=-1)
        tolerance = torch.finfo(w.dtype).eps ** 0.5 * torch.linalg.vector_norm(w, dim=-1)
        form = torch.einsum("bi,bij,bj->b", coordinates, self.hessian, coordinates)
        return torch.where(off <= tolerance, form, torch.inf)

    @in_full_precision
    def resolvent(self, alpha: Tensor, beta: Tensor) -> Tensor:
        """P_L (beta I + alpha H)^-1 P_L, (B, d, d), for alpha, beta of shape (B,); NaN where there is no inverse."""
        identity = torch.eye(self.basis.shape[-1], dtype=self.basis.dtype, device=self.basis.device)
        diagonal = torch.where(self._used(), beta[:, None], 1.0)
        matrix = diagonal[:, :, None] * identity + alpha[:, None, None] * self.hessian
        inverse, info = torch.linalg.solve_ex(matrix, self.basis.mT)
        return torch.where((info == 0)[:, None, None], self.basis @ inverse, torch.nan)

    def _used(self) -> Tensor:
        return self.basis.square().sum(1) > 0.5


class Float64Module(nn.Module):
    """A module whose derived tensors, its buffers outside of the state, follow it to another device but stay float64.

    So that a cast of the rest does not round what was computed from it before.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
        derived = {name: self._buffers[name] for name in self._non_persistent_buffers_set}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, buffer in derived.items():
            moved = self._buffers[name]
            if buffer is not None and moved is not None:
                self._buffers[name] = buffer.to(moved.device)
        return self


class Potential(Float64Module, ABC):
    """An extended Brenier potential psi with conjugate phi; the flow goes from ``source`` to (grad phi)#source.

    A subclass supplies ``value``, ``conjugate``, ``decompose``, ``second_epi_derivative`` and
    ``constructor_arguments``. Arguments are flat (B, d) tensors of float32 or float64.

    Args:
        dim: dimension d of the space.
        source: law of the noise; the standard normal law if None.
    """

    def __init_subclass__(cls) -> None:
        """Whatever a subclass answers, it answers outside of autocast."""
        super().__init_subclass__()
        for name in _QUERIES:
            if name in vars(cls):
                setattr(cls, name, in_full_precision(vars(cls)[name]))

    def __init__(self, dim: int, source: Source | None = None) -> None:
        super().__init__()
        if (whole_number(dim) or 0) < 1:
            raise ValueError(f"{type(self).__name__}: the dimension must be at least 1, got {dim!r}")
        dim = int(dim)
        if source is not None and source.dim != dim:
            raise ValueError(f"{type(self).__name__}: the source has dimension {source.dim}, the potential {dim}")
        self.dim = dim
        self.source: Source = Gaussian(dim) if source is None else source

    @property
    def iterative(self) -> bool:
        """Whether ``decompose`` iterates, and so can fail to converge."""
        return False

    @property
    def query_dtype(self) -> torch.dtype | None:
        """The dtype that atoms ask of queries; None where a query may have any, as of closed forms."""
        points = getattr(self, "points", None)
        return working_dtype(points) if isinstance(points, Tensor) else None

    @property
    def query_kind(self) -> tuple[torch.dtype, torch.device] | None:
        """Dtype and device of draws for this potential: as atoms ask, else as its first buffer; None without any."""
        own = next(self.buffers(), None)
        return None if own is None else (self.query_dtype or working_dtype(own), own.device)

    @abstractmethod
    def value(self, y: Tensor) -> Tensor:
        """psi(y), (B,); +inf where y is farther from the domain than ``domain_tolerance``."""

    @abstractmethod
    def conjugate(self, u: Tensor) -> Tensor:
        """phi(u) = sup_y <u, y> - psi(y), (B,)."""

    @abstractmethod
    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The Moreau pair of x: y = ``point`` and u = ``multiplier`` with x = alpha u + beta y, u in dpsi(y).

        Args:
            x: (B, d).
            alpha: scalar or (B,), >= 0.
            beta: scalar or (B,), >= 0; not both 0.
        """

    @abstractmethod
    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """d2psi(y|u) for u in dpsi(y), both (B, d) (docs/theory.md 5)."""

    def log_density(self, y: Tensor) -> Tensor:
        """log p1(y) = log p0(u) + logdet Hess psi(y), u = grad psi(y), (B,); -inf off the support.

        A row is right to 1e-6 (1 + |value|), or NaN where that cannot be told.

        Raises:
            ValueError: the target has no density, as here: a potential that has one overrides this method.
        """
        raise NoDensityError(
            f"{type(self).__name__}: its target has no density with respect to Lebesgue measure (it lies on a "
            "lower-dimensional set or on finitely many points)"
        )

    def smooth_support(self, y: Tensor) -> Tensor:
        """Whether the support of the target is a C^2 manifold without boundary around y, (B,) int64 of ``Verdict``.

        Failed where y is not in the support, up to ``domain_tolerance``, or on an edge of it; assumed, as here, where
        it is not known.
        """
        self.check(y, "y")
        return torch.full((len(y),), int(Verdict.assumed), device=y.device)

    def sees_one_atom(self, y: Tensor, u: Tensor) -> Tensor:
        """Whether a single atom of the target explains the Moreau pair (y, u), both (B, d): (B,) bool.

        Nothing can then move, L = {0}, and a flow only memorises the atom.
        """
        return self.second_epi_derivative(y, u).subspace_dimension == 0

    @abstractmethod
    def constructor_arguments(self) -> dict[str, object]:
        """The arguments that build this potential again; what ``pf.save`` writes."""

    # ---------------------------------------------------------------- derived

    def prox(self, z: Tensor, step: Tensor | float) -> ProxResult:
        """prox_{step psi}(z) = argmin_y psi(y) + |y - z|^2 / (2 step).

        Args:
            z: (B, d).
            step: positive scalar or (B,).

        Raises:
            ValueError: wrong shape or dtype, or a scalar step that is not positive.
        """
        return self.decompose(z, self._steps("prox", step, z), 1.0)

    def brenier_map(self, u: Tensor) -> Tensor:
        """grad phi(u): the optimal-transport map from the source to the target, (B, d)."""
        return self.decompose(u, 1.0, 0.0).point

    def prox_jacobian(self, z: Tensor, step: Tensor | float) -> Tensor:
        """D prox_{step psi}(z) = P_L (I + step H)^-1 P_L, (B, d, d), symmetric with spectrum in [0, 1].

        Raises:
            ValueError: as ``prox``.
        """
        return self.decompose_jacobian(z, self._steps("prox_jacobian", step, z), 1.0)

    def _steps(self, caller: str, step: Tensor | float, z: Tensor) -> Tensor:
        """Steps as (B,); a scalar that is not positive is refused, such entries of a tensor become NaN."""
        self.check(z, "z")
        if not isinstance(step, Tensor) and not 0 < step < math.inf:
            raise ValueError(f"{caller}: step must be a positive finite number, got {step!r}")
        steps = self.per_row(step, z, "step")
        return torch.where(steps > 0, steps, torch.nan)

    @in_full_precision
    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """Derivative of ``decompose(x, alpha, beta).point`` in x: P_L (beta I + alpha H)^-1 P_L, (B, d, d)."""
        pair = self.decompose(x, alpha, beta)
        alpha, beta = self.per_row(alpha, x, "alpha"), self.per_row(beta, x, "beta")
        derivative = self.second_epi_derivative(pair.point, pair.multiplier).resolvent(alpha, beta)
        return torch.where((pair.status == int(Status.non_finite))[:, None, None], torch.nan, derivative)

    def rotate(self, rotation: Tensor, shift: Tensor | None = None) -> Rotated:
        """The potential of the law of Q y + shift, for an orthogonal matrix Q."""
        return Rotated(self, rotation, shift)

    def scale(self, factor: float) -> Scaled:
        """The potential of the law of factor * y, factor > 0."""
        return Scaled(self, factor)

    # ---------------------------------------------------------------- for subclasses

    def check(self, x: Tensor, name: str) -> None:
        """Refuse a query of the wrong shape or dtype."""
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"{type(self).__name__}: {name} must have shape (B, {self.dim}), got {tuple(x.shape)}")
        if x.dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{type(self).__name__}: {name} must be float32 or float64, got {x.dtype}")

    def per_row(self, value: Tensor | float, x: Tensor, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A scalar or (B,) argument as a (B,) tensor like ``x``, or in another dtype."""
        tensor = torch.as_tensor(value, dtype=x.dtype if dtype is None else dtype, device=x.device)
        if tensor.ndim > 1 or (tensor.ndim == 1 and len(tensor) != len(x)):
            raise ValueError(
                f"{type(self).__name__}: {name} must be a scalar or have shape ({len(x)},), got {tuple(tensor.shape)}"
            )
        return tensor.expand(len(x))

    @staticmethod
    def domain_tolerance(y: Tensor) -> Tensor:
        """Distance from the domain up to which psi(y) counts as finite, (B,)."""
        relative = 1e-9 if y.dtype == torch.float64 else 1e-5
        return relative * (1 + row_norm(y).nan_to_num(0.0, posinf=0.0))

    @staticmethod
    def exact_result(
        x: Tensor, alpha: Tensor, beta: Tensor, point: Tensor, multiplier: Tensor, magnitude: Tensor
    ) -> ProxResult:
        """The record of a closed form: gap zero, an error of some roundings of ``magnitude`` (B,)."""
        finite = finite_rows(x) & torch.isfinite(alpha + beta) & finite_rows(point)
        status = torch.where(finite, int(Status.converged), int(Status.non_finite))
        zeros = torch.zeros_like(magnitude)
        return ProxResult(
            point=torch.where(finite[:, None], point, torch.nan),
            multiplier=torch.where(finite[:, None], multiplier, torch.nan),
            gap=torch.where(finite, zeros, torch.nan),
            error_bound=torch.where(finite, 16 * torch.finfo(x.dtype).eps * magnitude, torch.nan),
            iterations=torch.zeros_like(status),
            status=status,
        )


@storable
class Rotated(Potential):
    """The law of Q y + shift, y from a known law: phi(Q'u) + <shift, u>, psi(Q'(y - shift)).

    Q is the orthogonal matrix nearest to ``rotation``, which may be off by the rounding of float32. Points are moved in
    float64, and reach a closed form so. State: ``rotation`` (d, d), ``shift`` (d,), ``potential.*``; a cast rounds
    these, not the motion.

    Raises:
        ValueError: a shape is wrong, ``rotation`` is not orthogonal, or the source is not invariant under rotations.
    """

    rotation: Tensor
    shift: Tensor
    _rotation: Tensor
    _shift: Tensor

    def __init__(self, potential: Potential, rotation: Tensor, shift: Tensor | None = None) -> None:
        d = potential.dim
        rotation = as_parameter(rotation)
        shift = torch.zeros(d, dtype=rotation.dtype, device=rotation.device) if shift is None else as_parameter(shift)
        super().__init__(d, potential.source)
        if rotation.shape != (d, d) or shift.shape != (d,):
            raise ValueError(
                f"rotate: expected a rotation ({d}, {d}) and a shift ({d},), "
                f"got {tuple(rotation.shape)} and {tuple(shift.shape)}"
            )
        self.potential = potential
        self.register_buffer("rotation", rotation.detach().clone())
        self.register_buffer("shift", shift.detach().clone())
        exact_rotation, exact_shift = _exact_motion(self.rotation, self.shift)
        if not torch.equal(exact_rotation, torch.eye(d, dtype=torch.float64, device=rotation.device)):
            check_rotation_invariant("rotate", potential.source, "only a shift is possible here")
        self.register_buffer("_rotation", exact_rotation, persistent=False)
        self.register_buffer("_shift", exact_shift, persistent=False)
        # Made once and for all, not ``Derived``: compiled code would do it again in every call.
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]

    def constructor_arguments(self) -> dict[str, object]:
        """The inner potential, the rotation and the shift."""
        return {"potential": self.potential, "rotation": self.rotation, "shift": self.shift}

    @property
    def iterative(self) -> bool:
        """As the inner potential."""
        return self.potential.iterative

    @property
    def query_dtype(self) -> torch.dtype | None:
        """As of the inner potential."""
        return self.potential.query_dtype

    def value(self, y: Tensor) -> Tensor:
        """psi(Q'(y - shift)), (B,)."""
        self.check(y, "y")
        inner = _exact_if_closed(self.potential, self._back(y), y)
        return self.potential.value(self._within_rounding(inner, self.domain_tolerance(y))).to(y.dtype)

    def conjugate(self, u: Tensor) -> Tensor:
        """phi(Q'u) + <shift, u>, (B,)."""
        self.check(u, "u")
        inner = _exact_if_closed(self.potential, self._turned_back(u), u)
        return (self.potential.conjugate(inner).double() + u.double() @ self._shift.to(u.device)).to(u.dtype)

    def decompose(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> ProxResult:
        """The inner pair of Q'(x - beta shift), moved back.

        The query misses by some m, its rounding in float64 or, where atoms want it so, in float32, and the pair is
        the one of x + m. The map from x to beta y is nonexpansive, as that from x to alpha u is: the point is off by at
        most |m| / beta, and the velocity by at most |alpha'| |m| / alpha + beta' |m| / beta = W / alpha times that.
        """
        self.check(x, "x")
        alpha, beta = self.per_row(alpha, x, "alpha", torch.float64), self.per_row(beta, x, "beta", torch.float64)
        exact = self._back(x, beta)
        query = _exact_if_closed(self.potential, exact, x)
        pair = self.potential.decompose(query, alpha, beta)
        shift = self._shift.to(x.device)
        point = self._turned(pair.point) + shift
        turned = row_norm(x.detach()).double() + beta * row_norm(shift[None])
        missed = row_norm((query.double() - exact).detach()) + _MOTION_ROUNDINGS * _EPS * turned
        moved = torch.where(missed > 0, missed / beta, 0.0)
        terms = row_norm(pair.point.detach()).double() + row_norm(shift[None])
        rounding = torch.finfo(x.dtype).eps * row_norm(point.detach()) + _MOTION_ROUNDINGS * _EPS * terms
        return dataclasses.replace(
            pair,
            point=point.to(x.dtype),
            multiplier=self._turned(pair.multiplier).to(x.dtype),
            gap=pair.gap.to(x.dtype),
            error_bound=(pair.error_bound + moved + rounding).detach().to(x.dtype),
        )

    def _within_rounding(self, inner: Tensor, tolerance: Tensor) -> Tensor:
        """Inner points; those that a large shift has rounded off the domain are taken back to it."""
        domain = self.potential.decompose(inner, 0.0, 1.0).point
        distance = row_norm((domain - inner).detach())
        rounded = (distance > self.domain_tolerance(inner)) & (distance <= tolerance)
        return torch.where(rounded[:, None], domain, inner)

    def second_epi_derivative(self, y: Tensor, u: Tensor) -> GeneralizedQuadratic:
        """The inner form in rotated directions."""
        # in the dtype of the pair, by which the inner potential knows how far the pair is rounded
        inner = self.potential.second_epi_derivative(self._back(y).to(y.dtype), self._turned_back(u).to(u.dtype))
        return GeneralizedQuadratic((self._rotation.to(y.device) @ inner.basis.double()).to(y.dtype), inner.hessian)

    def decompose_jacobian(self, x: Tensor, alpha: Tensor | float, beta: Tensor | float) -> Tensor:
        """Q D Q', D the inner derivative."""
        self.check(x, "x")
        exact = self._back(x, self.per_row(beta, x, "beta", torch.float64))
        inner = self.potential.decompose_jacobian(exact, alpha, beta)
        rotation = self._rotation.to(x.device)
        return (rotation @ inner @ rotation.mT).to(x.dtype)

    def smooth_support(self, y: Tensor) -> Tensor:
        """The inner verdict at Q'(y - shift), (B,)."""
        self.check(y, "y")
        inner = _exact_if_closed(self.potential, self._back(y), y)
        return self.potential.smooth_support(self._within_rounding(inner, self.domain_tolerance(y)))

    def sees_one_atom(self, y: Tensor, u: Tensor) -> Tensor:
        """Whether the inner potential does, at Q'(y - shift) and Q'u, (B,) bool."""
        self.check(y, "y")
        return self.potential.sees_one_atom(self._back(y).to(y.dtype), self._turned_back(u).to(u.dtype))

    def log_density(self, y: Tensor) -> Tensor:
        """The inner log-density at Q'(y - shift), (B,).

        Raises:
            ValueError: the inner law has no density.
        """
        self.check(y, "y")
        return self.potential.log_density(self._back(y)).to(y.dtype)

    def _back(self, x: Tensor, beta: Tensor | None = None) -> Tensor:
        """Q'(x - beta shift), beta (B,) or 1; in float64: a shift much larger than the law must not cost digits."""
        shift = self._shift.to(x.device)
        return self._turned_back(x.double() - (shift if beta is None else beta[:, None] * shift))

    def _turned(self, y: Tensor) -> Tensor:
        """Q y in float64."""
        return y.double() @ self._rotation.to(y.device).mT

    def _turned_back(self, u: Tensor) -> Tensor:
        """Q'u in float64."""
        return u.double() @ self._rotation.to(u.device)


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

    @property
    def query_dtype(self) -> torch.dtype | None:
        """As of the inner potential."""
        return self.potential.query_dtype

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
        point = self.factor * pair.point
        rounding = torch.finfo(x.dtype).eps * row_norm(point.detach())
        return dataclasses.replace(
            pair,
            point=point,
            gap=self.factor * pair.gap,
            error_bound=self.factor * pair.error_bound + rounding,
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

    def sees_one_atom(self, y: Tensor, u: Tensor) -> Tensor:
        """Whether the inner potential does, at y / factor, (B,) bool."""
        self.check(y, "y")
        return self.potential.sees_one_atom(y / self.factor, u)

    def log_density(self, y: Tensor) -> Tensor:
        """The inner log-density at y / factor minus d log factor, (B,).

        Raises:
            ValueError: the inner law has no density.
        """
        self.check(y, "y")
        inner = self.potential.log_density(y.double() / self.factor)
        return (inner - self.dim * math.log(self.factor)).to(y.dtype)


def _exact_if_closed(potential: Potential, exact: Tensor, x: Tensor) -> Tensor:
    """A query in float64 for a potential that takes it, as closed forms do; atoms want the dtype of their own, x's."""
    return exact if potential.query_dtype is None else exact.to(x.dtype)


def _exact_motion(rotation: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """The polar factor of a nearly orthogonal matrix, by Newton's method, and a shift, both in float64."""
    if not (torch.isfinite(rotation).all() and torch.isfinite(shift).all()):
        raise ValueError("rotate: the rotation and the shift must be finite")
    matrix = rotation.double()
    error = _defect(matrix)
    # of float32 whatever the dtype is now: a matrix may have been cast since it was made
    tolerance = _ORTHOGONAL_ROUNDINGS * len(matrix) ** 0.5 * torch.finfo(torch.float32).eps
    if error > tolerance:
        raise ValueError(f"rotate: the matrix is not orthogonal (|Q Q' - I| = {error:.3g})")
    for _ in range(_POLAR_STEPS):
        if error <= _EPS:
            break
        matrix = polar_step(matrix)
        if (len(matrix) * error) ** 2 <= _EPS:
            break
        error = _defect(matrix)
    return matrix, shift.double()


def _defect(matrix: Tensor) -> float:
    """The largest entry of Q Q' - I."""
    return float((matrix @ matrix.mT - torch.eye(len(matrix)).to(matrix)).abs().max())


def _refresh(module: nn.Module, _: object) -> None:
    if isinstance(module, Rotated):
        module._rotation, module._shift = _exact_motion(module.rotation, module.shift)
