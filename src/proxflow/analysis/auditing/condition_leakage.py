"""Whether the noise of a conditional model tells the class: what it was trained to rely on, and sampling does not give.

A model that is told labels is sampled from noise that knows nothing of them. If one coupling of all classes paired its
noise with the data, the noise of a class was a part of the law alone, and the model carries that part to the class:
from all noise it gives other points. So rows of each class are followed back to their noise with their own label, and
a probe predicts the label from it on rows that it was not fitted to (``metrics.label_leakage``).

Where the model shrinks all noise to its training rows, the way back has no meaning: that is said then, and no figure.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from proxflow.analysis.auditing.intervals import Estimate, normal_estimate
from proxflow.errors import ConvergenceError, ConvergenceWarning
from proxflow.metrics.leakage import label_leakage
from proxflow.sampling.integration import encode
from proxflow.schedules import Schedule

__all__ = ["ConditionalField", "NotFollowedError", "condition_leakage"]

ConditionalField = Callable[[Tensor, Tensor, Tensor], Tensor]

_MOST_ROWS = 1024  # half of which the probe is fitted to
_TOLERANCE = 1e-3  # of the way back: the probe sees nothing so small


class NotFollowedError(ValueError):
    """Rows cannot be followed back to their noise; the message, a clause, says why."""


@torch.no_grad()
def condition_leakage(field: ConditionalField, rows: Tensor, labels: Tensor, schedule: Schedule, seed: int) -> Estimate:
    """How much oftener than by chance the class is told from the noise of rows (n, *event) with labels (n,).

    0 where it is told less often: noise that a model has made equal in the mean of each class lies on one side in the
    half that the probe learns from and on the other in that which it is judged on.

    Raises:
        NotFollowedError: rows cannot be followed back.
    """
    told, classes = rows[:_MOST_ROWS], labels[:_MOST_ROWS]
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        try:
            noise = encode(
                lambda t, x: field(t, x, classes), told, schedule=schedule, rtol=_TOLERANCE, atol=_TOLERANCE
            ).end
        except (ConvergenceError, ConvergenceWarning) as error:
            raise NotFollowedError(f"rows of the data cannot be followed back to their noise ({error})") from error
    if not bool(torch.isfinite(noise).all()):
        raise NotFollowedError("the noise that rows of the data are followed back to is not finite")
    found = label_leakage(noise, classes, seed=seed)
    return normal_estimate(max(found.excess, 0.0), found.stderr)
