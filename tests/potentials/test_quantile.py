"""Laws on the line against exact one-dimensional transport, scipy's quadrature and root finder, and closed forms."""

from __future__ import annotations

import copy
import gc
import math
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.optimize import brentq, minimize_scalar
from scipy.stats.distributions import rv_frozen

import proxflow as pf
from proxflow.potentials import Quadratic, Quantile
from proxflow.potentials.quantile.transport_operator import monotone_pair
from proxflow.results import Status
from tests.laws.cases import STEPS_AND_GAPS, logistic

f64 = torch.float64
EPS = torch.finfo(f64).eps
TIMES = [(1.0, 0.0), (1.0, 1e-9), (0.7, 0.3), (1e-9, 1.0), (0.0, 1.0)]


def normal(n: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(n, 1, generator=torch.Generator().manual_seed(seed), dtype=f64)


def column(*entries: float) -> torch.Tensor:
    return torch.tensor(entries, dtype=f64)[:, None]


def gaussian(with_upper: bool = True) -> Quantile:
    """N(1, 4)."""
    upper = (lambda tail: 1 - 2 * torch.special.ndtri(tail)) if with_upper else None
    return Quantile(lambda level: 1 + 2 * torch.special.ndtri(level), upper_quantile=upper)


GAUSSIAN = Quadratic(torch.ones(1, dtype=f64), torch.full((1, 1), 4.0, dtype=f64))


class UniformSource:
    """Uniform on [-1, 1]."""

    dim = 1

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        return 2 * torch.rand(n, 1, generator=generator, dtype=dtype, device=device) - 1

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x[:, 0].abs() <= 1, x.new_full((), -math.log(2.0)), -torch.inf)

    def cdf(self, x: torch.Tensor) -> torch.Tensor:
        return (0.5 * (x + 1)).clamp(0, 1)


class NormalByItsCdf:
    """The standard normal law, known by its cdf alone, whose upper tail is the rounding of 1."""

    dim = 1
    sample = pf.measures.Gaussian(1).sample
    log_prob = pf.measures.Gaussian(1).log_prob

    def cdf(self, x: torch.Tensor) -> torch.Tensor:
        return 0.5 * torch.erfc(-x / math.sqrt(2))


# ------------------------------------------------------------------ against one-dimensional optimal transport


def test_the_map_sorts_a_sample_onto_the_data() -> None:
    """Between sorted samples the monotone map is optimal; its mean displacement is scipy's Wasserstein distance."""
    data = torch.sort(normal(50, 3.0)[:, 0]).values
    steps = torch.arange(51, dtype=f64) / 50
    levels = steps.repeat_interleave(2)[1:-1]
    noise = torch.from_numpy(stats.norm.ppf((np.arange(50) + 0.5) / 50))
    target = Quantile((levels, data.repeat_interleave(2))).brenier_map(noise[:, None])[:, 0]
    assert torch.equal(target, data)
    distance = stats.wasserstein_distance(noise.numpy(), data.numpy())
    assert float((target - noise).abs().mean()) == pytest.approx(distance, rel=1e-13)


@pytest.mark.parametrize(
    ("law", "potential"),
    [
        (stats.logistic(), Quantile(logistic, upper_quantile=lambda tail: -logistic(tail))),
        (stats.uniform(-1, 3), Quantile(([0.0, 1.0], [-1.0, 2.0]))),
        (stats.expon(), Quantile(stats.expon().ppf, upper_quantile=stats.expon().isf)),
    ],
    ids=["logistic", "uniform", "exponential"],
)
def test_both_potentials_give_the_cost_of_the_quantile_coupling(law: rv_frozen, potential: Quantile) -> None:
    """W2^2 = E x^2 + E y^2 - 2 (E phi + E psi) is the integral of (quantile - normal quantile)^2 over the levels."""
    s, weights = np.polynomial.hermite_e.hermegauss(150)
    u = torch.from_numpy(s)[:, None]
    dual = float((potential.conjugate(u) + potential.value(potential.brenier_map(u))) @ torch.from_numpy(weights))
    dual /= math.sqrt(2 * math.pi)
    cost = 1 + law.moment(2) - 2 * dual
    exact = integrate.quad(lambda x: (law.ppf(stats.norm.cdf(x)) - x) ** 2 * stats.norm.pdf(x), -8, 8, epsabs=1e-12)[0]
    assert cost == pytest.approx(exact, abs=1e-9)


