"""J(h) - J* from draws, against exact cells and quadrature."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from proxflow.analysis.convergence.height_error import height_error, top_two
from proxflow.potentials import Discrete
from proxflow.semidiscrete import fit
from tests.semidiscrete.closed_forms import line_heights, normal_density

DRAWS = 1 << 17


def normal(n: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def line_semi_dual(points: np.ndarray, heights: np.ndarray) -> float:
    """J(h) of equal weights on sorted points, every cell being an interval."""
    edges = np.concatenate([[-np.inf], np.diff(heights) / np.diff(points), [np.inf]])
    mass = np.diff(ndtr(edges))
    first = normal_density(edges[:-1]) - normal_density(edges[1:])
    return float(points @ first - heights @ mass + heights.mean())


def test_on_the_line_against_quadrature() -> None:
    points = np.linspace(-2, 2, 12)
    best = line_heights(points, np.full(12, 1 / 12))
    for scale in (0.0, 0.005, 0.02):
        heights = best + scale * np.cos(np.arange(12.0))
        potential = Discrete(torch.from_numpy(points)[:, None], torch.from_numpy(heights))
        error = height_error(top_two(potential, normal(DRAWS, 1, 0)), potential.weights)
        exact = line_semi_dual(points, heights) - line_semi_dual(points, best)
        assert abs(error.value - exact) < 5 * error.stderr + 0.2 * exact
        assert error.stderr < 3e-4 + 0.25 * exact


def test_in_the_plane_against_exact_cells() -> None:
    """E|X|^2 + E_b|y|^2 - 2 J(h) is the dual value; at the optimum it is W2^2, known exactly."""
    points = normal(60, 2, 1)
    right = fit(points)
    for scale in (0.004, 0.008):
        heights = right.potential.heights + scale * normal(60, 1, 2)[:, 0]
        potential = Discrete(right.potential.points, heights)
        u = normal(1 << 20, 2, 3)
        # J(h) - J* on common draws: the difference of the conjugates has little noise
        difference = potential.conjugate(u) - right.potential.conjugate(u)
        exact = float(difference.mean() + (heights - right.potential.heights).mean())
        noise = float(difference.std()) / 1024
        error = height_error(top_two(potential, normal(DRAWS, 2, 4)), potential.weights)
        assert abs(error.value - exact) < 4 * (error.stderr + noise)
        assert exact > 3 * (error.stderr + noise)


def test_best_and_second_best() -> None:
    potential = Discrete(normal(30, 3, 0) + 100, normal(30, 1, 1)[:, 0])
    u = normal(500, 3, 2)
    found = top_two(potential, u)
    scores = u @ potential.points.T - potential.heights
    value, index = scores.topk(2, dim=1)
    assert torch.equal(found.best, index[:, 0])
    assert torch.equal(found.second, index[:, 1])
    torch.testing.assert_close(found.gap, value[:, 0] - value[:, 1], rtol=1e-9, atol=1e-9)


def test_one_atom_has_nothing_to_fit() -> None:
    potential = Discrete(torch.ones(1, 2), torch.zeros(1))
    error = height_error(top_two(potential, torch.randn(100, 2)), potential.weights.double())
    assert error.value == error.stderr == 0


@pytest.mark.filterwarnings("error")
def test_groups_that_no_draw_links() -> None:
    """Two pairs of atoms far apart: nothing is invented about the balance between them."""
    points = torch.tensor([[-100.0, 0.1], [-100.0, -0.1], [100.0, 0.1], [100.0, -0.1]], dtype=torch.float64)
    potential = Discrete(points, torch.zeros(4, dtype=torch.float64))
    error = height_error(top_two(potential, normal(1 << 12, 2, 5)), potential.weights)
    assert error.value < 1e-3
