"""integrate against closed-form flows between Gaussians, written out by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from proxflow.errors import ConvergenceError
from proxflow.sampling import integrate
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from tests.marks import slow_beyond
from tests.sampling.closed_forms import Mixture

METHODS = ["euler", "midpoint", "heun", "dopri5", "proximal"]
MEAN, SCALE = [1.0, -2.0, 0.5], [0.3, 2.0, 0.0]
"""The last coordinate of the target is a single point: the field blows up there as t goes to 1."""

Field = Callable[[Tensor, Tensor], Tensor]
Coefficients = Callable[[float], tuple[float, float, float, float]]


def linear(t: float) -> tuple[float, float, float, float]:
    return 1 - t, t, -1.0, 1.0


def cosine(t: float) -> tuple[float, float, float, float]:
    half = math.pi / 2
    return math.cos(half * t), math.sin(half * t), -half * math.sin(half * t), half * math.cos(half * t)


def cubic(t: float) -> tuple[float, float, float, float]:
    return (1 - t) ** 3, 1 - (1 - t) ** 3, -3 * (1 - t) ** 2, 3 * (1 - t) ** 2


SCHEDULES = [(linear, Linear()), (cosine, Cosine()), (cubic, Polynomial(3))]


def target_of(x0: Tensor) -> Tensor:
    return x0.new_tensor(MEAN) + x0.new_tensor(SCALE) * x0


def optimal(coefficients: Coefficients) -> Field:
    """OT flow N(0, I) -> N(m, diag s^2): x = alpha u + beta (m + s u) is solved for u."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        alpha, beta, alpha_rate, beta_rate = coefficients(float(t))
        mean, scale = x.new_tensor(MEAN), x.new_tensor(SCALE)
        source = (x - beta * mean) / (alpha + beta * scale)
        return alpha_rate * source + beta_rate * (mean + scale * source)

    return field


def independent(t: Tensor, x: Tensor) -> Tensor:
    """Flow of independent coupling N(0, 1) -> N(1, 4), Linear: x_t = t + sigma(t) x0, which curves."""
    variance = (1 - t) ** 2 + 4 * t**2
    return 1 + (4 * t - (1 - t)) / variance * (x - t)


class Recorder:
    def __init__(self, field: Field) -> None:
        self.field = field
        self.times: list[float] = []

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        assert t.ndim == 0
        assert t.dtype == x.dtype
        self.times.append(float(t))
        return self.field(t, x)


def draw(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=dtype)


def test_euler_is_exact_in_one_step_for_the_linear_flow(generator: torch.Generator) -> None:
    x0 = draw(generator, 20, 3)
    torch.testing.assert_close(integrate(optimal(linear), x0, 1).end, target_of(x0), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("coefficients", "schedule"), SCHEDULES)
@pytest.mark.parametrize("steps", [None, 1, 7])
def test_proximal_is_exact_at_every_time_under_every_schedule(
    generator: torch.Generator, coefficients: Coefficients, schedule: Schedule, steps: int | None
) -> None:
    x0 = draw(generator, 20, 3)
    result = integrate(optimal(coefficients), x0, steps, "proximal", schedule)
    assert result.evaluations == (steps or 1)
    for t, point in zip(result.times.tolist(), result.points, strict=True):
        alpha, beta, _, _ = coefficients(t)
        torch.testing.assert_close(point, alpha * x0 + beta * target_of(x0), rtol=1e-12, atol=1e-12)


def test_one_proximal_step_is_an_euler_step_under_linear(generator: torch.Generator) -> None:
    x0 = draw(generator, 20, 3)
    proximal, euler = integrate(independent, x0, 9, "proximal"), integrate(independent, x0, 9, "euler")
    torch.testing.assert_close(proximal.points, euler.points, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("proximal", 1)])
def test_order_of_convergence_on_a_nonlinear_field(generator: torch.Generator, method: str, order: int) -> None:
    x0 = draw(generator, 20, 3).abs()
    exact = x0 / (1 + 1.5 * x0)  # of x' = -(1 + t) x^2
    errors = [(integrate(lambda t, x: -(1 + t) * x**2, x0, k, method).end - exact).norm() for k in (200, 400)]
    assert float(torch.log2(errors[0] / errors[1])) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("method", ["midpoint", "heun"])
def test_second_order_with_cosine_schedule(generator: torch.Generator, method: str) -> None:
    x0 = draw(generator, 20, 3)

    def error(steps: int) -> Tensor:
        """Regular coordinates only: at the atom both methods divide by the vanishing alpha."""
        return (integrate(optimal(cosine), x0, steps, method, Cosine()).end - target_of(x0))[:, :2].norm()

    assert float(torch.log2(error(100) / error(200))) == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize("rtol", [1e-4, 1e-6, 1e-9])
