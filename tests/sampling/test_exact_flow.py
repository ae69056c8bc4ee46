"""Every integrator ends the exact flow of real data where its transport map says."""

from __future__ import annotations

import pytest
import torch

import proxflow as pf
from tests.marks import slow_beyond

f64 = torch.float64


@pytest.fixture(scope="module")
def potential() -> pf.potentials.Discrete:
    potential = pf.semidiscrete.fit(pf.data.load("digits", dtype=f64).points[:300], tol=0.05).potential
    assert isinstance(potential, pf.potentials.Discrete)
    return potential


@pytest.mark.parametrize(
    ("method", "steps"), [("euler", 1), ("euler", 100), ("dopri5", None), ("heun", 10), ("midpoint", 10)]
)
@pytest.mark.parametrize("as_callable", [True, False])
def test_linear_flow_of_digits_ends_at_its_transport(
    potential: pf.potentials.Discrete, method: str, steps: int | None, as_callable: bool, generator: torch.Generator
) -> None:
    flow = pf.ProximalFlow(potential)
    x0 = torch.randn(50, 64, generator=generator, dtype=f64)
    end = pf.sampling.integrate(flow.velocity if as_callable else flow, x0, steps, method).end
    torch.testing.assert_close(end, flow.transport(x0), rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", slow_beyond(1, [pf.schedules.Cosine(), pf.schedules.Polynomial(2)]), ids=str)
@pytest.mark.parametrize(
    ("method", "steps", "error"), slow_beyond(2, [("dopri5", None, 1e-4), ("proximal", 1, 1e-12), ("heun", 200, 1e-3)])
)
def test_curved_schedules_end_at_the_transport_too(
    potential: pf.potentials.Discrete,
    schedule: pf.schedules.Schedule,
    method: str,
    steps: int | None,
    error: float,
    generator: torch.Generator,
) -> None:
    flow = pf.ProximalFlow(potential, schedule)
    x0 = torch.randn(50, 64, generator=generator, dtype=f64)
    trajectory = pf.sampling.integrate(flow, x0, steps, method)
    torch.testing.assert_close(trajectory.end, flow.transport(x0), rtol=0, atol=error)


def test_dopri5_is_on_the_trajectory_half_way(potential: pf.potentials.Discrete, generator: torch.Generator) -> None:
    flow = pf.ProximalFlow(potential, pf.schedules.Cosine())
    x0 = torch.randn(50, 64, generator=generator, dtype=f64)
    middle = pf.sampling.integrate(flow, x0, 2, "dopri5").points[1]
    torch.testing.assert_close(middle, flow.interpolate(0.5, x0), rtol=0, atol=1e-4)
