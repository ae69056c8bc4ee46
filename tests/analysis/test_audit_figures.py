"""Figures of an audit against closed forms of linear fields, dense algebra and scipy's assignment."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.stats import t as student
from torch import Tensor

import proxflow as pf
from proxflow.analysis import audit
from proxflow.analysis.auditing.audit_record import figures_of
from proxflow.analysis.auditing.generated_pairs import GeneratedPairs, generated_pairs
from proxflow.analysis.auditing.generation import (
    Groups,
    _group_least,
    energy_share,
    generation_figures,
    group_shares,
    groups_of,
    paired_variances,
    row_variances,
)
from proxflow.analysis.auditing.intervals import mean_of, share
from proxflow.analysis.auditing.optimality import misses_on_the_way, optimality_figures, pair_bound, velocity_errors
from proxflow.analysis.auditing.proximality import jacobian_figures, measured_jacobians, pair_figures
from proxflow.analysis.auditing.verdict import faults
from tests.marks import slow_beyond

f64 = torch.float64
LINEAR = pf.schedules.Linear()
WIDE, RIGHT = torch.tensor([2.0, 0.5, 1.2], dtype=f64), torch.tensor([1.8, 0.6, 1.0], dtype=f64)
STEPS, REPETITIONS = 32, 200


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def rate(t: Tensor) -> Tensor:
    """Of independent pairs of N(0, I) and N(0, diag(WIDE^2)): v = (d/dt log sigma_t) x."""
    return (t * WIDE**2 - (1 - t)) / ((1 - t) ** 2 + t**2 * WIDE**2)


def closed_forms() -> dict[str, float]:
    """Of that field against the exact flow x0 -> RIGHT x0; x_t = sigma_t x0 and y_t = x_t + (1 - t) v_t."""
    grid = torch.arange(STEPS, dtype=f64)[:, None] / STEPS
    sigma = ((1 - grid) ** 2 + grid**2 * WIDE**2).sqrt()
    recovered = sigma * (1 + (1 - grid) * rate(grid))
    middle = (torch.arange(8, dtype=f64)[:, None] + 0.5) / 8
    exact_speed = RIGHT - 1
    error = rate(middle) * (1 - middle + middle * RIGHT) - exact_speed
    least = exact_speed.square().sum()
    return {
        "recovered_drift": float(((recovered - WIDE).square().mean(0).sum() / WIDE.square().sum()).sqrt()),
        "cost_excess": float((WIDE - 1).square().sum() / least - 1),
        "velocity_error": float((error.square().mean(0).sum() / least).sqrt()),
        "variance_ratio": float(WIDE.square().sum() / RIGHT.square().sum()),
    }


@pytest.mark.slow
def test_intervals_cover_their_closed_forms() -> None:
    """At 95%, 200 repetitions cover at least 180 times but for chance of 1e-3, also with the bias of a few rows."""
    truth = closed_forms()
    covered = dict.fromkeys(truth, 0)
    for seed in range(REPETITIONS):
        noise = normal(200, 3, seed=seed)
        pairs = generated_pairs(lambda t, x: rate(t) * x, noise, (3,), LINEAR, STEPS)
        errors = velocity_errors(lambda t, x: rate(t) * x, noise, noise * RIGHT, (3,), LINEAR)
        found = pair_figures(pairs, 2) | optimality_figures(pairs, noise * RIGHT, errors)
        found |= paired_variances(pairs.target, noise * RIGHT, noise)
        for name, value in truth.items():
            covered[name] += found[name].low <= value <= found[name].high
    assert min(covered.values()) >= 0.90 * REPETITIONS, covered


@pytest.mark.parametrize("right", [RIGHT, torch.tensor([1.8, 0.8, 0.8], dtype=f64)], ids=["apart", "equal"])
def test_intervals_of_variances_along_directions_hold_the_ratio_there(right: Tensor) -> None:
    """e'W^2 e / e'R^2 e along the directions e of the data, as numpy finds them; also of equal variances.

    At 95%, 200 repetitions cover 180 to 199 times but for chance of 1e-3: neither too narrow nor too wide.
    """
    covered = [0, 0, 0]
    for seed in range(REPETITIONS):
        noise, data = normal(200, 3, seed=seed), normal(256, 3, seed=1000 + seed) * right
        axes = torch.from_numpy(np.linalg.svd((data - data.mean(0)).numpy())[2])
        truth = (axes * WIDE).square().sum(1) / (axes * right).square().sum(1)
        found = paired_variances(noise * WIDE, noise * right, data)
        for k, value in enumerate(truth.tolist()):
            one = found[f"variance_ratio_{k + 1}"]
            covered[k] += one.low <= value <= one.high
    assert 0.90 * REPETITIONS <= min(covered) <= max(covered) < REPETITIONS, covered


@pytest.mark.parametrize("shift", [0.0, 0.2, 1.0])
def test_the_interval_of_the_energy_distance_holds_that_of_normal_laws(shift: float) -> None:
    """Of laws that are equal, hardly told apart, and far apart, on the line, where its errors are the most skewed."""
    across = 2 / math.sqrt(math.pi) * math.exp(-(shift**2) / 4) + shift * math.erf(shift / 2)  # E|X - Y|
    truth = 2 * across - 4 / math.sqrt(math.pi)
    held = 0
    for seed in range(REPETITIONS):
        samples, data = normal(100, 1, seed=seed), normal(100, 1, seed=10_000 + seed) + shift
        size = math.sqrt(2.0) * float(data.std(correction=0))
        found = energy_share(samples, data)
        held += found.low * size <= truth <= found.high * size
    assert 0.90 * REPETITIONS <= held < REPETITIONS


def test_directions_without_variance_have_no_ratio() -> None:
    """Rows in a plane of R^3, with rounding across."""
    rows = normal(100, 2, seed=2) @ normal(2, 3, seed=3)
    made = normal(64, 3, seed=4)
    for found in (
        paired_variances(made, rows[:64], (rows + 1e-7 * normal(100, 3)).float()),
        row_variances(made, rows),
    ):
        assert [name for name in found if "variance" in name] == [
            "variance_ratio", "variance_ratio_1", "variance_ratio_2",
        ]  # fmt: skip


@pytest.mark.parametrize("dim", [3, 300])
def test_jacobians_of_a_linear_field(dim: int) -> None:
    """Written out, and by products: above 256 dimensions no matrix is formed."""
    matrix = 0.5 * normal(dim, dim) / math.sqrt(dim)
    matrix[0, 0] = 3.0
    pairs = generated_pairs(lambda t, x: x @ matrix.mT, normal(6, dim), (dim,), LINEAR, 10)
    found = measured_jacobians(lambda t, x: x @ matrix.mT, pairs, (dim,), None, 3, 0)
    skew, symmetric = 0.5 * (matrix - matrix.mT), 0.5 * (matrix + matrix.mT)
    tolerance = 1e-12 if dim == 3 else 0.05
    wanted = float(skew.norm() / matrix.norm())
    for name in ("jacobian_asymmetry", "rotation"):
        assert jacobian_figures(found)[name].value == pytest.approx(wanted, rel=tolerance)
    values = torch.linalg.eigvalsh(symmetric)
    for place, t in enumerate((0.15, 0.3, 0.5, 0.7, 0.9)):  # .15 is between two steps
        highest = t * ((1 - t) * float(values[-1]) + 1)
        lowest = t * ((1 - t) * float(values[0]) + 1)
        torch.testing.assert_close(found.highest[place], torch.full((3,), highest, dtype=f64), rtol=0.02, atol=1e-12)
        torch.testing.assert_close(found.lowest[place], torch.full((3,), lowest, dtype=f64), rtol=0.05, atol=1e-12)


def test_order_and_assignment_of_pairs_by_brute_force() -> None:
    x0, x1 = normal(40, 2, seed=1), normal(40, 2, seed=2)
    found = pair_figures(GeneratedPairs(torch.tensor([0.0, 1.0]), torch.stack([x0, x1]), x1[None]), 40)
    violated = [float((x0[i] - x0[j]) @ (x1[i] - x1[j])) < 0 for i, j in itertools.combinations(range(40), 2)]
    assert found["cycle_violations"].value == pytest.approx(np.mean(violated))
    cost = torch.cdist(x0, x1).square().numpy()
    least = cost[linear_sum_assignment(cost)].sum()
    assert found["repairing_gain"].value == pytest.approx(np.trace(cost) / least - 1)


def test_the_interval_of_crossing_pairs_covers_the_closed_form() -> None:
    """Two normal pairs on the line, of correlation rho, cross with probability arccos(rho) / pi (Sheppard 1899).

    At 95%, 200 repetitions cover 180 to 199 times but for chance of 1e-3: neither too narrow nor too wide.
    """
    covered, rho = 0, 0.6
    for seed in range(REPETITIONS):
        x0, z = normal(2, 150, 1, seed=seed)
        x1 = rho * x0 + math.sqrt(1 - rho**2) * z
        pairs = GeneratedPairs(torch.tensor([0.0, 1.0]), torch.stack([x0, x1]), x1[None])
        found = pair_figures(pairs, 2)["cycle_violations"]
        covered += found.low <= math.acos(rho) / math.pi <= found.high
    assert 0.90 * REPETITIONS <= covered < REPETITIONS


@pytest.mark.parametrize("schedule", [LINEAR, pf.schedules.Cosine(), pf.schedules.Polynomial(2)], ids=str)
def test_exact_flows_obey_all_laws_to_rounding(schedule: pf.schedules.Schedule) -> None:
    points = normal(9, 3, seed=3)
    flow = pf.ProximalFlow(pf.potentials.Discrete(points, 0.4 * points.square().sum(1)), schedule)
    found = audit(
        lambda t, x: flow(t, x), flow, schedule=schedule, count=100, steps=8, compare_independent=False
    ).figures
    for name in ("jacobian_asymmetry", "recovered_drift", "cycle_violations", "repairing_gain",
                 "cost_excess", "velocity_error", "spectrum_above", "spectrum_below", "one_step_error",
                 "four_step_error"):  # fmt: skip
        assert abs(found[name].value) < 1e-9, name
    assert found["variance_ratio"].value == pytest.approx(1, abs=1e-9)


def test_figures_rank_exact_between_and_independent() -> None:
    """Half-way between both fields stands for minibatch pairs: it has no closed form of its own."""
    points = normal(12, 2, seed=4) + 3 * torch.tensor([[1.0, 0], [-1, 0], [0, 1]], dtype=f64).repeat(4, 1)
    flow = pf.ProximalFlow(pf.potentials.Discrete(points, 0.4 * points.square().sum(1)))
    rows = flow.sample(2000, generator=torch.Generator().manual_seed(0))
    other = pf.IndependentField(rows)
    fields: list[Any] = [flow, lambda t, x: 0.5 * (flow(t, x) + other(t, x)), other]
    found = [audit(field, flow, data=rows, count=200, steps=16, compare_independent=False).figures for field in fields]
    for name in ("recovered_drift", "one_step_error", "four_step_error", "velocity_error", "largest_eigenvalue"):
        exact, between, independent = (one[name].value for one in found)
        assert exact < between < independent, name
    for name in ("cycle_violations", "repairing_gain", "spectrum_above"):
        exact, between, independent = (one[name].value for one in found)
        assert exact < 1e-9 < independent, name
        assert exact <= between, name


def test_labels_are_the_groups_and_shares_are_those_of_the_nearest_row() -> None:
    rows = torch.tensor([[0.0, 0], [10, 0], [0, 10], [10, 1]], dtype=f64)
    groups = groups_of(rows, torch.tensor([5, 7, 9, 7]), 0)
    assert groups.names == ("class 5", "class 7", "class 9")
    found = group_shares(rows.repeat(25, 1)[:, :] + 0.1, groups)
    assert found.found.tolist() == [0.25, 0.5, 0.25]
    assert bool((found.upper > found.found).all())


def test_wilson_interval_against_its_defining_equation() -> None:
    """Ends p solve |k / n - p| = z sqrt(p (1 - p) / n)."""
    found = share(torch.arange(50) < 4)
    for end in (found.low, found.high):
        assert abs(0.08 - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 50))


def test_bad_input_is_refused_in_a_line() -> None:
    def field(t: Tensor, x: Tensor) -> Tensor:
        return x

    rows = normal(100, 2)
    with pytest.raises(ValueError, match="nothing tells what points"):
        audit(field)
    with pytest.raises(ValueError, match="count must be an integer of at least 64"):
        audit(field, data=rows, count=3)
    with pytest.raises(ValueError, match="labels must be"):
        audit(field, data=rows, labels=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels are those of data"):
        audit(field, source=pf.measures.Gaussian(2), labels=torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="held_out has 3 entries"):
        audit(field, data=rows, held_out=normal(5, 3))
    with pytest.raises(ValueError, match="the field gave"):
        audit(lambda t, x: x[:, :1], data=rows)
    with pytest.raises(ValueError, match="the reference 3"):
        audit(field, pf.ProximalFlow(pf.potentials.Ball(3)), data=rows)


def test_a_reference_that_was_not_fitted_is_said_to_have_other_weights() -> None:
    few, many = normal(40, 5, seed=5), normal(400, 5, seed=6)
    good = pf.semidiscrete.fit(few, tol=0.02, progress=False)
    with pytest.warns(pf.ConvergenceWarning):
        bad = pf.semidiscrete.fit(many, max_samples=1 << 9, progress=False)
    assert bad.chi2 > 0.05
    said = [
        audit(
            pf.IndependentField(rows), fit, data=rows, count=64, steps=8, compare_independent=False, progress=False
        ).verdict
        for rows, fit in ((few, good), (many, bad))
    ]
    assert "chi2" not in said[0]
    assert f"that of a fit with chi2 = {bad.chi2:.2g}, whose rows have other weights than the data" in said[1]


def normal_flow(deviations: Tensor) -> pf.ProximalFlow:
    return pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(3, dtype=f64), torch.diag(deviations**2)))


def test_the_least_excess_of_the_pairs_behind_a_field() -> None:
    """Of independent pairs of normal laws: x_t = sigma_t x0, and both recovered points are multiples of it."""
    noise = normal(20_000, 3)
    pairs = generated_pairs(lambda t, x: rate(t) * x, noise, (3,), LINEAR, STEPS)
    misses = misses_on_the_way(pairs, normal_flow(WIDE), LINEAR)
    found = pair_bound(misses, pairs, noise * WIDE, LINEAR)
    t = found.times[:, None]
    sigma = ((1 - t) ** 2 + t**2 * WIDE**2).sqrt()
    miss = sigma * (1 + (1 - t) * rate(t) - WIDE / (1 - t + t * WIDE))
    least = (WIDE - 1).square().sum()
    by_time = 2 * t[:, 0] / (1 - t[:, 0]) * miss.square().sum(1) / least
    assert found.excess.low <= float(by_time.max()) <= found.excess.high
    true = float(2 * WIDE.sum() / least)  # E|x1 - x0|^2 - W2^2 is 2 tr(cov^(1/2))
    assert 0.02 * true < found.excess.value < true
    assert (found.error <= found.bound * (1 + 1e-12)).all()
    assert float((found.bound / found.error).min()) == pytest.approx(1)


@pytest.mark.parametrize("schedule", slow_beyond(1, [LINEAR, pf.schedules.Cosine()]), ids=str)
def test_pairs_of_minibatches_cost_at_least_what_their_field_says(schedule: pf.schedules.Schedule) -> None:
    """Independent pairs of a few atoms, whose field and excess are known."""
    points = 2 * normal(12, 3, seed=4)
    flow = pf.ProximalFlow(pf.semidiscrete.fit(points, tol=1e-4).potential, schedule)
    found = audit(
        pf.IndependentField(points, schedule=schedule), flow, data=points, compare_independent=False, progress=False
    )
    noise = normal(100_000, 3, seed=5)
    least = float((flow.transport(noise) - noise).square().sum(1).mean())
    independent = 3 + float(points.square().sum(1).mean())
    excess = found.figures["pair_excess"]
    assert 0.05 < excess.low < excess.high < independent / least - 1
    itself = audit(flow, flow, data=points, compare_independent=False, progress=False).figures["pair_excess"]
    assert itself.value < 1e-12


def test_the_interval_of_the_least_group_holds_where_chance_says_which_that_is() -> None:
    """It was that of a group chosen beforehand: of 16 equal ones it left out the truth in a quarter of runs."""
    equal = torch.full((16,), 1 / 16, dtype=f64)
    groups = Groups(tuple("abcdefghijklmnop"), equal, equal, normal(16, 2), torch.arange(16))
    drawn = torch.distributions.Multinomial(2000, groups.shares)
    torch.manual_seed(0)
    found = [_group_least(drawn.sample(), groups.shares) for _ in range(300)]
    assert all(each.low <= each.value <= each.high for each in found)
    assert np.mean([each.low <= 1 <= each.high for each in found]) >= 0.95
    dropped = torch.full((16,), 100.0, dtype=f64)
    dropped[3] = 0
    least = _group_least(dropped, groups.shares)
    assert (least.value, least.low) == (0, 0)
    assert 0 < least.high < 0.1


@pytest.mark.parametrize("copied", [False, True])
def test_a_wide_class_around_a_compact_one_is_not_dropped(copied: bool) -> None:
    """In 50 dimensions the nearest row to a point of the wide class is one of the compact class: 1% went to its own."""
    labels = torch.arange(2000) % 2
    scale = torch.tensor([0.3, 1.0], dtype=f64)[labels][:, None]
    rows, made = normal(2000, 50) * scale, normal(2000, 50, seed=1) * scale
    groups = groups_of(rows, labels, 0)
    shares = group_shares(rows if copied else made, groups)
    assert faults({}, None, shares, normal_source=True) == ()
    found = generation_figures(rows if copied else made, rows, groups)
    assert found["group_error"].low <= 0 <= found["group_error"].high
    assert found["group_least"].low <= 1 <= found["group_least"].high


def test_a_class_that_is_told_from_its_rows_is_missed_where_it_is_dropped() -> None:
    rows = normal(1000, 5) + 6 * (torch.arange(1000) % 2)[:, None]
    shares = group_shares(rows[::2], groups_of(rows, torch.arange(1000) % 2, 0))
    (told,) = faults({}, None, shares, normal_source=True)
    assert told.startswith("Modes are dropped: missing or less than half there is class 1 (0.0% of samples, 50.0%")


@pytest.mark.parametrize("copied", [False, True])
def test_directions_found_on_few_rows_are_no_fault(copied: bool) -> None:
    """Of 300 rows of N(0, I) in 64 dimensions the largest variance is twice that of their law."""
    for seed in range(5):
        rows = normal(300, 64, seed=seed)
        made = rows.repeat(4, 1)[:1024] if copied else normal(1024, 64, seed=100 + seed)
        found = figures_of(row_variances(made, rows), {}, {})
        assert [name for name, one in found.items() if "variance" in name and one.excludes_exact(0.03, 1.7)] == []


@pytest.mark.parametrize("steps", [8, 16, 32])
def test_the_local_dimension_is_that_at_its_time(steps: int) -> None:
    """Of x0 -> .1 x0 in four dimensions: 4 .9 .1 / (.1 + .9 .1) at t = .9, whatever the steps."""
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(4, dtype=f64), 0.01 * torch.eye(4, dtype=f64)))
    pairs = generated_pairs(flow, normal(24, 4), (4,), LINEAR, steps)
    found = jacobian_figures(measured_jacobians(flow, pairs, (4,), LINEAR, 24, 0))["local_dimension"]
    assert found.value == pytest.approx(4 * 0.09 / 0.19, rel=1e-12)


@pytest.mark.parametrize("schedule", [LINEAR, pf.schedules.Cosine(), pf.schedules.Polynomial(2)], ids=repr)
def test_between_two_steps_points_are_on_the_straight_pair(schedule: pf.schedules.Schedule) -> None:
    """Of an exact flow: alpha x0 + beta x1 at any time, also where the steps are coarse."""
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.ones(3, dtype=f64), torch.diag(WIDE**2)), schedule)
    pairs = generated_pairs(flow, normal(20, 3), (3,), schedule, 4)
    x0 = pairs.source[5:12]
    for t in torch.tensor([0.0, 0.15, 0.5, 0.9, 0.99], dtype=f64):
        here = pairs.at(t, schedule, slice(5, 12))
        straight = schedule.alpha(t) * x0 + schedule.beta(t) * flow.transport(x0)
        torch.testing.assert_close(here, straight, rtol=1e-12, atol=1e-12)


def test_a_repeated_row_has_the_neighbours_of_one() -> None:
    """Precision was 0 where each row came four times: a third neighbour at distance 0."""
    rows, made = normal(200, 3), normal(200, 3, seed=1)
    once, often = (generation_figures(made, cloud, groups_of(cloud, None, 0)) for cloud in (rows, rows.repeat(4, 1)))
    assert once["precision"].value > 0.9
    assert often["precision"].value == once["precision"].value


@pytest.mark.parametrize(("dim", "noise", "count"), [(4, 1.0, 300), (2, 1.0, 256), (4, 0.3, 300)])
def test_the_interval_of_what_pairing_again_saves_has_the_width_of_its_scatter(
    dim: int, noise: float, count: int
) -> None:
    """It was by cycles of the permutation: a half of the scatter, or three times as much."""
    values, widths = [], []
    for seed in range(40):
        x0 = normal(count, dim, seed=seed)
        x1 = x0 + noise * normal(count, dim, seed=100 + seed)
        found = pair_figures(GeneratedPairs(torch.tensor([0.0, 1.0]), torch.stack([x0, x1]), x1[None]), count)
        values.append(found["repairing_gain"].value)
        widths.append((found["repairing_gain"].high - found["repairing_gain"].low) / (2 * student.ppf(0.975, 7)))
    assert float(np.sqrt(np.mean(np.square(widths)))) == pytest.approx(float(np.std(values, ddof=1)), rel=0.35)


def test_intervals_of_few_values_are_students() -> None:
    """Four values, three degrees of freedom: scipy's own interval of their mean."""
    values = normal(4)
    low, high = student.interval(0.95, 3, loc=float(values.mean()), scale=float(values.std()) / 2)
    assert (mean_of(values).low, mean_of(values).high) == pytest.approx((low, high), rel=1e-12)
