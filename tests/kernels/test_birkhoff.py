"""Random permutations of a given mean, against the means themselves."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from proxflow.kernels.birkhoff import _FEW, _orbits, doubly_stochastic, permutation_of_mean
from tests.marks import slow_beyond

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plan_of(n: int, sharpness: float, seed: int = 0) -> Tensor:
    """A mixture of 3 n permutations with uneven weights, exactly doubly stochastic but for rounding."""
    generator = seeded(seed)
    weight = torch.rand(3 * n, generator=generator, dtype=F64).pow(sharpness)
    plan = torch.zeros(n, n, dtype=F64)
    for share in weight / weight.sum():
        plan[torch.arange(n), torch.randperm(n, generator=generator)] += share
    return plan


def drawn(plan: Tensor, count: int, seed: int = 0) -> Tensor:
    """Permutations (count, n): a plan of blocks gives as many at once, since no cycle leaves its block."""
    n, blocks = len(plan), min(count, max(1, 512 // len(plan)))
    generator, whole = seeded(seed), torch.block_diag(*[plan] * blocks)
    draws = [permutation_of_mean(whole, generator) for _ in range(-(-count // blocks))]
    return torch.cat(draws).reshape(-1, n) % n


@pytest.mark.parametrize(("n", "count"), slow_beyond(2, [(3, 3000), (64, 160), (2, 2048), (8, 4000)]))
@pytest.mark.parametrize("sharpness", [0.0, 6.0])
def test_the_mean_of_many_permutations_is_the_plan(n: int, count: int, sharpness: float) -> None:
    plan = plan_of(n, sharpness)
    draws = drawn(plan, count)
    mean = torch.nn.functional.one_hot(draws, n).double().mean(0)
    error = (plan * (1 - plan) / len(draws)).sqrt()
    assert bool(((mean - plan).abs() <= 5 * error + 8 / len(draws)).all())
    table = torch.rand(n, n, generator=seeded(1), dtype=F64)
    cost = table[torch.arange(n), draws].mean(1)
    assert float(cost.mean()) == pytest.approx(
        float((plan * table).sum() / n), abs=5 * float(cost.std()) / len(draws) ** 0.5 + 1e-9
    )


def test_the_mean_test_has_power() -> None:
    """The greedy matching of perturbed logarithms, which keeps each row's law only before rows compete for columns."""
    plan = plan_of(8, 6.0)
    generator, count = seeded(), 4000
    mean = torch.zeros(8, 8, dtype=F64)
    for _ in range(count):
        score = plan.log() - torch.empty(8, 8, dtype=F64).exponential_(generator=generator).log()
        for _ in range(8):
            best = int(score.argmax())
            mean[best // 8, best % 8] += 1 / count
            score[best // 8], score[:, best % 8] = -math.inf, -math.inf
    error = (plan * (1 - plan) / count).sqrt()
    assert not bool(((mean - plan).abs() <= 5 * error + 8 / count).all())


@pytest.mark.parametrize("n", [1, 2, 5, 33, 300])
@pytest.mark.parametrize("kind", ["equal", "one permutation", "uneven"])
def test_every_draw_is_a_permutation(n: int, kind: str) -> None:
    plan = {
        "equal": lambda: torch.full((n, n), 1 / n, dtype=F64),
        "one permutation": lambda: torch.eye(n, dtype=F64)[torch.randperm(n, generator=seeded())],
        "uneven": lambda: plan_of(n, 30.0),
    }[kind]()
    for seed in range(3):
        found = permutation_of_mean(plan, seeded(seed))
        assert torch.equal(found.sort().values, torch.arange(n))
        assert bool((plan[torch.arange(n), found] > 0).all())
        if kind == "one permutation":
            assert torch.equal(found, plan.argmax(1))


def test_the_draw_follows_from_the_generator_and_leaves_torch_s_own_alone() -> None:
    plan, before = plan_of(40, 1.0), torch.random.get_rng_state()
    first, again, other = (permutation_of_mean(plan, seeded(seed)) for seed in (0, 0, 1))
    assert torch.equal(before, torch.random.get_rng_state())
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("error", [0.0, 1e-6, 0.3])
def test_sums_are_made_one_by_moving_twice_their_error_at_most(error: float) -> None:
    plan = plan_of(20, 2.0)
    spoilt = plan * (1 + error * (2 * torch.rand(20, 20, generator=seeded(), dtype=F64) - 1))
    right = doubly_stochastic(spoilt.float() if error else plan)
    assert bool((right >= 0).all())
    for dim in (0, 1):
        torch.testing.assert_close(right.sum(dim), torch.ones(20, dtype=F64), rtol=1e-12, atol=0)
    missing = (spoilt.sum(0) - 1).abs().sum() + (spoilt.sum(1) - 1).abs().sum()
    assert float((right - spoilt).abs().sum()) <= 2 * float(missing) + 1e-5


@pytest.mark.parametrize("kind", ["one", "many", "fixed points", "pairs"])
@pytest.mark.parametrize("count", [1, 10, 3 * _FEW])
def test_orbits_are_those_of_a_graph_search(count: int, kind: str) -> None:
    number = torch.arange(count)
    order = torch.randperm(count, generator=seeded())
    following = torch.empty_like(number)
    if kind == "one":
        following[order] = order.roll(1)
    elif kind == "many":
        following = order
    elif kind == "fixed points":
        following = number
    else:
        following[order[: count // 2]], following[order[count - count // 2 :]] = (
            order[count - count // 2 :], order[: count // 2],
        )  # fmt: skip
        following[order[count // 2 : count - count // 2]] = order[count // 2 : count - count // 2]
    graph = csr_array((np.ones(count), (number.numpy(), following.numpy())), shape=(count, count))
    orbits, expected = connected_components(graph, directed=False)
    found = _orbits(following, seeded())
    both = torch.stack([found, torch.from_numpy(expected).long()])
    assert len(found.unique()) == orbits == both.unique(dim=1).shape[1]