@pytest.mark.parametrize(("alpha", "beta"), TIMES)
def test_a_normal_law_is_the_quadratic_potential(alpha: float, beta: float) -> None:
    """To rounding far into both tails, given both of them."""
    x = torch.cat([normal(200, 3.0), column(0.0, 25.0, -25.0, 1e30, -1e30, 1e-30, 60.0, -60.0)])
    pair, exact = gaussian().decompose(x, alpha, beta), GAUSSIAN.decompose(x, alpha, beta)
    torch.testing.assert_close(pair.point, exact.point, rtol=1e-13, atol=1e-13)
    if alpha > 1e-3:
        torch.testing.assert_close(pair.multiplier, exact.multiplier, rtol=1e-12, atol=1e-13)
    small = x.abs() < 1e3
    assert ((pair.point - exact.point).abs()[small] <= pair.error_bound[:, None][small] + 1e-15).all()


def test_values_of_a_normal_law_are_those_of_the_quadratic_potential() -> None:
    x = torch.cat([normal(200, 3.0), column(0.0, 25.0, -25.0, 1e30, -1e30, 1e-9)])
    torch.testing.assert_close(gaussian().conjugate(x), GAUSSIAN.conjugate(x), rtol=1e-13, atol=0)
    torch.testing.assert_close(gaussian().value(x), GAUSSIAN.value(x), rtol=1e-12, atol=1e-14)


def test_a_table_is_resolved_far_in_its_upper_tail() -> None:
    """The last piece has mass 2^-40; levels in it have twelve bits left when counted from 0."""
    table = Quantile(([0.0, 1 - 2.0**-40, 1.0], [0.0, 1.0, 2.0]))
    target = table.brenier_map(column(stats.norm.isf(0.3 * 2.0**-40)))
    torch.testing.assert_close(target, column(1.7), rtol=1e-12, atol=0)


def test_a_torch_quantile_that_hides_its_derivative_gets_differences() -> None:
    hidden, x = Quantile(lambda level: 1 + 2 * torch.special.ndtri(level.detach())), normal(20)
    torch.testing.assert_close(hidden.prox_jacobian(x, 0.7), GAUSSIAN.prox_jacobian(x, 0.7), rtol=1e-8, atol=1e-8)


def test_without_the_upper_tail_a_normal_law_is_right_where_levels_are_resolved_and_finite_beyond() -> None:
    potential = gaussian(with_upper=False)
    near, far = normal(500, 1.2), column(6.5, 8.0, 9.0, 50.0, 1e30, -1e30, 1e-30)
    for alpha, beta in TIMES:
        for x, tolerance in ((near, 1e-10), (far, 1e-7)):
            point, exact = potential.decompose(x, alpha, beta).point, GAUSSIAN.decompose(x, alpha, beta).point
            assert ((point - exact).abs() <= tolerance * (1 + exact.abs())).all()
    torch.testing.assert_close(potential.conjugate(near), GAUSSIAN.conjugate(near), rtol=1e-10, atol=1e-10)


def test_a_quantile_that_fails_deep_in_the_lower_tail_goes_on_linearly() -> None:
    """2 p - 1 loses p = 1e-20: erfinv then gives -inf."""
    potential = Quantile(lambda level: 1 + 2 * math.sqrt(2) * torch.erfinv(2 * level - 1))
    x = torch.cat([normal(300, 2.0), column(-9.0, -40.0, 9.0)])
    torch.testing.assert_close(potential.brenier_map(x), GAUSSIAN.brenier_map(x), rtol=1e-7, atol=1e-7)


