"""``pair`` as one line in a training loop that somebody already has."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from proxflow.couplings import Pairs, pair
from proxflow.errors import ConvergenceWarning, MissingExtraError

SOLVERS = pytest.mark.parametrize("solver", ["exact", "sinkhorn"])


def batches(n: int = 32, event: tuple[int, ...] = (2,), seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x0, x1 = (torch.randn(n, *event, generator=generator) for _ in range(2))
    return x0, 2 * x1 + 1, torch.arange(n)


def cost(pairs: Pairs) -> float:
    return float((pairs.target - pairs.source).double().square().sum())


@SOLVERS
@pytest.mark.parametrize("event", [(1,), (2,), (3, 4, 4)])
def test_every_point_is_used_once_and_its_label_goes_with_it(
    solver: str, event: tuple[int, ...], generator: torch.Generator
) -> None:
    x0, x1, label = batches(32, event)
    pairs = pair(x0, x1, label=label, solver=solver, generator=generator)
    assert pairs.source is x0
    assert torch.equal(pairs.index.sort().values, torch.arange(32))
    assert torch.equal(pairs.target, x1[pairs.index])
    assert torch.equal(pairs.label, label[pairs.index])
    assert pairs.target.shape == x1.shape


def test_no_order_of_six_points_is_cheaper() -> None:
    x0, x1, _ = batches(6)
    every = [cost(Pairs(x0, x1[list(order)], torch.tensor(order))) for order in itertools.permutations(range(6))]
    assert cost(pair(x0, x1)) == pytest.approx(min(every), rel=1e-6)


def test_shuffling_the_data_changes_nothing_but_the_index() -> None:
    x0, x1, label = batches(40)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    first = pair(x0, x1, label=label)
    shuffled = pair(x0, x1[order], label=label[order])
    assert torch.equal(first.target, shuffled.target)
    assert torch.equal(first.label, shuffled.label)
    assert torch.equal(order[shuffled.index], first.index)


@pytest.mark.parametrize("labels", [(32,), (32, 3), (32, 2, 2)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.bool])
def test_labels_of_any_kind_are_permuted(
    labels: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator
) -> None:
    x0, x1, _ = batches()
    label = torch.randint(0, 2, labels, generator=generator).to(dtype)
    pairs = pair(x0, x1, label=label)
    assert torch.equal(pairs.label, label[pairs.index])
    assert pairs.label.dtype == dtype


def test_without_labels_there_are_none() -> None:
    assert pair(*batches()[:2]).label is None


@SOLVERS
@pytest.mark.parametrize("n", [0, 1])
def test_one_pair_or_none(solver: str, n: int) -> None:
    x0, x1, label = batches(n)
    pairs = pair(x0, x1, label=label, solver=solver)
    assert len(pairs) == n
    assert torch.equal(pairs.target, x1)


def test_gradients_pass_through_the_pairs_but_not_through_the_choice() -> None:
    x0, x1, _ = batches()
    x0.requires_grad_()
    x1.requires_grad_()
    pairs = pair(x0, x1)
    ((pairs.target - pairs.source) ** 2).sum().backward()
    torch.testing.assert_close(x0.grad, 2 * (x0 - x1[pairs.index]).detach())
    torch.testing.assert_close(x1.grad[pairs.index], 2 * (x1[pairs.index] - x0).detach())


def test_half_precision_is_paired_as_its_float64_copy() -> None:
    x0, x1, _ = batches(64, (3,))
    x0, x1 = x0.bfloat16(), x1.bfloat16()
    assert torch.equal(pair(x0, x1).index, pair(x0.double(), x1.double()).index)
    assert pair(x0, x1).target.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_an_entropic_plan_of_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    x0, x1, _ = (part.to(dtype) for part in batches(64, (3,)))
    low, high = (
        pair(a, b, solver="sinkhorn", generator=torch.Generator().manual_seed(0)).index
        for a, b in ((x0, x1), (x0.float(), x1.float()))
    )
    assert torch.equal(low, high)


def test_it_replaces_the_plan_of_a_training_loop() -> None:
    """The loop of torchcfm's tutorials with the sampling of a plan replaced: it learns, and steadier than without."""

    def train(coupled: bool) -> float:
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(3, 32), nn.SELU(), nn.Linear(32, 2))
        optimiser = torch.optim.Adam(network.parameters(), 1e-2)
        losses = []
        for _ in range(60):
            x1 = torch.randn(128, 2) / 4 + torch.tensor([2.0, 0.0]) * torch.randint(0, 2, (128, 1)).mul(2).sub(1)
            x0 = torch.randn_like(x1)
            if coupled:
                pairs = pair(x0, x1)
                x0, x1 = pairs.source, pairs.target
            t = torch.rand(len(x0), 1)
            loss = (network(torch.cat([t, (1 - t) * x0 + t * x1], 1)) - (x1 - x0)).square().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(float(loss.detach()))
        return sum(losses[-20:]) / 20

    # without transport the target keeps the variance of independent pairs
    assert train(coupled=True) < 0.5 * train(coupled=False)


