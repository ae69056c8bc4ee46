"""Assignments against brute force and scipy on distances without cancellation."""

from __future__ import annotations

import itertools
import math
import sys
import warnings
from collections.abc import Callable
from typing import Any

import ot
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from proxflow.errors import ConvergenceWarning, MissingExtraError
from proxflow.kernels.assignment import (
    _centred,
    _deviation,
    _soft_prices,
    least_cost_permutation,
    sinkhorn_permutation,
)
from tests.marks import slow_beyond

F32, F64 = torch.float32, torch.float64


def batches(n: int, d: int, dtype: torch.dtype = F64, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0 = torch.randn(n, d, generator=generator, dtype=F64)
    x1 = torch.linspace(0.2, 2.0, d, dtype=F64) * torch.randn(n, d, generator=generator, dtype=F64)
    return x0.to(dtype), x1.to(dtype)


def distances(x0: Tensor, x1: Tensor) -> Tensor:
    return (x0.double()[:, None] - x1.double()).square().sum(-1)


def cost(x0: Tensor, x1: Tensor, permutation: Tensor) -> float:
    return float(distances(x0, x1)[torch.arange(len(x0)), permutation].sum())


def least_cost(x0: Tensor, x1: Tensor) -> float:
    table = distances(x0, x1).numpy()
    return float(table[linear_sum_assignment(table)].sum())


def is_permutation(permutation: Tensor, n: int) -> bool:
    return permutation.dtype == torch.int64 and torch.equal(permutation.sort().values, torch.arange(n))


# ------------------------------------------------------------------ exact


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("n", [1, 2, 17, 450])
@pytest.mark.parametrize("d", [1, 2, 3, 8, 9, 20])
def test_costs_what_scipy_s_assignment_costs(d: int, n: int, dtype: torch.dtype) -> None:
    x0, x1 = batches(n, d, dtype)
    permutation = least_cost_permutation(x0, x1)
    assert is_permutation(permutation, n)
    assert cost(x0, x1, permutation) == pytest.approx(least_cost(x0, x1), rel=1e-12)


@pytest.mark.parametrize("d", [1, 3, 12])
def test_no_permutation_of_five_is_cheaper(d: int) -> None:
    x0, x1 = batches(5, d)
    every = [cost(x0, x1, torch.tensor(order)) for order in itertools.permutations(range(5))]
    assert cost(x0, x1, least_cost_permutation(x0, x1)) == pytest.approx(min(every), rel=1e-13)


@pytest.mark.parametrize("d", [1, 2, 20])
def test_two_batches_that_are_one_reordered_are_put_in_order(d: int, generator: torch.Generator) -> None:
    x0, _ = batches(60, d)
    order = torch.randperm(60, generator=generator)
    assert torch.equal(x0[order][least_cost_permutation(x0, x0[order])], x0)


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("d", [1, 2, 20])
def test_duplicates_are_each_used_once(d: int, dtype: torch.dtype) -> None:
    x0, x1 = batches(90, d, dtype)
    x1 = x1[:7].repeat(13, 1)[:90]
    permutation = least_cost_permutation(x0, x1)
    assert is_permutation(permutation, 90)
    assert cost(x0, x1, permutation) == pytest.approx(least_cost(x0, x1), rel=1e-12)


@pytest.mark.parametrize("d", [1, 2, 20])
def test_float64_tells_points_apart_that_float32_does_not(d: int, generator: torch.Generator) -> None:
    x0, x1 = batches(90, d)
    x1 = x1[:5].repeat(18, 1) + 1e-8 * torch.randn(90, d, generator=generator, dtype=F64)
    assert cost(x0, x1, least_cost_permutation(x0, x1)) == pytest.approx(least_cost(x0, x1), rel=1e-14)


@pytest.mark.parametrize("d", [1, 2, 20])
@pytest.mark.parametrize("shift", [(1e4, 1e4), (0.0, 1e4), (-1e4, 1e4)])
def test_far_from_the_origin_float32_batches_lose_nothing(d: int, shift: tuple[float, ...]) -> None:
    """Numbers of 10 bits shifted by 2^13 and more are exact: only the arithmetic can lose digits."""
    x0, x1 = (torch.round(64 * x) / 64 for x in batches(150, d, F32))
    moved0, moved1 = x0 + shift[0], x1 + shift[1]
    permutation = least_cost_permutation(moved0, moved1)
    assert torch.equal(moved1 - shift[1], x1)
    assert cost(x0, x1, permutation) == pytest.approx(least_cost(x0, x1), rel=1e-6)


@pytest.mark.parametrize("d", [1, 2, 20])
@pytest.mark.parametrize(("dtype", "scale"), [(F32, 1e-30), (F32, 1e30), (F64, 1e-200), (F64, 1e200)])
def test_squares_may_leave_the_range_of_floating_point(d: int, dtype: torch.dtype, scale: float) -> None:
    x0, x1 = batches(40, d, dtype)
    permutation = least_cost_permutation(x0 * scale, x1 * scale)
    assert cost(x0, x1, permutation) == pytest.approx(least_cost(x0, x1), rel=1e-6)


@pytest.mark.parametrize("d", [2, 20])
def test_one_outlier_does_not_spoil_the_others(d: int) -> None:
    x0, x1 = batches(60, d)
    x1[0] *= 1e5
    permutation = least_cost_permutation(x0, x1)
    others = permutation != 0
    # given who takes the outlier, the rest are assigned at least cost: to 1e-16 of the outlier's square, 1e10
    assert cost(x0[others], x1, permutation[others]) == pytest.approx(least_cost(x0[others], x1[1:]), abs=1e-4)


HARD: dict[str, Callable[[Tensor], Tensor]] = {
    "heavy tails": lambda x: torch.tan(1.5 * torch.erf(x)),
    "over thirteen decades": lambda x: torch.exp(10 * x),
    "outliers of two sizes": lambda x: torch.cat([1e8 * x[:1], 1e4 * x[1:9], x[9:]]),
    "a lattice": lambda x: x.round(),
    "five places": lambda x: x[:5].repeat(60, 1)[: len(x)],
    "nearly one place": lambda x: 1.0 + 1e-12 * x,
}


@pytest.mark.parametrize("d", [2, 20])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("hard", HARD)
def test_the_starting_prices_survive_hard_clouds(hard: str, side: int, d: int) -> None:
    clouds = list(batches(300, d))
    clouds[side] = HARD[hard](clouds[side])
    table = distances(*clouds)
    excess = cost(clouds[0], clouds[1], least_cost_permutation(*clouds)) - least_cost(*clouds)
    assert abs(excess) <= 1e-13 * len(table) * float(table.max())


@pytest.mark.parametrize("d", [2, 20])
def test_starting_prices_are_nearly_optimal(d: int) -> None:
    """Any prices give the right pairs, bad ones late: the dual value of these is close to the least cost."""
    a, b = _centred(*batches(300, d))
    cost_table = -a @ b.mT
    nearest = -0.5 * a.square().sum(1)
    row, _ = _soft_prices(cost_table.float(), nearest.float(), [_deviation(cost_table) / k for k in (4, 16, 64)])
    optimum = float(cost_table[linear_sum_assignment(cost_table.numpy())].sum())
    begun, ended = (
        optimum - float(price.sum() + (cost_table - price[:, None]).amin(0).sum()) for price in (nearest, row.double())
    )
    assert 0 <= ended < 0.1 * begun


@pytest.mark.parametrize("hard", HARD)
@pytest.mark.parametrize("d", [2, 20])
def test_starting_prices_are_finite(hard: str, d: int) -> None:
    x0, x1 = batches(300, d)
    a, b = _centred(x0, HARD[hard](x1))
    cost = -a @ b.mT
    nearest = -0.5 * a.square().sum(1)
    row, column = _soft_prices(cost.float(), nearest.float(), [_deviation(cost) / divisor for divisor in (4, 16, 64)])
    assert torch.isfinite(row).all()
    assert torch.isfinite(column).all()


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("d", [1, 2, 20])
@pytest.mark.parametrize("equal", ["both", "x0", "x1"])
def test_a_constant_cost_still_gives_a_permutation(d: int, equal: str, dtype: torch.dtype) -> None:
    x0, x1 = batches(70, d, dtype)
    if equal in ("both", "x0"):
        x0 = x0[:1].expand(70, d)
    if equal in ("both", "x1"):
        x1 = x1[:1].expand(70, d)
    assert is_permutation(least_cost_permutation(x0, x1), 70)
    assert is_permutation(sinkhorn_permutation(x0, x1, 0.1, None), 70)


@pytest.mark.parametrize("d", [1, 2, 20])
def test_no_rows(d: int) -> None:
    nothing = torch.empty(0, d)
    assert is_permutation(least_cost_permutation(nothing, nothing), 0)
    assert is_permutation(sinkhorn_permutation(nothing, nothing, 0.1, None), 0)


# ------------------------------------------------------------------ entropic


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("d", [1, 2, 20])
@pytest.mark.parametrize("n", [1, 2, 100])
def test_an_entropic_plan_gives_a_permutation(n: int, d: int, dtype: torch.dtype, generator: torch.Generator) -> None:
    assert is_permutation(sinkhorn_permutation(*batches(n, d, dtype), 0.05, generator), n)


@pytest.mark.parametrize("d", [2, 20])
def test_the_cost_falls_to_the_exact_one_with_epsilon(d: int) -> None:
    x0, x1 = batches(150, d)
    least = least_cost(x0, x1)
    excess = []
    for epsilon in (10.0, 1.0, 0.3, 0.1, 0.03, 0.01):
        draws = [sinkhorn_permutation(x0, x1, epsilon, torch.Generator().manual_seed(s)) for s in range(4)]
        excess.append(sum(cost(x0, x1, draw) for draw in draws) / 4 / least - 1)
    assert min(excess) >= -1e-12
    assert excess == sorted(excess, reverse=True)
    assert excess[-1] < 0.1
    # as good as independent: the mean of all costs
    assert excess[0] == pytest.approx(float(distances(x0, x1).mean()) * 150 / least - 1, rel=0.2)


def test_moving_or_scaling_the_batches_leaves_an_entropic_draw(generator: torch.Generator) -> None:
    x0, x1 = (torch.round(64 * x) / 64 for x in batches(80, 3))
    still = sinkhorn_permutation(x0, x1, 0.1, torch.Generator().manual_seed(2))
    for moved in ((x0 + 2**12, x1 - 2**12), (x0 * 2.0**400, x1 * 2.0**400), (x0 * 2.0**-400, x1 * 2.0**-400)):
        assert torch.equal(sinkhorn_permutation(*moved, 0.1, torch.Generator().manual_seed(2)), still)


def test_a_generator_decides_the_draw_and_torch_s_own_is_left_alone() -> None:
    x0, x1 = batches(60, 2)
    before = torch.random.get_rng_state()
    first, again, other = (sinkhorn_permutation(x0, x1, 0.3, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.slow
def test_two_rows_are_paired_with_the_probability_of_the_plan() -> None:
    """The pair of the largest perturbed logarithm decides, and by Gumbel's trick each pair has it with its own mass."""
    x0 = torch.tensor([[0.0], [1.0]], dtype=F64)
    kept = [int(sinkhorn_permutation(x0, x0, 2.0, torch.Generator().manual_seed(s))[0]) == 0 for s in range(500)]
    # costs are 0 and 1, their mean 1 / 2, so that the logarithms of the plan differ by 1 / (2 / 2)
    probability = 1 / (1 + math.exp(-1))
    assert sum(kept) / 500 == pytest.approx(probability, abs=4 * math.sqrt(probability * (1 - probability) / 500))


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("epsilon", slow_beyond(1, [0.001, 0.05, 0.01]))
def test_what_lies_far_off_in_both_batches_is_paired(epsilon: float, dtype: torch.dtype) -> None:
    """Prices that start badly leave an outlier's column empty, which no thousand iterations fill."""
    x0, x1 = batches(300, 2, dtype)
    x0[0], x1[5] = 100.0, 100.0
    assert sinkhorn_permutation(x0, x1, epsilon, torch.Generator().manual_seed(0))[0] == 5
    x0, x1 = batches(300, 2, dtype)
    x0[:5] += 20
    x1[:5] += 20
    found = sinkhorn_permutation(x0, x1, epsilon, torch.Generator().manual_seed(0))
    assert torch.equal(found[:5].sort().values, torch.arange(5))


def test_a_column_that_stays_empty_warns(monkeypatch: pytest.MonkeyPatch) -> None:
    """One column in 300 is an error of 1/300 in the 1-norm: small, but a point that is paired at random."""
    solve = ot.sinkhorn

    def without_a_column(*arguments: Any, **options: Any) -> Any:
        plan, log = solve(*arguments, **options)
        plan[:, 7] = 0.0
        return plan, log

    monkeypatch.setattr(ot, "sinkhorn", without_a_column)
    with pytest.warns(ConvergenceWarning, match=r"error of 0\.00.* 1 in one of its columns"):
        sinkhorn_permutation(*batches(300, 2), 0.05, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("epsilon", slow_beyond(1, [1e-300, 1e-10]))
@pytest.mark.parametrize("dtype", slow_beyond(1, [F32, F64]))
def test_a_tiny_epsilon_leaves_no_nan(epsilon: float, dtype: torch.dtype) -> None:
    x0, x1 = batches(200, 2, dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        found = sinkhorn_permutation(x0, x1, epsilon, torch.Generator().manual_seed(0))
    assert cost(x0, x1, found) < 3 * least_cost(x0, x1)


@pytest.mark.parametrize("dtype", [F32, F64])
def test_a_plan_that_has_not_converged_warns_and_gives_a_permutation(dtype: torch.dtype) -> None:
    x0, x1 = batches(150, 2, dtype)
    with pytest.warns(ConvergenceWarning, match=r"error of .* in the marginals .* raise epsilon"):
        permutation = sinkhorn_permutation(x0, x1, 1e-5, torch.Generator().manual_seed(0))
    assert is_permutation(permutation, 150)


def test_a_plan_whose_entries_underflow_still_chooses_by_distance() -> None:
    """In float32 most entries of this plan are 0, but not their logarithms: rows left over choose as in float64."""
    low, high = (
        unconverged(*(torch.randn(80, 2, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (2, 102)))
        for dtype in (F32, F64)
    )
    assert torch.equal(low, high)


def unconverged(x0: Tensor, x1: Tensor) -> Tensor:
    with pytest.warns(ConvergenceWarning):
        return sinkhorn_permutation(x0, x1, 1e-5, torch.Generator().manual_seed(0))


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtraError, match=r"proxflow\[metrics\]"):
        sinkhorn_permutation(*batches(3, 2), 0.1, None)
