"""The local dimension of data seen by a field at a stated scale: beta tr D recover_target.

Below the spacing of the atoms a flow of finitely many points only memorises them: such scales are marked.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.terminal.flat_field import DENSE_LIMIT, Field, FlatField, as_times
from proxflow.checks import Numbers, as_tensor, flat_points, whole_number
from proxflow.kernels.equal_rows import first_equal_rows
from proxflow.kernels.geometry import ScaledRows, row_blocks, weighted_sum
from proxflow.results import brief_repr
from proxflow.schedules import Schedule
from proxflow.seeding import seeded_generator
from proxflow.storage import storable

__all__ = [
    "LocalDimension",
    "largest_posterior_weight",
    "local_dimension",
]

_PROBES = 64  # random directions: a standard error of 1/8 of the scatter of one
_BLOCK_NUMBERS = 1 << 24  # entries of one block of distances


@storable
@brief_repr
@dataclass(frozen=True)
class LocalDimension:
    """tr D prox_{scale psi} at each point: every direction counts 1 / (1 + scale eta), between 0 and d.

    Attributes:
        time: t.
        scale: alpha / beta at that time; directions with local standard deviation 1 / eta far above it count 1.
        dimension: (B,).
        stderr: (B,), standard error of a trace estimated by probes; 0 where it is exact.
        below_spacing: (B,) bool, whether one data point alone explains the point at this scale: the field (or, with
            ``points``, the data) then says nothing about a manifold, and an exact flow of finitely many points has
            dimension 0. None for a bare callable without ``points``.
        probes: random directions used; 0 where the trace is exact.
    """

    time: float
    scale: float
    dimension: Tensor
    stderr: Tensor
    below_spacing: Tensor | None
    probes: int


def local_dimension(
    field: Field,
    x: Tensor,
    t: float,
    *,
    schedule: Schedule | None = None,
    points: Numbers | None = None,
    probes: int | None = None,
    seed: int = 0,
    max_memory: int = 2**28,
) -> LocalDimension:
    """beta tr D recover_target(t, x) = beta (alpha div v - alpha' d) / W of any field.

    Args:
        field: ``ProximalFlow``, or callable (t, x) whose rows do not depend on each other; t is 0-dimensional.
        x: (B, *event), points at time t: on trajectories, or alpha x0 + beta y of a data point y.
        t: in (0, 1).
        schedule: schedule of a bare callable, Linear if None.
        points: (N, *event), the data that a bare callable was trained on, for ``below_spacing``; a flow knows its own.
        probes: random signs of Hutchinson's estimate; None means an exact trace for flows and up to dimension 256, and
            64 probes else.
        seed: seed of the probes.
        max_memory: bytes for what is computed at once.

    Raises:
        ValueError: bad points, time or options, or a schedule that contradicts the flow's.
    """
    flat = FlatField("local_dimension", field, x, schedule, max_memory, "x")
    time = as_times(flat.owner, t, x)
    if len(time) != 1:
        raise ValueError(f"{flat.owner}: t must be one time, got {len(time)}")
    moment, rows = time[0], x.detach().reshape(len(x), flat.dim)
    exact = flat.flow is not None or flat.dim <= DENSE_LIMIT
    count = whole_number(probes) if probes is not None else 0 if exact else _PROBES
    if count is None or (probes is not None and count < 2):
        raise ValueError(f"{flat.owner}: probes must be an integer of at least 2, got {probes!r}")
    trace, stderr = _trace(flat, moment, rows, count, seed)
    alpha, beta = flat.schedule.alpha(moment), flat.schedule.beta(moment)
    # tr A = (W / -alpha') tr D recover_target - d
    per_rate = -beta * flat.schedule.alpha_derivative(moment) / flat.schedule.wronskian(moment)
    return LocalDimension(
        time=float(moment),
        scale=float(alpha / beta),
        dimension=per_rate * (trace + flat.dim),
        stderr=per_rate * stderr,
        below_spacing=_below_spacing(flat, moment, rows, points),
        probes=count,
    )


def _trace(flat: FlatField, t: Tensor, x: Tensor, probes: int, seed: int) -> tuple[Tensor, Tensor]:
    """tr A(t) and its standard error, (B,) each."""
    if probes == 0:
        trace = flat.jacobian(t, x).diagonal(dim1=1, dim2=2).sum(1)
        return trace, torch.zeros_like(trace)
    generator = seeded_generator(flat.owner, seed)
    draws = []
    for _ in range(probes):
        signs = torch.randint(0, 2, x.shape, generator=generator).to(x) * 2 - 1
        draws.append((signs * flat.derivative_along(t, x, signs)).sum(1))
    values = torch.stack(draws)
    return values.mean(0), values.std(0) / probes**0.5


def _below_spacing(flat: FlatField, t: Tensor, x: Tensor, points: Numbers | None) -> Tensor | None:
    if points is not None:
        given = as_tensor(flat.owner, "points", points)
        data = flat_points(flat.owner, given).to(x.device)
        if given.shape[1:] != flat.event:
            raise ValueError(f"{flat.owner}: points must be (N, *event) like x, got {tuple(given.shape)}")
        return largest_posterior_weight(x, data, flat.schedule.alpha(t), flat.schedule.beta(t)) > 0.5
    if flat.flow is None:
        return None
    pair = flat.flow.solve(t, x)
    return flat.flow.potential.sees_one_atom(pair.point.detach(), pair.multiplier.detach())


def largest_posterior_weight(x: Tensor, points: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """max_j P(X1 = y_j | X_t = x) for independent normal noise and equal weights, (B,); x (B, d), points (N, d).

    Equal points are one atom, of their joint weight. All is taken about the centre of the points, in float64: far from
    the origin squared distances would cancel.
    """
    kept, place = first_equal_rows(points)
    log_counts = torch.bincount(place).double().log()
    centre = weighted_sum(torch.full_like(place, 1 / len(points), dtype=torch.float64), points)
    atoms = ScaledRows(points[kept], centre, (alpha / beta).double())
    queries = (x.double() - beta * centre) / alpha
    return torch.cat([_largest_weight(rows, atoms, log_counts) for rows in queries.split(_rows(len(kept)))])


def _largest_weight(queries: Tensor, atoms: ScaledRows, log_counts: Tensor) -> Tensor:
    """The largest weight of one of the atoms, whose log-weights are log_counts - |query - atom|^2 / 2, (B,)."""
    parts = [log_counts[part] - 0.5 * torch.cdist(queries, atoms[part]).square() for part in row_blocks(atoms)]
    weights = torch.cat(parts, 1)
    return (weights.amax(1) - weights.logsumexp(1)).exp()


def _rows(atoms: int) -> int:
    return max(1, _BLOCK_NUMBERS // atoms)
