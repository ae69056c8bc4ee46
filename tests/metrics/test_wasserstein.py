"""W2 against translations, Bures, sorting, integration of quantile functions and general solvers."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import cdist

from proxflow.errors import ConvergenceError, MissingExtraError
from proxflow.metrics import Wasserstein, transport, wasserstein
from tests.metrics.clouds import BAD_PAIRS, check_refusals, f64, normal
from tests.peak_memory import peak_bytes


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize("event", [(1,), (), (3,), (2, 2)])
def test_a_translation_costs_its_length(event: tuple[int, ...], dtype: torch.dtype) -> None:
    x = normal(40, *event).to(dtype)
    shift = torch.full(event, 0.75, dtype=dtype)
    y = (x + shift)[torch.randperm(40, generator=torch.Generator().manual_seed(1))]
    result = wasserstein(x, y)
    assert result.value == pytest.approx(0.75 * math.sqrt(max(1, math.prod(event))), rel=10 * torch.finfo(dtype).eps)
    assert (result.method, result.projections) == ("exact", 0)


def test_equal_sizes_agree_with_the_assignment_problem() -> None:
    x, y = normal(60, 5), normal(60, 5, seed=1) + 0.3
    cost = cdist(x.numpy(), y.numpy(), "sqeuclidean")
    rows, columns = linear_sum_assignment(cost)
    assert wasserstein(x, y).value == pytest.approx(math.sqrt(cost[rows, columns].mean()), rel=1e-12)


@pytest.mark.parametrize("d", [2, 30])
def test_the_assignment_of_equal_sizes_and_the_network_simplex_of_unequal_ones_agree(d: int) -> None:
    x, y = normal(250, d), normal(250, d, seed=1) * 2 + 0.3
    # every point twice on one side only: the same two measures, by the other solver
    assert wasserstein(x, y).value == pytest.approx(wasserstein(x.repeat(2, 1), y).value, rel=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 5), (7, 3), (12, 8)])
def test_unequal_sizes_agree_with_linear_programming(n: int, m: int) -> None:
    x, y = normal(n, 2), normal(m, 2, seed=1) + 1
    cost = cdist(x.numpy(), y.numpy(), "sqeuclidean")
    marginals = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    masses = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    programme = linprog(cost.ravel(), A_eq=marginals, b_eq=masses, method="highs")
    assert wasserstein(x, y).value == pytest.approx(math.sqrt(programme.fun), rel=1e-9)


def test_gaussian_samples_are_as_far_apart_as_bures_says() -> None:
    matrix_a, matrix_b, mean = (
        np.array([[1.0, 0.0], [0.8, 0.6]]),
        np.array([[2.0, 0.0], [0.0, 0.5]]),
        np.array([2, 1.0]),
    )
    a, b = matrix_a @ matrix_a.T, matrix_b @ matrix_b.T
    # tr (A^1/2 B A^1/2)^1/2 is the sum of the singular values of matrix_a^T matrix_b
    cross = np.linalg.svd(matrix_a.T @ matrix_b, compute_uv=False).sum()
    bures = math.sqrt(mean @ mean + np.trace(a) + np.trace(b) - 2 * cross)
    estimates = [
        wasserstein(
            normal(500, 2, seed=seed) @ torch.from_numpy(matrix_a).mT,
            normal(500, 2, seed=seed + 100) @ torch.from_numpy(matrix_b).mT + torch.from_numpy(mean),
        ).value
        for seed in range(8)
    ]
    error = np.std(estimates, ddof=1) / math.sqrt(len(estimates))
    bias = 0.02  # of clouds of 500 points in the plane, log(500) / 500 in W2^2
    assert abs(np.mean(estimates) - bures) < 4 * error + bias


def test_on_the_line_equal_sizes_pair_in_order() -> None:
    x, y = normal(20_000), normal(20_000, seed=1) * 2
    expected = (x.sort().values - y.sort().values).square().mean().sqrt()
    result = wasserstein(x, y, exact_up_to=10)
    assert result.value == pytest.approx(float(expected), rel=1e-12)
    assert (result.method, result.projections) == ("exact", 0)


def test_on_the_line_unequal_sizes_integrate_the_quantile_functions() -> None:
    x, y = normal(6), normal(9, seed=1) + 1  # every point repeated until there are 18 of each
    expected = (x.repeat_interleave(3).sort().values - y.repeat_interleave(2).sort().values).square().mean().sqrt()
    assert wasserstein(x[:, None], y[:, None]).value == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("event", [(), (1,), (3,)])
def test_repeated_points_are_the_same_law(event: tuple[int, ...]) -> None:
    x = normal(33, *event)
    assert wasserstein(x, torch.cat([x, x, x])).value == 0


def test_the_exact_and_sorted_answers_agree_on_the_line() -> None:
    x, y = normal(50, 1), normal(35, 1, seed=1) - 1
    still = torch.zeros(1, dtype=f64)
    plane = wasserstein(torch.cat([x, still.expand(50, 1)], 1), torch.cat([y, still.expand(35, 1)], 1))
    assert plane.value == pytest.approx(wasserstein(x, y).value, rel=1e-12)


def test_a_sliced_translation_is_its_length_over_the_root_of_the_dimension() -> None:
    x = normal(100, 4)
    shift = torch.tensor([3.0, 0, -1, 2], dtype=f64)
    result = wasserstein(x, x + shift, exact_up_to=99, projections=4000)
    # Var <theta, shift>^2 = |shift|^4 (3 / (d (d + 2)) - 1 / d^2) for theta on the sphere
    deviation = math.sqrt((3 / 24 - 1 / 16) / 4000) * float(shift.square().sum())
    assert result.value**2 == pytest.approx(float(shift.square().sum()) / 4, abs=4 * deviation)
    assert (result.method, result.projections) == ("sliced", 4000)


def test_the_sliced_distance_is_the_mean_over_directions(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = normal(30, 3), normal(20, 3, seed=1) + 1
    whole = wasserstein(x, y, exact_up_to=0, projections=200, seed=5).value
    monkeypatch.setattr(transport, "_PROJECTED_NUMBERS", 7 * 50)
    assert wasserstein(x, y, exact_up_to=0, projections=200, seed=5).value == pytest.approx(whole, rel=1e-12)
    assert wasserstein(x, y, exact_up_to=0, projections=200, seed=6).value != whole
    assert whole <= wasserstein(x, y).value / math.sqrt(3) * 1.1


def test_the_larger_cloud_decides_between_exact_and_sliced() -> None:
    x, y = normal(5, 2), normal(8, 2, seed=1)
    assert wasserstein(x, y, exact_up_to=8).method == wasserstein(y, x, exact_up_to=8).method == "exact"
    assert wasserstein(x, y, exact_up_to=7).method == wasserstein(y, x, exact_up_to=7).method == "sliced"


@pytest.mark.parametrize("exact_up_to", [0, 100])
@pytest.mark.parametrize("dim", [1, 3])
@pytest.mark.parametrize("scale", [1e-200, 1e200, 2e307])
def test_scales_with_the_points(scale: float, dim: int, exact_up_to: int) -> None:
    x, y = normal(30, dim), normal(20, dim, seed=1) + 1
    expected = wasserstein(x, y, exact_up_to=exact_up_to).value
    found = wasserstein(x * scale, y * scale, exact_up_to=exact_up_to).value
    assert found == pytest.approx(scale * expected, rel=1e-12)


def test_loses_no_digits_far_from_the_origin() -> None:
    x, y = normal(30, 3).round(decimals=3) * 2**10, normal(20, 3, seed=1).round(decimals=3) * 2**10
    x, y, away = x.round(), y.round(), 2.0**45
    for exact_up_to in (0, 100):
        near = wasserstein(x, y, exact_up_to=exact_up_to).value
        assert wasserstein(x + away, y + away, exact_up_to=exact_up_to).value == pytest.approx(near, rel=1e-12)


def test_a_distance_far_below_the_extent_of_the_clouds_is_found() -> None:
    x = normal(100, 3)
    assert wasserstein(x, x.flip(0) + 1e-6).value == pytest.approx(1e-6 * math.sqrt(3), rel=1e-3)


def test_equal_points_are_at_no_distance() -> None:
    assert wasserstein(torch.ones(4, 2), torch.ones(3, 2)) == Wasserstein(0.0, "exact", 0)
    assert wasserstein(torch.zeros(4, 2), torch.zeros(3, 2), exact_up_to=0, projections=9) == Wasserstein(
        0.0, "sliced", 9
    )


def test_is_symmetric_and_takes_points_with_gradients() -> None:
    x, y = normal(12, 2).requires_grad_(), normal(17, 2, seed=1)
    assert wasserstein(x, y).value == pytest.approx(wasserstein(y, x).value, rel=1e-12)


def test_sliced_memory_does_not_grow_with_the_projections(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_PROJECTED_NUMBERS", 10 * 400)
    x, y = normal(200, 3), normal(200, 3, seed=1)
    few = peak_bytes(lambda: wasserstein(x, y, exact_up_to=0, projections=20))
    many = peak_bytes(lambda: wasserstein(x, y, exact_up_to=0, projections=100))
    assert many < 1.1 * few


def test_a_simplex_that_does_not_finish_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_MOST_PIVOTS", 3)
    with pytest.raises(ConvergenceError, match=r"did not finish.*exact_up_to=0"):
        wasserstein(normal(50, 2), normal(49, 2, seed=1))


def test_what_the_simplex_loses_to_rounding_is_an_error() -> None:
    """A far point in both clouds costs 1e13 times what the others do, if moved: POT keeps no digits of the rest."""
    x, y = normal(100, 3), normal(100, 3, seed=1)
    near = wasserstein(x, y.repeat(2, 1)).value
    x[0], y[7] = 1e7, 1e7
    assert wasserstein(x, y).value == pytest.approx(near, rel=0.2)
    with pytest.raises(ConvergenceError, match=r"with a gap of .*% of W2.*equal size"):
        wasserstein(x, y.repeat(2, 1))


def test_a_missing_pot_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtraError, match=r"POT.*proxflow\[metrics\]"):
        wasserstein(normal(3, 2), normal(3, 2))


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_refuses_bad_clouds(case: str) -> None:
    check_refusals(wasserstein, case)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"exact_up_to": -1}, "exact_up_to must be an integer of at least 0, got -1"),
        ({"exact_up_to": 1e4}, "exact_up_to must be an integer"),
        ({"projections": 0}, "projections must be an integer of at least 1, got 0"),
        ({"projections": True}, "projections must be an integer"),
        ({"seed": -(2**63) - 1}, "seed must be an integer of at most 64 bits"),
        ({"seed": 2**64}, "seed must be an integer of at most 64 bits"),
        ({"seed": 0.5}, "seed must be an integer of at most 64 bits"),
    ],
)
def test_refuses_bad_settings(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"wasserstein: {message}"):
        wasserstein(normal(3, 2), normal(3, 2), **setting)
