"""The equivalent batch size of fields whose size is known: on the line in closed form, and of independent pairs."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.analysis import audit
from proxflow.analysis.auditing.equivalent_batch import batch_curve, equivalent_batch, independent_rule
from proxflow.analysis.auditing.generated_pairs import generated_pairs
from proxflow.analysis.auditing.intervals import Estimate
from proxflow.analysis.auditing.optimality import Misses, misses_on_the_way
from tests.analysis.minibatch_field import minibatch_field
from tests.marks import slow_beyond

f64, LINEAR = torch.float64, pf.schedules.Linear()
TIMES = torch.arange(1, 8, dtype=f64) / 8
ROWS, NOISE, SIZES = 32, 256, (1, 4, 2, 8, 16)


def line_rows() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    side = torch.where(torch.rand(ROWS, 1, generator=generator) < 0.5, -2.0, 2.0)
    return side + 1.5 * torch.randn(ROWS, 1, generator=generator, dtype=f64)


def estimates(size: int, repetitions: int) -> list[Estimate | None]:
    """Of the closed field of this size, each with a curve and noise of its own."""
    rows = line_rows()
    flow = pf.ProximalFlow(pf.semidiscrete.fit(rows, progress=False).potential)
    independent = independent_rule(flow, LINEAR, 0)
    noise = torch.randn(NOISE * repetitions, 1, generator=torch.Generator().manual_seed(1), dtype=f64)
    pairs, found = generated_pairs(minibatch_field(rows, size), noise, (1,), LINEAR, 16), []
    for seed in range(repetitions):
        part = slice(NOISE * seed, NOISE * (seed + 1))
        own = dataclasses.replace(pairs, points=pairs.points[:, part], recovered=pairs.recovered[:, part])
        curve = batch_curve(flow, independent, TIMES, seed)
        found.append(equivalent_batch(misses_on_the_way(own, flow, LINEAR), independent, curve))
    return found


@pytest.mark.parametrize("size", slow_beyond(0, SIZES))
def test_the_size_of_a_minibatch_field_on_the_line(size: int) -> None:
    """Without a bias that matters: the median of nine is within a half of it, and seven intervals hold it."""
    found = [one for one in estimates(size, 9) if one is not None]
    middle = float(torch.tensor([one.value for one in found]).median())
    assert size / 1.5 <= middle <= size * 1.5
    assert sum(one.low <= size <= one.high for one in found) >= 7


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 4])
def test_intervals_cover_the_size(size: int) -> None:
    """At 95%, 200 repetitions cover at least 180 times but for chance of 1e-3."""
    found = estimates(size, 200)
    assert sum(one is not None and one.low <= size <= one.high for one in found) >= 180


def test_exact_flows_are_above_all_sizes_and_independent_pairs_are_one() -> None:
    points = torch.randn(24, 3, generator=torch.Generator().manual_seed(1), dtype=f64)
    flow = pf.ProximalFlow(pf.semidiscrete.fit(points, tol=1e-3, progress=False).potential)
    found = audit(flow, flow, data=points, count=128, steps=8, progress=False).figures["equivalent_batch"]
    assert found.high == math.inf
    assert found.low > 2
    assert found.independent == pytest.approx(1, abs=0.3)


def test_laws_without_rows_and_errors_across_are_no_matter() -> None:
    """Independent pairs of a normal law have a closed field; a rotation is across their error, which is a gradient."""
    deviations = torch.tensor([2.0, 0.5], dtype=f64)
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(2, dtype=f64), torch.diag(deviations**2)))
    turn = torch.tensor([[0.0, 0.3], [-0.3, 0.0]], dtype=f64)

    def field(t: Tensor, x: Tensor) -> Tensor:
        variance = (1 - t) ** 2 + t**2 * deviations**2
        return (t * deviations**2 - (1 - t)) / variance * x + x @ turn

    rule = independent_rule(flow, LINEAR, 0)
    noise = torch.randn(256, 2, generator=torch.Generator().manual_seed(2), dtype=f64)
    found = audit(field, flow, count=256, steps=16, compare_independent=False, progress=False).figures[
        "equivalent_batch"
    ]
    assert found.low <= 1.3
    assert found.value < 1.6
    still = misses_on_the_way(generated_pairs(flow, noise, (2,), LINEAR, 16), flow, LINEAR)
    none = equivalent_batch(still, rule, batch_curve(flow, rule, TIMES, 0))
    assert none is not None
    assert none.high == math.inf


def test_a_field_that_errs_more_than_any_pairs_allow_is_no_better_than_independent_pairs() -> None:
    """It stands still: its error has nothing to do with theirs."""
    points = torch.randn(24, 8, generator=torch.Generator().manual_seed(1), dtype=f64)
    flow = pf.ProximalFlow(pf.semidiscrete.fit(points, tol=1e-2, progress=False).potential)
    found = audit(lambda t, x: 0 * x, flow, data=points, count=128, steps=8, compare_independent=False, progress=False)
    assert found.figures["equivalent_batch"].high <= 4


def test_a_field_that_errs_across_has_a_size_without_a_lower_end() -> None:
    """Exact along the error of independent pairs, and off across it by what pairs of some size leave at all."""
    deviations = torch.tensor([2.0, 0.5], dtype=f64)
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(2, dtype=f64), torch.diag(deviations**2)))
    turn = torch.tensor([[0.0, 1.5], [-1.5, 0.0]], dtype=f64)
    found = audit(
        lambda t, x: flow(t, x) + x @ turn, flow, count=256, steps=16, compare_independent=False, progress=False
    )
    batch = found.figures["equivalent_batch"]
    assert 1 == batch.low < batch.value == batch.high
    assert f"Pairs of minibatches of {batch.value:.0f}" in found.verdict.replace(".0 would", " would")
    assert "would leave as much error, or less." in found.verdict


def test_the_exact_flow_is_above_a_curve_that_passes_below_zero() -> None:
    flow = pf.ProximalFlow(pf.potentials.Discrete(line_rows(), 0.5 * line_rows().square()[:, 0]))
    rule, curve = independent_rule(flow, LINEAR, 0), batch_curve(flow, independent_rule(flow, LINEAR, 0), TIMES, 0)
    low = dataclasses.replace(curve, value=curve.value - 1.1 * curve.value[-2], stderr=0.01 * curve.stderr)
    still = torch.zeros(7, 8, 1, dtype=f64)
    found = equivalent_batch(Misses(TIMES, still, still, still), rule, low)
    assert found is not None
    assert found.high == math.inf


def test_no_size_is_told_where_independent_pairs_are_optimal() -> None:
    """All noise goes to one point."""
    flow = pf.ProximalFlow(pf.potentials.Discrete(torch.ones(1, 2, dtype=f64), torch.zeros(1, dtype=f64)))
    rule = independent_rule(flow, LINEAR, 0)
    empty = torch.zeros(7, 8, 2, dtype=f64)
    assert equivalent_batch(Misses(TIMES, empty, empty, empty), rule, batch_curve(flow, rule, TIMES, 0)) is None
