"""Queries without an answer, projections, huge weights, and arguments that are changed afterwards."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from proxflow.potentials import Ball, Discrete, Ellipsoid, Entropic, Potential, SymmetricDiscrete
from proxflow.symmetry import Group

EYE = torch.eye(2, dtype=torch.float64)
ZERO = torch.zeros(2, dtype=torch.float64)
POTENTIALS: dict[str, Callable[[], Potential]] = {
    "ball": lambda: Ball(2, 1.0),
    "ellipsoid": lambda: Ellipsoid([1.0, 2.0]),
    "atoms": lambda: Discrete(EYE, ZERO),
    "atoms and images": lambda: SymmetricDiscrete(EYE[:1], ZERO[:1], Group(torch.stack([EYE, -EYE]))),
}


@pytest.mark.parametrize("name", POTENTIALS)
def test_a_query_of_nan_is_answered_by_nan_and_one_of_infinity_is_off_the_domain(name: str) -> None:
    potential = POTENTIALS[name]()
    y = torch.tensor([[0.5, 0.5], [math.nan, 0.0], [math.inf, 0.0]], dtype=torch.float64)
    y[0] = potential.brenier_map(y[:1])[0]
    value, conjugate, images = potential.value(y), potential.conjugate(y), potential.brenier_map(y)
    assert value.tolist() == [pytest.approx(0, abs=1e-12), pytest.approx(math.nan, nan_ok=True), math.inf]
    assert conjugate.isnan().tolist()[:2] == [False, True]
    assert images.isnan().all(1).tolist() == [False, True, True]


@pytest.mark.parametrize("name", POTENTIALS)
def test_the_multiplier_of_a_projection_is_nan(name: str) -> None:
    """Inside, on and outside of the domain alike, as ``ProxResult`` says."""
    y = torch.tensor([[0.0, 0.0], [0.5, 0.5], [3.0, 4.0]], dtype=torch.float64)
    pair = POTENTIALS[name]().decompose(y, 0.0, 1.0)
    assert pair.point.isfinite().all()
    assert pair.multiplier.isnan().all()
    mixed = POTENTIALS[name]().decompose(y, torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64), 1.0)
    assert mixed.multiplier.isnan().all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("size", [2e38, 1e-44])
def test_weights_may_be_of_any_size(size: float) -> None:
    weights = size * torch.tensor([1.0, 1.0])
    assert Discrete(EYE.float(), ZERO.float(), weights).weights.tolist() == [0.5, 0.5]
    smoothed = Entropic(EYE.float(), ZERO.float(), 0.1, weights)
    torch.testing.assert_close(smoothed.brenier_map(torch.zeros(1, 2)), torch.full((1, 2), 0.5))


def test_semi_axes_are_the_ellipsoids_own() -> None:
    axes = torch.tensor([1.0, 2.0])
    potential = Ellipsoid(axes)
    axes.zero_()
    assert potential.semi_axes.tolist() == [1.0, 2.0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "beta"), [(1.0, 0.0), (1.0, 1e-12), (1e12, 0.5), (1e25, 0.5)])
def test_the_bound_of_a_mean_of_atoms_is_within_their_extent(size: float, beta: float, dtype: torch.dtype) -> None:
    """It was infinite at the start of a flow, and 1e12 far out."""
    generator = torch.Generator().manual_seed(0)
    points, heights = 3 + torch.randn(20, 3, generator=generator), 0.1 * torch.randn(20, generator=generator)
    x = size * torch.randn(50, 3, generator=generator, dtype=dtype)
    pair = Discrete(points.to(dtype), heights.to(dtype)).decompose(x, 1 - beta, beta)
    assert float(pair.error_bound.max()) <= 2.1 * float(torch.cdist(points, points).max())