def test_a_numpy_quantile_agrees_with_a_torch_one_under_vmap_and_compile() -> None:
    law = stats.norm(1, 2)
    numpy, exact, x = Quantile(law.ppf, upper_quantile=law.isf), gaussian(), normal(20, 2.0)
    torch.testing.assert_close(numpy.decompose(x, 0.4, 0.6).point, exact.decompose(x, 0.4, 0.6).point)
    torch.testing.assert_close(numpy.prox_jacobian(x, 0.7), exact.prox_jacobian(x, 0.7), rtol=1e-9, atol=1e-9)
    by_rows = torch.func.vmap(torch.func.jacrev(lambda z: numpy.prox(z[None], 0.7).point[0]))(x)
    torch.testing.assert_close(by_rows, exact.prox_jacobian(x, 0.7), rtol=1e-9, atol=1e-9)
    compiled = torch.compile(lambda z: numpy.prox(z, 0.7).point, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), numpy.prox(x, 0.7).point, rtol=0, atol=0)


def test_vmap_over_any_dimension_and_over_single_arguments() -> None:
    potential, x = Quantile(STEPS_AND_GAPS), normal(40).reshape(8, 5)
    steps = torch.linspace(0.2, 2.0, 5, dtype=f64)
    columns = [potential.prox(x[:, k, None], float(steps[k])).point[:, 0] for k in range(5)]

    def prox(z: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        return potential.prox(z[:, None], step.expand(8)).point[:, 0]

    torch.testing.assert_close(torch.func.vmap(prox, in_dims=(1, 0), out_dims=1)(x, steps), torch.stack(columns, dim=1))
    number, ones = potential.transport._number, torch.ones(5, 8, dtype=f64)
    by_operator = torch.func.vmap(lambda z, one: monotone_pair(z, one, one, number)[1], in_dims=(1, 0))(x, ones)
    torch.testing.assert_close(by_operator, potential.prox(x.mT.reshape(40, 1), 1.0).point.reshape(5, 8))
    same = torch.func.vmap(prox, in_dims=(None, 0), out_dims=1)(x[:, 0], steps[:1].expand(3))
    torch.testing.assert_close(same, columns[0][:, None].expand(8, 3))


# ------------------------------------------------------------------ atoms and gaps


def table_transport(u: float) -> float:
    """T of STEPS_AND_GAPS by numpy's interpolation, right-continuous at gaps."""
    levels, values = (part.numpy() for part in STEPS_AND_GAPS)
    level = float(stats.norm.cdf(u))
    piece = min(int(np.searchsorted(levels, level, side="right")), len(levels) - 1)
    share = (level - levels[piece - 1]) / (levels[piece] - levels[piece - 1])
    return float(values[piece - 1] + share * (values[piece] - values[piece - 1]))


@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1e-3), (0.6, 0.4), (1e-2, 1.0)])
def test_the_pair_of_a_table_is_the_root_that_scipy_finds(alpha: float, beta: float) -> None:
    x = normal(200, 2.0 * beta + alpha)
    pair = Quantile(STEPS_AND_GAPS).decompose(x, alpha, beta)

    def excess(u: float, target: float) -> float:
        return alpha * u + beta * table_transport(u) - target

    roots = [brentq(excess, -1e4, 1e4, args=(float(row),), xtol=1e-300, rtol=4 * EPS) for row in x[:, 0]]
    torch.testing.assert_close(pair.multiplier[:, 0], torch.tensor(roots, dtype=f64), rtol=1e-12, atol=1e-13)
    rest = (x[:, 0] - alpha * torch.tensor(roots, dtype=f64)) / beta
    torch.testing.assert_close(pair.point[:, 0], rest, rtol=0, atol=1e-11 * (1 + alpha / beta))


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 0.99])
def test_velocities_deep_in_a_tail_are_within_their_bounds(t: float) -> None:
    """Of the uniform law on [0, 1], whose root mpmath finds: u is off by what the root misses, over alpha."""
    flow = pf.ProximalFlow(Quantile(lambda level: level))
    x = flow.interpolate(t, -2 - 6 * torch.linspace(0, 1, 60, dtype=f64)[:, None])
    found, velocity = flow.solve(t, x), flow.velocity(t, x)
    assert found.velocity_error_bound is not None
    with mpmath.workdps(40):
        alpha, beta = mpmath.mpf(1 - t), mpmath.mpf(t)
        for row, start, v, bound in zip(x, found.multiplier, velocity, found.velocity_error_bound, strict=True):
            u = mpmath.mpf(float(start))
            for _ in range(4):
                u -= (alpha * u + beta * mpmath.ncdf(u) - float(row)) / (alpha + beta * mpmath.npdf(u))
            assert abs(float(v) - (mpmath.ncdf(u) - u)) <= float(bound)


