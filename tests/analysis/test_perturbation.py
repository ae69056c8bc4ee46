"""Perturbations of points under way, against flows that are linear or projections."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.analysis import perturb
from proxflow.schedules import Cosine, Linear, Polynomial

f64 = torch.float64


def noise(count: int, dim: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=f64)


@pytest.mark.parametrize("schedule", [Linear(), Cosine()], ids=repr)
def test_on_the_sphere_radial_perturbations_die_and_tangent_ones_turn_the_point(
    schedule: pf.schedules.Schedule,
) -> None:
    """recover_target projects x_t / beta: a tangent perturbation s turns it by atan(s / |x_t|)."""
    flow, t, size = pf.ProximalFlow(pf.potentials.Ball(3), schedule), 0.8, 0.03
    x0 = noise(5, 3)
    found = perturb(flow, x0, t, count=2, size=size)
    radius = torch.linalg.vector_norm(flow.interpolate(t, x0), dim=1)
    turned = 2 * torch.sin(torch.atan(size / radius) / 2) / size
    torch.testing.assert_close(found.survival[:, 0], torch.zeros(5, dtype=f64), atol=1e-9, rtol=0)
    torch.testing.assert_close(found.survival[:, 1], turned)
    torch.testing.assert_close(found.predicted[:, 1], 1 / radius)
    torch.testing.assert_close(found.unperturbed, x0 / torch.linalg.vector_norm(x0, dim=1, keepdim=True))


@pytest.mark.parametrize("known", [True, False], ids=["flow", "callable"])
def test_linear_flows_do_what_is_predicted_at_any_size(known: bool) -> None:
    covariance = torch.diag(torch.tensor([4.0, 0.25, 0.01], dtype=f64))
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(3, dtype=f64), covariance))
    t = 0.6
    field = flow if known else lambda time, x: flow.velocity(time, x)
    found = perturb(field, noise(4, 3), t, count=3, size=2.0)
    expected = 1 / (t + (1 - t) / torch.tensor([0.1, 0.5, 2.0], dtype=f64))
    torch.testing.assert_close(found.predicted, expected.expand(4, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.survival, expected.expand(4, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("schedule", [Polynomial(0.25), Polynomial(0.5), Polynomial(2.0), Cosine()], ids=repr)
def test_a_callable_arrives_where_the_flow_does_under_any_schedule(schedule: pf.schedules.Schedule) -> None:
    """Polynomial velocities of degree below 1 grow without bound at t = 1, where a straight pair still ends at y."""
    mean, deviations = torch.tensor([1.0, 2.0], dtype=f64), torch.tensor([2.0, 0.5], dtype=f64)
    flow = pf.ProximalFlow(pf.potentials.Quadratic(mean, torch.diag(deviations**2)), schedule)
    x0 = noise(3, 2)
    found = perturb(lambda t, x: flow(t, x), x0, 0.5, count=2, schedule=schedule)
    torch.testing.assert_close(found.unperturbed, mean + deviations * x0, atol=2e-6, rtol=0)
    time = torch.tensor(0.5, dtype=f64)
    kept = deviations / (schedule.alpha(time) + schedule.beta(time) * deviations)
    torch.testing.assert_close(found.survival, kept.sort().values.expand(3, 2), atol=1e-5, rtol=0)


def test_images_keep_their_shape() -> None:
    flow = pf.ProximalFlow(pf.potentials.Ball(12))
    found = perturb(flow, noise(2, 12).reshape(2, 3, 4), 0.5)
    assert found.ends.shape == (2, 4, 3, 4)
    assert found.unperturbed.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("options", "said"), [({"size": 0.0}, "size"), ({"size": math.nan}, "size"), ({"count": 1}, "count")]
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        perturb(pf.ProximalFlow(pf.potentials.Ball(3)), noise(2, 3), 0.5, **options)
