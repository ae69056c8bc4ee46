"""The population coupling of finite data: cells, frequencies, noise of given rows."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from proxflow.couplings import NoiseLaw, Semidiscrete
from proxflow.measures import Empirical
from proxflow.potentials import Ball, Discrete, Entropic
from proxflow.semidiscrete import fit
from tests.couplings.normality import ALPHA, REJECTED, frequency_p_value, normal_p_value, same_law_p_value
from tests.peak_memory import peak_bytes

ROWS = 30


def rows(n: int = ROWS, d: int = 2, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cell(potential: Discrete, noise: Tensor) -> Tensor:
    """The atom of the best score, from the definition."""
    return (noise.flatten(1) @ potential.points.mT - potential.heights).argmax(1)


def epochs(coupling: Semidiscrete, count: int, batch: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows visited in ``count`` shuffled epochs, and their noise."""
    generator = seeded(seed)
    visits = [torch.randperm(len(coupling.rows), generator=generator).split(batch) for _ in range(count)]
    index = [part for epoch in visits for part in epoch]
    return torch.cat(index), torch.cat([coupling.noise_for(part, generator=generator) for part in index])


@pytest.fixture(scope="module")
def exact() -> Discrete:
    """Cells of equal mass, to rounding."""
    potential = fit(rows()).potential
    assert isinstance(potential, Discrete)
    return potential


@pytest.fixture(scope="module")
def smooth() -> Entropic:
    potential = fit(rows(), epsilon=0.4, tol=1e-4).potential
    assert isinstance(potential, Entropic)
    return potential


# ------------------------------------------------------------------ sample


def test_noise_goes_to_the_row_of_its_cell(exact: Discrete) -> None:
    pairs = Semidiscrete(exact, rows()).sample(3000, generator=seeded())
    assert torch.equal(pairs.target, exact.points[cell(exact, pairs.source)])


def test_rows_come_as_often_as_their_cells_have_mass() -> None:
    """Weights of a ratio of 1 to 30, which frequencies must show."""
    weights = torch.arange(1.0, ROWS + 1, dtype=torch.float64)
    result = fit(rows(), weights)
    index = Semidiscrete(result.potential, rows()).sample(20_000, generator=seeded()).index
    of_row = result.cell_mass[result.atom_of_row]
    torch.testing.assert_close(of_row, weights / weights.sum(), rtol=1e-9, atol=0)
    assert frequency_p_value(index, of_row) > ALPHA
    assert frequency_p_value(index, torch.ones(ROWS)) < REJECTED


