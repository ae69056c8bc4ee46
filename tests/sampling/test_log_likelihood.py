"""Log-densities against closed forms, quadrature, and the scatter that the standard error states."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

import proxflow as pf
from proxflow.sampling import bits_per_dimension, log_likelihood
from proxflow.schedules import Cosine, Linear, Polynomial, Schedule
from tests.laws.cases import STORED
from tests.marks import slow_beyond
from tests.sampling.closed_forms import SCHEDULES, Mixture

f64 = torch.float64
BIT = math.log(2)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_of_a_mixture(schedule: Schedule, generator: torch.Generator) -> None:
    law = Mixture(schedule)
    x = law.sample(20, generator)
    result = log_likelihood(law.velocity, x, schedule=schedule)
    assert float((result.value - law.log_prob(1.0, x)).abs().max()) < 1e-4 * BIT  # asked for: 1e-3
    assert torch.equal(result.stderr, torch.zeros(20, dtype=f64))
    assert (result.divergence, result.probes) == ("exact", 0)
    torch.testing.assert_close(
        pf.sampling.integrate(law.velocity, result.noise, method="dopri5").end, x, rtol=0, atol=1
    )


def _optimal_pairs(schedule: Schedule, scale: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The field of y = scale u, by hand."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        rate = schedule.alpha_derivative(t) + schedule.beta_derivative(t) * scale
        return rate / (schedule.alpha(t) + schedule.beta(t) * scale) * x

    return field


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
@pytest.mark.parametrize("schedule", slow_beyond(1, [Linear(), Cosine(), Polynomial(0.5)]), ids=str)
def test_of_a_law_as_thin_as_the_last_step_it_warns(
    schedule: Schedule, divergence: str, generator: torch.Generator
) -> None:
    noise = torch.randn(5, 3, generator=generator, dtype=f64)
    for deviation, warned in ((2e-5, True), (2e-4, False)):
        scale = torch.tensor([1.0, deviation, 2.0], dtype=f64)
        found = stats.norm.logpdf(noise.numpy()).sum(1) - math.log(2 * deviation)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            value = log_likelihood(
                _optimal_pairs(schedule, scale), scale * noise, schedule=schedule, divergence=divergence
            ).value
        assert [w.category for w in caught] == [pf.ConvergenceWarning] * warned
        assert all("at 5 of 5 rows the field's law is about as thin as its last step" in str(w.message) for w in caught)
        error = np.abs(value.numpy() - found).max()
        assert error > 0.02 if warned else error < 0.01


def test_points_of_the_line_without_an_event_axis(generator: torch.Generator) -> None:
    law = torch.distributions.Normal(torch.tensor(0.0, dtype=f64), 2.0)
    x = 2 * torch.randn(6, generator=generator, dtype=f64)
    for divergence in ("exact", "hutchinson"):
        result = log_likelihood(_optimal_pairs(Linear(), torch.tensor(2.0, dtype=f64)), x, divergence=divergence)
        torch.testing.assert_close(result.value, law.log_prob(x), rtol=0, atol=1e-4)
        assert result.noise.shape == (6,)


@pytest.mark.parametrize("divergence", ["exact", "hutchinson"])
def test_autocast_rounds_no_divergence(divergence: str, generator: torch.Generator) -> None:
    """The field takes no part in autocast, so neither may its derivative: the error was 5e-3."""
    root = torch.randn(6, 6, generator=generator)
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(6), root @ root.mT + 0.1 * torch.eye(6)))
    x = flow.sample(5, generator=generator)
    plain = log_likelihood(lambda t, x: flow.velocity(t, x), x, divergence=divergence).value
    with torch.autocast("cpu", torch.bfloat16):
        rounded = log_likelihood(lambda t, x: flow.velocity(t, x), x, divergence=divergence).value
    assert torch.equal(plain, rounded)


def test_in_single_precision(generator: torch.Generator) -> None:
    law = Mixture(Linear())
    x = law.sample(20, generator, torch.float32)
    value = log_likelihood(law.velocity, x).value
    assert value.dtype == torch.float32
    assert float((value - law.log_prob(1.0, x.double())).abs().max()) < 1e-3 * BIT


@pytest.mark.parametrize("query", [log_likelihood, pf.sampling.encode])
def test_the_velocity_of_a_flow_of_atoms_has_none_as_the_flow_has_none(query: Any) -> None:
    """By the change of variables it would take thousands of evaluations to end in nothing."""
    flow = pf.ProximalFlow(STORED["atoms"](), Cosine())
    for field in (flow, flow.velocity, flow.forward):
        with pytest.raises(ValueError, match="the flow has no inverse at t = 1"):
            query(field, torch.zeros(2, 4, dtype=f64))
    with pytest.raises(ValueError, match=r"the flow has the schedule Cosine\(\), but schedule=Linear\(\)"):
        query(flow.velocity, torch.zeros(2, 4, dtype=f64), schedule=Linear())


@pytest.mark.parametrize("query", [log_likelihood, pf.sampling.encode])
def test_points_of_another_dtype_or_shape_are_said_to_be_that(query: Any) -> None:
    """Not that the flow had no density, which is asked first."""
    flow = pf.ProximalFlow(pf.potentials.Entropic(torch.eye(3), torch.zeros(3), 0.5))  # spans a plane, but in float32
    with pytest.raises(ValueError, match="float64"):
        query(flow, torch.zeros(2, 3, dtype=f64))
    with pytest.raises(ValueError, match="no inverse at t = 1"):
        query(flow, torch.zeros(2, 3))
    name = "x1" if query is pf.sampling.encode else "x"
    for wrong, said in ((torch.zeros(2, 3, dtype=torch.int64), "float32 or float64"), ([1.0], "torch tensor")):
        with pytest.raises(ValueError, match=f"{name} must be .*{said}"):
            query(flow, wrong)


@pytest.mark.parametrize(("schedule", "as_callable"), [(Linear(), False), (Cosine(), True)], ids=str)
@pytest.mark.parametrize("name", ["gaussian", "gaussian and uniform on an interval"])
def test_of_an_exact_flow_it_is_its_log_prob(name: str, schedule: Schedule, as_callable: bool) -> None:
    factors = [STORED[part]() for part in name.split(" and ")]
    flow = pf.ProximalFlow(pf.potentials.Product(factors), schedule)
    x = flow.transport(flow.potential.source.sample(6, generator=torch.Generator().manual_seed(1), dtype=f64))
    field = (lambda t, y: flow.velocity(t, y)) if as_callable else flow
    result = log_likelihood(field, x, schedule=schedule, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.value, flow.log_prob(x), rtol=0, atol=1e-3 * BIT)


def test_of_a_flow_with_a_source_of_its_own() -> None:
    line = pf.potentials.Quantile(([0.0, 1.0], [0.0, 1.0]), source=pf.measures.Uniform(1, -1, 1))
    flow = pf.ProximalFlow(line)
    x = torch.tensor([[0.2], [0.5], [0.9]], dtype=f64)
    by_field = log_likelihood(lambda t, y: flow.velocity(t, y), x, source=flow.potential.source)
    for result in (log_likelihood(flow, x), log_likelihood(flow.velocity, x), by_field):
        torch.testing.assert_close(result.value, flow.log_prob(x), rtol=0, atol=1e-5)
        torch.testing.assert_close(result.noise, 2 * x - 1, rtol=0, atol=1e-5)


def test_the_density_of_any_field_has_mass_one() -> None:
    """A curved field without closed form: the change of variables is right if the mass is 1, by quadrature."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        return torch.sin(2 * x + 3 * t) + t * torch.tanh(x)

    grid = torch.linspace(-8, 8, 801, dtype=f64)
    density = log_likelihood(field, grid[:, None]).value.exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-6)
    assert float(density.max()) > 0.5  # not the normal law that it began as


