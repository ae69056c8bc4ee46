"""Groups of atoms at several scales."""

from __future__ import annotations

from itertools import pairwise

import torch

from proxflow.semidiscrete.atom_groups import nested_groups
from proxflow.semidiscrete.descent import _Levels


def _groups(count: int, dim: int = 5) -> tuple[torch.Tensor, list[torch.Tensor]]:
    points = torch.randn(count, dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return points, nested_groups(points, torch.full((count,), 1 / count, dtype=torch.float64))


def test_regions_are_nested_and_coarsen_fourfold() -> None:
    *regions, _ = _groups(1000)[1]
    counts = [len(labels.unique()) for labels in regions]
    assert len(counts) >= 3
    assert 4 * counts[0] <= 1000
    assert all(4 * coarse <= fine for fine, coarse in pairwise(counts))
    for fine, coarse in pairwise(regions):
        pairs = torch.stack([fine, coarse]).unique(dim=1)
        assert pairs.shape[1] == len(fine.unique())


def test_last_groups_are_shells_around_the_mean() -> None:
    points, groups = _groups(1000)
    distance = torch.linalg.vector_norm(points - points.mean(0), dim=1)
    shells = [distance[groups[-1] == label] for label in range(int(groups[-1].max()) + 1)]
    assert all(abs(len(shell) - 1000 / len(shells)) < 1 for shell in shells)
    assert all(inner.max() <= outer.min() for inner, outer in pairwise(shells))


def test_no_region_holds_atoms_of_two_clusters() -> None:
    centres = torch.tensor([[-10.0, 0.0], [10.0, 0.0]], dtype=torch.float64).repeat_interleave(50, 0)
    points = centres + 1e-2 * torch.randn(100, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    *regions, _ = nested_groups(points, torch.full((100,), 0.01, dtype=torch.float64))
    assert all(set(labels[:50].tolist()).isdisjoint(labels[50:].tolist()) for labels in regions)


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
