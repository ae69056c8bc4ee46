"""What noise tells of labels, beside what it tells by construction."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from proxflow.metrics import label_leakage
from tests.metrics.clouds import f64, normal


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("dim", [2, 100])
@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.1), (0.1,) * 10], ids=str)
def test_labels_drawn_apart_are_predicted_by_chance(dim: int, shares: tuple[float, ...]) -> None:
    """Standardised excesses of many seeds have the variance that the stated errors claim."""
    found = []
    for seed in range(16):
        labels = torch.multinomial(torch.tensor(shares), 600, replacement=True, generator=seeded(seed))
        leak = label_leakage(normal(600, dim, seed=seed), labels)
        assert leak.value == pytest.approx(leak.excess + leak.chance)
        found.append(leak.excess / leak.stderr)
    squares = torch.tensor(found).square().sum()
    assert 3.9 < float(squares) < 39  # chi2 of 16 degrees of freedom, but for odds of 1e-3 on either side


def test_half_of_the_labels_given_away_is_half_of_the_way() -> None:
    """The sign of a coordinate, for half of the labels: right with probability 3 / 4."""
    noise = normal(8000, 3)
    labels = torch.where(torch.rand(8000, generator=seeded()) < 0.5, (noise[:, 0] > 0).long(), torch.arange(8000) % 2)
    leak = label_leakage(noise, labels)
    assert leak.value == pytest.approx(0.75, abs=0.02 + 4 * leak.stderr)
    assert leak.chance == pytest.approx(0.5, abs=0.02)
    assert leak.stderr == pytest.approx(math.sqrt(0.75 * 0.25 / leak.pairs), rel=0.1)


@pytest.mark.parametrize(
    "rule", [lambda x: x.norm(dim=1) > math.sqrt(2), lambda x: x[:, 0] > 1.5], ids=["size", "rare"]
)
def test_it_sees_what_no_plane_separates_and_what_is_rare(rule: Callable[..., Any]) -> None:
    noise = normal(3000, 2)
    leak = label_leakage(noise, rule(noise).long())
    assert leak.excess > 10 * leak.stderr
    several = torch.stack([rule(noise).long(), torch.arange(3000) % 2], 1)
    both = label_leakage(noise, several)
    assert both.excess > 4 * both.stderr


@pytest.mark.parametrize("slope", [0.0, 0.5, 2.0])
def test_of_numbers_it_is_the_share_of_their_variance(slope: float) -> None:
    noise, error = normal(6000, 3), normal(6000, 2, seed=1)
    direction = torch.tensor([[0.6, 0.0], [0.8, 0.0], [0.0, 1.0]], dtype=f64)
    leak = label_leakage(noise, 100 + 7 * (slope * noise @ direction + error))
    expected = slope**2 / (1 + slope**2)
    assert leak.chance == 0
    assert leak.value == pytest.approx(expected, abs=4 * leak.stderr + 0.03 * expected + 2e-3)  # 1,024 to learn from
    assert leak.value <= expected + 4 * leak.stderr + 1e-12
    assert label_leakage(noise, torch.zeros(6000)).excess == 0


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 30.0, 1e200])
def test_noise_of_any_scale_and_place_tells_what_it_decides(scale: float) -> None:
    """Labels are functions of the noise: R^2 is 1, and all classes can be right, in whatever units."""
    noise = scale * (torch.rand(3000, 6, generator=seeded(), dtype=f64) + 4)
    level = noise.sum(1) / scale - 27
    assert label_leakage(noise, level).value > 0.98
    classes = label_leakage(noise, (level > 0).long())
    assert classes.value > 0.93
    assert classes.chance == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("unit", [1e-200, 1e-3, 1.0, 1e3, 1e200])
def test_a_condition_that_leaks_is_seen_beside_one_that_does_not_in_any_units(unit: float) -> None:
    """Of two columns the first is known and the second not: R^2 is 1/2, as a third that never varies does not count."""
    noise = normal(3000, 3)
    labels = torch.stack([noise[:, 0], unit * normal(3000, seed=1), torch.full((3000,), 0.1, dtype=f64)], 1)
    leak = label_leakage(noise, labels)
    assert leak.value == pytest.approx(0.5, abs=0.03)
    assert leak.stderr < 0.02


def test_it_takes_any_shape_and_repeats_by_its_seed() -> None:
    noise, labels = normal(200, 4), torch.arange(200) % 3
    leak = label_leakage(noise, labels)
    assert label_leakage(noise.reshape(200, 2, 2).numpy(), labels.numpy()) == leak
    assert label_leakage(noise, 10 * labels - 4) == leak
    assert label_leakage(noise, labels, seed=1) != leak
    assert (leak.pairs, label_leakage(normal(5000, 1), torch.arange(5000) % 2).pairs) == (100, 5000 - 1024)


def test_bad_input_is_refused() -> None:
    noise, labels = normal(20, 2), torch.arange(20) % 2
    for given, known in ((noise, labels[1:]), (noise[:7], labels[:7]), (noise, labels / 0), (noise, labels[0])):
        with pytest.raises(ValueError, match="label_leakage: labels must be finite, one for each of at least 8"):
            label_leakage(given, known)
    with pytest.raises(ValueError, match="label_leakage: noise has rows that are not finite"):
        label_leakage(noise / 0, labels)
    with pytest.raises(ValueError, match="label_leakage: seed must be"):
        label_leakage(noise, labels, seed=2**64)
