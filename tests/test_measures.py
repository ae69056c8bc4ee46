"""The Gaussian source against its moments and torch.distributions."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from proxflow.measures import Empirical, Gaussian, Source, Uniform


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_have_the_moments_of_the_standard_normal_law() -> None:
    n, d = 40_000, 3
    draws = Gaussian(d).sample(n, generator=seeded(), dtype=torch.float64)
    assert draws.shape == (n, d)
    deviations = 4.5
    assert (draws.mean(0).abs() <= deviations / math.sqrt(n)).all()
    covariance = draws.T @ draws / n
    spread = torch.where(torch.eye(d) > 0, math.sqrt(2 / n), math.sqrt(1 / n))
    assert ((covariance - torch.eye(d)).abs() <= deviations * spread).all()
    assert abs(float(draws.square().sum(1).mean()) - Gaussian(d).second_moment) <= deviations * math.sqrt(2 * d / n)


def test_samples_pass_a_kolmogorov_smirnov_test() -> None:
    draws = Gaussian(2).sample(4000, generator=seeded(3), dtype=torch.float64)
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > 1e-3


def test_the_generator_decides_the_draws() -> None:
    first = Gaussian(4).sample(5, generator=seeded(1))
    assert torch.equal(first, Gaussian(4).sample(5, generator=seeded(1)))
    assert not torch.equal(first, Gaussian(4).sample(5, generator=seeded(2)))
    generator = seeded(1)
    Gaussian(4).sample(5, generator=generator)
    assert not torch.equal(first, Gaussian(4).sample(5, generator=generator))


def test_a_generator_leaves_the_global_one_alone() -> None:
    state = torch.random.get_rng_state()
    Gaussian(4).sample(5, generator=seeded(1))
    assert torch.equal(state, torch.random.get_rng_state())


def test_without_a_generator_the_global_seed_decides() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = Gaussian(2).sample(3)
        torch.manual_seed(5)
        assert torch.equal(first, Gaussian(2).sample(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_delivers_the_dtype_and_device_asked_for(dtype: torch.dtype) -> None:
    draws = Gaussian(2).sample(3, generator=seeded(), dtype=dtype, device="cpu")
    assert draws.dtype == dtype
    assert draws.device.type == "cpu"


def test_dtype_defaults_to_that_of_torch() -> None:
    assert Gaussian(2).sample(3).dtype == torch.get_default_dtype()


def test_no_draws_are_an_empty_batch() -> None:
    assert Gaussian(2).sample(0).shape == (0, 2)


@pytest.mark.parametrize("d", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_prob_is_that_of_torch_distributions(d: int, dtype: torch.dtype) -> None:
    x = 3 * torch.randn(20, d, generator=seeded(), dtype=dtype)
    law = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=dtype), torch.eye(d, dtype=dtype))
    density = Gaussian(d).log_prob(x)
    assert density.shape == (20,)
    assert density.dtype == dtype
    torch.testing.assert_close(density, law.log_prob(x))


def test_log_prob_has_the_score_minus_x() -> None:
    x = torch.randn(5, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(Gaussian(3).log_prob(x).sum(), x)
    torch.testing.assert_close(score, -x.detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dim", [0, -1, 2.5, 3.0, math.nan, math.inf, "3", None])
def test_refuses_a_dimension_that_is_not_a_positive_integer(dim: Any) -> None:
    with pytest.raises(ValueError, match="dim must be a positive integer"):
        Gaussian(dim)


def test_takes_integers_of_numpy() -> None:
    three: Any = np.int64(3)
    assert Gaussian(three) == Gaussian(3)
    assert type(Gaussian(three).dim) is int


def test_refuses_a_negative_number_of_draws() -> None:
    with pytest.raises(ValueError, match="n must not be negative"):
        Gaussian(2).sample(-1)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 1)])
def test_log_prob_refuses_points_of_another_shape(shape: Any) -> None:
    with pytest.raises(ValueError, match=r"expected x of shape \(B, 3\)"):
        Gaussian(3).log_prob(torch.zeros(shape))


def test_compares_by_value_and_is_a_source() -> None:
    assert Gaussian(3) == Gaussian(3)
    assert len({Gaussian(3), Gaussian(3), Gaussian(2)}) == 2
    assert repr(Gaussian(3)) == "Gaussian(3)"
    assert isinstance(Gaussian(3), Source)
    assert not isinstance(object(), Source)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(count: int, dim: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=generator(3), dtype=torch.float64)


@pytest.mark.parametrize(
    "source",
    [
        Uniform(2, -1.0, 3.0),
        Empirical(rows(50, 2)),
        Empirical(rows(50, 2), torch.arange(50.0)),
        Empirical(rows(50, 2).reshape(50, 1, 2), bandwidth=0.3),
    ],
    ids=repr,
)
def test_draws_have_the_second_moment_that_a_source_states(source: Empirical | Uniform) -> None:
    draws = source.sample(200_000, generator=generator(), dtype=torch.float64)
    square = draws.square().sum(1)
    assert draws.shape == (200_000, source.dim)
    assert float(square.mean()) == pytest.approx(source.second_moment, abs=4 * float(square.std()) / 200_000**0.5)
    assert torch.equal(draws, source.sample(200_000, generator=generator(), dtype=torch.float64))
    assert isinstance(source, Source)


def test_rows_are_drawn_by_their_weights() -> None:
    source = Empirical(torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 3.0]))
    draws = source.sample(100_000, generator=generator())[:, 0]
    assert float((draws == 0).sum()) == 0
    assert float((draws == 2).float().mean()) == pytest.approx(0.75, abs=0.006)
    assert draws.dtype == torch.float32
    assert source.sample(3, dtype=torch.float64).dtype == torch.float64


@pytest.mark.parametrize("source", [Uniform(2, -1.0, 2.0), Empirical(rows(20, 2), bandwidth=0.2)], ids=repr)
def test_densities_integrate_to_one(source: Empirical | Uniform) -> None:
    line = torch.linspace(-5, 5, 801, dtype=torch.float64)
    density = source.log_prob(torch.cartesian_prod(line, line)).exp()
    assert float(density.sum()) * float(line[1] - line[0]) ** 2 == pytest.approx(1, rel=0.01)


def test_the_density_of_blurred_rows_is_that_of_a_mixture() -> None:
    source = Empirical(rows(20, 3) + 1e4, torch.arange(1.0, 21.0), bandwidth=0.2)
    parts = torch.distributions.Independent(torch.distributions.Normal(source.points, 0.2), 1)
    weights = torch.distributions.Categorical(torch.arange(1.0, 21.0).double())
    x = source.sample(40, generator=generator(), dtype=torch.float64)
    expected = torch.distributions.MixtureSameFamily(weights, parts).log_prob(x)
    torch.testing.assert_close(source.log_prob(x), expected, rtol=1e-9, atol=1e-9)


def test_the_uniform_distribution_function() -> None:
    assert Uniform(1, -1.0, 3.0).cdf(torch.tensor([-2.0, 0.0, 5.0])).tolist() == [0.0, 0.25, 1.0]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Uniform(0), "dim"),
        (lambda: Uniform(1, 1.0, 1.0), "low < high"),
        (lambda: Empirical(torch.zeros(3)), "non-empty"),
        (lambda: Empirical(torch.zeros(3, 1, dtype=torch.int64)), "float32 or float64"),
        (lambda: Empirical(torch.full((3, 1), torch.nan)), "NaN or inf"),
        (lambda: Empirical(torch.zeros(3, 1), torch.zeros(3)), "all zero"),
        (lambda: Empirical(torch.zeros(3, 1), torch.ones(2)), "weights must have shape"),
        (lambda: Empirical(torch.zeros(3, 1), bandwidth=-1.0), "bandwidth"),
        (lambda: Empirical(torch.zeros(3, 1)).log_prob(torch.zeros(1, 1)), "no density"),
        (lambda: Uniform(2).log_prob(torch.zeros(1, 3)), "expected x of shape"),
        (lambda: Uniform(2).sample(-1), "must not be negative"),
    ],
)
def test_bad_sources_are_refused(make: Callable[..., Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make()
