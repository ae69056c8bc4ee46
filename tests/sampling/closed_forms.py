"""Fields with known laws: what a perfect network learns from independent pairs with a mixture of normal laws."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from proxflow.schedules import Cosine, Linear, Polynomial, Schedule

SCHEDULES: list[Schedule] = [Linear(), Cosine(), Polynomial(3)]

MEANS, DEVIATIONS, WEIGHTS = [[-2.0, 1.0, 0.0], [2.0, 0.0, 0.5]], [0.5, 0.3], [0.3, 0.7]


class Mixture:
    """Two normal laws in R^3; x_t = alpha x0 + beta x1 with independent ends is a mixture of normal laws too."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def sample(self, n: int, generator: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
        means, deviations, weights = self._parts(dtype)
        part = torch.multinomial(weights, n, True, generator=generator)
        noise = torch.randn(n, means.shape[1], generator=generator, dtype=dtype)
        return means[part] + deviations[part, None] * noise

    def log_prob(self, t: Any, x: Tensor) -> Tensor:
        """log p_t(x); that of the data at t = 1."""
        return torch.logsumexp(self._joint(t, x)[0], 1)

    def velocity(self, t: Any, x: Tensor) -> Tensor:
        """E[alpha' X0 + beta' X1 | x_t] by the regression of jointly normal variables in each part."""
        means, deviations, _ = self._parts(x.dtype)
        joint, centred, variance = self._joint(t, x)
        alpha, beta = self.schedule.alpha(t), self.schedule.beta(t)
        rates = self.schedule.alpha_derivative(t), self.schedule.beta_derivative(t)
        slope = (rates[0] * alpha + rates[1] * beta * deviations**2) / variance
        parts = rates[1] * means + slope[:, None] * centred
        return (torch.softmax(joint, 1)[:, :, None] * parts).sum(1).to(x.dtype)

    def _joint(self, t: Any, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        means, deviations, weights = self._parts(x.dtype)
        variance = (self.schedule.alpha(t) ** 2 + self.schedule.beta(t) ** 2 * deviations**2).to(x.dtype)
        centred = x[:, None, :] - self.schedule.beta(t).to(x.dtype) * means
        normaliser = 0.5 * x.shape[1] * (2 * math.pi * variance).log()
        return weights.log() - 0.5 * centred.square().sum(2) / variance - normaliser, centred, variance

    @staticmethod
    def _parts(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(torch.tensor(entries, dtype=dtype) for entries in (MEANS, DEVIATIONS, WEIGHTS))  # type: ignore[return-value]
