"""Three figures while training, against fields whose figures are known."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.adapters import TrainingAudit
from tests.adapters.models import moons_coupling, moons_potential

ROWS = torch.randn(3000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize(("stretch", "turn"), [(1.0, 0.0), (0.3, 0.4), (0.0, 1.0)])
def test_a_rotation_is_seen(stretch: float, turn: float) -> None:
    """The Jacobian a I + b J has the antisymmetric share b / |a + ib|, at any point and in any direction of signs."""
    matrix = torch.tensor([[stretch, -turn], [turn, stretch]], dtype=torch.float64)
    found = TrainingAudit(ROWS)(lambda t, x: x @ matrix.mT)
    assert abs(found["jacobian_asymmetry"] - turn / math.hypot(stretch, turn)) < 1e-12


def test_an_exact_flow_has_no_drift() -> None:
    flow = pf.ProximalFlow(moons_potential())
    found = TrainingAudit(moons_coupling().rows.flat)(flow)
    assert found["recovered_drift"] < 1e-9
    assert found["jacobian_asymmetry"] < 1e-6
    assert abs(found["variance_ratio"] - 1) < 0.2  # three standard errors of 256 points that lie on two arcs


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_the_exact_flow_to_a_wider_normal_law(scale: float) -> None:
    """x1 = s x0: v = (s - 1) x / (1 - t + s t), whose samples have s^2 of the variance of standard normal rows."""
    found = TrainingAudit(ROWS, count=1024)(lambda t, x: (scale - 1) / (1 - t + scale * t) * x)
    error = scale**2 * math.sqrt(2 / (2 * 1024) + 2 / (2 * 2048))  # of a variance of n d normal numbers: 2 / (n d)
    assert abs(found["variance_ratio"] - scale**2) < 4 * error
    assert found["recovered_drift"] < 1e-9


def test_the_drift_of_independent_pairs() -> None:
    """To N(0, s^2): x_t = size(t) x0 with size^2 = (1 - t)^2 + s^2 t^2, and the field aims at s^2 t x0 / size(t)."""
    scale, times = 2.0, (0.0, 0.25, 0.5, 0.75)

    def square(t: Any) -> Any:
        return (1 - t) ** 2 + scale**2 * t**2

    found = TrainingAudit(ROWS)(lambda t, x: (scale**2 * t - (1 - t)) / square(t) * x)
    aims = [scale**2 * t / math.sqrt(square(t)) for t in times]
    wanted = math.sqrt(sum((aim - scale) ** 2 for aim in aims) / len(times)) / scale
    assert abs(found["recovered_drift"] / wanted - 1) < 0.02  # of four midpoint steps, and of the mean of the noise


def test_the_cost_is_what_is_said() -> None:
    points = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        points.append(len(x))
        return torch.sin(x)

    TrainingAudit(ROWS, count=100)(field)
    assert sum(points) <= 12 * 100 + 36


def test_images_float32_and_fields_that_blow_up() -> None:
    images = torch.rand(40, 1, 4, 4)
    torch.manual_seed(0)
    network = torch.nn.Conv2d(1, 1, 3, padding=1)
    found = TrainingAudit(images, count=16)(lambda t, x: network(x))
    assert all(math.isfinite(value) for value in found.values())
    assert all(parameter.grad is None for parameter in network.parameters())
    found = TrainingAudit(images, count=16)(lambda t, x: x / (0.5 - t))
    assert all(math.isnan(value) for value in found.values())


def test_the_same_field_has_the_same_figures_and_no_global_draws() -> None:
    state = torch.random.get_rng_state()
    audit = TrainingAudit(ROWS)
    assert audit(lambda t, x: torch.sin(x)) == audit(lambda t, x: torch.sin(x))
    assert torch.equal(state, torch.random.get_rng_state())


def test_refusals() -> None:
    with pytest.raises(ValueError, match="count must be an integer of at least 16"):
        TrainingAudit(ROWS, count=2)
    with pytest.raises(ValueError, match="data must be two points or more"):
        TrainingAudit(ROWS[:1])
