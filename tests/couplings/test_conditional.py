"""Couplings under conditions: the noise keeps its law under each, which one coupling of all does not give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.couplings import (
    Conditional,
    JointConditional,
    Minibatch,
    NoiseLaw,
    PairStream,
    Semidiscrete,
    Subspace,
    pair,
)
from proxflow.couplings import conditional as conditional_coupling
from proxflow.couplings.pairs import joined
from proxflow.measures import Gaussian, Uniform
from proxflow.potentials import Discrete
from proxflow.semidiscrete import fit
from tests.couplings.normality import ALPHA, REJECTED, frequency_p_value, normal_p_value, same_law_p_value

F64 = torch.float64


def two_classes(dtype: torch.dtype = F64) -> tuple[Tensor, Tensor]:
    """Two clouds side by side, of 40 and 20 rows."""
    points = torch.randn(60, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    labels = torch.tensor([1] * 40 + [0] * 20)
    points[:, 0] += torch.where(labels == 1, 1.5, -1.5)
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    return points[order].to(dtype), labels[order]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def conditional() -> Conditional:
    return Conditional.fit(*two_classes())


# ------------------------------------------------------------------ classes


def test_given_the_class_the_noise_is_normal(conditional: Conditional) -> None:
    pairs = conditional.sample(6000, generator=seeded())
    for label in (0, 1):
        assert normal_p_value(pairs.source[pairs.label == label]) > ALPHA
    assert frequency_p_value(pairs.label, torch.tensor([20.0, 40.0])) > ALPHA
    assert frequency_p_value(pairs.index, torch.ones(60)) > ALPHA


@pytest.mark.parametrize("kind", ["semidiscrete", "minibatch", "pair"])
def test_one_coupling_of_all_classes_gives_each_its_own_noise(kind: str) -> None:
    """What couples the data and not the classes: the same test sees the bias of a network that is told the class."""
    points, labels = two_classes()
    if kind == "semidiscrete":
        pairs = Semidiscrete(fit(points).potential, points, labels).sample(2000, generator=seeded())
    elif kind == "minibatch":
        pairs = Minibatch(points, 60, labels).sample(2000, generator=seeded())
    else:
        row = torch.randint(60, (600,), generator=seeded())
        noise = torch.randn(600, 2, generator=seeded(1), dtype=F64)
        pairs = pair(noise, points[row], label=labels[row])
    assert normal_p_value(pairs.source) > ALPHA
    for label in (0, 1):
        assert normal_p_value(pairs.source[pairs.label == label]) < REJECTED


def test_pairs_are_optimal_in_their_class(conditional: Conditional) -> None:
    points, labels = two_classes()
    pairs = conditional.sample(1000, generator=seeded())
    for label, potential in conditional.potentials.items():
        of_class = pairs.label == label
        best = (pairs.source[of_class] @ potential.points.mT - potential.heights).argmax(1)
        assert torch.equal(potential.points[best], pairs.target[of_class])
        assert torch.equal(labels[pairs.index[of_class]], pairs.label[of_class])
    assert torch.equal(pairs.target, points[pairs.index])


def test_epochs_see_normal_noise_in_each_class(conditional: Conditional) -> None:
    points, labels = two_classes()
    coupling = Conditional(points, labels, conditional.potentials)
    generator = seeded()
    index = torch.cat([torch.randperm(60, generator=generator) for _ in range(100)])
    noise = torch.cat([coupling.noise_for(part, generator=generator) for part in index.split(64)])
    for label, potential in conditional.potentials.items():
        of_class = labels[index] == label
        assert normal_p_value(noise[of_class]) > ALPHA
        best = (noise[of_class] @ potential.points.mT - potential.heights).argmax(1)
        assert torch.equal(potential.points[best], points[index[of_class]])
    law = coupling.noise_law
    assert (law.served, law.approximated, law.largest_gap) == (6000, 0, 0.0)
    assert law.draws >= 6000


def test_a_class_that_loses_rows_of_its_noise_says_so() -> None:
    """The second atom of class 1 lies above the envelope of the others, so that no noise belongs to it."""
    points = torch.tensor([[-1.0], [0.0], [1.0], [5.0]], dtype=F64)
    labels = torch.tensor([1, 1, 1, 0])
    high = Discrete(points[:3], torch.tensor([0.0, 2.0, 0.0], dtype=F64))
    alone = Discrete(points[3:], torch.zeros(1, dtype=F64))
    coupling = Conditional(points, labels, {0: alone, 1: high})
    coupling.noise_for(torch.tensor([0, 3, 1, 3]), generator=seeded())
    law = coupling.noise_law
    assert (law.served, law.approximated) == (4, 1)
    assert law.largest_gap == pytest.approx(2, abs=0.01)  # |u| + 2 at the draw nearest to 0


def test_a_class_of_one_row(generator: torch.Generator) -> None:
    points, labels = two_classes()
    labels[5] = 9
    coupling = Conditional.fit(points, labels)
    pairs = coupling.sample(12_000, generator=generator)
    alone = pairs.label == 9
    assert pairs.index[alone].unique().tolist() == [5]
    assert normal_p_value(pairs.source[alone]) > ALPHA
    assert normal_p_value(coupling.noise_for(torch.full((500,), 5), generator=generator)) > ALPHA


@pytest.mark.parametrize(
    "labels",
    [torch.tensor([True, False, True, False]), torch.tensor([-7, 300, -7, 300]), torch.tensor([5, 5, 5, 5]),
     torch.tensor([0, 1, 2, 3]), torch.tensor([0, 255, 0, 255], dtype=torch.uint8),
     torch.tensor([0, 65535, 0, 65535], dtype=torch.uint16), torch.tensor([0, 7, 0, 7], dtype=torch.uint32),
     torch.tensor([0, 2**63 - 1, 0, 5], dtype=torch.uint64)],
    ids=["bool", "any numbers", "one class", "a class each", "uint8", "uint16", "uint32", "uint64"],
)  # fmt: skip
def test_classes_may_be_any_whole_numbers(labels: Tensor, generator: torch.Generator) -> None:
    points = torch.randn(4, 3, generator=generator)
    coupling = Conditional.fit(points, labels)
    pairs = coupling.sample(50, generator=generator)
    assert torch.equal(pairs.target, points[pairs.index])
    assert torch.equal(pairs.label, labels[pairs.index])
    assert coupling.noise_for(torch.arange(4), generator=generator).shape == (4, 3)


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64], ids=str)
def test_unsigned_columns_are_classes(dtype: torch.dtype, generator: torch.Generator) -> None:
    points, columns = (
        torch.randn(6, 3, generator=generator),
        torch.tensor([[0, 1], [0, 2], [0, 1], [3, 1], [3, 1], [0, 2]]),
    )
    potentials = Conditional.fit(points, columns.to(dtype)).potentials
    assert [len(potential.points) for potential in potentials.values()] == [2, 2, 2]


def test_classes_beyond_int64_are_refused() -> None:
    labels = torch.tensor([0, 2**63, 0, 2**63], dtype=torch.uint64)
    with pytest.raises(ValueError, match=r"Conditional: labels that are kept apart .* whole numbers of int64"):
        Conditional.fit(torch.randn(4, 3), labels)


@pytest.mark.parametrize("max_memory", [-1, 1.5, "1", True])
def test_a_memory_that_is_no_number_of_bytes_is_refused(conditional: Conditional, max_memory: Any) -> None:
    points, labels = two_classes()
    with pytest.raises(ValueError, match="Conditional: max_memory must be an integer of at least 0"):
        Conditional(points, labels, conditional.potentials, max_memory=max_memory)


def test_noise_of_another_law(generator: torch.Generator) -> None:
    source = Uniform(2, -1.0, 1.0)
    coupling = Conditional.fit(*two_classes(), source=source, tol=0.05)
    pairs = coupling.sample(2000, generator=generator)
    for label in (0, 1):
        given = pairs.source[pairs.label == label]
        assert same_law_p_value(given, source.sample(2000, generator=generator, dtype=F64)) > ALPHA


@pytest.mark.parametrize(
    ("index", "said"),
    [
        (torch.tensor([60]), "rows 0 to 59"),
        (torch.tensor([-1]), "rows 0 to 59"),
        (torch.tensor([[1]]), "whole numbers"),
        (torch.tensor([1.0]), "whole numbers"),
        (torch.ones(60, dtype=torch.bool), "whole numbers"),
    ],
)
def test_an_index_that_names_no_rows_is_refused(conditional: Conditional, index: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=f"Conditional: index must .*{said}"):
        conditional.noise_for(index)


def test_an_empty_index_is_no_noise(conditional: Conditional) -> None:
    points, labels = two_classes()
    coupling = Conditional(points, labels, conditional.potentials)
    assert coupling.noise_for(torch.empty(0, dtype=torch.int64)).shape == (0, 2)
    assert coupling.noise_law == NoiseLaw()


def test_labels_and_potentials_that_do_not_go_together_are_refused(conditional: Conditional) -> None:
    points, labels = two_classes()
    zero, one = (conditional.potentials[label] for label in (0, 1))
    cases = {
        r"no potential for the classes \[1\]; fit one": (points, labels, {0: zero}),
        "no atoms of the potential|some atoms": (points, labels, {0: one, 1: zero}),
        r"whole numbers, got \(60,\) of torch.float64; .*JointConditional": (points, labels.double(), {}),
        r"whole numbers, got \(60, 1, 1\)": (points, labels[:, None, None], {}),
        "whole numbers, got None": (points, None, {}),
    }
    for said, arguments in cases.items():
        with pytest.raises(ValueError, match=said):
            Conditional(*arguments)
    with pytest.raises(ValueError, match="whole numbers, got None"):
        Conditional.fit(points, None)


# ------------------------------------------------------------------ blocks of pairs, for streams and training


def test_batches_are_cut_from_blocks_of_all_classes(conditional: Conditional, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of blocks of 32 pairs, which batches of 50 straddle; the same whatever was drawn before."""
    monkeypatch.setattr(conditional_coupling, "_GROUP_PAIRS", 16)
    first, second = (Conditional(*two_classes(), conditional.potentials) for _ in range(2))
    ahead = {number: first.batch(number, 50, 7) for number in range(5)}
    for number in (4, 0, 3, 1, 2):
        pairs, again = ahead[number], second.batch(number, 50, 7)
        for one, other in ((pairs.source, again.source), (pairs.index, again.index), (pairs.label, again.label)):
            assert torch.equal(one, other)
    assert len(torch.unique(torch.cat([pairs.source for pairs in ahead.values()]), dim=0)) == 250
    assert not torch.equal(first.batch(0, 50, 8).source, ahead[0].source)


