"""The size of minibatches whose pairs would leave the error that a field has.

Problem: a perfect network of minibatch pairs of size n learns v^(n) (docs/theory.md 4); for which n is a given field as
far from the exact one, v? E|v^(n) - v|^2 itself takes pairs that pass through one point, n assignments of n for each of
them. Method: errors are compared along that of independent pairs, g = v^(1) - v, by

    c(n) = E <d/dt X_t - v(X_t), g(X_t)> = E <v^(n) - v, g>    over pairs of size n,

whose mean needs no v^(n), and the same product of the audited field's error over its own trajectories. It has the mean
c(n) if the field is v^(n), for every n: c(1) = E|g|^2 for independent pairs, and 0 for the exact flow. What a field
errs in other directions, as networks do by chance, leaves it alone; errors that smooth the field, as those of
independent pairs do, do not.

A field that errs elsewhere, and by more than pairs of size n leave at all, is worse than theirs all the same: v^(n)
is the mean of d/dt X_t, so that E|v^(n) - v|^2 <= E|d/dt X_t - v|^2, and a field with a larger squared error has a
smaller size than n, of which no lower end is known then.

c falls with n. Where it passes the field's value, interpolated on logarithmic scales, is the size; an interval is where
both agree within their errors. Beyond the largest size measured nothing is said but that. Cost: for each size 2,048
proxes, and assignments of at most 512.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from proxflow.analysis.auditing.intervals import QUANTILE, Estimate
from proxflow.analysis.auditing.optimality import Misses
from proxflow.analysis.convergence.target import draw_rows, rows_of_equal_weight
from proxflow.checks import working_dtype
from proxflow.couplings.pairing import EPSILON, permutation
from proxflow.flow import ProximalFlow
from proxflow.independent_field import IndependentField
from proxflow.measures import draw
from proxflow.potentials import Discrete
from proxflow.potentials.atoms import has_atoms
from proxflow.schedules import Schedule
from proxflow.seeding import generator_of

__all__ = ["BatchCurve", "batch_curve", "equivalent_batch", "independent_rule"]

_LARGEST = 512  # pairs of an assignment: a tenth of a second
_MOST_PAIRS, _LEAST_PAIRS = 2048, 128  # of each size, at one time each
_BATCHES = 16  # of each size at least, for a standard error worth its name
_PRODUCTS = 1 << 35  # multiplications of one search for each prox: 20 seconds or so where it binds
_LEAST = 1e-6  # of c(1): above the rounding of an exact flow
_DRAWS = 2048  # of a law that is not atoms, which independent pairs are made of
_PAIRS = 0xBA7C4  # marks the stream of draws


@dataclass(frozen=True)
class BatchCurve:
    """c(n) at K batch sizes, ascending from 1, and the most that v^(n) can err, E|d/dt X_t - v|^2, both with errors.

    In squared velocity units; of independent pairs of atoms the latter is E|v^(1) - v|^2 itself.
    """

    sizes: tuple[int, ...]
    value: Tensor
    stderr: Tensor
    most: Tensor
    most_stderr: Tensor


def independent_rule(flow: ProximalFlow, schedule: Schedule, seed: int) -> IndependentField:
    """The field of independent pairs of the law that the flow carries its source to; of 2,048 draws of it, or atoms."""
    potential, source = flow.potential, flow.potential.source
    if isinstance(potential, Discrete):
        return IndependentField(potential.points, potential.weights, schedule, source)
    draws = flow.sample(_DRAWS, generator=generator_of(seed, _PAIRS))
    return IndependentField(draws, schedule=schedule, source=source)


@torch.no_grad()
def batch_curve(flow: ProximalFlow, independent: IndependentField, times: Tensor, seed: int) -> BatchCurve:
    """c(n) for n = 1, 2, 4, ... up to 512 or the rows that there are, over the times (T,).

    Rows of equal weight are drawn as ``couplings.Minibatch`` draws them; other laws by independent draws.

    Raises:
        ConvergenceError: the exact flow has no answer at a point.
    """
    rows = _rows(flow)
    limit = _LARGEST if rows is None else min(_LARGEST, len(rows))
    sizes = [1 << k for k in range(limit.bit_length())]
    searched = len(flow.potential.points) if has_atoms(flow.potential) else 1
    most = max(_LEAST_PAIRS, min(_MOST_PAIRS, _PRODUCTS // (searched * flow.dim * len(sizes))))
    found = [_point(flow, independent, times, size, most, seed) for size in sizes]
    return BatchCurve(tuple(sizes), *(torch.tensor(column, dtype=torch.float64) for column in zip(*found, strict=True)))


def equivalent_batch(misses: Misses, independent: IndependentField, curve: BatchCurve) -> Estimate | None:
    """The size at which the curve has the value of a field by its misses; an infinite upper end where none is seen.

    None where independent pairs are as good as optimal ones within error, so that no size is told from another.
    """
    if not float(curve.value[0]) > QUANTILE * float(curve.stderr[0]):
        return None
    (value, stderr), (square, square_stderr) = _of_field(misses, independent)
    error = QUANTILE * torch.hypot(curve.stderr, torch.tensor(stderr, dtype=torch.float64)).numpy()
    weights = curve.stderr.clamp(min=1e-9 * float(curve.value[0])).pow(-2).numpy()
    falling = isotonic_regression(curve.value.numpy(), weights=weights, increasing=False).x
    falling = np.maximum(falling, _LEAST * falling[0])  # where c passes below 0, the exact flow is still nearer
    size = _crossing(curve.sizes, falling, value)
    low = min(_crossing(curve.sizes, falling - error, value), size)
    high = max(_crossing(curve.sizes, falling + error, value), size)
    nearer = curve.most + QUANTILE * curve.most_stderr < square - QUANTILE * square_stderr
    last = float(curve.sizes[-1])
    cap = min((float(size) for size, one in zip(curve.sizes, nearer.tolist(), strict=True) if one), default=math.inf)
    if cap <= min(low, last):  # smaller, but by how much is not known
        return Estimate(cap, 1.0, cap)
    return Estimate(min(size, last, cap), min(low, last), min(high, cap))


def _of_field(misses: Misses, independent: IndependentField) -> tuple[tuple[float, float], tuple[float, float]]:
    """E <v_field - v, g> over the field's own trajectories, and E|v_field - v|^2, with their standard errors."""
    along = torch.stack(
        [
            _products(miss.double(), _along(independent, t, x, right)) * _unit(independent.schedule, t)
            for t, x, right, miss in zip(misses.times.tolist(), misses.points, misses.exact, misses.miss, strict=True)
        ]
    ).mean(0)
    return _mean(along[0]), _mean(along[1])


