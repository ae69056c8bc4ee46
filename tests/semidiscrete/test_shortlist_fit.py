"""Fits on shortlists: against linear programmes, fits to all pairs, and counts of fresh draws by public calls."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import scipy.optimize
import scipy.sparse
import torch
from torch import Tensor

import proxflow as pf
from proxflow.checks import STORED
from proxflow.errors import ConvergenceWarning
from proxflow.potentials import Shortlisted
from proxflow.semidiscrete import ShortlistedFit, fit, fit_shortlisted
from proxflow.semidiscrete.atom_groups import equal_groups
from tests.marks import slow_beyond
from tests.semidiscrete.sources import PlainNormal

f64 = torch.float64
ROUGH: dict[str, Any] = {"tol": 0.05, "progress": False}


def cloud(count: int, dim: int, seed: int = 0, dtype: torch.dtype = f64) -> Tensor:
    """Clusters, so that groups are worth something."""
    generator = torch.Generator().manual_seed(seed)
    centres = 2 * torch.randn(7, dim, generator=generator, dtype=f64)
    return (centres[torch.arange(count) % 7] + torch.randn(count, dim, generator=generator, dtype=f64)).to(dtype)


def counted_chi2(potential: Shortlisted, weights: Tensor, draws: int = 400_000) -> tuple[float, float]:
    """chi2 of the masses that fresh draws count, less its bias, and the standard error without true deviations."""
    counts = torch.zeros(len(weights), dtype=f64)
    generator = torch.Generator().manual_seed(99)
    for part in [50_000] * (draws // 50_000):
        noise = torch.randn(part, potential.dim, generator=generator, dtype=potential.points.dtype)
        counts += torch.bincount(potential.nearest_atom(noise), minlength=len(weights))
    excess = (counts / draws - weights).square() - weights * (1 - weights) / draws
    return float((excess / weights).sum()), (2 * len(weights)) ** 0.5 / draws


def test_the_cost_is_that_of_the_linear_programme_on_the_allowed_pairs() -> None:
    points, weights = cloud(60, 4), torch.linspace(1, 2, 60, dtype=f64)
    rows = torch.randn(1500, 4, generator=torch.Generator().manual_seed(5), dtype=f64)
    source = pf.measures.Empirical(rows)
    result = fit_shortlisted(points, weights, count=2, source=source, tol=1e-2, progress=False)
    potential = result.potential
    scores = rows @ potential.centres.double().mT - potential.levels.double()
    allowed = (scores >= scores.topk(2, dim=1).values[:, -1:])[:, potential.group]
    shares = weights / weights.sum()
    restricted = programme(rows, points, shares, allowed)
    every = programme(rows, points, shares, torch.ones_like(allowed))
    low, high = result.transport_cost_interval
    squares = rows.square().sum(1).mean() + shares @ points.square().sum(1)
    dual = float(squares - 2 * (potential.conjugate(rows).mean() + shares @ potential.heights))
    assert every < (1 - 5e-4) * restricted < dual <= (1 + 1e-9) * restricted
    own = float((rows - points[potential.nearest_atom(rows)]).square().sum(1).mean())
    assert result.transport_cost == pytest.approx(own, rel=0.01)
    assert low <= every <= restricted <= 1.01 * high


def programme(rows: Tensor, points: Tensor, weights: Tensor, allowed: Tensor) -> float:
    """The least cost of couplings of equally likely rows with weighted points on the allowed pairs."""
    row, point = (part.numpy() for part in allowed.nonzero(as_tuple=True))
    cost = (rows[row] - points[point]).square().sum(1).numpy()
    ones, pair = np.ones(len(row)), np.arange(len(row))
    shape = len(rows) + len(points), len(row)
    entries = np.concatenate([ones, ones]), (np.concatenate([row, len(rows) + point]), np.concatenate([pair, pair]))
    sums = np.concatenate([np.full(len(rows), 1 / len(rows)), weights.numpy()])
    matrix = scipy.sparse.csc_array(entries, shape=shape)
    found = scipy.optimize.linprog(cost, A_eq=matrix, b_eq=sums)  # type: ignore[call-overload]
    assert found.status == 0
    return float(found.fun)


@pytest.mark.parametrize("dtype", slow_beyond(1, [torch.float32, f64]))
def test_masses_and_cost_are_what_the_returned_potential_gives(dtype: torch.dtype) -> None:
    points, weights = cloud(700, 6, dtype=dtype), torch.linspace(1, 3, 700, dtype=f64)
    result = fit_shortlisted(points, weights, count=3, **ROUGH)
    assert isinstance(result, ShortlistedFit)
    assert result.converged
    assert result.potential.points.dtype == dtype
    chi2, stderr = counted_chi2(result.potential, weights / weights.sum())
    assert chi2 <= 0.05
    assert abs(chi2 - result.chi2) <= 4 * (result.chi2_stderr**2 + stderr**2) ** 0.5 + 4 * (4 * chi2 / 4e5) ** 0.5
    own = own_pairs(result.potential)
    assert result.transport_cost == pytest.approx(own.cost, rel=0.01)
    low, high = result.transport_cost_interval
    assert low < fit(points, weights, **ROUGH).transport_cost < high
    best = fit(points, own.mass, tol=0.02, progress=False).transport_cost  # with the masses that these pairs have
    assert best < own.cost
    assert 0.9 < result.optimality < own.saved / (own.saved + own.cost - best) + 0.003


class OwnPairs(NamedTuple):
    """What pairs of noise and its atom cost, how much less than independent pairs, and the masses of the atoms."""

    cost: float
    saved: float
    mass: Tensor


def own_pairs(potential: Shortlisted, draws: int = 400_000) -> OwnPairs:
    generator = torch.Generator().manual_seed(3)
    noise = torch.randn(draws, potential.dim, generator=generator, dtype=potential.points.dtype)
    atom = potential.nearest_atom(noise)
    moved = potential.points[atom].double()
    cost = float((noise - moved).double().square().sum(1).mean())
    saved = float(2 * (noise * (moved - moved.mean(0))).sum(1).mean())
    return OwnPairs(cost, saved, torch.bincount(atom, minlength=len(potential.points)) / draws)


@pytest.mark.slow
def test_a_list_of_all_groups_gives_optimal_pairs() -> None:
    points = cloud(300, 5)
    result, plain = fit_shortlisted(points, count=100, **ROUGH), fit(points, **ROUGH)
    assert result.potential.count == len(result.potential.centres)
    low, high = plain.transport_cost_interval
    assert result.transport_cost == pytest.approx(own_pairs(result.potential).cost, rel=0.01)
    assert result.transport_cost_interval[1] - result.transport_cost_interval[0] < 2 * (high - low)
    assert result.optimality > 0.99
    u = torch.randn(500, 5, generator=torch.Generator().manual_seed(1), dtype=f64)
    assert torch.equal(result.potential.nearest_atom(u), result.potential.over_all_atoms().nearest_atom(u))


@pytest.mark.slow
def test_longer_lists_give_better_pairs() -> None:
    points = cloud(2000, 6, dtype=torch.float32)
    costs = [fit_shortlisted(points, count=count, **ROUGH).transport_cost for count in (1, 4, 16)]
    assert costs[0] > costs[1] > costs[2]


@pytest.mark.slow
def test_a_fit_that_stops_early_tells_of_the_pairs_that_it_gives() -> None:
    """Their cost and optimality are of the masses that their cells have, far from the wanted ones."""
    points = cloud(3000, 8)
    with pytest.warns(ConvergenceWarning, match=r"fit stopped at chi2 .* raise max_samples or count"):
        result = fit_shortlisted(points, count=3, max_samples=1, tol=0.01, progress=False)
    assert not result.converged
    own = own_pairs(result.potential)
    assert result.transport_cost == pytest.approx(own.cost, rel=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        best = fit(points, own.mass.clamp(min=1e-9), tol=0.1, progress=False).transport_cost
        plain = fit(points, tol=0.1, progress=False).transport_cost
    assert 0.8 < result.optimality < own.saved / (own.saved + own.cost - best) + 0.005
    low, high = result.transport_cost_interval
    assert low < plain < high


@pytest.mark.parametrize(("scale", "place"), slow_beyond(1, [(1.0, 1e7), (1e-20, 0), (1e-200, 0), (1e150, 0)]))
def test_optimality_has_no_scale_and_no_place(scale: float, place: float) -> None:
    """Neither hides in numbers that cancel."""
    points = cloud(300, 5)
    wanted = fit_shortlisted(points, count=2, **ROUGH).optimality
    assert 0.9 < wanted < 1
    result = fit_shortlisted(scale * points + place, count=2, **ROUGH)
    assert result.converged
    assert result.optimality == pytest.approx(wanted, abs=0.01)


@pytest.mark.slow
def test_optimality_has_no_place_of_the_noise() -> None:
    points = cloud(300, 5)
    uniform = pf.measures.Uniform(5, 0.0, 10.0)
    shares = [fit_shortlisted(points + k, count=2, source=uniform, **ROUGH).optimality for k in (0, 1e4)]
    assert 0.9 < shares[0] < 1
    assert shares[1] == pytest.approx(shares[0], abs=0.01)


@pytest.mark.slow
def test_a_run_that_goes_on_at_another_tolerance_keeps_its_shortlists(tmp_path: Path) -> None:
    points, file = cloud(900, 6, dtype=torch.float32), tmp_path / "fit"
    first = fit_shortlisted(points, count=1, tol=0.02, checkpoint=file, progress=False)
    again = fit_shortlisted(points, count=1, tol=0.05, checkpoint=file, progress=False)
    for mine, own in zip(first.potential.shortlist.tensors, again.potential.shortlist.tensors, strict=True):
        assert torch.equal(mine, own)
    chi2, stderr = counted_chi2(again.potential, torch.full((900,), 1 / 900, dtype=f64))
    assert abs(chi2 - again.chi2) < 4 * (again.chi2_stderr + stderr) + 4 * (4 * chi2 / 4e5) ** 0.5
    weights = torch.ones(900, dtype=f64)
    weights[:300] = 1e-4
    light = tmp_path / "light"
    fit_shortlisted(points, weights, tol=0.05, checkpoint=light, progress=False)
    with pytest.raises(ValueError, match="other shortlists, since at this tol other rows are too light"):
        fit_shortlisted(points, weights, tol=1e-4, max_samples=1000, checkpoint=light, progress=False)


def test_ctrl_c_in_the_preparation_ends_it() -> None:
    with pytest.raises(KeyboardInterrupt):
        fit_shortlisted(cloud(300, 5), source=Interrupting(5), tol=0.05, progress=False)


class Interrupting(PlainNormal):
    """The user presses Ctrl-C at the second draw."""

    def sample(self, n: int, **options: Any) -> Tensor:
        if self.calls == 1:
            raise KeyboardInterrupt
        return super().sample(n, **options)


def test_a_fit_starts_from_the_heights_of_shortlists() -> None:
    points = cloud(300, 5)
    listed = fit_shortlisted(points, count=4, tol=0.02, progress=False)
    for start in (listed, listed.potential):
        assert fit(points, warm_start=start, tol=0.02, progress=False).converged


@pytest.mark.parametrize("count", [1, 2, 3, 9])
def test_a_few_rows(count: int) -> None:
    points = cloud(count, 3)
    result = fit_shortlisted(points, tol=0.01, progress=False)
    assert result.converged
    assert result.chi2 < 0.01
    assert len(result.cell_mass) == count
    assert result.transport_cost == pytest.approx(fit(points, progress=False).transport_cost, rel=0.02)


def test_equal_rows_share_an_atom_and_light_ones_are_left_alone() -> None:
    points = cloud(200, 5)
    result = fit_shortlisted(points[torch.arange(400) % 200], **ROUGH)
    assert torch.equal(result.atom_of_row, torch.arange(400) % 200)
    weights = torch.ones(200, dtype=f64)
    weights[[3, 50]] = 1e-9
    light = fit_shortlisted(points, weights, **ROUGH)
    chi2, stderr = counted_chi2(light.potential, weights / weights.sum())
    assert chi2 < 0.05 + 4 * stderr
    masses = light.potential.weights.new_zeros(200)
    noise = torch.randn(200_000, 5, generator=torch.Generator().manual_seed(4), dtype=f64)
    masses.index_add_(0, light.potential.nearest_atom(noise), torch.ones(200_000, dtype=f64))
    assert masses[[3, 50]].tolist() == [0.0, 0.0]


def test_a_light_atom_is_bounded_by_one_that_is_on_the_same_lists() -> None:
    """An atom of another group may bound it by less, and is not on all lists of vectors that could choose it."""
    points = cloud(400, 4)
    weights = torch.ones(400, dtype=f64)
    weights[::4] = 1e-8
    potential = fit_shortlisted(points, weights, count=1, **ROUGH).potential
    reach = -torch.special.ndtri(weights[0] / weights.sum())
    bounds = potential.heights + reach * torch.cdist(points[::4], points)
    own = potential.group[::4, None] == potential.group
    bounding = torch.where(own & (weights == 1), bounds, torch.inf).amin(1)
    assert bool((potential.heights[::4] >= bounding).all())


@pytest.mark.slow
@pytest.mark.parametrize("kind", slow_beyond(1, ["line", "far", "small", "large"]))
def test_rows_on_a_line_in_space_and_rows_far_from_the_origin(kind: str) -> None:
    line = torch.linspace(-1, 1, 120, dtype=f64)[:, None] * torch.tensor([1.0, 2.0, 0.5, -1.0], dtype=f64)
    rows = cloud(300, 5)
    points = {"line": line, "far": rows + 1e5, "small": 1e-8 * rows, "large": 1e8 * rows}[kind]
    result = fit_shortlisted(points, **ROUGH)
    chi2, stderr = counted_chi2(result.potential, torch.full_like(result.cell_mass, 1 / len(points)))
    assert chi2 < 0.05 + 4 * stderr
    assert result.optimality > 0.9


@pytest.mark.parametrize("dtype", slow_beyond(1, STORED), ids=str)
def test_stored_rows_give_the_bits_of_their_float32_copy(dtype: torch.dtype) -> None:
    points = torch.unique((10 * cloud(300, 5)).round().clamp(0, 100).to(dtype), dim=0)
    own, whole = fit_shortlisted(points, **ROUGH), fit_shortlisted(points.float(), **ROUGH)
    assert own.potential.points.dtype == dtype
    assert torch.equal(own.potential.heights, whole.potential.heights)
    assert own.transport_cost == whole.transport_cost


@pytest.mark.slow
def test_an_interrupted_fit_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    points, file = cloud(300, 5, dtype=torch.float32), tmp_path / "fit"
    options: dict[str, Any] = {"count": 3, "tol": 0.02, "progress": False}
    whole = fit_shortlisted(points, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        first = fit_shortlisted(points, max_samples=4000, checkpoint=file, **options)
    again = fit_shortlisted(points, checkpoint=file, **options)
    assert first.samples_used < again.samples_used
    assert torch.equal(again.potential.heights, whole.potential.heights)
    with pytest.raises(ValueError, match="another"):
        fit_shortlisted(points, checkpoint=file, **(options | {"count": 4}))


def test_a_fit_is_saved_and_printed(tmp_path: Path) -> None:
    result = fit_shortlisted(cloud(100, 5), **ROUGH)
    pf.save(result, tmp_path / "fit.safetensors")
    again = pf.load(tmp_path / "fit.safetensors")
    assert isinstance(again, ShortlistedFit)
    assert again.optimality == result.optimality
    assert torch.equal(again.potential.heights, result.potential.heights)
    assert repr(result).startswith("ShortlistedFit(potential=Shortlisted(")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"count": 0}, "fit_shortlisted: count must be a whole number of at least 1, got 0"),
        ({"count": 2.5}, "count must be a whole number of at least 1, got 2.5"),
        ({"tol": 0.0}, "tol must be a positive number"),
        ({"weights": torch.ones(9)}, "weights"),
        ({"source": pf.measures.Gaussian(4)}, "the source has dimension 4, the points 5"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_shortlisted(cloud(10, 5), **arguments)


@pytest.mark.parametrize(("count", "halvings"), [(1, 0), (7, 1), (100, 3), (1024, 5), (33, 5)])
def test_groups_have_as_many_atoms_and_near_ones(count: int, halvings: int) -> None:
    points = cloud(count, 3)
    group = equal_groups(points, torch.full((count,), 1 / count, dtype=f64), halvings)
    sizes = torch.bincount(group, minlength=2**halvings)
    assert len(sizes) == 2**halvings
    assert int(sizes.max() - sizes.min()) <= 1
    if count == 1024:
        means = torch.zeros(32, 3, dtype=f64).index_add_(0, group, points) / 32
        assert float((points - means[group]).square().sum()) < 0.25 * float((points - points.mean(0)).square().sum())
