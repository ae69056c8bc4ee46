"""Paths, times and the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy import stats

import proxflow as pf
from proxflow.matching import LogitNormal, Uniform, flow_matching_loss, sample_path
from proxflow.schedules import Cosine, Linear, Polynomial


def _pairs(n: int = 7) -> pf.couplings.Pairs:
    generator = torch.Generator().manual_seed(0)
    source, target = (torch.randn(n, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    return pf.couplings.Pairs(source, target, torch.arange(n), torch.arange(n))


@pytest.mark.parametrize("schedule", [None, Linear(), Cosine(), Polynomial(2)])
def test_velocity_is_the_time_derivative_of_the_path(schedule: pf.schedules.Schedule | None) -> None:
    pairs, t = _pairs(), torch.linspace(0.1, 0.9, 7, dtype=torch.float64)
    step = 1e-6
    path = sample_path(pairs, t, schedule)
    later, earlier = sample_path(pairs, t + step, schedule).x, sample_path(pairs, t - step, schedule).x
    assert torch.allclose(path.velocity, (later - earlier) / (2 * step), atol=1e-8)
    assert torch.equal(path.label, pairs.label)


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(3)])
def test_path_runs_from_source_to_target(schedule: pf.schedules.Schedule) -> None:
    pairs = _pairs()
    assert torch.allclose(sample_path(pairs, torch.zeros(7), schedule).x, pairs.source)
    assert torch.allclose(sample_path(pairs, torch.ones(7), schedule).x, pairs.target)


def test_loss_is_the_mean_squared_error() -> None:
    path = sample_path(_pairs(), torch.full((7,), 0.5))
    loss = flow_matching_loss(lambda t, x, label=None: torch.zeros_like(x), path)
    assert float(loss) == pytest.approx(float((path.velocity**2).mean()))


@pytest.mark.parametrize("shape", [(7,), (7, 1), (1, 2, 3)])
def test_velocities_of_another_shape_are_not_spread_over_the_points(shape: tuple[int, ...]) -> None:
    path = sample_path(_pairs(), torch.full((7,), 0.5))
    with pytest.raises(ValueError, match=r"the network gave \(.*\) for points of \(7, 2, 3\)"):
        flow_matching_loss(lambda t, x, label=None: torch.zeros(shape, dtype=x.dtype), path)


@pytest.mark.parametrize("shape", [(3, 1), (2,), (1, 3)])
def test_times_of_another_shape_are_named(shape: tuple[int, ...]) -> None:
    network = pf.matching.MLP((2,), width=8)
    for call in (network, pf.matching.field_of(network), pf.adapters.to_field(network)):
        with pytest.raises(ValueError, match=r"t must be one time or \(B,\), one for each of 3 points, got"):
            call(torch.full(shape, 0.5), torch.zeros(3, 2))


def test_one_time_for_each_pair() -> None:
    with pytest.raises(ValueError, match="one time for each of the 7 pairs"):
        sample_path(_pairs(), torch.zeros(6))


@pytest.mark.parametrize(
    ("law", "cdf"),
    [
        (Uniform(), stats.uniform.cdf),
        (LogitNormal(0.5, 2.0), lambda t: stats.norm.cdf(stats.logistic.ppf(t), 0.5, 2.0)),
    ],
)
def test_times_follow_their_law(law: LogitNormal | Uniform, cdf: Callable[..., Any]) -> None:
    t = law.sample(4000, generator=torch.Generator().manual_seed(0))
    assert t.shape == (4000,)
    assert 0 <= float(t.min()) <= float(t.max()) < 1
    assert stats.kstest(t.numpy(), cdf).pvalue > 1e-3
    assert not torch.equal(t, t.sort().values)


def test_uniform_times_are_stratified() -> None:
    t = Uniform().sample(64, generator=torch.Generator().manual_seed(0))
    assert sorted((t * 64).long().tolist()) == list(range(64))


@pytest.mark.parametrize(("mean", "std"), [(math.nan, 1.0), (0.0, 0.0), (0.0, math.inf), ("0", 1.0), (0.0, True)])
def test_bad_times(mean: Any, std: Any) -> None:
    with pytest.raises(ValueError, match="LogitNormal"):
        LogitNormal(mean, std)
