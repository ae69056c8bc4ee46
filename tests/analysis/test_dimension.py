"""Local dimensions against closed forms, the entropic potential's own derivative, and sets of known dimension."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.analysis.intrinsic_dimension.estimate import data_dimension
from proxflow.analysis.terminal.local_dimension import largest_posterior_weight, local_dimension
from proxflow.analysis.terminal.scale_law import scale_spectrum
from proxflow.analysis.terminal.terminal_spectrum import terminal_spectrum
from proxflow.potentials import Ball, Discrete, Entropic, Product, Quadratic
from proxflow.schedules import Cosine, Linear, Polynomial

f64 = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=f64)


def uniform(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=generator(seed), dtype=f64)


# ------------------------------------------------------------------ of a field


@pytest.mark.parametrize("schedule", [Linear(), Cosine(), Polynomial(2.5)], ids=str)
def test_a_gaussian_counts_each_direction_by_its_deviation(schedule: pf.schedules.Schedule) -> None:
    """tr D prox of scale lam: a direction of deviation s counts s / (s + lam)."""
    deviations = torch.tensor([0.0, 0.01, 0.5, 3.0], dtype=f64)
    flow = pf.ProximalFlow(Quadratic(torch.ones(4, dtype=f64), torch.diag(deviations**2)), schedule)
    for t in (0.2, 0.9, 0.999):
        time = torch.tensor(t, dtype=f64)
        scale = float(schedule.alpha(time) / schedule.beta(time))
        wanted = float((deviations / (deviations + scale)).sum())
        for field in (flow, lambda t, x: flow(t, x)):
            found = local_dimension(field, normal(3, 4), t, schedule=schedule)
            assert found.scale == pytest.approx(scale, rel=1e-12)
            torch.testing.assert_close(found.dimension, torch.full((3,), wanted, dtype=f64), rtol=0, atol=1e-9)
            assert (found.stderr == 0).all()
            assert found.probes == 0


def test_probes_estimate_the_trace_within_their_error() -> None:
    flow = pf.ProximalFlow(Product([Ball(20), Quadratic(torch.zeros(10, dtype=f64), torch.eye(10, dtype=f64))]))
    x = flow.interpolate(0.9, normal(6, 30))
    exact = local_dimension(flow, x, 0.9)
    probed = local_dimension(flow, x, 0.9, probes=50)
    assert ((probed.dimension - exact.dimension).abs() <= 5 * probed.stderr).all()
    # Hutchinson: twice the sum of squares off the diagonal, at most 2 (k^2 / d) of a projection of rank k
    assert (probed.stderr <= (2 * 30 / 50) ** 0.5).all()
    assert (probed.stderr > 0).all()


def test_high_dimension_takes_probes_by_itself() -> None:
    found = local_dimension(lambda t, x: (torch.zeros_like(x) - x) / (1 - t), normal(2, 300), 0.5)
    assert found.probes == 64
    assert found.dimension.abs().max() <= 1e-9
    assert found.below_spacing is None


def test_images_keep_their_shape_out() -> None:
    flow = pf.ProximalFlow(Ball(12))
    x = flow.interpolate(0.9, normal(5, 3, 2, 2))
    assert local_dimension(flow, x, 0.9).dimension.shape == (5,)


def circle(count: int, seed: int = 0) -> torch.Tensor:
    angle = 2 * math.pi * uniform(count, seed=seed)
    return torch.stack([angle.cos(), angle.sin(), torch.zeros_like(angle)], 1)


def test_exact_flows_of_finite_data_memorise_and_say_so() -> None:
    points = circle(50)
    fit = pf.semidiscrete.fit(points)
    flow = pf.ProximalFlow(fit.potential)
    found = local_dimension(flow, flow.interpolate(0.9, normal(20, 3, seed=1)), 0.9)
    assert found.dimension.abs().max() <= 1e-9
    assert found.below_spacing is not None
    assert found.below_spacing.all()


def test_smoothing_finds_the_circle_and_its_flag_follows_the_spacing() -> None:
    """docs/theory.md 6: -1 across the plane, the scale law along the radius, 0 along the circle."""
    fit = pf.semidiscrete.fit(circle(600), epsilon=0.05)
    flow = pf.ProximalFlow(fit.potential)
    x0 = normal(40, 3, seed=1)
    found = scale_spectrum(flow, x0, [0.9, 0.99])
    assert torch.isinf(found.eta[..., 0]).all()
    # von Mises law at kappa = |x0| / eps: Hess phi = (1 - A^2 - A / kappa) / eps along the radius, A / |x0| across
    length = x0[:, :2].norm(dim=1)
    kappa = length / 0.05
    mean = torch.special.i1e(kappa) / torch.special.i0e(kappa)
    seen = kappa > 8
    sharper = (0.05 / (1 - mean.square() - mean / kappa))[seen]
    # 600 atoms: a radial variance of about 100 of them is known to 15%, more on average
    assert ((found.eta[0, seen, 1] / sharper).log().mean().abs() < 0.2).all()
    assert ((found.eta[0, seen, 2] / (length / mean)[seen]).log().mean().abs() < 0.1).all()
    torch.testing.assert_close(found.eta[0], found.eta[1], rtol=1e-6, atol=0)
    at = local_dimension(flow, flow.interpolate(0.9, x0), 0.9)
    assert not at.below_spacing.any()
    rates = terminal_spectrum(flow, x0, [0.9]).rates[0]
    torch.testing.assert_close(at.dimension, 0.9 * (rates + 1).sum(1), rtol=1e-9, atol=1e-9)
    sharp = pf.ProximalFlow(Entropic(fit.potential.points, fit.potential.heights, 1e-6))
    low = local_dimension(sharp, sharp.interpolate(0.9, x0), 0.9)
    assert low.below_spacing.double().mean() > 0.9
    assert low.dimension[low.below_spacing].median() < 0.1


def test_the_calculus_hands_the_flag_on() -> None:
    fit = Discrete(circle(9), torch.zeros(9, dtype=f64))
    turn = torch.linalg.qr(normal(5, 5, seed=2))[0]
    flow = pf.ProximalFlow(Product([fit.scale(2.0), Ball(2)]).rotate(turn, torch.ones(5, dtype=f64)))
    assert local_dimension(flow, flow.interpolate(0.9, normal(6, 5)), 0.9).below_spacing.all()
    smooth = pf.ProximalFlow(Product([Ball(3).scale(2.0), Ball(2)]).rotate(turn))
    assert not local_dimension(smooth, smooth.interpolate(0.9, normal(6, 5)), 0.9).below_spacing.any()


def test_a_bare_callable_is_judged_by_its_training_data() -> None:
    points = circle(100)
    x0 = normal(10, 3, seed=3)
    for t, memorised in ((0.5, False), (0.999, True)):
        x = (1 - t) * x0 + t * points[:10]
        found = local_dimension(lambda t, x: -x, x, t, points=points)
        assert (found.below_spacing == memorised).double().mean() >= 0.9


def flagged(points: torch.Tensor, x: torch.Tensor, t: float) -> torch.Tensor:
    found = local_dimension(lambda t, x: -x, x, t, points=points).below_spacing
    assert found is not None
    return found


def test_a_row_that_is_given_twice_is_one_atom() -> None:
    points, t = circle(100), 0.99
    x = (1 - t) * normal(100, 3, seed=3) + t * points
    once = flagged(points, x, t)
    assert 10 < int(once.sum()) < 90
    assert torch.equal(flagged(points.repeat(2, 1), x, t), once)
    # two atoms, of which one counts three times: posterior odds of 3 exp(2 w) at w from their middle
    pair = torch.tensor([[0.0], [1.0], [1.0], [1.0]], dtype=f64)
    middle, alpha = 0.25, torch.tensor(0.5, dtype=f64)
    for offset, share in ((0.0, 0.75), (-math.log(3), 0.5)):
        found = largest_posterior_weight(torch.tensor([[middle + offset / 2]], dtype=f64), pair, alpha, 1 - alpha)
        assert float(found) == pytest.approx(share, rel=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, f64], ids=str)
def test_the_flag_does_not_move_with_the_origin(dtype: torch.dtype) -> None:
    """At a shift the rounding of x itself is 1e-7 of it: far below alpha in both."""
    base, t = 3 * normal(60, 2, seed=1), 0.98
    shift = 1e4 if dtype == torch.float32 else 1e9
    x = (1 - t) * normal(60, 2, seed=2) + t * base
    found = flagged((base + shift).to(dtype), (x + t * shift).to(dtype), t)
    assert torch.equal(found, flagged(base, x, t))
    assert found.all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t": 0.0}, "times must be"),
        ({"t": torch.tensor([0.2, 0.4])}, "t must be one time"),
        ({"probes": 1}, "probes must be"),
        ({"points": torch.zeros(4, 2, dtype=f64)}, "points must be"),
        ({"x": torch.zeros(2, 4, dtype=f64)}, "3 entries per row"),
        ({"schedule": Cosine()}, "the flow has the schedule"),
    ],
)
def test_bad_arguments_are_refused(options: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"field": pf.ProximalFlow(Ball(3)), "x": normal(2, 3), "t": 0.5} | options
    with pytest.raises(ValueError, match=message):
        local_dimension(**arguments)


# ------------------------------------------------------------------ of raw data


def test_the_sweep_is_the_derivative_of_an_entropic_brenier_map() -> None:
    points = normal(40, 3, seed=4)
    scales = [0.05, 0.3, 1.0]
    found = data_dimension(points, scales)
    for row, scale in enumerate(scales):
        potential = Entropic(points, 0.5 * points.square().sum(1), scale**2)
        derivative = potential.decompose_jacobian(points, 1.0, 0.0)
        trace = derivative.diagonal(dim1=1, dim2=2).sum(1)
        torch.testing.assert_close(found.trace[row], trace, rtol=1e-7, atol=1e-7)
        # the same without the own atom: its softmax weight p, and what the map moves a data point
        moved = (potential.brenier_map(points) - points).square().sum(1) / scale**2
        squares = torch.cdist(points, points).square()
        own = 1 / torch.exp(-0.5 * squares / scale**2).sum(1)
        seen = own < 0.9
        wanted = (trace + moved) / (1 - own)
        torch.testing.assert_close(found.pointwise[row, seen], wanted[seen], rtol=1e-6, atol=1e-6)
        assert torch.equal(found.below_spacing[row], own > 0.5)


def sphere(count: int) -> torch.Tensor:
    points = normal(count, 17, seed=5)
    return points / points.norm(dim=1, keepdim=True) @ torch.linalg.qr(normal(64, 17, seed=6))[0].T


def circles(count: int) -> torch.Tensor:
    angles = 2 * math.pi * uniform(count, 8, seed=7)
    return torch.stack([angles.cos(), angles.sin()], 2).flatten(1)


def noisy_plane(count: int) -> torch.Tensor:
    plane = normal(count, 5, seed=8) @ torch.linalg.qr(normal(50, 5, seed=9))[0].T
    return plane + 0.01 * normal(count, 50, seed=10)


def swiss_roll(count: int) -> torch.Tensor:
    angle, height = 1.5 * math.pi * (1 + 2 * uniform(count, seed=11)), 21 * uniform(count, seed=12)
    return torch.stack([angle * angle.cos(), height, angle * angle.sin()], 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    # best mean absolute error over points of MLE, TwoNN, lPCA and ESS (scikit-dimension 0.5, 20 and 100 neighbours),
    # and .05 more
    ("points", "dimension", "allowed"),
    [(sphere, 16, 0.293 + 0.05), (circles, 8, 0.946 + 0.05), (noisy_plane, 5, 0.05), (swiss_roll, 2, 0.05)],
    ids=["sphere", "circles", "noisy plane", "swiss roll"],
)
def test_dimensions_of_four_sets_are_as_good_as_the_best_of_the_peers(
    points: Callable[..., Any], dimension: int, allowed: float
) -> None:
    found = data_dimension(points(2000))
    assert (found.dimension - dimension).abs().mean() <= allowed
    if dimension != 8:
        assert (found.rounded == dimension).all()


def test_pieces_of_different_dimension_are_told_apart() -> None:
    line, plane = normal(500, 1, seed=13), uniform(500, 2, seed=14)
    zero = torch.zeros(500, 1, dtype=f64)
    points = torch.cat([torch.cat([line, zero, zero], 1), torch.cat([plane + 5, zero], 1)])
    shuffle = torch.randperm(1000, generator=generator(15))
    found = data_dimension(points[shuffle])
    assert torch.equal(found.rounded, torch.where(shuffle < 500, 1.0, 2.0).double())
    assert len(found.patch.unique()) == 2


def test_the_estimate_ignores_units_rotation_place_and_repetition() -> None:
    points = swiss_roll(400)
    found = data_dimension(points)
    turned = 1e3 * points.reshape(400, 1, 3) @ torch.linalg.qr(normal(3, 3, seed=16))[0] + 1e4
    again = data_dimension(turned.repeat(2, 1, 1))
    torch.testing.assert_close(again.scales[:, :400], 1e3 * found.scales, rtol=1e-6, atol=0)
    torch.testing.assert_close(again.dimension[:400], found.dimension, rtol=1e-4, atol=1e-4)
    assert torch.equal(again.patch[:400], again.patch[400:])


def test_scales_below_the_spacing_are_flagged_and_give_no_dimension() -> None:
    points = torch.cartesian_prod(*[torch.arange(20, dtype=f64)] * 2)
    found = data_dimension(points, [0.01, 0.02, 0.05])
    assert found.below_spacing.all()
    assert found.trace.abs().max() <= 1e-9
    assert torch.isnan(found.dimension).all()
    assert not data_dimension(points, [2.0]).below_spacing.any()


def test_float32_points_are_taken() -> None:
    points = swiss_roll(300)
    low = data_dimension(points.float())
    torch.testing.assert_close(low.dimension, data_dimension(points).dimension, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"points": torch.zeros(5, dtype=f64)}, "points must be"),
        ({"points": torch.zeros(5, 2, dtype=torch.int64)}, "points must be"),
        ({"points": torch.ones(5, 2, dtype=f64)}, "at least 3 distinct rows, got 1"),
        ({"points": torch.full((5, 2), torch.nan, dtype=f64)}, "5 rows of points hold NaN or inf"),
        ({"scales": [0.1, -1.0]}, "scales must be"),
        ({"scales": [0.2, 0.1]}, "scales must be increasing"),
        ({"max_memory": 0}, "max_memory must be"),
    ],
)
def test_bad_data_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data_dimension(**({"points": normal(10, 2)} | options))
