"""Log-densities of what a field generates, by the change of variables along its trajectories.

Problem: log p1(x) for the law that a field v carries N(0, I), or another source, to. Method: the state (x, l) is
followed from the data to the noise by dopri5, dl/dt = div v, so that

    log p1(x1) = log p0(x(0)) - integral of div v from 0 to 1

(Chen et al. 2018, Grathwohl et al. 2019). The field is never called at t = 1. At a time c, where 1 - c and alpha are at
most 1e-5, the point is that whose last step ends at x1 (``sampling.arrival``). The integral from there on is
logdet D y(c, x) for a ``ProximalFlow``, for a callable (alpha / -alpha') div v at c, as if v / alpha' stayed. On
the field of optimal pairs this leaves out about sum_i (alpha (1 - s_i) / s_i)^2 / 2 nats, s_i derivatives of the map
from noise to data: 5e-7 for each direction with s = 1e-2, and without meaning for data without a density, whose
likelihood has no limit.

Stopping rule: every row keeps ``rtol`` and ``atol`` in x and in l, each by itself, at every step; the error of the
value is then some ten times these. Cost: an evaluation and d, or as many as there are probes, backward passes a stage.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import whole_number
from proxflow.errors import ConvergenceWarning
from proxflow.flow import ProximalFlow, known_field, schedule_of, source_of
from proxflow.measures import Gaussian, Source
from proxflow.results import brief_repr
from proxflow.sampling.arrival import depart, last_departure, refuse_without_density
from proxflow.sampling.divergence import Divergence, ExactDivergence, HutchinsonDivergence
from proxflow.sampling.integration import check_points, checked_tolerance
from proxflow.sampling.row_by_row import check_row_by_row
from proxflow.sampling.solvers import CountedField, Field, adaptive
from proxflow.schedules import Schedule
from proxflow.seeding import seeded_generator

__all__ = ["LogLikelihood", "log_likelihood"]

_EXACT_DIMENSION = 64  # backward passes for a divergence, up to which the exact one is the default
_PROBES = 16  # of Hutchinson's estimate: its standard error is a quarter of the scatter of one
_LAST_STEP = 1e-5  # in t and alpha
_LEFT_OUT = 0.01  # nats, from which a warning says so: 1,000 times the error of the solver


@brief_repr
@dataclass(frozen=True)
class LogLikelihood:
    """Log-densities of points under a field.

    Attributes:
        value: log p1(x), (B,), in nats.
        stderr: standard error of ``value`` from the random probes, (B,), with probes - 1 degrees of freedom; 0 where
            the divergence is exact. The error of the solver is not in it.
        noise: the noise that the points came from, (B, *event).
        divergence: "exact" or "hutchinson".
        probes: random directions; 0 where the divergence is exact.
        evaluations: of the field.
    """

    value: Tensor
    stderr: Tensor
    noise: Tensor
    divergence: str
    probes: int
    evaluations: int


def log_likelihood(
    field: Field | ProximalFlow,
    x: Tensor,
    *,
    source: Source | None = None,
    schedule: Schedule | None = None,
    divergence: str | None = None,
    probes: int | None = None,
    seed: int = 0,
    rtol: float = 1e-6,
    atol: float = 1e-6,
) -> LogLikelihood:
    """log p1(x) of the law that a field carries its source to, by dopri5 from the data to the noise.

    A network must be in evaluation mode. Labels come in with the field, as
    ``matching.field_of(network, label)`` makes it; with guidance it is the density of what the guided field generates.
    A ``ProximalFlow`` has its density in closed form, ``flow.log_prob``. Of a callable the law must be wide against
    1e-5, the last step in t and alpha: a direction in which it has the standard deviation s costs about
    (1e-5 / s)^2 / 2 nats, .005 at 1e-4, and below 1e-5 the value means nothing. In float32, whose last times before 1
    are 1e-7 away, Polynomial(1/2) comes to 5e-4 in place of 1e-5.

    Args:
        field: callable (t, x) with t a 0-dimensional tensor, whose rows do not depend on each other; or a
            ``ProximalFlow``.
        x: (B, *event), data.
        source: law of the noise, with ``log_prob`` of (B, d); if None, the field's own, as of a ``ProximalFlow`` or an
            ``IndependentField``, else N(0, I).
        schedule: schedule of a bare callable, Linear if None; it counts in the last step only.
        divergence: "exact", d backward passes an evaluation, or "hutchinson", ``probes`` of them; exact for flows and
            up to 64 dimensions if None.
        probes: random signs of "hutchinson", at least 2; 16 if None.
        seed: seed of the probes.
        rtol: relative tolerance of dopri5.
        atol: absolute tolerance of dopri5.

    Returns:
        ``LogLikelihood``; a row that is not finite is NaN. In grad mode the value of a callable is differentiable in x
        and in its parameters, at the memory of all evaluations: call it under ``torch.no_grad`` where you need none.

    Raises:
        ValueError: points, options or a source that do not fit, a field that autograd cannot go through or whose
            rows depend on chance or on each other, or a ``ProximalFlow`` whose target has no density.
        ConvergenceError: dopri5 cannot keep its tolerances.

    Warns:
        ConvergenceWarning: points that the field does not lead to, or where its law is so thin that the last step
            leaves out more than .01 nats.
    """
    owner = "log_likelihood"
    check_points(owner, x)
    rtol, atol = checked_tolerance(owner, "rtol", rtol), checked_tolerance(owner, "atol", atol)
    counted = CountedField(owner, field, schedule_of(owner, field, schedule))
    refuse_without_density(counted, x)
    if known_field(field) is None:
        check_row_by_row(owner, counted, x.new_tensor(0.5), x.detach())
    law = _source(field, x, source)
    along = _divergence(counted, x, divergence, probes, seed)
    noise, integrals = _to_noise(counted, x, along, rtol, atol)
    values = law.log_prob(noise.reshape(len(x), law.dim))[:, None] - integrals
    exact = isinstance(along, ExactDivergence)
    return LogLikelihood(
        value=values.mean(1),
        stderr=torch.zeros_like(values[:, 0]) if exact else values.std(1) / math.sqrt(along.columns),
        noise=noise,
        divergence="exact" if exact else "hutchinson",
        probes=0 if exact else along.columns,
        evaluations=counted.evaluations,
    )


def _to_noise(field: CountedField, x1: Tensor, along: Divergence, rtol: float, atol: float) -> tuple[Tensor, Tensor]:
    """The noise of x1, and the integrals of the divergence on the way, (B, columns)."""
    last_time = last_departure(field.schedule, _LAST_STEP, x1.dtype)
    times = torch.tensor([last_time, 0], dtype=x1.dtype, device=x1.device)
    size = math.prod(x1.shape[1:])

    def joint(t: Tensor, state: Tensor) -> Tensor:
        velocity, divergence = along.along(field, t, state[:, :size].reshape(x1.shape))
        return torch.cat([velocity.reshape(len(x1), size), divergence], 1)

    def norm(error: Tensor) -> Tensor:
        """The worst row, by its point and by each of its integrals."""
        if error.numel() == 0:
            return error.new_zeros(())
        of_points = error[:, :size].square().mean(1).sqrt()
        return torch.maximum(of_points, error[:, size:].abs().amax(1)).max()

    start = depart(field, times[0], x1, rtol, atol)
    last = _last_integral(field, times[0], start, along)
    state = torch.cat([start.reshape(len(x1), size), torch.zeros_like(last)], 1)
    end = adaptive(field.owner, joint, times, state, rtol, atol, norm)[-1]
    return end[:, :size].reshape(x1.shape), last - end[:, size:]


def _last_integral(field: CountedField, t: Tensor, x: Tensor, along: Divergence) -> Tensor:
    """The integrals of the divergence from t, near 1, to 1, (B, columns)."""
    alpha, beta = field.schedule.alpha(t), field.schedule.beta(t)
    if field.flow is None:
        _warn_of_thin_laws(field, t, x, along)
        return -alpha / field.schedule.alpha_derivative(t) * along.along(field, t, x)[1]
    derivative = field.flow.potential.decompose_jacobian(x.reshape(len(x), field.flow.dim), alpha, beta)
    log_det: Tensor = torch.linalg.slogdet(derivative)[1]
    return log_det[:, None].expand(-1, along.columns)


@torch.no_grad()
def _warn_of_thin_laws(field: CountedField, t: Tensor, x: Tensor, along: Divergence) -> None:
    """Where logdet D y, y the end of the last step, is not the trace of D y - I but half its squared norm less."""
    left_out = 0.5 * (field.schedule.alpha(t) / field.schedule.wronskian(t)) ** 2 * along.squared_jacobian(field, t, x)
    thin = left_out > _LEFT_OUT
    if bool(thin.any()):
        row = int(torch.where(thin, left_out, 0.0).argmax())
        warnings.warn(
            f"{field.owner}: at {int(thin.sum())} of {len(x)} rows the field's law is about as thin as its last step, "
            f"{float(field.schedule.alpha(t)):.1g} in alpha, which leaves out about {float(left_out[row]):.1g} nats or "
            f"more at row {row}; train it on data with noise added, or take flow.log_prob where it is a ProximalFlow's",
            ConvergenceWarning,
            stacklevel=5,
        )


def _source(field: Field | ProximalFlow, x: Tensor, source: Source | None) -> Source:
    size = math.prod(x.shape[1:])
    own = source_of(field, source)
    law = Gaussian(size) if own is None else own
    if not hasattr(law, "log_prob"):
        raise ValueError(f"log_likelihood: the source must be a law as measures.Gaussian(d), got {law!r}")
    if law.dim != size:
        raise ValueError(f"log_likelihood: the source has dimension {law.dim}, the points {size}")
    return law


def _divergence(field: CountedField, x: Tensor, kind: str | None, probes: int | None, seed: int) -> Divergence:
    if kind not in (None, "exact", "hutchinson"):
        raise ValueError(f"{field.owner}: divergence must be 'exact' or 'hutchinson', got {kind!r}")
    exact = field.flow is not None or math.prod(x.shape[1:]) <= _EXACT_DIMENSION if kind is None else kind == "exact"
    count = _PROBES if probes is None else whole_number(probes)
    if count is None or count < 2 or (exact and probes is not None):
        wanted = "are for divergence='hutchinson'" if exact else "must be an integer of at least 2"
        raise ValueError(f"{field.owner}: probes {wanted}, got {probes!r}")
    if exact:
        return ExactDivergence()
    bits = torch.randint(0, 2, (count, *x.shape), generator=seeded_generator(field.owner, seed))
    return HutchinsonDivergence((2 * bits - 1).to(x))
