"""Antithetic noise: exactly normal, its variance as told, and fits as good as with independent draws."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from scipy import integrate, stats
from scipy.special import owens_t
from torch import Tensor

from proxflow.kernels.signed_sums import hadamard_signs
from proxflow.measures import Gaussian, Uniform
from proxflow.semidiscrete import descent, fit
from proxflow.semidiscrete.antithetic import antithetic_inflation, frame_size, most_parts, parts_for, random_frame
from proxflow.semidiscrete.certificate import mass_error, mass_error_of_batches
from proxflow.semidiscrete.descent import Descent
from proxflow.semidiscrete.problem import SemiDual
from proxflow.symmetry import HorizontalFlip, Shifts
from tests.marks import slow_beyond

f64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def equal_weights(count: int) -> Tensor:
    return torch.full((count,), 1 / count, dtype=f64)


def cloud(count: int, dim: int) -> Tensor:
    return torch.randn(count, dim, generator=seeded(3), dtype=f64)


def exact_inflation(weight: float, dim: int, parts: int) -> float:
    """By the probability that two normal vectors fall into one half-space (Owen's T), whose normal is random.

    Where they agree in half of the parts, the normal's share in these has the law Beta(d / 4, d / 4).
    """
    h, shares = stats.norm.isf(weight), stats.beta(dim / 4, dim / 4)

    def excess(share: float) -> float:
        r = 2 * share - 1
        return float((weight - 2 * owens_t(h, ((1 - r) / (1 + r)) ** 0.5) - weight**2) * shares.pdf(share))

    mean = integrate.quad(excess, 0, 1, epsabs=1e-18, limit=400)[0]
    return float(1 - weight + (2 * parts - 2) * mean / weight)


@pytest.mark.parametrize(("weight", "dim", "parts"), [(1e-2, 16, 2), (1e-3, 64, 4), (0.2, 40, 2), (1e-5, 256, 16)])
def test_the_inflation_is_that_of_half_spaces(weight: float, dim: int, parts: int) -> None:
    found = antithetic_inflation(torch.full((3,), weight, dtype=f64), dim, parts)
    assert found == pytest.approx(exact_inflation(weight, dim, parts), rel=1e-5)


def test_images_are_near_the_others_as_often_as_near_their_own() -> None:
    whole, image = (torch.full((3,), weight, dtype=f64) for weight in (0.02, 0.005))
    excess = antithetic_inflation(image, 40, 2) - (1 - 0.005)
    assert antithetic_inflation(whole, 40, 2, 4) == pytest.approx(1 - 0.005 + 4 * excess, rel=1e-12)
    assert excess > 0.01


def test_counts_of_half_spaces_vary_as_told() -> None:
    """Half-spaces of random directions, by vectors of few dimensions, in which the loss is large."""
    weight, dim, parts, vectors = 0.02, 8, 4, 20_000
    directions = torch.nn.functional.normalize(cloud(1000, dim), dim=1)
    drawn = torch.randn(vectors, dim, generator=seeded(), dtype=f64)
    hits = torch.zeros(vectors, 1000)
    for signs in hadamard_signs(parts).repeat_interleave(dim // parts, dim=1):
        hits += (drawn * signs) @ directions.mT > stats.norm.isf(weight)
    found = float(hits.double().var(0).mean()) / (2 * parts * weight)
    told = antithetic_inflation(torch.tensor([weight], dtype=f64), dim, parts)
    assert told > 1.3
    assert found == pytest.approx(told - weight, rel=0.05)  # a draw and its opposite are never both there


@pytest.mark.parametrize(
    ("count", "dim", "parts"),
    [(1797, 64, 4), (60_000, 784, 16), (50, 5, 1), (100, 24, 2), (10_000, 3072, 16), (1797, 61, 4), (3, 784, 16)],
)
def test_parts_of_at_least_a_dozen_coordinates_lose_little(count: int, dim: int, parts: int) -> None:
    assert most_parts(equal_weights(count), dim, dim) == parts
    assert antithetic_inflation(equal_weights(count), dim, parts) < 1.1
    size = frame_size(dim, parts)
    assert size % parts == 0
    assert size <= 512
    assert -dim % size < parts * -(-dim // 512)


def test_few_draws_are_of_fewer_parts() -> None:
    assert [parts_for(draws, 16) for draws in (256, 512, 992, 1024, 10_000, 32)] == [4, 8, 8, 16, 16, 1]
    assert parts_for(10_000, 2) == 2


def test_a_frame_is_orthogonal_and_always_the_same() -> None:
    frame = random_frame(48, torch.empty(0, dtype=f64))
    torch.testing.assert_close(frame @ frame.mT, torch.eye(48, dtype=f64))
    assert torch.equal(frame, random_frame(48, torch.empty(0, dtype=f64)))
    assert float(frame.abs().max()) < 0.7


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize(("dim", "parts"), [(5, 1), (30, 2), (600, 16)])
def test_masses_are_those_of_independent_draws(dim: int, parts: int, dtype: torch.dtype) -> None:
    """Within their errors; by vectors that a step would draw."""
    points = cloud(20, dim).to(dtype) + 0.5
    problem = SemiDual(points, equal_weights(20), Gaussian(dim), 0.0, 1 << 28)
    problem.search_in(dtype)
    heights = 0.1 * torch.randn(20, generator=seeded(1), dtype=f64)
    draws = 1 << 16
    found = problem.antithetic_mass(draws, heights, parts, seeded(2))
    alone = problem.count(problem.noise(draws, seeded(4)), heights).mass
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    error = (2.6 * alone.clamp(min=1e-4) / draws).sqrt()
    assert float(((found - alone) / error).abs().max()) < 4.5
    assert float(((found - equal_weights(20)) / error).abs().max()) > 20


def test_chi2_on_the_way_is_that_of_independent_draws_within_its_standard_error() -> None:
    points, weights = cloud(300, 60), equal_weights(300)
    problem = SemiDual(points, weights, Gaussian(60), 0.0, 1 << 28)
    steps = Descent(problem)
    assert steps.parts == 4
    heights = 0.02 * torch.randn(300, generator=seeded(1), dtype=f64)
    truth = mass_error(problem.count(problem.noise(1 << 19, seeded(2)), heights), weights)
    found = []
    for seed in range(100):
        generator = seeded(3 + seed)
        masses = (steps.mass(256, heights, generator) for _ in range(16))
        found.append(mass_error_of_batches(masses, 256, steps.inflation, weights))
    chi2, stderr = torch.tensor([(each.chi2, each.stderr) for each in found]).T
    spread = float(chi2.std())
    assert float(chi2.mean()) == pytest.approx(truth.chi2, abs=4 * math.hypot(spread / 10, truth.stderr))
    assert truth.chi2 > 20 * truth.stderr
    assert 0.75 * spread < float(stderr.mean()) < 1.35 * spread


def other_noise(_: object, batch: int) -> tuple[None, None]:
    return None, None


@pytest.mark.parametrize("dim", slow_beyond(1, [60, 8, 300]))
def test_fits_are_as_good_as_with_independent_noise(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = cloud(300, dim) * torch.arange(1, dim + 1, dtype=f64) ** -0.5
    options: dict[str, Any] = {"tol": 0.05, "max_samples": 24_000}
    antithetic = fit(points, **options)
    monkeypatch.setattr(descent, "_noise", other_noise)
    alone = fit(points, **options)
    assert alone.converged
    assert antithetic.converged
    assert not torch.equal(antithetic.potential.heights, alone.potential.heights)
    inflation = antithetic_inflation(equal_weights(300), dim, most_parts(equal_weights(300), dim, dim))
    assert antithetic.chi2 <= inflation * alone.chi2 + 3 * (antithetic.chi2_stderr + alone.chi2_stderr)
    low, high = alone.transport_cost_interval
    assert 2 * low - high <= antithetic.transport_cost <= 2 * high - low


def noise_of(points: Tensor, **changes: Any) -> tuple[int | None, object]:
    options: dict[str, Any] = {"source": Gaussian(points.shape[1]), "epsilon": 0.0, "max_memory": 1 << 28} | changes
    chosen = Descent(SemiDual(points, equal_weights(len(points)), **options))
    return chosen.parts, chosen.sharing


def test_where_noise_is_antithetic() -> None:
    points = cloud(300, 120)
    assert noise_of(points) == (8, None)
    assert noise_of(points, source=Uniform(120)) == (None, None)
    assert noise_of(points, symmetry=HorizontalFlip((1, 10, 12))) == (8, None)
    assert noise_of(points, symmetry=Shifts((1, 10, 12))) == (None, None)
    assert noise_of(points, epsilon=0.1)[0] is None
    assert noise_of(points, max_memory=4 * 300 * 120) == (8, None)
    assert noise_of(points, max_memory=4 * 300 * 120 - 1)[0] is None


def test_draws_of_a_step_are_whole_vectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where memory bounds them by no multiple of the draws of a vector."""
    asked: list[int] = []
    drawn = SemiDual.antithetic_mass

    def recorded(self: SemiDual, draws: int, heights: Tensor, parts: int, generator: torch.Generator) -> Tensor:
        assert parts == 4
        asked.append(draws)
        mass = drawn(self, draws, heights, parts, generator)
        assert float(mass.sum()) == pytest.approx(1, abs=1e-12)
        return mass

    monkeypatch.setattr(SemiDual, "antithetic_mass", recorded)
    fit(cloud(700, 200), tol=0.5, max_samples=140_000, max_memory=16 * 202 * 299)
    assert asked[0] == 256
    assert asked[-1] == 288
    assert all(draws % 32 == 0 for draws in asked)


@pytest.mark.slow
def test_a_change_of_parts_during_a_fit_changes_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Late steps have more parts than early ones; a fit with 4 in all is as good."""
    points = cloud(2100, 200)
    options: dict[str, Any] = {"tol": 0.05, "max_samples": 140_000}
    growing = fit(points, **options)
    monkeypatch.setattr(descent, "parts_for", lambda draws, most: 4)
    constant = fit(points, **options)
    assert not torch.equal(growing.potential.heights, constant.potential.heights)
    assert growing.chi2 <= 1.1 * constant.chi2 + 3 * (growing.chi2_stderr + constant.chi2_stderr)


@pytest.mark.parametrize(
    ("count", "batches"), [(15, {256}), (600, {256, 288}), (3000, {352, 512, 1024}), (20_000, {2496})]
)
def test_steps_grow_with_the_draws_where_there_are_many_atoms(count: int, batches: set[int]) -> None:
    """Few atoms need many steps: 15 in R^1 did not converge in 1.6M draws by steps of 1,024."""
    step = Descent(SemiDual(cloud(count, 4), equal_weights(count), Gaussian(4), 0.0, 1 << 28))
    assert {step.draws(moved) for moved in (0, 1 << 15, 1 << 16, 1 << 20)} == batches
