"""Samples of a field at few steps and at many: how near they are to the data, and whether they spread as widely."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor, count_of
from proxflow.errors import ConvergenceWarning
from proxflow.metrics.clouds import check_alike, flat_rows
from proxflow.metrics.energy import energy_distance, energy_distance_error
from proxflow.metrics.variances import Spread, spread
from proxflow.results import brief_repr
from proxflow.sampling.integration import integrate
from proxflow.sampling.row_by_row import check_row_by_row
from proxflow.schedules import Schedule
from proxflow.seeding import generator_of

__all__ = ["STEPS", "FewSteps", "few_steps"]

STEPS = (1, 2, 4, 8, 100)  # numbers of Euler steps: one, few, and as many as leave no error of the integration

_NEARER_THAN_NOISE = 0.5  # of the noise's energy distance: what samples must be within to be called near
_STANDARD_ERRORS = 3.0  # within which two figures are not told apart
_CHECKED = 256  # points, at which the field is called twice
_NORMAL_SEED = 0  # of the draws of the normal law
_NORMAL_DRAWS = 2  # times the number of samples: the level should scatter less than what is compared with it
_MOST_WEIGHTS = 1 << 22  # random numbers at once, 32 MB: as many as of one block of distances
_SPREAD_WITHIN = 0.1  # of 1, or three standard errors if these are more


@brief_repr
@dataclass(frozen=True)
class FewSteps:
    """Samples of the same noise at K numbers of Euler steps, beside data.

    Attributes:
        steps: the K numbers.
        samples: (K, n, *event).
        energy_distance: at each number, unbiased: about 0 for new draws of the data's law.
        energy_distance_error: at each number, its standard error or a little more.
        spread: at each number, variances of samples over those of the data.
        of_noise: energy distance of the noise itself: what no training gives.
        of_normal: energy distance of twice as many draws of the normal law with the data's mean and covariance: what an
            affine field gives, which knows nothing else of the data.
        compared: number of points of the data.
    """

    steps: tuple[int, ...]
    samples: Tensor
    energy_distance: tuple[float, ...]
    energy_distance_error: tuple[float, ...]
    spread: tuple[Spread, ...]
    of_noise: float
    of_normal: float
    compared: int

    @property
    def best(self) -> int:
        """Place of the number of steps whose samples are nearest."""
        return min(range(len(self.steps)), key=lambda k: self.energy_distance[k])

    @property
    def beats_noise(self) -> bool:
        """Whether the nearest samples are at less than half of the noise's distance."""
        return self.energy_distance[self.best] < _NEARER_THAN_NOISE * self.of_noise

    @property
    def beats_normal(self) -> bool:
        """Whether the nearest samples are clearly nearer than the normal law, or not told apart from the data at all.

        The latter, as good samples of data that are themselves normal are. Both by three standard errors.
        """
        nearest, off = self.energy_distance[self.best], _STANDARD_ERRORS * self.energy_distance_error[self.best]
        return nearest < self.of_normal - off or nearest <= off

    @property
    def spreads_right(self) -> bool:
        """Whether the total variance of the nearest samples is the data's, within a tenth or three standard errors."""
        found = self.spread[self.best]
        return abs(found.total - 1) <= max(_SPREAD_WITHIN, _STANDARD_ERRORS * found.total_error)


@torch.no_grad()
def few_steps(
    field: Callable[[Tensor, Tensor], Tensor],
    noise: Tensor,
    data: Tensor,
    *,
    steps: Sequence[int] = STEPS,
    schedule: Schedule | None = None,
    directions: int = 8,
    partial: bool = False,
) -> FewSteps:
    """Integrate a field from noise by Euler's method with several numbers of steps, and measure its samples.

    Args:
        field: (t, x) -> velocity (B, *event), as ``matching.field_of`` makes of a network.
        noise: (n, *event) source points, on the field's device.
        data: (m, *event) points to compare with; best ones that were not trained on.
        steps: numbers of Euler steps.
        schedule: schedule of the path; Linear if None.
        directions: principal directions whose variances are compared.
        partial: whether Ctrl-C keeps the numbers of steps that are done, with a warning, if any is; else it comes
            through, as loops that measure on the way need it.

    Raises:
        ValueError: steps are none, or not whole numbers of at least 1, clouds that ``spread`` refuses, or a field whose
            rows depend on chance or on each other, as those of a network in training mode may.

    Warns:
        ConvergenceWarning: ``partial``, and it was interrupted; the message says which numbers are missing.
    """
    _check_clouds(noise, data)
    steps = [count_of("few_steps", "each of steps", count) for count in steps]
    if not steps:
        raise ValueError("few_steps: steps must name at least one number of steps")
    some = noise[:_CHECKED]
    check_row_by_row("few_steps", field, some.new_tensor(0.5), some)
    ends: list[Tensor] = []
    try:
        for count in steps:
            trajectory = integrate(field, noise, steps=count, method="euler", schedule=schedule)
            ends.append(trajectory.end.to(data.device))
    except KeyboardInterrupt:
        if not (partial and ends):
            raise
        missing = ", ".join(str(count) for count in tuple(steps)[len(ends) :])
        warnings.warn(f"interrupted: the numbers of steps {missing} are missing", ConvergenceWarning, stacklevel=2)
    return FewSteps(
        tuple(steps)[: len(ends)],
        torch.stack(ends),
        tuple(energy_distance(end, data, unbiased=True) for end in ends),
        tuple(energy_distance_error(end, data) for end in ends),
        tuple(spread(end, data, directions=directions) for end in ends),
        energy_distance(noise.to(data), data, unbiased=True),
        energy_distance(_normal_like(data, _NORMAL_DRAWS * len(noise)), data, unbiased=True),
        len(data),
    )


def _check_clouds(noise: Tensor, data: Tensor) -> None:
    """That points have one shape and are finite; they may be on two devices."""
    given: dict[str, Numbers] = {"noise": noise, "data": data}
    clouds = {name: as_tensor("few_steps", name, points) for name, points in given.items()}
    for name, points in clouds.items():
        flat_rows("few_steps", name, points)
    check_alike("few_steps", *((name, points[:0].cpu()) for name, points in clouds.items()))


def _normal_like(data: Tensor, count: int) -> Tensor:
    """Draws (count, *event) of the normal law with the mean and covariance of data (m, *event).

    Each is the mean and a sum of the centred rows with independent normal weights, drawn for a block of draws at once.
    """
    mean, generator = data.mean(0), generator_of(_NORMAL_SEED)
    centred = (data - mean).flatten(1) / max(len(data) - 1, 1) ** 0.5
    block = max(1, _MOST_WEIGHTS // len(data))
    drawn = torch.cat(
        [
            torch.randn(min(block, count - start), len(data), generator=generator, dtype=data.dtype).to(data.device)
            @ centred
            for start in range(0, count, block)
        ]
    )
    return mean + drawn.reshape(-1, *data.shape[1:])
