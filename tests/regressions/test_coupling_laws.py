"""What couplings draw has the law that they say."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import ot
import pandas as pd
import pytest
import torch
from torch import Tensor

from proxflow.couplings import Conditional, Independent, JointConditional, Minibatch, Pairs, Semidiscrete, pair
from proxflow.measures import Empirical
from proxflow.potentials import Discrete
from proxflow.semidiscrete import fit
from tests.couplings.normality import ALPHA, REJECTED, frequency_p_value, same_law_p_value

F64 = torch.float64


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=F64)


# ------------------------------------------------------------------ entropic pairs


def plan_and_cost(x0: Tensor, x1: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    """n times the entropic plan, by POT to 1e-12, and the squared distances."""
    cost = torch.cdist(x0, x1).square()
    spread = (x0 - x0.mean(0)).square().sum(1).mean() + (x1 - x1.mean(0)).square().sum(1).mean()
    share = torch.full((len(x0),), 1 / len(x0), dtype=F64)
    plan = ot.sinkhorn(share, share, cost, float(epsilon * spread), "sinkhorn_log", stopThr=1e-12, numItermax=20_000)
    return len(x0) * plan, cost


@pytest.mark.parametrize("d", [2, 20])
def test_entropic_pairs_cost_what_their_plan_costs(d: int) -> None:
    """They cost 10% more, drawn row by row with what is left of the columns."""
    x0, x1 = normal(64, d), 2 * normal(64, d, seed=1) + 1
    plan, cost = plan_and_cost(x0, x1, 0.05)
    drawn = torch.stack(
        [
            cost[torch.arange(64), pair(x0, x1, solver="sinkhorn", generator=seeded(seed)).index].mean()
            for seed in range(40)
        ]
    )
    expected = float((plan * cost).sum() / 64)
    assert float(drawn.mean()) == pytest.approx(expected, abs=5 * float(drawn.std()) / 40**0.5 + 1e-3 * expected)
    assert float(drawn.std()) / 40**0.5 < 0.02 * expected  # so that 10% would be seen


def test_entropic_pairs_have_the_probabilities_of_their_plan() -> None:
    x0, x1 = normal(8, 2), 2 * normal(8, 2, seed=1)
    plan, _ = plan_and_cost(x0, x1, 0.3)
    count = 150
    mean = torch.zeros(8, 8, dtype=F64)
    for seed in range(count):
        mean[torch.arange(8), pair(x0, x1, solver="sinkhorn", epsilon=0.3, generator=seeded(seed)).index] += 1 / count
    error = (plan * (1 - plan) / count).sqrt()
    assert bool(((mean - plan).abs() <= 5 * error + 2 / count).all())


# ------------------------------------------------------------------ weights of equal rows


def weighted() -> tuple[Tensor, Tensor]:
    """Twelve rows, of which 0, 3 and 7 are equal, and 1 and 5; weights of a ratio of 1 to 30."""
    points = normal(12, 2)
    points[3], points[7], points[5] = points[0].clone(), points[0].clone(), points[1].clone()
    return points, torch.tensor([1.0, 3, 8, 9, 4, 30, 2, 5, 7, 6, 10, 12], dtype=F64)


@pytest.mark.parametrize("epsilon", [0.0, 0.3])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_equal_rows_are_drawn_by_their_own_weights(dtype: torch.dtype, epsilon: float) -> None:
    points, weights = weighted()
    points = points.to(dtype)
    potential = fit(points, weights, epsilon=epsilon, tol=1e-4).potential
    index = Semidiscrete(potential, points, weights=weights).sample(20_000, generator=seeded()).index
    for rows in ([0, 3, 7], [1, 5]):
        counts = torch.bincount(index, minlength=12)[rows]
        given = torch.repeat_interleave(torch.arange(len(rows)), counts)
        assert frequency_p_value(given, weights[rows]) > ALPHA
        assert frequency_p_value(given, torch.ones(len(rows))) < REJECTED


def test_weights_over_many_decades_and_of_zero_are_kept() -> None:
    points = torch.zeros(5, 1, dtype=F64)
    points[4] = 1.0
    weights = torch.tensor([0.0, 1e-30, 1e-2, 3e-2, 1.0], dtype=F64)
    potential = fit(points, weights).potential
    index = Semidiscrete(potential, points, weights=weights).sample(200_000, generator=seeded()).index
    count = torch.bincount(index, minlength=5).double()
    assert count[:2].tolist() == [0, 0]
    assert float(count[3] / count[2:4].sum()) == pytest.approx(
        0.75, abs=5 * (0.75 * 0.25 / float(count[2:4].sum())) ** 0.5
    )


def test_a_tiny_atom_is_shared_as_its_rows_say() -> None:
    """An atom of weight 1e-12 whose cell noise hits often, since the heights are no fit: 1 to 3 all the same."""
    points = torch.tensor([[-1.0], [1.0], [1.0]], dtype=F64)
    weights = torch.tensor([1.0, 1e-12, 3e-12], dtype=F64)
    potential = Discrete(points[:2], torch.zeros(2, dtype=F64), torch.tensor([1.0, 4e-12], dtype=F64))
    index = Semidiscrete(potential, points, weights=weights).sample(20_000, generator=seeded()).index
    assert frequency_p_value(index, torch.tensor([4.0, 1.0, 3.0])) > ALPHA


def test_equal_rows_whose_weights_are_not_known_are_refused() -> None:
    points, weights = weighted()
    potential = fit(points, weights).potential
    with pytest.raises(ValueError, match=r"equal weights, since none are given, of rows .* give weights= as"):
        Semidiscrete(potential, points)
    with pytest.raises(ValueError, match=r"the weights of rows \[.*\] add up to .* but their atom has the weight"):
        Semidiscrete(potential, points, weights=weights.flip(0))
    with pytest.raises(ValueError, match=r"Semidiscrete: weights must have shape \(12,\)"):
        Semidiscrete(potential, points, weights=weights[1:])


def test_rows_that_are_all_different_need_no_weights() -> None:
    points, weights = normal(6, 2), torch.arange(1.0, 7.0, dtype=F64)
    potential = fit(points, weights).potential
    without, given = (
        Semidiscrete(potential, points, weights=w).sample(50, generator=seeded()).index for w in (None, weights)
    )
    assert torch.equal(without, given)
    with pytest.raises(ValueError, match="give weights= as they were given to fit"):
        Semidiscrete(potential, points, weights=weights.flip(0))


def test_equal_rows_of_equal_weights_need_none() -> None:
    points = normal(5, 2)[[0, 1, 1, 2, 3, 4, 1]]
    potential = fit(points).potential
    without, given = (
        Semidiscrete(potential, points, weights=w).sample(50, generator=seeded()).index
        for w in (None, torch.full((7,), 3.0))
    )
    assert torch.equal(without, given)


def test_classes_and_rows_in_them_come_by_weight() -> None:
    points, weights = weighted()
    labels = torch.tensor([0, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0])
    coupling = Conditional.fit(points, labels, weights=weights)
    pairs = coupling.sample(20_000, generator=seeded())
    assert torch.equal(labels[pairs.index], pairs.label)
    assert frequency_p_value(pairs.index, weights) > ALPHA
    again = Conditional(points, labels, coupling.potentials, weights=weights)
    assert same(*(each.sample(50, generator=seeded()) for each in (coupling, again)))
    with pytest.raises(ValueError, match=r"Conditional: all rows of the classes \[1\] have weight zero"):
        Conditional.fit(points, labels, weights=torch.where(labels == 1, 0.0, weights))


def test_conditions_come_by_weight() -> None:
    points, weights = weighted()
    conditions = torch.tensor([0.0, 1, 2, 0, 4, 1, 6, 0, 8, 9, 10, 11], dtype=F64)
    coupling = JointConditional.fit(points, conditions, 0.5, weights=weights, tol=1e-3)
    pairs = coupling.sample(20_000, generator=seeded())
    drawn = torch.zeros(12, dtype=F64).index_add_(0, conditions.long(), weights)
    assert frequency_p_value(pairs.label.round().long()[drawn[pairs.label.round().long()] > 0], drawn + 1e-300) > ALPHA
    index = torch.bincount(pairs.index, minlength=12)[[0, 3, 7]]
    assert frequency_p_value(torch.repeat_interleave(torch.arange(3), index), weights[[0, 3, 7]]) > ALPHA
    again = JointConditional(coupling.potential, points, conditions, 0.5, weights=weights)
    assert torch.equal(again.sample(50, generator=seeded()).index, coupling.sample(50, generator=seeded()).index)


# ------------------------------------------------------------------ a data set as a source


def test_a_source_draws_rows_of_extreme_weights_by_their_law() -> None:
    weights = torch.tensor([0.0, 1e-20, 1e-3, 0.0, 1.0, 1e-300, 3.0, 0.0], dtype=F64)
    draws = Empirical(torch.arange(8.0)[:, None], weights).sample(200_000, generator=seeded())[:, 0].long()
    count = torch.bincount(draws, minlength=8)
    assert count[[0, 1, 3, 5, 7]].tolist() == [0] * 5
    assert frequency_p_value(torch.bucketize(draws, torch.tensor([3, 5])), weights[[2, 4, 6]]) > ALPHA


class _AtTheEnd(torch.utils._python_dispatch.TorchDispatchMode):
    """Random numbers at the ends of their range: 0 and 1 - 2^-53."""

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        drawn = function(*arguments, **(options or {}))
        if function is torch.ops.aten.rand.generator or function is torch.ops.aten.rand.default:
            return torch.tensor([0.0, 1 - 2.0**-53], dtype=drawn.dtype)[: len(drawn)]
        return drawn


def test_a_row_of_weight_zero_is_not_drawn_at_the_ends_of_the_random_numbers() -> None:
    """Sums of 1/49 fall short of 1, and what lies beyond went to the last row, whatever its weight."""
    weights = torch.cat([torch.zeros(1), torch.ones(49), torch.zeros(1)]).double()
    source = Empirical(torch.arange(51.0)[:, None], weights)
    with _AtTheEnd():  # type: ignore[no-untyped-call]
        draws = source.sample(2)
    assert draws[:, 0].tolist() == [1.0, 49.0]


# ------------------------------------------------------------------ arrays and frames


def forms(points: Tensor, labels: Tensor) -> dict[str, tuple[Any, Any]]:
    index = range(100, 100 + len(points))
    return {
        "arrays": (points.numpy(), labels.numpy()),
        "frame": (pd.DataFrame(points.numpy(), index=index), pd.Series(labels.numpy(), index=index)),
        "lists": (points.numpy(), labels.tolist()),
    }


def same(a: Pairs, b: Pairs) -> bool:
    return all(torch.equal(getattr(a, part), getattr(b, part)) for part in ("source", "target", "index", "label"))


@pytest.mark.parametrize("form", ["arrays", "frame", "lists"])
def test_arrays_and_frames_are_coupled_as_tensors_are(form: str) -> None:
    points, weights = weighted()
    labels = torch.arange(12) % 2
    labels[[3, 7, 5]] = labels[[0, 0, 1]]
    given, named = forms(points, labels)[form]
    potential = fit(points, weights).potential
    parts = Conditional.fit(points, labels, weights=weights).potentials
    made: list[Callable[..., Any]] = [
        lambda x, y, w: Independent(x, y),
        lambda x, y, w: Minibatch(x, cast(int, np.int64(5)), y),
        lambda x, y, w: Semidiscrete(potential, x, y, weights=w),
        lambda x, y, w: Conditional(x, y, parts, weights=w),
        lambda x, y, w: Conditional.fit(x, y, weights=w),
    ]
    for make in made:
        one, other = make(points, labels, weights), make(given, named, weights.numpy())
        assert same(one.sample(20, generator=seeded()), other.sample(20, generator=seeded()))
        if hasattr(one, "noise_for"):
            noise = other.noise_for(np.array([4, 1, 1]), generator=seeded(3))
            assert torch.equal(noise, one.noise_for(torch.tensor([4, 1, 1]), generator=seeded(3)))
    x0 = normal(12, 2, seed=4)
    plain = pair(x0, points, label=labels)
    assert same(plain, pair(x0.numpy(), given, label=named))


def test_conditions_in_a_column_of_a_frame() -> None:
    points = normal(20, 2)
    frame = pd.DataFrame(
        {"x": points[:, 0].numpy(), "y": points[:, 1].numpy(), "at": np.linspace(0, 1, 20)}, index=range(9, 29)
    )
    one = JointConditional.fit(frame[["x", "y"]], frame["at"], np.float64(2.0), tol=0.05)
    other = JointConditional.fit(points, torch.from_numpy(np.linspace(0, 1, 20)), 2.0, tol=0.05)
    assert same(one.sample(10, generator=seeded()), other.sample(10, generator=seeded()))


def test_names_as_labels_are_refused_with_what_to_do() -> None:
    points, names = normal(4, 2), np.array(["a", "b", "a", "b"])
    for refused in (lambda: Minibatch(points, 2, names), lambda: pair(points, points, label=names)):
        with pytest.raises(ValueError, match=r"labels.*numpy.unique\(labels, return_inverse=True\) numbers names"):
            refused()


# ------------------------------------------------------------------ heights with more digits than points


def test_noise_of_a_cell_that_is_never_hit_with_heights_of_float64() -> None:
    points = torch.tensor([[-1.0], [0.0], [1.0]])
    potential = Discrete(points, torch.tensor([0.0, 2.0, 0.0]))
    potential.heights = potential.heights.double()
    coupling = Semidiscrete(Discrete(points, torch.tensor([0.0, 2.0, 0.0])), points, max_draws=512)
    fresh, noise = normal(50, 1).float(), torch.empty(1, 1)
    coupling._pool._potential = potential
    potential.conjugate = lambda u: u[:, 0].abs().double()  # type: ignore[method-assign]
    loss = coupling._pool._serve_nearest(noise, torch.tensor([1]), torch.tensor([0]), fresh)
    assert noise.dtype == torch.float32
    assert float(noise.abs()) == float(fresh.abs().min())
    assert loss == pytest.approx(2 + float(fresh.abs().min()))


def test_equal_rows_share_their_noise_whatever_their_weights() -> None:
    """Weights say how often a row comes, not which noise it gets."""
    points, weights = weighted()
    coupling = Semidiscrete(fit(points, weights).potential, points, weights=weights)
    rare, common = (coupling.noise_for(torch.full((600,), row), generator=seeded(row)) for row in (0, 3))
    assert same_law_p_value(rare, common) > ALPHA
