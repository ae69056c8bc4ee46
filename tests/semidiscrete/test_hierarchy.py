"""Groups of atoms at several scales."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

import proxflow as pf
from proxflow.semidiscrete.atom_groups import Hierarchy, nested_groups
from proxflow.semidiscrete.descent import Descent, _Levels
from proxflow.semidiscrete.near_copies import NearCopies
from proxflow.semidiscrete.problem import SemiDual


def _groups(count: int, dim: int = 5) -> tuple[torch.Tensor, list[torch.Tensor]]:
    points = torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return points, _hierarchy(points).levels


def _hierarchy(points: torch.Tensor) -> Hierarchy:
    return nested_groups(points, torch.full((len(points),), 1 / len(points), dtype=torch.float64))


def _copied(rows: int, copied: int, times: int, distance: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Normal rows, the first of which have near copies after them, and which row each is a copy of."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(rows, 16, generator=generator, dtype=torch.float64)
    copies = points[:copied].repeat(times, 1)
    copies += distance * torch.randn(copies.shape, generator=generator, dtype=torch.float64)
    return torch.cat([points, copies]), torch.cat([torch.arange(rows), torch.arange(copied).repeat(times)])


def test_regions_are_nested_and_coarsen_fourfold() -> None:
    *regions, _ = _groups(1000)[1]
    counts = [len(labels.unique()) for labels in regions]
    assert len(counts) >= 3
    assert 4 * counts[0] <= 1000
    assert all(4 * coarse <= fine for fine, coarse in pairwise(counts))
    for fine, coarse in pairwise(regions):
        pairs = torch.stack([fine, coarse]).unique(dim=1)
        assert pairs.shape[1] == len(fine.unique())


def test_last_groups_are_shells_of_whole_regions() -> None:
    points, groups = _groups(1000)
    distance = torch.linalg.vector_norm(points - points.mean(0), dim=1)
    finest, shells = groups[0], groups[-1]
    assert torch.stack([finest, shells]).unique(dim=1).shape[1] == len(finest.unique())
    assert torch.bincount(shells).max() <= 1000 / 64 + torch.bincount(finest).max()
    region = torch.bincount(finest, distance) / torch.bincount(finest)
    held = [region[finest[shells == label]] for label in range(int(shells.max()) + 1)]
    assert all(inner.max() <= outer.min() + 1e-5 for inner, outer in pairwise(held))


def test_no_region_holds_atoms_of_two_clusters() -> None:
    centres = torch.tensor([[-10.0, 0.0], [10.0, 0.0]], dtype=torch.float64).repeat_interleave(50, 0)
    points = centres + 1e-2 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *regions, _ = _hierarchy(points).levels
    assert all(set(labels[:50].tolist()).isdisjoint(labels[50:].tolist()) for labels in regions)


def test_a_cluster_about_the_mean_is_not_cut() -> None:
    """Cut at the mean, the middle one of three clusters would fall in two, and so would half of its steps."""
    place = torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64).repeat_interleave(20)
    points = torch.zeros(60, 4, dtype=torch.float64)
    points[:, 0] = place
    points += 1e-3 * torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    halves = _hierarchy(points).levels[-2]
    assert all(len(halves[place == middle].unique()) == 1 for middle in (-1, 0, 1))


@pytest.mark.parametrize(("copied", "times"), [(300, 1), (30, 1), (300, 4), (10, 7)])
def test_near_copies_are_found_and_stay_together(copied: int, times: int) -> None:
    points, original = _copied(300, copied, times, 1e-4)
    hierarchy = _hierarchy(points)
    assert hierarchy.copies is not None
    pairs = torch.stack([hierarchy.copies, original]).unique(dim=1)
    assert pairs.shape[1] == len(hierarchy.copies.unique()) == 300
    for labels in hierarchy.levels:
        assert torch.stack([hierarchy.copies, labels]).unique(dim=1).shape[1] == 300


def test_a_far_row_may_be_there_twice() -> None:
    """The first cut leaves the two alone."""
    points, original = _copied(300, 30, 1, 1e-4)
    points[original == 0] += 100
    copies = _hierarchy(points).copies
    assert copies is not None
    assert torch.stack([copies, original]).unique(dim=1).shape[1] == 300


def test_the_nearest_of_three_are_copies() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(100, 16, generator=generator, dtype=torch.float64)
    along = torch.nn.functional.one_hot(torch.tensor(0), 16)
    copies = _hierarchy(torch.cat([points, points + 1e-4 * along, points + 0.1 * along])).copies
    assert copies is not None
    assert torch.equal(copies[:100], copies[100:200])
    assert len(copies.unique()) == 200


def test_rows_at_usual_distances_are_no_copies() -> None:
    assert _hierarchy(_groups(1000)[0]).copies is None
    assert _hierarchy(pf.data.load("digits", n=500).points.flatten(1)).copies is None
    assert _hierarchy(_copied(300, 2, 1, 1e-4)[0]).copies is None  # too few to matter
    assert _hierarchy(torch.randn(500, 1, generator=torch.Generator().manual_seed(0))).copies is None


def test_images_of_other_rows_may_be_nearer_than_a_copy() -> None:
    points, _ = _copied(50, 50, 1, 1e-3)
    weights = torch.full((100,), 0.01, dtype=torch.float64)
    problems = [
        SemiDual(points, weights, pf.measures.Gaussian(16), 0.0, 1 << 28, group)
        for group in (None, pf.symmetry.Shifts((16,)))
    ]
    assert [Descent(problem).copies is None for problem in problems] == [False, True]


def test_copies_are_as_far_apart_as_their_scores_are() -> None:
    """The gap of a pair over its spacing has one law for all of them: that of |z| times a typical distance."""
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(400, 16, generator=generator, dtype=torch.float64)
    apart = torch.logspace(-5, -3, 400, dtype=torch.float64)[:, None]
    direction = torch.nn.functional.normalize(torch.randn(points.shape, generator=generator, dtype=torch.float64))
    rows = torch.cat([points, points + apart * direction, torch.randn(7, 16, generator=generator).double()])
    labels = torch.cat([torch.arange(400).repeat(2), torch.arange(400, 407)])
    weights = torch.full((807,), 1 / 807, dtype=torch.float64)
    problem = SemiDual(rows, weights, pf.measures.Gaussian(16), 0.0, 1 << 28)
    copies = NearCopies(problem, labels)
    assert torch.equal(labels[copies.first], torch.arange(407))
    expected = torch.cat([(apart / apart.median())[:, 0].repeat(2), torch.zeros(7, dtype=torch.float64)])
    torch.testing.assert_close(copies.spacings, expected, rtol=0.02, atol=0)
    gaps = copies.gaps(torch.randn(4000, 16, generator=generator))
    unit = apart.median() / problem.radius
    torch.testing.assert_close(gaps.median() / unit, torch.tensor(0.6745, dtype=torch.float64), rtol=0.05, atol=0)
    assert abs(float(torch.corrcoef(torch.stack([gaps, copies.spacings[:800].repeat(5)]))[0, 1])) < 0.1


def test_a_copy_that_is_not_the_nearest_takes_shorter_steps() -> None:
    """A row that the cuts put elsewhere is nearer to one of two copies than they are to each other."""
    points = torch.randn(20, 16, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    along = torch.nn.functional.one_hot(torch.tensor(0), 16)
    rows = torch.cat([points, points[:10] + 1e-3 * along, points[:1] - 1e-4 * along])
    labels = torch.cat([torch.arange(20), torch.arange(10), torch.tensor([20])])
    weights = torch.full((31,), 1 / 31, dtype=torch.float64)
    spacings = NearCopies(SemiDual(rows, weights, pf.measures.Gaussian(16), 0.0, 1 << 28), labels).spacings
    expected = torch.tensor([0.1] + 9 * [1.0] + 10 * [0.0] + 10 * [1.0] + [0.0], dtype=torch.float64)
    torch.testing.assert_close(spacings, expected, rtol=1e-6, atol=0)


def test_few_atoms_have_no_groups() -> None:
    assert _groups(4)[1] == []


def test_a_group_moves_by_the_harmonic_mean_of_its_spacings() -> None:
    """Its mass leaks through the borders of its cells, in proportion to one over each spacing."""
    group = torch.tensor([0, 0, 0, 1, 1, 1])
    weights = torch.full((6,), 1 / 6, dtype=torch.float64)
    spacings = torch.tensor([1.0, 2.0, 4.0, 3.0, 3.0, 3.0], dtype=torch.float64)
    heights = torch.zeros(6, dtype=torch.float64)
    mass = torch.tensor([0.2, 0.3, 0.1, 0.1, 0.1, 0.2], dtype=torch.float64)  # a fifth too much, and too little
    _Levels([group], weights, spacings).move(heights, mass, [0.5])
    expected = torch.tensor([0.5 * 0.2 * 12 / 7, -0.5 * 0.2 * 3.0], dtype=torch.float64)
    torch.testing.assert_close(heights, expected[group])
