"""The energy distance against a double loop, the integral of squared distribution functions, and closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from proxflow.metrics import energy, energy_distance, energy_distance_error
from tests.metrics.clouds import BAD_PAIRS, check_refusals, f64, normal
from tests.peak_memory import peak_bytes


def double_loop(x: list[list[float]], y: list[list[float]], *, unbiased: bool = False) -> float:
    """From the definition, one pair of points at a time."""

    def mean(a: list[list[float]], b: list[list[float]], *, within: bool) -> float:
        pairs = [(i, j) for i in range(len(a)) for j in range(len(b)) if not (within and unbiased and i == j)]
        return sum(math.dist(a[i], b[j]) for i, j in pairs) / len(pairs)

    return 2 * mean(x, y, within=False) - mean(x, x, within=True) - mean(y, y, within=True)


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("block_numbers", [1, 20, 1 << 22])
def test_agrees_with_a_double_loop(block_numbers: int, unbiased: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_BLOCK_NUMBERS", block_numbers)
    x, y = normal(9, 2, 2), normal(7, 2, 2, seed=1) + 0.5
    expected = double_loop(x.reshape(9, 4).tolist(), y.reshape(7, 4).tolist(), unbiased=unbiased)
    assert energy_distance(x, y, unbiased=unbiased) == pytest.approx(expected, rel=1e-12)


def test_on_the_line_it_is_the_integral_of_the_squared_difference_of_distribution_functions() -> None:
    x, y = normal(40), 2 * normal(30, seed=1) + 1
    ends = torch.cat([x, y]).sort().values
    of_x, of_y = ((ends[:, None] >= cloud).double().mean(1) for cloud in (x, y))
    integral = float(((of_x - of_y).square()[:-1] * ends.diff()).sum())
    assert energy_distance(x, y) == pytest.approx(2 * integral, rel=1e-12)
    assert energy_distance(x[:, None], y[:, None]) == pytest.approx(2 * integral, rel=1e-12)
    assert energy_distance(x, y) == pytest.approx(stats.energy_distance(x, y) ** 2, rel=1e-12)


def test_unbiased_it_estimates_the_distance_of_the_laws() -> None:
    # N(0, 1) and N(1, 1): E|N(mean, 2)| is the mean of a folded normal
    def folded(mean: float) -> float:
        return 2 / math.sqrt(math.pi) * math.exp(-(mean**2) / 4) + mean * math.erf(mean / 2)

    closed_form = 2 * folded(1) - 2 * folded(0)
    estimates = [energy_distance(normal(40, seed=s), normal(40, seed=s + 1000) + 1, unbiased=True) for s in range(300)]
    error = float(np.std(estimates, ddof=1)) / math.sqrt(len(estimates))
    assert np.mean(estimates) == pytest.approx(closed_form, abs=4 * error)


def test_unbiased_it_can_be_negative_where_the_default_is_not() -> None:
    pairs = [(normal(20, 2, seed=s), normal(20, 2, seed=s + 1000)) for s in range(20)]
    assert min(energy_distance(x, y, unbiased=True) for x, y in pairs) < 0
    assert min(energy_distance(x, y) for x, y in pairs) > 0


def test_equal_clouds_are_at_no_distance() -> None:
    x = normal(50, 3)
    assert energy_distance(x, x.flip(0)) == pytest.approx(0, abs=1e-14)
    assert energy_distance(x, torch.cat([x, x])) == pytest.approx(0, abs=1e-14)
    assert energy_distance(torch.zeros(2, 3), torch.zeros(5, 3)) == 0


def test_two_points_are_at_twice_their_distance() -> None:
    assert energy_distance(torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 4.0]])) == 10


@pytest.mark.parametrize("unbiased", [False, True])
@pytest.mark.parametrize("scale", [1e-200, 1e200, 2e307])
def test_scales_with_the_points(scale: float, unbiased: bool) -> None:
    x, y = normal(30, 3), normal(20, 3, seed=1) + 1
    expected = scale * energy_distance(x, y, unbiased=unbiased)
    assert energy_distance(x * scale, y * scale, unbiased=unbiased) == pytest.approx(expected, rel=1e-12)


def test_loses_no_digits_far_from_the_origin() -> None:
    x, y = (normal(30, 3) * 2**10).round(), (normal(20, 3, seed=1) * 2**10).round()
    near, away = energy_distance(x, y), 2.0**45
    assert energy_distance(x + away, y + away) == pytest.approx(near, rel=1e-12)


def test_float32_points_are_summed_in_float64() -> None:
    x, y = normal(300, 2).float(), normal(300, 2, seed=1).float()
    assert energy_distance(x, y) == energy_distance(x.double(), y.double())


def test_memory_does_not_grow_with_the_square_of_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(energy, "_BLOCK_NUMBERS", 1 << 14)
    x = normal(1000, 2)
    assert peak_bytes(lambda: energy_distance(x, x + 1)) < 1_000_000  # 1000 x 1000 distances would be 8 MB


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_refuses_bad_clouds(case: str) -> None:
    check_refusals(energy_distance, case)


@pytest.mark.parametrize("name", ["a", "b"])
def test_unbiased_needs_two_points(name: str) -> None:
    one, two = torch.zeros(1, 2, dtype=f64), torch.ones(2, 2, dtype=f64)
    with pytest.raises(ValueError, match=f"unbiased needs two points .* in {name}"):
        energy_distance(*((one, two) if name == "a" else (two, one)), unbiased=True)


@pytest.mark.parametrize(("shift", "covers"), [(0.0, (1.15, 1.7)), (2.0, (0.85, 1.15))])
def test_error_is_that_of_repeated_draws_or_a_little_more(shift: float, covers: tuple[float, ...]) -> None:
    draws = [(normal(60, 2, seed=s), 1.5 * normal(80, 2, seed=s + 5000) + shift) for s in range(150)]
    if shift == 0:
        draws = [(x, y / 1.5) for x, y in draws]
    scatter = np.std([energy_distance(x, y, unbiased=True) for x, y in draws], ddof=1)
    told = math.sqrt(np.mean([energy_distance_error(x, y) ** 2 for x, y in draws]))
    assert covers[0] < told / scatter < covers[1]


def test_error_of_few_or_bad_points() -> None:
    assert math.isnan(energy_distance_error(normal(1, 2), normal(9, 2)))
    assert energy_distance_error(normal(2, 2), normal(9, 2)) > 0
    scale = 2.0**400
    x, y = normal(40, 2), normal(50, 2, seed=1) + 1
    assert energy_distance_error(scale * x, scale * y) == pytest.approx(scale * energy_distance_error(x, y), rel=1e-9)
    with pytest.raises(ValueError, match="not finite"):
        energy_distance_error(normal(4, 2), math.nan * normal(9, 2))