def test_dopri5_error_follows_its_tolerance(generator: torch.Generator, rtol: float) -> None:
    x0 = draw(generator, 20, 3)
    end = integrate(independent, x0, method="dopri5", rtol=rtol, atol=rtol).end
    assert float((end - (1 + 2 * x0)).abs().max()) < 30 * rtol


def test_dopri5_reports_uniform_times_on_the_trajectory(generator: torch.Generator) -> None:
    x0 = draw(generator, 20, 3)
    result = integrate(optimal(cosine), x0, 8, "dopri5", Cosine())
    assert result.times.tolist() == [k / 8 for k in range(9)]
    for t, point in zip(result.times.tolist(), result.points, strict=True):
        alpha, beta, _, _ = cosine(t)
        torch.testing.assert_close(point, alpha * x0 + beta * target_of(x0), rtol=1e-5, atol=1e-5)
    assert torch.equal(integrate(optimal(cosine), x0, method="dopri5").times, torch.tensor([0.0, 1.0]).double())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("steps", slow_beyond(3, [None, 1, 3, 997]))
def test_never_calls_the_field_at_the_end_and_counts_every_call(
    generator: torch.Generator, dtype: torch.dtype, method: str, steps: int | None
) -> None:
    x0 = draw(generator, 4, 3, dtype=dtype)
    field = Recorder(optimal(linear))
    result = integrate(field, x0, steps, method)
    assert min(field.times) >= 0
    assert max(field.times) < 1
    assert result.evaluations == len(field.times)
    count = len(result.times) - 1
    expected = {"euler": count, "midpoint": 2 * count, "heun": 2 * count - 1, "proximal": count}
    if method in expected:
        assert count == (steps or (1 if method == "proximal" else 100))
        assert result.evaluations == expected[method]
    assert result.points.dtype == result.times.dtype == dtype
    assert (float(result.times[0]), float(result.times[-1])) == (0, 1)
    torch.testing.assert_close(result.end, target_of(x0), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dopri5_stays_before_the_end_when_the_field_is_nearly_still(dtype: torch.dtype) -> None:
    field = Recorder(lambda t, x: torch.full_like(x, 1e-9))
    integrate(field, torch.ones(3, 2, dtype=dtype), method="dopri5")
    assert max(field.times) == pytest.approx(1 - 1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 2, 3, 4), (0, 3), (1, 7)])
def test_event_shapes(generator: torch.Generator, method: str, shape: tuple[int, ...]) -> None:
    x0 = draw(generator, *shape)
    result = integrate(lambda t, x: 2 - x / (1 + t), x0, 4, method)
    flat = integrate(lambda t, x: 2 - x / (1 + t), x0.reshape(shape[0], math.prod(shape[1:])), 4, method)
    assert result.points.shape == (5, *shape)
    assert torch.equal(result.points[0], x0)
    assert torch.equal(result.points.reshape(flat.points.shape), flat.points)


