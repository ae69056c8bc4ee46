"""Log-densities, computed by change of variables, against scipy's formulas and against a total mass of one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import proxflow as pf
from proxflow.potentials import Ball, Discrete, Ellipsoid, Entropic, Potential, Product, Quadratic, Quantile, Radial
from tests.laws.cases import SHELLS, STEPS_AND_GAPS, exponential_radius, full_gaussian, logistic, uniform_ball

f64 = torch.float64


def normal(n: int, d: int, scale: float = 1.0, seed: int = 0) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=f64)


def rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(normal(d, d, seed=5))[0]


def log_prob(potential: Potential, y: torch.Tensor) -> np.ndarray:
    return pf.ProximalFlow(potential).log_prob(y).numpy()


GAPPED = Quantile(([0.0, 0.2, 0.5, 0.5, 1.0], [-2.0, -1.0, 0.5, 1.0, 3.0]))  # densities .2, .2, gap, .25


# ------------------------------------------------------------------ against formulas


def test_gaussian() -> None:
    potential, y = full_gaussian(), normal(50, 3, 4.0)
    buffers = dict(potential.named_buffers())
    law = stats.multivariate_normal(buffers["mean"].numpy(), buffers["covariance"].numpy())
    np.testing.assert_allclose(log_prob(potential, y), law.logpdf(y.numpy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("potential", "law"),
    [
        (Quantile(logistic, upper_quantile=lambda tail: -logistic(tail)), stats.logistic()),
        (Quantile(lambda level: -torch.log1p(-level), upper_quantile=lambda tail: -torch.log(tail)), stats.expon()),
        (Quantile(lambda level: level.square()), stats.beta(0.5, 1)),
        (Quantile(([0.0, 1.0], [0.0, 1.0])), stats.uniform()),
        (Quantile(stats.t(4).ppf, upper_quantile=stats.t(4).isf), stats.t(4)),
    ],
    ids=["logistic", "exponential", "beta", "uniform", "student by scipy"],
)
def test_laws_on_the_line(potential: Quantile, law: stats.rv_continuous) -> None:
    # not at 0.5, where scipy's own quantile of Student's law is off by 2e-6
    levels = np.array([1e-12, 1e-5, 0.01, 0.3, 0.45, 0.77, 0.999, 1 - 1e-7])
    y = torch.from_numpy(law.ppf(levels))[:, None]
    np.testing.assert_allclose(log_prob(potential, y), law.logpdf(y[:, 0].numpy()), rtol=1e-8, atol=1e-8)
    if np.isfinite(law.support()[0]):
        assert log_prob(potential, torch.tensor([[law.support()[0] - 1e-3]]).double()).tolist() == [-math.inf]


def test_pieces_and_a_gap() -> None:
    y = torch.tensor([-2.1, -1.9, -0.5, 0.4, 0.7, 0.9, 1.1, 2.9, 3.1, math.nan], dtype=f64)[:, None]
    density = np.exp(log_prob(GAPPED, y))
    np.testing.assert_allclose(density, [0, 0.2, 0.2, 0.2, 0, 0, 0.25, 0.25, 0, math.nan], rtol=1e-12)


@pytest.mark.parametrize("dim", [1, 2, 5, 30])
def test_uniform_ball(dim: int) -> None:
    direction = torch.nn.functional.normalize(normal(1, dim), dim=1)
    y = direction * torch.tensor([0.0, 1e-20, 1e-3, 0.5, 0.9, 0.9999, 1.0001, 7.0], dtype=f64)[:, None]
    volume = 0.5 * dim * math.log(math.pi) - math.lgamma(0.5 * dim + 1)
    np.testing.assert_allclose(log_prob(uniform_ball(dim), y), [-volume] * 6 + [-math.inf] * 2, rtol=0, atol=1e-8)


def test_exponential_radius() -> None:
    """p(y) = exp(-|y|) / (4 pi |y|^2) in R^3."""
    y = normal(50, 3, 3.0)
    r = y.norm(dim=1).numpy()
    np.testing.assert_allclose(
        log_prob(exponential_radius(), y), -r - np.log(4 * math.pi * r**2), rtol=1e-10, atol=1e-10
    )


def test_a_radial_gaussian_is_the_quadratic_one() -> None:
    law = stats.chi(6, scale=0.4)
    y = torch.cat([normal(50, 6, 0.5), torch.zeros(1, 6, dtype=f64)])
    radial = log_prob(Radial(6, law.ppf, upper_quantile=law.isf), y)
    quadratic = log_prob(Quadratic(torch.zeros(6).double(), 0.16 * torch.eye(6).double()), y)
    np.testing.assert_allclose(radial, quadratic, rtol=0, atol=1e-8)


def test_an_empty_ball_and_shell() -> None:
    """Uniform in radius on [1, 2] and [3, 4], half each, in the plane."""
    potential = Radial(2, ([0.0, 0.5, 0.5, 1.0], [1.0, 2.0, 3.0, 4.0]))
    radii = torch.tensor([0.0, 0.5, 1.5, 2.5, 3.5, 4.5], dtype=f64)
    density = np.exp(log_prob(potential, torch.stack([radii, 0 * radii], dim=1)))
    expected = [0, 0, 0.5 / (2 * math.pi * 1.5), 0, 0.5 / (2 * math.pi * 3.5), 0]
    np.testing.assert_allclose(density, expected, rtol=1e-12)


# ------------------------------------------------------------------ total mass one


@pytest.mark.slow
@pytest.mark.parametrize(
    ("potential", "breaks"),
    [
        (GAPPED, [-2, -1, 0.5, 1, 3]),
        (GAPPED.scale(0.3).rotate(-torch.ones(1, 1).double(), torch.ones(1).double()), [0.1, 0.7, 0.85, 1.3, 1.6]),
        (Quantile(lambda level: level + level**3), [0, 2]),
        (Quantile(logistic, upper_quantile=lambda tail: -logistic(tail)).scale(2.0), [-90, 0, 90]),
        (uniform_ball(1), [-1, 0, 1]),
    ],
    ids=["gap", "moved", "cubic", "logistic", "symmetric"],
)
def test_mass_one_on_the_line(potential: Potential, breaks: list[float]) -> None:
    def density(y: float) -> float:
        return float(potential.log_density(torch.tensor([[y]], dtype=f64)).exp())

    pieces = itertools.pairwise(breaks)
    mass = sum(integrate.quad(density, a, b, epsabs=1e-10, limit=100)[0] for a, b in pieces)
    assert mass == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize(
    "potential",
    [
        Radial(2, lambda level: 0.5 + 0.5 * level + 0.5 * level.square()),
        uniform_ball(2).scale(0.6).rotate(rotation(2), torch.tensor([0.3, -0.2], dtype=f64)),
        Product([Quantile(([0.0, 1.0], [-0.5, 0.7])), Quantile(lambda level: level + level.square() / 4)]),
    ],
    ids=["ring", "moved disc", "product"],
)
def test_mass_one_in_the_plane(potential: Potential) -> None:
    """Midpoint rule; its error is that of the boundary's length."""
    line = (torch.arange(400, dtype=f64) + 0.5) / 400 * 4 - 2
    y = torch.cartesian_prod(line, line)
    mass = float(potential.log_density(y).exp().sum()) * (4 / 400) ** 2
    assert mass == pytest.approx(1, abs=5e-3)


