"""Laws of the time t at which a network is trained."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["LogitNormal", "TimeSampler", "Uniform", "for_each"]


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
        if not (math.isfinite(mean) and math.isfinite(std) and std > 0):
            raise ValueError(f"LogitNormal: needs a finite mean and a positive std, got {mean!r} and {std!r}")
        self.mean, self.std = float(mean), float(std)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Tensor:
        """n independent times, (n,)."""
        return torch.sigmoid(self.mean + self.std * torch.randn(n, generator=generator)).clamp(max=1 - 2**-24)


def for_each(t: Tensor | float, x: Tensor) -> Tensor:
    """A time for each point of x, (B,), from one for all of them or from (B,)."""
    return torch.as_tensor(t, dtype=x.dtype, device=x.device).expand(len(x))
