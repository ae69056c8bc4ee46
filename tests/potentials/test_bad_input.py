"""Closed-form potentials refuse bad arguments, and the message says which and why."""

from __future__ import annotations

import pytest
import torch

from proxflow.potentials import Ball, Product, Quadratic

EYE = torch.eye(2, dtype=torch.float64)
ZERO = torch.zeros(2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("mean", "covariance", "said"),
    [
        (ZERO, torch.tensor([[1.0, 0.3], [0.0, 1.0]]), r"not symmetric \(largest difference 0\.3\)"),
        (ZERO, torch.tensor([[1.0, 0.0], [0.0, -0.5]]), r"not positive semidefinite \(eigenvalue -0\.5\)"),
        (ZERO, torch.eye(3), r"expected mean \(d,\) and covariance \(d, d\), got \(2,\) and \(3, 3\)"),
        (torch.zeros(2, 1), EYE, r"got \(2, 1\) and \(2, 2\)"),
        (torch.tensor([torch.nan, 0.0]), EYE, "must be finite"),
        (ZERO, torch.tensor([[torch.inf, 0.0], [0.0, 1.0]]), "must be finite"),
        (torch.zeros(0), torch.zeros(0, 0), "dimension must be at least 1"),
    ],
)
def test_quadratic(mean: torch.Tensor, covariance: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Quadratic(mean, covariance)


def test_a_covariance_with_rounding_noise_is_accepted() -> None:
    factor = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    potential = Quadratic(torch.zeros(6), factor @ factor.mT)
    form = potential.second_epi_derivative(torch.zeros(1, 6), torch.zeros(1, 6))
    assert form.subspace_dimension.tolist() == [2]


@pytest.mark.parametrize("radius", [0.0, -1.0, float("nan"), float("inf")])
def test_ball_radius(radius: float) -> None:
    with pytest.raises(ValueError, match="radius must be a positive finite number"):
        Ball(3, radius)


def test_dimension() -> None:
    with pytest.raises(ValueError, match="dimension must be at least 1, got 0"):
        Ball(0)


def test_empty_product() -> None:
    with pytest.raises(ValueError, match="Product"):
        Product([])


@pytest.mark.parametrize(
    ("rotation", "shift", "said"),
    [
        (2 * EYE, None, "orthogonal"),
        (torch.eye(3), None, r"\(2, 2\)"),
        (EYE, torch.zeros(3), "shift"),
        (torch.full((2, 2), torch.nan), None, "orthogonal|finite"),
    ],
)
def test_rotation(rotation: torch.Tensor, shift: torch.Tensor | None, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Ball(2).rotate(rotation, shift)


@pytest.mark.parametrize("factor", [0.0, -2.0, float("nan"), float("inf")])
def test_scale(factor: float) -> None:
    with pytest.raises(ValueError, match="factor must be a positive finite number"):
        Ball(2).scale(factor)
