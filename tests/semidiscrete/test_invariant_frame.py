"""Frames that groups leave in place, and antithetic noise in them: exact masses, which vary as independent ones."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from proxflow.measures import Gaussian
from proxflow.semidiscrete import fit
from proxflow.semidiscrete.descent import Descent
from proxflow.semidiscrete.invariant_frame import InvariantFrame, invariant_frame
from proxflow.semidiscrete.problem import SemiDual
from proxflow.symmetry import Group, HorizontalFlip, Shifts, Symmetry

f64 = torch.float64
FLIP = HorizontalFlip((1, 6, 8))


def both_flips(height: int, width: int) -> Group:
    """Up and down, left and right, and both, of images."""
    place = torch.arange(height * width).view(height, width)
    orders = place, place.flip(0), place.flip(1), place.flip(0, 1)
    return Group(torch.stack([torch.eye(height * width, dtype=f64)[order.flatten()] for order in orders]))


def reflections(dim: int, turned: int) -> Group:
    """The reflection of the first coordinates, by a matrix that is no permutation."""
    frame = torch.linalg.qr(cloud(dim, dim, seed=8)).Q
    signs = torch.ones(dim, dtype=f64).index_fill(0, torch.arange(turned), -1.0)
    return Group(torch.stack([torch.eye(dim, dtype=f64), (frame * signs) @ frame.mT]))


def cloud(n: int, dim: int, seed: int = 0) -> Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=f64)


def made(symmetry: Symmetry) -> InvariantFrame:
    frame = invariant_frame(symmetry, 1 << 20)
    assert frame is not None
    return frame


@pytest.mark.parametrize(
    ("symmetry", "least"), [(FLIP, 24), (both_flips(6, 8), 12), (reflections(20, 3), 3), (Shifts((5, 2, 3), (1,)), 15)]
)
def test_each_element_keeps_a_column_or_turns_it_round(
    symmetry: Symmetry, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = made(symmetry)
    dim = symmetry.dim
    torch.testing.assert_close(frame.columns.mT @ frame.columns, torch.eye(dim, dtype=f64))
    assert frame.least == least
    for element in range(len(symmetry)):
        moved = symmetry.apply(frame.columns.mT, element)
        torch.testing.assert_close(moved, frame.signs[element, :, None] * frame.columns.mT)
    eigh = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: SimpleNamespace(eigenvectors=-eigh(matrix).eigenvectors))
    assert torch.equal(made(symmetry).columns, frame.columns)
    assert float(frame.columns.abs().max()) < 0.97  # random as far as the group allows


def test_a_rounded_group_mixes_no_spaces() -> None:
    rounded = Group(reflections(784, 392).matrices.float())
    frame = made(rounded)
    moved = rounded.apply(frame.columns.mT, 1)
    assert float((moved - frame.signs[1, :, None] * frame.columns.mT).norm(dim=1).max()) < 2e-5
    assert invariant_frame(Group(reflections(400, 200).matrices.float().mul(2e3).round().div(2e3)), 1 << 20) is None


def test_groups_without_such_a_frame_and_frames_that_few_atoms_repay() -> None:
    assert invariant_frame(Shifts((1, 4, 4), (0, 1)), 1 << 20) is None  # not its own inverse
    assert invariant_frame(FLIP, 3) is not None
    assert invariant_frame(FLIP, 2) is None


@pytest.mark.parametrize("parts", [1, 4, 16])
def test_parts_have_their_share_of_each_kind_of_columns(parts: int) -> None:
    symmetry = both_flips(5, 9)
    frame = made(symmetry)
    columns, signs = frame.dealt(parts, torch.empty(0, dtype=f64))
    size = -(-45 // parts)
    assert columns.shape == (45, parts * size)
    assert signs.shape == (4, parts, size)
    torch.testing.assert_close(columns @ columns.mT, torch.eye(45, dtype=f64))
    for element in range(4):
        moved = symmetry.apply(columns.mT, element)
        torch.testing.assert_close(moved, signs[element].flatten()[:, None] * columns.mT)
    kinds = frame.signs.mT.unique(dim=0)
    counts = torch.stack([(signs.permute(1, 2, 0) == kind).all(2).sum(1) for kind in kinds])  # of each part
    assert int(counts.sum()) == 45
    assert int((counts.amax(1) - counts.amin(1)).max()) <= 1


@pytest.mark.parametrize(("symmetry", "parts"), [(FLIP, 1), (FLIP, 4), (both_flips(5, 9), 2), (reflections(40, 9), 2)])
@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_masses_are_those_of_independent_draws(symmetry: Symmetry, parts: int, dtype: torch.dtype) -> None:
    points, weights = (cloud(20, symmetry.dim) + 0.5).to(dtype), torch.full((20,), 0.05, dtype=f64)
    problem = SemiDual(points, weights, Gaussian(symmetry.dim), 0.0, 1 << 28, symmetry=symmetry)
    problem.search_in(dtype)
    assert problem.noise_frame is not None
    heights = 0.1 * cloud(20, 1, seed=1)[:, 0]
    draws = 1 << 16
    found = problem.antithetic_mass(draws, heights, parts, torch.Generator().manual_seed(2))
    alone = problem.count(problem.noise(draws, torch.Generator().manual_seed(4)), heights).mass
    assert float(found.sum()) == pytest.approx(1, abs=1e-12)
    error = (2.6 * alone.clamp(min=1e-4) / draws).sqrt()
    assert float(((found - alone) / error).abs().max()) < 4.5
    assert float(((found - weights) / error).abs().max()) > 20


def descent(points: Tensor, symmetry: Symmetry, max_memory: int = 1 << 28) -> Descent:
    weights = torch.full((len(points),), 1 / len(points), dtype=f64)
    return Descent(SemiDual(points, weights, Gaussian(points.shape[1]), 0.0, max_memory, symmetry=symmetry))


def test_where_noise_of_a_symmetric_fit_is_antithetic() -> None:
    flip = HorizontalFlip((1, 10, 12))
    points = cloud(300, 120)
    assert descent(points, flip).parts == 8
    assert descent(points, flip, max_memory=1 << 19).parts is None  # room for the atoms, not for the frame
    turned = points - points.view(-1, 10, 12).flip(2).flatten(1)  # to its opposite, by the flip
    assert descent(turned + 0.3 * points, flip).parts is None
    kept = 4 * (points - 0.5 * turned)
    assert (
        descent(torch.cat([turned[:45], kept[45:]]), flip).parts is None
    )  # three in twenty, which add little to squares
    assert descent(torch.cat([turned[:15], kept[15:]]), flip).parts == 8
    assert descent(points[:, :48], Group(torch.stack([torch.eye(48), -torch.eye(48)]))).parts is None
    assert descent(points[:, :16], Shifts((1, 4, 4), (0, 1))).parts is None
    assert descent(points[:, :40], reflections(40, 2)).parts == 1  # the frame is random in two dimensions only


@pytest.mark.parametrize("symmetry", [FLIP, both_flips(8, 16)])
def test_masses_vary_no_more_than_is_told(symmetry: Symmetry) -> None:
    steps = descent(cloud(200, symmetry.dim) + 0.3, symmetry)
    assert steps.parts is not None
    assert steps.parts > 1
    generator, heights, draws = torch.Generator().manual_seed(0), torch.zeros(200, dtype=f64), 1 << 10
    masses = torch.stack([steps.mass(draws, heights, generator) for _ in range(200)])
    told = (steps.inflation * masses.mean(0) * (1 - masses.mean(0)) / draws).sum()
    assert 0.85 < float(masses.var(0).sum() / told) < 1.1


def test_a_symmetric_fit_is_that_of_all_images() -> None:
    points = cloud(150, 48) * torch.arange(1, 49, dtype=f64) ** -0.5 + 0.2
    images = torch.cat([points, FLIP.apply(points, 1)])
    folded, whole = fit(points.view(-1, 1, 6, 8), symmetry=FLIP, tol=0.02), fit(images, tol=0.02)
    assert folded.converged
    low, high = whole.transport_cost_interval
    assert 2 * low - high <= folded.transport_cost <= 2 * high - low
