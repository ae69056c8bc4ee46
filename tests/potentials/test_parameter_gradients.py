"""Gradients with respect to atoms and heights under a symmetry, and refusals where there would be none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.potentials import Ellipsoid, Quadratic, Quantile, SymmetricDiscrete
from proxflow.symmetry import Group, HorizontalFlip, Symmetry

f64 = torch.float64
QUARTER = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=f64)
TURNS = Group(torch.stack([torch.linalg.matrix_power(QUARTER, k) for k in range(4)]))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


@pytest.mark.parametrize(("symmetry", "dim"), [(HorizontalFlip((2, 3)), 6), (TURNS, 2)], ids=["flip", "turns"])
@pytest.mark.parametrize("query", ["velocity", "recover_target", "transport", "conjugate", "value"])
def test_gradients_of_points_and_heights_under_a_symmetry(symmetry: Symmetry, dim: int, query: str) -> None:
    points, heights = normal(5, dim), 0.1 * normal(5, seed=1)
    x, weights = normal(4, dim, seed=2), normal(4, dim, seed=3)
    inside = 0.3 * points[:4] + 0.3 * symmetry.apply(points[1:], 1) + 0.4 * points.mean(0)

    def answer(points: Tensor, heights: Tensor) -> Tensor:
        potential = SymmetricDiscrete(points, heights, symmetry)
        flow = pf.ProximalFlow(potential)
        if query == "value":
            return potential.value(inside).sum()
        found: dict[str, Callable[[], Tensor]] = {
            "velocity": lambda: flow.velocity(0.4, x),
            "recover_target": lambda: flow.recover_target(0.7, x),
            "transport": lambda: flow.transport(x),
            "conjugate": lambda: potential.conjugate(x)[:, None],
        }
        return (weights * found[query]()).sum()

    for place, given in enumerate((points, heights)):
        arguments = [points, heights]
        arguments[place] = given.clone().requires_grad_()
        value = answer(*arguments)
        gradient = torch.zeros_like(given)
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, arguments[place])
        direction, h = normal(*given.shape, seed=4), 1e-6
        ahead, behind = (
            answer(*(each + sign * h * direction if each is given else each for each in (points, heights)))
            for sign in (1, -1)
        )
        wanted = (ahead - behind) / (2 * h)
        torch.testing.assert_close((gradient * direction).sum(), wanted, rtol=1e-5, atol=1e-6)


def test_images_that_were_made_without_gradients_serve_no_query_that_wants_them() -> None:
    points = normal(5, 6).requires_grad_()
    flow = pf.ProximalFlow(SymmetricDiscrete(points, torch.zeros(5, dtype=f64), HorizontalFlip((2, 3))))
    x = normal(4, 6, seed=2)
    with torch.no_grad():
        before = flow.velocity(0.4, x)
    for _ in range(2):
        found = flow.velocity(0.4, x)
        torch.testing.assert_close(found, before, rtol=1e-12, atol=1e-12)
        assert float(torch.autograd.grad(found.sum(), points)[0].abs().max()) > 0


@pytest.mark.parametrize(
    "build",
    [
        lambda wanted: Quadratic(wanted, torch.eye(2, dtype=f64)),
        lambda wanted: Ellipsoid(wanted.exp()),
        lambda wanted: Quantile((torch.tensor([0.0, 1.0], dtype=f64), wanted)),
        lambda wanted: Quadratic(wanted.detach(), torch.eye(2, dtype=f64)).rotate(torch.eye(2, dtype=f64), wanted),
    ],
    ids=["mean", "axes", "table", "shift"],
)
def test_a_gradient_that_a_parameter_would_not_get_is_refused(build: Callable[[Tensor], object]) -> None:
    wanted = torch.tensor([0.5, 1.0], dtype=f64, requires_grad=True)
    with pytest.raises(ValueError, match="requires a gradient, which it would not get"):
        build(wanted)
    with torch.no_grad():
        build(wanted)
