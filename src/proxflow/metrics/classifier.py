"""Whether conditional samples look like the labels that they were asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor
from proxflow.errors import optional_package
from proxflow.metrics.clouds import check_alike, flat_rows, listed
from proxflow.seeding import seeded_generator

__all__ = ["LabelAccuracy", "label_accuracy"]

_HELD_OUT = 0.2  # of the data, on which the classifier itself is judged
_MOST_ROWS = 10_000  # for each of training and judging: the time of training grows with their square
_PENALTY = 10.0  # of a wrong side; larger than scikit-learn's 1 since the data are seldom noisy

_Array = npt.NDArray[Any]


@dataclass(frozen=True)
class LabelAccuracy:
    """How often a classifier of the data gives samples the labels that they were asked for.

    Attributes:
        value: share of samples in which it does.
        stderr: standard error of ``value`` over the samples, sqrt(p (1 - p) / n), for this classifier.
        classifier_accuracy: the same share among points of the data that the classifier has not seen: what
            ``value`` would be for samples as good as the data. Above it, samples are more typical than the data.
        by_class: the share among the samples of each class that was asked for.
    """

    value: float
    stderr: float
    classifier_accuracy: float
    by_class: dict[int, float]


def label_accuracy(
    samples: Numbers, labels: Numbers, train_points: Numbers, train_labels: Numbers, *, seed: int = 0
) -> LabelAccuracy:
    """Judge conditional samples by a support vector classifier with a Gaussian kernel, trained on the data.

    The classifier sees four fifths of each class and is itself judged on the rest; 10,000 rows at most are drawn for
    each of the two. It compares points by their Euclidean distance, as the transport does: coordinates are not scaled
    one by one.

    Args:
        samples: (n, *event), finite; float32 or float64; like all others a tensor, a numpy array or a pandas object.
        labels: (n,) integers, the class that each sample was asked for.
        train_points: (N, *event), finite.
        train_labels: (N,) integers, two classes or more, each of two rows or more.
        seed: seed of the choice of rows.

    Raises:
        ValueError: points that are empty, not finite or of different shapes, labels of the wrong number or kind, too
            few classes or rows of a class, or labels of a class that the data do not have.
        MissingExtraError: scikit-learn is not installed.
    """
    seeded_generator("label_accuracy", seed)  # refuses what is no seed
    samples = as_tensor("label_accuracy", "samples", samples)
    train_points = as_tensor("label_accuracy", "train_points", train_points)
    points = _array(flat_rows("label_accuracy", "samples", samples))
    known_points = _array(flat_rows("label_accuracy", "train_points", train_points))
    check_alike("label_accuracy", ("samples", samples), ("train_points", train_points))
    asked = _classes("labels", labels, "samples", len(points))
    known = _classes("train_labels", train_labels, "train_points", len(known_points))
    _check_classes(asked, known)
    training, judging = _split(known, np.random.default_rng(int(seed) % 2**64))  # numpy takes none below 0
    classifier = _Classifier(known_points[training], known[training])
    right = classifier.right(points, asked)
    value = float(right.mean())
    stderr = math.sqrt(value * (1 - value) / len(points))
    by_class = {int(label): float(right[asked == label].mean()) for label in np.unique(asked)}
    return LabelAccuracy(value, stderr, float(classifier.right(known_points[judging], known[judging]).mean()), by_class)


class _Classifier:
    """Centred and scaled as a whole: the kernel's expansion of squares would cancel far from the origin."""

    def __init__(self, points: _Array, labels: _Array) -> None:
        self._centre = points.mean(0)
        self._spread = float((points - self._centre).std()) or 1.0
        model = optional_package("sklearn.svm", "data").SVC(C=_PENALTY, gamma=1 / points.shape[1], random_state=0)
        self._model = model.fit(self._framed(points), labels)

    def right(self, points: _Array, labels: _Array) -> _Array:
        """Whether it gives each point its label."""
        agreed: _Array = self._model.predict(self._framed(points)) == labels
        return agreed

    def _framed(self, points: _Array) -> _Array:
        framed: _Array = (points - self._centre) / self._spread
        return framed


def _array(values: Tensor) -> _Array:
    array: _Array = values.detach().cpu().numpy()
    return array


def _classes(name: str, given: Numbers, points_name: str, count: int) -> _Array:
    """Labels (count,) of whole numbers."""
    labels = as_tensor("label_accuracy", name, given)
    if labels.is_floating_point():
        raise ValueError(f"label_accuracy: {name} must be integers, one class each, got {labels.dtype}")
    if labels.shape != (count,):
        raise ValueError(
            f"label_accuracy: {name} must be ({count},), one for each row of {points_name}, got {tuple(labels.shape)}"
        )
    return _array(labels.to(torch.int64))


def _check_classes(asked: _Array, known: _Array) -> None:
    classes, counts = np.unique(known, return_counts=True)
    if len(classes) < 2:
        raise ValueError("label_accuracy: train_labels must have two classes or more; give points of another class")
    rare = classes[counts < 2].tolist()
    if rare:
        raise ValueError(
            f"label_accuracy: train_labels must have each class twice or more, to train and to judge; give more of "
            f"class {listed(rare)}, or leave it out"
        )
    unseen = np.setdiff1d(asked, classes).tolist()
    if unseen:
        raise ValueError(
            f"label_accuracy: labels has classes that train_labels does not have ({listed(unseen)}); give points of "
            "them, or leave their samples out"
        )


def _split(labels: _Array, random: np.random.Generator) -> tuple[_Array, _Array]:
    """Rows for training and rows for judging, each with every class in its proportion."""
    share = min(1.0, _MOST_ROWS / ((1 - _HELD_OUT) * len(labels)))
    share_held = min(_HELD_OUT, _MOST_ROWS / len(labels))
    training, judging = [], []
    for name in np.unique(labels):
        rows = random.permutation(np.flatnonzero(labels == name))
        held = max(1, round(share_held * len(rows)))
        kept = max(1, round(share * (1 - _HELD_OUT) * len(rows)))
        judging.append(rows[:held])
        training.append(rows[held:][:kept])
    return np.concatenate(training), np.concatenate(judging)
