"""Assignments of any size, whatever the size of the batches that they are handed out in."""

from __future__ import annotations

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from proxflow.couplings import Minibatch, Pairs
from proxflow.errors import ConvergenceWarning
from proxflow.measures import Empirical, Gaussian, Uniform
from tests.couplings.normality import ALPHA, frequency_p_value


def rows(n: int = 50, *event: int, seed: int = 0) -> Tensor:
    return 3 * torch.randn(n, *(event or (2,)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def joined(parts: list[Pairs]) -> tuple[Tensor, Tensor]:
    return torch.cat([part.source for part in parts]), torch.cat([part.index for part in parts])


@pytest.mark.parametrize("size", [1, 7, 12, 50])
@pytest.mark.parametrize("wanted", [[5, 5, 5], [1] * 20, [13, 2, 30, 1], [60]])
def test_calls_together_hand_out_whole_assignments_in_order(size: int, wanted: list[int]) -> None:
    coupling, whole = Minibatch(rows(), size), Minibatch(rows(), size)
    generator, same = (torch.Generator().manual_seed(4) for _ in range(2))
    source, index = joined([coupling.sample(n, generator=generator) for n in wanted])
    assignments = [whole.assign(generator=same) for _ in range(-(-sum(wanted) // size))]
    expected_source, expected_index = joined(assignments)
    assert torch.equal(source, expected_source[: sum(wanted)])
    assert torch.equal(index, expected_index[: sum(wanted)])


def test_no_row_comes_twice_in_an_assignment(generator: torch.Generator) -> None:
    coupling = Minibatch(rows(), 20)
    parts = [coupling.sample(4, generator=generator).index for _ in range(25)]
    for assignment in torch.cat(parts).split(20):
        assert len(assignment.unique()) == 20


def test_an_assignment_of_all_rows_holds_each(generator: torch.Generator) -> None:
    coupling = Minibatch(rows(), 50)
    assert torch.equal(coupling.assign(generator=generator).index.sort().values, torch.arange(50))


@pytest.mark.parametrize("event", [(1,), (2,), (3, 5)])
def test_an_assignment_costs_least(event: tuple[int, ...], generator: torch.Generator) -> None:
    pairs = Minibatch(rows(50, *event), 40).assign(generator=generator)
    table = torch.cdist(pairs.source.flatten(1), pairs.target.flatten(1)).square().numpy()
    assert table.trace() == pytest.approx(table[linear_sum_assignment(table)].sum(), rel=1e-12)


def test_larger_assignments_are_straighter_in_batches_of_one_size(generator: torch.Generator) -> None:
    costs = []
    for size in (1, 16, 256):
        coupling = Minibatch(rows(256), size)
        parts = [coupling.sample(64, generator=generator) for _ in range(16)]
        costs.append(float(torch.cat([p.target - p.source for p in parts]).square().sum(1).mean()))
    assert costs == sorted(costs, reverse=True)
    # E|X0|^2 + E|X1|^2 = 2 + 18 without transport, and (3 - 1)^2 d = 8 at the optimum of normal laws
    assert costs[0] == pytest.approx(20, rel=0.1)
    assert costs[-1] == pytest.approx(8, rel=0.15)


def test_handed_out_pairs_stay_as_they_are(generator: torch.Generator) -> None:
    coupling = Minibatch(rows(), 20)
    first = coupling.sample(8, generator=generator)
    kept = first.target.clone()
    second = coupling.sample(8, generator=generator)
    second.target.zero_()
    second.source.zero_()
    assert torch.equal(first.target, kept)
    third = coupling.sample(4, generator=generator)
    assert torch.equal(third.target, rows()[third.index])


def test_assign_leaves_the_buffer_alone() -> None:
    coupling, undisturbed = Minibatch(rows(), 20), Minibatch(rows(), 20)
    generator = torch.Generator().manual_seed(1)
    coupling.sample(5, generator=generator)
    waiting = undisturbed.sample(20, generator=torch.Generator().manual_seed(1)).index[5:]
    coupling.assign(generator=generator)
    assert torch.equal(coupling.sample(15, generator=generator).index, waiting)


def test_equal_rows_are_different_rows(generator: torch.Generator) -> None:
    """Duplicates are neither lost nor merged: each of three equal rows comes as often as any other."""
    points = rows(12)
    points[:3] = points[0].clone()
    coupling = Minibatch(points, 4)
    index = torch.cat([coupling.sample(100, generator=generator).index for _ in range(24)])
    assert frequency_p_value(index, torch.ones(12)) > ALPHA


@pytest.mark.parametrize("source", [Uniform(2), Empirical(rows(30, seed=9)), Gaussian(2)], ids=repr)
def test_noise_of_another_law(source: Empirical | Gaussian | Uniform, generator: torch.Generator) -> None:
    pairs = Minibatch(rows(), 25, source=source).sample(200, generator=generator)
    if isinstance(source, Empirical):
        assert torch.isin(pairs.source, source.points).all()
    elif isinstance(source, Uniform):
        assert ((pairs.source >= 0) & (pairs.source <= 1)).all()
        assert pairs.source.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=4 * (1 / 12 / 200) ** 0.5)


@pytest.mark.parametrize("size", [0, -1, 51])
def test_a_batch_that_the_data_cannot_fill_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and the 50 points, got {size}; couplings.Semidiscrete"):
        Minibatch(rows(), size)


def test_bad_options_are_refused_when_built() -> None:
    with pytest.raises(ValueError, match="Minibatch: unknown solver 'auction'"):
        Minibatch(rows(), 5, solver="auction")
    with pytest.raises(ValueError, match="Minibatch: epsilon must be a positive number, got -1"):
        Minibatch(rows(), 5, epsilon=-1.0)
    with pytest.raises(ValueError, match="source has dimension 3, the points 2"):
        Minibatch(rows(), 5, source=Gaussian(3))


@pytest.mark.slow
def test_an_entropic_plan_that_does_not_converge_says_so(generator: torch.Generator) -> None:
    coupling = Minibatch(rows(400).exp(), 400, solver="sinkhorn", epsilon=1e-6)
    with pytest.warns(ConvergenceWarning, match="raise epsilon"):
        coupling.sample(1, generator=generator)
