"""Rotation-invariant laws against the ball, the Gaussian, scipy's quadrature, and differences."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats

import proxflow as pf
from proxflow.potentials import Ball, Quadratic, Quantile, Radial
from proxflow.potentials.quantile.levels import radius_levels
from proxflow.results import Status
from tests.laws.cases import SHELLS, uniform_ball
from tests.marks import slow_beyond

f64 = torch.float64
EPS = torch.finfo(f64).eps
TIMES = [(1.0, 0.0), (1.0, 1e-9), (0.7, 0.3), (1e-9, 1.0), (0.0, 1.0)]


def normal(n: int, d: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=f64)


def along(direction: torch.Tensor, radii: list[float]) -> torch.Tensor:
    return torch.tensor(radii, dtype=f64)[:, None] * direction / direction.norm()


def gaussian(dim: int, deviation: float, with_upper: bool = True) -> Radial:
    law = stats.chi(dim, scale=deviation)
    return Radial(dim, law.ppf, upper_quantile=law.isf if with_upper else None)


def quadratic(dim: int, deviation: float) -> Quadratic:
    return Quadratic(torch.zeros(dim, dtype=f64), deviation**2 * torch.eye(dim, dtype=f64))


class DiscSource:
    """Uniform on the unit disc."""

    dim = 2
    rotation_invariant = True

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        r = torch.rand(n, 1, generator=generator, dtype=dtype, device=device).sqrt()
        x = torch.randn(n, 2, generator=generator, dtype=dtype, device=device)
        return r * x / x.norm(dim=1, keepdim=True)

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return torch.where(x.norm(dim=1) <= 1, x.new_full((), -math.log(math.pi)), -torch.inf)

    def radius_cdf(self, r: torch.Tensor) -> torch.Tensor:
        return r.square().clamp(0, 1)


# ------------------------------------------------------------------ levels of the source


@pytest.mark.parametrize("dim", [1, 2, 3, 10, 64, 784])
def test_both_tails_of_the_radius_are_scipys(dim: int) -> None:
    """torch.special.gammainc is off by 1e-9 in dimension 64."""
    levels = radius_levels(pf.measures.Gaussian(dim))
    r = torch.linspace(1e-3, math.sqrt(dim) + 30, 400, dtype=f64)
    lower, upper = levels.tails(r)
    x = 0.5 * r.numpy() ** 2
    for ours, exact in ((lower, special.gammainc(dim / 2, x)), (upper, special.gammaincc(dim / 2, x))):
        seen = exact > 1e-280
        np.testing.assert_allclose(ours.numpy()[seen], exact[seen], rtol=2e-12)
    density = stats.chi(dim).logpdf(r.numpy())
    seen = density > -600
    np.testing.assert_allclose(levels.density(r).log().numpy()[seen], density[seen], rtol=0, atol=2e-12)
    assert [float(part) for part in levels.tails(torch.zeros((), dtype=f64))] == [0.0, 1.0]


# ------------------------------------------------------------------ closed forms


@pytest.mark.parametrize(("alpha", "beta"), TIMES)
@pytest.mark.parametrize("dim", slow_beyond(1, [2, 5, 1, 64]))
def test_a_constant_radius_is_the_ball(dim: int, alpha: float, beta: float) -> None:
    ball = Ball(dim, 1.7)
    x = torch.cat([normal(100, dim), normal(50, dim, 1e-3), normal(5, dim, 1e30), normal(5, dim, 1e-30)])
    for radial in (Radial(dim, lambda level: torch.full_like(level, 1.7)), Radial(dim, ([0.0, 1.0], [1.7, 1.7]))):
        ours, exact = radial.decompose(x, alpha, beta), ball.decompose(x, alpha, beta)
        torch.testing.assert_close(ours.point, exact.point, rtol=1e-14, atol=0)
        if alpha > 0:
            slack = 1e-14 * (1 + x.norm(dim=1)) / alpha
            assert ((ours.multiplier - exact.multiplier).norm(dim=1) <= slack).all()
        torch.testing.assert_close(radial.conjugate(x), ball.conjugate(x), rtol=1e-14, atol=0)
        torch.testing.assert_close(radial.value(exact.point), torch.zeros(len(x), dtype=f64), rtol=0, atol=1e-13)
        assert torch.isinf(radial.value(1.7001 * x[:100] / x[:100].norm(dim=1, keepdim=True))).all()
        if beta > 1e-3:
            near = x[:150]
            difference = radial.decompose_jacobian(near, alpha, beta) - ball_jacobian(ball, near, beta)
            assert difference.abs().max() <= 1e-12 / beta


def ball_jacobian(ball: Ball, x: torch.Tensor, beta: float) -> torch.Tensor:
    return torch.autograd.functional.jacobian(lambda x: ball.decompose(x, 1.0, beta).point.sum(0), x).movedim(1, 0)


@pytest.mark.parametrize(("alpha", "beta"), TIMES)
@pytest.mark.parametrize("dim", slow_beyond(2, [1, 64, 3]))
def test_a_gaussian_law_is_the_quadratic_potential(dim: int, alpha: float, beta: float) -> None:
    radial, exact = gaussian(dim, 1.7), quadratic(dim, 1.7)
    x = torch.cat([normal(60, dim), normal(20, dim, 3.0), along(torch.ones(dim).double(), [1e30, 1e-9, 40.0])])
    ours, reference = radial.decompose(x, alpha, beta), exact.decompose(x, alpha, beta)
    torch.testing.assert_close(ours.point, reference.point, rtol=1e-12, atol=1e-14)
    if alpha > 1e-3:
        torch.testing.assert_close(ours.multiplier, reference.multiplier, rtol=1e-12, atol=1e-14)
        jacobian = radial.decompose_jacobian(x, alpha, beta)
        torch.testing.assert_close(jacobian, exact.decompose_jacobian(x, alpha, beta), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(radial.conjugate(x), exact.conjugate(x), rtol=1e-12, atol=0)
    torch.testing.assert_close(radial.value(x), exact.value(x), rtol=1e-11, atol=1e-14)


def test_without_the_upper_tail_a_gaussian_law_is_right_and_finite() -> None:
    """chi.ppf(1) is inf, and levels round to 1 at |x| = 8.6 here."""
    radial, exact = gaussian(3, 1.7, with_upper=False), quadratic(3, 1.7)
    far = along(torch.ones(3).double(), [7.0, 8.6, 9.0, 100.0, 1e30])
    for alpha, beta in TIMES:
        for x, tolerance in ((normal(200, 3), 1e-10), (far, 1e-6)):
            point, reference = radial.decompose(x, alpha, beta).point, exact.decompose(x, alpha, beta).point
            assert ((point - reference).norm(dim=1) <= tolerance * (1 + reference.norm(dim=1))).all()


@pytest.mark.parametrize("dim", [1, 2, 7, 100])
def test_the_uniform_ball_against_quadrature(dim: int) -> None:
    """phi is scipy's integral of F0^(1/d)."""
    potential = uniform_ball(dim)

    def transport(r: float) -> float:
        """F0^(1/d) from the series of the incomplete gamma function, whose logarithm does not underflow."""
        half, x = 0.5 * dim, 0.5 * r * r
        log_level = half * math.log(x) - x - math.lgamma(half + 1) + math.log(special.hyp1f1(1, half + 1, x))
        return math.exp(log_level / dim)

    direction = normal(1, dim, seed=3)[0]
    radii = [0.3, 0.8 * math.sqrt(dim), 1.4 * math.sqrt(dim), math.sqrt(dim) + 6]
    for r in radii:
        exact = integrate.quad(transport, 0, r, epsabs=0, epsrel=1e-12, limit=200)[0]
        assert float(potential.conjugate(along(direction, [r]))) == pytest.approx(exact, rel=1e-11)
    mapped = potential.brenier_map(along(direction, radii)).norm(dim=1)
    assert mapped.tolist() == pytest.approx([transport(r) for r in radii], rel=1e-12)