# ------------------------------------------------------------------ calculus, precision, derivatives


def test_calculus() -> None:
    parts = [uniform_ball(2), full_gaussian(), Quantile(logistic)]
    y = 0.4 * normal(20, 6)
    expected = sum(p.log_density(part) for p, part in zip(parts, y.split([2, 3, 1], dim=1), strict=True))
    torch.testing.assert_close(Product(parts).log_density(y), expected)
    turn, shift = rotation(6), normal(1, 6, seed=8)[0]
    torch.testing.assert_close(Product(parts).rotate(turn, shift).log_density(y @ turn.mT + shift), expected)
    scaled = Product(parts).scale(0.1).log_density(0.1 * y)
    torch.testing.assert_close(scaled, expected + 6 * math.log(10))


@pytest.mark.parametrize(
    "potential",
    [full_gaussian(), uniform_ball(3), exponential_radius(), Product([GAPPED, uniform_ball(2)])],
    ids=["gaussian", "ball", "exponential", "product"],
)
def test_float32(potential: Potential) -> None:
    y = potential.brenier_map(normal(50, 3))
    low = potential.log_density(y.float())
    assert low.dtype == torch.float32
    torch.testing.assert_close(low.double(), potential.log_density(y), rtol=1e-3, atol=1e-3)


FAR = Quadratic(torch.tensor([1e4]), torch.tensor([[1.0]]))


