"""What holds for every pair, potential, schedule, batch size and time (docs/theory.md 4)."""

from __future__ import annotations

import functools
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import proxflow as pf
from proxflow.analysis.convergence.control_variates import known_functions
from proxflow.analysis.convergence.study import minibatch_convergence
from proxflow.couplings.pairing import permutation
from proxflow.flow import ProximalFlow
from proxflow.potentials import Discrete, Potential, Quadratic
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from proxflow.semidiscrete import fit
from tests.laws.cases import CASES

SCHEDULES = [Linear(), Cosine(), Polynomial(2.5), Polynomial(0.6)]
ROUNDINGS = 1e-10


@functools.cache
def _potential(name: str) -> Potential:
    return CASES[name]()


def minibatch_pairs(
    x0: torch.Tensor, x1: torch.Tensor, size: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row the source and target of pairs, and the row of the target."""
    rows = torch.arange(len(x0)).split(size)
    order = torch.cat([part[0] + permutation(x0[part], x1[part], "exact", 1.0, generator) for part in rows])
    return x1[order], order


@pytest.mark.slow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(CASES)),
    schedule=st.sampled_from(SCHEDULES),
    t=st.floats(1e-3, 0.999),
    size=st.sampled_from([1, 2, 7, 32]),
    spread=st.sampled_from([0.1, 1.0, 5.0]),
    seed=st.integers(0, 2**31),
)
def test_a_pair_is_no_further_from_the_flow_than_its_gap_allows(
    name: str, schedule: Schedule, t: float, size: int, spread: float, seed: int
) -> None:
    """|x1 - prox_{lam psi}(x_t / beta)|^2 <= lam FY(x0, x1), in particular where x0 is far from typical."""
    potential = _potential(name)
    generator = torch.Generator().manual_seed(seed)
    draws = 64
    x0 = potential.source.sample(draws, generator=generator, dtype=torch.float64)
    x0 = x0 if size > 1 else spread * x0
    u = potential.source.sample(draws, generator=generator, dtype=torch.float64)
    x1 = potential.brenier_map(u)
    value = (u * x1).sum(1) - potential.conjugate(u)  # psi(x1), by Fenchel-Young equality
    x1, order = minibatch_pairs(x0, x1, size, generator)
    gap = potential.conjugate(x0) + value[order] - (x0 * x1).sum(1)
    times = torch.tensor(t, dtype=torch.float64)
    alpha, beta = schedule.alpha(times), schedule.beta(times)
    x = alpha * x0 + beta * x1
    pair = ProximalFlow(potential, schedule).solve(t, x)
    squares = (x1 - pair.point).square().sum(1)
    size_of_terms = 1 + potential.conjugate(x0).abs() + value[order].abs() + x0.norm(dim=1) * x1.norm(dim=1)
    slack = ROUNDINGS * (alpha / beta * size_of_terms + 1 + x1.square().sum(1))
    assert (gap >= -ROUNDINGS * size_of_terms).all()
    assert (squares <= alpha / beta * gap + slack + 4 * pair.error_bound * (squares.sqrt() + pair.error_bound)).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
def test_the_averaged_bound(schedule: pf.schedules.Schedule) -> None:
    factor = torch.randn(3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    result = minibatch_convergence(
        Quadratic(torch.ones(3), factor @ factor.T), [1, 4, 32], schedule=schedule, relative_error=0.05
    )
    times = torch.tensor([0.02, 0.2, 0.5, 0.9, 0.99], dtype=torch.float64)
    bound, measured = result.bound(times), result.measured_error(times)
    assert bound.shape == measured.shape == (3, 5)
    errors = torch.stack([result.measure(t).stderr for t in times.tolist()], dim=1)
    assert (measured <= bound + 5 * errors).all()
    assert (measured[:, 1] >= 0.1 * bound[:, 1]).all()  # it is a bound worth having
    assert (measured[1:] < measured[:-1]).all()


def test_costs_do_not_rise_with_the_batch() -> None:
    """A batch of 2 n holds the pairs of its halves, so that this holds for each draw and not only on average."""
    points = pf.data.load("moons", n=500, dtype=torch.float64).points
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(256, 2, generator=generator, dtype=torch.float64)
    x1 = points[torch.randint(500, (256,), generator=generator)]
    costs = []
    for size in (1, 2, 4, 16, 64, 256):
        paired, _ = minibatch_pairs(x0, x1, size, generator)
        costs.append(float((x0 - paired).square().sum(1).mean()))
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(costs))
    result = minibatch_convergence(points, [1, 2, 4, 16, 64], relative_error=0.05)
    slack = 5 * torch.hypot(result.cost_stderr[1:], result.cost_stderr[:-1])
    assert (result.cost[1:] <= result.cost[:-1] + slack).all()


@pytest.mark.parametrize("name", [pytest.param("digits", marks=pytest.mark.slow), "moons", "8gaussians"])
def test_the_two_routes_meet(name: str) -> None:
    """(C_n - W2^2) / 2 = mean gap, W2^2 coming from primal costs (fresh draws for digits, exact cells in the plane)."""
    count = {"digits": None, "moons": 800, "8gaussians": 800}[name]
    result = minibatch_convergence(pf.data.load(name, n=count).points, [1, 4, 32, 256], relative_error=0.03)
    assert (result.disagreement / result.disagreement_stderr).abs().max() < 4
    torch.testing.assert_close(result.disagreement, result.excess - 2 * result.gap)
    assert (result.gap_stderr < 0.05 * result.gap).all()
    assert (0.5 * result.excess_stderr < 0.1 * result.gap).all()


def test_costs_stay_right_where_the_heights_are_wrong() -> None:
    """Only then is the identity a test: gaps follow the heights, costs do not."""
    points = torch.randn(40, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = fit(points)
    moved = 0.3 * torch.randn(40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    potential = right.potential
    assert isinstance(potential, Discrete)
    wrong = Discrete(potential.points, potential.heights + moved)
    with pytest.warns(pf.ConvergenceWarning, match="miss its weights by chi2"):
        off = minibatch_convergence(wrong, [1, 16], transport_cost=right.transport_cost)
    good = minibatch_convergence(right, [1, 16])
    assert ((off.cost - good.cost).abs() < 5 * torch.hypot(off.cost_stderr, good.cost_stderr)).all()
    raw = off.gap + off.height_error
    assert (raw > 1.1 * 0.5 * off.excess).all()


def test_a_loose_fit_is_corrected_for() -> None:
    """Raw gaps of a loose fit are too large by J(h) - J*; less that they are half the excess over the exact W2^2."""
    points = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    right = fit(points)
    moved = 0.004 * torch.randn(60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    potential = right.potential
    assert isinstance(potential, Discrete)
    loose = Discrete(potential.points, potential.heights + moved)
    result = minibatch_convergence(loose, [64, 256], transport_cost=right.transport_cost, relative_error=0.02)
    errors = torch.hypot(0.5 * result.excess_stderr, result.gap_stderr)
    assert ((result.gap - 0.5 * result.excess).abs() < 4 * errors).all()
    assert 0 < result.height_error < 0.1 * result.gap.min()


@pytest.mark.parametrize("dim", [1, 2, 3, 20])
def test_functions_of_known_mean_have_mean_zero(dim: int) -> None:
    noise = torch.randn(1 << 16, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = known_functions(pf.measures.Gaussian(dim), noise)
    assert (values.mean(0).abs() < 5 * values.std(0) / 256).all()
    assert torch.linalg.matrix_rank(values.mT @ values) == values.shape[1]
