"""Weighted clouds against repeated points, POT, linear programming and quadrature; gradients against differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import ot
import pytest
import torch
from numpy.typing import NDArray
from scipy.optimize import linprog
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance as energy_on_the_line

from proxflow.metrics import Wasserstein, energy, energy_distance, transport, wasserstein
from tests.metrics.clouds import f64, normal
from tests.peak_memory import peak_bytes

METRICS: dict[str, Callable[..., Any]] = {
    "wasserstein": lambda *args, **kw: wasserstein(*args, **kw).value,
    "sliced": lambda *args, **kw: wasserstein(*args, exact_up_to=0, projections=50, **kw).value,
    "energy_distance": energy_distance,
}
LOSSES: dict[str, Callable[..., Any]] = {
    "wasserstein": lambda *args: wasserstein(*args, differentiable=True),
    "sliced": lambda *args: wasserstein(*args, exact_up_to=0, projections=20, differentiable=True),
    "energy_distance": lambda *args: energy_distance(*args, differentiable=True),
    "unbiased": lambda *args: energy_distance(*args, unbiased=True, differentiable=True),
}
every_metric = pytest.mark.parametrize("metric", METRICS)
every_loss = pytest.mark.parametrize("loss", LOSSES)


def masses(n: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=f64) + 0.1


@every_metric
@pytest.mark.parametrize("dim", [1, 3])
def test_a_whole_weight_is_a_repeated_point(metric: str, dim: int) -> None:
    x, y = normal(7, dim), normal(5, dim, seed=1) + 0.5
    times_x, times_y = torch.tensor([1, 2, 3, 1, 1, 4, 2]), torch.tensor([3, 1, 1, 2, 5])
    found = METRICS[metric](x, y, times_x, times_y)
    repeated = METRICS[metric](x.repeat_interleave(times_x, 0), y.repeat_interleave(times_y, 0))
    assert found == pytest.approx(repeated, rel=1e-9)


@every_metric
@pytest.mark.parametrize("dim", [1, 2])
def test_only_proportions_count_and_points_of_no_weight_do_not(metric: str, dim: int) -> None:
    x, y, a, b = normal(9, dim), normal(6, dim, seed=1), masses(9), masses(6, 1)
    expected = METRICS[metric](x, y, a, b)
    assert METRICS[metric](x, y, a * 1e-200, b * 1e200) == pytest.approx(expected, rel=1e-12)
    x, a = torch.cat([normal(2, dim, seed=2) * 3, x]), torch.cat([torch.zeros(2, dtype=f64), a])
    assert METRICS[metric](x, y, a, b) == pytest.approx(expected, rel=1e-6 if metric == "sliced" else 1e-12)


@every_metric
def test_equal_weights_are_none(metric: str) -> None:
    x, y = normal(9, 2), normal(9, 2, seed=1)
    assert METRICS[metric](x, y, torch.full((9,), 3.0), None) == METRICS[metric](x, y)


def test_weighted_w2_agrees_with_linear_programming() -> None:
    x, y, a, b = normal(12, 3), normal(9, 3, seed=1) + 1, masses(12), masses(9, 1)
    cost = cdist(x.numpy(), y.numpy(), "sqeuclidean")
    marginals = np.concatenate([np.kron(np.eye(12), np.ones(9)), np.kron(np.ones(12), np.eye(9))])
    shares = torch.cat([a / a.sum(), b / b.sum()]).numpy()
    programme = linprog(cost.ravel(), A_eq=marginals, b_eq=shares, method="highs")
    assert wasserstein(x, y, a, b).value == pytest.approx(math.sqrt(programme.fun), rel=1e-9)


def test_weighted_w2_on_the_line_integrates_the_quantile_functions() -> None:
    x, y, a, b = normal(6), normal(4, seed=1) + 1, masses(6), masses(4, 1)
    levels = (np.arange(400_000) + 0.5) / 400_000

    def quantile(points: torch.Tensor, weights: torch.Tensor) -> NDArray[np.float64]:
        order = points.argsort()
        steps = (weights[order].cumsum(0) / weights.sum()).numpy()
        return points[order].numpy()[np.searchsorted(steps, levels).clip(max=len(points) - 1)]

    expected = math.sqrt(np.square(quantile(x, a) - quantile(y, b)).mean())
    assert wasserstein(x, y, a, b).value == pytest.approx(expected, rel=1e-4)


def test_the_weighted_sliced_distance_is_that_of_pot() -> None:
    x, y, a, b = normal(30, 3), normal(20, 3, seed=1) + 1, masses(30), masses(20, 1)
    own = wasserstein(x, y, a, b, exact_up_to=0, projections=20_000).value
    other = ot.sliced_wasserstein_distance(
        x.numpy(), y.numpy(), (a / a.sum()).numpy(), (b / b.sum()).numpy(), 20_000, seed=1
    )
    assert own == pytest.approx(other, rel=0.02)


def test_the_weighted_energy_distance_on_the_line_is_that_of_scipy() -> None:
    x, y, a, b = normal(30), normal(20, seed=1) + 1, masses(30), masses(20, 1)
    expected = energy_on_the_line(x.numpy(), y.numpy(), a.numpy(), b.numpy()) ** 2
    assert energy_distance(x, y, a, b) == pytest.approx(expected, rel=1e-12)


def test_the_weighted_unbiased_energy_distance_leaves_out_pairs_of_a_point_with_itself() -> None:
    x, y, a, b = normal(7, 2), normal(5, 2, seed=1), masses(7), masses(5, 1)

    def mean_distance(x: torch.Tensor, y: torch.Tensor, a: torch.Tensor, b: torch.Tensor, same: bool) -> float:
        pairs = [(i, j) for i in range(len(x)) for j in range(len(y)) if not (same and i == j)]
        total = sum(float(a[i] * b[j]) * math.dist(x[i].tolist(), y[j].tolist()) for i, j in pairs)
        return total / sum(float(a[i] * b[j]) for i, j in pairs)

    expected = 2 * mean_distance(x, y, a, b, False) - mean_distance(x, x, a, a, True) - mean_distance(y, y, b, b, True)
    assert energy_distance(x, y, a, b, unbiased=True) == pytest.approx(expected, rel=1e-12)


def test_a_tiny_weight_leaves_the_distance_of_two_different_draws() -> None:
    x = torch.tensor([[0.0], [3.0]], dtype=f64)
    # all pairs of different points are 3 apart, whatever their weights: 2 E|X - Y| - 3 - 3 with Y = X
    found = energy_distance(x, x, torch.tensor([1.0, 1e-20], dtype=f64), torch.tensor([1.0, 1.0]), unbiased=True)
    assert found == pytest.approx(2 * 1.5 - 3 - 3, rel=1e-12)


@pytest.mark.parametrize(("weight", "dim"), [(1e-3, 1), (1e-9, 1), (1e-15, 1), (1e-3, 2), (1e-15, 2), (1e-30, 2)])
def test_a_far_point_of_small_weight_costs_its_share(weight: float, dim: int) -> None:
    """All but ``weight`` stays where it is; the rest goes a distance of weight^-1/2: W2^2 = 1 - weight."""
    x = torch.zeros(2, dim, dtype=f64)
    x[1, 0] = weight**-0.5
    found = wasserstein(x, x[:1], torch.tensor([1 - weight, weight], dtype=f64)).value
    assert found == pytest.approx(1.0, rel=1e-3)


@every_metric
def test_single_points_are_their_distance_apart(metric: str) -> None:
    x, y = torch.tensor([[0.0, 0.0]], dtype=f64), torch.tensor([[3.0, 4.0]], dtype=f64)
    weight = torch.tensor([0.2])
    expected = {"wasserstein": 5.0, "energy_distance": 10.0}
    if metric in expected:
        assert METRICS[metric](x, y, weight, weight) == expected[metric]
    assert METRICS[metric](x, x, weight, weight) == 0


def test_equal_laws_of_unequal_weights_are_at_no_distance() -> None:
    x, a = normal(40, 2), masses(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert wasserstein(x, x[order], a, a[order]).value < 1e-7  # the root of the rounding of weights
    assert wasserstein(x[:, :1], x[order, :1], a, a[order]).value < 1e-7
    assert energy_distance(x, x[order], a, a[order]) == pytest.approx(0, abs=1e-14)


BAD = {
    "length": (torch.ones(4), r"a_weights must have shape \(3,\), got \(4,\)"),
    "negative": (torch.tensor([1.0, -1.0, 1.0]), r"a_weights must be finite and not negative; rows \[1\]"),
    "not finite": (torch.tensor([1.0, 1.0, math.nan]), r"a_weights must be .*; rows \[2\]"),
    "zero": (torch.zeros(3), "a_weights are all zero"),
    "text": (["a", "b", "c"], "a_weights must be .* convert it to numbers"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.parametrize("metric", [wasserstein, energy_distance])
def test_bad_weights_are_refused_by_name(metric: Any, case: str) -> None:
    weights, said = BAD[case]
    with pytest.raises(ValueError, match=f"{metric.__name__}: .*{said}"):
        metric(normal(3, 2), normal(3, 2), weights)
    with pytest.raises(ValueError, match=f"{metric.__name__}: .*{said.replace('a_w', 'b_w')}"):
        metric(normal(3, 2), normal(3, 2), None, weights)


# ------------------------------------------------------------------ gradients


@every_loss
@pytest.mark.parametrize(("n", "m", "dim"), [(5, 5, 2), (6, 4, 3), (5, 3, 1), (4, 4, 1)])
def test_gradients_in_the_points_are_those_of_differences(loss: str, n: int, m: int, dim: int) -> None:
    x, y = normal(n, dim).requires_grad_(), (normal(m, dim, seed=1) + 0.7).requires_grad_()
    assert torch.autograd.gradcheck(LOSSES[loss], (x, y))


@every_loss
@pytest.mark.parametrize(("n", "m", "dim"), [(5, 5, 2), (6, 4, 3), (5, 3, 1)])
def test_gradients_in_points_and_weights_are_those_of_differences(loss: str, n: int, m: int, dim: int) -> None:
    x, y = normal(n, dim).requires_grad_(), (normal(m, dim, seed=1) + 0.7).requires_grad_()
    assert torch.autograd.gradcheck(
        LOSSES[loss], (x, y, masses(n).requires_grad_(), masses(m, 1).requires_grad_()), atol=1e-6
    )


@pytest.mark.parametrize("loss", ["wasserstein", "energy_distance"])
def test_the_weight_of_a_point_without_mass_has_a_one_sided_derivative(loss: str) -> None:
    x, y = normal(5, 2), normal(4, 2, seed=1) + 0.7
    a, b = masses(5), masses(4, 1)
    a[2] = 0
    a.requires_grad_()
    (gradient,) = torch.autograd.grad(LOSSES[loss](x, y, a, b), a)
    step, moved = 1e-7, a.detach().clone()
    moved[2] += step
    with torch.no_grad():
        difference = (LOSSES[loss](x, y, moved, b) - LOSSES[loss](x, y, a, b)) / step
    assert float(gradient[2]) == pytest.approx(float(difference), rel=1e-5)


@every_loss
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_has_the_value_of_the_metric(loss: str, weighted: bool) -> None:
    x, y = normal(12, 3).float(), normal(9, 3, seed=1).float() + 1
    weights = (masses(12), masses(9, 1)) if weighted else ()
    found = LOSSES[loss](x, y, *weights)
    if loss == "unbiased":
        expected = energy_distance(x, y, *weights, unbiased=True)
    elif loss == "sliced":
        expected = wasserstein(x, y, *weights, exact_up_to=0, projections=20).value
    else:
        expected = METRICS[loss](x, y, *weights)
    assert found.shape == ()
    assert found.dtype == torch.float32
    assert float(found.detach()) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("loss", ["wasserstein", "sliced", "energy_distance"])
def test_where_the_clouds_agree_the_gradient_is_zero(loss: str) -> None:
    x = normal(6, 2).requires_grad_()
    value = LOSSES[loss](x, x.detach().clone())
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(x.grad, torch.zeros_like(x))


@pytest.mark.parametrize("loss", ["wasserstein", "sliced", "energy_distance"])
@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_gradients_do_not_depend_on_the_scale(loss: str, scale: float) -> None:
    x, y = normal(6, 2), normal(4, 2, seed=1) + 1
    gradients = []
    for factor in (1.0, scale):
        at = (x * factor).requires_grad_()
        gradients.append(torch.autograd.grad(LOSSES[loss](at, y * factor), at)[0])
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("loss", ["wasserstein", "energy_distance"])
def test_descent_brings_one_cloud_to_the_other(loss: str) -> None:
    y = normal(10, 2, seed=1) + 2
    x = normal(10, 2).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.1)
    first = float(LOSSES[loss](x.detach(), y))
    for _ in range(150):
        optimiser.zero_grad()
        LOSSES[loss](x, y).backward()
        optimiser.step()
    assert float(LOSSES[loss](x.detach(), y)) < 0.1 * first


def test_without_the_option_nothing_is_differentiated() -> None:
    x = normal(5, 2).requires_grad_()
    assert isinstance(wasserstein(x, normal(4, 2)), Wasserstein)
    assert isinstance(wasserstein(x, normal(4, 2)).value, float)
    assert isinstance(energy_distance(x, normal(4, 2)), float)


def test_memory_of_a_gradient_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_BLOCK_NUMBERS", 1 << 14)
    x = normal(1000, 2).requires_grad_()

    loss = LOSSES["energy_distance"]
    assert (
        peak_bytes(lambda: torch.autograd.grad(loss(x, x.detach() + 1), x)) < 2_000_000
    )  # 1000 x 1000 distances would be 8 MB


def test_memory_of_a_sliced_gradient_does_not_grow_with_the_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_PROJECTED_NUMBERS", 10 * 400)
    x, y = normal(200, 3).requires_grad_(), normal(200, 3, seed=1)

    def peak(projections: int) -> int:
        return peak_bytes(
            lambda: torch.autograd.grad(
                wasserstein(x, y, exact_up_to=0, projections=projections, differentiable=True), x
            )
        )

    assert peak(100) < 1.2 * peak(20)
