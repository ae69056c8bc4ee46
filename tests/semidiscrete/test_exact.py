"""Exact fits: quantiles on the line, damped Newton in the plane and in space."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.special import ndtri

import proxflow as pf
from proxflow.errors import ConvergenceWarning
from proxflow.semidiscrete import fit
from tests.kernels.test_gaussian_cells import masses_by_lines
from tests.marks import slow_beyond
from tests.semidiscrete.closed_forms import line_cost, line_heights
from tests.semidiscrete.sources import PlainNormal


def cloud(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def zipf(count: int) -> torch.Tensor:
    return 1 / (1 + torch.randperm(count, generator=torch.Generator().manual_seed(1)).double())


def clusters(spread: float, dim: int = 3, groups: int = 10, each: int = 40) -> torch.Tensor:
    return cloud(groups, dim).repeat_interleave(each, 0) + spread * cloud(groups * each, dim, seed=2)


def lattice(side: int, dim: int) -> torch.Tensor:
    line = torch.linspace(-1, 1, side, dtype=torch.float64)
    return torch.cartesian_prod(*[line] * dim)


PROBLEMS: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor | None]]] = {
    "moons": lambda: (pf.data.load("moons", n=400, dtype=torch.float64).points, None),
    "moons, Zipf weights": lambda: (pf.data.load("moons", n=400, dtype=torch.float64).points, zipf(400)),
    "8 gaussians": lambda: (pf.data.load("8gaussians", n=600, dtype=torch.float64).points, None),
    "swiss roll": lambda: (pf.data.load("swissroll", n=400, dtype=torch.float64).points, None),
    "circle": lambda: (pf.data.load("circle", n=300, dtype=torch.float64).points, None),
    "planar lattice": lambda: (lattice(16, 2), None),
    "spatial lattice, Zipf weights": lambda: (lattice(6, 3), zipf(216)),
    "tight clusters": lambda: (clusters(1e-2), None),
    "tighter clusters, far away": lambda: (clusters(1e-4) + 100, None),
    "clusters in the plane": lambda: (clusters(1e-3, dim=2), zipf(400)),
    "heavy tails": lambda: (cloud(400, 3) / cloud(400, 1, seed=5), None),
    "anisotropic": lambda: (cloud(400, 3) * torch.tensor([1.0, 1e-2, 1e2]).double(), None),
    "three atoms": lambda: (torch.eye(3).double(), None),
    "two atoms": lambda: (torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).double(), torch.tensor([0.01, 0.99])),
}


@pytest.mark.parametrize("name", slow_beyond(2, PROBLEMS))
def test_masses_are_right_to_rounding(name: str) -> None:
    points, weights = PROBLEMS[name]()
    result = fit(points, weights)
    assert result.method in ("damped Newton", "quantiles")
    assert (result.chi2_stderr, result.samples_used, result.converged) == (0.0, 0, True)
    assert result.chi2 < 1e-12
    wanted = torch.ones(len(points)).double() if weights is None else weights.double()
    error = result.cell_mass[result.atom_of_row] * wanted.sum() / wanted - 1
    assert float(error.abs().max()) < 1e-5
    low, high = result.transport_cost_interval
    assert low <= result.transport_cost <= high
    assert high - low < 1e-8 * (1 + high)


@pytest.mark.slow
def test_a_planar_fit_agrees_with_a_fine_grid_of_lines() -> None:
    result = fit(pf.data.load("moons", n=60, dtype=torch.float64).points)
    mass = masses_by_lines(result.potential.points.numpy(), result.potential.heights.numpy(), 40001)
    assert mass == pytest.approx(np.full(60, 1 / 60), abs=1e-6)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_cost_agrees_with_an_independent_sample(dim: int) -> None:
    result = fit(cloud(80, dim))
    noise = cloud(400_000, dim, seed=7)
    terms = (noise - result.potential.brenier_map(noise)).square().sum(1)
    assert result.transport_cost == pytest.approx(float(terms.mean()), abs=4 * float(terms.std()) / len(noise) ** 0.5)


def test_the_cost_of_a_turned_product_is_the_sum_of_those_of_lines() -> None:
    line, levels = np.array([-1.0, 0.3, 0.5, 2.0]), np.array([0.1, 0.4, 0.3, 0.2])
    points = torch.cartesian_prod(*[torch.from_numpy(line)] * 3) @ torch.linalg.qr(cloud(3, 3))[0]
    weights = torch.cartesian_prod(*[torch.from_numpy(levels)] * 3).prod(1)
    result = fit(points, weights)
    assert result.transport_cost == pytest.approx(3 * line_cost(line, levels), rel=1e-10)


def test_a_line_in_space_is_fitted_by_quantiles() -> None:
    position = cloud(500, 1)[:, 0]
    direction = torch.nn.functional.normalize(cloud(1, 20, seed=3))[0]
    offset = 5 * cloud(1, 20, seed=4)[0]
    weights = zipf(500)
    result = fit(position[:, None] * direction + offset, weights)
    assert result.method == "quantiles"
    order = position.argsort()
    expected = line_heights(position[order].numpy(), (weights / weights.sum())[order].numpy())
    heights = result.potential.heights[result.atom_of_row][order].numpy()
    assert heights - heights[0] == pytest.approx(expected, abs=1e-9)
    across = offset - (offset @ direction) * direction
    along = line_cost((position[order] + offset @ direction).numpy(), (weights / weights.sum())[order].numpy())
    assert result.transport_cost == pytest.approx(along + 19 + float(across.square().sum()), rel=1e-9)


def test_float32_heights_are_judged_as_they_are_stored() -> None:
    points = pf.data.load("8gaussians", n=2000).points
    result = fit(points)
    heights = result.potential.heights
    assert heights.dtype == torch.float64 or result.chi2 > 1e-12
    assert result.chi2 < 1e-5
    again = fit(points, warm_start=result)
    assert again.converged


def test_a_start_from_other_heights_gives_the_same_heights() -> None:
    points = cloud(200, 2)
    cold, warm = fit(points), fit(points, warm_start=0.3 * points.square().sum(1))
    difference = warm.potential.heights - cold.potential.heights
    assert float((difference - difference.mean()).abs().max()) < 1e-8


def test_what_floating_point_cannot_hold_is_fitted_by_noise() -> None:
    points = torch.cat([cloud(30, 2), 1e-13 * cloud(30, 2, seed=1)])
    with pytest.warns(ConvergenceWarning):
        result = fit(points, max_samples=20_000)
    assert result.method == "averaged gradient"
    assert result.chi2_stderr > 0


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_stochastic_steps_find_the_exact_heights(dim: int) -> None:
    points = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None] if dim == 1 else cloud(20, dim)
    exact, noisy = fit(points), fit(points, source=PlainNormal(dim), tol=1e-3)
    assert noisy.method == "averaged gradient"
    difference = noisy.potential.heights - exact.potential.heights
    assert float((difference - difference.mean()).abs().max()) < 0.05
    low, high = noisy.transport_cost_interval
    assert noisy.transport_cost == pytest.approx(exact.transport_cost, abs=high - low)  # four standard errors


def test_the_quantiles_of_extreme_weights() -> None:
    weights = torch.tensor([1e-12, 1 - 2e-12, 1e-12], dtype=torch.float64)
    result = fit(torch.tensor([[-1.0], [0.0], [1.0]]).double(), weights)
    edges = result.potential.heights.diff()
    assert edges.tolist() == pytest.approx([float(ndtri(1e-12)), -float(ndtri(1e-12))], rel=1e-4)
