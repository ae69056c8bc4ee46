"""Fits of the entropic semi-dual."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from proxflow.potentials import Entropic
from proxflow.semidiscrete import fit


def cloud(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def soft_masses(points: torch.Tensor, heights: torch.Tensor, weights: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Mean assignment probabilities of N(0, 1) noise, by Gauss-Hermite quadrature."""
    nodes, measure = np.polynomial.hermite_e.hermegauss(120)
    scores = torch.from_numpy(nodes)[:, None] * points[:, 0] - heights + epsilon * torch.log(weights)
    return torch.from_numpy(measure / measure.sum()) @ torch.softmax(scores / epsilon, dim=1)


@pytest.mark.parametrize("equal", [True, False])
@pytest.mark.parametrize("epsilon", [0.3, 2.0])
def test_soft_masses_on_the_line_agree_with_quadrature(equal: bool, epsilon: float) -> None:
    points = torch.linspace(-1.5, 1.5, 8, dtype=torch.float64)[:, None]
    weights = torch.ones(8).double() if equal else torch.arange(1.0, 9.0).double()
    result = fit(points, weights, epsilon=epsilon, tol=1e-3)
    potential = result.potential
    assert isinstance(potential, Entropic)
    assert result.converged
    assert result.epsilon == epsilon
    mass = soft_masses(points, potential.heights, potential.weights, epsilon)
    error = ((mass - weights / weights.sum()).square() / (weights / weights.sum())).sum()
    assert float(error) <= 1e-3
    assert result.chi2 == pytest.approx(float(error), abs=4 * result.chi2_stderr)
    assert torch.allclose(result.cell_mass, mass, atol=5 / math.sqrt(result.evaluation_samples))


def test_the_cost_is_that_of_the_flow() -> None:
    result = fit(cloud(30, 4), epsilon=0.5)
    noise = cloud(200_000, 4, seed=6)
    terms = (noise - result.potential.brenier_map(noise)).square().sum(1)
    stderr = float(terms.std()) / math.sqrt(len(terms))
    low, high = result.transport_cost_interval
    assert result.transport_cost == pytest.approx(float(terms.mean()), abs=4 * stderr + (high - low))


def test_little_smoothing_is_nearly_none() -> None:
    points = cloud(30, 4)
    smooth, sharp = fit(points, epsilon=1e-3, tol=1e-3), fit(points, tol=1e-3)
    difference = smooth.potential.heights - sharp.potential.heights
    assert float((difference - difference.mean()).abs().max()) < 0.05


def test_scale_of_data_and_smoothing_go_together() -> None:
    points = cloud(40, 5)
    plain, scaled = fit(points, epsilon=0.25), fit(64 * points, epsilon=16.0)
    torch.testing.assert_close(scaled.potential.heights, 64 * plain.potential.heights, rtol=1e-6, atol=1e-4)


@pytest.mark.parametrize("epsilon", [-1.0, math.nan, math.inf])
def test_bad_smoothing_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        fit(cloud(5, 2), epsilon=epsilon)


def test_inside_autocast_the_fit_is_the_same() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    outside = fit(points, epsilon=0.3, tol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fit(points, epsilon=0.3, tol=0.1)
    assert torch.equal(inside.potential.heights, outside.potential.heights)


def test_what_a_potential_makes_of_its_atoms_serves_many_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each question makes all atoms anew: of a few draws it would take longer than the answer."""
    asked: list[int] = []
    answer = Entropic.atom_probabilities

    def recorded(self: Entropic, u: torch.Tensor) -> torch.Tensor:
        asked.append(len(u))
        return answer(self, u)

    monkeypatch.setattr(Entropic, "atom_probabilities", recorded)
    fit(cloud(8_000, 3), epsilon=1.0, tol=0.5, max_samples=20_000)
    assert sum(asked) >= 4096
    assert sum(count < 512 for count in asked) <= 0.1 * len(asked)
