import math
from typing import Any

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.errors import ConvergenceWarning
from proxflow.measures import Gaussian
from proxflow.potentials import Discrete
from proxflow.semidiscrete import Fit, fit
from tests.marks import slow_beyond
from tests.semidiscrete.closed_forms import line_heights, line_masses
from tests.semidiscrete.sources import Interrupted, PlainNormal


def cloud(n: int, d: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ------------------------------------------------------------------ closed forms


@pytest.mark.usefixtures("noise_only")
@pytest.mark.parametrize("count", slow_beyond(2, [5, 60, 21]))
@pytest.mark.parametrize("equal", [True, False])
def test_on_the_line_the_true_cell_masses_are_what_the_fit_reports(count: int, equal: bool) -> None:
    points = np.linspace(-1.5, 1.5, count)
    weights = np.full(count, 1.0) if equal else 1 + np.abs(np.sin(np.arange(count)))
    weights /= weights.sum()
    result = fit(torch.tensor(points)[:, None], torch.tensor(weights), max_samples=2_000_000)
    mass = line_masses(points, result.potential.heights.numpy())
    true_chi2 = float(((mass - weights) ** 2 / weights).sum())
    assert result.converged
    assert true_chi2 <= result.tol
    assert result.chi2 == pytest.approx(true_chi2, abs=4 * result.chi2_stderr)
    # counts of the last evaluation, of 2^14 draws at the least: five standard deviations of each
    assert np.all(np.abs(result.cell_mass.numpy() - mass) <= 5 * np.sqrt(mass / 2**14))


@pytest.mark.usefixtures("noise_only")
def test_heights_of_a_symmetric_grid_are_sums_of_normal_quantiles() -> None:
    points = np.arange(-3.0, 4.0)
    weights = np.full(7, 1 / 7)
    result = fit(torch.tensor(points)[:, None], tol=1e-4)
    heights = result.potential.heights.numpy()
    exact = line_heights(points, weights)
    # relative mass errors are below sqrt(tol), and a quantile of level p moves by dp / density
    assert heights - heights.mean() == pytest.approx(exact - exact.mean(), abs=0.02)


@pytest.mark.usefixtures("noise_only")
@pytest.mark.parametrize("upper", [0.02, 0.3, 0.5, 0.9])
def test_two_atoms_are_cut_at_a_normal_quantile(upper: float) -> None:
    a = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64)
    result = fit(torch.stack([-a, a]), torch.tensor([1 - upper, upper]), tol=1e-3)
    mass = line_masses(np.array([-1.0, 1.0]), result.potential.heights.numpy())
    assert mass[1] == pytest.approx(upper, abs=math.sqrt(1e-3 * upper * (1 - upper)))


def test_one_atom_is_exact() -> None:
    point = torch.tensor([[3.0, 4.0]] * 5, dtype=torch.float64)
    result = fit(point)
    assert (result.chi2, result.chi2_stderr, result.samples_used, result.converged) == (0.0, 0.0, 0, True)
    assert result.transport_cost == pytest.approx(2 + 25)
    assert result.transport_cost_interval == pytest.approx((27, 27))
    assert result.atom_of_row.tolist() == [0] * 5
    assert result.cell_mass.tolist() == [1.0]


def test_the_cost_of_one_atom_is_of_the_draws_of_its_seed() -> None:
    point = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    source = PlainNormal(2)
    costs = [fit(point, source=source, seed=seed).transport_cost for seed in (0, 0, 7)]
    assert costs[0] == costs[1] != costs[2]


# ------------------------------------------------------------------ symmetries


def test_scaling_the_data_scales_the_heights() -> None:
    points = cloud(60, 4)
    plain, scaled = fit(points), fit(1024 * points)
    torch.testing.assert_close(scaled.potential.heights, 1024 * plain.potential.heights, rtol=1e-9, atol=1e-9)
    assert scaled.samples_used == plain.samples_used
    assert scaled.chi2 == plain.chi2


def test_shifting_the_data_leaves_the_heights() -> None:
    points = cloud(60, 4)
    plain, shifted = fit(points), fit(points + 500.0)
    torch.testing.assert_close(shifted.potential.heights, plain.potential.heights, rtol=0, atol=2e-3)
    assert torch.equal(shifted.cell_mass.argsort()[-3:], plain.cell_mass.argsort()[-3:])


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_float32_data_of_any_scale_converge(scale: float) -> None:
    result = fit((scale * cloud(60, 4)).float())
    assert result.converged
    assert result.potential.heights.dtype == torch.float32
    assert result.cell_mass.dtype == torch.float64


@pytest.mark.usefixtures("noise_only")
def test_duplicates_give_the_fit_of_the_weighted_atoms() -> None:
    points = cloud(30, 2)
    rows = torch.cat([points, points[:10]])
    weights = torch.where(torch.arange(30) < 10, 2.0, 1.0)
    merged, weighted = fit(rows), fit(points, weights)
    assert torch.equal(merged.potential.heights, weighted.potential.heights)
    assert torch.equal(merged.potential.points[merged.atom_of_row], rows)


# ------------------------------------------------------------------ efficiency and certificate


@pytest.mark.slow
@pytest.mark.parametrize(("count", "dim"), [(1500, 32), (1000, 128)])
def test_few_draws_per_atom_are_enough(count: int, dim: int) -> None:
    result = fit(cloud(count, dim))
    assert result.converged
    assert result.chi2 * result.samples_used / count <= 2.0


