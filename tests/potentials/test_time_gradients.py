"""Gradients in the time, and in the step of a prox, against finite differences, for every kind of potential."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.potentials import Ball, Discrete, Entropic, Potential, Product, Quadratic, Quantile, Radial
from proxflow.schedules import Cosine, Linear, Schedule

f64 = torch.float64
TURN = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(5), dtype=f64)).Q
ATOMS = torch.randn(6, 2, generator=torch.Generator().manual_seed(3), dtype=f64)


def logistic(level: Tensor) -> Tensor:
    return torch.log(level / (1 - level))


POTENTIALS: dict[str, Potential] = {
    "quantile": Quantile(logistic),
    "table": Quantile((torch.linspace(0, 1, 9, dtype=f64), torch.linspace(-1, 2, 9, dtype=f64) ** 3)),
    "radial": Radial(3, lambda level: level + 0.5),
    "disc": Radial(2, torch.sqrt),
    "product": Product([Quantile(logistic), Radial(2, torch.sqrt)]),
    "turned": Product([Quantile(logistic), Radial(2, torch.sqrt)]).rotate(TURN, torch.tensor([0.3, -1, 2], dtype=f64)),
    "scaled": Quantile(logistic).scale(2.5),
    "normal": Quadratic(torch.tensor([0.5, -1.0], dtype=f64), torch.tensor([[2.0, 0.3], [0.3, 0.5]], dtype=f64)),
    "ball": Ball(2, 1.5),
    "smoothed": Entropic(ATOMS, torch.zeros(6, dtype=f64), 0.4),
    "atoms": Discrete(ATOMS, torch.zeros(6, dtype=f64)),
}
SMOOTH = [name for name in POTENTIALS if name not in ("ball", "atoms")]


def points(potential: Potential) -> Tensor:
    return torch.randn(5, potential.dim, generator=torch.Generator().manual_seed(7), dtype=f64)


def assert_slope(function: Callable[[Tensor], Tensor], at: float) -> None:
    """By central differences of a scalar function at two spacings, which must agree on it."""
    t = torch.tensor(at, dtype=f64, requires_grad=True)
    value = function(t)
    (slope,) = torch.autograd.grad(value, t) if value.requires_grad else (torch.zeros_like(t),)
    differences = [float(function(t.detach() + h) - function(t.detach() - h)) / (2 * h) for h in (2e-4, 1e-4)]
    wanted = (4 * differences[1] - differences[0]) / 3
    assert float(slope) == pytest.approx(wanted, rel=1e-4, abs=1e-4 * (1 + abs(float(value.detach()))))


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=["linear", "cosine"])
@pytest.mark.parametrize("name", POTENTIALS)
def test_gradients_in_the_time(name: str, schedule: Schedule) -> None:
    potential = POTENTIALS[name]
    flow, x = pf.ProximalFlow(potential, schedule), points(potential)
    weights = torch.randn(5, potential.dim, generator=torch.Generator().manual_seed(8), dtype=f64)
    for t in (0.3, 0.6):
        assert_slope(lambda t: (weights * flow.velocity(t, x)).sum(), t)
        assert_slope(lambda t: flow.divergence(t, x).sum(), t)
        assert_slope(lambda t: (weights[:, :, None] * flow.jacobian(t, x)).sum(), t)
        if name in SMOOTH:
            assert_slope(lambda t: flow.marginal_log_prob(t, x).sum(), t)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_in_the_step_of_a_prox(name: str) -> None:
    potential = POTENTIALS[name]
    x = points(potential)
    assert_slope(lambda step: potential.prox_jacobian(x, step).sum(), 0.7)
    assert_slope(lambda step: potential.prox(x, step).point.sum(), 0.7)


@pytest.mark.parametrize("dim", [1, 2])
def test_a_density_that_is_constant_between_levels_has_no_gradient(dim: int) -> None:
    levels = torch.linspace(0, 1, 9, dtype=f64)
    radial = Radial(2, (levels, levels + 0.5))
    potential = Quantile((levels, levels**2)) if dim == 1 else radial
    y = torch.full((1, dim), 0.3 if dim == 1 else 0.6, dtype=f64, requires_grad=True)
    (found,) = torch.autograd.grad(potential.log_density(y).sum(), y)
    wanted = torch.zeros_like(y) if dim == 1 else -y.detach() / y.detach().square().sum()  # of 1 / |y|
    torch.testing.assert_close(found, wanted)
    assert math.isfinite(float(potential.log_density(y.detach())))


@pytest.mark.parametrize("part", ["source", "target", "source_gain", "target_gain"])
@pytest.mark.parametrize("moved", ["z", "alpha", "beta"])
def test_gradients_of_a_scalar_pair(part: str, moved: str) -> None:
    transport = Radial(3, lambda level: level + 0.5).transport
    z = torch.tensor([0.4, 0.9, 1.7, 2.2], dtype=f64)

    def answer(number: Tensor) -> Tensor:
        given = {"z": z, "alpha": torch.full_like(z, 0.6), "beta": torch.full_like(z, 0.7)}
        given[moved] = given[moved] * number
        found: Tensor = getattr(transport.pair(**given), part)
        return (found * torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=f64)).sum()

    assert_slope(answer, 1.0)
