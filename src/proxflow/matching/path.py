"""The regression of flow matching: laws of the time t, points on the paths of pairs, their velocities, and the loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from proxflow.checks import real_number
from proxflow.couplings import Pairs
from proxflow.results import brief_repr
from proxflow.schedules import Linear, Schedule

__all__ = [
    "LogitNormal",
    "Network",
    "PathSample",
    "TimeSampler",
    "Uniform",
    "flow_matching_loss",
    "for_each",
    "sample_path",
]


class TimeSampler(Protocol):
    """Draws times in [0, 1)."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n times, (n,) float32 on the CPU."""


class Uniform:
    """Uniform on [0, 1), stratified: one time in each of n equal intervals, which lowers the variance of the loss."""

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n times in random order, (n,)."""
        order = torch.randperm(n, generator=generator)
        return ((order + torch.rand(n, generator=generator)) / n).clamp(max=1 - 2**-24)


class LogitNormal:
    """logit t ~ N(mean, std^2): the middle of the path more often than its ends (Esser et al. 2024).

    Raises:
        ValueError: mean is not finite, or std not positive and finite.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        if not (math.isfinite(real_number(mean)) and 0 < real_number(std) < math.inf):
            raise ValueError(f"LogitNormal: needs a finite mean and a positive std, got {mean!r} and {std!r}")
        self.mean, self.std = float(mean), float(std)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n independent times, (n,)."""
        return torch.sigmoid(self.mean + self.std * torch.randn(n, generator=generator)).clamp(max=1 - 2**-24)


def for_each(t: Tensor | float, x: Tensor) -> Tensor:
    """A time for each point of x, (B,), from one for all of them or from (B,).

    Raises:
        ValueError: any other shape.
    """
    times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
    if times.ndim > 1 or times.numel() not in (1, len(x)):
        raise ValueError(f"t must be one time or (B,), one for each of {len(x)} points, got {tuple(times.shape)}")
    return times.expand(len(x))


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
    """Where the pairs are at times t (n,), and how fast they go (docs/theory.md 1); the schedule is Linear if None.

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
    """Mean squared error of the network's velocity over pairs and coordinates, a 0-dimensional tensor.

    Raises:
        ValueError: the network gives velocities of another shape than the points.
    """
    velocity = network(path.t, path.x) if path.label is None else network(path.t, path.x, path.label)
    if velocity.shape != path.velocity.shape:
        raise ValueError(
            f"flow_matching_loss: the network gave {tuple(velocity.shape)} for points of {tuple(path.x.shape)}; its "
            "velocities must have their shape"
        )
    return torch.nn.functional.mse_loss(velocity.to(path.velocity.dtype), path.velocity)
