"""Pairs under a symmetry: targets are images of rows, and both marginals are right."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.couplings import Conditional, PairFile, Semidiscrete, Subspace, principal_directions
from proxflow.couplings.directions import directions_kept_by
from proxflow.potentials import SymmetricDiscrete
from proxflow.symmetry import Group, HorizontalFlip, Shifts, Symmetry
from tests.couplings.normality import ALPHA, REJECTED, frequency_p_value, normal_p_value
from tests.marks import slow_beyond
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
    with pytest.raises(ValueError, match=r"PairedNoise: with a symmetry .* pairs_for"):
        pf.adapters.PairedNoise(coupling)
    with pytest.raises(ValueError, match="must have the symmetry of the points"):
        Subspace(coupling, points, torch.eye(2, dtype=f64))
    with pytest.raises(ValueError, match="Conditional: potentials must have the symmetry"):
        Conditional(points, torch.zeros(N + 2, dtype=torch.int64), {0: coupling.potential})
    with pytest.raises(ValueError, match="1 point is no atom"):
        Semidiscrete(coupling.potential, torch.cat([points, points[:1] + 1]))


SHIFTS = Shifts((3, 4))


def images_of(points: Tensor, group: Symmetry) -> Tensor:
    """All images of rows (N, *event), (N, G, *event)."""
    flat = points.flatten(1)
    return torch.stack([group.apply(flat, g).reshape(points.shape) for g in range(len(group))], 1)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize(
    ("group", "dim"),
    slow_beyond(2, [(HorizontalFlip((3, 4)), 1), (SHIFTS, 5), (HorizontalFlip((3, 4)), 5), (SHIFTS, 2), (SHIFTS, 12)]),
    ids=lambda value: getattr(value, "dim", None) and repr(value),
)
def test_in_a_few_directions_rows_and_elements_have_the_law_of_the_data(
    group: Symmetry, dim: int, dtype: torch.dtype
) -> None:
    points = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(3), dtype=f64).to(dtype)
    subspace = Subspace.fit(points, dim, symmetry=group, tol=2e-3, labels=torch.arange(5))
    pairs = subspace.sample(6000, generator=torch.Generator().manual_seed(4))
    assert pairs.target.dtype == dtype
    assert torch.equal(pairs.label, pairs.index)
    equal = (images_of(points, group)[pairs.index] == pairs.target[:, None]).flatten(2).all(2)
    assert bool((equal.sum(1) == 1).all())  # no image of these rows is another's, and images are exact
    cell = len(group) * pairs.index + equal.double().argmax(1)
    cells = 5 * len(group)
    assert frequency_p_value(cell, torch.full((cells,), 1 / cells)) > ALPHA
    assert normal_p_value(pairs.source) > ALPHA


def test_directions_that_a_symmetry_mixes_are_taken_together() -> None:
    """Waves of period 4: sine and cosine are two directions of one variance, which shifts turn into one another."""
    generator = torch.Generator().manual_seed(3)
    phase = torch.rand(50, 1, 1, generator=generator, dtype=f64)
    wave = torch.cos(2 * torch.pi * (phase + torch.arange(4) / 4))  # (50, 1, 4), the same in each row of an image
    points = wave + 0.1 * torch.randn(50, 3, 4, generator=generator, dtype=f64)
    with pytest.raises(ValueError, match="the symmetry mixes direction 1 with the next ones; take 2"):
        principal_directions(points, 1, symmetry=SHIFTS)
    with pytest.raises(ValueError, match="the symmetry mixes direction 1 with the next ones; take 2"):
        Subspace.fit(points, 1, symmetry=SHIFTS)
    directions = principal_directions(points, 2, symmetry=SHIFTS)
    assert float((wave.expand(50, 3, 4).flatten(1) @ directions).square().sum(1).min()) > 5.9  # of |wave|^2 = 6
    assert principal_directions(points.flatten(1), 2, symmetry=SHIFTS).equal(directions)


def test_elements_that_the_directions_do_not_tell_apart_are_drawn_apart_from_the_noise() -> None:
    """The mean over columns is the same for all shifts: in its directions the group does nothing."""
    points = torch.randn(4, 3, 4, generator=torch.Generator().manual_seed(5), dtype=f64)
    still = torch.eye(3, dtype=f64).repeat_interleave(4, dim=0) / 2  # (12, 3): the mean of each row of an image
    subspace = Subspace.fit(points, 3, frame=still, symmetry=SHIFTS, tol=2e-3)
    assert len(subspace.coupling.symmetry) == 1
    pairs = subspace.sample(4000, generator=torch.Generator().manual_seed(6))
    equal = (images_of(points, SHIFTS)[pairs.index] == pairs.target[:, None]).flatten(2).all(2)
    element = equal.double().argmax(1)
    for row in range(4):
        assert frequency_p_value(element[pairs.index == row], torch.full((4,), 0.25)) > ALPHA
    assert normal_p_value(pairs.source[element == 1]) > ALPHA


@pytest.mark.parametrize(("group", "dim"), [(HorizontalFlip((3, 4)), 5), (SHIFTS, 8)])
def test_pairs_in_a_few_directions_are_those_with_every_image_as_a_row(group: Symmetry, dim: int) -> None:
    points = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(7), dtype=f64)
    frame = principal_directions(images_of(points, group).flatten(0, 1), dim)
    subspace = Subspace.fit(points, dim, symmetry=group, tol=2e-3)
    torch.testing.assert_close(subspace.directions @ subspace.directions.mT, frame @ frame.mT)
    pairs = subspace.sample(1000, generator=torch.Generator().manual_seed(8))
    assert isinstance(subspace.potential, SymmetricDiscrete)
    expanded = subspace.potential.expanded()
    along = expanded.brenier_map(pairs.source.flatten(1) @ subspace.directions)
    about_mean = pairs.target.flatten(1) - images_of(points, group).mean((0, 1)).flatten()
    torch.testing.assert_close(along, about_mean @ subspace.directions)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
def test_rows_stored_with_their_images_share_an_orbit_and_go_to_either(dtype: torch.dtype) -> None:
    """Products round an image in another way than the row: orbits are those of the rows themselves."""
    points = 10 + torch.randn(40, 8, 8, generator=torch.Generator().manual_seed(9), dtype=dtype)
    both, flip = torch.cat([points, points.flip(-1)]), HorizontalFlip((8, 8))
    subspace = Subspace.fit(both, 4, symmetry=flip, tol=0.02)
    assert len(subspace.potential.points) == 40
    pairs = subspace.sample(8000, generator=torch.Generator().manual_seed(10))
    own = (pairs.target == both[pairs.index]).flatten(1).all(1)
    mirrored = (pairs.target == both[pairs.index].flip(-1)).flatten(1).all(1)
    assert bool((own ^ mirrored).all())
    assert frequency_p_value(2 * pairs.index + own, torch.full((160,), 1 / 160)) > ALPHA


def test_an_epoch_in_a_few_directions_has_every_row_once() -> None:
    points, flip = torch.randn(7, 3, 4, generator=torch.Generator().manual_seed(11), dtype=f64), HorizontalFlip((3, 4))
    subspace = Subspace.fit(points, 4, symmetry=flip, tol=2e-3)
    index = torch.arange(7).repeat(300)
    pairs = subspace.pairs_for(index, generator=torch.Generator().manual_seed(12))
    own = (pairs.target == points[index]).flatten(1).all(1)
    assert bool((own ^ (pairs.target == points[index].flip(-1)).flatten(1).all(1)).all())
    assert frequency_p_value(own.long(), torch.full((2,), 0.5)) > ALPHA
    assert normal_p_value(pairs.source) > ALPHA
    with pytest.raises(ValueError, match=r"noise_for: with a symmetry .* pairs_for"):
        subspace.noise_for(index[:3])
    plain = Subspace.fit(points, 4, tol=0.1)
    assert torch.equal(plain.pairs_for(index[:9]).target, points[index[:9]])


def test_a_saved_potential_of_a_few_directions_gives_the_same_pairs(tmp_path: Path) -> None:
    points = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(13))
    subspace = Subspace.fit(points, 6, symmetry=SHIFTS, tol=0.01)
    pf.save(subspace.potential, tmp_path / "potential.safetensors")
    loaded = pf.load(tmp_path / "potential.safetensors")
    again = Subspace.from_potential(loaded, points, subspace.directions, symmetry=SHIFTS)
    one, other = (each.sample(64, generator=torch.Generator().manual_seed(14)) for each in (subspace, again))
    assert torch.equal(one.source, other.source)
    assert torch.equal(one.target, other.target)
    with pf.couplings.PairStream(subspace, 32, seed=1) as stream:
        first = next(stream)
    with pf.couplings.PairStream(again, 32, seed=1) as stream:
        assert torch.equal(next(stream).target, first.target)
    with pytest.raises(ValueError, match="must have the symmetry of the points"):
        Subspace.from_potential(loaded, points, subspace.directions)


@pytest.mark.slow
def test_the_number_that_is_chosen_is_one_that_the_symmetry_keeps() -> None:
    points = torch.randn(300, 3, 4, generator=torch.Generator().manual_seed(15))
    subspace = Subspace.fit(points, symmetry=SHIFTS, tol=0.2)
    assert subspace.selection is not None
    assert torch.equal(subspace.selection.directions, subspace.directions)
    assert 1 <= subspace.dim <= 12
    with pytest.raises(ValueError, match=r"Subspace: the symmetry acts on events of shape \(4, 3\)"):
        Subspace.fit(points, symmetry=Shifts((4, 3)), tol=0.2)
    with pytest.raises(ValueError, match="maps the span of the 1 directions out of itself"):
        Subspace.fit(points, frame=torch.eye(12)[:, :1], dim=1, symmetry=SHIFTS, tol=0.2)


@pytest.mark.parametrize("directions", slow_beyond(1, [5, None, "auto"]))
def test_classes_are_coupled_apart_with_images_of_their_rows(directions: Any, tmp_path: Path) -> None:
    flip, labels = HorizontalFlip((3, 4)), torch.arange(10) % 2 + 3
    points = torch.randn(10, 3, 4, generator=torch.Generator().manual_seed(16), dtype=f64)
    coupling = Conditional.fit(points, labels, directions=directions, symmetry=flip, tol=2e-3)
    index = torch.arange(10).repeat(600)
    for pairs in (
        coupling.sample(6000, generator=torch.Generator().manual_seed(17)),
        coupling.pairs_for(index, generator=torch.Generator().manual_seed(18)),
    ):
        assert torch.equal(pairs.label, labels[pairs.index])
        own = (pairs.target == points[pairs.index]).flatten(1).all(1)
        assert bool((own ^ (pairs.target == points[pairs.index].flip(-1)).flatten(1).all(1)).all())
        assert frequency_p_value(2 * pairs.index + own, torch.full((20,), 1 / 20)) > ALPHA
        for label in (3, 4):
            assert normal_p_value(pairs.source[pairs.label == label]) > ALPHA
    assert torch.equal(pairs.index, index)
    pf.save({str(label): potential for label, potential in coupling.potentials.items()}, tmp_path / "p.safetensors")
    loaded = {int(label): potential for label, potential in pf.load(tmp_path / "p.safetensors").items()}
    again = Conditional(points, labels, loaded, directions=coupling.directions, symmetry=flip)
    first, second = (each.sample(99, generator=torch.Generator().manual_seed(19)) for each in (coupling, again))
    assert torch.equal(first.target, second.target)
    with pytest.raises(ValueError, match=r"noise_for: with a symmetry .* pairs_for"):
        coupling.noise_for(index[:3])
    with pytest.raises(ValueError, match="symmetry"):
        Conditional(points, labels, loaded, directions=coupling.directions)


def test_a_cost_on_classes_has_no_symmetry() -> None:
    points, flip = torch.randn(10, 3, 4), HorizontalFlip((3, 4))
    with pytest.raises(ValueError, match="with a symmetry classes are kept apart; leave out strength= or symmetry="):
        Conditional.fit(points, torch.arange(10) % 2, strength=1.0, symmetry=flip)
    with pytest.raises(ValueError, match="Conditional: the symmetry acts in dimension 12, the points have 10"):
        Conditional.fit(points.flatten(1)[:, :10], torch.arange(10) % 2, symmetry=flip)
    with pytest.raises(ValueError, match="Conditional: directions must be between 1 and 12, got 13"):
        Conditional.fit(points, torch.arange(10) % 2, directions=13, symmetry=flip)


@pytest.mark.slow
def test_each_class_takes_a_number_of_directions_that_the_symmetry_keeps() -> None:
    """Waves: two directions belong together; walks: one has most variance, and the next two belong together."""
    generator = torch.Generator().manual_seed(24)
    phase = torch.rand(40, 1, generator=generator)
    waves = torch.cos(2 * torch.pi * (phase + torch.arange(12) / 12)) + 0.1 * torch.randn(40, 12, generator=generator)
    walks = torch.randn(40, 12, generator=generator).cumsum(1)
    one = torch.randn(1, 12, generator=generator)
    points, labels = torch.cat([waves, walks, one]), torch.tensor([0] * 40 + [1] * 40 + [2])
    coupling = Conditional.fit(points, labels, directions=2, symmetry=Shifts((12,)), tol=0.1)
    assert coupling.directions is not None
    assert [frame.shape[1] for frame in coupling.directions.values()][:2] == [2, 1]
    assert len(coupling.sample(100)) == 100


def test_without_a_symmetry_pairs_for_gives_rows_of_their_class() -> None:
    points, labels = torch.randn(12, 3, generator=torch.Generator().manual_seed(20)), torch.arange(12) % 3
    coupling = Conditional.fit(points, labels, tol=0.05)
    index = torch.tensor([5, 5, 0, 11, 7])
    pairs = coupling.pairs_for(index, generator=torch.Generator().manual_seed(21))
    assert torch.equal(pairs.target, points[index])
    assert torch.equal(pairs.label, labels[index])
    expected = Conditional.fit(points, labels, tol=0.05)
    assert torch.equal(pairs.source, expected.noise_for(index, generator=torch.Generator().manual_seed(21)))


def fixed_rows(group: Symmetry, dtype: torch.dtype) -> Tensor:
    """Twenty rows, of which the group leaves six in place but for their rounding."""
    rows = torch.randn(20, group.dim, generator=torch.Generator().manual_seed(25), dtype=f64)
    rows[:6] = group.invariant_part(rows[:6])
    rows[6:] *= 3
    return rows.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize(
    ("group", "dim"),
    slow_beyond(1, [(HorizontalFlip((1, 4)), 1), (Shifts((8,)), 2), (Shifts((8,)), 4), (QUARTER_TURNS, 2)]),
)
def test_rows_that_a_group_leaves_in_place_share_their_place(group: Symmetry, dim: int, dtype: torch.dtype) -> None:
    """All of them are 0 in directions that the group turns, but for rounding: atoms that no fit could tell apart."""
    points = fixed_rows(group, dtype)
    turned = points - group.invariant_part(points)
    frame = directions_kept_by(group, turned, torch.full((20,), 0.05, dtype=f64), dim)
    subspace = Subspace.fit(points, frame=frame, dim=frame.shape[1], symmetry=group, tol=1e-3)
    index = subspace.sample(10000, generator=torch.Generator().manual_seed(26)).index
    assert frequency_p_value(index, torch.full((20,), 1 / 20)) > 1e-6  # masses are right to the tolerance


@pytest.mark.parametrize("scale", slow_beyond(1, [1e-24, 1.0, 1e20]))
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_offsets_and_units_cost_no_optimality(scale: float, offset: float) -> None:
    points = pf.data.load("digits", n=200).points.flatten(1) / 16
    flip = HorizontalFlip((8, 8))
    plain = Subspace.fit(points, 4, symmetry=flip, tol=0.02)
    moved = Subspace.fit(scale * (points + offset), 4, symmetry=flip, tol=0.02)
    savings = []
    for coupling in (plain, moved):
        pairs = coupling.sample(20000, generator=torch.Generator().manual_seed(27))
        along, target = (part.double() @ coupling.directions.double() for part in (pairs.source, pairs.target))
        savings.append(float((along * (target - target.mean(0))).sum(1).mean()))
    assert savings[1] / scale == pytest.approx(savings[0], rel=0.03)


def test_a_frame_that_leaks_is_refused() -> None:
    points = torch.randn(30, 4, generator=torch.Generator().manual_seed(28), dtype=f64)
    odd, even = torch.tensor([1.0, 0, 0, -1], dtype=f64) / 2**0.5, torch.full((4,), 0.5, dtype=f64)
    flip = HorizontalFlip((1, 4))
    leaking = (odd * math.cos(2e-3) + even * math.sin(2e-3))[:, None]
    with pytest.raises(ValueError, match="Subspace: the symmetry maps the span of the 1 directions out of itself"):
        Subspace.fit(points, frame=leaking, dim=1, symmetry=flip)
    assert Subspace.fit(points, frame=odd[:, None], dim=1, symmetry=flip, tol=0.05).dim == 1


def test_a_group_in_float32_acts_on_rows_in_float64() -> None:
    thirds = torch.stack([torch.block_diag(turns(3)[g], torch.eye(2, dtype=f64)) for g in range(3)]).float()
    points = torch.randn(40, 4, generator=torch.Generator().manual_seed(29), dtype=f64)
    points[:, :2] *= 3
    assert len(Subspace.fit(points, 2, symmetry=Group(thirds), tol=0.05).sample(50)) == 50


@pytest.mark.parametrize("rows", [1, 3])
def test_directions_without_variance_are_told_apart_by_the_group(rows: int) -> None:
    points = torch.randn(rows, 3, 4, generator=torch.Generator().manual_seed(30), dtype=f64)
    assert Subspace.fit(points, 8, symmetry=HorizontalFlip((3, 4)), tol=0.05).dim == 8
    same = torch.ones(5, 12, dtype=f64)
    assert Subspace.fit(same, 7, symmetry=HorizontalFlip((3, 4)), tol=0.05).dim == 7


@pytest.mark.parametrize(("rows", "columns"), [(60, 1050), (400, 20)])
def test_directions_are_those_of_rows_and_images(rows: int, columns: int) -> None:
    points = torch.randn(rows, 2, columns, generator=torch.Generator().manual_seed(33)).cumsum(2)
    flip = HorizontalFlip((2, columns))
    images = images_of(points.double(), flip).reshape(2 * rows, -1)
    truth = torch.linalg.svd(images - images.mean(0)).Vh[:6].mT
    found = principal_directions(points, 6, symmetry=flip).double()
    torch.testing.assert_close(found @ found.mT, truth @ truth.mT, atol=1e-5, rtol=0)


def test_a_coupling_with_the_elements_in_another_order_is_taken() -> None:
    points = torch.randn(8, 4, generator=torch.Generator().manual_seed(31), dtype=f64)
    identity = torch.eye(4, dtype=f64)
    shifts = Shifts((4,))
    backwards = Group(torch.stack([shifts.apply(identity, g).mT for g in (3, 2, 1, 0)]))
    potential = pf.semidiscrete.fit(points, symmetry=backwards, tol=0.05).potential
    by_hand = Subspace(Semidiscrete(potential, points), points, identity, symmetry=shifts)
    pairs = by_hand.sample(100, generator=torch.Generator().manual_seed(32))
    assert isinstance(potential, SymmetricDiscrete)
    torch.testing.assert_close(pairs.target, potential.brenier_map(pairs.source))