class Coupled:
    """x' = A x in R^8: log p1 is that of N(0, e^A e^A'), and signs see what A has off its diagonal."""

    def __init__(self, generator: torch.Generator) -> None:
        self.matrix = 0.4 * torch.randn(8, 8, generator=generator, dtype=f64)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        return x @ self.matrix.T

    def log_prob(self, x: Tensor) -> Tensor:
        carried = torch.linalg.matrix_exp(self.matrix)
        return torch.distributions.MultivariateNormal(torch.zeros(8, dtype=f64), carried @ carried.T).log_prob(x)


def test_the_standard_error_of_hutchinson_covers_the_truth(generator: torch.Generator) -> None:
    """1,200 rows have independent probes: their errors over the stated ones follow Student's law with 15 degrees.

    Uniform levels by a Kolmogorov-Smirnov test; errors stated 1.4 times too small or too large are seen by it.
    """
    field = Coupled(generator)
    x = torch.randn(1200, 8, generator=generator, dtype=f64)
    result = log_likelihood(field, x, divergence="hutchinson", rtol=1e-5, atol=1e-5)
    assert (result.divergence, result.probes) == ("hutchinson", 16)
    score = ((result.value - field.log_prob(x)) / result.stderr).numpy()
    law = stats.t(15)
    assert stats.kstest(score, law.cdf).pvalue > 1e-3
    assert stats.kstest(0.7 * score, law.cdf).pvalue < 1e-3
    assert stats.kstest(1.4 * score, law.cdf).pvalue < 1e-3
    assert abs(score.mean()) < 4 / math.sqrt(len(score))
    assert float((log_likelihood(field, x[:5]).value - field.log_prob(x[:5])).abs().max()) < 1e-4