def test_the_certificate_holds_on_draws_of_another_stream() -> None:
    result = fit(cloud(300, 8))
    noise = torch.randn(200_000, 8, generator=torch.Generator().manual_seed(77), dtype=torch.float64)
    assert isinstance(result.potential, Discrete)
    counts = torch.bincount(result.potential.nearest_atom(noise), minlength=300).double()
    n = float(counts.sum())
    chi2 = float((counts.square() - counts).sum()) * 300 / (n * (n - 1)) - 1
    stderr = math.sqrt(2 * 299 / (n * (n - 1)) + 4 * result.tol / n)
    assert result.chi2 == pytest.approx(chi2, abs=4 * math.hypot(stderr, result.chi2_stderr))


def test_the_record_is_consistent() -> None:
    result = fit(cloud(200, 6), seed=5)
    assert result.chi2 + 2 * result.chi2_stderr <= result.tol == 1e-2
    assert 2 * result.chi2_stderr <= 0.3 * result.tol
    assert float(result.cell_mass.sum()) == pytest.approx(1)
    used = [evaluation.samples_used for evaluation in result.history]
    assert used == sorted(used)
    assert used[-1] == result.samples_used
    assert (result.history[-1].chi2, result.history[-1].chi2_stderr) == (result.chi2, result.chi2_stderr)
    assert result.evaluation_samples > 0
    assert result.seed == 5


def test_the_same_seed_gives_the_same_fit_and_no_global_draw_is_made() -> None:
    points = cloud(50, 4)
    before = torch.random.get_rng_state()
    first, again, other = fit(points, seed=1), fit(points, seed=1), fit(points, seed=2)
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first.potential.heights, again.potential.heights)
    assert (first.chi2, first.transport_cost) == (again.chi2, again.transport_cost)
    assert not torch.equal(first.potential.heights, other.potential.heights)


def test_little_memory_gives_a_fit_of_the_same_quality() -> None:
    result = fit(cloud(200, 6), max_memory=2**17)
    assert result.converged


# ------------------------------------------------------------------ stopping early, starting warm


def test_the_sample_cap_warns_and_reports() -> None:
    with pytest.warns(ConvergenceWarning, match="max_samples"):
        result = fit(cloud(500, 6), max_samples=10_000)
    assert not result.converged
    assert result.samples_used <= 10_000 + 1024
    assert result.chi2 > result.tol


@pytest.mark.parametrize("call", [3, 20, 200])
def test_ctrl_c_returns_the_best_so_far(call: int) -> None:
    with pytest.warns(ConvergenceWarning):
        result = fit(cloud(500, 6), source=Interrupted(6, call))
    assert isinstance(result, Fit)
    assert not result.converged
    assert torch.isfinite(result.potential.heights).all()
    assert result.chi2_stderr > 0
    assert 0 < result.samples_used < 1 << 17  # the least that an uninterrupted fit uses


@pytest.mark.parametrize("as_fit", [True, False])
def test_a_warm_start_begins_at_the_given_heights(as_fit: bool) -> None:
    points = cloud(300, 6)
    finished = fit(points)
    with pytest.warns(ConvergenceWarning):
        cold = fit(points, max_samples=6000, tol=1e-3)
    with pytest.warns(ConvergenceWarning):
        warm = fit(points, max_samples=6000, tol=1e-3, warm_start=finished if as_fit else finished.potential.heights)
    assert warm.chi2 < 0.7 * cold.chi2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tol": 0.0}, "tol"),
        ({"tol": torch.nan}, "tol"),
        ({"max_samples": 0}, "max_samples"),
        ({"source": Gaussian(4)}, "dimension 4"),
        ({"warm_start": torch.zeros(7)}, "warm_start.*8"),
        ({"warm_start": torch.full((8,), torch.nan)}, "warm_start.*finite"),
    ],
)
def test_bad_options_are_refused_by_name(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        fit(cloud(8, 2), **options)


@pytest.mark.usefixtures("noise_only")
def test_progress_is_silent_off_a_terminal_and_speaks_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    fit(cloud(20, 2))
    assert capsys.readouterr() == ("", "")
    fit(cloud(20, 2), progress=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "chi2" in captured.err


def test_a_dataset_is_not_its_points() -> None:
    with pytest.raises(ValueError, match=r"got Dataset; give its \.points"):
        fit(pf.data.load("moons", n=10))  # type: ignore[arg-type]


def test_far_from_the_tolerance_few_draws_say_so() -> None:
    """The certificate of what was cut short needs the precision of its own chi2, not that of the tolerance."""
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(ConvergenceWarning) as warned:
        cut = fit(points, tol=1e-5, max_samples=20_000)
    assert warned[0].filename == __file__
    assert cut.chi2 - 5 * cut.chi2_stderr > 1e-5
    assert cut.chi2_stderr < 0.5 * cut.chi2
    assert cut.evaluation_samples < 1_000_000


def test_interrupted_before_any_look_few_draws_say_how_far_it_is() -> None:
    points = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    with pytest.warns(ConvergenceWarning):
        cut = fit(points, tol=1e-5, source=Interrupted(6, 20))
    assert cut.chi2_stderr < 0.5 * cut.chi2
    assert cut.evaluation_samples < 1_000_000
