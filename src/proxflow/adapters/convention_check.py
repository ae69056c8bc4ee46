"""Whether a model keeps a convention, by a test that names the right one or says that it cannot tell.

Problem: a model read with time reversed, with the other sign or as another prediction still gives numbers of the right
shape, and samples that look trained a little too short.

Method: flow matching itself. Of all functions of (t, x_t), the conditional mean has the least squared error, whatever
the weights of the times; so a trained model, read as it was meant, has a smaller regression error on fresh pairs than
read in any other way. Every reading is brought to one unit: the error of the velocity times alpha beta / W is beta
times the error of the data point and alpha times that of the noise, so that nothing is divided by something small.

Two readings are compared row by row. Where r and r' are what they say of the velocity at (t, x_t), and v is a pair's
own velocity, E[|r' - v|^2 - |r - v|^2 | t, x_t] = |r' - r|^2 if r is the conditional mean, and -|r' - r|^2 if r' is. So
any weight that depends on (t, x_t) alone leaves the sign of the mean as it is; 1 / (|r' - r|^2 + s^2), s^2 the mean
error of the best reading, bounds what a row can add: read at another time a field may be arbitrarily large.

Refusals: nothing is said of a model unless the best reading (1) is better than each other one by five standard errors
of this mean, (2) explains a twentieth of the variance of what it predicts, and (3) is not worse than the
best prediction that is linear in x_t and needs no model at all. An untrained network fails (2) or (3); a law for which
two conventions are the same, such as normal data of the noise's variance, fails (1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import cast

import torch
from torch import Tensor

from proxflow.adapters.convention import DIRECTIONS, PREDICTIONS, Convention
from proxflow.analysis.first_call import hinted
from proxflow.checks import Numbers, whole_number
from proxflow.couplings import Coupling, Independent, Pairs
from proxflow.couplings.stream import batch_of
from proxflow.matching.path import Uniform
from proxflow.measures import Source
from proxflow.results import Verdict, brief_repr
from proxflow.schedules import Linear, Schedule, check_schedule
from proxflow.seeding import derived_seed, seeded_generator

__all__ = ["ConventionCheck", "check_convention"]

_STANDARD_ERRORS = 5.0  # between the best reading and the next: 10 readings are compared, by chance none gets there
_LEAST_EXPLAINED = 0.05  # of the variance of what is predicted; a network that gives a constant explains 0
_FIRST, _LAST = 0.05, 0.95  # times: at the ends a field may be singular, and the weight alpha beta vanishes
_MANY = 1000  # standard errors that no message counts beyond
_LEAST_PAIRS = 64  # for a standard error to mean something


@brief_repr
@dataclass(frozen=True)
class ConventionCheck:
    """What a model's regression error says about its convention.

    Attributes:
        verdict: ``verified``, the stated convention is the right one; ``failed``, another is; ``assumed``, these pairs
            cannot tell.
        stated: the convention that was stated.
        best: the convention with the least error.
        rival: the one that is hardest to tell from it.
        margin: standard errors of the difference of their errors.
        explained: share of the variance of what ``best`` predicts that the model explains.
        over_linear: error of ``best`` over that of the best prediction linear in x_t; a trained model is below 1.
        error: mean squared error of each convention, all in one unit.
    """

    verdict: Verdict
    stated: Convention
    best: Convention
    rival: Convention
    margin: float
    explained: float
    over_linear: float
    error: Mapping[Convention, float]

    @property
    def message(self) -> str:
        """The verdict in a sentence, with its figures."""
        if self.verdict is Verdict.assumed:
            return (
                f"cannot tell: read as {self.best} the model explains {max(self.explained, 0.0):.0%} of the variance, "
                f"with {self.over_linear:.2f} times the error of a linear prediction and {self.margin:.1f} standard "
                f"errors from {self.rival}; train longer, give the coupling that it was trained on, or try another unit"
            )
        margin = f"{self.margin:.0f}" if self.margin < _MANY else f"over {_MANY}"
        figures = f"it explains {self.explained:.0%} of the variance, {margin} standard errors from {self.rival}"
        if self.verdict is Verdict.verified:
            return f"the model predicts {self.best}, as stated: {figures}"
        return (
            f"the model predicts {self.best}, not {self.stated}: {figures}; "
            f"read it by adapters.to_field(model, {self.best!r})"
        )


@torch.no_grad()
def check_convention(
    model: Callable[[Tensor, Tensor], Tensor],
    data: Numbers | Coupling,
    *,
    stated: Convention | None = None,
    units: Sequence[float] = (),
    source: Source | None = None,
    schedule: Schedule | None = None,
    count: int = 2048,
    batch_size: int = 256,
    seed: int = 0,
) -> ConventionCheck:
    """Find out from fresh pairs what a model predicts, and in which direction its time runs.

    Args:
        model: called as model(t, x), with times (B,) and points (B, *event); a field of proxflow's or of an adapter is
            in the default convention. A module should be in evaluation mode.
        data: the coupling that it was trained on; or its data (N, *event), where noise and data were paired at random.
            Held-out data are a stricter test.
        stated: the convention to be checked; proxflow's own if None.
        units: further units of time to try besides the stated one, such as 1000.
        source: law of the noise, where data are given; standard normal if None.
        schedule: alpha and beta of the path; Linear if None.
        count: number of pairs.
        batch_size: rows for which the model is called at once.
        seed: seed of pairs and times.

    Raises:
        ValueError: bad data, a model whose output has not the shape of x, or numbers out of range.
        Exception: whatever the model raises; one of its first call has a note on how models are called.
    """
    stated = Convention() if stated is None else stated
    check_schedule("check_convention", schedule)
    for name, value, least in (("count", count, _LEAST_PAIRS), ("batch_size", batch_size, 1)):
        if (whole_number(value) or 0) < least:
            raise ValueError(f"check_convention: {name} must be an integer of at least {least}, got {value!r}")
    generator = seeded_generator("check_convention", seed)
    pairs = batch_of(_coupling_of(data, source), 0, count, derived_seed(seed))
    times = _FIRST + (_LAST - _FIRST) * Uniform().sample(count, generator=generator)
    targets = _Targets(pairs, times.to(pairs.source), Linear() if schedule is None else schedule)
    calls = [Convention(time=time, unit=unit) for unit in dict.fromkeys((stated.unit, *units)) for time in DIRECTIONS]
    called = hinted(model)
    outputs = {call: _outputs(called, call.model_time(targets.t), targets.x, batch_size) for call in calls}
    residuals = {
        replace(call, prediction=prediction): partial(targets.residual, prediction, outputs[call])
        for call in calls
        for prediction in PREDICTIONS
    }
    return _judged(stated, residuals, targets)


def _coupling_of(data: Numbers | Coupling, source: Source | None) -> Coupling:
    """The coupling given, or independent pairs of the data given; pandas objects have a ``sample`` too."""
    if hasattr(data, "sample") and not hasattr(data, "to_numpy"):
        return cast(Coupling, data)
    return Independent(cast(Numbers, data), source=source)


class _Targets:
    """Points on the paths of pairs, and what each prediction should be there; all in the unit of ``residual``."""

    def __init__(self, pairs: Pairs, t: Tensor, schedule: Schedule) -> None:
        self.t = t
        self._source, self._target = pairs.source.flatten(1).double(), pairs.target.flatten(1).double()
        times = t.double()[:, None]
        self._alpha, self._beta = schedule.alpha(times), schedule.beta(times)
        rates = schedule.alpha_derivative(times), schedule.beta_derivative(times)
        self._velocity = rates[0] * self._source + rates[1] * self._target
        self._velocity_weight = self._alpha * self._beta / schedule.wronskian(times)
        self.x = (self._alpha * self._source + self._beta * self._target).to(pairs.source).reshape(pairs.source.shape)

    def residual(self, prediction: str, output: Tensor) -> Tensor:
        """Error (n, d) of the velocity that an output (n, *event), so read, means; times alpha beta / W."""
        flat = output.flatten(1).double()
        weight, target = self._weighted(prediction)
        read = -self._alpha * flat if prediction == "score" else -flat if prediction == "negative velocity" else flat
        return weight * (read - target)

    def variance(self, prediction: str) -> float:
        """Mean squared residual of the best constant."""
        weight, target = self._weighted(prediction)
        return float((weight * (target - target.mean(0))).square().mean())

    def linear_error(self) -> Tensor:
        """Squared residual (n,) of the data point as mean + c(t) (x_t - mean), c from variances of noise and data."""
        u, y = self._source - self._source.mean(0), self._target - self._target.mean(0)
        noise, joint, data = u.square().mean(), (u * y).mean(), y.square().mean()
        alpha, beta = self._alpha, self._beta
        scale = (alpha * joint + beta * data) / (alpha**2 * noise + 2 * alpha * beta * joint + beta**2 * data)
        return (beta * (scale * (alpha * u + beta * y) - y)).square().mean(1)

    def _weighted(self, prediction: str) -> tuple[Tensor, Tensor]:
        """The factor that turns errors of this prediction into residuals, and what is to be predicted."""
        if prediction in ("velocity", "negative velocity"):
            return self._velocity_weight, self._velocity
        return (self._beta, self._target) if prediction == "data" else (-self._alpha, self._source)


def _outputs(model: Callable[[Tensor, Tensor], Tensor], t: Tensor, x: Tensor, batch_size: int) -> Tensor:
    parts = []
    for times, points in zip(t.split(batch_size), x.split(batch_size), strict=True):
        output = model(times, points)
        if not isinstance(output, Tensor) or output.shape != points.shape:
            got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
            raise ValueError(
                f"check_convention: the model gave {got} for x of {tuple(points.shape)}; it is called as model(t, x)"
            )
        parts.append(output)
    return torch.cat(parts)


def _judged(
    stated: Convention, residuals: Mapping[Convention, Callable[[], Tensor]], targets: _Targets
) -> ConventionCheck:
    """The verdict from what each reading leaves of the velocities."""
    errors = {one: float(residual().square().mean()) for one, residual in residuals.items()}
    finite = {one: error for one, error in errors.items() if math.isfinite(error)}
    if not finite:
        raise ValueError("check_convention: the model gave NaN or inf at every reading; check its weights")
    best = min(finite, key=lambda one: finite[one])
    least = residuals[best]()
    margins = {one: _margin(least, residuals[one]()) for one in finite if one != best}
    rival = min(margins, key=lambda one: margins[one])
    explained = 1 - errors[best] / targets.variance(best.prediction)
    linear = targets.linear_error()
    not_worse = _in_standard_errors(least.square().mean(1) - linear) < _STANDARD_ERRORS
    tells = not_worse and explained > _LEAST_EXPLAINED and margins[rival] > _STANDARD_ERRORS
    verdict = (Verdict.verified if best == stated else Verdict.failed) if tells else Verdict.assumed
    over_linear = errors[best] / float(linear.mean())
    return ConventionCheck(verdict, stated, best, rival, margins[rival], explained, over_linear, errors)


def _margin(best: Tensor, other: Tensor) -> float:
    """By how many standard errors one reading is better than another, from their residuals (n, d)."""
    apart = (other - best).square().mean(1)
    better = other.square().mean(1) - best.square().mean(1)
    scale = apart + best.square().mean()
    return _in_standard_errors(better / scale.clamp(min=torch.finfo(scale.dtype).tiny))


def _in_standard_errors(values: Tensor) -> float:
    """The mean over its standard error."""
    mean, error = float(values.mean()), float(values.std()) / math.sqrt(len(values))
    return mean / error if error > 0 else math.copysign(math.inf, mean) if mean else 0.0
