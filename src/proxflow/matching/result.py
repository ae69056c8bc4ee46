"""What training returns, and what it writes down on the way."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from proxflow.results import brief_repr

__all__ = ["TrainRecord", "TrainResult"]


@dataclass(frozen=True)
class TrainRecord:
    """One look at a run.

    Attributes:
        step: optimiser steps made.
        loss: mean of the training loss since the last look.
        field_error: of the averaged network on held-out pairs of the reference: the mean squared velocity error over
            that of the zero field. Where the reference is an exact flow this is E|v_theta - v_t|^2 / E|v_t|^2 along
            its trajectories. NaN without a reference.
        seconds: wall time, that of interrupted runs included.
    """

    step: int
    loss: float
    field_error: float
    seconds: float


@brief_repr
@dataclass(frozen=True)
class TrainResult:
    """A trained network.

    Attributes:
        network: with the exponential moving average of the parameters: the one to sample with.
        last_network: with the last parameters, the module that was given.
        history: looks at the run.
        steps: optimiser steps made; fewer than asked for after Ctrl-C.
        finished: whether all steps were made.
        seconds: wall time, that of interrupted runs included.
        seed: of the run.
    """

    network: nn.Module
    last_network: nn.Module
    history: tuple[TrainRecord, ...]
    steps: int
    finished: bool
    seconds: float
    seed: int
