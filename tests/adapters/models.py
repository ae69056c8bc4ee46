"""Exact models in any convention, from a flow that knows the noise and the data behind each of its points."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

import proxflow as pf
from proxflow.adapters import Convention

F64 = torch.float64


@cache
def moons_coupling() -> pf.couplings.Semidiscrete:
    """Optimal pairs of noise and 200 points of two moons, certified."""
    points = pf.data.load("moons", n=200).points.double()
    return pf.couplings.Semidiscrete(pf.semidiscrete.fit(points).potential, points)


def moons_potential() -> pf.potentials.Discrete:
    """That of ``moons_coupling``."""
    potential = moons_coupling().potential
    assert isinstance(potential, pf.potentials.Discrete)
    return potential


def exact_model(convention: Convention, schedule: pf.schedules.Schedule) -> Callable[[Tensor, Tensor], Tensor]:
    """What a perfect network trained on ``moons_coupling`` in this convention gives."""
    flow = pf.ProximalFlow(moons_potential(), schedule, on_failure="nan")

    def model(time: Tensor, x: Tensor) -> Tensor:
        t = time / convention.unit if convention.time == "forward" else 1 - time / convention.unit
        match convention.prediction:
            case "velocity":
                return flow.velocity(t, x)
            case "negative velocity":
                return -flow.velocity(t, x)
            case "noise":
                return flow.recover_source(t, x)
            case "data":
                return flow.recover_target(t, x)
        return -flow.recover_source(t, x) / schedule.alpha(t)[:, None]

    return model


@cache
def digit_images() -> Tensor:
    """Digits as (300, 1, 8, 8) images in float32."""
    return pf.data.load("digits", n=300).points[:, None].float()


@cache
def digit_field() -> pf.IndependentField:
    """What a perfect network learns from independent pairs of noise and ``digit_images``."""
    return pf.IndependentField(digit_images())


class NormalField(nn.Module):
    """The velocity of independent pairs of noise and N(mean, diag(deviation^2)), in closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(2))
        self.deviation = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Velocity (B, 2) at times (B,)."""
        time = t[:, None]
        square = self.deviation * self.deviation
        slope = (time * square - (1 - time)) / ((1 - time) * (1 - time) + time * time * square)
        return self.mean + slope * (x - time * self.mean)


MEAN, DEVIATION = (3.0, -1.0), (0.5, 2.0)


def normal_field() -> NormalField:
    """That of N((3, -1), diag(1/4, 4))."""
    field = NormalField()
    field.load_state_dict({"mean": torch.tensor(MEAN), "deviation": torch.tensor(DEVIATION)})
    return field.eval()


def normal_rows(n: int = 600) -> Tensor:
    """Draws of N((3, -1), diag(1/4, 4)), (n, 2)."""
    generator = torch.Generator().manual_seed(0)
    return torch.tensor(MEAN) + torch.tensor(DEVIATION) * torch.randn(n, 2, generator=generator)


def broken() -> nn.Module:
    """As a builder that a user has not finished."""
    raise RuntimeError("no configuration\nwas found")


def write_script(model: nn.Module, path: Path) -> Path:
    """A file of TorchScript."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(model).save(str(path))
    return path


def write_export(model: nn.Module, path: Path, *, any_rows: bool = True) -> Path:
    """A file of torch.export for any number of rows, or for 4."""
    rows = {0: torch.export.Dim("rows", min=2, max=1 << 20)}
    shapes = (rows, rows) if any_rows else None
    torch.export.save(torch.export.export(model, (torch.zeros(4, 2), torch.zeros(4)), dynamic_shapes=shapes), path)
    return path
