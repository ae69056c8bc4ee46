"""The state of a training run on disk, and PyTorch's own state of random numbers in it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from proxflow.matching.train_result import TrainRecord
from proxflow.storage import load, storable

__all__ = ["TrainingState", "random_state", "read_state", "set_random_state"]


@storable
@dataclass(frozen=True)
class TrainingState:
    """A run after ``step`` steps, which is also the place of its coupling in the stream of batches.

    ``fingerprint`` is a hash of what the run depends on; the dictionaries are state_dicts; ``random`` is the
    ``random_state`` of each process.
    """

    fingerprint: str
    step: int
    network: dict[str, Tensor]
    average: dict[str, Tensor]
    optimiser: dict[str, Any]
    scaler: dict[str, Any]
    random: list[dict[str, Tensor]]
    history: tuple[TrainRecord, ...]
    loss_sum: float
    seconds: float


def read_state(path: str | os.PathLike[str], fingerprint: str) -> TrainingState | None:
    """The state at a path, or None where there is no file.

    Raises:
        ValueError: the file holds no training run, or one that depends on other things than this one.
    """
    if not Path(path).exists():
        return None
    state = load(path)
    if not isinstance(state, TrainingState):
        raise ValueError(f"train: {path} is not a checkpoint of a training run; give another path")
    if state.fingerprint != fingerprint:
        raise ValueError(
            f"train: the checkpoint {path} belongs to a run on other data or with another network, coupling, option, "
            "seed, precision or number of processes; repeat that call to resume it, or give another path"
        )
    return state


def random_state(device: torch.device) -> dict[str, Tensor]:
    """PyTorch's own state of random numbers, of the CPU and of the device that trains, for networks with dropout."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    """Restore a ``random_state``."""
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type], device)
