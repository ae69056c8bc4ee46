"""Bounds hold for the tensors that are returned: float32 queries against the same queries in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.potentials import Ball, Ellipsoid, Entropic, Potential, Product, Quadratic, Quantile, Radial
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from tests.marks import slow_beyond

f32, f64 = torch.float32, torch.float64
TIMES = (0.0, 1e-30, 1e-8, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 1e-7)
SCHEDULES = (Linear(), Cosine(), Polynomial(1.5), Polynomial(2.5), Polynomial(7))


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers that float32 holds exactly."""
    draws = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)
    return draws.float().double()


def atoms(offset: float, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    points = (offset + spread * normal(12, 3)).float().double()
    return points, (0.3 * spread * normal(12, seed=1)).float().double()


def entropic(epsilon: float, offset: float = 0.0) -> Callable[[torch.dtype], Potential]:
    points, heights = atoms(offset)
    return lambda dtype: Entropic(points.to(dtype), heights.to(dtype), epsilon)


def covariance() -> torch.Tensor:
    factor = normal(3, 3, seed=2)
    product = factor @ factor.T
    return 0.5 * (product + product.T)


POTENTIALS: dict[str, Callable[[torch.dtype], Potential]] = {
    "entropic": entropic(0.3),
    "entropic, sharp": entropic(0.01),
    "entropic, offset 7": entropic(0.3, 7.0),
    "entropic, offset 1e6": entropic(0.3, 1e6),
    "normal": lambda _: Quadratic(normal(3, seed=3), covariance()),
    "normal, offset 1e6": lambda _: Quadratic(1e6 + normal(3, seed=3), covariance()),
    "sphere": lambda _: Ball(3, 2.0),
    "sphere, tiny": lambda _: Ball(3, 1e-20),
    "ellipsoid": lambda _: Ellipsoid([0.3, 1.0, 2.5]),
    "needle": lambda _: Ellipsoid([1e-3, 1e-3, 1.0]),
    "shells": lambda _: Radial(3, ([0.0, 0.5, 0.5, 1.0], [1.0, 1.5, 2.0, 3.0])),
    "heavy tails": lambda _: Radial(3, lambda p: -torch.log1p(-p), upper_quantile=lambda c: -torch.log(c)),
    "product": lambda _: Product([Ball(2), Quantile(([0.0, 0.5, 0.5, 1.0], [-1.0, 0.0, 1.0, 1.0]))]),
    "moved": lambda _: (
        Quadratic(normal(3, seed=3), covariance())
        .rotate(torch.linalg.qr(normal(3, 3, seed=4))[0], torch.full((3,), 1e6, dtype=f64))
        .scale(0.5)
    ),
}


def queries(potential: Potential, schedule: Schedule, t: float) -> torch.Tensor:
    """Float32 points on trajectories at time t, and near them."""
    u = normal(6, 3, seed=9)
    time = torch.tensor([t], dtype=f64)
    x = schedule.alpha(time) * u + schedule.beta(time) * potential.brenier_map(u)
    x[3:] += 0.3 * normal(3, 3, seed=10)
    return x.float()


@pytest.mark.parametrize("schedule", slow_beyond(1, SCHEDULES), ids=repr)
@pytest.mark.parametrize("name", POTENTIALS)
def test_float32(name: str, schedule: Schedule) -> None:
    low, high = POTENTIALS[name](f32), POTENTIALS[name](f64)
    rough, fine = pf.ProximalFlow(low, schedule, "nan"), pf.ProximalFlow(high, schedule, "nan")
    for t in TIMES:
        x = queries(high, schedule, t)
        found, truth = rough.solve(t, x), fine.solve(t, x.double())
        error = (found.point.double() - truth.point).norm(dim=1)
        slack = truth.error_bound
        assert (error <= found.error_bound.double() + slack).all(), (t, error / found.error_bound)
        if 1 - t < 1e-7 * 1.2:
            continue  # t = 1 in float32
        v, w = rough.velocity(t, x), fine.velocity(t, x.double())
        error = (v.double() - w).norm(dim=1)
        bound, own = found.velocity_error_bound, truth.velocity_error_bound
        assert bound is not None
        assert own is not None
        known = torch.isfinite(w).all(1) & torch.isfinite(v).all(1)
        assert (error <= bound.double() + own)[known].all(), (t, error / bound)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=repr)
@pytest.mark.parametrize("t", [1e-30, 1e-8, 1e-4, 0.3, 0.9, 1 - 1e-7])
def test_float64_against_fifty_digits(schedule: Schedule, t: float) -> None:
    """N(1e6, 4) from N(0, 1): y = m + 2 (x - beta m) / (alpha + 2 beta), and v = alpha' u + beta' y."""
    mpmath.mp.dps = 50
    mean = 1e6 + 1 / 3
    potential = Quadratic(torch.tensor([mean], dtype=f64), torch.tensor([[4.0]], dtype=f64))
    flow = pf.ProximalFlow(potential, schedule)
    alpha, beta, source_rate, target_rate = exact_coefficients(schedule, t)
    for u in (-3.0, 0.1, 2.0):
        x = float(alpha * u + beta * (mean + 2 * mpmath.mpf(u)))
        pair, v = flow.solve(t, torch.tensor([[x]], dtype=f64)), flow.velocity(t, torch.tensor([[x]], dtype=f64))
        source = (mpmath.mpf(x) - beta * mean) / (alpha + 2 * beta)
        y = mean + 2 * source
        assert abs(float(pair.point) - y) <= float(pair.error_bound)
        bound = pair.velocity_error_bound
        assert bound is not None
        assert abs(float(v) - (source_rate * source + target_rate * y)) <= float(bound)


def exact_coefficients(schedule: Schedule, t: float) -> tuple[mpmath.mpf, mpmath.mpf, mpmath.mpf, mpmath.mpf]:
    """alpha, beta and their derivatives."""
    time = mpmath.mpf(t)
    if isinstance(schedule, Cosine):
        angle, half = mpmath.pi * time / 2, mpmath.pi / 2
        return mpmath.cos(angle), mpmath.sin(angle), -half * mpmath.sin(angle), half * mpmath.cos(angle)
    n = schedule.n if isinstance(schedule, Polynomial) else 1
    alpha, rate = (1 - time) ** n, n * (1 - time) ** (n - 1)
    return alpha, 1 - alpha, -rate, rate


@pytest.mark.parametrize("t", [np.float32(0.4), np.float64(0.4), np.array(0.4), np.int64(0)], ids=repr)
def test_numpy_numbers_are_times(t: Any) -> None:
    flow = pf.ProximalFlow(Ball(2))
    x = normal(3, 2)
    expected = flow.velocity(float(t), x)
    assert torch.equal(flow.velocity(t, x), expected)
    assert torch.equal(flow.recover_source(t, x), flow.recover_source(float(t), x))
    assert torch.equal(flow.jacobian(t, x), flow.jacobian(float(t), x))


@pytest.mark.parametrize("t", [np.float32(1.5), np.array([0.4]), np.array("a"), "0.4", None], ids=repr)
def test_other_times_are_refused(t: Any) -> None:
    with pytest.raises(ValueError, match="t"):
        pf.ProximalFlow(Ball(2)).velocity(t, normal(3, 2))
    with pytest.raises(ValueError, match="t = 1"):
        pf.ProximalFlow(Ball(2)).velocity(np.float32(1.0), normal(3, 2))  # type: ignore[arg-type]
