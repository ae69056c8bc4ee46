"""The discrete potential: its value, contact sets, checks, and what PyTorch does with it."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog

import proxflow as pf
from proxflow.potentials import Discrete

f64 = torch.float64
SQUARE = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=f64)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = f64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def random_potential(n: int = 30, d: int = 3) -> Discrete:
    return Discrete(normal(n, d), 0.3 * normal(n, seed=1))


def envelope(potential: Discrete, y: torch.Tensor) -> float:
    """psi(y) by linear programming."""
    count = len(potential.points)
    equal = np.vstack([potential.points.numpy().T, np.ones(count)])
    solution = linprog(potential.heights.numpy(), A_eq=equal, b_eq=np.append(y.numpy(), 1.0))
    return float(solution.fun) if solution.success else float("inf")


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_value_is_the_lower_convex_envelope(scale: float) -> None:
    potential = Discrete(scale * normal(30, 3), scale * 0.3 * normal(30, seed=1))
    weights = torch.softmax(3 * normal(20, 30, seed=2), dim=1)
    inside = weights @ potential.points
    expected = torch.tensor([envelope(potential, y) for y in inside], dtype=f64)
    torch.testing.assert_close(potential.value(inside), expected, rtol=1e-8, atol=1e-9 * scale)
    outside = inside + 20 * scale
    assert torch.isinf(potential.value(outside)).all()


@pytest.mark.parametrize("y", [1e-10, 1e-7, 1e-4, 0.3])
def test_value_next_to_a_vertex_of_a_steep_envelope(y: float) -> None:
    potential = Discrete(torch.tensor([[0.0], [1.0]], dtype=f64), torch.tensor([0.0, 8.0], dtype=f64))
    assert float(potential.value(torch.tensor([[y]], dtype=f64))) == pytest.approx(8 * y, rel=1e-9)


@pytest.mark.parametrize(("dim", "count", "steepness"), [(1, 5, 4e3), (2, 30, 1e3), (8, 60, 1.0)])
def test_value_on_faces_of_the_hull(dim: int, count: int, steepness: float) -> None:
    """There the slope of the envelope can be large."""
    potential = Discrete(normal(count, dim), steepness * normal(count, seed=1))
    order = torch.stack([torch.randperm(count, generator=torch.Generator().manual_seed(k)) for k in range(12)])
    corners = torch.where(torch.arange(count) < 1 + torch.arange(12)[:, None] % dim, 1.0, 0.0).to(f64)
    weights = torch.zeros(12, count, dtype=f64).scatter(1, order, corners)
    y = (weights / weights.sum(1, keepdim=True)) @ potential.points
    expected = torch.tensor([envelope(potential, row) for row in y], dtype=f64)
    torch.testing.assert_close(potential.value(y), expected, rtol=1e-6, atol=1e-6 * steepness)


def test_atoms_changed_in_place_are_seen() -> None:
    potential, x = random_potential(), normal(20, 3, seed=2)
    before = potential.prox(x, 0.5).point
    with torch.no_grad():
        potential.heights.add_(normal(len(potential.heights), seed=3))
    moved = Discrete(potential.points.clone(), potential.heights.clone())
    assert not torch.allclose(potential.prox(x, 0.5).point, before)
    assert torch.equal(potential.prox(x, 0.5).point, moved.prox(x, 0.5).point)
    assert torch.equal(potential.nearest_atom(x), moved.nearest_atom(x))


def test_in_float64_atoms_have_all_their_digits() -> None:
    single = Discrete(normal(50, 3).float(), normal(50, seed=1).float())
    double = copy.deepcopy(single).double()
    fresh = Discrete(single.points.double(), single.heights.double())
    x = normal(20, 3, seed=2)
    assert torch.equal(double.prox(x, 0.5).point, fresh.prox(x, 0.5).point)


def test_first_asked_in_inference_mode_it_can_be_differentiated_later() -> None:
    potential, x = random_potential(), normal(20, 3, seed=2)
    with torch.inference_mode():
        inside = potential.prox(x, 0.5).point.clone()
    z = x.clone().requires_grad_()
    point = potential.prox(z, 0.5).point
    point.sum().backward()
    torch.testing.assert_close(point.detach(), inside, rtol=1e-10, atol=1e-10)
    assert z.grad is not None


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_rounding_is_no_direction_of_a_face(dtype: torch.dtype) -> None:
    """A regular polygon in a plane of R^8: all its atoms share one face, of dimension 2."""
    angle = torch.arange(12, dtype=f64) * math.pi / 6
    frame = torch.linalg.qr(normal(8, 8)).Q[:2]
    points = torch.stack([angle.cos(), angle.sin()], dim=1) @ frame
    potential = Discrete(points.to(dtype), torch.zeros(12, dtype=dtype))
    trace = potential.prox_jacobian(0.01 * normal(100, 8, seed=1).to(dtype), 1.0).diagonal(dim1=1, dim2=2).sum(1)
    torch.testing.assert_close(trace, torch.full_like(trace, 2.0), rtol=1e-4, atol=1e-4)


def test_the_contact_set_counts_atoms_that_share_a_face_not_those_in_use() -> None:
    """On a square of equal heights the centre is in the hull of either diagonal; the face is the whole square."""
    potential = Discrete(SQUARE, torch.zeros(4, dtype=f64))
    centre = torch.tensor([[0.5, 0.5]], dtype=f64)
    torch.testing.assert_close(potential.prox_jacobian(centre, 1.0)[0], torch.eye(2, dtype=f64))
    beyond_an_edge = torch.tensor([[1.7, 0.5]], dtype=f64)
    expected = torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=f64)
    torch.testing.assert_close(potential.prox_jacobian(beyond_an_edge, 1.0)[0], expected)
    beyond_a_corner = torch.tensor([[1.7, 1.9]], dtype=f64)
    torch.testing.assert_close(potential.prox_jacobian(beyond_a_corner, 1.0)[0], torch.zeros(2, 2, dtype=f64))


def test_second_epi_derivative_is_zero_on_the_face_and_infinite_off_it() -> None:
    potential = Discrete(SQUARE, torch.zeros(4, dtype=f64))
    edge, outward = torch.tensor([[1.0, 0.5]], dtype=f64), torch.tensor([[0.7, 0.0]], dtype=f64)
    form = potential.second_epi_derivative(edge, outward)
    assert form.subspace_dimension.tolist() == [1]
    assert form(torch.tensor([[0.0, 3.0]], dtype=f64)).tolist() == [0.0]
    assert form(torch.tensor([[1.0, 0.0]], dtype=f64)).tolist() == [float("inf")]


def test_brenier_map_gives_the_nearest_atom_and_conjugate_its_score() -> None:
    potential = random_potential()
    u = normal(100, 3, seed=4)
    scores = u @ potential.points.mT - potential.heights
    assert torch.equal(potential.nearest_atom(u), scores.argmax(1))
    assert torch.equal(potential.brenier_map(u), potential.points[scores.argmax(1)])
    torch.testing.assert_close(potential.conjugate(u), scores.amax(1), rtol=1e-12, atol=1e-12)


def test_one_atom_is_a_dirac() -> None:
    potential = Discrete(torch.ones(1, 2, dtype=f64), torch.zeros(1, dtype=f64))
    assert torch.equal(potential.prox(normal(5, 2), 0.3).point, torch.ones(5, 2, dtype=f64))
    flow = pf.ProximalFlow(potential)
    assert torch.equal(flow.sample(3), torch.ones(3, 2, dtype=f64))


@pytest.mark.parametrize(
    ("points", "heights", "weights", "said"),
    [
        (torch.zeros(0, 2), torch.zeros(0), None, r"points must be a non-empty \(N, d\) tensor, got shape \(0, 2\)"),
        (torch.zeros(3), torch.zeros(3), None, r"got shape \(3,\)"),
        (torch.eye(3).long(), torch.zeros(3), None, "float32 or float64, got torch.int64"),
        (torch.eye(3), torch.zeros(2), None, r"heights must have shape \(3,\), got \(2,\)"),
        (torch.eye(3).double(), torch.zeros(3), None, "heights is torch.float32 on cpu, the points are torch.float64"),
        (torch.eye(3), torch.zeros(3).half(), None, "give them in torch.float32 or in float64"),
        (torch.eye(3), torch.tensor([0.0, torch.nan, 0.0]), None, "heights must be finite"),
        (torch.tensor([[1.0], [torch.inf]]), torch.zeros(2), None, r"1 row of points is not finite.*\[1\]"),
        (torch.ones(2, 2), torch.zeros(2), None, "distinct; merge equal rows"),
        (torch.eye(2), torch.zeros(2), torch.tensor([1.0, 0.0]), "weights must be positive"),
        (torch.eye(2), torch.zeros(2), torch.ones(3), r"weights must have shape \(2,\)"),
    ],
)
def test_bad_atoms_are_refused(points: torch.Tensor, heights: torch.Tensor, weights: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Discrete(points, heights, weights)


def test_a_query_of_another_dtype_is_refused_with_both_named() -> None:
    with pytest.raises(ValueError, match=r"torch\.float32 on cpu, the points are torch\.float64 on cpu"):
        random_potential().prox(torch.zeros(2, 3), 1.0)


def test_a_source_of_another_dimension_is_refused() -> None:
    with pytest.raises(ValueError, match="source has dimension 4, the potential 3"):
        Discrete(torch.eye(3), torch.zeros(3), source=pf.measures.Gaussian(4))


def test_weights_are_normalised() -> None:
    potential = Discrete(SQUARE, torch.zeros(4, dtype=f64), torch.tensor([1.0, 1.0, 2.0, 4.0], dtype=f64))
    assert potential.weights.tolist() == [0.125, 0.125, 0.25, 0.5]


def test_the_state_is_points_heights_and_weights_and_survives_a_copy() -> None:
    potential = random_potential()
    assert sorted(potential.state_dict()) == ["heights", "points", "weights"]
    z = normal(5, 3, seed=2)
    assert torch.equal(copy.deepcopy(potential).prox(z, 1.0).point, potential.prox(z, 1.0).point)


def test_compiled_without_graph_breaks() -> None:
    potential = random_potential()
    flow = pf.ProximalFlow(potential)
    x = normal(20, 3, seed=2)
    compiled = torch.compile(
        lambda x: flow.velocity(torch.tensor(0.4, dtype=f64), x), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), flow.velocity(0.4, x), rtol=1e-12, atol=1e-12)


def test_forward_mode_agrees_with_the_jacobian() -> None:
    potential = random_potential()
    z, direction = normal(30, 3, seed=2), normal(30, 3, seed=3)
    pushed = torch.func.jvp(lambda z: potential.prox(z, 0.7).point, (z,), (direction,))[1]
    expected = (potential.prox_jacobian(z, 0.7) @ direction[..., None])[..., 0]
    torch.testing.assert_close(pushed, expected, rtol=1e-8, atol=1e-9)


def test_a_fit_of_shapes_can_be_trained_through() -> None:
    """Gradient of a loss on recovered targets moves the heights of the atoms in use, and only theirs."""
    points = normal(10, 2)
    heights = torch.zeros(10, dtype=f64, requires_grad=True)
    potential = Discrete(points, heights)
    pf.ProximalFlow(potential).recover_target(0.5, normal(50, 2, seed=1)).square().sum().backward()
    assert heights.grad is not None
    assert torch.isfinite(heights.grad).all()
    assert float(heights.grad.sum().abs()) < 1e-8  # a common shift of the heights changes nothing
    assert float(heights.grad.abs().max()) > 1e-3
