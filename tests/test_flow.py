"""ProximalFlow against the closed forms of docs/theory.md 7 and the laws of section 2."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import norm

import proxflow as pf
from proxflow.flow import flow_of
from tests.laws.cases import CASES, marked
from tests.marks import slow_beyond

SCHEDULES = [pf.schedules.Linear(), pf.schedules.Cosine(), pf.schedules.Polynomial(2.5), pf.schedules.Polynomial(1)]
TIMES = [0.0, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6]
EPS = torch.finfo(torch.float64).eps
f64 = torch.float64
Case = tuple[Any, Callable[[torch.Tensor], torch.Tensor]]  # and its Brenier map


def gaussian_case() -> Case:
    axes = torch.linalg.qr(torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=f64))[0]
    deviations = torch.tensor([2.0, 1.0, 0.3, 0.0, 0.0], dtype=f64)
    mean = torch.arange(5, dtype=f64)
    covariance = axes @ torch.diag(deviations**2) @ axes.T
    root = axes @ torch.diag(deviations) @ axes.T
    return pf.potentials.Quadratic(mean, covariance), lambda x0: mean + x0 @ root


def sphere_case() -> Case:
    centre = torch.tensor([1.0, -2.0, 0.5], dtype=f64)
    potential = pf.potentials.Ball(3, 2.0).rotate(torch.eye(3, dtype=f64), centre)
    return potential, lambda x0: centre + 2 * x0 / x0.norm(dim=1, keepdim=True)


def torus_case() -> Case:
    def project(x0: torch.Tensor) -> torch.Tensor:
        return torch.cat(
            [x0[:, :2] / x0[:, :2].norm(dim=1, keepdim=True), x0[:, 2:] / x0[:, 2:].norm(dim=1, keepdim=True)], 1
        )

    return pf.potentials.Product([pf.potentials.Ball(2), pf.potentials.Ball(2)]), project


def two_atoms_case() -> Case:
    a = torch.tensor([[0.6, -0.8]], dtype=f64) * 1.5
    h = -1.5 * norm.ppf(0.3)
    potential = pf.potentials.Discrete(torch.cat([a, -a]), torch.tensor([h, -h], dtype=f64))
    return potential, lambda x0: torch.where((x0 @ a.T) > h, a, -a)


EXACT = {"gaussian": gaussian_case, "sphere": sphere_case, "torus": torus_case, "two atoms": two_atoms_case}


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("t", TIMES)
@pytest.mark.parametrize("case", EXACT)
def test_recovers_both_ends_along_exact_trajectories(
    case: str, t: float, schedule: pf.schedules.Schedule, generator: torch.Generator
) -> None:
    potential, brenier = EXACT[case]()
    flow = pf.ProximalFlow(potential, schedule)
    x0 = torch.randn(200, potential.dim, generator=generator, dtype=f64)
    target = brenier(x0)
    time = torch.tensor(t, dtype=f64)
    alpha, beta = schedule.alpha(time), schedule.beta(time)
    x = alpha * x0 + beta * target
    scale = 1 + target.norm(dim=1)
    assert ((flow.recover_target(t, x) - target).norm(dim=1) <= 1e-10 * scale).all()
    rounding = 16 * EPS * x.norm(dim=1) * abs(schedule.alpha_derivative(time) / alpha)
    velocity = schedule.alpha_derivative(time) * x0 + schedule.beta_derivative(time) * target
    error = (flow.velocity(t, x) - velocity).norm(dim=1)
    assert (error <= torch.maximum(1e-10 * (1 + velocity.norm(dim=1)), rounding)).all()
    source_rounding = 16 * EPS * (x.norm(dim=1) + target.norm(dim=1)) / alpha
    assert ((flow.recover_source(t, x) - x0).norm(dim=1) <= 1e-10 + source_rounding).all()


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_two_atoms_in_the_gap(schedule: pf.schedules.Schedule, generator: torch.Generator) -> None:
    """Off the trajectories the recovered point is the projection of z - lam h a/|a|^2 on the segment."""
    potential, _ = two_atoms_case()
    a, h = potential.points[0], float(potential.heights[0])
    t = 0.4
    time = torch.tensor(t, dtype=f64)
    alpha, beta = schedule.alpha(time), schedule.beta(time)
    x = torch.randn(500, 2, generator=generator, dtype=f64)
    position = ((x / beta - alpha / beta * h * a / a.dot(a)) @ a / a.dot(a)).clamp(-1, 1)
    expected = position[:, None] * a
    flow = pf.ProximalFlow(potential, schedule)
    torch.testing.assert_close(flow.recover_target(t, x), expected, rtol=1e-10, atol=1e-10)
    inside = position.abs() < 1
    assert inside.any()
    rates = torch.linalg.eigvalsh(flow.jacobian(t, x[inside])) / (-schedule.alpha_derivative(time) / alpha)
    along = schedule.wronskian(time) / (-schedule.alpha_derivative(time) * beta) - 1
    torch.testing.assert_close(rates, torch.tensor([-1.0, along], dtype=f64).expand_as(rates), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", marked(CASES))
@pytest.mark.parametrize("schedule", slow_beyond(1, SCHEDULES[:3]), ids=str)
def test_velocity_jacobian_is_symmetric_within_its_bounds(
    case: str, schedule: pf.schedules.Schedule, generator: torch.Generator
) -> None:
    potential = CASES[case]()
    flow = pf.ProximalFlow(potential, schedule)
    x = torch.randn(20, potential.dim, generator=generator, dtype=f64)
    for t in (0.2, 0.7):
        time = torch.tensor(t, dtype=f64)
        lower = schedule.alpha_derivative(time) / schedule.alpha(time)
        upper = schedule.beta_derivative(time) / schedule.beta(time)
        jacobian = flow.jacobian(t, x)
        torch.testing.assert_close(jacobian, jacobian.mT, rtol=0, atol=1e-9)
        spectrum = torch.linalg.eigvalsh(jacobian)
        assert spectrum.min() >= lower - 1e-9
        assert spectrum.max() <= upper + 1e-9
        torch.testing.assert_close(flow.divergence(t, x), spectrum.sum(1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("case", marked(CASES))
def test_recovered_ends_are_constant_along_trajectories(case: str, generator: torch.Generator) -> None:
    potential = CASES[case]()
    x0 = torch.randn(30, potential.dim, generator=generator, dtype=f64)
    for schedule in SCHEDULES[:3]:
        flow = pf.ProximalFlow(potential, schedule)
        target = flow.transport(x0)
        for t in (0.3, 0.8):
            x = flow.interpolate(t, x0)
            torch.testing.assert_close(flow.recover_target(t, x), target, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(flow.recover_source(t, x), x0, rtol=1e-8, atol=1e-8)


def test_transport_is_cyclically_monotone(generator: torch.Generator) -> None:
    flow = pf.ProximalFlow(CASES["atoms"]())
    x0 = torch.randn(6, 4, generator=generator, dtype=f64)
    y = flow.transport(x0)
    matched = (x0 * y).sum()
    for _ in range(200):
        assert matched >= (x0 * y[torch.randperm(6, generator=generator)]).sum() - 1e-12


def test_times_per_row_and_event_shapes(generator: torch.Generator) -> None:
    potential = CASES["atoms"]()
    flow = pf.ProximalFlow(potential, pf.schedules.Cosine())
    x = torch.randn(8, 2, 2, generator=generator, dtype=f64)
    t = torch.linspace(0, 0.9, 8, dtype=f64)
    together = flow.velocity(t, x)
    assert together.shape == x.shape
    alone = torch.cat([flow.velocity(float(t[i]), x[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert flow.jacobian(t, x).shape == (8, 4, 4)
    assert flow.sample(3, generator=generator).shape == (3, 4)


def test_velocity_error_bound_holds(generator: torch.Generator) -> None:
    potential = CASES["atoms"]()
    low, high = pf.ProximalFlow(potential), 0.6
    x = torch.randn(50, 4, generator=generator, dtype=f64)
    exact = low.velocity(high, x)
    potential32 = CASES["atoms"]().to(torch.float32)
    solved = pf.ProximalFlow(potential32).solve(high, x.float())
    velocity = (solved.point.double() - x) / (1 - high)
    assert ((velocity - exact).norm(dim=1) <= solved.velocity_error_bound.double() + 1e-5).all()


def test_unconverged_queries_raise_or_become_nan(generator: torch.Generator) -> None:
    points = torch.randn(200, 10, generator=generator, dtype=f64)
    potential = pf.potentials.Discrete(points, torch.zeros(200, dtype=f64), max_iterations=1)
    x = torch.randn(20, 10, generator=generator, dtype=f64)
    solved = pf.ProximalFlow(potential).solve(0.7, x)
    failed = solved.status == int(pf.Status.max_iterations)
    assert failed.any()
    full = pf.potentials.Discrete(points, torch.zeros(200, dtype=f64))
    exact = pf.ProximalFlow(full).recover_target(0.7, x)
    assert ((solved.point - exact).norm(dim=1) <= solved.error_bound + 1e-12).all()
    with pytest.raises(pf.ConvergenceError, match=f"{int(failed.sum())} of 20 queries"):
        pf.ProximalFlow(potential).velocity(0.7, x)
    quiet = pf.ProximalFlow(potential, on_failure="nan").velocity(0.7, x)
    assert torch.equal(torch.isnan(quiet).all(1), failed)


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan])
def test_bad_times_are_refused(t: float) -> None:
    flow = pf.ProximalFlow(pf.potentials.Ball(2))
    with pytest.raises(ValueError, match=r"t must be in \[0, 1\]"):
        flow.recover_target(t, torch.zeros(1, 2))
    row = flow.recover_target(torch.tensor([t, 0.5]), torch.ones(2, 2))
    assert torch.isnan(row[0]).all()
    assert torch.isfinite(row[1]).all()


@pytest.mark.parametrize("name", ["velocity", "jacobian", "recover_source", "divergence"])
def test_velocity_at_the_end_is_refused(name: str) -> None:
    query = getattr(pf.ProximalFlow(pf.potentials.Ball(2)), name)
    with pytest.raises(ValueError, match="at t = 1"):
        query(1.0, torch.zeros(1, 2))
    rows = query(torch.tensor([1.0, 0.5]), torch.ones(2, 2))
    assert torch.isnan(rows[0]).all()
    assert torch.isfinite(rows[1]).all()


@pytest.mark.parametrize(("dtype", "t"), [(torch.float32, 1 - 1e-8), (f64, 1 - 1e-17)])
def test_a_time_that_rounds_to_one_is_refused(dtype: torch.dtype, t: float) -> None:
    flow, x = pf.ProximalFlow(pf.potentials.Ball(2)), torch.ones(1, 2, dtype=dtype)
    with pytest.raises(ValueError, match="at t = 1"):
        flow.velocity(t, x)
    assert torch.isnan(flow.velocity(torch.tensor([t], dtype=f64), x)).all()
    last = float(torch.nextafter(torch.ones((), dtype=dtype), torch.zeros((), dtype=dtype)))
    assert torch.isfinite(flow.velocity(last, x)).all()


def test_arguments_of_another_kind_are_named() -> None:
    flow, x = pf.ProximalFlow(pf.potentials.Ball(2)), torch.zeros(1, 2)
    for query in (flow.velocity, flow.solve, flow.interpolate):
        with pytest.raises(ValueError, match="x must be a torch tensor, got ndarray; convert it"):
            query(0.5, x.numpy())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"t, which comes before x, must be a number or a tensor, got '0\.5'"):
            query("0.5", x)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=r"x must be a torch tensor, got float; .* t first: \(t, x\)"):
            query(x, 0.5)  # type: ignore[arg-type]
    for schedule in ("cosine", pf.schedules.Cosine):
        with pytest.raises(ValueError, match=r"schedule must be a proxflow Schedule such as Cosine\(\)"):
            pf.ProximalFlow(pf.potentials.Ball(2), schedule)  # type: ignore[arg-type]


@pytest.mark.parametrize("query", ["solve", "velocity", "recover_target", "recover_source", "divergence", "jacobian"])
def test_whole_numbers_for_points_are_refused_by_name(query: str) -> None:
    flow = pf.ProximalFlow(pf.potentials.Ball(2, 1.0))
    with pytest.raises(ValueError, match=r"ProximalFlow: x must be float32 or float64, got torch\.int64; convert it"):
        getattr(flow, query)(1e-30, torch.zeros(3, 2, dtype=torch.int64))


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="on_failure must be"):
        pf.ProximalFlow(pf.potentials.Ball(2), on_failure="ignore")
    flow = pf.ProximalFlow(CASES["atoms"]())
    with pytest.raises(ValueError, match="with 4 entries per row"):
        flow.velocity(0.5, torch.zeros(3, 5, dtype=f64))
    with pytest.raises(ValueError, match=r"x is torch.float32 on cpu, the points are torch.float64 on\s*cpu"):
        flow.velocity(0.5, torch.zeros(3, 4))
    with pytest.raises(ValueError, match="no density"):
        flow.log_prob(torch.zeros(3, 4, dtype=f64))


def test_a_fit_is_no_potential() -> None:
    fit = pf.semidiscrete.fit(torch.randn(10, 2, generator=torch.Generator().manual_seed(0)))
    with pytest.raises(ValueError, match=r"needs a potential, got Fit; .*fit.potential"):
        pf.ProximalFlow(fit)  # type: ignore[arg-type]


def test_the_flow_that_a_field_is() -> None:
    class Wrapper:
        """Has all that its field has, and another value."""

        def __init__(self, field: Any) -> None:
            self.field = field

        def __getattr__(self, name: str) -> Any:
            return getattr(self.field, name)

        def __call__(self, t: Any, x: torch.Tensor) -> torch.Tensor:
            return 0 * x

    flow = pf.ProximalFlow(pf.potentials.Ball(3))
    assert flow_of(flow) is flow_of(flow.velocity) is flow_of(flow.forward) is flow
    for other in (Wrapper(flow.velocity), flow.transport, lambda t, x: flow.velocity(t, x), None):
        assert flow_of(other) is None


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_a_row_without_an_answer_leaves_the_densities_of_its_neighbours(dim: int, generator: torch.Generator) -> None:
    """From N(0, I) to N(0, 4 I): at t = 1/2 the law is N(0, 2.25 I)."""
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(dim), 4 * torch.eye(dim)))
    x = torch.randn(4, dim, generator=generator)
    x[1, 0], x[2, -1] = math.nan, math.inf
    law = torch.distributions.Normal(0, 1.5)
    density, score = flow.marginal_log_prob(0.5, x), flow.score(0.5, x)
    assert density[1:3].isnan().all()
    assert score[1:3].isnan().all()
    torch.testing.assert_close(density[::3], law.log_prob(x[::3]).sum(1))
    torch.testing.assert_close(score[::3], -x[::3] / 2.25)
    late = flow.score(torch.tensor([0.5, 1.0, 7.0]), x[[0, 3, 3]])
    torch.testing.assert_close(late[0], -x[0] / 2.25)
    assert late[1:].isnan().all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"generator": 3}, "generator must be a torch.Generator"),
        ({"dtype": torch.int32}, "dtype must be one of floating"),
    ],
)
def test_draws_that_cannot_be_made(wrong: dict[str, Any], message: str) -> None:
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(3), torch.eye(3)))
    with pytest.raises(ValueError, match=message):
        flow.sample(2, **wrong)
    with pytest.raises(ValueError, match=message):
        pf.measures.Uniform(3).sample(2, **wrong)


def test_scores_in_inference_mode(generator: torch.Generator) -> None:
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(3), 4 * torch.eye(3)))
    with torch.inference_mode():
        x = torch.randn(4, 3, generator=generator)
        torch.testing.assert_close(flow.score(torch.tensor(0.5), x), -x / 2.25)


@pytest.mark.parametrize("t", [torch.tensor(0.5j), torch.tensor(True)])
def test_times_are_real_numbers(t: torch.Tensor) -> None:
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(3), torch.eye(3)))
    with pytest.raises(ValueError, match="t must be a tensor of real numbers"):
        flow.velocity(t, torch.zeros(2, 3))


@pytest.mark.parametrize(("dim", "deviation", "t"), [(100, 1e3, 0.9), (64, 1.0, 0.9999), (2, 1e6, 0.5)])
def test_the_density_on_the_way_is_finite_in_float32(dim: int, deviation: float, t: float) -> None:
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(dim), deviation**2 * torch.eye(dim)))
    size = 1 - t + t * deviation
    x = size * torch.randn(1, dim, generator=torch.Generator().manual_seed(0))
    law = torch.distributions.Normal(torch.tensor(0.0, dtype=f64), size)
    torch.testing.assert_close(
        flow.marginal_log_prob(t, x).double(), law.log_prob(x.double()).sum(1), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(flow.score(t, x), -x / size**2, rtol=1e-5, atol=1e-6 / size)


@pytest.mark.parametrize("smoothed", [False, True])
@pytest.mark.parametrize("t", [0.5, 0.9999])
def test_float32_atoms_have_the_densities_of_the_same_in_float64(smoothed: bool, t: float) -> None:
    """Near t = 1 the images of cells are 1e-4 wide, some roundings of the atoms apart."""
    generator = torch.Generator().manual_seed(0)
    points, heights = torch.randn(8, 2, generator=generator), 0.1 * torch.randn(8, generator=generator)
    made = pf.potentials.Entropic(30 * points, heights, 40.0) if smoothed else pf.potentials.Discrete(points, heights)
    flow = pf.ProximalFlow(made)
    exact = pf.ProximalFlow(copy.deepcopy(made).double())
    x = torch.cat(
        [flow.interpolate(t, torch.randn(50, 2, generator=generator)), torch.randn(9, 2, generator=generator)]
    )
    density, truth = flow.marginal_log_prob(t, x), exact.marginal_log_prob(t, x.double())
    assert density[:50].isfinite().all()
    torch.testing.assert_close(density.double(), truth, rtol=1e-5, atol=1e-5)
    jacobian = exact.jacobian(t, x[:50].double())
    rate = float(jacobian.abs().max())
    torch.testing.assert_close(flow.jacobian(t, x[:50]).double(), jacobian, rtol=1e-3, atol=1e-3 * rate)


def test_scores_are_taken_in_full_precision_under_autocast(generator: torch.Generator) -> None:
    covariance = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.tensor([1.0, 2.0]), covariance))
    x = torch.randn(5, 2, generator=generator)
    truth = flow.score(0.5, x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(flow.score(0.5, x), truth, rtol=1e-6, atol=1e-6)
