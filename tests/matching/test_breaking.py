"""Broken pairs."""

from __future__ import annotations

import math

import pytest
import torch

from proxflow.couplings import Pairs
from proxflow.matching import break_pairs

N = 4000


def _pairs() -> Pairs:
    source = torch.randn(N, 2, generator=torch.Generator().manual_seed(0))
    return Pairs(source, 3 * source, torch.arange(N), torch.arange(N))


@pytest.mark.parametrize("exponent", [0.5, 2.0])
def test_probability_is_a_power_of_the_time(exponent) -> None:
    t = torch.rand(N, generator=torch.Generator().manual_seed(1))
    broken = (break_pairs(_pairs(), t, exponent, torch.Generator().manual_seed(2)).source != _pairs().source).any(1)
    for low in (0.0, 0.25, 0.5, 0.75):
        bin_ = (t >= low) & (t < low + 0.25)
        expected = (t[bin_] ** exponent).mean()
        error = math.sqrt(float(expected * (1 - expected)) / int(bin_.sum()))
        assert abs(float(broken[bin_].float().mean() - expected)) < 4 * error


def test_sources_are_permuted_and_the_rest_stays() -> None:
    pairs, t = _pairs(), torch.full((N,), 0.7)
    broken = break_pairs(pairs, t, 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(broken.source.sort(0).values, pairs.source.sort(0).values)
    assert torch.equal(broken.target, pairs.target)
    assert torch.equal(broken.index, pairs.index)
    assert torch.equal(broken.label, pairs.label)


def test_broken_pairs_are_uncorrelated() -> None:
    broken = break_pairs(_pairs(), torch.ones(N), 0.0)
    correlation = torch.corrcoef(torch.stack([broken.source[:, 0], broken.target[:, 0]]))[0, 1]
    assert abs(float(correlation)) < 4 / math.sqrt(N)


def test_at_time_zero_none_is_broken() -> None:
    assert torch.equal(break_pairs(_pairs(), torch.zeros(N), 2.0).source, _pairs().source)
