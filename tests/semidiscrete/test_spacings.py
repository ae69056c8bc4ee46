"""Distances to the nearest atom, and to its nearest image, against those of all pairs."""

from __future__ import annotations

import pytest
import torch

import proxflow as pf
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.spacings import nearest_distances
from proxflow.symmetry import Symmetry


@pytest.mark.parametrize(
    "symmetry",
    [None, pf.symmetry.HorizontalFlip((2, 3, 4)), pf.symmetry.Shifts((2, 3, 4))],
    ids=["none", "flip", "shifts"],
)
def test_the_nearest_of_all_images(symmetry: Symmetry | None) -> None:
    rows = torch.randn(60, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    if symmetry is not None:
        rows[30:] = symmetry.apply(rows[:30], 1) + 1e-3 * rows[30:]  # nearest to images of others
    weights = torch.full((60,), 1 / 60, dtype=torch.float64)
    problem = SemiDual(rows, weights, pf.measures.Gaussian(24), 0.0, 1 << 28, symmetry)
    images = [rows] if symmetry is None else [symmetry.apply(rows, element) for element in range(len(symmetry))]
    apart = torch.stack([torch.cdist(rows, image) for image in images]).amin(0).fill_diagonal_(torch.inf)
    found = nearest_distances(problem, problem.rows, problem.rows)
    torch.testing.assert_close(found, apart.amin(1) / problem.radius, rtol=1e-9, atol=0)
