"""The Gaussian source against its moments and torch.distributions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from proxflow.measures import Gaussian, Source


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_samples_have_the_moments_of_the_standard_normal_law():
    n, d = 40_000, 3
    draws = Gaussian(d).sample(n, generator=seeded(), dtype=torch.float64)
    assert draws.shape == (n, d)
    deviations = 4.5
    assert (draws.mean(0).abs() <= deviations / math.sqrt(n)).all()
    covariance = draws.T @ draws / n
    spread = torch.where(torch.eye(d) > 0, math.sqrt(2 / n), math.sqrt(1 / n))
    assert ((covariance - torch.eye(d)).abs() <= deviations * spread).all()
    assert abs(float(draws.square().sum(1).mean()) - Gaussian(d).second_moment) <= deviations * math.sqrt(2 * d / n)


def test_samples_pass_a_kolmogorov_smirnov_test():
    draws = Gaussian(2).sample(4000, generator=seeded(3), dtype=torch.float64)
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > 1e-3


def test_the_generator_decides_the_draws():
    first = Gaussian(4).sample(5, generator=seeded(1))
    assert torch.equal(first, Gaussian(4).sample(5, generator=seeded(1)))
    assert not torch.equal(first, Gaussian(4).sample(5, generator=seeded(2)))
    generator = seeded(1)
    Gaussian(4).sample(5, generator=generator)
    assert not torch.equal(first, Gaussian(4).sample(5, generator=generator))


def test_a_generator_leaves_the_global_one_alone():
    state = torch.random.get_rng_state()
    Gaussian(4).sample(5, generator=seeded(1))
    assert torch.equal(state, torch.random.get_rng_state())


def test_without_a_generator_the_global_seed_decides():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first = Gaussian(2).sample(3)
        torch.manual_seed(5)
        assert torch.equal(first, Gaussian(2).sample(3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_delivers_the_dtype_and_device_asked_for(dtype):
    draws = Gaussian(2).sample(3, generator=seeded(), dtype=dtype, device="cpu")
    assert draws.dtype == dtype
    assert draws.device.type == "cpu"


def test_dtype_defaults_to_that_of_torch():
    assert Gaussian(2).sample(3).dtype == torch.get_default_dtype()


def test_no_draws_are_an_empty_batch():
    assert Gaussian(2).sample(0).shape == (0, 2)


@pytest.mark.parametrize("d", [1, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_prob_is_that_of_torch_distributions(d, dtype):
    x = 3 * torch.randn(20, d, generator=seeded(), dtype=dtype)
    law = torch.distributions.MultivariateNormal(torch.zeros(d, dtype=dtype), torch.eye(d, dtype=dtype))
    density = Gaussian(d).log_prob(x)
    assert density.shape == (20,)
    assert density.dtype == dtype
    torch.testing.assert_close(density, law.log_prob(x))


def test_log_prob_has_the_score_minus_x():
    x = torch.randn(5, 3, generator=seeded(), dtype=torch.float64, requires_grad=True)
    (score,) = torch.autograd.grad(Gaussian(3).log_prob(x).sum(), x)
    torch.testing.assert_close(score, -x.detach(), rtol=1e-14, atol=0)


@pytest.mark.parametrize("dim", [0, -1, 2.5, 3.0, math.nan, math.inf, "3", None])
def test_refuses_a_dimension_that_is_not_a_positive_integer(dim):
    with pytest.raises(ValueError, match="dim must be a positive integer"):
        Gaussian(dim)


def test_takes_integers_of_numpy():
    assert Gaussian(np.int64(3)) == Gaussian(3)
    assert type(Gaussian(np.int64(3)).dim) is int


def test_refuses_a_negative_number_of_draws():
    with pytest.raises(ValueError, match="n must not be negative"):
        Gaussian(2).sample(-1)


@pytest.mark.parametrize("shape", [(3,), (4, 2), (2, 3, 1)])
def test_log_prob_refuses_points_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"expected x of shape \(B, 3\)"):
        Gaussian(3).log_prob(torch.zeros(shape))


def test_compares_by_value_and_is_a_source():
    assert Gaussian(3) == Gaussian(3)
    assert len({Gaussian(3), Gaussian(3), Gaussian(2)}) == 2
    assert repr(Gaussian(3)) == "Gaussian(3)"
    assert isinstance(Gaussian(3), Source)
    assert not isinstance(object(), Source)
