"""Three figures of a field while any loop trains it: is it becoming a prox, are its paths straight, does it spread.

The same noise is followed in few steps each time, so that what changes from one measurement to the next is the field.
Cost, with n noise points: the field is called on 12 n points and a few more, on 2 n of them with forward-mode and on
2 n with reverse-mode derivatives. At 256 points that takes as long as seven or eight training steps of batch size 256,
1.5% of the time where it is done every 500 steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from proxflow.analysis.auditing.generated_pairs import defined_from_the_start, generated_pairs
from proxflow.analysis.auditing.proximality import probed_asymmetry, recovered_drift
from proxflow.checks import Numbers, as_tensor, flat_points, whole_number
from proxflow.measures import Gaussian, Source
from proxflow.metrics import spread
from proxflow.sampling.row_by_row import check_row_by_row
from proxflow.schedules import Linear, Schedule
from proxflow.seeding import generator_of

__all__ = ["TrainingAudit"]

_STEPS = 4  # in which noise is followed, two calls each; the Jacobian is that at half time
_PROBES = 2  # directions at each point, at which the Jacobian and its transpose are measured
_FEWEST = 16  # points, which one and the same figure of half of them would still resemble
_MOST_ROWS = 2048  # of the data, whose variance is compared with
_FIGURES = ("jacobian_asymmetry", "recovered_drift", "variance_ratio")


class TrainingAudit:
    """Measures a field from time to time, in any training loop.

    ``jacobian_asymmetry`` is the antisymmetric share of the Jacobian at half time, by two directions at each point: 0
    for a gradient field. ``recovered_drift`` is how far the data point that the field aims at moves on the way, over
    the deviation of the samples: 0 for an exact optimal-transport flow, and falling while training on a good coupling.
    ``variance_ratio`` is the total variance of the samples over that of the data: 1 is right. All three are those of
    ``analysis.audit``, of fewer points and in 4 steps for 32, where the drift of a field that is not straight comes out
    larger (by a fifth on two moons): they tell trends, an audit judges the trained model.

    Args:
        data: (N, *event) points of the data, on the field's device and of its dtype; at most 2,048 are used.
        count: noise points that are followed, at least 16.
        source: law of the noise; standard normal if None.
        schedule: of the path; Linear if None.
        seed: seed of the noise, the same each time.

    Raises:
        ValueError: count is no integer of at least 16, or fewer than two data points.

    Example: ``figures = audit(field)`` every 500 steps, with the network in evaluation mode, and
        ``accelerator.log(figures, step)``.
    """

    def __init__(
        self,
        data: Numbers,
        *,
        count: int = 256,
        source: Source | None = None,
        schedule: Schedule | None = None,
        seed: int = 0,
    ) -> None:
        if (whole_number(count) or 0) < _FEWEST:
            raise ValueError(f"TrainingAudit: count must be an integer of at least {_FEWEST}, got {count!r}")
        rows = as_tensor("TrainingAudit", "data", data)
        flat = flat_points("TrainingAudit", rows, "data")
        if len(flat) < 2:
            raise ValueError("TrainingAudit: data must be two points or more, got one")
        chosen = torch.randperm(len(flat), generator=generator_of(seed, 1))[:_MOST_ROWS]
        law = Gaussian(flat.shape[1]) if source is None else source
        self._event, self._seed = tuple(rows.shape[1:]), seed
        self._rows = flat[chosen.to(flat.device)]
        self._noise = law.sample(count, generator=generator_of(seed), dtype=flat.dtype, device=flat.device)
        self._schedule = Linear() if schedule is None else schedule

    def __call__(self, field: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
        """The three figures of a field(t, x) by name, NaN where its samples are not finite.

        Raises:
            ValueError: the field gives no tensor like its points, or its rows depend on chance or on each other, as
                those of a network in training mode may.
        """
        some = self._noise[:_FEWEST].reshape(-1, *self._event)
        check_row_by_row("TrainingAudit", field, some.new_tensor(0.5), some)
        call = defined_from_the_start(field, self._noise, self._event)
        pairs = generated_pairs(call, self._noise, self._event, self._schedule, _STEPS)
        if not bool(torch.isfinite(pairs.points).all()):
            return dict.fromkeys(_FIGURES, math.nan)
        t, x = pairs.times[_STEPS // 2].to(self._noise), pairs.points[_STEPS // 2]
        asymmetry = probed_asymmetry(call, t, x, self._event, self._schedule, _PROBES, self._seed)
        wide = spread(pairs.target, self._rows, directions=1)
        return dict(zip(_FIGURES, (asymmetry.value, recovered_drift(pairs).value, wide.total), strict=True))
