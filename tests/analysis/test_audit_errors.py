"""What an audit does with errors: those of the user's field come through, those of undefined times are gone round."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.analysis import audit
from proxflow.analysis.auditing import generation
from proxflow.analysis.auditing.generation import Groups, group_shares, groups_of
from proxflow.analysis.auditing.intervals import median_ratio
from proxflow.errors import UndefinedTimeError
from proxflow.predictions import velocity_from_source
from tests.analysis.test_condition_leakage import apart, classes

f64 = torch.float64
Call = Callable[[float], Tensor]


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=f64)


def quick(field: Any, **options: Any) -> pf.analysis.Audit:
    given: dict[str, Any] = {"data": normal(100, 2), "count": 64, "steps": 8, "progress": False} | options
    return audit(field, **given)


@pytest.mark.parametrize("only_at_the_start", [False, True])
def test_a_value_error_of_the_field_comes_through(only_at_the_start: bool) -> None:
    mine = ValueError("Linear expected 784 features, got 2")

    def field(t: Tensor, x: Tensor) -> Tensor:
        if not only_at_the_start or float(t) == 0:
            raise mine
        return 0 * x

    with pytest.raises(ValueError, match="784 features") as raised:
        quick(field)
    assert raised.value is mine


def test_a_value_error_of_another_reading_comes_through() -> None:
    """Of a field whose samples are not the data, when it is tried with its time reversed."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        if float(t) > 0.99:
            raise ValueError("mine")
        return 5 + 0 * x

    with pytest.raises(ValueError, match="mine"):
        quick(field)


def test_a_value_error_of_the_field_is_not_called_a_lack_of_likelihood() -> None:
    mine = ValueError("mine")

    def field(t: Tensor, x: Tensor) -> Tensor:
        if x.requires_grad:
            raise mine
        return 0 * x

    with pytest.raises(ValueError, match="mine") as raised:
        quick(field, likelihood=True)
    assert raised.value is mine


def test_a_prediction_without_a_value_at_the_start_is_taken_just_after() -> None:
    """The noise that independent pairs of N(0, I) and N(0, I) leave at x_t is alpha x / (alpha^2 + beta^2)."""

    def field(t: Tensor, x: Tensor) -> Tensor:
        time = float(t)
        return velocity_from_source(time, x, (1 - time) / ((1 - time) ** 2 + time**2) * x)

    found = quick(field)
    assert found.figures["variance_ratio"].value == pytest.approx(1, abs=0.5)
    assert found.warnings == ()


FLOW = pf.ProximalFlow(pf.potentials.Quadratic(torch.zeros(2, dtype=f64), torch.eye(2, dtype=f64)))


@pytest.mark.parametrize(
    ("query", "undefined"),
    [
        (lambda t: velocity_from_source(t, normal(3, 2), normal(3, 2)), 0.0),
        (lambda t: pf.predictions.velocity_from_score(t, normal(3, 2), normal(3, 2)), 0.0),
        (lambda t: pf.predictions.velocity_from_target(t, normal(3, 2), normal(3, 2)), 1.0),
        (lambda t: pf.predictions.score_from_velocity(t, normal(3, 2), normal(3, 2)), 1.0),
        (lambda t: FLOW.velocity(t, normal(3, 2)), 1.0),
        (lambda t: pf.IndependentField(normal(9, 2)).velocity(t, normal(3, 2)), 1.0),
    ],
    ids=["source", "score", "target", "velocity", "flow", "independent"],
)
def test_an_undefined_time_is_told_from_a_wrong_one(query: Call, undefined: float) -> None:
    with pytest.raises(UndefinedTimeError):
        query(undefined)
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match="t must be in") as raised:
            query(wrong)
        assert not isinstance(raised.value, UndefinedTimeError)


def test_readings_go_round_times_that_have_no_value() -> None:
    """A flow that is asked for its velocity by numbers, and of other data: with reversed time it begins at t = 1."""
    found = quick(lambda t, x: FLOW.velocity(float(t), x), data=5 + normal(100, 2))
    assert "The samples are not the data" in found.warnings[0]


def test_no_reading_calls_a_field_at_the_end_of_time() -> None:
    times: list[float] = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        times.append(float(t))
        return 5 + 0 * x

    quick(field, data=normal(100, 2).float())
    assert min(times) == 0
    assert 0.99 < max(times) < 1


def test_a_field_that_gives_up_is_quoted() -> None:
    def field(t: Tensor, x: Tensor) -> Tensor:
        raise pf.ConvergenceError("no answer in 3 of 64 rows")

    found = quick(field)
    assert "no answer in 3 of 64 rows" in found.verdict
    assert "not finite" not in found.verdict
    assert found.figures == {}


def test_a_leakage_that_was_asked_for_and_not_measured_is_named() -> None:
    rows, labels = classes(60, 0)
    memory = pf.IndependentField(rows)
    options = {"data": rows + 0.3, "labels": labels}
    found = quick(lambda t, x: apart(t, x, labels[:1]), conditional=lambda t, x, label: memory(t, x), **options)
    assert "label_leakage" not in found.figures
    (said,) = [line for line in found.warnings if "label_leakage" in line]
    assert "was not measured" in said
    assert "another step moves the noise" in said  # why
    assert said in found.verdict
    silent = quick(lambda t, x: apart(t, x, labels[:1]), conditional=lambda t, x, label: x * math.nan, **options)
    assert "not finite" in silent.warnings[-1]