def test_pairs_of_a_stream_have_the_laws_of_samples(conditional: Conditional) -> None:
    points, labels = two_classes()
    with PairStream(conditional, 500, seed=1) as stream:
        pairs = joined([next(stream) for _ in range(12)])
    assert torch.equal(pairs.target, points[pairs.index])
    assert torch.equal(pairs.label, labels[pairs.index])
    assert frequency_p_value(pairs.index, torch.ones(60)) > ALPHA
    for label, potential in conditional.potentials.items():
        noise = pairs.source[pairs.label == label]
        assert normal_p_value(noise) > ALPHA
        best = (noise @ potential.points.mT - potential.heights).argmax(1)
        assert torch.equal(potential.points[best], pairs.target[pairs.label == label])


@pytest.mark.parametrize("directions", [None, 2])
def test_noise_that_waits_keeps_to_the_memory_of_all_classes(directions: int | None) -> None:
    """8 classes of 64 rows: each would keep more than 512 draws."""
    labels = torch.arange(512) % 8
    points = torch.randn(512, 4, generator=seeded())
    frame = torch.eye(4)[:, :2]
    own = {k: points[labels == k] if directions is None else points[labels == k] @ frame for k in range(8)}
    potentials = {k: Discrete(rows, rows.square().sum(1) / 2) for k, rows in own.items()}
    frames = None if directions is None else dict.fromkeys(range(8), frame)
    least = 8 * 512 * (4 if directions is None else 2) * 4  # bytes of 512 draws of each
    small = Conditional(points, labels, potentials, directions=frames, max_memory=least)
    large = Conditional(points, labels, potentials, directions=frames)
    index = torch.cat([torch.randperm(512, generator=seeded()) for _ in range(4)])
    for coupling in (small, large):
        for part in index.split(256):
            coupling.noise_for(part, generator=seeded())
    waiting = [sum(part_bytes(part) for part in coupling._parts.values()) for coupling in (small, large)]
    assert waiting[0] <= least < waiting[1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8], ids=str)
