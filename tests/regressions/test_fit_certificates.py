"""What a fit says holds for the potential that it returns, in the dtype and space of the caller."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from benchmarks.fit_certificates import atom_weights, measure

from proxflow.errors import ConvergenceWarning
from proxflow.measures import Gaussian
from proxflow.potentials import Discrete, Entropic
from proxflow.semidiscrete import Fit, fit
from proxflow.semidiscrete.problem import SemiDual
from tests.marks import slow_beyond
from tests.semidiscrete.sources import PlainNormal


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def assert_certified(result: Fit, weights: torch.Tensor | None = None, draws: int = 200_000) -> None:
    """chi2 and masses by an argmax in float64 agree with what the fit says, within five standard errors."""
    wanted = atom_weights(result, weights)
    found = measure(result.potential, wanted, draws)
    assert result.chi2 == pytest.approx(found.chi2, abs=5 * math.hypot(found.stderr, result.chi2_stderr))
    mass = result.cell_mass
    counted = 1 << 14 if result.chi2_stderr > 0 else found.draws  # draws of a last evaluation, at the least
    error = (0.5 * (mass + found.mass) * (1 / found.draws + 1 / counted)).sqrt()
    assert bool(((found.mass - mass).abs() <= 6 * error + 2 / found.draws).all())


# ------------------------------------------------------------------ weights over many orders of magnitude


@pytest.mark.parametrize("lightest", slow_beyond(2, [1e-12, 1e-73, 1e-15, 1e-30, 1e-46]))
@pytest.mark.parametrize("dim", [2, 5])
def test_one_very_light_atom_leaves_the_others_theirs(lightest: float, dim: int) -> None:
    weights = torch.ones(30, dtype=torch.float64)
    weights[0] = lightest
    result = fit(normal(30, dim), weights)
    assert result.converged
    noise = normal(10_000, dim, seed=1)
    assert isinstance(result.potential, Discrete)
    assert len(torch.unique(result.potential.nearest_atom(noise))) == 29
    assert_certified(result, weights)


@pytest.mark.parametrize("dtype", slow_beyond(1, [torch.float32, torch.float64]))
def test_log_normal_weights_over_fifteen_orders_of_magnitude(dtype: torch.dtype) -> None:
    weights = torch.exp(6 * normal(500, seed=3, dtype=torch.float64))
    assert float(weights.max() / weights.min()) > 1e15
    result = fit(normal(500, 6).to(dtype), weights)
    wanted = atom_weights(result, weights)
    found = measure(result.potential, wanted)
    assert result.converged
    assert found.total_variation < 0.02
    assert_certified(result, weights)


def test_weights_of_a_smooth_fit_may_be_light_too() -> None:
    weights = torch.ones(30, dtype=torch.float64)
    weights[0] = 1e-12
    result = fit(normal(30, 5), weights, epsilon=0.3)
    assert result.converged
    assert isinstance(result.potential, Entropic)
    law = result.potential.atom_probabilities(normal(20_000, 5, seed=1)).double().mean(0)
    wanted = atom_weights(result, weights)
    assert float((law - wanted).square().div(wanted).sum()) < 0.03
    assert float(law[wanted.argmin()]) < 1e-10


def test_the_bound_on_light_atoms_holds_for_noise_that_is_not_normal() -> None:
    weights = torch.ones(30, dtype=torch.float64)
    weights[0] = 1e-12
    result = fit(normal(30, 5), weights, source=PlainNormal(5))
    assert result.converged
    assert_certified(result, weights)


# ------------------------------------------------------------------ points over many orders of magnitude


@pytest.mark.parametrize("far", slow_beyond(2, [1e6, 1e12, 1e4, 1e9]))
@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_a_far_row_hides_no_dimension_of_the_others(dim: int, far: float) -> None:
    points = normal(100, dim)
    points[0] = far
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = fit(points, tol=0.05, max_samples=400_000)
    assert_certified(result)
    if far <= 1e6:
        assert result.converged


@pytest.mark.parametrize("dtype", slow_beyond(1, [torch.float32, torch.float64]))
def test_small_data_around_an_offset_keep_their_extent(dtype: torch.dtype) -> None:
    """Table data of spread 1e-4 around 7, with columns that nearly depend on one another."""
    mixing = (
        torch.diag(torch.logspace(0, -2, 30, dtype=torch.float64))
        @ torch.linalg.qr(normal(30, 30, seed=2, dtype=torch.float64))[0]
    )
    points = (7 + 1e-4 * normal(569, 30, dtype=torch.float64) @ mixing).to(dtype)
    result = fit(points)
    assert result.converged
    assert_certified(result, draws=100_000)


def test_a_plane_in_float32_is_left_only_where_that_changes_no_cell() -> None:
    frame = torch.linalg.qr(normal(20, 20, seed=1, dtype=torch.float64))[0][:, :1]
    few = (normal(12, 1, dtype=torch.float64) @ frame.mT).float()
    exact = fit(few)
    assert exact.method == "quantiles"
    assert_certified(exact)
    judged = fit(few + 100, tol=0.05)
    assert_certified(judged)


def test_heights_that_float32_cannot_hold_stay_in_float64() -> None:
    line = normal(5000, 1)
    result = fit(line)
    assert result.potential.points.dtype == torch.float32
    assert result.potential.heights.dtype == torch.float64
    assert result.converged
    assert result.chi2 < 1e-9
    assert_certified(result, draws=20_000)
    u = normal(100, 1, seed=1)
    assert result.potential.brenier_map(u).dtype == torch.float32
    best = (u.double() @ line.double().mT - result.potential.heights[result.atom_of_row]).argmax(1)
    assert torch.equal(result.potential.brenier_map(u), line[best])


def test_cells_of_light_atoms_are_not_lost_to_float32_heights() -> None:
    points, weights = 7 + normal(60, 1), torch.exp(6 * normal(60, seed=5, dtype=torch.float64))
    result = fit(points, weights)
    assert result.converged
    assert result.chi2 < 1e-3


def test_numbers_of_a_potential_do_not_depend_on_where_its_points_are() -> None:
    """Queries of float32 data far from the origin are as right as float32 queries can be."""
    points = normal(200, 8).round(decimals=3)
    centred, heights = points.double(), 0.3 * normal(200, seed=1, dtype=torch.float64)
    offset = 4096.0
    moved = (points + offset).float()
    exact = Discrete(moved.double(), heights)
    single = Discrete(moved, heights.float())
    u = normal(5000, 8, seed=2)
    best = (u.double() @ moved.double().mT - heights).argmax(1)
    assert (single.nearest_atom(u) == best).double().mean() > 0.999
    assert torch.isfinite(centred).all()
    x = (0.5 * u + 0.5 * moved[best]).float()
    expected = exact.decompose(x.double(), 0.5, 0.5).point
    found = single.decompose(x, 0.5, 0.5)
    miss = (found.point.double() - expected).norm(dim=1)
    assert bool((miss <= found.error_bound.double()).all())


def test_centres_are_not_moved_by_one_height_or_point() -> None:
    """Heights of 1e11 on one atom, as of an empty cell, cost the others no digit."""
    points, heights = normal(40, 3), 0.3 * normal(40, seed=1)
    for far in (0.0, 1e11):
        heights[0] = 1e3 + far
        single = Discrete(points, heights)
        u = normal(4000, 3, seed=2)
        best = (u.double() @ points.double().mT - heights.double()).argmax(1)
        assert (single.nearest_atom(u) == best).double().mean() > 0.999
        smooth = Entropic(points.double(), heights.double(), 0.1)
        reference = torch.logsumexp((u.double() @ points.double().mT - heights.double()) / 0.1, 1) * 0.1
        torch.testing.assert_close(smooth.conjugate(u.double()), reference, rtol=1e-9, atol=1e-9)


# ------------------------------------------------------------------ draws are counted


class Counting(PlainNormal):
    """Counts the draws that are taken from it."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim)
        self.drawn = 0

    def sample(self, n: int, **options: Any) -> torch.Tensor:
        self.drawn += n
        return super().sample(n, **options)


