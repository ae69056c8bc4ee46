"""The study of batch sizes says what ``couplings.Minibatch`` does, and no more than it knows."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import gammaln, ndtr
from scipy.stats import binom

import proxflow as pf
from proxflow.analysis.convergence.advice import Findings, advise
from proxflow.analysis.convergence.rate import Rate
from proxflow.analysis.convergence.target import draw_rows
from tests.analysis.test_minibatch_closed_forms import order_statistics
from tests.marks import slow_beyond
from tests.semidiscrete.closed_forms import line_cost, normal_density

Array = NDArray[np.float64]
DEVIATIONS = 5.0


def normal(n: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def quick(points: Any, sizes: list[int], **options: Any) -> pf.analysis.MinibatchConvergence:
    settings: dict[str, Any] = {"relative_error": 0.05, "max_pairs": 1 << 13, "progress": False, **options}
    return pf.analysis.minibatch_convergence(points, sizes, **settings)


def within(value: torch.Tensor, stderr: torch.Tensor, exact: object) -> None:
    apart = (value - torch.as_tensor(exact, dtype=torch.float64)).abs()
    assert (apart <= DEVIATIONS * stderr + 1e-12).all(), (value, stderr, exact)


# ---------------------------------------------------------------- batches as Minibatch draws them


@pytest.mark.parametrize("size", slow_beyond(2, [9, 64, 81]))
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cost_is_that_of_the_pairs_of_minibatch(size: int, dtype: torch.dtype) -> None:
    """81 points on a grid: with replacement, batches of 64 cost half as much again above W2^2."""
    axis = torch.linspace(-1.6, 1.6, 9, dtype=dtype)
    points = torch.cartesian_prod(axis, axis)
    study = quick(points, [size], relative_error=0.02)
    generator = torch.Generator().manual_seed(0)
    coupling = pf.couplings.Minibatch(points, size)
    costs, known = [], []
    for _ in range(300):
        pairs = coupling.assign(generator=generator)
        x = pairs.source.double()
        costs.append((x - pairs.target).square().sum(1).mean())
        # of known mean: regression on them leaves less noise
        known.append(torch.cat([torch.ones(1), x.mean(0), (x.square().mean(0) - 1), x.prod(1).mean()[None]]))
    cost, columns = torch.stack(costs), torch.stack(known).double()
    slopes = torch.linalg.lstsq(columns, cost[:, None]).solution[:, 0]
    stderr = torch.hypot(study.cost_stderr, (cost - columns @ slopes).std() / math.sqrt(len(cost)))
    within(study.cost, stderr, slopes[0])
    if size > 9:  # a share of the rows that shows
        replaced = quick(points, [size], relative_error=0.02, replacement=True)
        assert (replaced.cost - slopes[0] > 5 * torch.hypot(stderr, replaced.cost_stderr)).all()


def rank_law(rows: int, n: int) -> Array:
    """P(the i-th of n rows drawn without replacement, in order, is the r-th of all), (n, rows)."""
    i, r = np.arange(1, n + 1)[:, None], np.arange(1, rows + 1)[None]

    def log_choose(a: NDArray[Any], b: NDArray[Any]) -> Array:
        inside = (b >= 0) & (b <= a)
        a, b = np.where(inside, a, 0), np.where(inside, b, 0)
        return np.where(inside, gammaln(a + 1) - gammaln(b + 1) - gammaln(a - b + 1), -np.inf)

    return np.exp(log_choose(r - 1, i - 1) + log_choose(rows - r, n - i) - log_choose(np.array(rows), np.array(n)))


@pytest.mark.parametrize("values", [[-1.0, 1.0], [-2.0, -0.3, 0.1, 1.7], [0.0, 0.0, 0.0, 1.0, 2.5, 2.5, 4.0]])
def test_on_the_line_against_ranks_of_both_samples(values: list[float]) -> None:
    """C_n = 1 + mean y^2 - (2 / n) sum_i E Z_(i) E Y_(i), Y_(i) the order statistics of rows without replacement."""
    y, rows = np.array(values), len(values)
    sizes = sorted({1, 2, rows - 1, rows})
    study = quick(torch.from_numpy(y)[:, None], sizes, fit_tol=1e-3, max_pairs=1 << 15, relative_error=0.03)
    exact = [1 + (y**2).mean() - 2 / n * float(order_statistics(n) @ rank_law(rows, n) @ y) for n in sizes]
    within(study.cost, study.cost_stderr, exact)
    excess = np.array(exact) - line_cost(*weighted(y))
    within(2 * study.gap, 2 * study.gap_stderr, excess)
    within(study.disagreement, study.disagreement_stderr, 0.0)
    assert study.rows == rows
    assert not study.replacement.any()


def weighted(y: Array) -> tuple[Array, Array]:
    """Distinct values with their shares."""
    distinct, counts = np.unique(y, return_counts=True)
    return distinct, counts / len(y)


def test_a_batch_of_two_atoms_has_both() -> None:
    """E|Z_(2) - Z_(1)| = 2 / sqrt(pi): C_2 = 2 - 2 / sqrt(pi); with replacement half of the batches gain nothing."""
    points = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    without, replaced = quick(points, [2]), quick(points, [2], replacement=True)
    within(without.cost, without.cost_stderr, 2 - 2 / math.sqrt(math.pi))
    within(replaced.cost, replaced.cost_stderr, 2 - 1 / math.sqrt(math.pi))


@pytest.mark.parametrize(
    ("values", "sizes", "t"),
    [([-1.3] * 3 + [1.3] * 5, [1, 2, 4, 8], 0.3), ([-1.3] * 3 + [1.3] * 5, [1, 2, 4, 8], 0.8),
     ([-1.5, -0.2, 0.4, 1.1, 1.1], [1, 3, 5], 0.5)],
)  # fmt: skip
def test_the_field_of_batches_without_replacement(values: list[float], sizes: list[int], t: float) -> None:
    """v^(n) on the line by quadrature: noise of rank k goes to the k-th row of the batch."""
    rows = np.array(values)
    study = quick(torch.from_numpy(rows)[:, None], sizes, fit_tol=1e-3, kept_pairs=512, max_pairs=1 << 13)
    x = np.linspace(-12, 12, 8001)
    flow = pf.ProximalFlow(study.potential)
    prox = flow.recover_target(t, torch.from_numpy(x)[:, None])[:, 0].numpy()
    z = (x[:, None] - t * rows) / (1 - t)
    exact, measured = [], []
    for n in sizes:
        below = ndtr(np.clip(z, -9, 9))
        goes = sum(binom.pmf(k, n - 1, below) * rank_law(len(rows), n)[k] for k in range(n))
        density = normal_density(z) * goes / (1 - t)
        assert np.trapezoid(density, x, axis=0) == pytest.approx(1 / len(rows), abs=1e-5)
        total = density.sum(1)
        # clipped for where all densities are below the smallest number
        mean = np.clip((density @ rows) / np.clip(total, 1e-300, None), rows.min(), rows.max())
        exact.append(np.trapezoid(total * (mean - prox) ** 2, x) / (1 - t) ** 2)
        measured.append(np.trapezoid((density * (rows - prox[:, None]) ** 2).sum(1), x) / (1 - t) ** 2)
    found = study.field_error(t, assignments=1 << 11)
    within(found.value, found.stderr, exact)
    assert not any(found.reason)
    pairs = study.measure(t)
    within(pairs.value, pairs.stderr, measured)
    assert (torch.tensor(exact) <= study.bound(t)).all()
    # for sizes that are not drawn from, an interval instead of a NaN without a word
    between = study.field_error(t, largest=1)
    assert torch.isnan(between.value[1:]).all()
    assert (between.interval[:, 0] - 1e-9 <= torch.tensor(exact)).all()
    assert (torch.tensor(exact) <= between.interval[:, 1] + 1e-9).all()
    assert all(f"assignments of {n}" in reason for n, reason in zip(sizes[1:], between.reason[1:], strict=True))


def test_without_replacement_costs_fall_and_are_the_lower_ones() -> None:
    """A batch of n + 1 holds, averaged, its batches of n; E f without <= with replacement for convex f (Hoeffding)."""
    points = normal(24, 3)
    sizes = [1, 2, 4, 8, 16, 24]
    fit = pf.semidiscrete.fit(points)
    without, replaced = quick(fit, sizes), quick(fit, sizes, replacement=True)
    slack = 4 * torch.hypot(without.cost_stderr[1:], without.cost_stderr[:-1])
    assert (without.cost[1:] <= without.cost[:-1] + slack).all()
    assert (without.cost <= replaced.cost + 4 * torch.hypot(without.cost_stderr, replaced.cost_stderr)).all()
    # a batch of all rows is not the population coupling: its noise is 24 draws
    assert float(without.gap[-1]) > 10 * float(without.gap_stderr[-1])
    assert (without.measured_error(0.5) <= without.bound(0.5)).all()


def test_the_sizes_that_minibatch_refuses_are_drawn_with_replacement() -> None:
    points = normal(6, 2)
    study = quick(points, [1, 2, 4, 6, 7, 16, 32, 64])
    assert study.rows == 6
    assert study.replacement.tolist() == [False] * 4 + [True] * 4
    assert set(study.rate.sizes) <= {7, 16, 32, 64}  # one law for batches of one kind
    replaced = quick(points, [64], replacement=True)
    torch.testing.assert_close(replaced.cost, study.cost[-1:], rtol=1e-12, atol=0)  # sums of other alignment
    with pytest.raises(ValueError, match="batch_sizes must be at most the 6 rows without replacement, got 7"):
        quick(points, [7], replacement=False)


@pytest.mark.slow
def test_which_rows_there_are() -> None:
    """Rows of a fit, merged atoms included; equal atoms of a potential; no rows where weights are unequal."""
    points = normal(5, 2).repeat_interleave(torch.tensor([1, 2, 3, 1, 1]), dim=0)
    fit = pf.semidiscrete.fit(points)
    assert quick(fit, [2]).rows == 8
    assert quick(fit.potential, [2]).rows is None
    assert quick(pf.semidiscrete.fit(normal(5, 2)).potential, [2]).rows == 5
    uneven = quick(pf.semidiscrete.fit(normal(4, 2), torch.tensor([0.4, 0.3, 0.2, 0.1])), [1, 2, 4])
    assert uneven.rows is None
    assert uneven.replacement.all()
    assert quick(pf.potentials.Ball(2), [2]).replacement.all()


@pytest.mark.parametrize(("rows", "size"), [(40, 3), (9, 5), (4, 4), (5, 1)])
def test_rows_without_replacement_are_equally_likely_and_never_twice(rows: int, size: int) -> None:
    batches = 4000
    drawn = draw_rows(rows, batches, size, torch.Generator().manual_seed(0))
    assert drawn.shape == (batches, size)
    assert (drawn.sort(1).values.diff(dim=1) > 0).all()
    share = size / rows
    counts = torch.bincount(drawn.flatten(), minlength=rows).double()
    assert (counts - batches * share).abs().max() <= 5 * math.sqrt(batches * share * (1 - share)) + 1e-9
    first = torch.bincount(drawn[:, 0], minlength=rows).double()  # and so is each place of the batch
    assert (first - batches / rows).abs().max() <= 5 * math.sqrt(batches / rows)


# ---------------------------------------------------------------- advice that can be followed


def named_batches(advice: str) -> list[int]:
    """The sizes that a sentence of advice names."""
    found = re.findall(r"(?:batches of|take|about|all)(?: about| up to| all)? ([\d,]+)(?! such| s| ms)", advice)
    return [int(number.replace(",", "")) for number in found]


@pytest.mark.parametrize("count", [2, 7, 50, 96, 997, 1797, 12345])
@pytest.mark.parametrize("exponent", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("wanted", [0.5, 0.05, 0.012, 0.001])
@pytest.mark.parametrize("finite", [True, False])
def test_advice_names_no_batch_larger_than_the_data(count: int, exponent: float, wanted: float, finite: bool) -> None:
    for largest in (count // 2, count, 4 * count, 64 * count):
        sizes = torch.tensor(sorted({min(2**k, largest) for k in range(largest.bit_length() + 1)}))
        if largest == 0:
            continue
        excess = 4.0 * sizes.double() ** -exponent
        pivot = float(sizes[-1])
        rate = Rate(exponent, (exponent - 0.01, exponent + 0.01), (1,), pivot, 4.0 * pivot**-exponent, "")
        seconds = 1e-6 * sizes.double() ** 2
        for fit_seconds in (1.0, 1e9):
            findings = Findings(sizes, excess, 10.0, seconds, rate, wanted, finite, count, False, fit_seconds)
            advice = advise(findings)
            assert all(size <= count for size in named_batches(advice)), advice
            if "Use minibatch OT" in advice:
                best = min(float(4.0 * n**-exponent) for n in range(1, count + 1))
                assert best <= 10.0 * wanted
            if "Do not" in advice:
                assert "semidiscrete coupling" in advice or "pairs of the exact flow" in advice


@pytest.mark.parametrize(("count", "dim", "wanted"), [(20, 2, 0.15), (20, 2, 0.05), (5, 1, 0.3), (50, 20, 0.02)])
def test_the_advice_of_a_study_can_be_followed(count: int, dim: int, wanted: float) -> None:
    points = normal(count, dim)
    study = quick(points, [1, 4, 16, 64, 256], wanted=wanted, relative_error=0.1)
    named = named_batches(study.advice)
    assert named
    for size in named:
        pf.couplings.Minibatch(points, size)
    beyond = study.batch_for(1e-3 * float(study.bound(0.5)[-1]))
    assert beyond.size is None or beyond.size <= count or bool(study.replacement[-1])


def test_only_sizes_beyond_the_data_were_measured() -> None:
    study = quick(normal(5, 2), [64], wanted=5.0)
    assert "at most all 5 points" in study.advice
    assert "use the semidiscrete coupling" in study.advice


def test_weighted_atoms_are_not_sent_to_minibatch() -> None:
    """``Minibatch`` takes no weights: batches of them are one's own, paired by ``pair``."""
    fit = pf.semidiscrete.fit(normal(6, 2), torch.tensor([0.3, 0.25, 0.2, 0.1, 0.1, 0.05]), seed=0)
    study = quick(fit, [2, 4], wanted=3.0)
    assert "drawn by the weights and paired by couplings.pair" in study.advice or "semidiscrete" in study.advice


