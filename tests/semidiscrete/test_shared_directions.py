"""Noise that shares directions: exactly normal, its variance as told, and fits as good as with independent draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.special import gammaln, owens_t

from proxflow.measures import Uniform
from proxflow.semidiscrete import descent, fit
from proxflow.semidiscrete.shared_directions import Sharing, best_sharing, shared_axes, turned, variance_inflation
from proxflow.symmetry import HorizontalFlip
from tests.marks import slow_beyond

f64 = torch.float64
SHARED = Sharing(64, 24)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def equal_weights(count: int) -> torch.Tensor:
    return torch.full((count,), 1 / count, dtype=f64)


def blocks(count: int, rows: int, dim: int, directions: int, *, seed: int = 0) -> torch.Tensor:
    """Noise of so many blocks, (count, rows, dim)."""
    generator, sharing, like = seeded(seed), Sharing(rows, directions), torch.empty(0, dtype=f64)
    found = []
    for _ in range(count):
        noise = torch.randn(rows, dim, generator=generator, dtype=f64)
        found.append(turned(noise, directions) @ shared_axes(dim, sharing, generator, like).mT)
    return torch.stack(found)


def is_normal(noise: np.ndarray) -> bool:
    """Whether independent rows (n, d) may be of N(0, I): their norms, coordinates and other directions."""
    dim = noise.shape[1]
    towards = np.linalg.qr(np.random.default_rng(0).normal(size=(dim, dim)))[0][0]
    tests = [
        stats.kstest((noise**2).sum(1), stats.chi2(dim).cdf),
        stats.kstest(noise[:, 0], stats.norm.cdf),
        stats.kstest(noise[:, -1], stats.norm.cdf),
        stats.kstest(noise @ towards, stats.norm.cdf),
    ]
    return bool(min(test.pvalue for test in tests) > 1e-3)


def test_each_vector_is_standard_normal() -> None:
    noise = blocks(4000, 2, 7, 3).numpy()
    assert is_normal(noise[:, 0])
    assert is_normal(noise[:, 1])
    stretched = noise[:, 0] * np.sqrt(np.random.default_rng(1).chisquare(3, size=(4000, 1)) / 3)
    assert not is_normal(stretched)  # the norm that m coordinates would give


def test_a_block_lies_in_its_subspace_and_no_two_blocks_in_one() -> None:
    noise = blocks(2, 20, 30, 5)
    assert [int(torch.linalg.matrix_rank(block)) for block in noise] == [5, 5]
    assert int(torch.linalg.matrix_rank(noise.flatten(0, 1))) == 10


def exact_inflation(weight: float, sharing: Sharing, *, any_shape: bool = False) -> float:
    """By the probability that two normal vectors at a random angle fall into one half-space (Owen's T).

    That at a cosine r >= 0 is Borell's bound for any set; one that is its own mirror image meets the angle of -r as r.
    """
    h, half = stats.norm.isf(weight), 0.5 * sharing.directions
    scale = np.exp(gammaln(half) - gammaln(half - 0.5)) / np.sqrt(np.pi)

    def both(cosine: float) -> float:
        return float(weight - 2 * owens_t(h, np.sqrt((1 - cosine) / (1 + cosine))))

    def density(cosine: float) -> float:
        return float(scale * (1 - cosine * cosine) ** (half - 1.5))

    low, times = (0.0, 2.0) if any_shape else (-1.0, 1.0)
    mean = times * integrate.quad(lambda r: both(r) * density(r), low, 1, epsabs=1e-18, limit=400)[0]
    return float(1 - weight + (sharing.rows - 1) * (mean - weight**2) / weight)


@pytest.mark.parametrize(
    ("weight", "rows", "directions"), [(1e-2, 50, 8), (1e-4, 750, 48), (0.2, 100, 16), (1e-6, 9, 64)]
)
def test_the_inflation_is_that_of_half_spaces(weight: float, rows: int, directions: int) -> None:
    sharing = Sharing(rows, directions)
    found = variance_inflation(torch.full((3,), weight, dtype=f64), sharing)
    assert found == pytest.approx(exact_inflation(weight, sharing), rel=1e-4)


def test_counts_of_half_spaces_vary_as_told() -> None:
    weight, rows, directions = 0.02, 40, 6
    counts = (blocks(4000, rows, 60, directions)[:, :, 0] > stats.norm.isf(weight)).sum(1).double()
    found = float(counts.var()) / (rows * weight)
    told = variance_inflation(torch.tensor([weight], dtype=f64), Sharing(rows, directions))
    assert told > 1.5
    assert found == pytest.approx(told, rel=0.15)


def test_of_unequal_weights_it_is_the_mean() -> None:
    weights = torch.tensor([0.01, 0.09, 0.3, 0.6], dtype=f64)
    sharing = Sharing(30, 20)
    expected = np.mean([exact_inflation(float(weight), sharing) for weight in weights])
    assert variance_inflation(weights, sharing) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("count", "dim"), [(10_000, 784), (60_000, 784), (60_000, 3072), (1_000_000, 784)])
def test_many_rows_in_many_dimensions_share(count: int, dim: int) -> None:
    sharing = best_sharing(equal_weights(count), dim, count // 8)
    assert sharing is not None
    assert variance_inflation(equal_weights(count), sharing) <= 1.1
    assert exact_inflation(1 / count, sharing, any_shape=True) < 1.25
    products = sharing.directions * (dim / sharing.rows + 1)
    assert products < dim / 3


@pytest.mark.parametrize(("count", "dim"), [(2_000, 784), (60_000, 64), (10, 4096)])
def test_where_it_costs_more_than_it_gains_none_is_shared(count: int, dim: int) -> None:
    assert best_sharing(equal_weights(count), dim, max(256, count // 8)) is None


def points_of_rank(rank: int) -> torch.Tensor:
    """300 points in R^120 that vary in some directions more than in others."""
    scales = torch.arange(1, 121, dtype=f64) ** (-1.0 / rank)
    return torch.randn(300, 120, generator=seeded(3), dtype=f64) * scales


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
@pytest.mark.parametrize("rank", slow_beyond(1, [2, 1, 8]))
def test_fits_are_as_good_as_with_independent_noise(rank: int, epsilon: float, monkeypatch: pytest.MonkeyPatch) -> None:
    points = points_of_rank(rank)
    options: dict[str, Any] = {"tol": 0.05, "max_samples": 24_000, "max_memory": 1 << 17, "epsilon": epsilon}
    alone = fit(points, **options)
    monkeypatch.setattr(descent, "best_sharing", lambda *_: SHARED)
    shared = fit(points, **options)
    assert alone.converged
    assert shared.converged
    assert not torch.equal(shared.potential.heights, alone.potential.heights)
    inflation = variance_inflation(equal_weights(300), SHARED)
    assert shared.chi2 <= inflation * alone.chi2 + 3 * (shared.chi2_stderr + alone.chi2_stderr)
    low, high = alone.transport_cost_interval
    assert 2 * low - high <= shared.transport_cost <= 2 * high - low


@pytest.mark.parametrize("options", [{"source": Uniform(16)}, {"symmetry": HorizontalFlip((1, 4, 4))}])
def test_other_noise_and_images_of_rows_do_not_share(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(descent, "best_sharing", lambda *given: asked.append(given))
    points = torch.randn(40, 1, 4, 4, generator=seeded())
    fit(points, tol=5.0, max_samples=2000, max_memory=1 << 10, **options)
    assert asked == []
    fit(points, tol=5.0, max_samples=2000, max_memory=1 << 10)
    assert len(asked) == 1
