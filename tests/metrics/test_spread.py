"""Variance ratios and nearest rows, against laws that are known."""

from __future__ import annotations

import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from proxflow.metrics import nearest_row_ratio, nearest_rows, spread
from tests.metrics.clouds import BAD_PAIRS, check_refusals, f64, normal


def test_ratios_of_normal_clouds_are_those_of_their_variances() -> None:
    """Rotated by a known frame: columns mix what directions keep apart."""
    frame = torch.linalg.qr(normal(4, 4, seed=9)).Q
    data_deviation, ratio = torch.tensor([4.0, 2, 1, 0.5], dtype=f64), torch.tensor([1.44, 0.25, 1, 4], dtype=f64)
    data = (normal(40000, 4, seed=1) * data_deviation) @ frame.T + 3
    samples = (normal(20000, 4, seed=2) * data_deviation * ratio.sqrt()) @ frame.T - 7
    found = spread(samples, data, directions=3)
    assert found.direction.shape == (3,)
    assert ((found.direction - ratio[:3]).abs() <= 4 * found.direction_error).all()
    total = float((ratio * data_deviation.square()).sum() / data_deviation.square().sum())
    assert abs(found.total - total) <= 4 * found.total_error
    by_column = (frame.square() * (ratio * data_deviation.square())).sum(1) / (
        frame.square() * data_deviation.square()
    ).sum(1)
    assert ((found.column - by_column).abs() <= 4 * found.column_error).all()
    assert float(found.column_error.max()) < 0.05


def test_the_error_is_that_of_repeated_draws() -> None:
    found = [spread(normal(300, 2, seed=seed) * 2, normal(200, 2, seed=1000 + seed)) for seed in range(200)]
    totals = torch.tensor([each.total for each in found])
    stated = sum(each.total_error for each in found) / len(found)
    assert float(totals.mean()) == pytest.approx(4, abs=0.1)
    assert float(totals.std()) == pytest.approx(stated, rel=0.2)


@pytest.mark.parametrize("scale", [1e-150, 1e150])
def test_units_and_offsets_do_not_matter(scale: float) -> None:
    samples, data = normal(50, 3, 2, seed=1), normal(60, 3, 2, seed=2)
    plain, moved = spread(samples, data), spread(scale * (samples + 1e3), scale * (data + 1e3))
    assert moved.total == pytest.approx(plain.total, rel=1e-6)
    assert torch.allclose(moved.direction, plain.direction, rtol=1e-6)


def test_a_column_in_which_the_data_do_not_vary_has_no_ratio() -> None:
    data = normal(50, 3)
    data[:, 1] = 5.0
    found = spread(normal(40, 3, seed=1), data, directions=3)
    assert torch.isnan(found.column).tolist() == [False, True, False]
    assert torch.isfinite(found.direction[:2]).all()


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_clouds_are_refused(case: str) -> None:
    check_refusals(spread, case, ("samples", "data"))
    check_refusals(lambda a, b: nearest_row_ratio(a, b, b), case, ("samples", "rows"))


def test_other_refusals() -> None:
    with pytest.raises(ValueError, match="at least two samples and two points of data, got 1 and 5"):
        spread(normal(1, 2), normal(5, 2))
    with pytest.raises(ValueError, match="directions must be a whole number of at least 1, got 0"):
        spread(normal(5, 2), normal(5, 2), directions=0)
    rows = normal(20, 2)
    with pytest.raises(ValueError, match="hold out others"):
        nearest_row_ratio(rows, rows, rows[:5])


def test_copies_new_draws_and_noise_are_told_apart() -> None:
    rows, held_out, samples = (normal(400, 5, seed=seed) for seed in range(3))
    assert nearest_row_ratio(rows[:100], rows, held_out) == 0
    assert nearest_row_ratio(samples, rows, held_out) == pytest.approx(1, abs=0.1)
    assert nearest_row_ratio(rows + 0.01, rows, held_out) < 0.1
    assert nearest_row_ratio(3 * samples, rows, held_out) > 2


def test_the_nearest_row_is_that_of_all_distances() -> None:
    rows, held_out, samples = (normal(n, 3, seed=n) for n in (70, 31, 53))
    expected = [torch.cdist(cloud, rows).amin(1).quantile(0.5) for cloud in (samples, held_out)]
    assert nearest_row_ratio(samples, rows, held_out) == pytest.approx(float(expected[0] / expected[1]))


def test_a_row_left_out_is_compared_with_the_others() -> None:
    """By scikit-learn's search: the second neighbour of a row is the nearest of the others."""
    rows = normal(70, 3, seed=1) + 100
    rows[5] = rows[9]  # equal rows are at distance 0 of one another
    chosen = torch.tensor([3, 5, 9, 60])
    search = NearestNeighbors(n_neighbors=2, algorithm="kd_tree").fit(rows.numpy())
    distances, index = search.kneighbors(rows[chosen].numpy())
    found = nearest_rows(rows[chosen], rows, left_out=chosen)
    assert found.distance.numpy() == pytest.approx(distances[:, 1], abs=1e-12)
    assert found.index.tolist() == [int(index[0, 1]), 9, 5, int(index[3, 1])]
    some = nearest_rows(rows[chosen], rows, left_out=torch.tensor([3, -1, -1, 60]))
    assert some.distance[1:3].tolist() == [0, 0]
    assert torch.equal(some.distance[[0, 3]], found.distance[[0, 3]])
    assert nearest_rows(rows[chosen], rows).distance.abs().max() == 0


def test_rows_left_out_are_rows() -> None:
    rows = normal(5, 2)
    for left_out, message in (
        ([0, 1], r"left_out must be \(5,\) integers"),
        ([0.0] * 5, "left_out must be"),
        ([0, 1, 2, 3, 5], "rows from 0 to 4, or -1 for none, got 0 to 5"),
        ([-2, 1, 2, 3, 4], "rows from 0 to 4"),
    ):
        with pytest.raises(ValueError, match=message):
            nearest_rows(rows, rows, left_out=torch.tensor(left_out))
    with pytest.raises(ValueError, match="leaves no row"):
        nearest_rows(rows[:1], rows[:1], left_out=torch.tensor([0]))


@pytest.mark.parametrize(("dim", "rows", "count"), [(8, 400, 400), (64, 300, 600), (200, 600, 300)])
def test_equal_laws_have_equal_variances_along_directions_found_on_the_data(dim: int, rows: int, count: int) -> None:
    """Means over 40 pairs of clouds and squares of errors; along directions of all rows they were .84, .45 and .37."""
    normal = torch.randn(40, rows + count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = [spread(both[rows:], both[:rows], directions=3) for both in normal]
    apart = torch.stack([one.direction - 1 for one in found])
    errors = torch.stack([one.direction_error for one in found])
    assert float(apart.mean().abs()) < 3.5 * float(errors.mean()) / 40**0.5
    assert 0.85 < float((apart / errors).square().mean().sqrt()) < 1.2
