"""The polyhedral prox against Clarabel, on random, degenerate and real data; its certificates; its derivatives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from proxflow.data import load
from proxflow.kernels.active_set import atom_keys, polyhedral_face
from proxflow.potentials import Discrete
from proxflow.results import Status
from proxflow.semidiscrete import fit
from tests.kernels.quadratic_programme import clarabel_prox
from tests.marks import slow_beyond

f64 = torch.float64
Atoms = tuple[torch.Tensor, torch.Tensor]


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def sphere(n: int, d: int) -> torch.Tensor:
    return torch.nn.functional.normalize(normal(n, d), dim=1)


def grid(side: int, d: int) -> torch.Tensor:
    return torch.cartesian_prod(*[torch.linspace(-1, 1, side, dtype=f64)] * d)


def squared(points: torch.Tensor) -> torch.Tensor:
    return 0.5 * points.square().sum(1)


DATA: dict[str, Callable[[], Atoms]] = {
    "random": lambda: (normal(200, 5), 0.3 * normal(200, seed=1)),
    "random, high heights": lambda: (normal(50, 5), 30 * normal(50, seed=1)),
    "collinear": lambda: (torch.linspace(-1, 1, 30, dtype=f64)[:, None] * normal(1, 4), normal(30, seed=2)),
    "collinear, equal heights": lambda: (
        torch.linspace(-1, 1, 9, dtype=f64)[:, None] * normal(1, 4),
        torch.zeros(9).to(f64),
    ),
    "nearly duplicated": lambda: (torch.cat([normal(20, 3), normal(20, 3) + 1e-9]), torch.zeros(40, dtype=f64)),
    "cospherical": lambda: (sphere(80, 3), torch.zeros(80, dtype=f64)),
    "grid, flat": lambda: (grid(4, 3), torch.zeros(64, dtype=f64)),
    "grid, every cube cospherical": lambda: (grid(4, 3), squared(grid(4, 3))),
    "fewer atoms than dimensions": lambda: (normal(4, 10), normal(4, seed=3)),
    "one atom": lambda: (normal(1, 3), torch.ones(1, dtype=f64)),
    "two atoms": lambda: (normal(2, 1), torch.zeros(2, dtype=f64)),
    "in R^1": lambda: (normal(40, 1), squared(normal(40, 1))),
    "far from the origin": lambda: (normal(60, 3) + 1000, 0.1 * normal(60, seed=1)),
    "tiny": lambda: (1e-8 * normal(60, 3), 1e-8 * normal(60, seed=1)),
    "in a plane of R^6": lambda: (normal(50, 2) @ normal(2, 6, seed=5), normal(50, seed=6)),
}


@pytest.mark.parametrize("step", [0.05, 1.0, 20.0])
@pytest.mark.parametrize("name", DATA)
def test_agrees_with_an_interior_point_solver(name: str, step: float) -> None:
    points, heights = DATA[name]()
    potential = Discrete(points, heights)
    size = float((points - points.mean(0)).norm(dim=1).max()) or 1.0
    z = points.mean(0) + size * 1.5 * normal(6, points.shape[1], seed=9)
    pair = potential.prox(z, step * size)
    assert (pair.status == int(Status.converged)).all()
    for row in range(len(z)):
        # the solver works in the units of the data, where its tolerances mean something
        centred, offset = (points - points.mean(0)) / size, points.mean(0)
        y = offset + size * clarabel_prox(centred, heights / size, (z[row] - offset) / size, step)
        distance = float((pair.point[row] - y).norm())
        assert distance <= 1e-6 * size
        assert distance <= float(pair.error_bound[row]) + 1e-6 * size


@pytest.fixture(scope="module")
def digits() -> Discrete:
    potential = fit(load("digits", dtype=f64).points, tol=0.05).potential
    assert isinstance(potential, Discrete)
    return potential


BETWEEN = [(0.5, 1000), *((t, 10_000) for t in (0.1, 0.5, 0.9, 0.99))]


@pytest.mark.parametrize(("t", "count"), slow_beyond(1, BETWEEN))
def test_queries_between_the_trajectories_of_the_digits(digits: Discrete, t: float, count: int) -> None:
    generator = torch.Generator().manual_seed(int(100 * t))
    noise = torch.randn(count, 64, generator=generator, dtype=f64)
    data = digits.points[torch.randint(len(digits.points), (count,), generator=generator)]
    step = (1 - t) / t
    pair = digits.prox(((1 - t) * noise + t * data) / t, step)
    assert (pair.status == int(Status.converged)).all()
    assert (pair.gap >= 0).all()
    conjugate = digits.conjugate(pair.multiplier)
    assert (pair.gap <= 1e-9 * (1 + conjugate.abs())).all()
    assert (pair.error_bound <= 1e-4).all()
    if t in (0.5, 0.99):
        for row in range(2):
            y = clarabel_prox(digits.points, digits.heights, ((1 - t) * noise[row] + t * data[row]) / t, step)
            assert float((pair.point[row] - y).norm()) <= 1e-6


def test_the_gap_is_the_fenchel_young_gap_of_the_weights_returned() -> None:
    points, heights = DATA["random"]()
    z = normal(50, 5, seed=4)
    keys = atom_keys(points, heights)
    ones = torch.ones(50, dtype=f64)
    support, weights, gap, _, status = polyhedral_face(z, ones, ones, keys, 3)  # too few steps: a rough answer
    assert (status == int(Status.max_iterations)).any()
    y = (weights[:, None, :] @ points[support])[:, 0]
    u = z - y
    expected = (u @ points.mT - heights).amax(1) + (weights * heights[support]).sum(1) - (u * y).sum(1)
    torch.testing.assert_close(gap, expected, rtol=1e-12, atol=1e-12)
    assert float(gap.max()) > 1e-3


def test_the_error_bound_of_a_rough_answer_holds() -> None:
    points, heights = DATA["random"]()
    z = normal(200, 5, seed=4)
    rough = Discrete(points, heights, max_iterations=3).prox(z, 0.7)
    exact = Discrete(points, heights).prox(z, 0.7)
    assert ((rough.point - exact.point).norm(dim=1) <= rough.error_bound + exact.error_bound).all()
    assert float(rough.error_bound.max()) > 1e-2


def test_on_a_trajectory_no_step_is_needed() -> None:
    points, heights = DATA["random"]()
    potential = Discrete(points, heights)
    x0 = normal(500, 5, seed=7)
    atom = potential.nearest_atom(x0)
    pair = potential.prox(0.3 * x0 + points[atom], 0.3)
    assert int(pair.iterations.max()) == 0
    assert torch.equal(pair.point, points[atom])


def test_rows_do_not_depend_on_their_neighbours() -> None:
    points, heights = DATA["random"]()
    potential = Discrete(points, heights)
    z = normal(64, 5, seed=8)
    together = potential.prox(z, 0.5).point
    alone = torch.cat([potential.prox(row[None], 0.5).point for row in z])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-13)


def differentiable_queries(potential: Discrete, step: float, radius: float = 1e-3) -> torch.Tensor:
    """Queries around which the contact set does not change: the prox is an affine projection there."""
    z = 1.5 * normal(400, potential.dim, seed=11)
    moved = z + radius * normal(400, potential.dim, seed=12)
    jacobians = potential.prox_jacobian(z, step), potential.prox_jacobian(moved, step)
    steady = (jacobians[0] - jacobians[1]).abs().amax((1, 2)) < 1e-9
    rank = jacobians[0].diagonal(dim1=1, dim2=2).sum(1)
    chosen = [z[steady & ((rank - k).abs() < 0.5)][:2] for k in range(potential.dim + 1)]
    assert sum(len(rows) > 0 for rows in chosen) >= 2
    return torch.cat(chosen)


def test_gradcheck_in_the_query_the_heights_and_the_points() -> None:
    points, heights = normal(12, 3), 0.3 * normal(12, seed=1)
    z = differentiable_queries(Discrete(points, heights), 0.6)

    def solve(z: torch.Tensor, heights: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pair = Discrete(points, heights).prox(z, 0.6)
        return pair.point, pair.multiplier

    inputs = tuple(tensor.clone().requires_grad_() for tensor in (z, heights, points))
    assert torch.autograd.gradcheck(solve, inputs, eps=1e-6, atol=1e-5, rtol=1e-4)


def test_gradient_in_the_step() -> None:
    points, heights = normal(12, 3), 0.3 * normal(12, seed=1)
    potential = Discrete(points, heights)
    z = differentiable_queries(potential, 0.6)
    step = torch.full((len(z),), 0.6, dtype=f64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: potential.prox(z, s).point, (step,), eps=1e-6, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e4, 1e12])
def test_scaling_everything_scales_the_answer(scale: float) -> None:
    points, heights = DATA["random"]()
    z = normal(50, 5, seed=3)
    plain = Discrete(points, heights).prox(z, 0.4)
    scaled = Discrete(scale * points, scale * heights).prox(scale * z, scale * 0.4)
    torch.testing.assert_close(scaled.point, scale * plain.point, rtol=1e-9, atol=1e-9 * scale)


def test_float32_is_as_good_as_its_bound_says() -> None:
    points, heights = DATA["random"]()
    z = normal(500, 5, seed=3)
    exact = Discrete(points.float().double(), heights.float().double()).prox(z.float().double(), 0.4)
    single = Discrete(points.float(), heights.float()).prox(z.float(), 0.4)
    assert (single.status == int(Status.converged)).all()
    distance = (single.point.double() - exact.point).norm(dim=1)
    assert (distance <= single.error_bound.double() + exact.error_bound).all()
    assert float(distance.median()) < 1e-5
