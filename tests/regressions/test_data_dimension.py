"""data_dimension is never confident and wrong: every point has the dimension of its own piece, a wide error, or NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from proxflow.analysis import DataDimension, data_dimension
from proxflow.analysis.intrinsic_dimension.pieces import pieces
from tests.marks import slow_beyond

f64 = torch.float64


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(count: int, dim: int, ambient: int | None = None, seed: int = 0) -> Tensor:
    points = torch.randn(count, dim, generator=generator(seed), dtype=f64)
    return torch.nn.functional.pad(points, (0, (ambient or dim) - dim))


def uniform(count: int, dim: int, seed: int = 0) -> Tensor:
    return torch.rand(count, dim, generator=generator(seed), dtype=f64)


def sphere(count: int, dim: int, ambient: int, seed: int = 0) -> Tensor:
    points = torch.nn.functional.normalize(normal(count, dim + 1, seed=seed), dim=1)
    return torch.nn.functional.pad(points, (0, ambient - dim - 1))


def moved(points: Tensor, by: float) -> Tensor:
    return points + by * torch.eye(points.shape[1], dtype=f64)[-1]


def check(points: Tensor, *truth: tuple[int, float], allowed: float = 0.3) -> DataDimension:
    """Rows of known dimension, given as (number, dimension) in order, are found within .3 and 3 standard errors."""
    wanted = torch.cat([torch.full((count,), dimension, dtype=f64) for count, dimension in truth])
    assert len(wanted) == len(points)
    order = torch.randperm(len(points), generator=generator(99))
    found = data_dimension(points[order])
    error = (found.dimension - wanted[order]).abs()
    known = ~torch.isnan(wanted[order])
    assert torch.isnan(found.dimension[~known]).all()
    assert (error[known] <= allowed).all()
    assert (error[known] <= 3 * found.stderr[known]).all()
    return found


# ------------------------------------------------------------------ pieces


def test_a_circle_does_not_rule_a_ball_far_away() -> None:
    points = torch.cat([sphere(700, 1, 5), moved(normal(300, 3, 5, seed=1), 20)])
    check(points, (700, 1), (300, 3))


@pytest.mark.parametrize("width", slow_beyond(2, [1e-3, 1e-200, 1e-2, 1e-8]))
@pytest.mark.parametrize("apart", [0.0, 20.0])
def test_clouds_of_different_widths_have_their_own_scales(width: float, apart: float) -> None:
    # far from the origin a narrow cloud is rounded: it is the one at the origin
    points = torch.cat([width * normal(250, 3), moved(normal(250, 3, seed=1), apart)])
    check(points, (500, 3))


def test_three_spheres_of_different_dimension() -> None:
    parts = [moved(sphere(400, dim, 10, seed=dim), 8.0 * number) for number, dim in enumerate((1, 3, 6))]
    check(torch.cat(parts), (400, 1), (400, 3), (400, 6))


def test_a_small_piece_beside_a_large_one() -> None:
    points = torch.cat([normal(500, 2, 4), moved(normal(100, 4, seed=1), 30)])
    found = data_dimension(points)
    assert ((found.dimension[500:] - 4).abs() <= 3 * found.stderr[500:]).all()
    assert (found.stderr[500:] <= 0.5).all()
    assert ((found.dimension[:500] - 2).abs() <= 0.1).all()
    assert found.piece.tolist() == [0] * 500 + [1] * 100


def test_pieces_are_the_largest_first_and_follow_their_rows() -> None:
    points = torch.cat([moved(normal(60, 2, seed=1), 50), normal(200, 2), torch.full((1, 2), -1e9, dtype=f64)])
    found, stands_for = pieces(points, torch.finfo(f64).eps, 2**28)
    assert [len(piece.rows) for piece in found] == [200, 60, 1]
    assert found[0].rows.sort().values.tolist() == list(range(60, 260))
    assert torch.equal(stands_for, torch.arange(261))
    for piece in found[:2]:
        there = points[piece.rows]
        assert torch.allclose(there - there.mean(0), piece.points * piece.unit, rtol=0, atol=1e-12)
        # the tenth neighbour in the piece; the row itself is the first
        tenth = torch.cdist(there, there).sort(1).values[:, 10]
        assert torch.allclose(piece.spacing * piece.unit, tenth, rtol=1e-9)


def test_outliers_have_no_dimension_and_change_none() -> None:
    found = check(torch.cat([sphere(580, 2, 6), 30 * normal(20, 6, seed=1)]), (580, 2), (20, math.nan))
    assert torch.equal(torch.isnan(found.stderr), torch.isnan(found.dimension))


@pytest.mark.parametrize("far", [1e3, 1e6, 1e12, 1e150, 1e300])
def test_one_row_far_away(far: float) -> None:
    check(torch.cat([normal(300, 4), torch.full((1, 4), far, dtype=f64)]), (300, 4), (1, math.nan))


def test_many_small_pieces_share_no_confidence() -> None:
    centres = 100 * torch.arange(50, dtype=f64)[:, None, None] * torch.eye(3, dtype=f64)[0]
    found = data_dimension((centres + normal(1000, 3, seed=1).reshape(50, 20, 3)).reshape(-1, 3))
    assert torch.isnan(found.dimension).all()
    assert found.piece.reshape(50, 20).unique(dim=1).shape == (50, 1)
    assert len(found.piece.unique()) == 50


# ------------------------------------------------------------------ repeated rows


@pytest.mark.parametrize("jitter", [1e-16, 1e-12, 1e-7, 1e-3])
def test_rows_that_repeat_others_nearly_count_once(jitter: float) -> None:
    points = normal(600, 5)
    points = torch.cat([points, points[:200] + jitter * normal(200, 5, seed=1)])
    check(points, (800, 5))


def test_rows_equal_up_to_rounding_in_float32() -> None:
    points = normal(600, 5).float()
    twins = points[:200] * (1 + 1.2e-7 * torch.randint(-1, 2, (200, 5), generator=generator(1)))
    found = data_dimension(torch.cat([points, twins]))
    assert ((found.dimension - 5).abs() <= 0.3).all()
    assert torch.equal(found.dimension[:200], found.dimension[600:])


def test_many_copies_up_to_rounding() -> None:
    points = normal(200, 3)
    copies = points.repeat(15, 1) * (1 + 2.2e-16 * torch.randint(-1, 2, (3000, 3), generator=generator(1)))
    check(copies, (3000, 3))


# ------------------------------------------------------------------ units


@pytest.mark.parametrize("factor", [1e200, 1e-200, 1e-305, 3e307])
def test_units_do_not_matter(factor: float) -> None:
    points = uniform(150, 3) - 0.5
    found, plain = data_dimension(factor * points), data_dimension(points)
    torch.testing.assert_close(found.dimension, plain.dimension, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.trace, plain.trace, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.scales / factor, plain.scales, rtol=1e-6, atol=0)


def test_points_further_apart_than_numbers_go_are_refused() -> None:
    points = normal(40, 2)
    with pytest.raises(ValueError, match="divide them"):
        data_dimension(points / points.abs().max() * 1.7e308)


def test_scales_given_are_in_the_units_of_the_data() -> None:
    points = normal(200, 2)
    scales = torch.logspace(-1, 0, 8, dtype=f64)
    found, plain = data_dimension(1e200 * points, 1e200 * scales), data_dimension(points, scales)
    torch.testing.assert_close(found.trace, plain.trace, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found.dimension, plain.dimension, rtol=1e-6, atol=0)
    torch.testing.assert_close(plain.scales, scales[:, None].expand(8, 200))


def test_float32_far_from_the_origin() -> None:
    points = (1e-3 * normal(600, 2, 3) + 1).float()
    found = data_dimension(points)
    assert ((found.dimension - 2).abs() <= 0.3).all()


# ------------------------------------------------------------------ inside a piece


def test_an_unevenly_filled_curve() -> None:
    turn = 3 * math.pi * uniform(1000, 1)[:, 0] ** 3 + 0.5
    check(torch.stack([turn * turn.cos(), turn * turn.sin(), 0 * turn], 1), (1000, 1))


@pytest.mark.parametrize("seed", [0, 1])
def test_densities_over_orders_of_magnitude(seed: int) -> None:
    points = torch.exp(2 * normal(800, 2, seed=seed))
    found = data_dimension(points)
    assert ((found.dimension - 2).abs() <= torch.maximum(3 * found.stderr, torch.tensor(0.3))).all()


def test_a_line_that_crosses_a_plane() -> None:
    line = torch.cat([torch.zeros(500, 2, dtype=f64), 2 * uniform(500, 1) - 1], 1)
    plane = torch.nn.functional.pad(2 * uniform(1000, 2, seed=1) - 1, (0, 1))
    found = data_dimension(torch.cat([line, plane]))
    wanted = torch.cat([torch.ones(500), torch.full((1000,), 2.0)]).double()
    error = (found.dimension - wanted).abs()
    # where they cross, points of the plane lie on the line
    assert ((error <= 0.3) & (error <= 3 * found.stderr)).double().mean() >= 0.98


def test_a_neighbourhood_unlike_its_patch_is_told() -> None:
    """A ring in a disc, too few points apart to be parted: no point of the disc far from the ring is sure of 1."""
    disc = 3 * uniform(800, 2) - 1.5
    found = data_dimension(torch.cat([sphere(800, 1, 2), disc]))
    away = (disc.norm(dim=1) - 1).abs() > 0.3
    error = (found.dimension[800:] - 2).abs()
    wrong = (error > 0.3) & (error > 3 * found.stderr[800:])
    assert wrong[away].double().mean() <= 0.05


@pytest.mark.parametrize("dim", slow_beyond(3, [1, 2, 4, 3, 6]))
def test_the_boundary_of_a_cube_is_within_the_error(dim: int) -> None:
    for seed in (0, 1):
        found = data_dimension(uniform(500, dim, seed=seed))
        assert ((found.dimension - dim).abs() <= 3 * found.stderr).all()
        assert found.stderr.median() <= 0.1 * dim


def test_integers_and_grids() -> None:
    whole = torch.randint(0, 256, (700, 3), generator=generator(0)).double()
    check(whole, (700, 3))
    grid = torch.cartesian_prod(*[torch.arange(25, dtype=f64)] * 2)
    check(grid, (625, 2))


@pytest.mark.parametrize("count", [3, 6, 10, 15, 29])
@pytest.mark.parametrize("dim", [1, 4, 10])
def test_few_points_tell_nothing(count: int, dim: int) -> None:
    found = data_dimension(normal(count, dim))
    assert torch.isnan(found.dimension).all()
    assert torch.isnan(found.stderr).all()


@pytest.mark.parametrize("count", [30, 60, 120, 250])
def test_errors_of_few_points_cover(count: int) -> None:
    for dim in (1, 3, 6):
        for points in (normal(count, dim, seed=dim), sphere(count, dim, dim + 2, seed=dim)):
            found = data_dimension(points)
            known = ~torch.isnan(found.dimension)
            assert known.double().mean() >= 0.9
            assert ((found.dimension[known] - dim).abs() <= 3 * found.stderr[known]).all()
