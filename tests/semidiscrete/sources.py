"""Sources of a user's own."""

from __future__ import annotations

import math
from typing import Any

import torch

from proxflow.measures import Gaussian


class PlainNormal:
    """Standard normal, but nothing says so: fits treat it as any other law and use stochastic steps."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self.calls = 0

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        self.calls += 1
        return Gaussian(self.dim).sample(n, generator=generator, dtype=dtype, device=device)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return Gaussian(self.dim).log_prob(x)


class Wide(PlainNormal):
    """N(0, 4 I)."""

    def sample(self, n: int, **options: Any) -> torch.Tensor:
        return 2 * super().sample(n, **options)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return super().log_prob(x / 2) - self.dim * math.log(2)


class Interrupted(PlainNormal):
    """Normal noise; the user presses Ctrl-C during one of the draws."""

    def __init__(self, dim: int, call: int) -> None:
        super().__init__(dim)
        self.call = call

    def sample(self, n: int, **options: Any) -> torch.Tensor:
        if self.calls + 1 == self.call:
            self.calls += 1
            raise KeyboardInterrupt
        return super().sample(n, **options)
