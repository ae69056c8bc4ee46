"""Couplings in a few directions: exact in law whatever the directions, and as many of them as the rows can tell."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.couplings import (
    Conditional,
    Coupling,
    Independent,
    JointConditional,
    Minibatch,
    PairStream,
    Semidiscrete,
    Subspace,
    choose_directions,
    principal_directions,
)
from proxflow.semidiscrete import fit
from tests.couplings.normality import ALPHA, normal_p_value
from tests.marks import slow_beyond

f64 = torch.float64


def rows(n: int, deviations: list[float], seed: int = 0) -> Tensor:
    """Normal rows, turned, about a far centre."""
    generator = torch.Generator().manual_seed(seed)
    d = len(deviations)
    frame = torch.linalg.qr(torch.randn(d, d, generator=generator, dtype=f64)).Q
    return (torch.randn(n, d, generator=generator, dtype=f64) * torch.tensor(deviations, dtype=f64)) @ frame.T + 5


@pytest.fixture(scope="module")
def points() -> Tensor:
    return rows(60, [3, 2, 1, 0.5, 0.1])


@pytest.fixture(scope="module")
def coupling(points: Tensor) -> Subspace:
    return Subspace.fit(points, dim=2, tol=1e-3)


def test_in_the_directions_it_is_the_coupling_there_and_elsewhere_independent(
    points: Tensor, coupling: Subspace, generator: torch.Generator
) -> None:
    pairs = coupling.sample(20000, generator=generator)
    frame = coupling.directions
    assert frame.shape == (5, 2)
    z = pairs.source @ frame
    potential: Any = coupling.potential
    assert torch.equal(potential.nearest_atom(z), coupling.coupling.atom_of_row[pairs.index])
    assert normal_p_value(pairs.source) > ALPHA
    rest = pairs.source - z @ frame.T
    target = points[pairs.index] - points.mean(0)
    assert (rest.T @ target / len(rest)).abs().max() < 5 * float(target.norm(dim=1).max()) / math.sqrt(len(rest))


def test_without_a_dimension_it_is_chosen_and_the_choice_is_kept(points: Tensor) -> None:
    fitted = Subspace.fit(points, tol=0.1)
    assert fitted.selection is not None
    assert fitted.dim == fitted.selection.count == fitted.directions.shape[1]
    assert torch.equal(fitted.directions, fitted.selection.directions)
    assert Subspace.fit(points, 3, tol=0.1).selection is None


def test_of_a_given_frame_the_first_directions_are_taken(points: Tensor) -> None:
    frame = principal_directions(points, 5).flip(1)[:, :4]  # the least first
    fitted = Subspace.fit(points, 2, frame=frame, tol=0.1)
    assert torch.equal(fitted.directions, frame[:, :2])
    chosen = Subspace.fit(points, frame=frame, tol=0.1)
    assert chosen.dim == 4  # all of them: the first are of little variance
    assert torch.equal(chosen.directions, frame)


def test_the_cost_lies_between_that_of_all_directions_and_of_none(
    points: Tensor, coupling: Subspace, generator: torch.Generator
) -> None:
    def cost(of: Coupling) -> float:
        pairs = of.sample(20000, generator=generator)
        return float((pairs.source - pairs.target).square().sum(1).mean())

    costs = [cost(Subspace.fit(points, dim=k, tol=1e-3)) for k in (1, 2, 5)]
    assert cost(Independent(points)) > costs[0] + 0.5
    assert costs[0] > costs[1] + 0.5
    assert costs[1] > costs[2] + 0.5
    assert costs[2] == pytest.approx(cost(Semidiscrete(fit(points, tol=1e-3).potential, points)), rel=0.02)


def test_noise_of_rows_is_in_their_cells_and_normal_over_epochs(
    points: Tensor, coupling: Subspace, generator: torch.Generator
) -> None:
    index = torch.arange(len(points)).repeat(100)
    noise = copy.deepcopy(coupling).noise_for(index, generator=generator)
    potential: Any = coupling.potential
    assert torch.equal(potential.nearest_atom(noise @ coupling.directions), coupling.coupling.atom_of_row[index])
    assert normal_p_value(noise) > ALPHA


@pytest.mark.parametrize("size", [7, 10, 16])
def test_batches_of_minibatches_are_known_by_their_number(points: Tensor, size: int) -> None:
    frame = principal_directions(points, 2)

    def stream(position: int) -> PairStream:
        return PairStream(Subspace(Minibatch(points @ frame, 10), points, frame), size, seed=3, position=position)

    with stream(0) as whole, stream(4) as later:
        batches = [next(whole) for _ in range(6)]
        assert torch.equal(next(later).source, batches[4].source)
        assert torch.equal(next(later).index, batches[5].index)
    assert not torch.equal(batches[0].source, batches[1].source)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_draw_the_same_pairs_for_a_seed_and_share_none(coupling: Subspace, copied: Callable[..., Any]) -> None:
    again = copied(coupling)
    first, second = (each.sample(5, generator=torch.Generator().manual_seed(0)) for each in (coupling, again))
    assert torch.equal(first.source, second.source)
    one, other = (each.noise_for(torch.tensor([3, 3])) for each in (coupling, again))
    assert not torch.equal(one, other)


def test_it_is_built_again_from_files(points: Tensor, coupling: Subspace, tmp_path: Path) -> None:
    pf.save(coupling.potential, tmp_path / "potential")
    pf.save({"directions": coupling.directions}, tmp_path / "directions")
    directions = pf.load(tmp_path / "directions")["directions"]
    again = Subspace.from_potential(pf.load(tmp_path / "potential"), points, directions)
    first, second = (each.sample(5, generator=torch.Generator().manual_seed(0)) for each in (coupling, again))
    assert torch.equal(first.source, second.source)


def test_a_potential_fitted_with_other_rounding_is_that_of_the_rows(points: Tensor) -> None:
    frame = principal_directions(points, 2)
    rounded = fit((points @ frame) * (1 + 1e-15), tol=1e-3).potential
    assert len(Subspace.from_potential(rounded, points, frame).sample(9)) == 9
    with pytest.raises(ValueError, match="60 points are no atoms of the potential"):
        Subspace.from_potential(rounded, points + 0.1, frame)


def test_features_of_any_kind_may_decide(points: Tensor, generator: torch.Generator) -> None:
    """Ranks of the first two coordinates: optimal for them, and exact in law in the space of the data."""
    features = points[:, :2].argsort(0).argsort(0).to(f64) / len(points)
    frame = torch.eye(5, dtype=f64)[:, [3, 1]]
    pairs = Subspace(Semidiscrete(fit(features, tol=1e-3).potential, features), points, frame).sample(
        20000, generator=generator
    )
    assert normal_p_value(pairs.source) > ALPHA
    assert torch.equal(pairs.target, points[pairs.index])
    assert float(torch.corrcoef(torch.stack([pairs.source[:, 3], features[pairs.index, 0]]))[0, 1]) > 0.5


def test_rows_that_agree_in_the_directions_share_an_atom(generator: torch.Generator) -> None:
    """Rounded apart they were atoms that no fit could tell apart: it ended unconverged, with rows never drawn."""
    ones = (torch.rand(80, 24, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    levels = torch.tensor([[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2
    frame = torch.kron(levels, torch.ones(6, 1)) / 6**0.5  # rows of equal sums of blocks agree in it
    points = (ones - ones.mean()) / ones.std()
    coupling = Subspace.fit(points, frame=frame, tol=0.05, dim=4)
    assert len(coupling.potential.points) == len(ones.reshape(80, 4, 6).sum(2).unique(dim=0)) < 80
    drawn = coupling.sample(16000, generator=generator).index
    assert int(torch.bincount(drawn, minlength=80).min()) > 100  # of 200
    again = Subspace.from_potential(coupling.potential, points, frame)
    assert torch.equal(again.coupling.atom_of_row, coupling.coupling.atom_of_row)


def test_labels_come_with_their_rows_or_as_they_were_drawn(points: Tensor, generator: torch.Generator) -> None:
    labels = torch.arange(60) % 3
    assert torch.equal((pairs := Subspace.fit(points, 1, labels=labels).sample(9)).label, labels[pairs.index])
    frame = principal_directions(points, 1)
    joint = JointConditional.fit(points @ frame, points[:, 0], 1.0, tol=0.05)
    pairs = Subspace(joint, points, frame).sample(500, generator=generator)
    assert not torch.equal(pairs.label, points[pairs.index, 0])  # the condition that was drawn with the noise


def test_classes_apart_have_directions_of_their_own(generator: torch.Generator) -> None:
    """Two classes that vary along other axes: the noise is normal in each, and paired along its axis."""
    points = torch.randn(200, 3, generator=torch.Generator().manual_seed(0), dtype=f64) * 0.1
    labels = torch.arange(200) % 2
    points[labels == 0, 0] *= 40
    points[labels == 1, 2] *= 40
    coupling = Conditional.fit(points, labels, directions=1, tol=1e-3)
    pairs = coupling.sample(20000, generator=generator)
    for label, axis in ((0, 0), (1, 2)):
        assert float(coupling.directions[label][axis].abs()) > 0.99
        own = pairs.source[pairs.label == label]
        assert normal_p_value(own) > ALPHA
        target = pairs.target[pairs.label == label]
        assert float(torch.corrcoef(torch.stack([own[:, axis], target[:, axis]]))[0, 1]) > 0.95
    again = Conditional(points, labels, coupling.potentials, directions=coupling.directions)
    first, second = (each.sample(5, generator=torch.Generator().manual_seed(0)) for each in (coupling, again))
    assert torch.equal(first.source, second.source)
    assert normal_p_value(coupling.noise_for(torch.arange(200).repeat(20), generator=generator)) > ALPHA


FRAME = torch.eye(5, dtype=f64)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda x, c: Subspace(c.coupling, x, FRAME[:, :1]),
            "60 rows of 2 .* and 1 directions; couple points @ directions",
        ),
        (lambda x, c: Subspace(c.coupling, x[:9], FRAME[:, :2]), "60 rows of 2 .* the points 9 rows"),
        (
            lambda x, c: Subspace(c.coupling, x.float(), FRAME[:, :2]),
            "float64 entries, the points 60 rows of torch.float32",
        ),
        (lambda x, c: Subspace(c.coupling, x, 2 * FRAME[:, :2]), "must be orthonormal, .* by 3; torch.linalg.qr"),
        (lambda x, c: Subspace(c.coupling, x, FRAME[:, :2] * torch.nan), "must be orthonormal"),
        (lambda x, c: Subspace(c.coupling, x, FRAME[:2, :2]), r"must be \(d, k\) with d = 5"),
        (lambda x, c: Subspace("pairs", x, FRAME[:, :2]), "must be one of proxflow's, .* got str"),  # type: ignore[arg-type]
        (
            lambda x, c: Subspace(Minibatch(x[:, :1], 9, source=pf.measures.Uniform(1)), x, FRAME[:, :1]),
            "the noise of the coupling must be standard normal in 1 dimension",
        ),
        (
            lambda x, c: Subspace(Minibatch(x[:, :1], 9), x, FRAME[:, :1]).noise_for(torch.arange(2)),
            "Minibatch pairs what it draws itself and has no noise for given rows",
        ),
        (lambda x, c: Subspace.fit(x, dim=6), "between 1 and the 5 coordinates, got 6"),
        (lambda x, c: Subspace.fit(x, dim=0), "between 1 and the 5 coordinates, got 0"),
        (lambda x, c: Subspace.fit(x, dim="all"), "between 1 and the 5 coordinates, got 'all'"),  # type: ignore[arg-type]
        (lambda x, c: Subspace.fit(x, 3, frame=FRAME[:, :2]), "dim must be between 1 and the 2 of the frame, got 3"),
        (lambda x, c: Subspace.fit(x, 1, frame=2 * FRAME[:, :2]), "must be orthonormal"),
        (lambda x, c: Subspace.fit(x, frame=FRAME[:3]), r"must be \(d, k\) with d = 5"),
        (lambda x, c: Subspace.fit(x[:, 0]), r"Subspace: points must be a non-empty \(N, \*event\)"),
        (
            lambda x, c: Conditional(x, torch.zeros(60).long(), {0: c.potential}, directions={1: FRAME}),
            "no directions for",
        ),
        (
            lambda x, c: Conditional.fit(x, torch.zeros(60).long(), directions=1, source=pf.measures.Uniform(5)),
            "directions need standard normal noise",
        ),
        (lambda x, c: choose_directions(x, counts=[]), "counts must be whole numbers of at least 1"),
        (lambda x, c: choose_directions(x, counts=[1.5]), "counts must be whole numbers of at least 1"),  # type: ignore[list-item]
        (lambda x, c: principal_directions(x, 9), "between 1 and the 5 coordinates, got 9"),
    ],
)
def test_refusals(points: Tensor, coupling: Subspace, build: Callable[..., Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"(?s){message}"):
        build(points, coupling)


# ---------------------------------------------------------------- how many directions


def test_agreement_in_one_direction_is_its_share_of_the_variance() -> None:
    """Of normal rows the noise of k directions explains the variance in them, up to what half the rows do not know."""
    choice = choose_directions(rows(4000, [3, 2, 1, 1]), counts=[1, 2])
    assert float(choice.agreement[0]) == pytest.approx(9 / 15, abs=0.02)
    assert float(choice.agreement[1]) == pytest.approx(13 / 15, abs=0.02)
    assert choice.count == 2


@pytest.mark.slow
def test_directions_of_small_variance_are_left_out() -> None:
    """Four directions hold 94% of the variance; a thousand rows cannot tell the map of the other twelve."""
    choice = choose_directions(rows(1000, [3.0] * 4 + [0.45] * 12, seed=1))
    assert choice.count == 4
    assert choice.agreement.argmax() == choice.counts.index(4)


@pytest.mark.slow
def test_more_rows_estimate_more_directions() -> None:
    chosen = [choose_directions(rows(n, [1.5] * 12, seed=2), counts=[1, 2, 4, 8, 12]).count for n in (24, 3000)]
    assert chosen[0] < chosen[1]


def test_rows_that_come_twice_confirm_nothing() -> None:
    """Copies of a row are in one half: memorised cells would agree with themselves otherwise."""
    once = rows(200, [1.0] * 6)
    twice = choose_directions(torch.cat([once, once]), counts=[2, 6])
    assert torch.allclose(twice.agreement, choose_directions(once, counts=[2, 6]).agreement, atol=1e-9)


@pytest.mark.parametrize("seed", [2, 7])
def test_rows_that_agree_in_the_directions_share_their_noise(seed: int) -> None:
    """A yes and a no along the frame: each half tells the mean of its rows of either kind, not one row of each."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(800, 12, generator=generator, dtype=f64)
    points[:, 0] = torch.where(points[:, 0] < 0, -1.0, 1.0)
    points[:, 1:] += 0.3 * points[:, :1]
    choice = choose_directions(points, frame=torch.eye(12, dtype=f64), counts=[1, 2], seed=seed)
    told, rest = 1 + 11 * 0.3**2, 11
    assert float(choice.agreement[0]) == pytest.approx(told / (told + rest), abs=0.02)


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_unit_of_the_data_does_not_matter(scale: float) -> None:
    plain = rows(80, [2, 1, 0.5]) - 5
    assert torch.allclose(
        choose_directions(scale * plain).agreement, choose_directions(plain).agreement, rtol=1e-3, atol=1e-3
    )
    assert torch.allclose(principal_directions(scale * plain, 2), principal_directions(plain, 2))
    coupled, in_units = (Subspace.fit(rows_, 2, tol=0.05) for rows_ in (scale * plain, plain))
    first, second = (each.sample(500, generator=torch.Generator().manual_seed(1)) for each in (coupled, in_units))
    assert torch.allclose(first.source, second.source)
    assert int((first.index != second.index).sum()) <= 5  # heights differ by rounding