def test_shells_against_quadrature_and_root() -> None:
    levels, values = (part.numpy() for part in SHELLS)
    potential, law = Radial(3, SHELLS), stats.chi(3)
    pieces = [(0.0, 0.3, 0.0, 0.0), (0.3, 0.6, 1.0, 1.0), (0.6, 0.8, 1.0, 2.0), (0.8, 1.0, 2.0, 2.5)]
    assert (levels[-1], values[-1]) == (1.0, 2.5)

    def transport(r: float) -> float:
        level = float(law.cdf(r))
        start, end, low, high = next(piece for piece in pieces if level < piece[1] or piece[1] == 1.0)
        return low + (high - low) * (level - start) / (end - start)

    breaks = law.ppf([0.3, 0.6, 0.8])
    for r in (0.5, 1.4, 1.9, 4.0):
        inside = [float(b) for b in breaks if b < r]
        parts = zip([0.0, *inside], [*inside, r], strict=True)
        exact = sum(integrate.quad(transport, a, b, epsabs=1e-14)[0] for a, b in parts)
        assert float(potential.conjugate(torch.tensor([[0.0, r, 0.0]], dtype=f64))) == pytest.approx(exact, abs=1e-12)
    x = normal(200, 3)
    pair = potential.decompose(x, 0.4, 0.6)
    r, rho = pair.multiplier.norm(dim=1), pair.point.norm(dim=1)
    torch.testing.assert_close(0.4 * r + 0.6 * rho, x.norm(dim=1), rtol=1e-14, atol=0)
    for source, target in zip(r.tolist(), rho.tolist(), strict=True):
        low, high = transport(source * (1 - 1e-12)), transport(source * (1 + 1e-12))
        assert low - 1e-11 <= target <= high + 1e-11


