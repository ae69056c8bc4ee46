"""Path energy and straightness against calculus on lines, half circles and linear fields."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import proxflow as pf
from proxflow.metrics import normalised_path_energy, path_energy, straightness, wasserstein
from proxflow.sampling import Trajectory, integrate
from tests.metrics.clouds import f64, normal

UNEVEN = torch.tensor([0.0, 0.1, 0.15, 0.7, 1.0], dtype=f64)


def straight(times: torch.Tensor = UNEVEN, *event: int, dtype: torch.dtype = f64) -> tuple[Trajectory, float]:
    x0, x1 = normal(6, *event), normal(6, *event, seed=1) + 2
    steps = times.reshape(-1, *[1] * (1 + len(event)))
    return Trajectory(times.to(dtype), ((1 - steps) * x0 + steps * x1).to(dtype), 0), float(
        (x1 - x0).square().sum()
    ) / 6


def half_circles(radii: list[float], steps: int = 1000) -> Trajectory:
    """At constant speed pi r, from (r, 0) to (-r, 0)."""
    times = torch.linspace(0, 1, steps + 1, dtype=f64)
    circle = torch.stack([torch.cos(math.pi * times), torch.sin(math.pi * times)], dim=1)
    return Trajectory(times, circle[:, None] * torch.tensor(radii, dtype=f64)[:, None], 0)


@pytest.mark.parametrize("event", [(), (3,), (2, 2)])
def test_a_straight_line_costs_its_squared_length_and_is_straight(event: tuple[int, ...]) -> None:
    trajectory, squared = straight(UNEVEN, *event)
    assert path_energy(trajectory) == pytest.approx(squared, rel=1e-12)
    assert straightness(trajectory) == pytest.approx(0, abs=1e-28)


def test_float32_points_are_summed_in_float64() -> None:
    trajectory, squared = straight(UNEVEN, 3, dtype=torch.float32)
    assert path_energy(trajectory) == pytest.approx(squared, rel=1e-5)
    assert straightness(trajectory) < 1e-10
    assert path_energy(trajectory) == path_energy(Trajectory(trajectory.times.double(), trajectory.points.double(), 0))


def test_half_circles_have_the_energy_and_straightness_of_calculus() -> None:
    # |dx/dt|^2 = pi^2 r^2, |x1 - x0|^2 = 4 r^2, and the mean of |dx/dt - (x1 - x0)|^2 is their difference
    trajectory, mean_square = half_circles([1.0, 3.0]), (1 + 9) / 2
    assert path_energy(trajectory) == pytest.approx(math.pi**2 * mean_square, rel=2e-6)
    assert straightness(trajectory) == pytest.approx((math.pi**2 - 4) * mean_square, rel=2e-6)


def test_a_straight_line_of_changing_speed_is_not_straight() -> None:
    # x = t^2: energy int 4 t^2 = 4 / 3, straightness int (1 - 2 t)^2 = 1 / 3
    times = torch.linspace(0, 1, 1001, dtype=f64)
    trajectory = Trajectory(times, times.square()[:, None], 0)
    assert path_energy(trajectory) == pytest.approx(4 / 3, rel=2e-6)
    assert straightness(trajectory) == pytest.approx(1 / 3, rel=2e-6)


@pytest.mark.parametrize("dim", [1, 3])
def test_along_euler_it_is_the_energy_of_the_field(dim: int) -> None:
    speeds = []

    def field(t: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        velocity = torch.sin(3 * x) + t * x.flip(1)
        speeds.append(velocity.square().sum(1).mean())
        return velocity

    trajectory = integrate(field, normal(50, dim), steps=13)
    assert path_energy(trajectory) == pytest.approx(float(torch.stack(speeds).mean()), rel=1e-12)


def test_a_linear_field_has_the_energy_of_its_exponential() -> None:
    # x = x0 e^t, so int |x|^2 = |x0|^2 (e^2 - 1) / 2
    x0 = normal(20, 2)
    trajectory = integrate(lambda t, x: x, x0, steps=300, method="heun")
    exact = float(x0.square().sum(1).mean()) * (math.e**2 - 1) / 2
    assert path_energy(trajectory) == pytest.approx(exact, rel=1e-4)  # dt^2 = 1e-5


def test_an_exact_flow_has_no_normalised_energy() -> None:
    x0 = normal(60, 2)
    potential = pf.potentials.Quadratic(
        torch.tensor([1.0, -2.0], dtype=f64), torch.diag(torch.tensor([4.0, 0.25])).double()
    )
    trajectory = integrate(pf.ProximalFlow(potential), x0, steps=10)
    cost = wasserstein(x0, trajectory.end).value ** 2
    assert normalised_path_energy(trajectory, cost) < 1e-10
    assert straightness(trajectory) < 1e-20


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0.0), (2.0, 0.5), (0.5, 1.0)])
def test_normalised_energy_is_relative_to_the_cost_on_both_sides(factor: float, expected: float) -> None:
    trajectory, squared = straight(UNEVEN, 3)
    assert normalised_path_energy(trajectory, factor * squared) == pytest.approx(expected, abs=1e-12)


def test_trajectories_with_gradients_give_floats() -> None:
    x0 = normal(4, 2).requires_grad_()
    trajectory = integrate(lambda t, x: -x, x0, steps=3)
    assert isinstance(path_energy(trajectory), float)
    assert isinstance(straightness(trajectory), float)


METRICS: dict[str, Callable[[Trajectory], float]] = {
    "path_energy": path_energy,
    "straightness": straightness,
    "normalised_path_energy": lambda trajectory: normalised_path_energy(trajectory, 1.0),
}
BAD = {
    "one time": (torch.zeros(1), torch.zeros(1, 3, 2), r"T > 1 and B > 0, got \(1,\) and \(1, 3, 2\)"),
    "lengths": (torch.linspace(0, 1, 4), torch.zeros(3, 3, 2), r"got \(4,\) and \(3, 3, 2\); integrate"),
    "empty": (torch.linspace(0, 1, 4), torch.zeros(4, 0, 2), "integrate at least one point"),
    "no batch": (torch.linspace(0, 1, 4), torch.zeros(4), r"got \(4,\) and \(4,\)"),
    "standing": (torch.tensor([0.0, 0.5, 0.5, 1.0]), torch.zeros(4, 3, 2), "rise from 0 to 1"),
    "backwards": (torch.linspace(1, 0, 4), torch.zeros(4, 3, 2), "rise from 0 to 1"),
    "partial": (torch.linspace(0, 0.9, 4), torch.zeros(4, 3, 2), "rise from 0 to 1; give the whole path"),
    "late": (torch.linspace(0.1, 1, 4), torch.zeros(4, 3, 2), "rise from 0 to 1"),
    "no time": (torch.tensor([0.0, torch.nan, 1.0]), torch.zeros(3, 3, 2), "rise from 0 to 1"),
}


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("case", BAD)
def test_refuses_what_is_no_whole_path(case: str, name: str) -> None:
    times, points, message = BAD[case]
    with pytest.raises(ValueError, match=f"{name}: .*{message}"):
        METRICS[name](Trajectory(times, points, 0))


@pytest.mark.parametrize("name", METRICS)
def test_names_rows_that_are_not_finite(name: str) -> None:
    trajectory, _ = straight(UNEVEN, 2, 2)
    trajectory.points[2, 1, 0, 1] = torch.nan
    trajectory.points[4, 3, 0, 0] = torch.inf
    with pytest.raises(ValueError, match=rf"{name}: .*\(1, 3\); drop these rows of x0"):
        METRICS[name](trajectory)


@pytest.mark.parametrize("cost", [0.0, -1.0, math.nan, math.inf])
def test_refuses_a_cost_that_is_not_positive(cost: float) -> None:
    with pytest.raises(ValueError, match="transport_cost must be a positive number"):
        normalised_path_energy(straight(UNEVEN, 2)[0], cost)
