"""Leakage of labels into the noise, of conditional fields in closed form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.analysis import audit
from proxflow.analysis.auditing.condition_leakage import NotFollowedError, condition_leakage

f64, LINEAR = torch.float64, pf.schedules.Linear()
SHIFT = 2.0


def classes(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of N(-2, 1) and N(2, 1) on the first axis of the plane, by their label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=generator)
    rows = torch.randn(count, 2, generator=generator, dtype=f64)
    return rows + SHIFT * torch.tensor([1.0, 0.0], dtype=f64) * (2 * labels[:, None] - 1), labels


def apart(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
    """The exact flow of each class: all noise is shifted."""
    return SHIFT * torch.tensor([1.0, 0.0], dtype=f64) * (2 * label[:, None] - 1) + 0 * x


def together(t: Tensor, x: Tensor, label: Tensor) -> Tensor:
    """The field of independent pairs of both classes at once, whatever the label: all noise goes to the law of both."""
    centres = SHIFT * torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=f64)
    variance = (1 - t) ** 2 + t**2
    weight = (-0.5 * torch.cdist(x, t * centres).square() / variance).softmax(1)
    own = weight @ centres
    return (own + t / variance * (x - t * own) - x) / (1 - t)


def test_classes_that_are_coupled_apart_leave_nothing_in_the_noise() -> None:
    rows, labels = classes(1000, 0)
    found = condition_leakage(apart, rows, labels, LINEAR, 0)
    assert found.low < 0 < found.high
    assert found.high - found.low < 0.2


def test_one_coupling_of_both_classes_leaves_all_of_it() -> None:
    """The noise of a class is about a half-plane: the best rule errs as the classes overlap, chance is a half."""
    rows, labels = classes(1000, 0)
    found = condition_leakage(together, rows, labels, LINEAR, 0)
    assert found.value == pytest.approx(0.5 - float(torch.special.ndtr(torch.tensor(-SHIFT))), abs=0.05)


@pytest.mark.slow
def test_intervals_cover_no_leakage() -> None:
    """At 95%, 200 repetitions cover at least 180 times but for chance of 1e-3."""
    covered = 0
    for seed in range(200):
        found = condition_leakage(apart, *classes(200, seed), LINEAR, seed)
        covered += found.low <= 0 <= found.high
    assert covered >= 180


def test_it_is_refused_where_rows_have_no_noise_of_their_own() -> None:
    rows, labels = classes(60, 0)
    memory = pf.IndependentField(rows)
    with pytest.raises(NotFollowedError, match="rows of the data cannot be followed back to their noise"):
        condition_leakage(lambda t, x, label: memory(t, x), rows + 0.3, labels, LINEAR, 0)


def test_the_audit_reports_it() -> None:
    rows, labels = classes(600, 0)
    sound = audit(lambda t, x: together(t, x, labels), data=rows, labels=labels, conditional=apart, count=128,
                  steps=8, compare_independent=False, progress=False)  # fmt: skip
    assert sound.figures["label_leakage"].low < 0.05
    leaky = audit(lambda t, x: together(t, x, labels), data=rows, labels=labels, conditional=together, count=128,
                  steps=8, compare_independent=False, progress=False)  # fmt: skip
    assert leaky.figures["label_leakage"].low > 0.3
    assert "is told from its noise" in leaky.verdict
    assert "is told from its noise" not in sound.verdict


def test_a_conditional_field_needs_labels() -> None:
    with pytest.raises(ValueError, match="audit: conditional is told the labels of data"):
        audit(lambda t, x: x, data=torch.ones(9, 2), conditional=apart)
