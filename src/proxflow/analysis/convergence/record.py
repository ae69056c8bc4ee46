"""The record of a minibatch study: numbers per batch size, and what follows from them along the flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.convergence.batches import pairs_kept_per_batch
from proxflow.analysis.convergence.control_variates import MeanWithError
from proxflow.analysis.convergence.field_error import draw_partner, squared_mean
from proxflow.analysis.convergence.rate import Rate, WantedSize, size_for
from proxflow.flow import ProximalFlow
from proxflow.independent_field import IndependentField
from proxflow.potentials import Discrete, Potential
from proxflow.results import brief_repr
from proxflow.schedules import Schedule
from proxflow.seeding import generator_of
from proxflow.storage import storable

__all__ = ["FieldError", "MinibatchConvergence", "VelocityError"]

_NORMAL = 1.96  # standard errors of a 95% interval
_MOST_PARTNERS = 16  # of each x_t
_PARTNERS = 0xF1E1D  # marks the stream of draws of field errors


@brief_repr
@dataclass(frozen=True)
class VelocityError:
    """A mean squared error of velocities for each batch size, (K,) float64, and its standard error."""

    value: Tensor
    stderr: Tensor


@brief_repr
@dataclass(frozen=True)
class FieldError:
    """E|v^(n)_t - v_t|^2 for each batch size, or what it lies between.

    Attributes:
        value: (K,) float64; NaN where only the interval is known.
        stderr: (K,) its standard error; NaN likewise.
        interval: (K, 2) float64, at 95%. Where ``value`` is NaN, from the part of v^(n) - v_t along v^(1) - v_t, a
            lower bound, to ``measured_error``, an upper one.
        reason: for each batch size why there is no value; empty where there is one.
    """

    value: Tensor
    stderr: Tensor
    interval: Tensor
    reason: tuple[str, ...]


@storable
@brief_repr
@dataclass(frozen=True)
class MinibatchConvergence:
    """How far minibatch OT-CFM is from the population flow, batch size by batch size (docs/theory.md 4).

    Tensors have one entry for each batch size, float64. Costs are in squared units of the data, E|.|^2 of velocities
    in those units per unit of time. Standard errors hold one sigma.

    Attributes:
        batch_sizes: (K,) int64, ascending.
        cost: C_n = E|X1 - X0|^2 of minibatch pairs, and ``cost_stderr``.
        excess: C_n - W2^2 with ``transport_cost`` for W2^2, and ``excess_stderr``: both errors together.
        gap: mean Fenchel-Young gap of the pairs less ``height_error``: half the excess by the other route; and
            ``gap_stderr``.
        disagreement: (K,) excess - 2 gap, zero up to its error ``disagreement_stderr``. Both routes use the same pairs
            and the same potential, so that their errors are correlated: its standard error is that of the batches' own
            differences, and of W2^2 and ``height_error``, which share their fresh draws and are added. What the routes
            do not share: W2^2 from costs of optimal pairs (or exact), the gap from values of the potential.
        disagreement_stderr: see ``disagreement``.
        rows: how many rows of equal weight the data are; None for other laws.
        replacement: (K,) bool, whether targets within a batch were independent draws. False: as ``Minibatch`` draws
            rows, without replacement.
        transport_cost: W2^2 by a route without the dual value.
        transport_cost_interval: its 95% interval.
        height_error: J(h) - J* of a fitted potential, by which raw gaps are too large; 0 for exact ones.
        height_error_stderr: its standard error.
        batches: (K,) int64, independent batches behind each entry.
        draws: (K,) int64, pairs behind each entry.
        fresh_draws: source points spent on ``transport_cost`` and ``height_error``.
        seconds_per_batch: median wall time of one assignment on this machine; 0 for n = 1.
        fit_seconds: wall time of the fit; None where a potential was given.
        rate: excess ~ n^-exponent near the largest sizes, those drawn as the largest is, or why none is stated.
        wanted: the excess, as a share of W2^2, that the advice aims at.
        advice: one sentence.
        solver: "exact" or "sinkhorn".
        epsilon: regularisation of the latter.
        seed: seed of all draws.
        source_pairs: (K, P, d), source points of pairs of each coupling; ``target_pairs`` the targets.
        target_pairs: see ``source_pairs``.
        potential: potential of the population flow.
        schedule: schedule of all flows.
    """

    batch_sizes: Tensor
    cost: Tensor
    cost_stderr: Tensor
    excess: Tensor
    excess_stderr: Tensor
    gap: Tensor
    gap_stderr: Tensor
    disagreement: Tensor
    disagreement_stderr: Tensor
    rows: int | None
    replacement: Tensor
    transport_cost: float
    transport_cost_interval: tuple[float, float]
    height_error: float
    height_error_stderr: float
    batches: Tensor
    draws: Tensor
    fresh_draws: int
    seconds_per_batch: Tensor
    fit_seconds: float | None
    rate: Rate
    wanted: float
    advice: str
    solver: str
    epsilon: float
    seed: int
    source_pairs: Tensor
    target_pairs: Tensor
    potential: Potential
    schedule: Schedule

    @property
    def cost_interval(self) -> Tensor:
        """95% interval of ``cost``, (K, 2)."""
        return _interval(self.cost, self.cost_stderr)

    @property
    def excess_interval(self) -> Tensor:
        """95% interval of ``excess``, (K, 2)."""
        return _interval(self.excess, self.excess_stderr)

    @property
    def gap_interval(self) -> Tensor:
        """95% interval of ``gap``, (K, 2)."""
        return _interval(self.gap, self.gap_stderr)

    def bound(self, t: float | Tensor) -> Tensor:
        """Bound on E|v^(n)_t - v_t|^2 over x_t of the minibatch coupling: W^2 gap / (alpha beta), (K, *t.shape).

        It holds for the regression target too, so that it bounds ``measured_error`` as well: Linear, excess / (2 t (1 -
        t)). The gap is the raw one, of the heights as they are. It is inf at t = 0 and t = 1.

        Raises:
            ValueError: t is outside [0, 1].
        """
        times = torch.as_tensor(t, dtype=torch.float64)
        if not bool(((times >= 0) & (times <= 1)).all()):
            raise ValueError(f"bound: t must be in [0, 1], got {t!r}")
        alpha, beta = self.schedule.alpha(times), self.schedule.beta(times)
        factor = self.schedule.wronskian(times).square() / (alpha * beta)
        factor = torch.where(alpha * beta > 0, factor, torch.inf)
        raw = (self.gap + self.height_error).clamp(min=torch.finfo(torch.float64).tiny)
        return raw.view(-1, *[1] * times.ndim) * factor

    def measured_error(self, t: float | Tensor) -> Tensor:
        """E|u_t - v_t(x_t)|^2, u_t the regression target alpha' x0 + beta' x1 of a pair: (K, *t.shape).

        This is (W/alpha)^2 E|x1 - prox_{lam psi}(x_t / beta)|^2: what a loss against the exact field would show, the
        variance of the target about v^(n) and the squared error of v^(n) together.

        Raises:
            ValueError: t is outside [0, 1).
        """
        return self._over_times(t, lambda time: self.measure(time).value)

    def measure(self, t: float) -> VelocityError:
        """``measured_error`` at one time, with its standard error; batches are the independent unit."""
        t = _checked_time(t, "measured_error")
        values, errors = [], []
        for k, size in enumerate(self.batch_sizes.tolist()):
            squares = self._factor(t) ** 2 * (self.target_pairs[k] - self._prox(t, k)).double().square().sum(1)
            per_batch = squares.view(-1, pairs_kept_per_batch(size, len(squares))).mean(1)
            values.append(float(squares.mean()))
            errors.append(float(per_batch.std()) / math.sqrt(len(per_batch)))
        return VelocityError(_numbers(values), _numbers(errors))

    def field_error(self, t: float, *, largest: int = 64, queries: int = 256, assignments: int = 1 << 14) -> FieldError:
        """E|v^(n)_t - v_t|^2 itself, v^(n) the field that pairs of batch size n teach, for finite data.

        For n = 1 v^(n) is a closed form. For 1 < n <= ``largest`` the square of its distance is the mean product of
        targets of different pairs drawn independently given x_t, without smoothing; each pair takes about n assignments
        of n. It can come out negative within its error. A draw that would take over 64 n of them, at most one in 64, is
        given up, and its x_t left out; but for that there is no bias. For larger n there is an interval only: with u_t
        the regression target and f = v^(1)_t - v_t, (E<u_t - v_t, f>)^2 / E|f|^2 <= E|v^(n)_t - v_t|^2 <= E|u_t -
        v_t|^2 (Cauchy-Schwarz, and the variance of u_t), all means over the same pairs.

        Args:
            t: in (0, 1).
            largest: batch size drawn from; the largest of the study gives values everywhere, if there is time for it.
            queries: points x_t of each size, at most the P pairs kept.
            assignments: about how many of each size: as many pairs are drawn for each x_t as they allow, from 1
                to 16.

        Raises:
            ValueError: t is outside (0, 1), or the target is not finite data.
        """
        t = _checked_time(t, "field_error")
        if t == 0:
            raise ValueError("field_error: t must be above 0")
        if not isinstance(self.potential, Discrete):
            raise ValueError(
                "field_error: the minibatch field is known for finite data only; bound and measured_error hold here"
            )
        field = IndependentField(self.potential.points, self.potential.weights, self.schedule, self.potential.source)
        values, intervals, reasons = [], [], []
        for k, size in enumerate(self.batch_sizes.tolist()):
            reason = f"a draw from v^({size}) takes about {size:,} assignments of {size:,}; largest={size} allows them"
            found = MeanWithError(math.nan, math.nan)
            if size <= largest:
                found = self._field_error(t, k, field, queries, assignments)
                reason = "" if math.isfinite(found.stderr) else "no point x_t was passed twice in the trials allowed"
            known = math.isfinite(found.stderr)
            ends = (found, found) if known else self._field_error_between(t, k, field)
            values.append(found)
            intervals.append([ends[0].value - _NORMAL * ends[0].stderr, ends[1].value + _NORMAL * ends[1].stderr])
            reasons.append(reason)
        return FieldError(
            _numbers([cost.value for cost in values]),
            _numbers([cost.stderr for cost in values]),
            torch.tensor(intervals, dtype=torch.float64),
            tuple(reasons),
        )

    def batch_for(self, error: float, t: float = 0.5) -> WantedSize:
        """The batch size from which W^2 gap / (alpha beta) is at most ``error``; by ``rate`` beyond those measured.

        Where rows are drawn without replacement it is None, with the reason, if it would be more than there are.

        Args:
            error: E|v^(n)_t - v_t|^2 that is wanted.
            t: in (0, 1).

        Raises:
            ValueError: the error is not positive, or t is outside (0, 1).
        """
        if not (math.isfinite(error) and error > 0):
            raise ValueError(f"batch_for: error must be a positive number, got {error!r}")
        if not 0 < t < 1:
            raise ValueError(f"batch_for: t must be in (0, 1), got {t!r}")
        times = torch.as_tensor(t, dtype=torch.float64)
        factor = self.schedule.alpha(times) * self.schedule.beta(times) / self.schedule.wronskian(times).square()
        found = size_for(2 * error * float(factor), self.batch_sizes, 2 * self.gap, self.rate)
        if self.rows is None or bool(self.replacement[-1]) or found.size is None or found.size <= self.rows:
            return found
        reason = f"by the rate measured it is more than the {self.rows:,} rows that a batch can have"
        return WantedSize(None, None, True, reason)

    # ---------------------------------------------------------------- inside

    def _field_error_between(self, t: float, k: int, field: IndependentField) -> tuple[MeanWithError, MeanWithError]:
        """A lower and an upper bound on E|v^(n) - v|^2."""
        prox, factor = self._prox(t, k), self._factor(t)
        apart = (self.target_pairs[k] - prox).double()
        along = (field.recover_target(t, self._position(t, k)) - prox).double()
        runs = pairs_kept_per_batch(int(self.batch_sizes[k]), len(apart))
        columns = torch.stack([(apart * along).sum(1), along.square().sum(1), apart.square().sum(1)])
        inner, square, whole = columns.view(3, -1, runs).mean(2)
        slope = max(float(inner.mean()), 0.0) / max(float(square.mean()), torch.finfo(torch.float64).tiny)
        lower = slope * float(inner.mean())
        change = (
            2 * slope * inner - slope**2 * square
        )  # of the ratio with its numerator and denominator, to first order
        errors = [factor**2 * float(part.std()) / math.sqrt(len(part)) for part in (change, whole)]
        return MeanWithError(factor**2 * max(lower, 0.0), errors[0]), MeanWithError(
            factor**2 * float(whole.mean()), errors[1]
        )

    def _field_error(self, t: float, k: int, field: IndependentField, queries: int, assignments: int) -> MeanWithError:
        potential, size = self.potential, int(self.batch_sizes[k])
        if not isinstance(potential, Discrete):
            raise ValueError("field_error: finite data only")
        x, prox, factor = self._position(t, k), self._prox(t, k), self._factor(t)
        if size == 1:
            squares = factor**2 * (field.recover_target(t, x) - prox).double().square().sum(1)
            return MeanWithError(float(squares.mean()), float(squares.std()) / math.sqrt(len(squares)))
        step = max(1, len(x) // queries)  # from as many batches as there are
        x, prox, first = x[::step], prox[::step], self.target_pairs[k][::step]
        rows = None if bool(self.replacement[k]) else self.rows
        generator = generator_of(self.seed, size, _PARTNERS)
        partners = max(1, min(_MOST_PARTNERS, assignments // (size * len(x))))
        drawn = [
            draw_partner(potential, field, t, x, size, rows, self.solver, self.epsilon, generator)
            for _ in range(partners)
        ]
        mean = squared_mean(torch.stack([first, *drawn]) - prox)
        return MeanWithError(factor**2 * mean.value, factor**2 * mean.stderr)

    def _prox(self, t: float, k: int) -> Tensor:
        """The population flow's target behind x_t; a point short of rounding is used with it."""
        return ProximalFlow(self.potential, self.schedule, on_failure="nan").solve(t, self._position(t, k)).point

    def _position(self, t: float, k: int) -> Tensor:
        times = torch.as_tensor(t, dtype=torch.float64)
        alpha, beta = float(self.schedule.alpha(times)), float(self.schedule.beta(times))
        return alpha * self.source_pairs[k] + beta * self.target_pairs[k]

    def _factor(self, t: float) -> float:
        """Velocity error per error of the target, W / alpha."""
        times = torch.as_tensor(t, dtype=torch.float64)
        return float(self.schedule.wronskian(times) / self.schedule.alpha(times))

    def _over_times(self, t: float | Tensor, at: Callable[[float], Tensor]) -> Tensor:
        if not isinstance(t, Tensor) or t.ndim == 0:
            return at(float(t))
        columns = [at(float(time)) for time in t.flatten().tolist()]
        return torch.stack(columns, dim=1).view(-1, *t.shape)


def _checked_time(t: float, name: str) -> float:
    if not 0 <= float(t) < 1:
        raise ValueError(f"{name}: t must be in [0, 1), got {t!r}")
    return float(t)


def _interval(value: Tensor, stderr: Tensor) -> Tensor:
    return torch.stack([value - _NORMAL * stderr, value + _NORMAL * stderr], dim=1)


def _numbers(values: list[float]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)