# ---------------------------------------------------------------- two routes that share their pairs


def test_the_error_of_the_difference_is_that_of_pairs() -> None:
    """Over seeds the difference in standard errors has variance 1; errors added as if independent would give 1e-3."""
    fit = pf.semidiscrete.fit(normal(60, 2))
    studies = [quick(fit, [1, 8, 32], seed=seed, relative_error=0.2, max_pairs=1 << 11) for seed in range(8)]
    apart = torch.stack([study.disagreement / study.disagreement_stderr for study in studies])
    assert 0.2 < float(apart.square().mean()) < 2.2
    for study in studies:
        torch.testing.assert_close(study.disagreement, study.excess - 2 * study.gap)
        separate = torch.hypot(study.excess_stderr, 2 * study.gap_stderr)
        assert (study.disagreement_stderr < 0.5 * separate).all()


def test_a_wrong_transport_cost_is_noticed() -> None:
    """W2^2 off by a quarter: many standard errors of the paired difference, few of the two errors taken apart."""
    fit = pf.semidiscrete.fit(normal(60, 2))
    wrong = quick(fit, [1, 8], relative_error=0.1, transport_cost=1.25 * fit.transport_cost)
    assert (wrong.disagreement < -6 * wrong.disagreement_stderr).all()
    together = torch.hypot(wrong.excess_stderr, 2 * wrong.gap_stderr)
    assert (wrong.excess - 2 * wrong.gap).abs()[0] < 2 * together[0]


def test_rounding_is_no_disagreement() -> None:
    """Where control variates explain everything the standard error is zero up to rounding."""
    for dtype in (torch.float32, torch.float64):
        study = quick(pf.potentials.Quadratic(torch.ones(2, dtype=dtype), 4 * torch.eye(2, dtype=dtype)), [1, 8])
        within(study.disagreement, study.disagreement_stderr, 0.0)