def test_two_draws_of_each_row_may_wait_however_rows_are_stored(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one a row takes 180 draws; noise of rows in bytes has four bytes a number."""
    monkeypatch.setattr(conditional_coupling, "WAITING", 0)
    points = torch.randint(256, (800, 6), generator=seeded(), dtype=torch.uint8).to(dtype)
    labels = torch.arange(800) % 2
    potentials = {k: Discrete(points[labels == k], torch.zeros(400)) for k in (0, 1)}
    coupling = Conditional(points, labels, potentials)
    assert [part._pool._capacity for part in coupling._parts.values() if isinstance(part, Semidiscrete)] == [800, 800]


def part_bytes(part: Any) -> int:
    """Of the noise that waits in a part of a coupling."""
    pool = part.coupling._pool if isinstance(part, Subspace) else part._pool
    return int(pool._stock.kept.waiting._lists.noise.nbytes)


# ------------------------------------------------------------------ numbers as conditions


def graded(n: int = 80) -> tuple[Tensor, Tensor]:
    """Points on a noisy line and where they lie along it."""
    generator = torch.Generator().manual_seed(0)
    condition = 2 * torch.rand(n, generator=generator, dtype=F64) - 1
    noise = 0.2 * torch.randn(n, 2, generator=generator, dtype=F64)
    return torch.stack([2 * condition, condition.square()], 1) + noise, condition


@pytest.fixture(scope="module")
def joint() -> dict[float, JointConditional]:
    return {weight: JointConditional.fit(*graded(), weight) for weight in (0.1, 3.0, 30.0)}


def test_labels_have_the_law_of_the_data_and_noise_is_independent_of_them(joint: dict[float, JointConditional]) -> None:
    _, condition = graded()
    for coupling in joint.values():
        pairs = coupling.sample(3000, generator=seeded())
        nearest = (pairs.label[:, None] - condition).abs().min(1)
        assert float(nearest.values.max()) < 1e-14  # w c / w
        assert frequency_p_value(nearest.indices, torch.ones(80)) > ALPHA
        for part in (pairs.label < -0.3, pairs.label.abs() < 0.3, pairs.label > 0.3):
            assert normal_p_value(pairs.source[part]) > ALPHA


def test_the_condition_of_the_row_makes_noise_dependent_where_the_drawn_one_does_not(
    joint: dict[float, JointConditional],
) -> None:
    """With a small weight rows are chosen by the noise, so that their own condition would give it away."""
    points, condition = graded()
    pairs = joint[0.1].sample(3000, generator=seeded())
    assert normal_p_value(pairs.source[condition[pairs.index] > 0.3]) < REJECTED
    plain = Semidiscrete(fit(points).potential, points, condition).sample(2000, generator=seeded())
    assert normal_p_value(plain.source[plain.label > 0.3]) < REJECTED


def test_a_saved_potential_couples_the_same_pairs(joint: dict[float, JointConditional], tmp_path: Path) -> None:
    coupling = joint[3.0]
    pf.save(coupling.potential, tmp_path / "potential")
    again = JointConditional(pf.load(tmp_path / "potential"), *graded(), 3.0)
    one, other = (each.sample(50, generator=seeded()) for each in (coupling, again))
    assert torch.equal(one.source, other.source)
    assert torch.equal(one.index, other.index)
    assert torch.equal(one.label, other.label)


def test_the_row_misses_the_label_less_as_the_weight_grows(joint: dict[float, JointConditional]) -> None:
    _, condition = graded()
    misses = []
    for coupling in joint.values():
        pairs = coupling.sample(4000, generator=seeded())
        assert torch.equal(pairs.target, graded()[0][pairs.index])
        assert frequency_p_value(pairs.index, torch.ones(80)) > ALPHA
        misses.append(float((pairs.label - condition[pairs.index]).abs().mean()))
    # unrelated, two uniform numbers of [-1, 1] are 2 / 3 apart
    assert misses[0] == pytest.approx(2 / 3, rel=0.1)
    assert misses[0] > 2 * misses[1] > 10 * misses[2]


def test_several_conditions_and_any_event_keep_their_shape(generator: torch.Generator) -> None:
    points = torch.randn(30, 1, 2, generator=generator)
    conditions = torch.randn(30, 2, generator=generator)
    pairs = JointConditional.fit(points, conditions, 3.0, tol=0.1).sample(7, generator=generator)
    assert pairs.source.shape == pairs.target.shape == (7, 1, 2)
    assert pairs.label.shape == (7, 2)
    assert pairs.label.dtype == torch.float32


def test_conditions_may_be_uneven_and_repeated(generator: torch.Generator) -> None:
    points, _ = graded(30)
    condition = torch.where(torch.arange(30) < 24, 0.0, 1.0).to(F64)
    pairs = JointConditional.fit(points, condition, 20.0).sample(3000, generator=generator)
    # far apart in the joint space, the conditions are met exactly but for the errors of the masses
    assert float((pairs.label != condition[pairs.index]).double().mean()) < 0.02
    for value in (0.0, 1.0):
        assert normal_p_value(pairs.source[pairs.label == value]) > ALPHA


def test_noise_of_another_law_with_conditions(generator: torch.Generator) -> None:
    points, condition = graded(30)
    source = Uniform(2, -1.0, 1.0)
    coupling = JointConditional.fit(points, condition, 1.0, source=source, tol=0.05)
    assert coupling.source is source
    drawn = coupling.sample(2000, generator=generator).source
    assert same_law_p_value(drawn, source.sample(2000, generator=generator, dtype=F64)) > ALPHA


def test_bad_conditions_are_refused() -> None:
    points, condition = graded(30)
    nan = condition.clone()
    nan[3] = torch.nan
    cases: dict[str, tuple[Any, ...]] = {
        "of the points' torch.float64, got torch.int64; for classes use": (points, condition.long(), 1.0),
        "got torch.float32": (points, condition.float(), 1.0),
        "conditions must be finite": (points, nan, 1.0),
        r"each of the 30 points, got \(29,\)": (points, condition[1:], 1.0),
        "got an array of <U": (points, [str(c) for c in condition], 1.0),
        "weight must be a positive number, got 0": (points, condition, 0.0),
        "weight must be a positive number, got nan": (points, condition, torch.nan),
        "weight must be a positive number, got inf": (points, condition, torch.inf),
        "weight must be a positive number, got -1": (points, condition, -1.0),
    }
    for said, arguments in cases.items():
        with pytest.raises(ValueError, match=f"JointConditional: .*{said}"):
            JointConditional.fit(*arguments)
    with pytest.raises(ValueError, match="source has dimension 3, the points 2"):
        JointConditional.fit(points, condition, 1.0, source=Gaussian(3))


def test_potentials_of_other_noise_conditions_or_weight_are_refused(joint: dict[float, JointConditional]) -> None:
    points, condition = graded()
    whole = torch.cat([points, condition[:, None]], 1)
    with pytest.raises(ValueError, match=r"does not hold the conditions .*JointConditional\.fit"):
        JointConditional(fit(whole, tol=0.1).potential, points, condition, 1.0)
    with pytest.raises(ValueError, match="are no atoms of the potential"):
        JointConditional(joint[3.0]._joint.potential, points, condition, 2.0)