# ------------------------------------------------------------------ curvature


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_curvature_in_all_its_cases(dtype: torch.dtype) -> None:
    """An atom at 0 up to r1, an empty shell, a sphere of mass, a smooth shell."""
    potential, jump = Radial(3, SHELLS), float(stats.chi(3).ppf(0.3))
    e = torch.tensor([0.6, 0.0, 0.8], dtype=dtype)
    y = torch.stack([0 * e, 0.5 * e, e, 1.7 * e])
    smooth = float(stats.chi(3).ppf(0.6 + 0.7 * 0.2))
    u = torch.stack([0.4 * jump * e, jump * e, 1.4 * e, smooth * e])
    form = potential.second_epi_derivative(y, u)
    assert form.subspace_dimension.tolist() == [0, 3, 2, 3]
    slope = 5 * float(stats.chi(3).pdf(smooth))
    expected = [0.0, jump / 0.5, 1.4, smooth / 1.7]
    across = form(torch.tensor([[0.8, 0.0, -0.6]], dtype=dtype).expand(4, 3))
    assert across[0] == torch.inf
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    assert across[1:].tolist() == pytest.approx(expected[1:], rel=tolerance)
    radial = form(e.expand(4, 3)).tolist()
    assert radial == pytest.approx([math.inf, 0.0, math.inf, 1 / slope], rel=tolerance)


def test_curvature_at_the_centre() -> None:
    """Smooth: 1 / T'(0) in all directions. In an empty ball: 0. With mass at 0: no direction."""
    zero = torch.zeros(1, 3, dtype=f64)
    smooth = uniform_ball(3).second_epi_derivative(zero, zero)
    slope = (2 / (3 * math.sqrt(2 * math.pi))) ** (1 / 3)  # F0(r) = sqrt(2 / pi) r^3 / 3 + ...
    torch.testing.assert_close(smooth.hessian, torch.eye(3, dtype=f64)[None] / slope, rtol=1e-10, atol=0)
    assert float(Radial(3, ([0.0, 1.0], [1.0, 2.0])).second_epi_derivative(zero, zero).hessian.abs().max()) == 0
    assert Radial(3, ([0.0, 1.0], [1.0, 2.0])).second_epi_derivative(zero, zero).subspace_dimension.tolist() == [3]
    assert Radial(3, SHELLS).second_epi_derivative(zero, zero).subspace_dimension.tolist() == [0]
    jacobian = uniform_ball(3).prox_jacobian(zero, 0.5)[0]
    torch.testing.assert_close(jacobian, torch.eye(3, dtype=f64) * slope / (0.5 + slope), rtol=1e-10, atol=0)


@pytest.mark.parametrize("name", ["ball", "shells"])
def test_terminal_directions(name: str) -> None:
    """The rates of the flow near its end: 0 in every direction of a density; across a sphere of mass -1 along it."""
    potential = {"ball": uniform_ball(3), "shells": Radial(3, SHELLS)}[name]
    flow, t = pf.ProximalFlow(potential), 1 - 1e-7
    x0 = along(torch.ones(3).double(), [1.5])
    rates = (1 - t) * torch.linalg.eigvalsh(flow.jacobian(t, flow.interpolate(t, x0)))
    expected = [0.0, 0.0, 0.0] if name == "ball" else [-1.0, 0.0, 0.0]
    assert rates[0].tolist() == pytest.approx(expected, abs=1e-5)


# ------------------------------------------------------------------ derivatives, precision, sources


