"""Schedules against high-precision arithmetic, finite differences and the identities of docs/theory.md 2."""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
import pytest
import torch

from proxflow.schedules import Cosine, Linear, Polynomial, Schedule

f64 = torch.float64
SCHEDULES = [Linear(), Cosine(), Polynomial(0.5), Polynomial(1), Polynomial(2), Polynomial(3.7)]
INTERIOR = [0.01, 0.2, 0.5, 0.77, 0.99]
NEAR_ENDS = [1e-12, 1e-6, 1e-3, 0.25, 0.4999999, 0.5, 0.75, 1 - 1e-3, 1 - 1e-6]
COEFFICIENTS = ["alpha", "beta", "alpha_derivative", "beta_derivative", "wronskian", "rescaled_time"]

every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
PI = Decimal("3.14159265358979323846264338327950288419716939937510")


def decimal_sine(x: Decimal) -> Decimal:
    term, total, k = x, x, 1
    while abs(term) > Decimal(10) ** -55 * abs(total):
        term = -term * x * x / ((2 * k) * (2 * k + 1))
        total += term
        k += 1
    return total


def exact_coefficients(schedule: Schedule, t: float) -> dict[str, float]:
    """All six coefficients at the number ``t`` as stored, in 60 digits."""
    with localcontext() as context:
        context.prec = 60
        time, one = Decimal(t), Decimal(1)
        if isinstance(schedule, Cosine):
            alpha, beta = decimal_sine(PI * (one - time) / 2), decimal_sine(PI * time / 2)
            alpha_rate, beta_rate = -PI / 2 * beta, PI / 2 * alpha
        else:
            n = Decimal(schedule.n) if isinstance(schedule, Polynomial) else one
            alpha = (n * (one - time).ln()).exp()
            beta = one - alpha
            beta_rate = n * ((n - 1) * (one - time).ln()).exp()
            alpha_rate = -beta_rate
        values = (alpha, beta, alpha_rate, beta_rate, alpha * beta_rate - alpha_rate * beta, -alpha.ln())
        return dict(zip(COEFFICIENTS, map(float, values), strict=True))


@every_schedule
def test_runs_from_noise_to_data(schedule: Schedule) -> None:
    ends = torch.tensor([0.0, 1.0], dtype=f64)
    assert schedule.alpha(ends).tolist() == [1.0, 0.0]
    assert schedule.beta(ends).tolist() == [0.0, 1.0]
    times = torch.linspace(0, 1, 200, dtype=f64)
    assert (schedule.alpha(times).diff() < 0).all()
    assert (schedule.beta(times).diff() > 0).all()


@pytest.mark.parametrize(("dtype", "roundings"), [(f64, 16), (torch.float32, 16)], ids=["float64", "float32"])
@pytest.mark.parametrize("name", COEFFICIENTS)
@every_schedule
def test_keeps_relative_accuracy_at_both_ends(
    schedule: Schedule, name: str, dtype: torch.dtype, roundings: int
) -> None:
    times = torch.tensor(NEAR_ENDS, dtype=dtype)
    times = times[times < 1]
    exact = torch.tensor([exact_coefficients(schedule, t)[name] for t in times.tolist()], dtype=f64)
    error = (getattr(schedule, name)(times).double() - exact).abs() / exact.abs()
    assert error.max() <= roundings * torch.finfo(dtype).eps


@every_schedule
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_derivatives_match_finite_differences(schedule: Schedule, name: str) -> None:
    times, step = torch.tensor(INTERIOR, dtype=f64), 1e-6
    coefficient, derivative = getattr(schedule, name), getattr(schedule, f"{name}_derivative")
    difference = (coefficient(times + step) - coefficient(times - step)) / (2 * step)
    torch.testing.assert_close(derivative(times), difference, rtol=1e-7, atol=1e-9)


@every_schedule
@pytest.mark.parametrize("name", ["alpha", "beta"])
def test_derivatives_match_autograd_up_to_both_ends(schedule: Schedule, name: str) -> None:
    last = 1.0 if getattr(schedule, "n", 1) >= 1 else 1 - 1e-6
    times = torch.tensor([0.0, 1e-6, *INTERIOR, 1 - 1e-6, last], dtype=f64, requires_grad=True)
    (slope,) = torch.autograd.grad(getattr(schedule, name)(times).sum(), times)
    torch.testing.assert_close(slope, getattr(schedule, f"{name}_derivative")(times).detach(), rtol=1e-12, atol=1e-15)


