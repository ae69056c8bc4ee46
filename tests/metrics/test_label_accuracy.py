"""Label accuracy of real digits, of digits with shuffled labels, and of classes that a line separates."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.errors import MissingExtraError
from proxflow.metrics import LabelAccuracy, classifier, label_accuracy
from tests.metrics.clouds import f64, normal


@pytest.fixture(scope="module")
def digits() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Points and labels of two disjoint halves."""
    dataset = pf.data.load("digits")
    rows = torch.randperm(dataset.n, generator=torch.Generator().manual_seed(0))
    points, labels = dataset.points[rows], dataset.labels[rows]
    return points[:900], labels[:900], points[900:], labels[900:]


def clusters(
    n: int = 40, classes: tuple[int, ...] = (3, 7), dim: int = 2, gap: float = 20.0, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes so far apart that any classifier tells them."""
    labels = torch.tensor(classes).repeat(n)
    return normal(len(labels), dim, seed=seed) + gap * labels[:, None], labels


def test_real_images_are_judged_as_the_data_are(
    digits: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    samples, labels, points, known = digits
    found = label_accuracy(samples, labels, points, known)
    held_out = math.sqrt(found.classifier_accuracy * (1 - found.classifier_accuracy) / 180)
    assert found.classifier_accuracy > 0.95
    assert found.value == pytest.approx(found.classifier_accuracy, abs=4 * math.hypot(found.stderr, held_out))


def test_shuffled_labels_are_right_by_chance(
    digits: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    samples, labels, points, known = digits
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    found = label_accuracy(samples, shuffled, points, known)
    assert found.value == pytest.approx(0.1, abs=4 * math.sqrt(0.1 * 0.9 / 900))
    assert found.classifier_accuracy > 0.95


@pytest.mark.parametrize("wrong", [0, 10, 80])
def test_counts_what_is_right_and_gives_its_binomial_error(wrong: int) -> None:
    points, known = clusters()
    samples, labels = clusters(seed=1)
    labels[:wrong] = 10 - labels[:wrong]  # 3 becomes 7 and 7 becomes 3
    right = 1 - wrong / 80
    found = label_accuracy(samples, labels, points, known)
    assert found.value == pytest.approx(right)
    assert found.stderr == pytest.approx(math.sqrt(right * (1 - right) / 80))
    assert found.classifier_accuracy == 1


def test_the_classifier_is_judged_on_rows_that_it_has_not_seen() -> None:
    points, _ = clusters()  # labels that have nothing to do with the points can only be learnt by heart
    labels = torch.randint(2, (80,), generator=torch.Generator().manual_seed(3))
    assert label_accuracy(points, labels, points, labels).classifier_accuracy < 0.85


@pytest.mark.parametrize(("dtype", "away"), [(torch.float32, 2**10), (f64, 2**33)])
def test_keeps_its_judgement_in_other_frames_and_event_shapes(dtype: torch.dtype, away: int) -> None:
    points, known = clusters(dim=4, gap=0.5)
    samples, labels = clusters(dim=4, gap=0.5, seed=1)
    expected = label_accuracy(samples, labels, points, known)
    assert 0.5 < expected.value < 1

    def moved(x: torch.Tensor) -> torch.Tensor:
        return (x.reshape(-1, 2, 2) + away).to(dtype)

    assert label_accuracy(moved(samples), labels, moved(points), known) == expected


def test_same_seed_same_result_and_another_seed_other_rows(
    digits: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor],
) -> None:
    samples, labels, points, known = digits
    first, again, other = (label_accuracy(samples, labels, points, known, seed=seed) for seed in (4, 4, 5))
    assert isinstance(first, LabelAccuracy)
    assert first == again
    assert first != other


def test_two_rows_of_a_class_are_enough() -> None:
    points, known = clusters(n=2, classes=(0, 1, 2, 3, 4))
    assert label_accuracy(points, known, points, known).value == 1


def test_large_data_train_on_some_rows_of_every_class(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier, "_MOST_ROWS", 50)
    seen = []
    fit = pytest.importorskip("sklearn.svm").SVC.fit

    def counted(self: Any, x: Any, y: Any) -> Any:
        seen.append(np.unique(y, return_counts=True))
        return fit(self, x, y)

    monkeypatch.setattr("sklearn.svm.SVC.fit", counted)
    points, known = clusters(n=500)
    rare, rare_labels = clusters(n=2, classes=(5,))
    found = label_accuracy(points, known, torch.cat([points, rare]), torch.cat([known, rare_labels]))
    ((names, counts),) = seen
    assert found.value == 1
    assert names.tolist() == [3, 5, 7]
    assert counts.min() == 1
    assert 45 <= counts.sum() <= 55


def test_leaves_the_global_generators_alone() -> None:
    points, known = clusters()
    before, before_torch = np.random.get_state(legacy=False)["state"]["key"].copy(), torch.random.get_rng_state()  # noqa: NPY002
    label_accuracy(points, known, points, known)
    assert np.array_equal(before, np.random.get_state(legacy=False)["state"]["key"])  # noqa: NPY002
    assert torch.equal(before_torch, torch.random.get_rng_state())


def test_a_missing_scikit_learn_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.svm", None)
    points, known = clusters()
    with pytest.raises(MissingExtraError, match=r"sklearn.*proxflow\[data\]"):
        label_accuracy(points, known, points, known)


def _with(**changes: Any) -> dict[str, Any]:
    points, known = clusters(n=3)
    given = {"samples": points, "labels": known, "train_points": points, "train_labels": known}
    return given | {name: change(given[name]) for name, change in changes.items()}


BAD = {
    "no samples": (_with(samples=lambda x: x[:0]), r"samples must be \(n, \*event\) with n > 0"),
    "samples not finite": (_with(samples=lambda x: x / torch.arange(6)[:, None]), r"samples has rows .*\(0\)"),
    "data not finite": (
        _with(train_points=lambda x: x.clone().fill_diagonal_(torch.nan)),
        r"train_points has rows .*\(0, 1\)",
    ),
    "shapes": (_with(train_points=lambda x: x[:, :1]), r"samples and train_points .* got \(2,\) and \(1,\)"),
    "labels missing": (
        _with(labels=lambda x: x[1:]),
        r"labels must be \(6,\), one for each row of samples, got \(5,\)",
    ),
    "one-hot": (
        _with(train_labels=lambda x: x[:, None]),
        r"train_labels must be \(6,\), .* train_points, got \(6, 1\)",
    ),
    "real labels": (_with(labels=lambda x: x / 2), "labels must be integers, .* got torch.float32"),
    "text": (
        _with(train_labels=lambda x: list("abcdef")),
        "train_labels must be .* got an array of <U1",
    ),
    "one class": (_with(train_labels=lambda x: 0 * x), "train_labels must have two classes"),
    "rare class": (_with(train_labels=lambda x: torch.arange(6) // 5), r"class twice or more, .* class 1, or leave it"),
    "unseen class": (_with(labels=lambda x: x + 2), r"classes that train_labels does not have \(5, 9\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_refuses_bad_arguments(case: str) -> None:
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=f"label_accuracy: .*{message}|label_accuracy: {message}"):
        label_accuracy(**arguments)


def test_refuses_a_bad_seed() -> None:
    points, known = clusters()
    with pytest.raises(ValueError, match="seed must be an integer of at most 64 bits"):
        label_accuracy(points, known, points, known, seed=2**64)
