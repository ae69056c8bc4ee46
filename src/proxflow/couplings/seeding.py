"""Generators that are known by numbers: the same draw can be made again by anyone, at any time."""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["generator_of"]


def generator_of(seed: int, *numbers: int) -> torch.Generator:
    """A CPU generator of its own for each seed and sequence of numbers, statistically independent of the others."""
    state = np.random.SeedSequence(seed, spawn_key=numbers).generate_state(1, np.uint64)
    return torch.Generator().manual_seed(int(state[0]))
