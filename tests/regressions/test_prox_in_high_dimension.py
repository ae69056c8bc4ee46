"""The polyhedral prox with fewer atoms than dimensions: right, and not much dearer than its searches."""

from __future__ import annotations

import time

import pytest
import torch

from proxflow.potentials import Discrete
from proxflow.results import Status
from tests.kernels.quadratic_programme import clarabel_prox

f64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def among_many(potential: Discrete, rows: int, seed: int = 1) -> torch.Tensor:
    """Noise around means of many atoms, whose prox has nearly all of them in its support."""
    some = potential.points[
        torch.randint(len(potential.points), (rows, 30), generator=torch.Generator().manual_seed(3))
    ]
    return normal(rows, potential.dim, seed=seed).to(some.dtype) * 0.3 + some.mean(1)


ATOMS = {
    "spread": lambda: (normal(30, 200), 0.3 * normal(30, seed=1)),
    "far from 0": lambda: (1e3 + normal(30, 200), 0.3 * normal(30, seed=1)),
    "in pairs": lambda: (normal(15, 200).repeat(2, 1) + 1e-3 * normal(30, 200, seed=2), torch.zeros(30, dtype=f64)),
    "in a plane": lambda: (normal(30, 2) @ normal(2, 200, seed=5), 0.1 * normal(30, seed=1)),
}


@pytest.mark.parametrize("name", ATOMS)
def test_against_an_interior_point_solver(name: str) -> None:
    points, heights = ATOMS[name]()
    potential = Discrete(points, heights)
    z = among_many(potential, 40)  # more rows than atoms: they continue in the span
    pair = potential.prox(z, 1.0)
    assert (pair.status == int(Status.converged)).all()
    for row in (0, 7):
        expected = clarabel_prox(points, heights, z[row], 1.0)
        error = float((pair.point[row] - torch.as_tensor(expected)).norm())
        assert error <= 1e-5 * float(1 + points.norm(dim=1).max())


def test_float32_ends_as_well() -> None:
    points, heights = normal(100, 800).float(), torch.zeros(100)
    single, double = Discrete(points, heights), Discrete(points.double(), heights.double())
    z = among_many(single, 8)
    rough, fine = single.prox(z, 1.0), double.prox(z.double(), 1.0)
    assert (rough.status == int(Status.converged)).all()
    error = (rough.point.double() - fine.point).norm(dim=1)
    assert (error <= rough.error_bound + fine.error_bound).all()


def test_the_cost_is_that_of_some_searches() -> None:
    """A row took time with the square of its support: 15 times that of its searches here, and more in R^12288."""
    potential = Discrete(normal(300, 6000), torch.zeros(300, dtype=f64))
    z = among_many(potential, 12)
    with torch.no_grad():
        start = time.process_time()
        steps = int(potential.prox(z, 1.0).iterations.max())
        taken = time.process_time() - start
        start = time.process_time()
        for _ in range(steps):
            z @ potential.points.T
        searches = time.process_time() - start
    assert steps > 20
    assert taken < 8 * searches + 0.5