@pytest.mark.parametrize("method", METHODS)
def test_gradient_in_the_start_and_in_the_parameters(generator: torch.Generator, method: str) -> None:
    x0 = draw(generator, 4, 2).requires_grad_()
    shift = torch.zeros((), dtype=torch.float64, requires_grad=True)
    end = integrate(lambda t, x: independent(t, x) + shift, x0, 200, method).end
    start_gradient, shift_gradient = torch.autograd.grad(end.sum(), (x0, shift))
    tolerance = 5e-2 if method in ("euler", "proximal") else 1e-3
    torch.testing.assert_close(start_gradient, torch.full_like(x0, 2), rtol=tolerance, atol=0)
    # d end / d shift = integral of sigma(1) / sigma(t), by quadrature
    grid = torch.linspace(0, 1, 2001, dtype=torch.float64)
    integral = torch.trapezoid(2 / ((1 - grid) ** 2 + 4 * grid**2).sqrt(), grid)
    torch.testing.assert_close(shift_gradient, 8 * integral, rtol=tolerance, atol=0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("row", [math.nan, math.inf])
def test_a_non_finite_row_touches_no_other(generator: torch.Generator, method: str, row: float) -> None:
    x0 = draw(generator, 4, 3)
    spoiled = x0.clone()
    spoiled[2, 1] = row
    expected, result = (integrate(optimal(linear), x, 3, method).points for x in (x0, spoiled))
    assert not result[1:, 2, 1].isfinite().any()
    torch.testing.assert_close(result[:, [0, 1, 3]], expected[:, [0, 1, 3]], rtol=1e-5, atol=1e-5)


def test_a_row_that_breaks_on_the_way_touches_no_other(generator: torch.Generator) -> None:
    x0 = draw(generator, 3, 3).abs() + 1
    x0[1] = -1

    def field(t: Tensor, x: Tensor) -> Tensor:
        return torch.where((x < 0) & (t > 0.4), torch.nan, independent(t, x))

    result = integrate(field, x0, method="dopri5")
    assert result.end[1].isnan().all()
    torch.testing.assert_close(result.end[::2], 1 + 2 * x0[::2], rtol=1e-4, atol=1e-4)


def test_dopri5_tolerance_holds_for_each_row_of_a_large_batch(generator: torch.Generator) -> None:
    """One moving row among a thousand still ones: an average over the batch would let its error grow."""
    x0 = torch.zeros(1000, 1, dtype=torch.float64)
    x0[0] = 1
    end = integrate(lambda t, x: 10 * torch.cos(40 * t) * x, x0, method="dopri5").end
    assert float(end[0]) == pytest.approx(math.exp(math.sin(40) / 4), rel=2e-4)


def test_dopri5_that_cannot_meet_its_tolerance_raises() -> None:
    def field(t: Tensor, x: Tensor) -> Tensor:
        return 1 / (t - 0.5).abs() ** 2 + 0 * x

    with pytest.raises(ConvergenceError, match="Loosen rtol"):
        integrate(field, torch.zeros(2, 1, dtype=torch.float64), method="dopri5")


def test_assertions_of_the_field_pass_through() -> None:
    def field(t: Tensor, x: Tensor) -> Tensor:
        raise AssertionError("the field's own")

    with pytest.raises(AssertionError, match="the field's own"):
        integrate(field, torch.zeros(2, 1), method="dopri5")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps must be an integer"),
        ({"steps": 2.0}, r"got 2\.0"),
        ({"steps": True}, "steps must be an integer"),
        ({"method": "rk4"}, "'rk4'; known are euler, midpoint, heun, dopri5, proximal"),
        ({"x0": torch.zeros(3, 2, dtype=torch.int64)}, "got torch.int64"),
        ({"x0": torch.zeros(3, 2, dtype=torch.float16)}, "got torch.float16"),
        ({"x0": torch.zeros(())}, "batch dimension"),
        ({"schedule": "cosine"}, "schedule must be a proxflow Schedule"),
        ({"method": "dopri5", "rtol": 0.0}, "rtol must be a positive"),
        ({"method": "dopri5", "atol": math.inf}, "atol must be a positive"),
        ({"field": lambda t, x: x[:, :1]}, r"returned shape \(3, 1\) for x of \(3, 2\)"),
        ({"field": lambda t, x: x.double()}, r"torch.float64 on cpu for x of torch.float32"),
        ({"field": lambda t, x: 0.0}, "must return a tensor, got float"),
    ],
)
def test_refuses(change: dict[str, object], message: str) -> None:
    arguments: dict[str, Any] = {"field": lambda t, x: x, "x0": torch.zeros(3, 2), **change}
    with pytest.raises(ValueError, match=message):
        integrate(**arguments)


def test_times_may_be_as_near_to_one_another_as_the_dtype_of_the_points_tells() -> None:
    times, x = [0, 0.5, 1 - 1e-9, 1], torch.ones(2, 1, dtype=torch.float64)
    path = integrate(lambda t, at: 0 * at + 1, x, times=times)
    assert path.times.tolist() == times
    torch.testing.assert_close(path.end, x + 1)
    with pytest.raises(ValueError, match=r"rises from 0 to 1 in torch\.float32"):
        integrate(lambda t, at: 0 * at + 1, x.float(), times=times)


@pytest.mark.parametrize("degree", [0.25, 0.5])
def test_dopri5_keeps_its_tolerance_where_the_rates_have_no_bound(degree: float, generator: torch.Generator) -> None:
    """Paths of alpha + beta = 1 are those of Linear at other times: .18 and 5e-3 off by a last step of 1e-3 in t."""
    noise, law = torch.randn(50, 3, generator=generator, dtype=torch.float64), Mixture(Polynomial(degree))
    exact = integrate(Mixture(Linear()).velocity, noise, method="dopri5", rtol=1e-10, atol=1e-10).end
    found = integrate(law.velocity, noise, method="dopri5", schedule=law.schedule).end
    torch.testing.assert_close(found, exact, rtol=0, atol=3e-5)
    back = integrate(law.velocity, exact, method="dopri5", schedule=law.schedule, reverse=True).end
    torch.testing.assert_close(back, noise, rtol=0, atol=2e-3)