@pytest.mark.parametrize("seed", [-1, 2**40, 2**64 - 1])
def test_any_seed_of_64_bits_is_taken(seed: int) -> None:
    """In all that draws: clusters, medians and the probe of labels."""
    rows, labels = classes(120, 0)
    found = quick(lambda t, x: apart(t, x, labels[:1]), data=rows, held_out=rows + 0.1, seed=seed)
    assert found.figures["nearest_row_ratio"].low > 0
    told = quick(lambda t, x: 0 * x, data=rows, labels=labels, conditional=apart, seed=seed)
    assert "label_leakage" in told.figures
    assert median_ratio(rows[:, 0].abs(), rows[:, 1].abs(), seed).low > 0


class WithTime(torch.nn.Module):
    """Called (x, t), as in other libraries."""

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.cat([x, t.expand(len(x), 1)], 1)[:, :2]


def with_time(x: Tensor, t: Tensor) -> Tensor:
    return WithTime()(x, t)


@pytest.mark.parametrize(
    "measure",
    [
        lambda model: quick(model),
        lambda model: pf.analysis.terminal_spectrum(model, normal(4, 2), 0.5),
        lambda model: pf.analysis.local_dimension(model, normal(4, 2), 0.5),
        lambda model: pf.adapters.check_convention(model, normal(100, 2)),
    ],
    ids=["audit", "terminal_spectrum", "local_dimension", "check_convention"],
)
def test_a_model_of_x_and_t_is_told_how_fields_are_called(measure: Callable[[Any], Any]) -> None:
    with pytest.raises(Exception, match=r"len\(\) of a 0-d tensor|expand") as raised:
        measure(with_time)
    assert "adapters.flow_matching.to_field" in "".join(raised.value.__notes__)


def test_a_later_failure_is_told_nothing() -> None:
    calls: list[int] = []

    def field(t: Tensor, x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 1:
            raise RuntimeError("mine")
        return 0 * x

    for measure in (quick, lambda model: pf.analysis.terminal_spectrum(model, normal(4, 2), 0.5)):
        calls.clear()
        with pytest.raises(RuntimeError, match="mine") as raised:
            measure(field)
        assert not hasattr(raised.value, "__notes__")


class OnDevice(Tensor):
    """As a tensor of a GPU, which numpy does not take."""

    def numpy(self, *, force: bool = False) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
        return self.as_subclass(Tensor)


@pytest.mark.parametrize("rows", [9, 200])
def test_groups_are_on_the_device_of_the_data(rows: int) -> None:
    """Whatever is made without a device is on another one here: PyTorch's default."""
    data = normal(rows, 2)
    with torch.device("meta"):
        found = groups_of(data, None, 0)
        counts = found.counts(data)
    for tensor in (found.shares, found.prototypes, found.group_of, counts):
        assert tensor.device == data.device
    assert counts.sum() == rows


def test_shares_come_from_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    data, labels = normal(50, 2), torch.arange(50) % 2
    groups = groups_of(data, labels, 0)
    counted = Groups.counts
    monkeypatch.setattr(generation.Groups, "counts", lambda *args: counted(*args).as_subclass(OnDevice))
    shares = group_shares(data, groups)
    torch.testing.assert_close(shares.found, torch.full((2,), 0.5, dtype=f64))
    assert math.isclose(float(shares.found.sum()), 1)


@pytest.mark.slow
def test_a_source_that_is_not_that_of_the_reference_is_refused() -> None:
    """A perfect field of normal noise had the fault of too small a variance against a reference of uniform noise."""
    rows, uniform = normal(40, 2), pf.measures.Uniform(2, -0.3, 0.3)
    reference = pf.semidiscrete.fit(rows, source=uniform, progress=False)
    with pytest.raises(ValueError, match="leave source out"):
        quick(lambda t, x: 0 * x, reference=reference, source=pf.measures.Gaussian(2))
    with pytest.raises(ValueError, match="the source 3"):
        quick(lambda t, x: 0 * x, reference=reference, source=pf.measures.Uniform(3, -0.3, 0.3))
    for same in (uniform, pf.measures.Uniform(2, -0.3, 0.3)):
        assert quick(lambda t, x: 0 * x, reference=reference, source=same).figures


def test_independent_pairs_that_cannot_be_followed_are_said_to_be_left_out() -> None:
    """Of uniform noise and atoms the field has no value off its reach, where a step of its own may lead."""
    rows, uniform = normal(60, 4), pf.measures.Uniform(4, -1.7, 1.7)
    found = quick(lambda t, x: 0 * x, data=rows, source=uniform, compare_independent=True, count=128)
    assert any(told.startswith("Independent pairs were not compared: ") for told in found.warnings)
    assert "Independent pairs were not compared" in found.verdict


@pytest.mark.slow
def test_a_reference_of_two_dtypes_is_asked_in_that_of_its_atoms() -> None:
    """Atoms in float32 turned by a float64 matrix: the first buffer says float64, which atoms refuse."""
    fit = pf.semidiscrete.fit(normal(40, 2).float(), progress=False)
    turned = fit.potential.rotate(torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=f64))
    reference = pf.ProximalFlow(turned)
    for given in ({"data": normal(60, 2)}, {"data": None}):
        found = quick(lambda t, x: 0 * x, reference=reference, compare_independent=False, **given)
        assert {"velocity_error", "pair_excess", "variance_ratio"} <= set(found.figures)
    study = pf.analysis.minibatch_convergence(turned, [1, 2, 4], max_pairs=1 << 8, progress=False)
    assert study.transport_cost > 0


@pytest.mark.parametrize("count", [1, 40])
def test_data_that_do_not_vary_are_refused(count: int) -> None:
    """Figures were nan of the samples' deviation."""
    with pytest.raises(ValueError, match="audit: all rows of data are equal; give data that vary"):
        quick(lambda t, x: -x, data=torch.ones(count, 2, dtype=f64))