def _products(error: Tensor, along: Tensor) -> Tensor:
    """Of errors (n, d) with those of independent pairs, and with themselves, (2, n)."""
    return torch.stack([(error * along).sum(1), error.square().sum(1)])


def _mean(values: Tensor) -> tuple[float, float]:
    """With its standard error."""
    return float(values.mean()), float(values.std()) / math.sqrt(len(values))


def _point(
    flow: ProximalFlow, independent: IndependentField, times: Tensor, size: int, most: int, seed: int
) -> tuple[float, float, float, float]:
    """c(size), the most that v^(size) can err, and errors: each pair at one time; batches are the independent unit."""
    schedule, generator = independent.schedule, generator_of(seed, _PAIRS, size)
    batches = max(_BATCHES, most // size)
    source, target = _pairs(flow, batches, size, max(1, most // batches), generator)
    moment = torch.randperm(len(source), generator=generator) % len(times)
    known = size == 1 and isinstance(flow.potential, Discrete)  # what independent pairs of atoms recover
    there, products = ProximalFlow(flow.potential, schedule), torch.empty(2, len(source), dtype=torch.float64)
    for number, t in enumerate(times.tolist()):
        at = torch.nonzero(moment == number)[:, 0]
        x0, x1 = source[at.to(source.device)], target[at.to(source.device)]
        x = float(schedule.alpha(t)) * x0 + float(schedule.beta(t)) * x1
        right = there.recover_target(t, x)
        along = _along(independent, t, x, right)
        error = along if known else (x1 - right).double()
        products[:, at] = (_products(error, along) * _unit(schedule, t)).cpu()
    means = products.view(2, batches, -1).mean(2)
    return *_mean(means[0]), *_mean(means[1])


def _pairs(flow: ProximalFlow, batches: int, size: int, kept: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The first ``kept`` pairs, or all, of each of so many batches, which are assigned at least cost."""
    rows, source = _rows(flow), flow.potential.source
    if rows is None:
        drawn = flow.sample(batches * size, generator=generator)
    else:
        drawn = rows[draw_rows(len(rows), batches, size, generator).flatten().to(rows.device)]
    noise = draw(source, batches * size, generator, drawn.dtype, drawn.device)
    if size == 1:
        return noise, drawn
    parts = []
    for x0, x1 in zip(noise.split(size), drawn.split(size), strict=True):
        parts.append((x0[:kept], x1[permutation(x0, x1, "exact", EPSILON, generator)][:kept]))
    sources, targets = zip(*parts, strict=True)
    return torch.cat(sources), torch.cat(targets)


def _rows(flow: ProximalFlow) -> Tensor | None:
    """The atoms of a law that is as many rows of equal weight."""
    potential = flow.potential
    if isinstance(potential, Discrete) and rows_of_equal_weight(potential, None) is not None:
        return potential.points.to(working_dtype(potential.points))
    return None


def _along(independent: IndependentField, t: float, x: Tensor, exact: Tensor) -> Tensor:
    """What independent pairs recover at t and x (n, d), less what the exact flow does there; float64."""
    recovered = independent.recover_target(t, x.to(independent.points))
    return recovered.to(exact).double() - exact.double()


def _unit(schedule: Schedule, t: float) -> float:
    """(W / alpha)^2, of squared velocities over squared recovered points."""
    return float(schedule.wronskian(torch.tensor(t)) / schedule.alpha(torch.tensor(t))) ** 2


def _crossing(sizes: tuple[int, ...], falling: np.ndarray, value: float) -> float:
    """Where a falling curve comes to a value, interpolated on logarithmic scales; 1 or inf where it does not."""
    below = np.nonzero(falling <= value)[0]
    if not len(below):
        return math.inf
    first = int(below[0])
    if first == 0:
        return float(sizes[0])
    above, under = float(falling[first - 1]), float(falling[first])
    share = (above - value) / (above - under)
    if under > 0:
        share = math.log(above / value) / math.log(above / under)
    return float(sizes[first - 1] * (sizes[first] / sizes[first - 1]) ** share)
