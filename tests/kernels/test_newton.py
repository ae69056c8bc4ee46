"""The certificates of a Newton step hold and are tight, at the solution and far from it."""

from __future__ import annotations

import pytest
import torch

from proxflow.kernels.softmax.newton import Problem, _Step, descend
from proxflow.results import Status

f64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def problem(ratio: float, sharpness: float = 5.0) -> tuple[Problem, torch.Tensor]:
    """Rows with a known solution v."""
    atoms = torch.nn.functional.normalize(normal(20, 3), dim=1)
    bias, v = normal(20, seed=1), sharpness * normal(50, 3, seed=2)
    tau, beta = torch.full((50,), ratio, dtype=f64), torch.ones(50, dtype=f64)
    x = tau[:, None] * v + torch.softmax(v @ atoms.mT + bias, dim=1) @ atoms
    return Problem(x, tau, beta, atoms, bias, 2**28), v


@pytest.mark.parametrize("ratio", [1e-4, 1e-2, 1.0, 100.0])
@pytest.mark.parametrize("distance", [1e-8, 1e-4, 1e-2, 1.0, 30.0])
def test_bounds_hold_at_any_distance(ratio: float, distance: float) -> None:
    rows, solution = problem(ratio)
    exact = torch.softmax(solution @ rows.atoms.mT + rows.bias, dim=1) @ rows.atoms
    step = _Step.at(rows, solution + distance * normal(50, 3, seed=3))
    for end in (step.completed(rows), step.abandoned(rows)):
        known = torch.isfinite(end.bound)
        error = (end.point - exact).norm(dim=1)
        assert (error[known] <= end.bound[known]).all()
        assert (end.gap[known] >= 0).all()
    assert torch.isfinite(step.abandoned(rows).bound).all()


def test_the_bound_of_an_unfinished_row_is_attained() -> None:
    """Two atoms at +-1 near v = 0: the mean moves as v does, and the residual by (tau + beta) times as much."""
    atoms, bias = torch.tensor([[-1.0], [1.0]], dtype=f64), torch.zeros(2, dtype=f64)
    one = torch.ones(1, dtype=f64)
    rows = Problem(torch.zeros(1, 1, dtype=f64), 0.5 * one, one, atoms, bias, 2**28)
    end = _Step.at(rows, torch.full((1, 1), 1e-3, dtype=f64)).abandoned(rows)
    assert float(end.point.abs() / end.bound) > 0.999


def test_the_gap_of_the_full_step_falls_with_the_fourth_power() -> None:
    rows, solution = problem(0.1, sharpness=1.0)
    direction = normal(50, 3, seed=3)
    gaps = [_Step.at(rows, solution + size * direction).completed(rows).gap for size in (1e-1, 1e-2)]
    ratio = (gaps[0] / gaps[1]).log10()
    assert float(ratio.median()) > 3.8


@pytest.mark.parametrize("ratio", [1e-9, 1e-4, 1.0, 1e4])
def test_descent_from_far_away(ratio: float) -> None:
    rows, solution = problem(ratio)
    found = descend(rows, 1e3 * normal(50, 3, seed=4), 200)
    assert (found.status == int(Status.converged)).all()
    exact = torch.softmax(solution @ rows.atoms.mT + rows.bias, dim=1) @ rows.atoms
    assert ((found.point - exact).norm(dim=1) <= found.bound + 1e-15).all()
    assert float(found.bound.max()) < 1e-9
