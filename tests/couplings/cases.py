"""The couplings under the law suite. A new coupling joins by adding one constructor here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxflow.couplings import Conditional, Independent, JointConditional, Minibatch, Semidiscrete, Subspace
from proxflow.semidiscrete import fit, fit_shortlisted

ROWS = 24
EVENT = (1, 2)


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Two tight clusters with classes that are not numbered from 0, in unequal numbers."""
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([7] * 15 + [-2] * 9)
    points = 0.5 * torch.randn(ROWS, *EVENT, generator=generator, dtype=torch.float64)
    points[..., 0] += torch.where(labels == 7, 2.0, -2.0)[:, None]
    return points.to(dtype), labels


_MADE: dict[object, Any] = {}


def once(make: Callable[[], Any], points: Tensor, *options: object) -> Any:
    """What was made of the same points before: fits take most of the time."""
    key = (points.detach().numpy().tobytes(), points.dtype, *options)
    if key not in _MADE:
        _MADE[key] = make()
    return _MADE[key]


def semidiscrete(points: Tensor, labels: Tensor | None, epsilon: float = 0.0) -> Semidiscrete:
    potential = once(lambda: fit(points, epsilon=epsilon, tol=1e-3).potential, points, epsilon)
    return Semidiscrete(potential, points, labels)


def shortlisted(points: Tensor, labels: Tensor | None) -> Semidiscrete:
    potential = once(lambda: fit_shortlisted(points, count=2, tol=1e-2).potential, points, "shortlisted")
    return Semidiscrete(potential, points, labels)


def subspace_by_shortlists(points: Tensor, labels: Tensor | None) -> Subspace:
    fitted = once(lambda: Subspace.fit(points, dim=1, shortlist=2, tol=1e-3), points, "subspace by shortlists")
    return Subspace.from_potential(fitted.potential, points, fitted.directions, labels)


def joint_conditional(points: Tensor, labels: Tensor) -> JointConditional:
    conditions = labels.to(points.dtype)
    return once(lambda: JointConditional.fit(points, conditions, weight=0.5, tol=1e-3), points, "joint")


def conditional_at_a_cost(points: Tensor, labels: Tensor) -> Conditional:
    fitted = once(lambda: Conditional.fit(points, labels, strength=0.3, tol=1e-2), points, "at a cost")
    return Conditional(points, labels, fitted.potentials, strength=0.3)


def subspace(points: Tensor, labels: Tensor | None) -> Subspace:
    fitted = once(lambda: Subspace.fit(points, dim=1, tol=1e-3), points, "subspace")
    return Subspace.from_potential(fitted.potential, points, fitted.directions, labels)


def subspace_of_minibatches(points: Tensor, labels: Tensor | None) -> Subspace:
    directions = torch.tensor([[0.8], [0.6]], dtype=points.dtype)
    return Subspace(Minibatch(points.flatten(1) @ directions, 10, labels), points, directions)


CASES: dict[str, Callable[[Tensor, Any], Any]] = {
    "independent": Independent,
    "minibatch": lambda points, labels: Minibatch(points, 10, labels),
    "minibatch of all rows": lambda points, labels: Minibatch(points, ROWS, labels),
    "sinkhorn": lambda points, labels: Minibatch(points, ROWS - 1, labels, solver="sinkhorn", epsilon=0.1),
    "semidiscrete": semidiscrete,
    "entropic": lambda points, labels: semidiscrete(points, labels, epsilon=0.3),
    "conditional": Conditional.fit,
    "conditional in subspaces": lambda points, labels: Conditional.fit(points, labels, directions=1),
    "conditional at a cost": conditional_at_a_cost,
    "subspace": subspace,
    "subspace of minibatches": subspace_of_minibatches,
    "joint conditional": joint_conditional,
    "shortlisted": shortlisted,
    "subspace by shortlists": subspace_by_shortlists,
}

WITHOUT_LABELS = [name for name in CASES if "conditional" not in name]
LABEL_OF_THE_ROW = [name for name in CASES if name != "joint conditional"]  # whose label is the condition drawn
OPTIMAL = [name for name in CASES if name != "independent"]
OF_GIVEN_ROWS = [  # that give noise for rows and rows for noise
    name for name in OPTIMAL if "minibatch" not in name and name not in {"sinkhorn", "joint conditional"}
]