@pytest.mark.parametrize(
    "quantile",
    [
        lambda level: level ** (1 / 3),
        pytest.param(SHELLS, marks=pytest.mark.slow),
        pytest.param(([0.0, 1.0], [1.0, 2.0]), marks=pytest.mark.slow),
    ],
    ids=["function", "shells", "hollow"],
)
def test_derivatives_in_all_arguments(quantile: Any) -> None:
    potential = Radial(3, quantile)
    x = torch.cat([normal(8, 3, seed=4), torch.zeros(1, 3, dtype=f64)]).requires_grad_()
    alpha = torch.linspace(0.3, 1.2, 9, dtype=f64).requires_grad_()
    beta = torch.linspace(1.5, 0.3, 9, dtype=f64).requires_grad_()

    def both(x: torch.Tensor, alpha: torch.Tensor, beta: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        pair = potential.decompose(x, alpha, beta)
        return pair.point, pair.multiplier

    assert torch.autograd.gradcheck(both, (x, alpha, beta), eps=1e-6, atol=1e-5)
    direction = normal(9, 3, seed=5)
    pushed = torch.func.jvp(lambda z: potential.prox(z, 0.7).point, (x.detach(),), (direction,))[1]
    expected = (potential.prox_jacobian(x.detach(), 0.7) @ direction[:, :, None])[:, :, 0]
    torch.testing.assert_close(pushed, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.slow
def test_compiled_without_graph_breaks() -> None:
    flow, x = pf.ProximalFlow(uniform_ball(3)), normal(20, 3)
    compiled = torch.compile(
        lambda x: flow.velocity(torch.tensor(0.4, dtype=f64), x), backend="aot_eager", fullgraph=True
    )
    torch.testing.assert_close(compiled(x), flow.velocity(0.4, x), rtol=0, atol=0)


@pytest.mark.parametrize("dim", [1, 3, 200])
def test_extreme_queries(dim: int) -> None:
    direction = normal(1, dim)[0]
    x = torch.cat([along(direction, [10.0**k for k in range(-30, 31, 3)]), torch.zeros(1, dim, dtype=f64)])
    for potential in (Radial(dim, SHELLS), gaussian(dim, 2.0, with_upper=False), uniform_ball(dim)):
        for dtype in (torch.float32, f64):
            for alpha, beta in TIMES:
                pair = potential.decompose(x.to(dtype), alpha, beta)
                assert torch.isfinite(pair.point).all()
                assert (pair.status == int(Status.converged)).all()
                if alpha > 1e-3:
                    rebuilt = (alpha * pair.multiplier + beta * pair.point - x.to(dtype)).norm(dim=1)
                    assert (rebuilt <= 16 * torch.finfo(dtype).eps * x.to(dtype).norm(dim=1)).all()


def test_near_the_centre_the_map_keeps_its_relative_accuracy() -> None:
    """The level of a point underflows long before the point does."""
    for dim in (3, 64):
        x = along(torch.ones(dim).double(), [1e-30, 1e-100, 1e-140])
        ratio = uniform_ball(dim).brenier_map(x).norm(dim=1) / torch.tensor([1e-30, 1e-100, 1e-140], dtype=f64)
        slope = math.exp(-(0.5 * dim * math.log(2) + math.lgamma(0.5 * dim + 1)) / dim)
        assert ratio.tolist() == pytest.approx([slope] * 3, rel=1e-9)


def test_spoiled_rows_stay_alone() -> None:
    x = normal(5, 2)
    x[1, 0], x[3, 1] = math.nan, math.inf
    for potential in (Radial(2, SHELLS), gaussian(2, 1.0)):
        pair = potential.decompose(x, 0.5, 0.5)
        assert pair.status.tolist() == [0, 3, 0, 3, 0]
        assert torch.isnan(pair.point).all(1).tolist() == [False, True, False, True, False]
        assert torch.equal(pair.point[[0, 2, 4]], potential.decompose(x[[0, 2, 4]], 0.5, 0.5).point)


def test_in_one_dimension_it_is_the_symmetric_law() -> None:
    """|X| uniform on [1, 2] on the line: T(u) = sign(u) (1 + P(|X0| <= |u|)), with a gap from -1 to 1."""
    line = Quantile(([0.0, 0.5, 0.5, 1.0], [-2.0, -1.0, 1.0, 2.0]))
    radial, x = Radial(1, ([0.0, 1.0], [1.0, 2.0])), normal(100, 1, 2.0)
    for alpha, beta in TIMES[1:]:
        torch.testing.assert_close(
            radial.decompose(x, alpha, beta).point, line.decompose(x, alpha, beta).point, rtol=1e-12, atol=1e-12
        )
    torch.testing.assert_close(radial.conjugate(x), line.conjugate(x), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(radial.prox_jacobian(x, 0.7), line.prox_jacobian(x, 0.7), rtol=1e-10, atol=1e-12)


def test_another_source_with_a_radius_cdf() -> None:
    """From the uniform disc of radius 1 to that of radius 3 the map is 3 u."""
    potential = Radial(2, lambda level: 3 * level.sqrt(), source=DiscSource())
    u = DiscSource().sample(100, generator=torch.Generator().manual_seed(0), dtype=f64)
    torch.testing.assert_close(potential.brenier_map(u), 3 * u, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(potential.conjugate(u), 1.5 * u.square().sum(1), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(potential.prox(u, 1.0).point, 0.75 * u, rtol=1e-13, atol=1e-13)
    expected = 0.75 * torch.eye(2, dtype=f64).expand(100, 2, 2)
    torch.testing.assert_close(potential.prox_jacobian(u, 1.0), expected, rtol=1e-9, atol=1e-9)


def test_a_source_without_an_upper_tail_keeps_the_map_right_where_its_levels_round() -> None:
    class NormalByItsRadius:
        """The standard normal law in the plane, whose levels of the radius round to 1 beyond 8.6."""

        dim = 2
        rotation_invariant = True
        sample = pf.measures.Gaussian(2).sample
        log_prob = pf.measures.Gaussian(2).log_prob

        def radius_cdf(self, r: torch.Tensor) -> torch.Tensor:
            return -torch.expm1(-0.5 * r.square())

    law = stats.chi(2, scale=3.0)
    potential = Radial(2, law.ppf, upper_quantile=law.isf, source=NormalByItsRadius())
    u = along(torch.ones(2).double(), [1e-9, 0.4, 5.0, 7.0, 8.1, 8.4, 8.9, 50.0])
    torch.testing.assert_close(potential.brenier_map(u), 3 * u, rtol=1e-7, atol=0)


# ------------------------------------------------------------------ state and refusals


def test_state_copies_and_files(tmp_path: Path) -> None:
    table = Radial(3, SHELLS)
    assert sorted(table.state_dict()) == ["levels", "values"]
    other = copy.deepcopy(table)
    other.load_state_dict({"levels": table.levels, "values": 2 * table.values})
    x = normal(20, 3)
    torch.testing.assert_close(other.brenier_map(x), 2 * table.brenier_map(x))
    pf.save(other, tmp_path / "x")
    assert torch.equal(pf.load(tmp_path / "x").brenier_map(x), other.brenier_map(x))
    with pytest.raises(TypeError, match=r"of Radial is a callable.*pair \(levels, values\)"):
        pf.save(uniform_ball(3), tmp_path / "y")


@pytest.mark.parametrize(
    ("quantile", "said"),
    [
        ("sphere", r"must be a callable, level -> value, or a pair \(levels, values\), got 'sphere'"),
        (([0.0, 1.0], [-1.0, 1.0]), "values are distances from 0 and must not be negative, got -1"),
        (lambda level: level - 0.5, r"gives distances from 0 and must not be negative, got -0\.5"),
        (lambda level: 1 - level, "must not decrease, at the levels"),
        (lambda level: torch.where(level > 0.5, torch.nan, level), r"finite inside \(0, 1\)"),
        (lambda level: level[0], r"got shape \(3,\) for levels \(1, 3\)"),
    ],
)
def test_what_is_no_quantile_function_of_a_distance_is_refused(quantile: Any, said: str) -> None:
    with pytest.raises(ValueError, match=rf"Radial: .*{said}"):
        Radial(2, quantile)


def test_sources_that_are_not_rotation_invariant_are_refused() -> None:
    class Turned(DiscSource):
        rotation_invariant = False

    class Mute(DiscSource):
        radius_cdf = None

    for source in (Turned(), Mute()):
        with pytest.raises(ValueError, match=r"must be rotation-invariant.*radius_cdf\(r\)"):
            Radial(2, SHELLS, source=source)
    with pytest.raises(ValueError, match="the source has dimension 2, the potential 3"):
        Radial(3, SHELLS, source=DiscSource())
    with pytest.raises(ValueError, match="dimension must be at least 1"):
        Radial(0, SHELLS)