def test_heights_that_are_no_fit_give_the_masses_of_their_cells() -> None:
    """Any potential is exact for its own weights: those of two half-planes here."""
    points = torch.tensor([[-1.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    potential = Discrete(points, torch.tensor([0.0, 0.5], dtype=torch.float64))
    index = Semidiscrete(potential, points).sample(20_000, generator=seeded()).index
    right = float(stats.norm.sf(0.25))
    assert frequency_p_value(index, torch.tensor([1 - right, right])) > ALPHA


@pytest.mark.parametrize("given", ["sample", "noise_for"])
def test_equal_rows_share_their_cell_evenly(given: str) -> None:
    points = rows(10)
    doubled = torch.cat([points, points[:4], points[:2]])  # rows 0 and 1 thrice, 2 and 3 twice
    labels = torch.arange(16)
    coupling = Semidiscrete(fit(doubled).potential, doubled, labels)
    if given == "sample":
        pairs = coupling.sample(20_000, generator=seeded())
        assert torch.equal(pairs.label, pairs.index)
        assert torch.equal(pairs.target, doubled[pairs.index])
        assert frequency_p_value(pairs.index, torch.ones(16)) > ALPHA
        first, copy = (pairs.source[pairs.index == row] for row in (0, 14))
    else:
        index, noise = epochs(coupling, 300, 11)
        assert normal_p_value(noise) > ALPHA
        first, copy = noise[index == 0], noise[index == 14]
    assert same_law_p_value(first, copy) > ALPHA


def test_zeros_of_either_sign_are_one_row() -> None:
    points = torch.tensor([[0.0, 1.0], [-0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    coupling = Semidiscrete(fit(points).potential, points)
    assert coupling.atom_of_row[0] == coupling.atom_of_row[1] != coupling.atom_of_row[2]


def test_one_row_takes_all_noise() -> None:
    points = torch.tensor([[3.0, 4.0]], dtype=torch.float64)
    coupling = Semidiscrete(fit(points).potential, points)
    assert normal_p_value(coupling.sample(2000, generator=seeded()).source) > ALPHA
    assert normal_p_value(coupling.noise_for(torch.zeros(2000, dtype=torch.int64), generator=seeded())) > ALPHA


def test_a_stochastic_fit_of_images_couples_images() -> None:
    images = rows(40, 6).float().reshape(40, 1, 2, 3)
    potential = fit(images).potential
    coupling = Semidiscrete(potential, images)
    pairs = coupling.sample(500, generator=seeded())
    assert torch.equal(pairs.target, images[pairs.index])
    torch.testing.assert_close(potential.brenier_map(pairs.source.flatten(1)), pairs.target.flatten(1))
    assert coupling.noise_for(torch.tensor([3, 3]), generator=seeded()).shape == (2, 1, 2, 3)


# ------------------------------------------------------------------ entropic


def test_a_smooth_potential_draws_rows_with_its_softmax_probabilities(smooth: Entropic) -> None:
    pairs = Semidiscrete(smooth, rows()).sample(8000, generator=seeded())
    score = (pairs.source @ smooth.points.mT - smooth.heights) / smooth.epsilon
    law = score.softmax(1)
    atom = torch.cdist(pairs.target, smooth.points).argmin(1)
    count = torch.bincount(atom, minlength=ROWS).double()
    assert stats.chi2.sf(float(((count - law.sum(0)).square() / law.sum(0)).sum()), ROWS - 1) > ALPHA
    # the probability of what was drawn is a probability drawn by itself: E p_drawn = E sum p^2
    drawn = law.gather(1, atom[:, None])[:, 0]
    excess = drawn - law.square().sum(1)
    assert abs(float(excess.mean())) < 4 * float(excess.std()) / 8000**0.5
    assert float((drawn < law.amax(1)).double().mean()) > 0.3


def test_noise_given_a_row_of_a_smooth_potential_has_the_law_of_the_pairs_with_that_row(smooth: Entropic) -> None:
    coupling = Semidiscrete(smooth, rows())
    pairs = coupling.sample(30_000, generator=seeded(1))
    for row in (0, 17):
        given = coupling.noise_for(torch.full((800,), row), generator=seeded(2))
        assert same_law_p_value(given, pairs.source[pairs.index == row]) > ALPHA
        assert same_law_p_value(given, pairs.source[pairs.index == row + 1]) < REJECTED


def test_epochs_of_a_smooth_potential_see_the_source_s_law(smooth: Entropic) -> None:
    _, noise = epochs(Semidiscrete(smooth, rows()), 150, 7)
    assert normal_p_value(noise) > ALPHA


# ------------------------------------------------------------------ unpaired data to data


def test_data_are_coupled_with_data_that_are_not_paired() -> None:
    before, after = 2 * rows(3000, seed=5) + 1, rows(12)
    potential = fit(after, source=Empirical(before), tol=0.01).potential
    assert isinstance(potential, Discrete)
    coupling = Semidiscrete(potential, after)
    pairs = coupling.sample(1000, generator=seeded())
    place = torch.cdist(pairs.source, before).argmin(1)
    assert torch.equal(before[place], pairs.source)
    assert torch.equal(pairs.target, potential.points[cell(potential, pairs.source)])
    index, noise = epochs(coupling, 40, 5)
    assert torch.isin(noise, before).all()
    assert torch.equal(potential.points[cell(potential, noise)], after[index])
    assert coupling.noise_law.approximated == 0


def test_a_blurred_data_set_is_a_source(generator: torch.Generator) -> None:
    source = Empirical(rows(200, seed=5), bandwidth=0.2)
    coupling = Semidiscrete(fit(rows(12), source=source, tol=0.05).potential, rows(12))
    assert coupling.source is coupling.potential.source
    pairs = coupling.sample(2000, generator=generator)
    assert same_law_p_value(pairs.source, source.sample(2000, generator=generator)) > ALPHA


# ------------------------------------------------------------------ noise of given rows


@pytest.mark.parametrize(("batch", "count"), [(1, 40), (7, 120), (ROWS, 120)])
def test_epochs_see_noise_of_the_source_s_law_each_in_its_cell(exact: Discrete, batch: int, count: int) -> None:
    coupling = Semidiscrete(exact, rows())
    index, noise = epochs(coupling, count, batch)
    assert torch.equal(exact.points[cell(exact, noise)], rows()[index])
    assert normal_p_value(noise) > ALPHA
    assert len(noise.unique(dim=0)) == len(noise)
    assert (coupling.noise_law.approximated, coupling.noise_law.largest_gap) == (0, 0.0)


def test_the_test_of_normality_has_power(exact: Discrete) -> None:
    """Cells of the wrong masses, a small shift and draws given often are all seen in as many rows."""
    wrong = Semidiscrete(Discrete(exact.points, 0.8 * exact.heights), rows())
    assert normal_p_value(epochs(wrong, 120, 7)[1]) < REJECTED
    noise = torch.randn(3600, 2, generator=seeded(), dtype=torch.float64)
    assert normal_p_value(noise) > ALPHA
    assert normal_p_value(noise + torch.tensor([0.1, 0.1])) < ALPHA
    assert normal_p_value(noise[:60].repeat(60, 1)) < REJECTED


def test_a_request_does_not_change_the_law_of_what_waits(exact: Discrete) -> None:
    """Asking for one cell over and over leaves the draws of the others: they must be as good as fresh ones."""
    coupling = Semidiscrete(exact, rows())
    coupling.noise_for(torch.full((300,), 4), generator=seeded())
    waited = coupling.noise_for(torch.arange(ROWS).repeat(60), generator=seeded(1))
    assert normal_p_value(waited) > ALPHA


def test_repetitions_are_different_draws_of_one_cell(exact: Discrete) -> None:
    coupling = Semidiscrete(exact, rows(), max_draws=32 * ROWS)
    noise = coupling.noise_for(torch.full((500,), 7), generator=seeded())
    assert len(noise.unique(dim=0)) == 500
    assert len(cell(exact, noise).unique()) == 1
    # far more draws than may miss in a row, but they did not miss in a row
    assert coupling.noise_law.draws > 10 * 32 * ROWS
    assert coupling.noise_law.approximated == 0


def test_the_same_generator_gives_the_same_noise(exact: Discrete) -> None:
    first, again = (epochs(Semidiscrete(exact, rows()), 2, 7, seed=3)[1] for _ in range(2))
    assert torch.equal(first, again)


def test_every_draw_is_given_once_and_counted(exact: Discrete) -> None:
    coupling = Semidiscrete(exact, rows())
    assert coupling.noise_law == NoiseLaw()
    generator, source = seeded(), seeded()
    parts = [coupling.noise_for(part, generator=generator) for part in torch.arange(ROWS).repeat(40).split(11)]
    law = coupling.noise_law
    assert law.served == ROWS * 40
    assert law.draws >= law.served
    drawn = torch.randn(law.draws, 2, generator=source, dtype=torch.float64)
    given = torch.cat(parts)
    assert torch.isin(given[:, 0], drawn[:, 0]).all()
    assert len(given.unique(dim=0)) == len(given)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_an_index_of_any_whole_type_names_rows(exact: Discrete, dtype: torch.dtype) -> None:
    noise = Semidiscrete(exact, rows()).noise_for(torch.tensor([0, 1, 1, 29], dtype=dtype), generator=seeded())
    assert torch.equal(exact.points[cell(exact, noise)], rows()[[0, 1, 1, 29]])


def test_no_row_asked_for_is_no_noise(exact: Discrete) -> None:
    coupling = Semidiscrete(exact, rows())
    assert coupling.noise_for(torch.empty(0, dtype=torch.int64)).shape == (0, 2)
    assert coupling.noise_law == NoiseLaw()


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (torch.tensor([0, 30]), "name rows 0 to 29"),
        (torch.tensor([-1]), "name rows 0 to 29"),
        (torch.tensor(3), r"whole numbers, got \(\) of torch.int64"),
        (torch.tensor([[3]]), r"whole numbers, got \(1, 1\)"),
        (torch.tensor([3.0]), "whole numbers, got .* torch.float32"),
        (torch.ones(30, dtype=torch.bool), "whole numbers, got .* torch.bool"),
        (["row 3"], "of numbers, got an array of <U5"),
    ],
)
def test_an_index_that_names_no_rows_is_refused(exact: Discrete, index: Any, said: str) -> None:
    coupling = Semidiscrete(exact, rows())
    with pytest.raises(ValueError, match=f"Semidiscrete: index must .*{said}"):
        coupling.noise_for(index)
    assert coupling.noise_law == NoiseLaw()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_rows_may_be_named_by_unsigned_numbers(exact: Discrete, dtype: torch.dtype) -> None:
    coupling = Semidiscrete(exact, rows())
    noise = coupling.noise_for(torch.tensor([3, 29]).to(dtype), generator=seeded())
    assert torch.equal(coupling.rows_for(noise), torch.tensor([3, 29]))
    with pytest.raises(ValueError, match="Semidiscrete: index must name rows 0 to 29"):
        coupling.noise_for(torch.tensor([3, 30]).to(dtype))


@pytest.mark.parametrize(("name", "least"), [("max_draws", 1), ("max_memory", 0)])
@pytest.mark.parametrize("value", [-1, 1.5, "1", True])
def test_a_limit_that_is_no_number_is_refused(exact: Discrete, name: str, least: int, value: Any) -> None:
    options: dict[str, Any] = {name: value}
    with pytest.raises(ValueError, match=f"Semidiscrete: {name} must be an integer of at least {least}"):
        Semidiscrete(exact, rows(), **options)


# ------------------------------------------------------------------ cells that noise does not hit


def far_and_near() -> tuple[Discrete, Tensor]:
    """On the line, atom 2 wins beyond 5.2 only, a mass of 1e-7; atom 3 lies above the envelope of the others."""
    points = torch.tensor([[-1.0], [1.0], [2.0], [0.0]], dtype=torch.float64)
    return Discrete(points, torch.tensor([0.0, 0.0, 5.2, 1.0], dtype=torch.float64)), points


@pytest.mark.parametrize("row", [2, 3])
def test_a_cell_that_is_never_hit_gets_the_nearest_draw_in_bounded_time(row: int) -> None:
    potential, points = far_and_near()
    coupling = Semidiscrete(potential, points)
    start = time.process_time()
    noise = coupling.noise_for(torch.tensor([row, 0, row, 1, row]), generator=seeded())
    later = [coupling.noise_for(torch.tensor([row, 0]), generator=seeded(s)) for s in range(20)]
    assert time.process_time() - start < 5  # 2^17 draws, once
    law = coupling.noise_law
    assert (law.served, law.approximated) == (45, 23)
    assert law.draws < 2**17 + 22 * 2**13
    # the rows with a cell are served as ever
    assert cell(potential, noise[[1, 3]]).tolist() == [0, 1]
    assert cell(potential, torch.cat(later)[1::2]).tolist() == [0] * 20
    # the others by the draws that lose least: the farthest out for atom 2, those at the border for atom 3
    given = torch.cat([noise[[0, 2, 4]], torch.cat(later)[::2]])[:, 0]
    assert len(given.unique()) == 23
    loss = potential.conjugate(given[:, None]) - (given * points[row, 0] - potential.heights[row])
    assert float(loss.max()) == pytest.approx(law.largest_gap, rel=1e-12)
    # of 4096 normal draws the third largest is above 2.6, and the third nearest to 0 below .01, but for odds of 1e-4
    assert float(loss.max()) < (5.2 - 2.6 if row == 2 else 1.01)
    assert float(loss.min()) > (0 if row == 2 else 1)


def test_the_nearest_draw_is_the_same_inside_autocast() -> None:
    potential, points = far_and_near()
    coupling = Semidiscrete(Discrete(points.float(), potential.heights.float()), points.float(), max_draws=2**12)
    copied = copy.deepcopy(coupling)
    rows = torch.tensor([2] * 20)
    noise = coupling.noise_for(rows, generator=seeded())
    with torch.autocast("cpu", torch.bfloat16):
        inside = copied.noise_for(rows, generator=seeded())
    assert coupling.noise_law.approximated == 20
    assert torch.equal(noise, inside)
    assert coupling.noise_law == copied.noise_law


def test_a_rare_cell_is_given_up_only_until_a_draw_hits_it() -> None:
    points = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    potential = Discrete(points, torch.tensor([0.0, 7.0], dtype=torch.float64))  # right of 3.5: a mass of .00023
    coupling = Semidiscrete(potential, points, max_draws=256)
    right = torch.cat([coupling.noise_for(torch.tensor([1]), generator=seeded(s)) for s in range(60)])[:, 0]
    law = coupling.noise_law
    assert 0 < law.approximated < 60
    assert int((right < 3.5).sum()) == law.approximated
    # were it given up for good, none would be in it after the first that is not
    assert bool((right[int((right < 3.5).nonzero()[0]) :] >= 3.5).any())


def test_a_whole_epoch_asked_for_at_once_is_exact() -> None:
    """N ln N draws, far more than the default of those that may miss, if each request counted for all."""
    points = rows(300)
    potential = fit(points).potential
    assert isinstance(potential, Discrete)
    coupling = Semidiscrete(potential, points, max_draws=300 * 32)
    noise = coupling.noise_for(torch.arange(300).repeat(20), generator=seeded())
    assert coupling.noise_law.approximated == 0
    assert coupling.noise_law.draws > 300 * 32
    assert torch.equal(potential.points[cell(potential, noise)], points.repeat(20, 1))


def test_waiting_draws_stay_within_the_memory_given(exact: Discrete) -> None:
    """2^15 draws miss a cell of mass 1e-7: 16 MB of 64 numbers each, if they are kept.

    Without, it takes 8 MB: four copies of the 4096 draws that the nearest is looked for in.
    """
    points = torch.zeros(3, 64, dtype=torch.float64)
    points[:, 0] = torch.tensor([-1.0, 1.0, 2.0])
    potential = Discrete(points, torch.tensor([0.0, 0.0, 5.2], dtype=torch.float64))
    coupling = Semidiscrete(potential, points, max_draws=2**15, max_memory=2**20)
    one = torch.tensor([2])
    assert peak_bytes(lambda: coupling.noise_for(one, generator=seeded())) < 10 * 2**20
    assert coupling.noise_law.draws * 64 * 8 > 2**24
    # what was dropped was surplus: both other cells still have their draws
    before = coupling.noise_law.draws
    noise = coupling.noise_for(torch.tensor([0, 1]).repeat(400), generator=seeded(1))
    assert coupling.noise_law.draws == before
    assert torch.equal(cell(potential, noise), torch.tensor([0, 1]).repeat(400))
    assert normal_p_value(noise) > ALPHA


def test_scarce_draws_are_kept_before_those_of_common_cells() -> None:
    """Masses .98, .02 and 1e-7, and room for 512 draws, of which chance would give the second 10."""
    points = torch.tensor([[-1.0], [1.0], [2.0]], dtype=torch.float64)
    potential = Discrete(points, torch.tensor([0.0, 4.107, 9.307], dtype=torch.float64))
    coupling = Semidiscrete(potential, points, max_memory=512 * 8, max_draws=2**14)
    coupling.noise_for(torch.tensor([2]), generator=seeded())
    before = coupling.noise_law.draws
    noise = coupling.noise_for(torch.tensor([1] * 100 + [0] * 100), generator=seeded())
    assert coupling.noise_law.draws == before
    assert torch.equal(cell(potential, noise), torch.tensor([1] * 100 + [0] * 100))


# ------------------------------------------------------------------ what is refused


def test_points_of_another_fit_are_refused(exact: Discrete) -> None:
    points = rows()
    cases = {
        "2 points are no atoms .* rows \\[4, 9\\]": points
        + (torch.tensor([4, 9])[:, None] == torch.arange(30)).sum(0)[:, None],
        "some atoms of the potential are no row": points[:-1],
        "torch.float32 on cpu with 2 .* the atoms torch.float64": points.float(),
        "with 4 entries each, the atoms .* with 2": rows(30, 4),
        "dimension 2, the points 3": rows(30, 3),
    }
    for said, given in cases.items():
        with pytest.raises(ValueError, match=f"Semidiscrete: .*({said}|source has dimension 2)"):
            Semidiscrete(exact, given)


def test_points_in_another_order_keep_their_rows(exact: Discrete) -> None:
    order = torch.randperm(ROWS, generator=seeded())
    pairs = Semidiscrete(exact, rows()[order], order).sample(200, generator=seeded(1))
    same = Semidiscrete(exact, rows()).sample(200, generator=seeded(1))
    assert torch.equal(pairs.target, same.target)
    assert torch.equal(pairs.label, same.index)


def test_what_is_no_fitted_potential_is_refused() -> None:
    points = rows()
    with pytest.raises(ValueError, match=r"fit\(points\).potential, got Fit"):
        Semidiscrete(fit(points), points)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"must have atoms .* got Ball"):
        Semidiscrete(Ball(2), points)  # type: ignore[arg-type]