def test_a_generator_decides_an_entropic_draw() -> None:
    x0, x1, _ = batches()
    first, again, other = (
        pair(x0, x1, solver="sinkhorn", epsilon=0.5, generator=torch.Generator().manual_seed(s)).index
        for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_epsilon_leads_from_the_exact_pairs_to_random_ones() -> None:
    x0, x1, _ = batches(100)
    exact = cost(pair(x0, x1))
    drawn = [
        cost(pair(x0, x1, solver="sinkhorn", epsilon=epsilon, generator=torch.Generator().manual_seed(0)))
        for epsilon in (0.01, 0.1, 1.0, 100.0)
    ]
    assert exact < drawn[0] < drawn[1] < drawn[2] < drawn[3]


def test_an_entropic_plan_that_does_not_converge_says_so() -> None:
    x0, x1, _ = batches()
    with pytest.warns(ConvergenceWarning, match="raise epsilon, or use the exact solver") as warned:
        pairs = pair(x0, x1, solver="sinkhorn", epsilon=1e-7)
    assert warned[0].filename == __file__
    assert torch.equal(pairs.index.sort().values, torch.arange(32))


def test_sinkhorn_without_its_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ot", None)
    with pytest.raises(MissingExtraError, match=r'pip install "proxflow\[metrics\]"'):
        pair(*batches()[:2], solver="sinkhorn")


NAN_ROWS = torch.zeros(4, 2)
NAN_ROWS[1, 0], NAN_ROWS[3, 1] = torch.nan, torch.inf
REFUSED: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unequal numbers": ((torch.zeros(3, 2), torch.zeros(4, 2)), {}, r"\(3, 2\) and \(4, 2\).*Semidiscrete"),
    "unequal events": ((torch.zeros(3, 2), torch.zeros(3, 3)), {}, r"\(3, 2\) and \(3, 3\)"),
    "one would be broadcast": ((torch.zeros(3, 2), torch.zeros(1, 2)), {}, r"\(3, 2\) and \(1, 2\)"),
    "no event": ((torch.zeros(3), torch.zeros(3)), {}, r"\(n, \*event\)"),
    "no coordinate": ((torch.zeros(3, 0), torch.zeros(3, 0)), {}, r"\(n, \*event\)"),
    "dtypes": ((torch.zeros(3, 2), torch.zeros(3, 2).double()), {}, "float32.*float64.*convert"),
    "integers": ((torch.zeros(3, 2).long(), torch.zeros(3, 2).long()), {}, "floating point, got torch.int64"),
    "devices": ((torch.zeros(3, 2), torch.zeros(3, 2, device="meta")), {}, "on cpu.* on meta"),
    "text": ((torch.zeros(3, 2).numpy().astype(str), torch.zeros(3, 2)), {}, "x0 must be .* got an array of <U32"),
    "array": (
        (torch.zeros(3, 2).double().numpy(), torch.zeros(3, 2)),
        {},
        "float64.*float32.*convert",
    ),
    "x0 not finite": ((NAN_ROWS, torch.zeros(4, 2)), {}, r"2 rows of x0 hold NaN or inf, the first: \[1, 3\]"),
    "x1 not finite": ((torch.zeros(4, 2), NAN_ROWS), {}, r"2 rows of x1 hold NaN or inf, the first: \[1, 3\]"),
    "labels": ((torch.zeros(3, 2), torch.zeros(3, 2)), {"label": torch.zeros(2)}, r"3 points, got \(2,\)"),
    "names": ((torch.zeros(2, 2), torch.zeros(2, 2)), {"label": ["a", "b"]}, "label.* must be .* numpy.unique"),
    "solver": ((torch.zeros(3, 2), torch.zeros(3, 2)), {"solver": "emd"}, "solver 'emd'; known are exact, sinkhorn"),
    "epsilon 0": ((torch.zeros(3, 2), torch.zeros(3, 2)), {"epsilon": 0.0}, "epsilon must be a positive number, got 0"),
    "epsilon nan": ((torch.zeros(3, 2), torch.zeros(3, 2)), {"epsilon": torch.nan}, "epsilon .* got nan"),
    "epsilon inf": ((torch.zeros(3, 2), torch.zeros(3, 2)), {"epsilon": torch.inf}, "epsilon .* got inf"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_paired_is_refused(case: str) -> None:
    arguments, options, said = REFUSED[case]
    with pytest.raises(ValueError, match=said):
        pair(*arguments, **options)


@SOLVERS
def test_inside_autocast_the_pairs_are_the_same(solver: str, generator: torch.Generator) -> None:
    x0, x1 = torch.randn(2, 200, 16, generator=generator)
    outside = pair(x0, x1, solver=solver, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = pair(x0, x1, solver=solver, generator=torch.Generator().manual_seed(0))
    assert torch.equal(inside.index, outside.index)
