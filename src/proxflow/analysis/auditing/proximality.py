"""Whether a field is a prox: the laws of docs/theory.md 2, each measured on the field's own trajectories.

The Jacobian is taken in the unit of P = beta D recover_target, the Jacobian of the prox itself, which an exact flow has
symmetric with a spectrum in [0, 1] at all times: that is the velocity's in [alpha'/alpha, beta'/beta].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.auditing.generated_pairs import FieldCall, GeneratedPairs
from proxflow.analysis.auditing.intervals import Estimate, jackknifed, mean_of, normal_estimate, root_ratio, share
from proxflow.analysis.terminal.flat_field import (
    DENSE_LIMIT,
    FlatField,
    probed_products,
    random_signs,
    symmetric_part,
)
from proxflow.kernels.assignment import least_cost_permutation
from proxflow.kernels.lanczos import BLOCK, extreme_eigenvalues
from proxflow.schedules import Schedule
from proxflow.seeding import generator_of

__all__ = [
    "Jacobians",
    "jacobian_figures",
    "measured_jacobians",
    "pair_figures",
    "probed_asymmetry",
    "recovered_drift",
]

_OUTSIDE = 0.05  # beyond [0, 1], of an eigenvalue of P that counts as outside: above what networks leave by chance
_MOMENTS = (0.15, 0.3, 0.5, 0.7, 0.9)  # of the trajectory, at which Jacobians are taken
_PROBES = 8  # random directions that stand for a large Jacobian
_TOLERANCE = 0.02  # of extreme eigenvalues, times the largest
_MOST_PRODUCTS = 60  # with a large Jacobian; what has not converged by then is a bound from inside the spectrum
_MEMORY = 1 << 28  # bytes
_GROUPS = 8  # of pairs that are left out in turn: eight more assignments, and an error known to a quarter
_MOST_COMPARED = 2048  # pairs, each with each other: 32 MiB a matrix


@dataclass(frozen=True)
class Jacobians:
    """Of P at T moments on B trajectories.

    Attributes:
        skew: |(P - P') / 2|^2, (T, B).
        turn: its inner product with the mean of the other trajectories' antisymmetric parts, (T, B): of mean 0 where
            these have nothing in common.
        size: |P - c I|^2, (T, B), the velocity's Jacobian in the same unit.
        lowest, highest: extreme eigenvalues of the symmetric part, (T, B).
        trace: (T, B).
    """

    skew: Tensor
    turn: Tensor
    size: Tensor
    lowest: Tensor
    highest: Tensor
    trace: Tensor


def measured_jacobians(
    field: FieldCall, pairs: GeneratedPairs, event: tuple[int, ...], schedule: Schedule | None, rows: int, seed: int
) -> Jacobians:
    """Jacobians on the first ``rows`` trajectories: written out up to 256 dimensions, else by random directions."""
    flat = FlatField("audit", field, pairs.source[:1].reshape(1, *event), schedule, _MEMORY)
    method = _dense if flat.dim <= DENSE_LIMIT else _by_products
    found: list[tuple[Tensor, ...]] = []
    for number, moment in enumerate(_MOMENTS):
        at = torch.tensor(moment, dtype=torch.float64)
        t, x = at.to(pairs.source), pairs.at(at, flat.schedule, slice(rows))
        alpha_rate, wronskian = flat.schedule.alpha_derivative(t), flat.schedule.wronskian(t)
        unit = float(-alpha_rate * flat.schedule.beta(t) / wronskian)  # P = unit (A + 1), A of docs/theory.md 6
        skew, turn, size, lowest, highest, trace = method(flat, t, x, generator_of(seed, number))
        found.append((unit**2 * skew, unit**2 * turn, unit**2 * size, unit * (lowest + 1), unit * (highest + 1),
                      unit * (trace + flat.dim)))  # fmt: skip
    return Jacobians(*(torch.stack(parts).double().cpu() for parts in zip(*found, strict=True)))


def _dense(flat: FlatField, t: Tensor, x: Tensor, _: torch.Generator) -> tuple[Tensor, ...]:
    matrix = flat.jacobian(t, x).detach()
    values = torch.linalg.eigvalsh(0.5 * (matrix + matrix.mT))
    antisymmetric = 0.5 * (matrix - matrix.mT)
    skew, turn = antisymmetric.square().sum((1, 2)), _in_common(antisymmetric.flatten(1))
    return skew, turn, matrix.square().sum((1, 2)), values[:, 0], values[:, -1], matrix.diagonal(dim1=1, dim2=2).sum(1)


def _by_products(flat: FlatField, t: Tensor, x: Tensor, generator: torch.Generator) -> tuple[Tensor, ...]:
    """The same without a d x d matrix: E <K z, L z> = <K, L> and E z'A z = tr A for random signs z.

    The signs are those of all trajectories, as products of two of these need.
    """
    products = flat.block_products(t, x, BLOCK)
    probes = random_signs(1, _PROBES, x, generator).expand(len(x), -1, -1)
    forward, transposed = probed_products(products, probes, BLOCK)
    skew, size = _probed_squares(forward, transposed)
    turn = _in_common((0.5 * (forward - transposed)).flatten(1)) / _PROBES
    ends = extreme_eigenvalues(symmetric_part(products), x, 1, 1, _TOLERANCE, _MOST_PRODUCTS, generator).values
    return skew, turn, size, ends[:, 0], ends[:, -1], (probes * forward).sum(2).mean(1)


def _in_common(rows: Tensor) -> Tensor:
    """The inner product of each row (B, k) with the mean of the others, (B,)."""
    others = rows.sum(0) - rows
    return (rows * others).sum(1) / max(len(rows) - 1, 1)


def _probed_squares(forward: Tensor, transposed: Tensor) -> tuple[Tensor, Tensor]:
    """|K|^2 and |A|^2, (B,), from A z and A' z for random signs z, (B, count, d)."""
    skew = (0.5 * (forward - transposed)).square().sum(2).mean(1)
    return skew, 0.5 * (forward.square() + transposed.square()).sum(2).mean(1)


def probed_asymmetry(
    field: FieldCall, t: Tensor, x: Tensor, event: tuple[int, ...], schedule: Schedule, probes: int, seed: int
) -> Estimate:
    """Asymmetry of the Jacobian at one time and flat points (B, d), by a few random directions at each of them."""
    flat = FlatField("audit", field, x[:1].reshape(1, *event), schedule, _MEMORY)
    products = flat.block_products(t, x, probes)
    forward, transposed = probed_products(products, random_signs(len(x), probes, x, generator_of(seed)), probes)
    return root_ratio(*_probed_squares(forward.double(), transposed.double()))


def jacobian_figures(found: Jacobians) -> dict[str, Estimate]:
    """Asymmetry, spectrum and local dimension; a trajectory counts once."""
    last, turn = found.trace[-1], found.turn.mean(0)
    projected = 2 * turn - turn.mean()  # of a mean over pairs, whose error is twice that of rows' own (Hoeffding 1948)
    return {
        "jacobian_asymmetry": root_ratio(found.skew.mean(0), found.size.mean(0)),
        "rotation": root_ratio(projected, found.size.mean(0)),
        "spectrum_above": share((found.highest > 1 + _OUTSIDE).any(0)),
        "spectrum_below": share((found.lowest < -_OUTSIDE).any(0)),
        "largest_eigenvalue": mean_of(found.highest.amax(0)),
        "local_dimension": mean_of(last),
    }


def pair_figures(pairs: GeneratedPairs, most_assigned: int) -> dict[str, Estimate]:
    """What the pairs alone tell: drift of the recovered ends, order, and what pairing them again would save."""
    return {
        "recovered_drift": recovered_drift(pairs),
        "one_step_error": root_ratio(_drifts(pairs)[0], pairs.variances),
        "cycle_violations": _cycle_violations(pairs),
        "repairing_gain": _repairing_gain(pairs, most_assigned),
    }


def recovered_drift(pairs: GeneratedPairs) -> Estimate:
    """How far the recovered ends are from where trajectories end, over the deviation of these."""
    return root_ratio(_drifts(pairs).mean(0), pairs.variances)


def _drifts(pairs: GeneratedPairs) -> Tensor:
    """Squared distances of the recovered ends from the ends, (K, n)."""
    return torch.stack([(end.double() - pairs.target.double()).square().sum(1) for end in pairs.recovered])


def _cycle_violations(pairs: GeneratedPairs) -> Estimate:
    """Share of two pairs that would cost less if they exchanged their targets: <x0 - x0', x1 - x1'> < 0.

    A U-statistic of order two: its variance is 4 / n times that of the rows' own shares (Hoeffding 1948).
    """
    x0, x1 = pairs.source[:_MOST_COMPARED].double(), pairs.target[:_MOST_COMPARED].double()
    products, own = x0 @ x1.mT, (x0 * x1).sum(1)
    gains = own[:, None] + own - products - products.mT
    rounding = 1e-5 if pairs.source.dtype == torch.float32 else 1e-12
    violated = gains < -rounding * float((x0.square().sum(1) + x1.square().sum(1)).mean())
    rows = violated.double().sum(1) / (len(x0) - 1)
    return normal_estimate(float(rows.mean()), 2 * float(rows.std()) / math.sqrt(len(x0)))


def _repairing_gain(pairs: GeneratedPairs, most: int) -> Estimate:
    """(cost - least cost of the same points) / least cost, by assignment of the first ``most`` pairs.

    The interval is that of a jackknife that leaves out each eighth of the pairs in turn (Tukey 1958): rows that share a
    cycle of the permutation gain and lose together. The gain grows with the number of pairs: compare equal numbers.
    """
    x0, x1 = pairs.source[:most].double(), pairs.target[:most].double()
    group = torch.arange(len(x0)) % _GROUPS
    without = [_gain(x0[group != k], x1[group != k]) for k in range(_GROUPS)]
    return jackknifed(_gain(x0, x1), torch.tensor(without, dtype=torch.float64))


def _gain(x0: Tensor, x1: Tensor) -> float:
    least = (x1[least_cost_permutation(x0, x1)] - x0).square().sum(1)
    return float(((x1 - x0).square().sum(1) - least).sum() / least.sum())
