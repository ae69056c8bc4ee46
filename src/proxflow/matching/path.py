"""The regression of flow matching: points on the paths of pairs, their velocities, and the loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from proxflow.couplings import Pairs
from proxflow.results import brief_repr
from proxflow.schedules import Linear, Schedule

__all__ = ["Network", "PathSample", "flow_matching_loss", "sample_path"]


class Network(Protocol):
    """A velocity network, v(t, x, label)."""

    def __call__(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocities (B, *event) at times (B,) and points (B, *event)."""


@brief_repr
@dataclass(frozen=True)
class PathSample:
    """Times (n,), points x_t = alpha x0 + beta x1 (n, *event), their velocities alpha' x0 + beta' x1, and labels."""

    t: Tensor
    x: Tensor
    velocity: Tensor
    label: Tensor | None


def sample_path(pairs: Pairs, t: Tensor, schedule: Schedule | None = None) -> PathSample:
    """Where the pairs are at times t (n,), and how fast they go (THEORY section 1); the schedule is Linear if None.

    Raises:
        ValueError: t is not one time for each pair.
    """
    if t.shape != (len(pairs),):
        raise ValueError(f"sample_path: t must be one time for each of the {len(pairs)} pairs, got {tuple(t.shape)}")
    schedule = Linear() if schedule is None else schedule
    t = t.to(pairs.source)
    times = t.reshape(-1, *[1] * (pairs.source.ndim - 1))
    x = schedule.alpha(times) * pairs.source + schedule.beta(times) * pairs.target
    velocity = schedule.alpha_derivative(times) * pairs.source + schedule.beta_derivative(times) * pairs.target
    return PathSample(t, x, velocity, pairs.label)


def flow_matching_loss(network: Network, path: PathSample) -> Tensor:
    """Mean squared error of the network's velocity over pairs and coordinates, a 0-dimensional tensor."""
    velocity = network(path.t, path.x) if path.label is None else network(path.t, path.x, path.label)
    return torch.nn.functional.mse_loss(velocity.to(path.velocity.dtype), path.velocity)
