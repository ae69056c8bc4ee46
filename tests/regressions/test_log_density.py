"""Log-densities where levels, slopes or shifts round: right, or NaN; never quietly wrong."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import stats

import proxflow as pf
from proxflow.measures import Source, Uniform
from proxflow.potentials import Entropic, Product, Quadratic, Quantile, Radial
from tests.marks import slow_beyond

f32, f64 = torch.float32, torch.float64
ndtri = torch.special.ndtri


class Logistic:
    """A user's source on the line."""

    dim = 1

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        return torch.rand(n, 1, generator=generator, dtype=dtype, device=device).logit()

    def log_prob(self, x: torch.Tensor) -> torch.Tensor:
        return -x[:, 0] - 2 * torch.nn.functional.softplus(-x[:, 0])

    def cdf(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(x)


def column(*values: float, dtype: torch.dtype = f64) -> torch.Tensor:
    return torch.tensor(values, dtype=dtype)[:, None]


def right_or_nan(found: torch.Tensor, truth: np.ndarray, tolerance: float = 2e-6) -> None:
    known = ~np.isnan(found.numpy())
    np.testing.assert_array_less(
        np.abs(found.double().numpy() - truth)[known], (tolerance * (1 + np.abs(truth)))[known] + 1e-300
    )


SOURCES: dict[str, Source | None] = {
    "normal": None,
    "[0, 1]": Uniform(1),
    "[-3, 5]": Uniform(1, -3.0, 5.0),
    "a user's": Logistic(),
}
NORMALS: dict[str, Callable[[Source | None], Quantile]] = {
    "torch": lambda source: Quantile(ndtri, source=source),
    "torch, both tails": lambda source: Quantile(ndtri, upper_quantile=lambda c: -ndtri(c), source=source),
    "scipy": lambda source: Quantile(stats.norm().ppf, source=source),
    "scipy, both tails": lambda source: Quantile(stats.norm().ppf, upper_quantile=stats.norm().isf, source=source),
}


@pytest.mark.parametrize("dtype", [f32, f64])
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("name", NORMALS)
def test_a_normal_law_has_its_density_from_any_source(name: str, source: str, dtype: torch.dtype) -> None:
    y = column(-25, -9, -8.2, -6.3, -5.6, -4, -1, 0, 0.3, 2, 4, 5.2, 5.6, 5.9, 6.5, 8.2, 9, 25, dtype=dtype)
    found = NORMALS[name](SOURCES[source]).log_density(y)
    right_or_nan(found, stats.norm.logpdf(y[:, 0].double().numpy()))
    reach = 26.0 if "both" in name else 5.3  # beyond, an upper level rounds like 1
    assert not torch.isnan(found[(y[:, 0] < reach)]).any()


@pytest.mark.parametrize("source", SOURCES)
def test_a_table_has_its_density_up_to_its_ends(source: str) -> None:
    law = Quantile(([0.0, 0.25, 0.25, 1.0], [-1.0, 0.0, 1.0, 2.0]), source=SOURCES[source])
    y = column(-1 - 1e-12, -1, -1 + 1e-15, -1e-16, 0, 1e-16, 0.5, 1 - 1e-15, 1, 1 + 1e-15, 2 - 1e-15, 2, 2 + 1e-12)
    off, low, high = -math.inf, math.log(0.25), math.log(0.75)
    expected = [off, low, low, low, low, off, off, off, high, high, high, high, off]
    np.testing.assert_allclose(law.log_density(y), expected, rtol=1e-14)


def test_gaps_and_kinks_of_callables() -> None:
    """Half the mass uniform on [0, 1/2], half on [2, 4]: density 1 and 1/4; the jump is at level 1/2."""

    def in_torch(p: torch.Tensor) -> torch.Tensor:
        return torch.where(p < 0.5, p, 4 * p)

    def in_numpy(p: NDArray[Any]) -> NDArray[Any]:
        return np.where(p < 0.5, p, 4 * p)

    y = column(-0.1, 0.0, 1e-9, 0.3, 0.4999, 0.51, 1.0, 1.99, 2.01, 3.0, 3.9999, 4.0, 4.1)
    off, low, high = -math.inf, 0.0, math.log(0.25)
    truth = np.array([off, low, low, low, low, off, off, off, high, high, high, high, off])
    np.testing.assert_allclose(Quantile(in_torch).log_density(y), truth, atol=1e-12)
    found = Quantile(in_numpy).log_density(y).numpy()
    known = ~np.isnan(found)
    np.testing.assert_allclose(found[known], truth[known], atol=1e-6)
    assert known[[0, 3, 5, 6, 7, 9, 12]].all()


def test_a_singular_end_is_not_told() -> None:
    """The density of U^2 is 1 / (2 sqrt y): infinite at 0."""
    law = Quantile(lambda p: p.square())
    y = column(1e-300, 1e-30, 1e-3, 1.0)
    right_or_nan(law.log_density(y), -math.log(2) - 0.5 * np.log(y[:, 0].numpy()))
    assert not torch.isnan(law.log_density(y)[1:]).any()
    assert not torch.isfinite(law.log_density(column(0.0))).any()


def test_a_gradient_that_numpy_cannot_give_is_refused() -> None:
    y = column(0.3).requires_grad_()
    with pytest.raises(ValueError, match="torch cannot differentiate"):
        Quantile(stats.norm().ppf).log_density(y)
    (score,) = torch.autograd.grad(Quantile(ndtri).log_density(y).sum(), y)
    torch.testing.assert_close(score, -y.detach())


@pytest.mark.parametrize("dim", [1, 2, 3, 30])
def test_radial_far_out_and_at_the_centre(dim: int) -> None:
    law = stats.chi(dim)
    radii = np.array([0.0, 1e-200, 1e-5, 0.3, 1.0, 4.0, 9.0, 20.0, 35.0])
    y = torch.from_numpy(radii)[:, None] * torch.eye(dim, dtype=f64)[:1]
    truth = -0.5 * radii**2 - 0.5 * dim * math.log(2 * math.pi)
    both = Radial(dim, law.ppf, upper_quantile=law.isf).log_density(y)
    right_or_nan(both, truth)
    assert not torch.isnan(both[3:7]).any()
    right_or_nan(Radial(dim, law.ppf).log_density(y), truth)


def test_a_density_without_limit_at_the_centre_is_not_told_there() -> None:
    """Uniform radius in the plane: 1 / (2 pi r)."""
    law = Radial(2, ([0.0, 1.0], [0.0, 1.0]))
    y = torch.tensor([[0.0, 0.0], [1e-250, 0.0], [0.5, 0.0], [2.0, 0.0]], dtype=f64)
    found = law.log_density(y)
    assert not torch.isfinite(found[0])
    np.testing.assert_allclose(found[1:], [-math.log(2 * math.pi * 1e-250), -math.log(math.pi), -math.inf], rtol=1e-12)


def test_a_shift_costs_no_digits() -> None:
    law = Quantile(ndtri).rotate(torch.eye(1, dtype=f64), torch.tensor([1e6 + 1 / 3], dtype=f64))
    y = column(1e6 + 1, 1e6, dtype=f32)
    truth = stats.norm.logpdf(y[:, 0].double().numpy() - (1e6 + 1 / 3))
    np.testing.assert_allclose(law.log_density(y), truth, rtol=1e-6)
    quadratic = Quadratic(torch.tensor([1e6 + 1 / 3], dtype=f64), torch.eye(1, dtype=f64))
    np.testing.assert_allclose(quadratic.log_density(y), truth, rtol=1e-6)
    np.testing.assert_allclose(quadratic.float().log_density(column(1e6, dtype=f32)).isfinite(), True)


def test_an_ill_conditioned_normal_law() -> None:
    """Against 60 digits; what the eigenvectors leave open is NaN."""
    d, scales = 4, (1.0, 1e-3, 1e-5, 1e-7)
    axes = torch.linalg.qr(torch.randn(d, d, generator=torch.Generator().manual_seed(0), dtype=f64))[0]
    mpmath.mp.dps = 60
    for least in scales:
        deviations = torch.tensor([1.0, 1.0, 0.5, least], dtype=f64)
        covariance = (axes * deviations.square()) @ axes.mT
        covariance = 0.5 * (covariance + covariance.mT)
        y = (torch.randn(3, d, generator=torch.Generator().manual_seed(1), dtype=f64) * deviations) @ axes.mT
        exact = mpmath.matrix(covariance.tolist())
        try:
            potential = Quadratic(torch.zeros(d, dtype=f64), covariance)
            found = potential.log_density(y)
        except ValueError:
            continue  # taken for singular
        log_det = mpmath.log(mpmath.det(exact))
        for value, row in zip(found.tolist(), y.tolist(), strict=True):
            column_y = mpmath.matrix(row)
            square = (column_y.T * mpmath.lu_solve(exact, column_y))[0]
            truth = float(-(square + log_det + d * mpmath.log(2 * mpmath.pi)) / 2)
            assert math.isnan(value) or abs(value - truth) <= 2e-6 * (1 + abs(truth))
        if least == 1e-3:
            assert torch.isfinite(found).all()


def test_a_product_is_impossible_where_a_factor_is() -> None:
    law = Product([Quantile(ndtri), Quantile(([0.0, 1.0], [0.0, 1.0]))])
    y = torch.tensor([[9.0, 2.0], [9.0, 0.5], [0.0, 0.5], [math.nan, 2.0]], dtype=f64)  # 9: an upper level of 1
    found = law.log_density(y)
    assert found[0] == -math.inf
    assert torch.isnan(found[[1, 3]]).all()
    assert float(found[2]) == pytest.approx(-0.5 * math.log(2 * math.pi), rel=1e-12)


def entropic_truth(points: list[float], heights: list[float], epsilon: float, y: float) -> float:
    """In 80 digits: u by bisection of m(u) = y, then log p0(u) - log m'(u)."""
    mpmath.mp.dps = 80
    atoms, tilts = [mpmath.mpf(p) for p in points], [mpmath.mpf(h) for h in heights]

    def law(u: mpmath.mpf) -> list[mpmath.mpf]:
        masses = [mpmath.exp((u * a - h) / epsilon) for a, h in zip(atoms, tilts, strict=True)]
        total = sum(masses)
        return [mass / total for mass in masses]

    low, high = mpmath.mpf(-4000), mpmath.mpf(4000)
    for _ in range(230):
        middle = (low + high) / 2
        mean = sum(p * a for p, a in zip(law(middle), atoms, strict=True))
        low, high = (middle, high) if mean < y else (low, middle)
    probabilities = law(low)
    mean = sum(p * a for p, a in zip(probabilities, atoms, strict=True))
    slope = sum(p * (a - mean) ** 2 for p, a in zip(probabilities, atoms, strict=True)) / epsilon
    return float(-(low**2) / 2 - mpmath.log(2 * mpmath.pi) / 2 - mpmath.log(slope))


@pytest.mark.parametrize("dtype", [f32, f64])
@pytest.mark.parametrize("epsilon", slow_beyond(2, [1.0, 0.01, 0.1]))
def test_an_entropic_law_near_atoms_and_ends(epsilon: float, dtype: torch.dtype) -> None:
    points, heights = [-1.0, 0.25, 1.5], [0.25, 0.0, 0.5]
    potential = Entropic(column(*points, dtype=dtype), torch.tensor(heights, dtype=dtype), epsilon)
    steps = [1e-14, 1e-12, 1e-10, 1e-7, 1e-4, 1e-2, 0.3]
    y = column(*[-1 + s for s in steps], *[0.25 + s for s in steps], *[1.5 - s for s in steps], dtype=dtype)
    y = y[(y[:, 0] > -1) & (y[:, 0] < 1.5)]
    found = potential.log_density(y)
    truth = np.array([entropic_truth(points, heights, epsilon, value) for value in y[:, 0].tolist()])
    right_or_nan(found, truth)
    middle = ((y[:, 0] + 1).abs() > 1e-3) & ((y[:, 0] - 1.5).abs() > 1e-3)
    assert epsilon < 0.1 or not torch.isnan(found[middle]).any()
    off = potential.log_density(column(-1.01, 1.51, -1 - 1e-4, dtype=dtype))
    assert torch.isneginf(off).all()


def test_nothing_warns_and_rows_stand_alone() -> None:
    law = Quantile(stats.norm().ppf, source=Uniform(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = pf.ProximalFlow(law).log_prob(column(math.nan, math.inf, -math.inf, 0.0))
    assert torch.isnan(found[0])
    assert found[1] == found[2] == -math.inf
    assert float(found[3]) == pytest.approx(-0.5 * math.log(2 * math.pi))
