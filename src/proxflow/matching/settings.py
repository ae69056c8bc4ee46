"""What decides a training run, but for its network and coupling, checked."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from proxflow.checks import real_number, whole_number
from proxflow.couplings import Coupling
from proxflow.couplings.pairs import Rows
from proxflow.fingerprint import fingerprint
from proxflow.matching.path import TimeSampler
from proxflow.schedules import Schedule, check_schedule
from proxflow.seeding import generator_of

__all__ = ["Settings"]

_PROBES = 64  # pairs, or times, that stand for a user's own coupling or schedule in the fingerprint
_WHOLE = ("steps", "batch_size", "evaluate_every", "checkpoint_every")  # at least 1
_POSITIVE = ("learning_rate", "gradient_clip")
_SHARES = ("label_dropout", "ema_decay")  # in [0, 1)
_OWN = ("proxflow.schedules", "proxflow.matching.path")  # whose numbers say all
_CHANGEABLE = ("steps", "evaluate_every", "checkpoint_every", "schedule", "times")  # when resumed, or hashed apart


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The arguments of ``train`` with these names, and the processes and precision of its accelerator."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    schedule: Schedule
    times: TimeSampler
    label_dropout: float
    ema_decay: float
    gradient_clip: float
    evaluate_every: int
    checkpoint_every: int
    seed: int
    processes: int
    mixed_precision: str

    def __post_init__(self) -> None:
        """Numbers of any type become Python's; what is none stays, for ``check`` to refuse."""
        for name in (*_WHOLE, "seed"):
            if (whole := whole_number(getattr(self, name))) is not None:
                object.__setattr__(self, name, whole)
        for name in (*_POSITIVE, *_SHARES, "weight_decay"):
            if not math.isnan(real := real_number(getattr(self, name))):
                object.__setattr__(self, name, real)

    def fingerprint(self, network: nn.Module, coupling: Coupling) -> str:
        """A hash of what the run's parameters depend on, but for its length."""
        layout = [(name, tuple(entry.shape), str(entry.dtype)) for name, entry in network.state_dict().items()]
        numbers = {k: v for k, v in vars(self).items() if k not in _CHANGEABLE}
        tensors = getattr(coupling, "tensors", None)
        if tensors is None:  # a user's own coupling is known by its first pairs
            pairs = coupling.sample(_PROBES, generator=generator_of(self.seed))
            tensors = [pairs.source, pairs.target, pairs.label]
        path = [_told(self.schedule, self._schedule_probes), _told(self.times, self._time_probes)]
        description = (type(coupling).__name__, layout, numbers, [kind for kind, _ in path])
        return fingerprint(description, [*tensors, *(probe for _, probes in path for probe in probes)])

    def _schedule_probes(self) -> list[Tensor]:
        """What a schedule does, as it is called in training: times (n, 1) in float32."""
        t = torch.linspace(0, 1, _PROBES + 1)[:, None]
        return [self.schedule.alpha(t), self.schedule.beta(t)]

    def _time_probes(self) -> list[Tensor]:
        """The first batch of a law of times, of a copy, which may count its draws."""
        return [copy.deepcopy(self.times).sample(self.batch_size, generator=generator_of(self.seed))]

    def check(self, network: nn.Module, coupling: Coupling) -> None:
        """Refuse settings out of range, and a coupling that cannot be drawn from or whose labels the network lacks.

        Raises:
            ValueError: says which.
        """
        if not hasattr(coupling, "sample"):
            raise ValueError(
                f"train: the coupling must have sample(n, generator=...), got {type(coupling).__name__}; for plain "
                "points couplings.Independent(points)"
            )
        for name in _WHOLE:
            if (whole_number(getattr(self, name)) or 0) < 1:
                raise ValueError(f"train: {name} must be a whole number of at least 1, got {getattr(self, name)!r}")
        seed = whole_number(self.seed)
        if seed is None or seed < 0:
            raise ValueError(f"train: seed must be a whole number of at least 0, got {self.seed!r}")
        for name in _POSITIVE:
            if not real_number(getattr(self, name)) > 0:
                raise ValueError(f"train: {name} must be positive, got {getattr(self, name)!r}")
        for name in _SHARES:
            if not 0 <= real_number(getattr(self, name)) < 1:
                raise ValueError(f"train: {name} must be in [0, 1), got {getattr(self, name)!r}")
        if not real_number(self.weight_decay) >= 0:
            raise ValueError(f"train: weight_decay must not be negative, got {self.weight_decay!r}")
        if self.batch_size % self.processes:
            raise ValueError(
                f"train: batch_size {self.batch_size} must be a multiple of the {self.processes} processes"
            )
        if not hasattr(self.times, "sample"):
            raise ValueError(f"train: times must have sample(n, generator=...) as Uniform() has, got {self.times!r}")
        check_schedule("train", self.schedule)
        if not isinstance(network, nn.Module):
            raise ValueError(f"train: the network must be a torch.nn.Module, got {type(network).__name__}")
        rows = getattr(coupling, "rows", None)
        if rows is not None:
            _check_fit(network, rows)


@torch.no_grad()
def _told(law: object, probes: Callable[[], list[Tensor]]) -> tuple[object, list[Tensor]]:
    """What a fingerprint says of a schedule or a law of times: its numbers; of a user's own class what it does."""
    kind, attributes = type(law).__name__, getattr(law, "__dict__", {})
    if type(law).__module__ in _OWN:
        return (kind, attributes), []
    try:
        return kind, [probe.detach() for probe in probes()]
    except Exception:  # it takes other arguments, on a GPU perhaps: then what Python shows of it has to do
        return (kind, attributes), []


def _check_fit(network: nn.Module, rows: Rows) -> None:
    """Refuse data whose dtype or labels the network does not take, and bytes, in whose units none is trained."""
    if not rows.flat.is_floating_point():
        raise ValueError(
            f"train: the coupling's rows are stored in {rows.flat.dtype}, and targets would be these whole numbers; "
            "give them in the network's units, e.g. images / 127.5 - 1 in float16"
        )
    dtype = next((parameter.dtype for parameter in network.parameters()), rows.dtype)
    if dtype != rows.dtype:
        raise ValueError(
            f"train: the network's parameters are {dtype}, the coupling's pairs {rows.dtype}; convert one of them"
        )
    classes, labels = getattr(network, "classes", 0), rows.labels
    if labels is not None and not _takes_label(network):
        raise ValueError(
            f"train: the coupling has labels, but {type(network).__name__}.forward takes none; let it be "
            "forward(t, x, label), with label=None where it can do without, or give the coupling no labels"
        )
    if classes and labels is None:
        raise ValueError(
            f"train: the network has {classes} classes, but the coupling has no labels; give it labels, or the "
            "network classes=0"
        )
    if classes and labels is not None and (labels.is_floating_point() or labels.ndim > 1):
        raise ValueError(
            f"train: a network with classes takes labels (N,) in whole numbers, got {tuple(labels.shape)} of "
            f"{labels.dtype}; convert them, or numpy.unique(labels, return_inverse=True) numbers them"
        )
    if classes and labels is not None and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"train: labels run from {int(labels.min())} to {int(labels.max())}, the network has {classes} classes"
        )


def _takes_label(network: nn.Module) -> bool:
    """Whether network(t, x, label) is a call that its ``forward`` can take, as far as Python tells."""
    try:
        inspect.signature(network.forward).bind(None, None, None)
    except TypeError:
        return False
    return True
