"""The record of a minibatch study: numbers per batch size, and what follows from them along the flow."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.convergence_rate import Rate, WantedSize, size_for
from proxflow.analysis.minibatch_controls import Cost
from proxflow.analysis.minibatch_draws import pairs_kept_per_batch
from proxflow.analysis.minibatch_field import draw_partner, squared_mean
from proxflow.couplings.seeding import generator_of
from proxflow.flow import ProximalFlow
from proxflow.independent_field import IndependentField
from proxflow.potentials import Discrete, Potential
from proxflow.results import brief_repr
from proxflow.schedules import Schedule

__all__ = ["MinibatchConvergence", "VelocityError"]

_NORMAL = 1.96
_MOST_PARTNERS = 16  # of each x_t
_PARTNERS = 0xF1E1D  # marks the stream of draws of field errors


@brief_repr
@dataclass(frozen=True)
class VelocityError:
    """A mean squared error of velocities for each batch size, (K,) float64, and its standard error; NaN if unknown."""

    value: Tensor
    stderr: Tensor


@brief_repr
@dataclass(frozen=True)
class MinibatchConvergence:
    """How far minibatch OT-CFM is from the population flow, batch size by batch size (THEORY section 4).

    Tensors have one entry for each batch size, float64. Costs are in squared units of the data, E|.|^2 of velocities
    in those units per unit of time. Standard errors hold one sigma.

    Attributes:
        batch_sizes: (K,) int64, ascending.
        cost: C_n = E|X1 - X0|^2 of minibatch pairs, and ``cost_stderr``.
        excess: C_n - W2^2 with ``transport_cost`` for W2^2, and ``excess_stderr``: both errors together.
        gap: mean Fenchel-Young gap of the pairs less ``height_error``: half the excess by the other route; and
            ``gap_stderr``.
        transport_cost: W2^2 by a route without the dual value.
        transport_cost_interval: its 95% interval.
        height_error: J(h) - J* of a fitted potential, by which raw gaps are too large; 0 for exact ones.
        height_error_stderr: its standard error.
        batches: (K,) int64, independent batches behind each entry.
        draws: (K,) int64, pairs behind each entry.
        fresh_draws: source points spent on ``transport_cost`` and ``height_error``.
        seconds_per_batch: median wall time of one assignment on this machine; 0 for n = 1.
        fit_seconds: wall time of the fit; None where a potential was given.
        rate: excess ~ n^-exponent near the largest sizes, or why none is stated.
        wanted: the excess, as a share of W2^2, that the advice aims at.
        advice: one sentence.
        solver: "exact" or "sinkhorn".
        epsilon: regularisation of the latter.
        seed: of all draws.
        source_pairs: (K, P, d), source points of pairs of each coupling; ``target_pairs`` the targets.
        target_pairs: see ``source_pairs``.
        potential: of the population flow.
        schedule: of all flows.
    """

    batch_sizes: Tensor
    cost: Tensor
    cost_stderr: Tensor
    excess: Tensor
    excess_stderr: Tensor
    gap: Tensor
    gap_stderr: Tensor
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

    def field_error(
        self, t: float, *, largest: int = 64, queries: int = 256, assignments: int = 1 << 14
    ) -> VelocityError:
        """E|v^(n)_t - v_t|^2 itself, v^(n) the field that pairs of batch size n teach, for finite data.

        For n = 1 v^(n) is a closed form. For 1 < n <= ``largest`` the square of its distance is the mean product of
        targets of different pairs drawn independently given x_t, without bias and without smoothing; each pair takes
        about n assignments. It can come out negative within its error. For larger n entries are NaN: ``bound`` and
        ``measured_error`` hold there.

        Args:
            t: in (0, 1).
            largest: batch size drawn from.
            queries: points x_t of each size, at most the P pairs kept.
            assignments: of each size, about: as many pairs are drawn for each x_t as they allow, from 1 to 16.

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
        found = [
            self._field_error(t, k, size, queries, assignments) if size <= largest else Cost(math.nan, math.nan)
            for k, size in enumerate(self.batch_sizes.tolist())
        ]
        return VelocityError(_numbers([cost.value for cost in found]), _numbers([cost.stderr for cost in found]))

    def batch_for(self, error: float, t: float = 0.5) -> WantedSize:
        """The batch size from which W^2 gap / (alpha beta) is at most ``error``; by ``rate`` beyond those measured.

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
        return size_for(2 * error * float(factor), self.batch_sizes, 2 * self.gap, self.rate)

    # ---------------------------------------------------------------- inside

    def _field_error(self, t: float, k: int, size: int, queries: int, assignments: int) -> Cost:
        potential = self.potential
        if not isinstance(potential, Discrete):
            raise ValueError("field_error: finite data only")
        field = IndependentField(potential.points, potential.weights, self.schedule, potential.source)
        x, prox, factor = self._position(t, k), self._prox(t, k), self._factor(t)
        if size == 1:
            squares = factor**2 * (field.recover_target(t, x) - prox).double().square().sum(1)
            return Cost(float(squares.mean()), float(squares.std()) / math.sqrt(len(squares)))
        step = max(1, len(x) // queries)  # from as many batches as there are
        x, prox, first = x[::step], prox[::step], self.target_pairs[k][::step]
        generator = generator_of(self.seed, size, _PARTNERS)
        partners = max(1, min(_MOST_PARTNERS, assignments // (size * len(x))))
        drawn = [
            draw_partner(potential, field, t, x, size, self.solver, self.epsilon, generator) for _ in range(partners)
        ]
        mean = squared_mean(torch.stack([first, *drawn]) - prox)
        return Cost(factor**2 * mean.value, factor**2 * mean.stderr)

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