@pytest.mark.parametrize(
    "options",
    [{}, {"epsilon": 0.5}, {"max_samples": 5000}, {"weights": torch.tensor([1e-9] + [1.0] * 39).double()}],
    ids=["plain", "smooth", "capped", "light"],
)
def test_every_draw_of_a_source_is_counted(options: dict[str, Any]) -> None:
    source = Counting(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = fit(normal(40, 4), source=source, **options)
    assert source.drawn == result.samples_used + result.evaluation_samples


@pytest.mark.parametrize("points", [normal(40, 2), normal(40, 4), torch.cat([normal(30, 2), 1e-13 * normal(30, 2)])])
def test_every_draw_of_normal_noise_is_counted(points: torch.Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = 0
    sample = Gaussian.sample

    def counted(self: Gaussian, n: int, **options: Any) -> torch.Tensor:
        nonlocal drawn
        drawn += n
        return sample(self, n, **options)

    def counted_antithetic(self: SemiDual, draws: int, *given: Any) -> torch.Tensor:
        nonlocal drawn
        drawn += draws
        return mass(self, draws, *given)

    mass = SemiDual.antithetic_mass
    monkeypatch.setattr(Gaussian, "sample", counted)
    monkeypatch.setattr(SemiDual, "antithetic_mass", counted_antithetic)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        result = fit(points, max_samples=20_000)
    assert drawn == result.samples_used + result.evaluation_samples


def test_counts_of_one_atom() -> None:
    source = Counting(3)
    result = fit(torch.ones(2, 3), source=source)
    assert source.drawn == result.samples_used + result.evaluation_samples
    assert np.isfinite(result.transport_cost)


# ------------------------------------------------------------------ light atoms close to others, other scales, resuming


@pytest.mark.parametrize("beside", [1e-8, -1e-8])
@pytest.mark.parametrize("lightest", [1e-7, 1e-10, 1e-14])
@pytest.mark.parametrize("dim", slow_beyond(1, [2, 3, 5]))
def test_a_light_atom_close_to_another_has_no_more_than_its_weight(dim: int, lightest: float, beside: float) -> None:
    """In float64, where the tie of float32 scores is broken, and by the potential's own queries."""
    points = normal(100, dim, seed=3)
    points[0] = 0.01
    points[1] = points[0]
    points[1, 0] += beside
    assert not torch.equal(points[0], points[1])
    weights = torch.ones(100, dtype=torch.float64)
    weights[0], weights[1] = 0.2, lightest
    result = fit(points, weights)
    assert result.converged
    assert_certified(result, weights)
    noise = normal(200_000, dim, seed=5)
    assert isinstance(result.potential, Discrete)
    own = torch.bincount(result.potential.nearest_atom(noise), minlength=100)
    light = int(result.atom_of_row[1])
    assert int(own[light]) <= 10 * max(1.0, lightest * len(noise))


@pytest.mark.slow
def test_a_fit_resumed_with_another_tolerance_is_judged_again(tmp_path: Path) -> None:
    points, weights = normal(100, 5), torch.ones(100, dtype=torch.float64)
    weights[:90] = 7e-5
    path = tmp_path / "run.safetensors"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        fit(points, weights, tol=0.01, checkpoint=path)
        again = fit(points, weights, tol=0.5, checkpoint=path)
    found = measure(again.potential, atom_weights(again, weights), 1_000_000)
    assert again.chi2 == pytest.approx(found.chi2, abs=5 * math.hypot(found.stderr, again.chi2_stderr))
    assert again.cell_mass[again.atom_of_row[:90]].sum() == pytest.approx(
        float(found.mass[again.atom_of_row[:90]].sum()), abs=1e-3
    )


@pytest.mark.parametrize(("scale", "dtype"), [(1e-300, torch.float64), (0.7e38, torch.float32), (1e200, torch.float64)])
def test_fits_at_the_ends_of_the_range_of_numbers(scale: float, dtype: torch.dtype) -> None:
    result = fit((scale * normal(30, 5, dtype=torch.float64)).to(dtype))
    low, high = result.transport_cost_interval
    assert result.converged
    assert not math.isnan(low)
    assert low <= high
    plain = fit(normal(30, 5, dtype=torch.float64))
    assert result.chi2 == pytest.approx(plain.chi2, abs=5 * math.hypot(result.chi2_stderr, plain.chi2_stderr))


@pytest.mark.parametrize("heights", [torch.float32, torch.float64])
def test_the_jacobian_does_not_depend_on_the_precision_of_the_heights(heights: torch.dtype) -> None:
    points, levels, x = normal(12, 3), 0.5 * normal(12, seed=1, dtype=torch.float64), 0.3 * normal(6, 3, seed=2)
    exact = Discrete(points.double(), levels).decompose_jacobian(x.double(), 0.5, 0.7)
    mixed = Discrete(points, levels.to(heights))
    torch.testing.assert_close(mixed.decompose_jacobian(x, 0.5, 0.7).double(), exact, rtol=1e-4, atol=1e-4)
    pair = mixed.decompose(x, 0.5, 0.7)
    rank = mixed.second_epi_derivative(pair.point, pair.multiplier).subspace_dimension
    assert torch.equal(rank, torch.linalg.matrix_rank(exact, atol=1e-3))


def test_the_support_of_a_large_potential_is_told_as_that_of_a_small_one() -> None:
    points, levels = normal(12, 3), 0.5 * normal(12, seed=1)
    small = Discrete(points, levels).smooth_support(points)
    large = Discrete(1e30 * points, 1e30 * levels).smooth_support(1e30 * points)
    assert torch.equal(small, large)
    assert len(torch.unique(small)) == 2