@pytest.mark.parametrize(
    ("potential", "mean", "deviation", "y"),
    [
        (FAR.scale(3.0), 3e4, 3.0, 29995.0),
        (FAR.rotate(torch.tensor([[-1.0]]), torch.tensor([0.1])), float(np.float32(0.1)) - 1e4, 1.0, -1e4),
        (Product([FAR]).scale(3.0).rotate(torch.eye(1)), 3e4, 3.0, 29995.0),
    ],
)
def test_float32_points_far_from_the_origin_keep_their_digits(
    potential: Potential, mean: float, deviation: float, y: float
) -> None:
    low = potential.log_density(torch.tensor([[y]]))
    assert low.dtype == torch.float32
    assert float(low) == pytest.approx(stats.norm(mean, deviation).logpdf(y), rel=1e-6, abs=1e-6)


def test_a_rotated_float32_density_is_that_of_the_same_point_in_float64() -> None:
    turn = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=f64)
    potential = Quadratic(torch.full((2,), 1e4), torch.eye(2)).rotate(turn)
    y = torch.tensor([[-2000.0, 14001.0], [-2000.5, 14002.0]])
    exact = stats.multivariate_normal([-2000, 14000]).logpdf(y.double().numpy())
    np.testing.assert_allclose(potential.log_density(y).numpy(), exact, rtol=1e-6, atol=1e-6)


def test_a_moved_float32_softmax_density_is_that_of_the_same_point_in_float64() -> None:
    """Near the edge of the hull a point's own rounding cost .4% of its log-density."""
    points, heights = normal(60, 2).float(), normal(60, 1, 0.1, seed=1)[:, 0].float()
    turn, shift = rotation(2).float(), torch.full((2,), 1e3)
    low = Entropic(points, heights, 0.3).scale(2.0).rotate(turn, shift)
    high = Entropic(points.double(), heights.double(), 0.3).scale(2.0).rotate(turn, shift)
    y = low.brenier_map(normal(400, 2, seed=2).float())
    exact = high.log_density(y.double())
    assert torch.isfinite(exact).all()
    torch.testing.assert_close(low.log_density(y).double(), exact, rtol=1e-6, atol=1e-6)


def test_scores() -> None:
    """The gradient of the log-density: -(y - m) / s^2, -tanh(y / 2), and -y / |y| (1 + 2 / |y|) in R^3."""
    y = normal(30, 1).requires_grad_()
    (score,) = torch.autograd.grad(Quantile(logistic).log_density(y).sum(), y)
    torch.testing.assert_close(score, -torch.tanh(y.detach() / 2), rtol=1e-8, atol=1e-8)
    y = normal(30, 3).requires_grad_()
    (score,) = torch.autograd.grad(exponential_radius().log_density(y).sum(), y)
    r = y.detach().norm(dim=1, keepdim=True)
    torch.testing.assert_close(score, -y.detach() / r * (1 + 2 / r), rtol=1e-8, atol=1e-8)


def test_event_shapes() -> None:
    flow = pf.ProximalFlow(full_gaussian())
    y = normal(4, 3)
    assert torch.equal(flow.log_prob(y.reshape(4, 3, 1)), flow.log_prob(y))


# ------------------------------------------------------------------ no density


@pytest.mark.parametrize(
    ("potential", "said"),
    [
        (Ball(2), "Ball: its target has no density"),
        (Ellipsoid([1.0, 2.0]), "Ellipsoid: its target has no density"),
        (Discrete(torch.eye(2), torch.zeros(2)), "Discrete: its target has no density"),
        (Quadratic(torch.zeros(2), torch.diag(torch.tensor([1.0, 0.0]))), "Quadratic: .* rank 1 in dimension 2"),
        (Quantile(STEPS_AND_GAPS), "Quantile: the law has no density, since its quantile function is flat"),
        (Radial(3, SHELLS), "Radial: the law has no density, since its quantile function is flat"),
        (Radial(3, lambda level: torch.full_like(level, 2.0)), "Radial: .*flat"),
        (Quantile(lambda level: torch.where(level < 0.001, 0.0, level)), "Quantile: .*flat"),
        (Quantile(lambda level: (level * 3e4).floor()), "Quantile: .*flat"),
        (Product([full_gaussian(), Ball(2)]), "Ball: its target has no density"),
        (Ball(2).scale(2.0).rotate(torch.eye(2)), "Ball: its target has no density"),
    ],
)
def test_a_law_without_density_is_refused_by_name(potential: Potential, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pf.ProximalFlow(potential).log_prob(torch.zeros(1, potential.dim))


def test_wrong_shapes_are_refused() -> None:
    for potential in (full_gaussian(), uniform_ball(2), GAPPED, Product([GAPPED, uniform_ball(2)])):
        with pytest.raises(ValueError, match=r"must have shape \(B, "):
            potential.log_density(torch.zeros(3, 7, dtype=f64))
