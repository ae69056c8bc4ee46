"""ProximalFlow: a potential and a schedule make the exact OT-CFM flow (docs/theory.md 2)."""

from __future__ import annotations

import dataclasses
import math
import numbers
from types import MethodType

import numpy as np
import torch
from torch import Tensor, nn

from proxflow.errors import UndefinedTimeError
from proxflow.independent_field import IndependentField
from proxflow.kernels.geometry import row_norm
from proxflow.measures import Source, draw
from proxflow.potentials.base import Potential
from proxflow.results import ProxResult, Status
from proxflow.schedules import Linear, Schedule, check_schedule
from proxflow.storage import storable
from proxflow.torch_support import gradient, require_converged

__all__ = ["ProximalFlow", "flow_of", "known_field", "schedule_of", "source_of"]

_SPECTRUM_ROUNDINGS = 16.0  # of I - beta D recover_target per dimension, in float64: eigenvalues below are zero
_VELOCITY_ROUNDINGS = 4.0  # x - beta y, its quotient by alpha, the coefficients, and the sum of two products


@storable
class ProximalFlow(nn.Module):
    """The population OT-CFM flow of a potential: x_t = alpha(t) x0 + beta(t) grad phi(x0).

    Points may have any event shape with ``potential.dim`` entries; results keep it. Times are floats or tensors,
    0-dimensional or (B,), in [0, 1]. Numbers are checked; tensors, 0-dimensional ones too, are not looked at: entries
    out of range give NaN rows, and so does 1 where a query is refused at t = 1.
    State: ``potential.*``.

    Args:
        potential: the extended Brenier potential.
        schedule: Linear if None.
        on_failure: "raise" raises ``ConvergenceError`` when a query did not converge; "nan" gives NaN rows.

    Raises:
        ValueError: no potential, no schedule, or ``on_failure`` is neither "raise" nor "nan".
    """

    def __init__(self, potential: Potential, schedule: Schedule | None = None, on_failure: str = "raise") -> None:
        super().__init__()
        if on_failure not in ("raise", "nan"):
            raise ValueError(f"ProximalFlow: on_failure must be 'raise' or 'nan', got {on_failure!r}")
        if not isinstance(potential, Potential):
            raise ValueError(
                f"ProximalFlow: needs a potential, got {type(potential).__name__}; a fit has one as fit.potential, one "
                "on shortlists as fit.potential.over_all_atoms()"
            )
        check_schedule("ProximalFlow", schedule)
        self.potential = potential
        self.schedule = Linear() if schedule is None else schedule
        self.on_failure = on_failure

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self.potential.dim

    def extra_repr(self) -> str:
        """The schedule, for printing."""
        return f"schedule={self.schedule!r}"

    def constructor_arguments(self) -> dict[str, object]:
        """Potential, schedule and on_failure."""
        return {"potential": self.potential, "schedule": self.schedule, "on_failure": self.on_failure}

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """The velocity at (t, x)."""
        return self.velocity(t, x)

    def solve(self, t: Tensor | float, x: Tensor) -> ProxResult:
        """The Moreau pair behind x_t with its certificate; never raises on numerical failure.

        Args:
            t: time; at t = 1 the point is the projection on the domain and the multiplier NaN.
            x: (B, *event).

        Returns:
            ``ProxResult`` on flat (B, d) points, with ``velocity_error_bound`` (B,).
        """
        pair = self._pair(t, x)
        times, flat = self._query(t, x)
        with torch.no_grad():
            bound = self._velocity_error_bound(times, flat, pair)
        return dataclasses.replace(pair, velocity_error_bound=bound)

    def recover_target(self, t: Tensor | float, x: Tensor) -> Tensor:
        """The data point y = prox_{(alpha/beta) psi}(x / beta) behind x_t; (B, *event).

        At t = 1 this is the projection of x on the closed domain of psi, the limit of the prox.

        Raises:
            ConvergenceError: a row did not converge and ``on_failure`` is "raise".
        """
        pair = self._solved(t, x)
        return self._delivered(pair.point, pair, x)

    def recover_source(self, t: Tensor | float, x: Tensor) -> Tensor:
        """The source point u behind x_t, with x = alpha u + beta y; (B, *event); refused at t = 1."""
        t = self._before_end(t, x, "recover_source")
        pair = self._solved(t, x)
        return self._delivered(pair.multiplier, pair, x)

    def velocity(self, t: Tensor | float, x: Tensor) -> Tensor:
        """v_t(x) = alpha' u + beta' y, (B, *event); refused at t = 1, where it is not a function of x.

        Raises:
            ValueError: the number t = 1; finish with ``recover_target``, as ``sampling.integrate`` does. In a tensor 1
                gives rows of NaN.
            ConvergenceError: a row did not converge and ``on_failure`` is "raise".
        """
        t = self._before_end(t, x, "velocity")
        times, _ = self._query(t, x)
        pair = self._solved(t, x)
        source_rate = self.schedule.alpha_derivative(times)[:, None].to(x.dtype)
        target_rate = self.schedule.beta_derivative(times)[:, None].to(x.dtype)
        return self._delivered(source_rate * pair.multiplier + target_rate * pair.point, pair, x)

    def jacobian(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Derivative of the velocity in x, (B, d, d): (alpha'/alpha) I + (W/alpha) D recover_target; symmetric."""
        t = self._before_end(t, x, "jacobian")
        times, flat = self._query(t, x)
        alpha, beta = self.schedule.alpha(times), self.schedule.beta(times)
        derivative = self.potential.decompose_jacobian(flat, alpha, beta)
        identity = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        decay = (self.schedule.alpha_derivative(times) / alpha)[:, None, None].to(x.dtype)
        gain = (self.schedule.wronskian(times) / alpha)[:, None, None].to(x.dtype)
        return decay * identity + gain * derivative

    def divergence(self, t: Tensor | float, x: Tensor) -> Tensor:
        """Divergence of the velocity, (B,)."""
        return self.jacobian(t, x).diagonal(dim1=1, dim2=2).sum(1)

    def transport(self, x0: Tensor) -> Tensor:
        """The data point of each source point, grad phi(x0): the whole flow in one step; (B, *event)."""
        return self.recover_target(0.0, x0)

    def interpolate(self, t: Tensor | float, x0: Tensor) -> Tensor:
        """The trajectory of x0 at time t: alpha x0 + beta grad phi(x0), (B, *event)."""
        times, flat = self._query(t, x0)
        target = self.transport(x0).reshape(flat.shape)
        alpha, beta = (part[:, None].to(x0.dtype) for part in (self.schedule.alpha(times), self.schedule.beta(times)))
        return (alpha * flat + beta * target).reshape(x0.shape)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` draws of the target, (n, d): fresh noise transported exactly.

        ``dtype`` and ``device`` default to those of the potential's queries, else to PyTorch's defaults.
        """
        own_dtype, own_device = self.potential.query_kind or (None, None)
        dtype = dtype or own_dtype or torch.get_default_dtype()
        device = torch.device(device or own_device or torch.get_default_device())
        return self.transport(draw(self.potential.source, n, generator, dtype, device))

    def log_prob(self, y: Tensor) -> Tensor:
        """log p1(y) = log p0(u) + logdet Hess psi(y), u = grad psi(y), (B,); needs a target with a density.

        Raises:
            ValueError: the target has no density; the message names the potential.
        """
        _check_tensor(y)
        return self.potential.log_density(y.reshape(len(y), math.prod(y.shape[1:])))

    def marginal_log_prob(self, t: Tensor | float, x: Tensor) -> Tensor:
        """log p_t(x) = log p0(u) + logdet D recover_source(t, x), u = recover_source(t, x), (B,); refused at t = 1.

        x0 -> x_t has an inverse of Lipschitz constant 1 / alpha, so that x_t has a density before t = 1 whatever the
        target is; -inf where no trajectory passes (between the cells of atoms). At t = 1 it is ``log_prob``. Whatever
        the dtype of x, a direction counts as one that none passes in where D u is below 4e-15 d / alpha.
        """
        t = self._before_end(t, x, "marginal_log_prob")
        times, flat = self._query(t, x)
        alpha, beta = self.schedule.alpha(times), self.schedule.beta(times)
        source = self.recover_source(t, x).reshape(flat.shape)
        # I - beta D cancels where the target is wide or t near 1: float32 would leave nothing of it
        taken = beta[:, None, None] * self.potential.decompose_jacobian(flat.double(), alpha, beta)
        known = torch.isfinite(taken).all(2).all(1)
        identity = torch.eye(self.dim, dtype=taken.dtype, device=x.device)
        kept = torch.linalg.eigvalsh(identity - torch.where(known[:, None, None], taken, 0.0))
        least = _SPECTRUM_ROUNDINGS * self.dim * torch.finfo(taken.dtype).eps
        log_det = torch.where(kept < least, -torch.inf, kept.clamp(min=least).log()).sum(1) - self.dim * alpha.log()
        return self.potential.source.log_prob(source) + torch.where(known, log_det, torch.nan).to(x.dtype)

    def score(self, t: Tensor | float, x: Tensor) -> Tensor:
        """grad log p_t(x), (B, *event), without derivatives of its own; refused at t = 1.

        It is (D u)' grad log p0(u) + grad logdet D u, u = recover_source(t, x) (docs/theory.md 2). The second term is
        not a function of the velocity at x: Tweedie's -u / alpha (``predictions.score_from_velocity``) holds for
        independent pairs, and here only inside the cells of atoms, where D u = I / alpha. NaN where no trajectory
        passes.
        """
        with torch.inference_mode(False), torch.enable_grad():
            at = x.detach().clone().requires_grad_()  # a copy, as tensors of inference mode have no gradients
            density = self.marginal_log_prob(t, at)
            score = gradient(density.sum(), at)
        somewhere = torch.isfinite(density.detach()).reshape(-1, *[1] * (x.ndim - 1))
        return torch.where(somewhere, score, torch.nan)

    # ---------------------------------------------------------------- inside

    def _query(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B,) in float64, which no coefficient then loses digits to, and x flat (B, d)."""
        _check_tensor(x)
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.dim:
            raise ValueError(
                f"ProximalFlow: x must have shape (B, *event) with {self.dim} entries per row, got {tuple(x.shape)}"
            )
        t = _number(t)
        if not isinstance(t, Tensor) and not 0 <= t <= 1:
            raise ValueError(f"ProximalFlow: t must be in [0, 1], got {t!r}")
        times = self.potential.per_row(t, x, "t", torch.float64)
        if isinstance(t, Tensor):
            times = torch.where((times >= 0) & (times <= 1), times, torch.nan)
        return times, x.reshape(len(x), self.dim)

    @staticmethod
    def _before_end(t: Tensor | float, x: Tensor, name: str) -> Tensor | float:
        """The same times; a number that is 1 in the dtype of x is refused, such entries of a tensor become NaN."""
        _check_tensor(x)
        t = _number(t)
        if isinstance(t, Tensor):
            return torch.where(t.to(x.dtype) < 1, t, torch.nan)
        if 1 - torch.finfo(x.dtype).eps / 4 <= t <= 1:
            rounded = "" if t == 1 else f" ({t!r} is 1 in {x.dtype})"
            raise UndefinedTimeError(
                f"{name}: at t = 1{rounded} this is not a function of x; stop before 1 and finish with recover_target"
            )
        return t

    def _pair(self, t: Tensor | float, x: Tensor) -> ProxResult:
        times, flat = self._query(t, x)
        return self.potential.decompose(flat, self.schedule.alpha(times), self.schedule.beta(times))

    def _velocity_error_bound(self, times: Tensor, x: Tensor, pair: ProxResult) -> Tensor:
        """(B,): W / alpha per error of the point, and the roundings of u, of both terms and of their sum."""
        alpha, beta = self.schedule.alpha(times), self.schedule.beta(times)
        size_y, size_u = row_norm(pair.point).double(), row_norm(pair.multiplier).double()
        source_size = torch.maximum(size_u, (row_norm(x).double() + beta * size_y) / alpha)
        source_rate, target_rate = (
            self.schedule.alpha_derivative(times).abs(),
            self.schedule.beta_derivative(times).abs(),
        )
        rounding = _VELOCITY_ROUNDINGS * torch.finfo(x.dtype).eps * (source_rate * source_size + target_rate * size_y)
        bound = self.schedule.wronskian(times) / alpha * pair.error_bound.double() + rounding
        return torch.where(alpha > 0, bound, torch.inf + 0 * pair.error_bound).to(x.dtype)

    def _solved(self, t: Tensor | float, x: Tensor) -> ProxResult:
        pair = self._pair(t, x)
        if self.on_failure == "raise" and self.potential.iterative:
            status = require_converged(pair.status, pair.error_bound)
            pair = dataclasses.replace(pair, status=status)
        return pair

    def _delivered(self, value: Tensor, pair: ProxResult, x: Tensor) -> Tensor:
        if self.potential.iterative:
            value = torch.where((pair.status != int(Status.converged))[:, None], torch.nan, value)
        return value.reshape(x.shape)


def _number(t: object) -> Tensor | float:
    """A time as a tensor or a Python number; numpy's scalars and arrays without dimension are numbers."""
    if isinstance(t, Tensor):
        if t.is_complex() or t.dtype == torch.bool:
            raise ValueError(f"ProximalFlow: t must be a tensor of real numbers, got one of {t.dtype}")
        return t
    if isinstance(t, numbers.Real) or (isinstance(t, np.ndarray) and t.ndim == 0 and t.dtype.kind in "fiu"):
        return float(t)
    raise ValueError(f"ProximalFlow: t, which comes before x, must be a number or a tensor, got {t!r}")


def _check_tensor(x: Tensor) -> None:
    if not isinstance(x, Tensor):
        raise ValueError(
            f"ProximalFlow: x must be a torch tensor, got {type(x).__name__}; convert it, and give t first: (t, x)"
        )
    if not x.is_floating_point():
        raise ValueError(f"ProximalFlow: x must be float32 or float64, got {x.dtype}; convert it")


def schedule_of(owner: str, field: object, schedule: Schedule | None) -> Schedule:
    """The schedule of a field: its own, else the one given, else Linear.

    Raises:
        ValueError: no field, not a schedule, or one that contradicts the field's own.
    """
    if isinstance(field, Potential):
        raise ValueError(f"{owner}: {type(field).__name__} is a potential; give its flow, ProximalFlow(potential)")
    if not callable(field):
        raise ValueError(f"{owner}: the field must be callable as field(t, x), got {type(field).__name__}")
    check_schedule(owner, schedule)
    known = known_field(field)
    if known is None:
        return Linear() if schedule is None else schedule
    if schedule is not None and schedule != known.schedule:
        kind = "flow" if isinstance(known, ProximalFlow) else "field"
        raise ValueError(f"{owner}: the {kind} has the schedule {known.schedule}, but schedule={schedule} was given")
    return known.schedule


def source_of(field: object, source: Source | None) -> Source | None:
    """The law of a field's noise: the one given, else its own; None for a bare callable without one."""
    if source is not None:
        return source
    known = known_field(field)
    return known.potential.source if isinstance(known, ProximalFlow) else getattr(known, "source", None)


def known_field(field: object) -> ProximalFlow | IndependentField | None:
    """A field that knows its schedule and noise, by itself or as its method ``velocity``; None for a bare callable."""
    if isinstance(field, MethodType) and field.__name__ in ("velocity", "forward"):
        field = field.__self__
    return field if isinstance(field, ProximalFlow | IndependentField) else None


def flow_of(field: object) -> ProximalFlow | None:
    """The flow that a field is, by itself or as its method ``velocity``; None for any other callable."""
    known = known_field(field)
    return known if isinstance(known, ProximalFlow) else None
