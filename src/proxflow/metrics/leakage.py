"""How much of the condition the paired noise tells: what a network that is told both learns, and sampling lacks.

Method: ridge regression on a Gaussian kernel (a normal process with unit prior variance, unit error variance and the
length sqrt(d), about which two vectors of N(0, I) are apart), fitted to one half of the pairs and judged on the other.
Noise is taken about its mean and in units of its root mean square deviation, one unit for all coordinates, so that a
rotation changes nothing. Classes are predicted by the largest of their regressed indicators, each in units of its
deviation, so that rare classes are predicted too. Numbers are predicted by the regression, each column shrunk by the
slope that the leave-one-out predictions of its own half call for, so that R^2 is 0 and not negative where there is
nothing to predict. A dependence that this smooth regression does not see is not excluded: one on coordinates of the
noise whose deviation is far below that of the others, say.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor
from proxflow.metrics.clouds import flat_rows
from proxflow.results import brief_repr
from proxflow.seeding import seeded_generator

__all__ = ["LabelLeakage", "label_leakage"]

_MOST_ROWS = 1024  # that are learned from: half a second on a slow core
_LEAST_ROWS = 8  # pairs, of which half can be learned from


@brief_repr
@dataclass(frozen=True)
class LabelLeakage:
    """How well the label of a pair is predicted from its noise, on pairs that were not learned from.

    Attributes:
        value: share of labels that are right; of numbers R^2, the share of their variance that is predicted, the mean
            of that of each column that varies.
        chance: what ``value`` would be for predictions as frequent as these and independent of the labels: of classes
            sum_c P(c predicted) P(c), of numbers 0.
        stderr: standard error of ``excess`` over the pairs judged on.
        pairs: number of these.
    """

    value: float
    chance: float
    stderr: float
    pairs: int

    @property
    def excess(self) -> float:
        """``value`` above chance: 0, within ``stderr``, where the noise says nothing of the label."""
        return self.value - self.chance


def label_leakage(noise: Numbers, labels: Numbers, *, seed: int = 0) -> LabelLeakage:
    """Predict labels from noise: above chance, the coupling leaks the condition into the noise.

    ``label_leakage(pairs.source, pairs.label)`` for ``pairs = coupling.sample(10_000)``. ``Conditional`` with classes
    kept apart, ``JointConditional`` and ``Independent`` give chance; one coupling of all classes lies well above it.
    Of the pairs 1,024 at most are learned from, and at least half are judged on.

    Args:
        noise: (n, *event), finite, float32 or float64, n at least 8.
        labels: (n,) or (n, k), finite: whole numbers are classes, those of several columns together; floats are
            numbers, of which each column counts alike, whatever its units.
        seed: seed of the choice of the halves.

    Raises:
        ValueError: noise that is empty or not finite, too few pairs, or labels not finite or not one for each.
    """
    generator = seeded_generator("label_leakage", seed)
    flat = flat_rows("label_leakage", "noise", as_tensor("label_leakage", "noise", noise).detach())
    given = as_tensor("label_leakage", "labels", labels).detach().to(flat.device)
    if len(flat) < _LEAST_ROWS or given.ndim == 0 or len(given) != len(flat) or not bool(torch.isfinite(given).all()):
        raise ValueError(
            f"label_leakage: labels must be finite, one for each of at least {_LEAST_ROWS} rows of noise, got "
            f"{tuple(given.shape)} for {len(flat)}"
        )
    order = torch.randperm(len(flat), generator=generator).to(flat.device)
    learned = order[: min(_MOST_ROWS, len(flat) // 2)]
    judged = order[len(learned) :]
    halves = flat[learned], flat[judged]
    if given.is_floating_point():
        numbers = given.reshape(len(given), -1).double()
        return _of_numbers(*halves, numbers[learned], numbers[judged])
    classes = torch.unique(given.reshape(len(given), -1), dim=0, return_inverse=True)[1]
    return _of_classes(*halves, classes[learned], classes[judged])


def _of_classes(known: Tensor, new: Tensor, labels: Tensor, truth: Tensor) -> LabelLeakage:
    count = int(torch.cat([labels, truth]).max()) + 1
    indicators = torch.nn.functional.one_hot(labels, count).double()
    guess = _Regression(known, indicators).at(new).argmax(1)
    shares, guessed = (torch.bincount(each, minlength=count) / len(truth) for each in (truth, guess))
    chance = float(shares.double() @ guessed.double())
    right = (guess == truth).double()
    # each pair's part in the difference: chance is a product of two means
    part = right - shares[guess] - guessed[truth]
    return LabelLeakage(float(right.mean()), chance, float(part.std()) / math.sqrt(len(truth)), len(truth))


def _of_numbers(known: Tensor, new: Tensor, labels: Tensor, truth: Tensor) -> LabelLeakage:
    varied = (truth != truth[0]).any(0)
    if not bool(varied.any()):
        return LabelLeakage(0.0, 0.0, 0.0, len(truth))
    labels, truth = labels[:, varied], truth[:, varied]
    regression = _Regression(known, labels)
    own, wanted, truth = regression.left_out, regression.standard(labels), regression.standard(truth)
    slope = ((own * wanted).sum(0) / own.square().sum(0).clamp(min=torch.finfo(own.dtype).tiny)).clamp(0, 1)
    wrong, spread = (truth - slope * regression.at(new)).square(), (truth - truth.mean(0)).square()
    ratio = wrong.mean(0) / spread.mean(0)
    part = ((wrong - ratio * spread) / spread.mean(0)).mean(1)
    return LabelLeakage(1 - float(ratio.mean()), 0.0, float(part.std()) / math.sqrt(len(truth)), len(truth))


class _Regression:
    """A normal process over the noise (n, d) for each column of the labels (n, k), in its deviations from its mean.

    Attributes:
        left_out: for each of its pairs the prediction without that pair, (n, k).
    """

    def __init__(self, noise: Tensor, labels: Tensor) -> None:
        self._label_centre, self._label_unit = labels.mean(0), _deviation(labels, 0)
        self._noise_centre, self._noise_unit = noise.mean(0), _deviation(noise, (0, 1))
        self._noise = self._in_units(noise)
        identity = torch.eye(len(noise)).to(noise)
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._kernel(self._noise) + identity))
        standard = self.standard(labels)
        self._dual = inverse @ standard
        self.left_out = standard - self._dual / inverse.diagonal()[:, None]

    def standard(self, labels: Tensor) -> Tensor:
        """Labels (m, k) in deviations from the mean."""
        return (labels - self._label_centre) / self._label_unit

    def at(self, noise: Tensor) -> Tensor:
        """Predictions (m, k) of these at other noise."""
        return torch.cat([self._kernel(self._in_units(rows)) @ self._dual for rows in noise.split(_MOST_ROWS)])

    def _in_units(self, noise: Tensor) -> Tensor:
        return (noise - self._noise_centre) / self._noise_unit

    def _kernel(self, rows: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(rows, self._noise).square() / (2 * rows.shape[1]))


def _deviation(numbers: Tensor, dims: int | tuple[int, int]) -> Tensor:
    """Root mean square deviation of numbers (n, k) from their columns' means over some dims; 1 where it is 0."""
    deviations = numbers - numbers.mean(0)
    largest = deviations.abs().amax(dims)
    unit = torch.where(largest > 0, largest, 1.0)  # in which no square overflows, or is lost
    size = unit * (deviations / unit).square().mean(dims).sqrt()
    return torch.where(size > 0, size, 1.0)
