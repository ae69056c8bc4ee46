"""From data to noise: against closed forms, and there and back under every method and schedule."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.errors import ConvergenceWarning
from proxflow.sampling import encode, integrate
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from tests.laws.cases import STORED
from tests.marks import slow_beyond
from tests.sampling.closed_forms import SCHEDULES, Mixture

f64 = torch.float64
METHODS = ["euler", "midpoint", "heun", "dopri5", "proximal"]
ORDER = {"euler": 1, "midpoint": 2, "heun": 2, "proximal": 1}


def there_and_back(schedule: Schedule, method: str, steps: int | None, x1: Tensor) -> Tensor:
    field = Mixture(schedule).velocity
    noise = integrate(field, x1, steps, method, schedule, reverse=True).end
    return integrate(field, noise, steps, method, schedule).end


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_dopri5_returns_within_its_tolerance(schedule: Schedule, generator: torch.Generator) -> None:
    x1 = Mixture(schedule).sample(20, generator)
    error = (there_and_back(schedule, "dopri5", None, x1) - x1).abs().max()
    assert float(error) < 30 * 1e-6  # as of dopri5 one way, tests/sampling/test_integrate.py


@pytest.mark.parametrize("schedule", slow_beyond(1, SCHEDULES), ids=str)
@pytest.mark.parametrize("method", list(ORDER))
def test_fixed_steps_return_at_their_order(schedule: Schedule, method: str, generator: torch.Generator) -> None:
    x1 = Mixture(schedule).sample(20, generator)
    coarse, fine = ((there_and_back(schedule, method, k, x1) - x1).norm() for k in (100, 200))
    assert float(torch.log2(coarse / fine)) > ORDER[method] - 0.3
    assert float(fine) < (1e-2 if ORDER[method] == 2 else 1.0)


@pytest.mark.parametrize(("method", "bound"), [("euler", 0.3), ("midpoint", 0.03), ("heun", 0.03), ("proximal", 0.3)])
def test_fixed_steps_of_a_schedule_whose_rates_have_no_bound(
    method: str, bound: float, generator: torch.Generator
) -> None:
    """alpha = (1 - t)^(1/2); steps in t from 1 - 1e-4 to the grid missed by 3.2, .2 and 1.8."""
    law = Mixture(Polynomial(0.5))
    x1 = law.sample(50, generator)
    exact = encode(law.velocity, x1, schedule=law.schedule, rtol=1e-9, atol=1e-9).end
    noise = encode(law.velocity, x1, 100, method, law.schedule).end
    assert float((noise - exact).abs().max()) < bound


@pytest.mark.parametrize("method", METHODS)
def test_units_whose_squares_float32_does_not_hold(method: str, generator: torch.Generator) -> None:
    """Optimal pairs y = s u of normal laws, noise and data in units of 1e25."""
    noise, scale = 1e25 * torch.randn(20, 2, generator=generator), torch.tensor([0.05, 2.0])
    found = encode(lambda t, x: (scale - 1) / (1 - t + t * scale) * x, scale * noise, method=method).end
    torch.testing.assert_close(found, noise, rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", METHODS)
def test_the_noise_is_the_one_that_forward_steps_began_with(method: str, generator: torch.Generator) -> None:
    """The field of optimal pairs of normal laws, by hand: y = m + s u, straight under Linear."""
    mean, scale = torch.tensor([1.0, -2.0], dtype=f64), torch.tensor([0.05, 2.0], dtype=f64)

    def field(t: Tensor, x: Tensor) -> Tensor:
        source = (x - t * mean) / (1 - t + t * scale)
        return mean + (scale - 1) * source

    noise = torch.randn(20, 2, generator=generator, dtype=f64)
    path = integrate(field, mean + scale * noise, 4 if method != "dopri5" else None, method, reverse=True)
    # the inverse of the last step is within 1e-6 (1 + |x|) of the data, 1 / s times that of the noise
    torch.testing.assert_close(path.end, noise, rtol=0, atol=6e-6 / 0.05)
    for t, points in zip(path.times, path.points, strict=True):
        torch.testing.assert_close(points, (1 - t) * noise + t * (mean + scale * noise), rtol=0, atol=6e-6 / 0.05)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(0.5)], ids=str)
@pytest.mark.parametrize("name", ["gaussian", "uniform on an interval", "scaled gaussian"])
def test_one_proximal_step_inverts_an_exact_flow(name: str, schedule: Schedule) -> None:
    flow = pf.ProximalFlow(STORED[name](), schedule)
    noise = 0.5 * flow.potential.source.sample(10, generator=torch.Generator().manual_seed(1), dtype=f64)
    path = integrate(flow, flow.transport(noise), method="proximal", reverse=True, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(path.end, noise, rtol=0, atol=1e-7)
    torch.testing.assert_close(integrate(flow, path.end, method="proximal").end, path.points[0], rtol=0, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", [1, 3, 997])
def test_never_calls_the_field_at_the_end_and_counts(dtype: torch.dtype, method: str, steps: int) -> None:
    times: list[float] = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        times.append(float(t))
        return 1 - 0.5 * x

    steps = min(steps, 20) if method == "dopri5" else steps
    x1 = torch.ones(2, 1, dtype=dtype)
    path = integrate(field, x1, steps, method, reverse=True)
    assert min(times) >= 0
    assert max(times) < 1
    assert path.evaluations == len(times)
    assert path.times.tolist() == integrate(field, x1, steps, method).times.flip(0).tolist()
    assert torch.equal(path.points[0], x1)
    assert path.points.shape == (steps + 1, 2, 1)
    assert path.points.dtype == path.times.dtype == dtype


@pytest.mark.parametrize("method", METHODS)
def test_a_grid_of_times(method: str, generator: torch.Generator) -> None:
    grid = torch.linspace(0, 1, 60, dtype=f64) ** 0.7  # denser near the data
    field, x1 = Mixture(Linear()).velocity, Mixture(Linear()).sample(5, generator)
    back = encode(field, x1, method=method, times=grid)
    there = integrate(field, back.end, method=method, times=grid)
    torch.testing.assert_close(back.times, grid.flip(0))
    torch.testing.assert_close(there.times, grid)
    assert float((there.end - x1).norm()) < 2.0 / 60 ** (0 if method in ("euler", "proximal") else 1)
    equal = integrate(field, back.end, 4, method)
    by_times = integrate(field, back.end, method=method, times=[0, 0.25, 0.5, 0.75, 1])
    assert torch.equal(equal.points, by_times.points)


def test_labels_and_guidance_come_with_the_field(generator: torch.Generator) -> None:
    class Network(torch.nn.Module):
        classes = 2

        def forward(self, t: Tensor, x: Tensor, label: Tensor | None = None) -> Tensor:
            drift = 0.0 if label is None else label.to(x)[:, None]
            return drift - 0.3 * x

    labels = torch.tensor([0, 1, 1])
    field = pf.matching.field_of(Network(), labels, guidance=2.0)
    x1 = torch.randn(3, 2, generator=generator, dtype=f64)
    noise = encode(field, x1).end
    rate = 0.3  # x' = 2 label - .3 x
    rest = 2 * labels[:, None].double() / rate
    torch.testing.assert_close(noise, rest + (x1 - rest) * torch.tensor(rate).double().exp(), rtol=0, atol=1e-5)


def test_a_row_that_is_not_finite_touches_no_other(generator: torch.Generator) -> None:
    x1 = Mixture(Linear()).sample(4, generator)
    spoiled = x1.clone()
    spoiled[2, 1] = torch.nan
    for method in METHODS:
        whole, part = (encode(Mixture(Linear()).velocity, x, method=method, steps=3).points for x in (x1, spoiled))
        assert not part[1:, 2].isfinite().any()
        torch.testing.assert_close(part[:, [0, 1, 3]], whole[:, [0, 1, 3]], rtol=1e-4, atol=1e-4)


def test_gradient_in_the_data(generator: torch.Generator) -> None:
    x1 = torch.randn(3, 2, generator=generator, dtype=f64).requires_grad_()
    for method in METHODS:
        end = encode(lambda t, x: 1 - 0.5 * x, x1, method=method, steps=400 if method != "dopri5" else None).end
        (found,) = torch.autograd.grad(end.sum(), x1)
        torch.testing.assert_close(found, torch.full_like(found, torch.tensor(0.5).exp().item()), rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    "name", ["atoms", "ball", "singular gaussian", "line with atoms and gaps", "product with atoms"]
)
def test_refuses_a_flow_without_inverse(name: str) -> None:
    flow = pf.ProximalFlow(STORED[name]())
    with pytest.raises(ValueError, match=r"encode: the flow has no inverse at t = 1.*noise_for"):
        encode(flow, torch.zeros(2, flow.dim, dtype=f64))


def test_of_a_callable_onto_atoms_it_is_one_of_the_noise_points_of_the_atom(generator: torch.Generator) -> None:
    flow = pf.ProximalFlow(STORED["atoms"]())
    atoms = flow.transport(torch.randn(20, 4, generator=generator, dtype=f64))
    noise = encode(lambda t, x: flow.velocity(t, x), atoms, method="proximal").end
    gap = flow.potential.conjugate(noise) + flow.potential.value(atoms) - (noise * atoms).sum(1)
    assert float(gap.abs().max()) < 1e-9  # in the cell of its atom, or on the edge of it


def test_data_that_the_field_cannot_reach_are_warned_of() -> None:
    """Onto the point 0: nothing leads to 1."""
    with pytest.warns(ConvergenceWarning, match="encode: from the points found for 1 of 2 rows.*row 1 by"):
        encode(lambda t, x: -x / (1 - t), torch.tensor([[0.0], [1.0]], dtype=f64), method="proximal")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"times": [0, 0.5, 0.5, 1]}, "times must be a vector that rises from 0 to 1"),
        ({"times": [0.1, 1]}, "rises from 0 to 1"),
        ({"times": [[0.0, 1.0]]}, "must be a vector"),
        ({"times": [0, 1], "steps": 1}, "give steps or times, not both"),
        ({"method": "rk4"}, "encode: unknown method 'rk4'"),
        ({"rtol": -1.0}, "encode: rtol must be a positive number"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        encode(lambda t, x: x, torch.zeros(3, 2), **change)


@pytest.mark.parametrize("deviation", [1e-3, 1e-5, 1e-8])
def test_the_noise_of_concentrated_data_is_exact_for_a_flow(deviation: float, generator: torch.Generator) -> None:
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(2), deviation**2 * torch.eye(2, dtype=f64)))
    noise = torch.randn(4, 2, generator=generator, dtype=f64)
    torch.testing.assert_close(encode(flow, deviation * noise).end, noise, rtol=0, atol=1e-9)


def test_the_noise_of_a_softmax_law_of_few_atoms() -> None:
    """Where the map from noise to data has a derivative of 4e-6; the data by the mean of the softmax law."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(8, 2, generator=generator, dtype=f64)
    heights = 0.1 * torch.randn(8, generator=generator, dtype=f64)
    noise = torch.tensor([[0.4, 2.1]], dtype=f64)
    data = torch.softmax((noise @ points.mT - heights) / 0.2, 1) @ points
    path = encode(pf.ProximalFlow(pf.potentials.Entropic(points, heights, 0.2)), data, method="proximal")
    torch.testing.assert_close(path.end, noise, rtol=0, atol=1e-4)


def test_the_noise_of_a_flow_is_differentiable_in_the_data() -> None:
    flow = pf.ProximalFlow(
        pf.potentials.Quadratic(torch.tensor([1.0, 2.0]), torch.diag(torch.tensor([1e-4, 4.0], dtype=f64)))
    )
    x1 = torch.tensor([[1.01, 3.0]], dtype=f64, requires_grad=True)
    noise = encode(flow, x1, method="proximal").end
    (first,) = torch.autograd.grad(noise[0, 0], x1, retain_graph=True)
    torch.testing.assert_close(first, torch.tensor([[100.0, 0.0]], dtype=f64), rtol=1e-6, atol=1e-9)


def test_the_noise_of_data_thinner_than_the_last_step_is_warned_of(generator: torch.Generator) -> None:
    """Of N(0, 1e-16 I) every point near 0 ends within the tolerance of every datum, and only one is its own."""
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(2), 1e-16 * torch.eye(2, dtype=f64)))
    data = 1e-8 * torch.randn(4, 2, generator=generator, dtype=f64)
    with pytest.warns(ConvergenceWarning, match="another step moves the noise"):
        encode(lambda t, x: flow.velocity(t, x), data)
