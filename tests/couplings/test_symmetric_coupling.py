"""Pairs under a symmetry: targets are images of rows, and both marginals are right."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.couplings import Conditional, PairFile, Semidiscrete, Subspace
from proxflow.potentials import SymmetricDiscrete
from proxflow.symmetry import Group
from tests.couplings.normality import ALPHA, REJECTED, frequency_p_value, normal_p_value
from tests.test_symmetry import turns

f64 = torch.float64
N = 12
QUARTER_TURNS = Group(turns(4))


def rows() -> Tensor:
    """Twelve rows, an image of the first one, and the centre, which is its own image."""
    points = torch.randn(N, 2, generator=torch.Generator().manual_seed(0), dtype=f64)
    return torch.cat([points, QUARTER_TURNS.apply(points[:1], 2), torch.zeros(1, 2, dtype=f64)])


@pytest.fixture(scope="module")
def coupling() -> Semidiscrete:
    potential = pf.semidiscrete.fit(rows(), symmetry=QUARTER_TURNS, tol=2e-3).potential
    return Semidiscrete(potential, rows(), torch.arange(N + 2))


def fitted_potential(coupling: Semidiscrete) -> SymmetricDiscrete:
    assert isinstance(coupling.potential, SymmetricDiscrete)
    return coupling.potential


def element_of(pairs: pf.couplings.Pairs) -> Tensor:
    """Which turn takes the row of each pair to its target."""
    images = torch.stack([QUARTER_TURNS.apply(rows()[pairs.index], g) for g in range(4)], 1)
    equal = (images == pairs.target[:, None]).all(2)
    assert bool(equal.any(1).all())
    return equal.double().argmax(1)


def test_targets_are_images_of_rows_in_the_law_that_was_fitted(coupling: Semidiscrete) -> None:
    pairs = coupling.sample(4000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(pairs.label, pairs.index)
    element = element_of(pairs)
    assert frequency_p_value(pairs.index, torch.full((N + 2,), 1 / (N + 2))) > ALPHA
    turned = pairs.index <= N
    assert (
        frequency_p_value(4 * pairs.index[turned] + element[turned], torch.full((4 * (N + 1),), 1 / 4 / (N + 1)))
        > ALPHA
    )
    assert normal_p_value(pairs.source) > ALPHA
    # the tests have power: what untransformed rows, or turns by one element only, would give
    assert frequency_p_value(4 * pairs.index[turned], torch.full((4 * (N + 1),), 1 / 4 / (N + 1))) < REJECTED


def test_pairs_are_those_of_the_coupling_with_every_image_as_a_row(coupling: Semidiscrete) -> None:
    pairs = coupling.sample(2000, generator=torch.Generator().manual_seed(1))
    assert torch.equal(fitted_potential(coupling).expanded().brenier_map(pairs.source), pairs.target)


def test_an_epoch_has_every_row_once_with_normal_noise_and_images_in_turn(coupling: Semidiscrete) -> None:
    index = torch.arange(N + 2).repeat(300)
    pairs = coupling.pairs_for(index, generator=torch.Generator().manual_seed(2))
    assert torch.equal(pairs.index, index)
    assert torch.equal(pairs.label, index)
    element = element_of(pairs)
    turned = index <= N
    assert frequency_p_value(element[turned], torch.full((4,), 1 / 4)) > ALPHA
    assert normal_p_value(pairs.source) > ALPHA
    assert normal_p_value(pairs.source[element == 0]) < REJECTED  # the cells of one image are no normal law
    assert torch.equal(fitted_potential(coupling).brenier_map(pairs.source), pairs.target)
    assert coupling.noise_law.approximated == 0


def test_a_cell_that_no_draw_hits_gets_the_draw_nearest_to_any_of_its_images() -> None:
    points = rows()[:3]
    heights = torch.tensor([0.0, 0.0, 100.0], dtype=f64)
    potential = pf.potentials.SymmetricDiscrete(points, heights, QUARTER_TURNS)
    lost = Semidiscrete(potential, points, max_draws=1000)
    pairs = lost.pairs_for(torch.full((20,), 2), generator=torch.Generator().manual_seed(3))
    assert lost.noise_law.approximated == 20
    assert sorted(set(potential.nearest_image_of(pairs.source, pairs.index).element.tolist())) == [0, 1, 2, 3]
    gap = potential.conjugate(pairs.source) - ((pairs.source * pairs.target).sum(1) - 100.0)
    assert lost.noise_law.largest_gap == pytest.approx(float(gap.max()))


def test_without_a_symmetry_pairs_for_gives_rows_with_the_noise_of_noise_for() -> None:
    points = rows()[:N]
    potential = pf.semidiscrete.fit(points).potential
    index = torch.arange(N).flip(0)
    pairs = Semidiscrete(potential, points).pairs_for(index, generator=torch.Generator().manual_seed(4))
    noise = Semidiscrete(potential, points).noise_for(index, generator=torch.Generator().manual_seed(4))
    assert torch.equal(pairs.source, noise)
    assert torch.equal(pairs.target, points[index])


def test_events_keep_their_shape_and_streams_train_on_images() -> None:
    flip = pf.symmetry.HorizontalFlip((1, 2, 3))
    images = torch.randn(8, 1, 2, 3, generator=torch.Generator().manual_seed(0))
    potential = pf.semidiscrete.fit(images, symmetry=flip, tol=0.1, max_samples=3000).potential
    pairs = Semidiscrete(potential, images).sample(64, generator=torch.Generator().manual_seed(1))
    own, mirrored = images[pairs.index], images[pairs.index].flip(-1)
    is_own, is_mirrored = ((pairs.target == each).flatten(1).all(1) for each in (own, mirrored))
    assert pairs.source.shape == pairs.target.shape == (64, 1, 2, 3)
    assert bool((is_own ^ is_mirrored).all())
    assert 0 < int(is_own.sum()) < 64


def test_what_takes_rows_for_targets_refuses(coupling: Semidiscrete, tmp_path: Path) -> None:
    points = rows()
    with pytest.raises(ValueError, match=r"noise_for: with a symmetry .* pairs_for"):
        coupling.noise_for(torch.arange(3))
    with pytest.raises(ValueError, match="rows_for: with a symmetry"):
        coupling.rows_for(torch.zeros(3, 2, dtype=f64))
    with pytest.raises(ValueError, match="with a symmetry"):
        PairFile.write(coupling, tmp_path / "pairs", pairs=100)
    with pytest.raises(ValueError, match="Subspace: the coupling has a symmetry"):
        Subspace(coupling, points, torch.eye(2, dtype=f64))
    with pytest.raises(ValueError, match=r"Conditional: the potential must have atoms .* give its expanded"):
        Conditional(points, torch.zeros(N + 2, dtype=torch.int64), {0: coupling.potential})
    with pytest.raises(ValueError, match="1 point is no atom"):
        Semidiscrete(coupling.potential, torch.cat([points, points[:1] + 1]))
