"""The ellipsoid against scipy's root finder, the ball, and its own geometry."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq

import proxflow as pf
from proxflow.potentials import Ball, Ellipsoid

f64 = torch.float64


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def projection(z: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """Nearest point of the solid ellipsoid: y = z a^2 / (a^2 + m) with m >= 0 the root of sum (y / a)^2 = 1."""
    if ((z / axes) ** 2).sum() <= 1:
        return z

    def excess(m: float) -> float:
        return float(((z * axes / (axes**2 + m)) ** 2).sum() - 1)

    root = brentq(excess, 0.0, np.linalg.norm(z * axes), xtol=1e-300, rtol=4 * np.finfo(float).eps)
    return z * axes**2 / (axes**2 + root)


@pytest.mark.parametrize("axes", [[1.0, 1.0], [0.3, 1.0, 2.5], [1e-4, 1.0], [1e3, 1.0, 1e-3, 10.0], list(range(1, 21))])
@pytest.mark.parametrize("reach", [0.1, 1.0, 30.0])
def test_prox_is_the_projection(axes: list[float], reach: float) -> None:
    potential = Ellipsoid(axes)
    z = reach * max(axes) * normal(50, len(axes))
    expected = torch.from_numpy(np.stack([projection(row, np.array(axes)) for row in z.numpy()]))
    for step in (1e-3, 1.0, 1e3):
        point = potential.prox(z, step).point
        assert ((point - expected).norm(dim=1) <= 1e-12 * (1 + expected.norm(dim=1))).all()


def test_equal_axes_give_the_ball() -> None:
    ball, ellipsoid = Ball(3, 2.0), Ellipsoid([2.0, 2.0, 2.0])
    x = 3 * normal(100, 3)
    for alpha, beta in ((1.0, 0.0), (0.4, 0.6), (0.0, 1.0)):
        torch.testing.assert_close(
            ellipsoid.decompose(x, alpha, beta).point, ball.decompose(x, alpha, beta).point, rtol=1e-13, atol=1e-13
        )
    torch.testing.assert_close(ellipsoid.prox_jacobian(x, 0.7), ball.prox_jacobian(x, 0.7), rtol=1e-12, atol=1e-12)


def test_the_map_goes_to_the_boundary_with_the_source_point_as_normal() -> None:
    axes = torch.tensor([0.3, 1.0, 2.5], dtype=f64)
    u = normal(100, 3)
    y = Ellipsoid(axes).brenier_map(u)
    torch.testing.assert_close((y / axes).norm(dim=1), torch.ones(100, dtype=f64), rtol=1e-14, atol=1e-14)
    gradient = y / axes.square()
    cosine = torch.nn.functional.cosine_similarity(gradient, u, dim=1)
    assert float((1 - cosine).abs().max()) < 1e-14


def test_the_flow_recovers_both_ends_at_every_time() -> None:
    flow = pf.ProximalFlow(Ellipsoid([0.3, 1.0, 2.5]), pf.schedules.Cosine())
    x0 = normal(100, 3)
    target = flow.transport(x0)
    for t in (0.0, 1e-6, 0.1, 0.5, 0.9, 1 - 1e-6):
        x = flow.interpolate(t, x0)
        torch.testing.assert_close(flow.recover_target(t, x), target, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        ([[1.0]], r"shape \(d,\), got \(1, 1\)"),
        ([1.0, 0.0], "positive finite"),
        ([1.0, float("nan")], "positive finite"),
    ],
)
def test_bad_axes_are_refused(axes: list[float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ellipsoid(axes)