def test_phi_is_the_integral_of_the_map_and_psi_its_conjugate() -> None:
    potential, breaks = Quantile(STEPS_AND_GAPS), np.asarray(stats.norm.ppf([0.2, 0.5, 0.7, 0.9]))
    for u in (-3.0, -0.7, 0.1, 0.52, 2.5):
        exact = integrate.quad(table_transport, 0, u, points=breaks, epsabs=1e-13, epsrel=1e-12, limit=200)[0]
        assert float(potential.conjugate(column(u))) == pytest.approx(exact, abs=1e-12)
    for y in (-1.3, -0.7, -0.5, 0.1, 0.8, 1.0, 3.0):
        best = minimize_scalar(
            lambda u, y=y: float(potential.conjugate(column(u))) - y * u, bounds=(-9, 9), options={"xatol": 1e-13}
        )
        assert float(potential.value(column(y))) == pytest.approx(-best.fun, abs=1e-9)


def test_many_atoms_given_by_a_function_have_the_integral_of_their_table() -> None:
    """A rule that sees a jump neither from the nodes nor from the halves would be off by 1e-5 here."""
    data = torch.sort(normal(3000)[:, 0]).values
    levels = (torch.arange(3001, dtype=f64) / 3000).repeat_interleave(2)[1:-1]
    table = Quantile((levels, data.repeat_interleave(2)))
    formula = Quantile(lambda level: data[(level * 3000).long().clamp(0, 2999)])
    u = normal(300, seed=1)
    torch.testing.assert_close(formula.conjugate(u), table.conjugate(u), rtol=0, atol=1e-11)


def test_a_gap_gives_what_the_jump_leaves_and_an_atom_itself() -> None:
    """Two atoms +-1.5 with P(-1.5) = 0.3: inside the gap u stays at the jump."""
    potential = Quantile(([0.0, 0.3, 0.3, 1.0], [-1.5, -1.5, 1.5, 1.5]))
    jump = stats.norm.ppf(0.3)
    x = column(0.5 * jump - 0.6, 0.5 * jump, 0.5 * jump + 0.6, -5.0, 5.0)
    pair = potential.decompose(x, 0.5, 0.5)
    torch.testing.assert_close(pair.point, column(-1.2, 0.0, 1.2, -1.5, 1.5), rtol=0, atol=1e-14)
    torch.testing.assert_close(pair.multiplier, column(jump, jump, jump, -8.5, 8.5), rtol=0, atol=1e-14)
    expected = column(2.0, 2.0, 2.0, 0.0, 0.0)[:, :, None]
    torch.testing.assert_close(potential.decompose_jacobian(x, 0.5, 0.5), expected)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_curvature_on_a_piece_in_a_gap_and_at_an_atom(dtype: torch.dtype) -> None:
    potential = Quantile(STEPS_AND_GAPS)
    u = torch.tensor([[-1.5], [stats.norm.ppf(0.2)], [0.9], [stats.norm.ppf(0.7)], [0.2]], dtype=dtype)
    y = potential.brenier_map(u)
    y[1], y[3] = -0.8, 0.6
    form = potential.second_epi_derivative(y, u)
    assert form.subspace_dimension.tolist() == [1, 1, 0, 1, 1]
    rates = torch.tensor([5.0, 0.0, 0.0, 0.0, 4.0], dtype=f64)
    slopes = rates * torch.from_numpy(stats.norm.pdf(u[:, 0].double()))
    expected = torch.where(slopes > 0, 1 / slopes, 0.0).to(dtype)
    torch.testing.assert_close(form.hessian[:, 0, 0], expected)


