"""Heights carried over to the same atoms, to more of them, and to moved ones."""

from __future__ import annotations

import pytest
import torch

from proxflow.errors import ConvergenceWarning
from proxflow.potentials import Ball
from proxflow.semidiscrete import Fit, fit
from proxflow.semidiscrete.start import carried_heights


def cloud(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def earlier() -> Fit:
    return fit(cloud(300, 4))


def test_known_atoms_keep_their_heights_in_any_order(earlier: Fit) -> None:
    atoms = earlier.potential.points
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    assert torch.equal(carried_heights(earlier, atoms[order]), earlier.potential.heights[order])
    assert torch.equal(carried_heights(earlier.potential, atoms[:7]), earlier.potential.heights[:7])


@pytest.mark.parametrize("change", ["added", "moved"])
def test_a_fit_of_changed_data_starts_nearer_to_its_end(earlier: Fit, change: str) -> None:
    atoms = earlier.potential.points
    points = torch.cat([atoms, cloud(30, 4, seed=2)]) if change == "added" else atoms + 0.02 * cloud(300, 4, seed=3)
    with pytest.warns(ConvergenceWarning):
        cold = fit(points, max_samples=5000, tol=1e-4)
    with pytest.warns(ConvergenceWarning):
        warm = fit(points, max_samples=5000, tol=1e-4, warm_start=earlier)
    assert warm.chi2 < cold.chi2 if change == "added" else warm.chi2 < 2 * cold.chi2
    assert fit(points, warm_start=earlier).converged


def test_no_new_atom_is_left_without_noise(earlier: Fit) -> None:
    points = torch.cat([earlier.potential.points, cloud(50, 4, seed=4)])
    heights = carried_heights(earlier, points)
    noise = cloud(100_000, 4, seed=5)
    counts = torch.bincount((noise @ points.mT - heights).argmax(1), minlength=350)
    assert int((counts[300:] == 0).sum()) <= 5  # the cloud that carries heights over has 4096 points


def test_what_cannot_be_carried_over_is_refused(earlier: Fit) -> None:
    with pytest.raises(ValueError, match="dimension 4, the points 5"):
        fit(cloud(10, 5), warm_start=earlier)
    with pytest.raises(ValueError, match="must be a Fit, a potential or heights, got Ball"):
        fit(cloud(10, 5), warm_start=Ball(5))  # type: ignore[arg-type]