@pytest.mark.parametrize("n", [1, 3, 7])
def test_few_rows_are_coupled_in_one_direction(n: int) -> None:
    choice = choose_directions(rows(n, [2, 1, 0.5]))
    assert choice.count == 1
    assert torch.isnan(choice.agreement).all()
    assert len(Subspace.fit(rows(n, [2, 1, 0.5])).sample(4)) == 4


def test_rows_that_are_all_equal_are_coupled_in_one_direction() -> None:
    assert choose_directions(torch.ones(50, 3)).count == 1


def test_the_choice_repeats_and_touches_no_global_generator(points: Tensor) -> None:
    before = torch.random.get_rng_state()
    first, again = (choose_directions(points, seed=4) for _ in range(2))
    assert torch.equal(first.agreement, again.agreement)
    assert torch.equal(first.directions, again.directions)
    assert torch.equal(before, torch.random.get_rng_state())


def test_weights_are_those_of_the_law(points: Tensor) -> None:
    weights = torch.zeros(60, dtype=f64)
    weights[:30] = 1
    assert torch.allclose(principal_directions(points, 2, weights), principal_directions(points[:30], 2), atol=1e-9)
    weighted, alone = choose_directions(points, weights), choose_directions(points[:30])
    assert weighted.count <= 5
    assert torch.isfinite(weighted.agreement).all()
    assert weighted.counts == alone.counts


@pytest.mark.parametrize(("n", "d", "count"), slow_beyond(2, [(50, 3000, 4), (400, 30, 3), (50, 3000, 30)]))
def test_principal_directions_are_singular_vectors(n: int, d: int, count: int) -> None:
    points = torch.randn(n, d, generator=torch.Generator().manual_seed(0), dtype=f64) * (1 + torch.arange(d) % 7)
    directions = principal_directions(points, count)
    expected = torch.linalg.svd(points - points.mean(0), full_matrices=False).Vh[:count].T
    assert torch.allclose((directions * expected).sum(0).abs(), torch.ones(count, dtype=f64), atol=1e-6)
    assert torch.allclose(directions.T @ directions, torch.eye(count, dtype=f64), atol=1e-9)