def test_at_the_end_of_time_the_point_is_the_projection_on_the_hull() -> None:
    x = column(-7.0, -1.9, -0.7, 0.5, 4.0, 9.0)
    pair = Quantile(STEPS_AND_GAPS).decompose(x, 0.0, 1.0)
    torch.testing.assert_close(pair.point, x.clamp(-2, 4), rtol=0, atol=1e-14)
    assert torch.isnan(pair.multiplier).all()
    jacobian = Quantile(STEPS_AND_GAPS).decompose_jacobian(x, 0.0, 2.0)[:, 0, 0]
    assert jacobian.tolist() == [0.0, 0.5, 0.5, 0.5, 0.5, 0.0]


# ------------------------------------------------------------------ derivatives, precision, sources


def test_the_gradient_of_psi_is_the_source_point() -> None:
    for potential in (gaussian(), Quantile(logistic), Quantile(torch.square)):
        u = normal(20)
        y = potential.brenier_map(u).requires_grad_()
        (gradient,) = torch.autograd.grad(potential.value(y).sum(), y)
        torch.testing.assert_close(gradient, u, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("quantile", [logistic, STEPS_AND_GAPS, torch.square], ids=["logistic", "table", "square"])
def test_derivatives_in_all_arguments(quantile: Any) -> None:
    potential = Quantile(quantile)
    x = normal(10, seed=4).requires_grad_()
    alpha = torch.linspace(0.3, 1.2, 10, dtype=f64).requires_grad_()
    beta = torch.linspace(1.5, 0.2, 10, dtype=f64).requires_grad_()

    def both(x: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pair = potential.decompose(x, alpha, beta)
        return pair.point, pair.multiplier

    assert torch.autograd.gradcheck(both, (x, alpha, beta), eps=1e-6, atol=1e-5)
    pushed = torch.func.jvp(lambda z: potential.prox(z, 0.7).point, (x.detach(),), (torch.ones_like(x),))[1]
    torch.testing.assert_close(pushed, potential.prox_jacobian(x.detach(), 0.7)[:, :, 0])


@pytest.mark.slow
def test_compiled_without_graph_breaks() -> None:
    flow, x = pf.ProximalFlow(Quantile(logistic)), normal(20)
    compiled = torch.compile(
        lambda x: flow.velocity(torch.tensor(0.4, dtype=f64), x), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), flow.velocity(0.4, x), rtol=0, atol=0)


@pytest.mark.parametrize("potential", [Quantile(STEPS_AND_GAPS), gaussian()], ids=["table", "gaussian"])
def test_extreme_queries(potential: Quantile) -> None:
    sizes = torch.tensor([10.0**k for k in range(-30, 31, 3)], dtype=f64)
    x = torch.cat([sizes, -sizes, torch.zeros(1, dtype=f64)])[:, None]
    for dtype in (torch.float32, f64):
        for alpha, beta in TIMES:
            pair = potential.decompose(x.to(dtype), alpha, beta)
            assert torch.isfinite(pair.point).all()
            assert (pair.status == int(Status.converged)).all()
            if alpha > 1e-3:
                rebuilt = alpha * pair.multiplier + beta * pair.point
                slack = 8 * torch.finfo(dtype).eps * (pair.point.abs() + pair.multiplier.abs())
                assert ((rebuilt - x.to(dtype)).abs() <= slack).all()


def test_spoiled_rows_stay_alone() -> None:
    x = column(0.3, math.nan, -0.2, math.inf, -math.inf)
    for potential in (Quantile(STEPS_AND_GAPS), Quantile(stats.norm.ppf)):
        pair = potential.decompose(x, 0.5, 0.5)
        assert torch.isnan(pair.point[:, 0]).tolist() == [False, True, False, True, True]
        clean = potential.decompose(x[[0, 2]], 0.5, 0.5)
        assert torch.equal(pair.point[[0, 2]], clean.point)

    def strict(level: torch.Tensor) -> torch.Tensor:
        assert ((level >= 0) & (level <= 1)).all()
        return level

    assert Quantile(strict).decompose(x, 0.5, 0.5).status.tolist() == [0, 3, 0, 3, 3]
    alpha = torch.tensor(0.5, dtype=f64, requires_grad=True)
    Quantile(strict).decompose(x, alpha, 0.5).point[[0, 2]].sum().backward()
    assert alpha.grad is not None
    assert torch.isfinite(alpha.grad)
    rows = Quantile(STEPS_AND_GAPS).decompose(x[:3], torch.tensor([0.5, 0.5, math.nan], dtype=f64), 0.5)
    assert rows.status.tolist() == [0, 3, 3]


def test_another_source_with_a_cdf() -> None:
    """From Uniform(-1, 1) to Uniform(0, 3) the map is 1.5 (u + 1)."""
    potential = Quantile(([0.0, 1.0], [0.0, 3.0]), source=UniformSource())
    u = torch.linspace(-1, 1, 41, dtype=f64)[:, None]
    torch.testing.assert_close(potential.brenier_map(u), 1.5 * (u + 1), rtol=0, atol=1e-14)
    torch.testing.assert_close(potential.conjugate(u), 1.5 * (0.5 * u.square() + u)[:, 0], rtol=0, atol=1e-13)
    x = torch.linspace(-0.39, 1.9, 30, dtype=f64)[:, None]
    torch.testing.assert_close(potential.decompose(x, 0.4, 0.6).point, 1.5 * (x + 0.4) / 1.3, rtol=0, atol=1e-14)
    slopes = potential.decompose_jacobian(x, 0.4, 0.6)[:, 0, 0]
    torch.testing.assert_close(slopes, torch.full_like(slopes, 1.5 / 1.3), rtol=1e-12, atol=0)


def test_a_source_without_an_upper_tail_keeps_the_map_right_where_its_levels_round() -> None:
    upper = Quantile(
        lambda level: 1 + 2 * torch.special.ndtri(level),
        upper_quantile=lambda tail: 1 - 2 * torch.special.ndtri(tail),
        source=NormalByItsCdf(),
    )
    x = column(-30.0, -5.0, 0.3, 5.0, 7.0, 7.9, 8.1, 9.0, 50.0)
    torch.testing.assert_close(upper.brenier_map(x), 1 + 2 * x, rtol=1e-7, atol=1e-7)


# ------------------------------------------------------------------ state and refusals


def test_state_copies_and_files(tmp_path: Path) -> None:
    table = Quantile(STEPS_AND_GAPS)
    assert sorted(table.state_dict()) == ["levels", "values"]
    assert not Quantile(logistic).state_dict()
    other = copy.deepcopy(table)
    other.load_state_dict({"levels": table.levels, "values": 2 * table.values})
    x = normal(20)
    torch.testing.assert_close(other.brenier_map(x), 2 * table.brenier_map(x))
    with pytest.raises(ValueError, match="values must not decrease"):
        table.load_state_dict({"levels": table.levels, "values": -table.values})
    del table
    torch.testing.assert_close(copy.deepcopy(other).brenier_map(x), other.brenier_map(x), rtol=0, atol=0)
    pf.save(other, tmp_path / "x")
    assert torch.equal(pf.load(tmp_path / "x").brenier_map(x), other.brenier_map(x))


def test_a_cast_of_the_module_keeps_the_map_in_float64() -> None:
    x = normal(20)
    exact, cast = gaussian(), gaussian().to(torch.float32)
    assert torch.equal(cast.decompose(x, 0.4, 0.6).point, exact.decompose(x, 0.4, 0.6).point)
    assert torch.equal(cast.conjugate(x), exact.conjugate(x))


def test_a_copy_outlives_the_original() -> None:
    original, x = gaussian(), normal(20)
    expected, twin = original.prox(x, 1.0).point, copy.deepcopy(original)
    del original
    gc.collect()
    assert torch.equal(twin.prox(x, 1.0).point, expected)


def test_a_callable_cannot_be_saved_and_the_message_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(
        TypeError, match=r"quantile function logistic of Quantile is a callable.*pair \(levels, values\)"
    ):
        pf.save(pf.ProximalFlow(Quantile(logistic)), tmp_path / "x")


@pytest.mark.parametrize(
    ("quantile", "said"),
    [
        (3.0, r"must be a callable, level -> value, or a pair \(levels, values\), got 3\.0"),
        (([0.0, 1.0],), "or a pair"),
        (([0.0, 1.0], [0.0, 1.0, 2.0]), r"same shape \(K,\), K >= 2, got \(2,\) and \(3,\)"),
        (([0.0], [1.0]), "K >= 2"),
        (([[0.0, 1.0]], [[0.0, 1.0]]), r"got \(1, 2\)"),
        (([0.0, math.nan, 1.0], [0.0, 1.0, 2.0]), "levels must be finite"),
        (([0.0, 1.0], [0.0, math.inf]), "values must be finite; an unbounded law needs a callable"),
        (([0.0, 0.6, 0.5, 1.0], [0.0, 1.0, 2.0, 3.0]), "levels must not decrease, entries 1 and 2 are 0.6 and 0.5"),
        (([0.0, 0.5, 1.0], [0.0, 2.0, 1.0]), "values must not decrease, entries 1 and 2 are 2 and 1"),
        (([0.1, 1.0], [0.0, 1.0]), "levels must go from 0 to 1, got 0.1 to 1"),
        (([0.0, 0.9], [0.0, 1.0]), "levels must go from 0 to 1, got 0 to 0.9"),
        (lambda level: -level, "must not decrease, at the levels"),
        (lambda level: torch.where(level > 0.7, torch.nan, level), r"finite inside \(0, 1\), at level 0.7.* it is nan"),
        (lambda level: torch.where(level > 0.7, torch.inf, level), r"at level 0.7.* it is inf"),
        (lambda level: torch.where(level == 1, torch.nan, level), r"at the levels 0 and 1; give their limits"),
        (lambda level: level.sum(), r"one value per level, got shape \(\)"),
        (lambda level: level[..., :2], r"got shape \(1, 2\)"),
        (lambda: 1.0, "accepts neither a tensor nor an array"),
    ],
)
def test_what_is_no_quantile_function_is_refused(quantile: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"Quantile: .*{said}"):
        Quantile(quantile)


def test_an_upper_tail_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="must not decrease"):
        Quantile(stats.norm.ppf, upper_quantile=stats.norm.ppf)
    with pytest.raises(ValueError, match="a table has its upper tail"):
        Quantile(STEPS_AND_GAPS, upper_quantile=stats.norm.isf)
    with pytest.raises(ValueError, match="upper_quantile must be callable"):
        Quantile(stats.norm.ppf, upper_quantile=3.0)  # type: ignore[arg-type]


def test_a_source_without_cdf_is_refused() -> None:
    class Mute(UniformSource):
        cdf = None

    with pytest.raises(ValueError, match=r"needs a method cdf\(x\)"):
        Quantile(STEPS_AND_GAPS, source=Mute())
    with pytest.raises(ValueError, match="the source has dimension 2, the potential 1"):
        Quantile(STEPS_AND_GAPS, source=pf.measures.Gaussian(2))
