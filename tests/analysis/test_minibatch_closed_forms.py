"""Costs and gaps of minibatch pairs against order statistics, binomial counts and quadrature."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import betaln, ndtr, ndtri
from scipy.stats import binom

from proxflow.analysis.convergence.record import MinibatchConvergence
from proxflow.analysis.convergence.study import minibatch_convergence
from proxflow.measures import Uniform
from proxflow.potentials import Discrete, Quadratic, Quantile
from proxflow.schedules import Cosine
from tests.marks import slow_beyond
from tests.semidiscrete.closed_forms import line_cost, normal_density

SIZES = [1, 2, 5, 32]
DEVIATIONS = 5.0

Array = NDArray[np.float64]


def order_statistics(n: int) -> Array:
    """E Z_(1) <= ... <= E Z_(n) of n standard normal draws, by quadrature."""
    z = np.linspace(-9, 9, 20_001)
    rank = np.arange(1, n + 1)[:, None]
    level = np.clip(ndtr(z), 1e-300, None)
    upper = np.clip(ndtr(-z), 1e-300, None)
    density = (rank - 1) * np.log(level) + (n - rank) * np.log(upper) - betaln(rank, n + 1 - rank)
    return np.trapezoid(z * np.exp(density) * normal_density(z), z, axis=1)


def check(result: MinibatchConvergence, cost: Array, transport_cost: float) -> None:
    """Costs, excess and gap within their errors, and the two routes within theirs."""
    exact = torch.from_numpy(cost)
    assert (result.cost - exact).abs().div(result.cost_stderr).max() < DEVIATIONS
    assert result.disagreement.abs().div(result.disagreement_stderr).max() < DEVIATIONS
    excess = exact - transport_cost
    assert (result.excess - excess).abs().div(result.excess_stderr).max() < DEVIATIONS
    assert (2 * result.gap - excess).abs().div(2 * result.gap_stderr).max() < DEVIATIONS
    low, high = result.transport_cost_interval
    middle, half = (low + high) / 2, (high - low) / 2
    assert abs(middle - transport_cost) <= DEVIATIONS / 1.96 * half + 1e-9 * transport_cost
    assert (result.gap_stderr < 0.05 * result.gap).all()


def test_normal_to_normal_on_the_line() -> None:
    """Both batches sorted: C_n = 1 + s^2 + m^2 - 2 s / n sum_i (E Z_(i))^2."""
    mean, deviation = 0.7, 1.8
    potential = Quadratic(
        torch.tensor([mean], dtype=torch.float64), torch.tensor([[deviation**2]], dtype=torch.float64)
    )
    result = minibatch_convergence(potential, SIZES)
    squares = np.array([(order_statistics(n) ** 2).mean() for n in SIZES])
    check(result, 1 + deviation**2 + mean**2 - 2 * deviation * squares, mean**2 + (1 - deviation) ** 2)
    assert result.transport_cost == pytest.approx(mean**2 + (1 - deviation) ** 2, abs=1e-12)


def test_normal_to_uniform_on_the_line() -> None:
    """E U_(i) = i / (n + 1); W2^2 by quadrature of the quantiles."""
    result = minibatch_convergence(Quantile(([0.0, 1.0], [0.0, 1.0])), SIZES, relative_error=0.04)
    products = [float(order_statistics(n) @ np.arange(1, n + 1)) / (n * (n + 1)) for n in SIZES]
    level = (np.arange(1_000_000) + 0.5) / 1_000_000
    transport_cost = 1 + 1 / 3 - 2 * float(np.mean(ndtri(level) * level))
    check(result, 4 / 3 - 2 * np.array(products), transport_cost)


def matched_above(z: Array, n: int, share: float) -> Array:
    """P(a source point at z is paired with the upper atom): its rank from above is within the number of upper ones."""
    z, upper = np.clip(z, -9, 9), np.arange(n)[:, None]  # rivals above z
    return (binom.pmf(upper, n - 1, ndtr(-z)) * binom.sf(upper, n, share)).sum(0)


@pytest.mark.parametrize("share", [0.5, 0.2])
def test_two_atoms_in_the_plane(share: float) -> None:
    """Upper atoms go to the points furthest along a: binomial counts on both sides."""
    a = torch.tensor([[0.9, 1.2]], dtype=torch.float64)
    # equal rows count as often as they come
    points = torch.cat([a.repeat(round(10 * share), 1), -a.repeat(round(10 * (1 - share)), 1)])
    result = minibatch_convergence(points, SIZES, replacement=True, fit_tol=1e-3, relative_error=0.04)
    z = np.linspace(-9, 9, 20_001)
    products = [
        float(np.trapezoid(z * normal_density(z) * 1.5 * (2 * matched_above(z, n, share) - 1), z)) for n in SIZES
    ]
    check(
        result,
        2 + 1.5**2 - 2 * np.array(products),
        1 + line_cost(np.array([-1.5, 1.5]), np.array([1 - share, share])),
    )


def test_two_atoms_from_a_uniform_source() -> None:
    """A source that is not normal: sorted uniform points, the upper ones to the upper atom."""
    points = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    result = minibatch_convergence(points, SIZES, replacement=True, source=Uniform(1), fit_tol=1e-3)
    products = []
    for n in SIZES:
        k = np.arange(n + 1)
        expected = np.arange(1, n + 1) / (n + 1)
        top = np.array([expected[n - count :].sum() for count in k])
        products.append(float(binom.pmf(k, n, 0.5) @ (2 * top - n / 2)) / n)
    check(result, 1 / 3 + 1 - 2 * np.array(products), 1 / 3 + 1 - 2 * 0.25)


@pytest.mark.parametrize("t", slow_beyond(1, [0.8, 0.3]))
def test_the_field_of_small_batches(t: float) -> None:
    """v^(n) of two atoms on the line by quadrature: weights b_j p0(z_j) P(z_j is paired with j)."""
    a = 1.3
    points = torch.tensor([[-a], [a]], dtype=torch.float64)
    sizes = [1, 2, 4, 8]
    schedule = Cosine()
    potential = Discrete(points, torch.zeros(2).double())
    result = minibatch_convergence(potential, sizes, replacement=True, schedule=schedule)
    error = result.field_error(t, assignments=1 << 12)
    times = torch.tensor(t, dtype=torch.float64)
    alpha, beta = float(schedule.alpha(times)), float(schedule.beta(times))
    factor = float(schedule.wronskian(times)) / alpha
    x = np.linspace(-12, 12, 40_001)
    prox = np.clip(x / beta, -a, a)
    exact, measured = [], []
    for n in sizes:
        above, below = (x - beta * a) / alpha, (x + beta * a) / alpha
        upper = normal_density(above) * matched_above(above, n, 0.5) / alpha
        lower = normal_density(below) * (1 - matched_above(below, n, 0.5)) / alpha
        mean = a * (upper - lower) / np.clip(upper + lower, 1e-300, None)
        exact.append(factor**2 * np.trapezoid((upper + lower) * (mean - prox) ** 2, x))
        measured.append(factor**2 * np.trapezoid(upper * (a - prox) ** 2 + lower * (a + prox) ** 2, x))
    assert ((error.value - torch.tensor(exact)).abs() < DEVIATIONS * error.stderr).all()
    assert (error.stderr < 0.2 * exact[0]).all()
    found = result.measure(t)
    assert ((found.value - torch.tensor(measured)).abs() < DEVIATIONS * found.stderr).all()
    assert math.isclose(float(result.measured_error(t)[0]), float(found.value[0]))
    assert (error.value <= result.bound(t) + DEVIATIONS * error.stderr).all()
