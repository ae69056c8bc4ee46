"""What training returns, and what it writes down on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import torch
from torch import nn

from proxflow.checks import Numbers, as_tensor
from proxflow.couplings import Coupling
from proxflow.couplings.stream import batch_of
from proxflow.matching.guidance import field_of
from proxflow.matching.networks import UNet
from proxflow.measures import Gaussian, Source
from proxflow.metrics.step_quality import STEPS, FewSteps, few_steps
from proxflow.metrics.variances import Spread, spread
from proxflow.results import brief_repr
from proxflow.sampling import integrate
from proxflow.schedules import Linear, Schedule
from proxflow.seeding import derived_seed, seeded_generator
from proxflow.storage import storable

__all__ = ["TrainRecord", "TrainResult", "sample_count"]

_SAMPLES = 1000  # a standard error of the total variance of 1 to 4%
_FEW_OF_A_UNET = 200  # samples, which take a minute or two on a CPU
_SPREAD_STEPS = 100  # of Euler, where the error of the steps is below that of the samples
_SPREAD_NOISE, _SPREAD_DATA = 4, 5  # number the generators of the spread, apart from those of the run


@storable
@dataclass(frozen=True)
class TrainRecord:
    """One evaluation of a run.

    Attributes:
        step: optimiser steps made.
        loss: mean of the training loss since the last evaluation.
        field_error: mean squared velocity error of the averaged network on held-out pairs of the reference, over that
            of the zero field. Where the reference is an exact flow this is E|v_theta - v_t|^2 / E|v_t|^2 along
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
        history: evaluations of the run.
        steps: optimiser steps made; fewer than asked for after Ctrl-C.
        finished: whether all steps were made.
        seconds: wall time, that of interrupted runs included.
        seed: seed of the run.
        coupling: the pairs that it was trained on.
        schedule: of their paths.
    """

    network: nn.Module
    last_network: nn.Module
    history: tuple[TrainRecord, ...]
    steps: int
    finished: bool
    seconds: float
    seed: int
    coupling: Coupling
    schedule: Schedule = field(default_factory=Linear)

    @cached_property
    def spread(self) -> Spread:
        """Variance of 1,000 samples at 100 Euler steps over that of as many rows of the coupling, with errors.

        Measured when first asked for, under the labels of those rows where there are labels and the network takes them.
        It is of the rows that were trained on; for held-out rows see ``few_steps`` and ``metrics.spread``.
        """
        noise = batch_of(self.coupling, 0, _SAMPLES, derived_seed(self.seed, _SPREAD_NOISE)).source
        rows = batch_of(self.coupling, 0, _SAMPLES, derived_seed(self.seed, _SPREAD_DATA))
        device = next(self.network.parameters()).device
        with torch.no_grad():
            field = field_of(self.network, None if getattr(self.network, "classes", None) == 0 else rows.label)
            end = integrate(field, noise.to(device), _SPREAD_STEPS, schedule=self.schedule).end
        return spread(end, rows.target.to(device))

    def few_steps(
        self,
        data: Numbers,
        *,
        count: int | None = None,
        compared: int = 2000,
        steps: Sequence[int] = STEPS,
        schedule: Schedule | None = None,
        seed: int = 0,
    ) -> FewSteps:
        """Samples of the averaged network, without label, at few steps and at many: distance and spread.

        Ctrl-C keeps the numbers of steps that are done, with a warning.

        Args:
            data: (m, *event) points to compare with, in any dtype; best ones that were not trained on.
            count: number of samples, of noise of the law that was trained on; 1,000 if None, and 200 of a ``UNet``.
            compared: largest number of points that are compared with, drawn at random if there are more.
            steps: numbers of Euler steps.
            schedule: schedule of the path; that which was trained on if None.
            seed: seed of the noise and of the points drawn.

        Raises:
            ValueError: as of ``metrics.few_steps``, data of another dimension than the noise that was trained on, or a
                seed that is no integer of at most 64 bits.
        """
        generator, own = seeded_generator("few_steps", seed), next(self.network.parameters())
        points = as_tensor("few_steps", "data", data).to(own.dtype)
        count = sample_count(self.network) if count is None else count
        law = self._noise_law(math.prod(points.shape[1:]))
        noise = law.sample(count, generator=generator, dtype=points.dtype).reshape(count, *points.shape[1:])
        if len(points) > compared:
            points = points[torch.randperm(len(points), generator=generator)[:compared].to(points.device)]
        path = self.schedule if schedule is None else schedule
        network = field_of(self.network)
        return few_steps(network, noise.to(own.device), points, steps=steps, schedule=path, partial=True)

    def _noise_law(self, dim: int) -> Source:
        """Of the coupling, if it says so; standard normal else."""
        law: Any = getattr(self.coupling, "source", None)
        if not (hasattr(law, "sample") and hasattr(law, "dim")):
            return Gaussian(dim)
        if law.dim != dim:
            raise ValueError(f"few_steps: the data have {dim} coordinates, the noise that was trained on {law.dim}")
        return cast(Source, law)


def sample_count(network: nn.Module) -> int:
    """Number of samples by which a network is measured and shown."""
    return _FEW_OF_A_UNET if isinstance(network, UNet) else _SAMPLES
