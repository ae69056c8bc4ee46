"""Exact models in any convention, from a flow that knows the noise and the data behind each of its points."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

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
