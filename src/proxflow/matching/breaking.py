"""Breaking pairs late on their paths, so that a network also learns where optimal pairs never pass.

The points x_t of an optimal coupling lie on the trajectories of its flow alone, and near t = 1 these are close to the
data. A network's own trajectories leave them a little, and it was never trained there. Independent pairs pass
everywhere. So a pair is broken with a probability q that grows with t: early on the field is that of the coupling,
which decides where noise goes; late it also leads back.

Broken pairs also cross the flow's trajectories. A network that does not tell these from what lies between them learns
about (1 - q) v + q v_ind there, v_ind the field of independent pairs (``IndependentField``): it is pulled off the flow
by q^2 E|v_ind - v|^2. Both fields are known. Where points are far apart, as images are, x_t has only one of them behind
it early on, v_ind is v, and breaking costs nothing. In few dimensions many lie behind each x_t, and it would ruin the
field. So q is lowered, at each time, to where the pull is small.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import torch
from torch import Tensor

from proxflow.couplings import Coupling, Independent, Minibatch, Pairs
from proxflow.couplings.pairs import joined
from proxflow.couplings.seeding import generator_of
from proxflow.independent_field import IndependentField
from proxflow.measures import Gaussian
from proxflow.results import brief_repr
from proxflow.schedules import Schedule

__all__ = ["Breaking", "BreakingLaw", "break_pairs", "breaking_law"]

_TIMES, _PROBES = 32, 256
_LEAST_PAIRS, _MOST_PAIRS, _NUMBERS = 256, 4096, 1 << 24  # that stand for the data, and their coordinates
_STREAM = (4, 0)  # of the pairs that the pull is measured on


@dataclasses.dataclass(frozen=True)
class Breaking:
    """How often pairs are to be broken.

    Attributes:
        exponent: at time t with probability t**exponent at most.
        pull: the most by which broken pairs may move the field that is learned, at any time: mean square over that of
            the velocity, on the coupling's own x_t, in the units of ``TrainRecord.field_error``. ``math.inf`` lifts
            this limit.

    Raises:
        ValueError: one of them is negative or NaN.
    """

    exponent: float = 2.0
    pull: float = 0.001

    def __post_init__(self) -> None:
        for name in ("exponent", "pull"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"Breaking: {name} must not be negative, got {getattr(self, name)!r}")


@brief_repr
@dataclasses.dataclass(frozen=True)
class BreakingLaw:
    """The probability of breaking a pair at a time, linear between those of a table.

    Attributes:
        times: (K,), ascending.
        probability: (K,) at these.
    """

    times: Tensor
    probability: Tensor

    @property
    def share(self) -> float:
        """Probability at a uniform time."""
        grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
        return float(torch.trapezoid(self(grid), grid))

    def __call__(self, t: Tensor) -> Tensor:
        """The probability at times t of any shape, on the CPU."""
        at = np.interp(t.double().numpy(), self.times.numpy(), self.probability.numpy())
        return torch.as_tensor(at, dtype=t.dtype)


def breaking_law(
    coupling: Coupling, breaking: Breaking, schedule: Schedule, *, batch_size: int = 256, seed: int = 0
) -> BreakingLaw | None:
    """Measure how often a coupling's pairs may be broken; None where that is not known, and none should be.

    It is known for couplings, other than Independent, with a normal ``source``. The data are represented by up to 4,096
    of their pairs, and labels that are whole numbers condition the field.

    Args:
        coupling: draws the pairs.
        breaking: what is wanted.
        schedule: of the path.
        batch_size: pairs drawn at once, as in training: a coupling may assign what it draws.
        seed: of the pairs that it is measured on.
    """
    times = torch.linspace(0, 1, _TIMES + 1, dtype=torch.float64)
    wanted = times**breaking.exponent
    if breaking.pull == math.inf:
        return BreakingLaw(times, wanted)
    source = getattr(coupling, "source", None)
    if isinstance(coupling, Independent) or not isinstance(source, Gaussian):
        return None
    count = max(_LEAST_PAIRS, min(_MOST_PAIRS, _NUMBERS // source.dim))
    pairs = _drawn(coupling, count, batch_size, generator_of(seed, *_STREAM))
    inside = times[1:-1]
    limit = torch.stack([_limit(pairs, float(t), breaking.pull, schedule) for t in inside])
    limit = torch.cat([limit[:1], limit, limit[-1:]])  # at 0 and 1 no velocity is asked for
    return BreakingLaw(times, torch.fmin(wanted, limit))


def break_pairs(pairs: Pairs, probability: Tensor, generator: torch.Generator | None = None) -> Pairs:
    """Break each pair with its probability: the source points of broken pairs change places among themselves.

    Among pairs drawn independently those that are broken become independent of their targets; labels stay with them.

    Args:
        pairs: n of them.
        probability: (n,) on the CPU, in [0, 1].
        generator: of the choice, on the CPU.
    """
    chosen = torch.nonzero(torch.rand(len(probability), generator=generator) < probability)[:, 0]
    chosen = chosen.to(pairs.source.device)
    source = pairs.source.clone()
    source[chosen] = pairs.source[chosen.roll(1)]
    return dataclasses.replace(pairs, source=source)


def _drawn(coupling: Coupling, count: int, batch_size: int, generator: torch.Generator) -> Pairs:
    """At least ``count`` pairs; the buffer of a ``Minibatch`` is neither used nor filled."""
    parts: list[Pairs] = []
    while sum(map(len, parts)) < count:
        if isinstance(coupling, Minibatch):
            parts.append(coupling.assign(generator=generator))
        else:
            parts.append(coupling.sample(batch_size, generator=generator))
    return joined(parts)


def _limit(pairs: Pairs, t: float, pull: float, schedule: Schedule) -> Tensor:
    """The q with q^2 E|v_ind - v|^2 = pull E|v|^2 at x_t of the pairs."""
    targets, probes = pairs.target.flatten(1).double(), slice(0, _PROBES)
    source, target = pairs.source[probes].flatten(1).double(), targets[probes]
    time = torch.tensor(t, dtype=torch.float64, device=targets.device)
    alpha, beta = schedule.alpha(time), schedule.beta(time)
    law = IndependentField(targets, schedule=schedule).posterior(time, alpha * source + beta * target)
    law = law * _same_label(pairs.label, probes, len(targets), targets.device)
    law = law / law.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)
    velocity = schedule.alpha_derivative(time) * source + schedule.beta_derivative(time) * target
    apart = (schedule.wronskian(time) / alpha) * (law @ targets - target)
    return (pull * velocity.square().sum() / apart.square().sum()).sqrt().cpu()


def _same_label(label: Tensor | None, probes: slice, count: int, device: torch.device) -> Tensor:
    """Which pairs a probe's field is made of, (P, N): those of its label, where labels are whole numbers."""
    if label is None or label.is_floating_point() or label.ndim > 1:
        return torch.ones(len(range(*probes.indices(count))), count, dtype=torch.bool, device=device)
    return (label[probes, None] == label[None, :]).to(device)
