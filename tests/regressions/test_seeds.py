"""Data made by torch.manual_seed(k) are not the noise of a fit or study with seed k."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.measures import Gaussian
from proxflow.report.drawn_samples import draw_samples
from proxflow.seeding import generator_of, seeded_generator

SEED = 7


class Recording(Gaussian):
    """Standard normal noise that remembers what it gave."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.drawn: list[Tensor] = []

    def sample(self, *arguments: Any, **options: Any) -> Tensor:
        noise = super().sample(*arguments, **options)
        self.drawn.append(noise.double())
        return noise


def _data(n: int, dim: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(SEED), dtype=dtype)


def _nearest(noise: Tensor, data: Tensor) -> float:
    return float(torch.cdist(noise, data.double()).min())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("dim", [2, 16])
@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_no_draw_of_a_fit_is_a_point_of_the_data(dim: int, epsilon: float, dtype: torch.dtype) -> None:
    data, source = _data(200, dim, dtype), Recording(dim)
    pf.semidiscrete.fit(data, source=source, epsilon=epsilon, tol=0.3, seed=SEED)
    noise = torch.cat([rows for rows in source.drawn if rows.shape[1] == dim])
    assert len(noise) > 1000
    matches = (torch.cdist(noise[:8192], data.double()).amin(1) < 1e-5).sum()
    assert int(matches) == 0


@pytest.mark.slow
def test_a_fit_takes_data_of_its_own_seed_as_it_takes_others() -> None:
    """With the noise of the steps equal to the points, chi2 was 751 here and 4 with another seed."""
    data = torch.randn(4000, 32, generator=torch.Generator().manual_seed(0))
    with pytest.warns(pf.ConvergenceWarning):
        own, other = (pf.semidiscrete.fit(data, seed=seed, max_samples=80_000).chi2 for seed in (0, 1))
    assert max(own, other) < 2 * min(own, other)


def test_samples_of_a_training_run_do_not_start_at_the_data() -> None:
    data = _data(50, 16, torch.float32)
    coupling = pf.couplings.Independent(data)
    result = pf.matching.train(
        pf.matching.MLP((16,), width=8, depth=1), coupling, steps=1, batch_size=8, progress=False
    )
    with torch.no_grad():
        for parameter in result.network.parameters():
            parameter.zero_()
    assert _nearest(result.few_steps(data, count=50, steps=(1,), seed=SEED).samples[0].double(), data) > 0.1


def test_seeds_are_hashed() -> None:
    plain = torch.randn(100, generator=torch.Generator().manual_seed(SEED))
    for generator in (generator_of(SEED), seeded_generator("a test", SEED), generator_of(SEED, 0), generator_of(-1)):
        drawn = torch.randn(100, generator=generator)
        assert abs(float(torch.corrcoef(torch.stack([plain, drawn]))[0, 1])) < 4 / math.sqrt(100)
    assert torch.equal(torch.randn(9, generator=generator_of(3, 1)), torch.randn(9, generator=generator_of(3, 1)))


def test_samples_of_a_page_start_from_noise_that_was_not_trained_on() -> None:
    dataset = pf.data.load("moons", n=60)
    coupling = pf.couplings.Semidiscrete(pf.semidiscrete.fit(dataset.points).potential, dataset.points)
    network = pf.matching.MLP((2,), width=8, depth=1)
    result = pf.matching.train(network, coupling, steps=20, batch_size=64, progress=False)
    shown = draw_samples(result, dataset, None).points[0]
    with pf.couplings.PairStream(coupling, 64, seed=0) as stream:
        trained = torch.cat([pairs.source for _, pairs in zip(range(20), stream, strict=False)])
    assert not bool((torch.cdist(shown, trained) < 1e-6).any())