@every_schedule
def test_rescaled_time_has_the_rate_minus_alpha_rate_over_alpha(schedule: Schedule) -> None:
    times = torch.tensor([0.0, 1e-6, *INTERIOR, 1 - 1e-6], dtype=f64, requires_grad=True)
    (rate,) = torch.autograd.grad(schedule.rescaled_time(times).sum(), times)
    expected = (-schedule.alpha_derivative(times) / schedule.alpha(times)).detach()
    torch.testing.assert_close(rate, expected, rtol=1e-12, atol=1e-15)


@every_schedule
def test_rescaled_time_runs_from_zero_to_infinity(schedule: Schedule) -> None:
    assert schedule.rescaled_time(torch.tensor([0.0, 1.0])).tolist() == [0.0, math.inf]


@every_schedule
def test_wronskian_is_the_determinant_of_the_coefficients(schedule: Schedule) -> None:
    times = torch.tensor(INTERIOR, dtype=f64)
    alpha, beta = schedule.alpha(times), schedule.beta(times)
    expected = alpha * schedule.beta_derivative(times) - schedule.alpha_derivative(times) * beta
    torch.testing.assert_close(schedule.wronskian(times), expected, rtol=1e-14, atol=0)
    assert (schedule.wronskian(times) > 0).all()


def test_wronskians_of_theory() -> None:
    times = torch.linspace(0, 1, 11, dtype=f64)
    torch.testing.assert_close(Linear().wronskian(times), torch.ones_like(times), rtol=0, atol=0)
    torch.testing.assert_close(
        Cosine().wronskian(times), torch.full_like(times, math.pi / 2), rtol=4 * np.finfo(float).eps, atol=0
    )


def test_polynomial_of_degree_one_is_linear() -> None:
    times = torch.linspace(0, 1, 101, dtype=f64)
    for name in COEFFICIENTS:
        torch.testing.assert_close(
            getattr(Polynomial(1), name)(times), getattr(Linear(), name)(times), rtol=1e-15, atol=0
        )


@every_schedule
@pytest.mark.parametrize("name", COEFFICIENTS)
def test_acts_elementwise_in_any_shape_and_dtype(schedule: Schedule, name: str) -> None:
    coefficient = getattr(schedule, name)
    for dtype in (torch.float32, f64):
        times = torch.rand(3, 4, generator=torch.Generator().manual_seed(1), dtype=dtype)
        values = coefficient(times)
        assert values.shape == times.shape
        assert values.dtype == dtype
        assert coefficient(times[1, 2]).shape == ()
        assert torch.equal(coefficient(times[1]), values[1])
        torch.testing.assert_close(torch.func.vmap(coefficient)(times), values, rtol=1e-6, atol=0)


@every_schedule
@pytest.mark.parametrize("name", ["alpha", "beta", "rescaled_time"])
def test_passes_nan_through_its_own_entry_only(schedule: Schedule, name: str) -> None:
    values = getattr(schedule, name)(torch.tensor([0.3, math.nan, 0.6], dtype=f64))
    assert torch.isnan(values).tolist() == [False, True, False]


@pytest.mark.parametrize("n", [0, -1, math.nan, math.inf, -0.5])
def test_refuses_a_degree_that_is_not_positive_and_finite(n: float) -> None:
    with pytest.raises(ValueError, match="degree n must be a positive finite number"):
        Polynomial(n)


@pytest.mark.parametrize("n", ["two", True, None])
def test_refuses_a_degree_that_is_no_number(n: Any) -> None:
    with pytest.raises(ValueError, match="degree n must be a positive finite number"):
        Polynomial(n)


def test_schedules_compare_by_value() -> None:
    assert Polynomial(2) == Polynomial(2.0)
    assert hash(Polynomial(2)) == hash(Polynomial(2.0))
    assert Polynomial(2) != Polynomial(3)
    assert Linear() == Linear()
    assert Linear() != Cosine()
    assert repr(Polynomial(2.5)) == "Polynomial(2.5)"
    assert repr(Cosine()) == "Cosine()"


class Tabulated(Linear):
    """Linear, with a table and a name."""

    def __init__(self, table: torch.Tensor, name: str) -> None:
        self.table, self.name = table, name


def test_schedules_with_tensors_and_text_are_compared_and_shown() -> None:
    one, same = (Tabulated(torch.tensor([1.0, 2.0]), "a") for _ in range(2))
    assert one == same
    assert hash(one) == hash(same)
    assert one != Tabulated(torch.tensor([1.0, 3.0]), "a")
    assert one != Tabulated(torch.tensor([1.0, 2.0]), "b")
    assert one != Linear()
    assert repr(one) == "Tabulated(tensor([1., 2.]), 'a')"
    assert [repr(Polynomial(n)) for n in (2, 2.0, 2.0000001, 0.5)] == [
        "Polynomial(2)", "Polynomial(2)", "Polynomial(2.0000001)", "Polynomial(0.5)",
    ]  # fmt: skip
