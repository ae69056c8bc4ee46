"""From class-wise to class-blind: the noise given the condition, in closed form, and what keeps its law throughout."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.couplings import Conditional, PairFile, Semidiscrete, condition_groups
from proxflow.couplings.condition_groups import Group, _saving
from proxflow.couplings.pairs import Rows
from proxflow.metrics import label_leakage
from proxflow.semidiscrete import fit
from tests.couplings.normality import ALPHA, REJECTED, frequency_p_value, normal_p_value, same_law_p_value
from tests.marks import slow_beyond

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clouds() -> tuple[Tensor, Tensor, Tensor]:
    """Two clouds of 20 and 12 rows side by side, their class, and a second class that halves each."""
    labels = torch.tensor([1] * 20 + [0] * 12)
    points = 0.4 * torch.randn(32, 2, generator=seeded(), dtype=F64)
    points[:, 0] += torch.where(labels == 1, 1.5, -1.5)
    other = torch.arange(32) % 2
    points[:, 1] += torch.where(other == 1, 1.5, -1.5)
    return points, labels, other


# Rows -a and a with conditions c and c', of which each is drawn half of the time. The saving is 2 a, and unrelated
# conditions differ by half of what these two do, so that at strength s they cost 4 a s. Noise x0 with the condition of
# -a goes to a where x0 > s, with that of a where x0 > -s. So E[x0 | a] = 2 phi(s).
CONDITIONS = {
    "classes": torch.tensor([3, 8]),
    "numbers": torch.tensor([-0.1, 70.0], dtype=F64),
    "embeddings": torch.tensor([[1.0, 0.0, 0.0], [0.0, 2.0, 5.0]], dtype=F64),
    "two classes, of which one says nothing": torch.tensor([[3, 1], [8, 1]]),
}


@pytest.mark.parametrize("conditions", slow_beyond(1, CONDITIONS))
@pytest.mark.parametrize("strength", slow_beyond(1, [0.25, 1.0]))
def test_between_two_rows_the_noise_is_as_the_strength_says(conditions: str, strength: float) -> None:
    points = torch.tensor([[-0.7], [0.7]], dtype=F64)
    coupling = Conditional.fit(points, CONDITIONS[conditions], strength=strength, tol=1e-5)
    pairs = coupling.sample(20_000, generator=seeded())
    density = math.exp(-(strength**2) / 2) / math.sqrt(2 * math.pi)
    for sign, row in ((-1, 0), (1, 1)):
        noise = pairs.source[pairs.index == row]
        # sd of x0 given its row is below 1; heights are fitted to sqrt(1e-5) = .003
        assert float(noise.mean()) == pytest.approx(sign * 2 * density, abs=4 / math.sqrt(10_000) + 0.005)
    assert torch.equal(pairs.label, CONDITIONS[conditions][pairs.index])


def test_between_two_rows_the_noise_of_another_source_is_as_the_strength_says() -> None:
    """As above with noise of deviation sqrt(3): x0 with the condition of -a goes to a where x0 > c = sqrt(3) s."""
    points, source = torch.tensor([[-0.7], [0.7]], dtype=F64), pf.measures.Uniform(1, -3.0, 3.0)
    coupling = Conditional.fit(points, CONDITIONS["classes"], strength=1.0, source=source, tol=1e-4)
    pairs = coupling.sample(20_000, generator=seeded())
    mean = float(pairs.source[pairs.index == 1].mean())
    assert mean == pytest.approx((9 - 3) / 6, abs=4 * 1.5 / math.sqrt(10_000) + 0.02)  # (9 - c^2) / 6


def saving_of(covariance: Tensor, other: Tensor) -> float:
    """2 tr (C^(1/2) S C^(1/2))^(1/2): C S has the eigenvalues of C^(1/2) S C^(1/2)."""
    return 2 * float(torch.linalg.eigvals(covariance @ other).real.clamp(min=0).sqrt().sum())


def rows_of_unlike_halves(dim: int) -> Tensor:
    """4,096 rows, wide and narrow ones by turns, along axes of unlike deviations."""
    rows = torch.randn(4096, dim, generator=seeded(), dtype=F64) @ torch.randn(dim, dim, generator=seeded(1), dtype=F64)
    rows[1::2] *= 0.01
    return rows + 100


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8, F64], ids=str)
def test_the_unit_of_the_cost_does_not_depend_on_the_order_of_rows(dtype: torch.dtype) -> None:
    rows = rows_of_unlike_halves(3).to(dtype)
    truth = saving_of(torch.cov(rows.double().mT, correction=0), torch.eye(3, dtype=F64))
    for order in (rows, torch.cat([rows[::2], rows[1::2]]), rows[torch.randperm(4096, generator=seeded())]):
        assert _saving(Rows("rows", order, None)) == pytest.approx(truth, rel=1e-9)
    weighted = _saving(Rows("rows", rows, None, torch.arange(4096) % 2 == 0))
    assert weighted == pytest.approx(_saving(Rows("rows", rows[::2], None)), rel=1e-9)


def test_in_many_coordinates_it_is_that_of_drawn_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(condition_groups, "_MOST_COLUMNS", 2)  # in place of 2,048, whose singular values take seconds
    monkeypatch.setattr(condition_groups, "_MOST_ROWS", 1024)
    rows = rows_of_unlike_halves(3)
    truth = saving_of(torch.cov(rows.mT, correction=0), torch.eye(3, dtype=F64))
    for order in (rows, torch.cat([rows[::2], rows[1::2]]), rows.repeat(2, 1)):
        # a variance is known to sqrt(3 / 1,024), a deviation to half of it
        assert _saving(Rows("rows", order, None)) == pytest.approx(truth, rel=0.1)
    # a heavy row is not missed: of mass 1/2, it makes the variance 1/4 of the square of its distance
    weights = torch.ones(4096)
    weights[7], rows[7, 2] = 4095, 1e4
    assert _saving(Rows("rows", rows, None, weights)) == pytest.approx(1e4, rel=0.05)


class Bent:
    """A user's own source, of covariance M M'."""

    def __init__(self, matrix: Tensor) -> None:
        self.matrix, self.dim = matrix, len(matrix)

    def sample(self, n: int, *, generator: Any = None, dtype: Any = None, device: Any = None) -> Tensor:
        return torch.randn(n, self.dim, generator=generator, dtype=dtype, device=device) @ self.matrix.mT.to(dtype)

    def log_prob(self, x: Tensor) -> Tensor:
        raise NotImplementedError


def test_the_unit_of_the_cost_is_that_of_the_source() -> None:
    rows, matrix, eye = (
        rows_of_unlike_halves(3),
        torch.randn(3, 3, generator=seeded(2), dtype=F64),
        torch.eye(3).to(F64),
    )
    cloud = (torch.randn(3000, 3, generator=seeded(3), dtype=F64) @ matrix.mT).float()
    mass = torch.rand(3000, generator=seeded(4), dtype=F64)
    spread = torch.cov(cloud.double().mT, correction=0, aweights=mass) + 0.04 * eye
    sources: list[tuple[Any, Tensor, float]] = [
        (pf.measures.Uniform(3, -5.0, 1.0), 3.0 * eye, 1e-9),
        (pf.measures.Empirical(cloud[:50]), torch.cov(cloud[:50].double().mT, correction=0), 1e-9),
        (pf.measures.Empirical(cloud, mass, bandwidth=0.2), spread, 1e-9),
        (Bent(matrix), matrix @ matrix.mT, 0.03),
    ]
    for part in (rows, rows[:100]):
        covariance, given = torch.cov(part.mT, correction=0), Rows("rows", part, None)
        assert _saving(given, pf.measures.Gaussian(3)) == _saving(given)
        for source, other, error in sources:
            assert _saving(given, source) == pytest.approx(saving_of(covariance, other), rel=error)
    group = Group.of(Rows("rows", rows, torch.arange(4096) % 2), torch.arange(4096), None, (1.0,), sources[0][0])
    assert group.features is not None
    apart = (group.features[0] - group.features[1]).square().sum()  # of half of all pairs
    assert float(apart) == pytest.approx(2 * _saving(group.rows, sources[0][0]), rel=1e-9)


@pytest.fixture(scope="module")
def between() -> Conditional:
    points, labels, _ = clouds()
    return Conditional.fit(points, labels, strength=0.3, tol=1e-3)


def test_without_strength_it_is_the_coupling_of_all_rows() -> None:
    points, labels, _ = clouds()
    blind = Conditional.fit(points, labels, strength=0.0)
    plain = Semidiscrete(fit(points).potential, points)
    noise = torch.randn(500, 2, generator=seeded(), dtype=F64)
    assert torch.equal(blind.rows_for(noise, generator=seeded()), plain.rows_for(noise))
    assert torch.equal(blind.sample(9, generator=seeded()).label, labels[blind.sample(9, generator=seeded()).index])


def test_noise_rows_and_labels_keep_their_laws_at_any_strength(between: Conditional) -> None:
    points, labels, _ = clouds()
    pairs = between.sample(4000, generator=seeded())
    assert normal_p_value(pairs.source) > ALPHA
    assert frequency_p_value(pairs.index, torch.ones(32)) > ALPHA
    assert torch.equal(pairs.target, points[pairs.index])
    assert torch.equal(pairs.label, labels[pairs.index])
    assert not between.deterministic


def test_the_noise_tells_the_class_the_less_the_larger_the_strength(between: Conditional) -> None:
    points, labels, _ = clouds()
    couplings = [
        Conditional.fit(points, labels, strength=0),
        between,
        Conditional.fit(points, labels, strength=3.0, tol=1e-3),
        Conditional.fit(points, labels),
    ]
    drawn = [coupling.sample(3000, generator=seeded(k)) for k, coupling in enumerate(couplings)]
    cost = [float((pairs.source - pairs.target).square().sum(1).mean()) for pairs in drawn]
    assert cost[0] < cost[1] < cost[2]
    leak = [label_leakage(pairs.source, pairs.label) for pairs in drawn]
    assert leak[0].excess > leak[1].excess + 4 * leak[1].stderr
    assert leak[1].excess > leak[2].excess + 4 * leak[1].stderr
    assert leak[0].excess > 20 * leak[0].stderr
    assert abs(leak[3].excess) < 4 * leak[3].stderr
    for label in (0, 1):
        given = [pairs.source[pairs.label == label] for pairs in drawn]
        assert normal_p_value(given[0]) < REJECTED
        assert normal_p_value(given[3]) > ALPHA


def test_noise_for_rows_and_rows_for_noise_are_those_of_the_pairs(between: Conditional) -> None:
    pairs = between.sample(20_000, generator=seeded())
    noise = between.noise_for(torch.full((600,), 3), generator=seeded(1))
    assert same_law_p_value(noise, pairs.source[pairs.index == 3]) > ALPHA
    row = between.rows_for(pairs.source, generator=seeded(2))
    # conditions are drawn anew: other rows, in the same law
    assert frequency_p_value(row, torch.ones(32)) > ALPHA
    assert same_law_p_value(pairs.source[row == 3], noise) > ALPHA


def test_some_conditions_are_kept_apart_and_others_cost() -> None:
    points, labels, other = clouds()
    both = torch.stack([labels, other], 1)
    coupling = Conditional.fit(points, both, strength=[math.inf, 0.0])
    assert sorted(coupling.potentials) == [0, 1]
    pairs = coupling.sample(4000, generator=seeded())
    assert torch.equal(pairs.label, both[pairs.index])
    for value in (0, 1):
        assert normal_p_value(pairs.source[pairs.label[:, 0] == value]) > ALPHA
        assert normal_p_value(pairs.source[pairs.label[:, 1] == value]) < REJECTED
    mixed = torch.stack([labels.to(F64), points[:, 1]], 1)
    soft = Conditional.fit(points, mixed, strength=(math.inf, 1.0), tol=0.01).sample(3000, generator=seeded())
    assert normal_p_value(soft.source[soft.label[:, 0] == 1]) > ALPHA
    apart = Conditional.fit(points, both)  # all four combinations
    assert sorted(apart.potentials) == [0, 1, 2, 3]
    pairs = apart.sample(4000, generator=seeded())
    for combination in ([0, 0], [1, 1]):
        assert normal_p_value(pairs.source[(pairs.label == torch.tensor(combination)).all(1)]) > ALPHA


def test_directions_weights_files_and_saved_potentials_go_with_a_strength(tmp_path: Path) -> None:
    points, labels, _ = clouds()
    weights = torch.where(labels == 1, 1.0, 2.0)
    coupling = Conditional.fit(points, labels, strength=0.5, directions=1, weights=weights, tol=0.1)
    pairs = coupling.sample(400, generator=seeded())  # too few to see a chi2 of .1
    assert normal_p_value(pairs.source) > ALPHA
    assert frequency_p_value(pairs.index, weights) > ALPHA
    pf.save(coupling.potentials, tmp_path / "potentials")
    again = Conditional(
        points, labels, pf.load(tmp_path / "potentials"), strength=0.5, weights=weights, directions=coupling.directions
    )
    assert torch.equal(again.sample(50, generator=seeded()).index, coupling.sample(50, generator=seeded()).index)
    PairFile.write(coupling, tmp_path / "pairs", pairs=2000)
    file = PairFile(tmp_path / "pairs", points)
    noise = torch.stack([noise for noise, _ in file.__getitems__(range(2000))])
    assert normal_p_value(noise) > ALPHA
    with pytest.raises(ValueError, match="no atoms of the potential"):
        Conditional(points, labels, coupling.potentials, strength=0.6, weights=weights, directions=coupling.directions)


def test_bad_strengths_and_labels_are_refused(between: Conditional) -> None:
    points, labels, other = clouds()
    both = torch.stack([labels, other], 1)
    cases: list[tuple[Any, Any, str]] = [
        (labels, -1.0, "strength must be a number of at least 0, .* got -1"),
        (labels, math.nan, "strength must be a number"),
        (both, "strong", "strength must be a number"),
        (both, [1.0, -1.0], "strength must be a number"),
        (both, [1.0, 1.0, 1.0], "3 strengths for 2 conditions"),
        (labels.double(), math.inf, r"whole numbers, got \(32,\) of torch.float64; .*finite strength="),
        (torch.stack([points[:, 0], points[:, 1]], 1), [math.inf, 1.0], "kept apart .* must be whole numbers"),
        (points[:, 0] / 0, 1.0, "labels must be finite"),
        (None, 1.0, "labels must be given, got None"),
    ]
    for given, strength, said in cases:
        with pytest.raises(ValueError, match=f"Conditional: .*{said}"):
            Conditional.fit(points, given, strength=strength)
    plain = fit(points).potential
    with pytest.raises(ValueError, match="Conditional: the potential was fitted without a cost"):
        Conditional(points, labels, {0: plain}, strength=0.3)