def test_the_default_is_exact_up_to_64_dimensions_and_seeded_above() -> None:
    def field(t: Tensor, x: Tensor) -> Tensor:
        return 0.5 * x.roll(1, -1) - 0.1 * x

    small, large = torch.ones(2, 4, 4, 4, dtype=f64), torch.ones(2, 5, 13, dtype=f64)
    assert log_likelihood(field, small).divergence == "exact"
    first, again, other = (log_likelihood(field, large, seed=seed, probes=2) for seed in (0, 0, 1))
    assert (first.divergence, first.probes) == ("hutchinson", 2)
    assert torch.equal(first.value, again.value)
    assert not torch.equal(first.value, other.value)
    assert first.noise.shape == large.shape


def test_gradients_in_data_and_parameters(generator: torch.Generator) -> None:
    """x' = a x + b: log p1 is that of N(b (e^a - 1) / a, e^(2a))."""
    x = torch.randn(3, 2, generator=generator, dtype=f64).requires_grad_()
    a, b = (torch.tensor(number, dtype=f64, requires_grad=True) for number in (0.4, -0.7))
    with torch.enable_grad():
        found = log_likelihood(lambda t, y: a * y + b, x).value
        truth = torch.distributions.Normal(b * (a.exp() - 1) / a, a.exp()).log_prob(x).sum(1)
        for ours, theirs in zip(
            torch.autograd.grad(found.sum(), (x, a, b)), torch.autograd.grad(truth.sum(), (x, a, b)), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


class Sine(torch.autograd.Function):
    """Known to no function transform: it has neither a rule for batches nor ``setup_context``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.sin()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        assert gradient.shape == x.shape, "one gradient at a time"
        return torch.from_numpy(gradient.numpy() * np.cos(x.detach().numpy()))


def test_a_field_whose_gradients_come_one_by_one(generator: torch.Generator) -> None:
    matrix = torch.randn(3, 3, generator=generator, dtype=f64)
    x = torch.randn(5, 3, generator=generator, dtype=f64)

    def value(sine: Callable[[Tensor], Tensor]) -> Tensor:
        return log_likelihood(lambda t, x: sine(x @ matrix) * (1 - t), x).value

    torch.testing.assert_close(value(Sine.apply), value(torch.sin), rtol=1e-12, atol=0)


def test_never_at_the_end_and_in_inference_mode(generator: torch.Generator) -> None:
    times: list[float] = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        times.append(float(t))
        return -0.3 * x

    with torch.inference_mode():
        result = log_likelihood(field, torch.randn(3, 2, generator=generator), divergence="hutchinson")
    assert max(times) < 1
    assert result.evaluations == len(times)
    assert torch.isfinite(result.value).all()
    assert not result.value.requires_grad


def test_a_row_that_is_not_finite_touches_no_other(generator: torch.Generator) -> None:
    law = Mixture(Linear())
    x = law.sample(4, generator)
    spoiled = x.clone()
    spoiled[1, 0] = torch.inf
    value = log_likelihood(law.velocity, spoiled).value
    assert value.isnan().tolist() == [False, True, False, False]
    torch.testing.assert_close(value[[0, 2, 3]], law.log_prob(1.0, x)[[0, 2, 3]], rtol=0, atol=1e-4)
    assert log_likelihood(law.velocity, x[:0]).value.shape == (0,)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"divergence": "hutch"}, "divergence must be 'exact' or 'hutchinson', got 'hutch'"),
        ({"divergence": "hutchinson", "probes": 1}, "probes must be an integer of at least 2, got 1"),
        ({"divergence": "exact", "probes": 4}, "probes are for divergence='hutchinson', got 4"),
        ({"source": pf.measures.Gaussian(5)}, "the source has dimension 5, the points 2"),
        ({"field": lambda t, x: x.detach()}, "autograd sees no dependence of the field on x"),
        ({"field": pf.ProximalFlow(pf.potentials.Ball(2))}, "log_likelihood: the flow has no inverse at t = 1"),
        ({"x": torch.zeros(3, 2, dtype=torch.int64)}, "got torch.int64"),
        ({"atol": 0.0}, "atol must be a positive number"),
    ],
)
def test_refuses(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {"field": lambda t, x: x, "x": torch.zeros(3, 2, dtype=f64), **change}
    with pytest.raises(ValueError, match=re.escape(message)):
        log_likelihood(**arguments)


# ------------------------------------------------------------------ bits per dimension


def shrink(t: Tensor, x: Tensor) -> Tensor:
    """To N(0, .25 I)."""
    return math.log(0.5) * x


def test_bits_of_levels_against_the_probability_of_their_bins(generator: torch.Generator) -> None:
    """Fine bins, where the bound by dequantisation is nearly an equality: P(bin) by scipy's cdf."""
    low, high, levels, scale, mean = -3.0, 5.0, 256, 2.0, 1.0
    width = (high - low) / (levels - 1)
    pixels = low + width * torch.randint(80, 180, (30, 3), generator=generator).double()
    x = (pixels - mean) / scale
    law = stats.norm(0, 0.5)
    probability = law.cdf((x + width / scale / 2).numpy()) - law.cdf((x - width / scale / 2).numpy())
    truth = -torch.from_numpy(probability).log2().mean(1)
    found = bits_per_dimension(shrink, x, levels=levels, value_range=(low, high), scale=scale, draws=15)
    # a draw moves the value by at most |slope of log p| times half a bin: x / .25 * width / 4
    torch.testing.assert_close(found.value, truth, rtol=0, atol=0.02)
    score = (found.value - truth) / found.stderr
    assert float(score.abs().max()) < 5
    assert float(found.value.mean()) == pytest.approx(found.mean)


def test_coarse_bins_cost_more_than_their_probability() -> None:
    """Two levels: the bound is strict, by Jensen's inequality, in the mean over the dequantisation."""
    x = torch.tensor([[0.0], [1.0]], dtype=f64)
    found = bits_per_dimension(shrink, x, levels=2, draws=20)
    law = stats.norm(0, 0.5)
    edges = torch.linspace(-0.5, 0.5, 2001, dtype=f64)
    for row, centre in enumerate((0.0, 1.0)):
        truth = -float(torch.trapezoid(torch.from_numpy(law.logpdf((centre + edges).numpy())), edges)) / BIT
        assert float(found.value[row]) == pytest.approx(truth, abs=5 * float(found.stderr[row]))
        assert truth > -math.log2(law.cdf(centre + 0.5) - law.cdf(centre - 0.5))
    assert bits_per_dimension(shrink, x, levels=2).stderr.isnan().all()


def test_bits_know_data_on_other_levels() -> None:
    x = torch.tensor([[0.0], [1 / 255]], dtype=f64)
    assert bits_per_dimension(shrink, x).draws == 1
    change: Any
    for change in ({"levels": 100}, {"scale": 3.3}, {"value_range": (0.0, 1.7)}):
        with pytest.raises(ValueError, match="of a level away from whole levels"):
            bits_per_dimension(shrink, x, **change)
    for change, message in (({"levels": 1}, "levels must"), ({"draws": 0}, "draws must"), ({"scale": 0}, "scale must")):
        with pytest.raises(ValueError, match=message):
            bits_per_dimension(shrink, x, **change)
    for values in ((1.0, 0.0), (0.0,), (0.0, 1.0, 2.0), None, 255):
        with pytest.raises(ValueError, match="value_range must be two rising numbers"):
            bits_per_dimension(shrink, x, value_range=values)  # type: ignore[arg-type]


@pytest.mark.parametrize("deviation", [1e-5, 1e-8])
def test_of_flows_to_concentrated_laws(deviation: float, generator: torch.Generator) -> None:
    flow = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(2), deviation**2 * torch.eye(2, dtype=f64)))
    x = deviation * torch.randn(4, 2, generator=generator, dtype=f64)
    law = torch.distributions.Normal(torch.tensor(0.0, dtype=f64), deviation)
    found = log_likelihood(flow, x)
    torch.testing.assert_close(found.value, law.log_prob(x).sum(1), rtol=0, atol=1e-4)
    torch.testing.assert_close(found.noise, x / deviation, rtol=0, atol=1e-9)
