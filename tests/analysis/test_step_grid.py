"""Times of few steps: against the calculus of variations, and on noise that they were not chosen by."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.analysis import audit
from proxflow.analysis.auditing.generated_pairs import generated_pairs
from proxflow.analysis.auditing.intervals import root_ratio
from proxflow.analysis.auditing.step_grid import best_grid, curvature_grid

f64, LINEAR = torch.float64, pf.schedules.Linear()


def late(t: Tensor, x: Tensor) -> Tensor:
    """x' = 5 t^4 on the line: the acceleration is 20 t^3, and the same for all noise."""
    return 5 * t**4 + 0 * x


def test_times_have_equal_integrals_of_the_root_of_the_acceleration() -> None:
    """int t^(3/2) is t^(5/2), so that t_k = (k / K)^(2/5)."""
    pairs = generated_pairs(late, torch.zeros(3, 1, dtype=f64), (1,), LINEAR, 512)
    wanted = (torch.arange(5, dtype=f64) / 4) ** 0.4
    torch.testing.assert_close(curvature_grid(pairs, LINEAR, 4), wanted, rtol=0, atol=0.02)


def test_they_are_those_of_least_error_where_errors_only_add_up() -> None:
    """Against a search over all grids of three steps."""
    pairs = generated_pairs(late, torch.zeros(3, 1, dtype=f64), (1,), LINEAR, 512)

    def error(grid: Tensor) -> Tensor:
        left = grid[:-1]
        return (1 - (5 * left**4 * grid.diff()).sum()).square()

    chosen = torch.tensor(best_grid(error, pairs, LINEAR, 3), dtype=f64)
    inner = torch.arange(1, 50, dtype=f64) / 50
    least = min(
        float(error(torch.tensor([0.0, a, b, 1.0], dtype=f64)))
        for a in inner.tolist() for b in inner.tolist() if a < b
    )  # fmt: skip
    equal = float(error(torch.linspace(0, 1, 4, dtype=f64)))
    assert least <= float(error(chosen)) < least + 0.1 * (equal - least)


def test_straight_trajectories_leave_equal_steps() -> None:
    pairs = generated_pairs(lambda t, x: 2 + 0 * x, torch.zeros(3, 1, dtype=f64), (1,), LINEAR, 16)
    assert best_grid(lambda grid: torch.zeros(()), pairs, LINEAR, 4) == pytest.approx((0, 0.25, 0.5, 0.75, 1))


def test_the_audit_states_times_that_gain_what_it_says() -> None:
    """Of the field of independent pairs with atoms in many dimensions, which turns late to one of them."""
    rows = 2 * torch.randn(60, 24, generator=torch.Generator().manual_seed(0), dtype=f64)
    field = pf.IndependentField(rows)
    found = audit(field, data=rows, count=400, compare_independent=False, progress=False)
    noise = torch.randn(2000, 24, generator=torch.Generator().manual_seed(9), dtype=f64)
    end = generated_pairs(field, noise, (24,), LINEAR, 32).target
    grids = torch.tensor(found.step_grid, dtype=f64), torch.linspace(0, 1, 5, dtype=f64)
    ours, equal = (
        float((pf.sampling.integrate(field, noise, times=grid, method="proximal").end - end).square().sum(1).mean())
        for grid in grids
    )
    gain = found.figures["four_step_gain"]
    assert gain.low <= math.sqrt(ours / equal) <= gain.high < 1
    assert "Four steps at times=[0, " in found.advice


@pytest.mark.slow
def test_intervals_cover_the_gain() -> None:
    """At 95%, 200 repetitions cover at least 180 times but for chance of 1e-3: of x' = r(t) x all ends are known."""
    wide, grids = torch.tensor([2.0, 0.5, 1.2], dtype=f64), ((0.0, 0.2, 0.4, 0.7, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0))

    def rate(t: Tensor) -> Tensor:
        return (t * wide**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * wide**2)

    factors = [
        torch.stack([1 + (b - a) * rate(torch.tensor(a)) for a, b in itertools.pairwise(grid)]).prod(0)
        for grid in grids
    ]
    ours, equal = (float((factor - wide).square().sum()) for factor in factors)
    covered = 0
    for seed in range(200):
        noise = torch.randn(128, 3, generator=torch.Generator().manual_seed(seed), dtype=f64)
        errors = [
            (pf.sampling.integrate(lambda t, x: rate(t) * x, noise, times=list(grid), method="proximal").end
             - wide * noise).square().sum(1)
            for grid in grids
        ]  # fmt: skip
        found = root_ratio(*errors)
        covered += found.low <= math.sqrt(ours / equal) <= found.high
    assert covered >= 180
