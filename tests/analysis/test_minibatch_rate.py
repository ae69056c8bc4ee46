"""Rates and wanted sizes of known power laws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from proxflow.analysis.convergence.rate import fit_rate, size_for

SIZES = torch.tensor([1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024])


def law(exponent: float, constant: float = 3.0) -> torch.Tensor:
    return constant * SIZES.double() ** -exponent


def test_the_interval_covers_the_exponent_as_often_as_it_says() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        relative = torch.from_numpy(generator.uniform(0.01, 0.05, len(SIZES)))
        noisy = law(0.7) * (1 + relative * torch.from_numpy(generator.standard_normal(len(SIZES))))
        rate = fit_rate(SIZES, noisy, relative * law(0.7))
        assert rate.interval is not None
        covered += rate.interval[0] <= 0.7 <= rate.interval[1]
    assert 370 <= covered <= 400


def test_a_bend_is_told_by_the_largest_sizes() -> None:
    """Finite data: slow at first, then n^-1."""
    values = 1 / (0.5 * SIZES.double() ** 0.3 + 0.02 * SIZES.double())
    rate = fit_rate(SIZES, values, 1e-3 * values)
    assert rate.sizes == (64, 128, 256, 512, 1024)
    assert rate.exponent is not None
    assert rate.interval is not None
    local = math.log(float(values[6] / values[10])) / math.log(16)
    assert rate.exponent == pytest.approx(local, abs=0.05)
    assert rate.interval[1] - rate.interval[0] > 0.1  # the bend widens it: the errors alone would give 0.002


def test_no_rate_from_a_short_range() -> None:
    rate = fit_rate(SIZES[:3], law(1.0)[:3], 0.01 * law(1.0)[:3])
    assert rate.exponent is None
    assert rate.interval is None
    assert "at least 4 batch sizes over a factor of 8" in rate.reason
    near = torch.tensor([100, 110, 120, 130])
    assert "over a factor of 1.3" in fit_rate(near, 1 / near.double(), 0.001 / near.double()).reason


def test_no_rate_from_noise() -> None:
    values = torch.full((11,), 0.1, dtype=torch.float64)
    assert "there are 0" in fit_rate(SIZES, values, values).reason
    flat = fit_rate(SIZES, values, 0.01 * values)
    assert flat.exponent is None
    assert "do not fall" in flat.reason


def test_values_without_error_are_a_law() -> None:
    rate = fit_rate(SIZES, law(0.5), torch.zeros(11, dtype=torch.float64))
    assert rate.exponent == pytest.approx(0.5, abs=1e-9)


def test_sizes_inside_outside_and_out_of_reach() -> None:
    values = law(0.5)
    rate = fit_rate(SIZES, values, 0.01 * values)
    inside = size_for(3 / math.sqrt(100), SIZES, values, rate)
    assert (inside.size, inside.extrapolated, inside.interval) == (100, False, None)
    at = size_for(3 / math.sqrt(64), SIZES, values, rate)
    assert at.size == 64
    first = size_for(5.0, SIZES, values, rate)
    assert (first.size, first.extrapolated) == (1, False)
    beyond = size_for(3 / math.sqrt(16_384), SIZES, values, rate)
    assert beyond.extrapolated
    assert beyond.size == pytest.approx(16_384, rel=1e-6)
    assert beyond.interval is not None
    assert beyond.interval[0] < 16_384 < beyond.interval[1]
    assert size_for(0.0, SIZES, values, rate).size is None
    assert "10^12" in size_for(1e-9, SIZES, values, rate).reason
    refused = fit_rate(SIZES[:3], values[:3], 0.01 * values[:3])
    unknown = size_for(1e-3, SIZES[:3], values[:3], refused)
    assert unknown.size is None
    assert unknown.reason == refused.reason
