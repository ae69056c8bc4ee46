"""How much of the condition the paired noise tells: what a network that is told both learns, and sampling lacks.

Method: ridge regression on a Gaussian kernel (a normal process with unit prior variance, unit error variance and the
length sqrt(d), about which two vectors of N(0, I) are apart), fitted to one half of the pairs and judged on the other.
Classes are predicted by the largest of their regressed indicators, each in units of its deviation, so that rare
classes are predicted too. Numbers are predicted by the regression, shrunk by
the slope that its leave-one-out predictions of its own half call for, so that R^2 is 0 and not negative where there is
nothing to predict. A dependence that this smooth regression does not see is not excluded.
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
        value: share of labels that are right; of numbers R^2, the share of their variance that is predicted.
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
            numbers, those of several columns predicted together.
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
    guess = _Regression(known, indicators).standard_at(new).argmax(1)
    shares, guessed = (torch.bincount(each, minlength=count) / len(truth) for each in (truth, guess))
    chance = float(shares.double() @ guessed.double())
    right = (guess == truth).double()
    # each pair's part in the difference: chance is a product of two means
    part = right - shares[guess] - guessed[truth]
    return LabelLeakage(float(right.mean()), chance, float(part.std()) / math.sqrt(len(truth)), len(truth))


def _of_numbers(known: Tensor, new: Tensor, labels: Tensor, truth: Tensor) -> LabelLeakage:
    regression, centre = _Regression(known, labels), labels.mean(0)
    own = regression.left_out - centre
    slope = ((own * (labels - centre)).sum() / own.square().sum().clamp(min=torch.finfo(own.dtype).tiny)).clamp(0, 1)
    wrong = (truth - centre - slope * (regression.at(new) - centre)).square().sum(1)
    spread = (truth - truth.mean(0)).square().sum(1)
    if not float(spread.sum()) > 0:
        return LabelLeakage(0.0, 0.0, 0.0, len(truth))
    ratio = float(wrong.mean() / spread.mean())
    part = (wrong - ratio * spread) / spread.mean()
    return LabelLeakage(1 - ratio, 0.0, float(part.std()) / math.sqrt(len(truth)), len(truth))


class _Regression:
    """The mean of the labels (n, k), and of what is left a normal process over the noise (n, d)."""

    def __init__(self, noise: Tensor, labels: Tensor) -> None:
        self._noise, self._centre = noise, labels.mean(0)
        scale = (labels - self._centre).square().mean(0).sqrt()
        self._scale = torch.where(scale > 0, scale, 1.0)
        standard = (labels - self._centre) / self._scale
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(self._kernel(noise) + torch.eye(len(noise)).to(noise)))
        self._dual = inverse @ standard
        self._left_out = standard - self._dual / inverse.diagonal()[:, None]

    @property
    def left_out(self) -> Tensor:
        """For each of its pairs the prediction without that pair, (n, k)."""
        return self._centre + self._scale * self._left_out

    def at(self, noise: Tensor) -> Tensor:
        """Predictions (m, k) at other noise."""
        return self._centre + self._scale * self.standard_at(noise)

    def standard_at(self, noise: Tensor) -> Tensor:
        """The same in deviations from the mean label."""
        return torch.cat([self._kernel(rows) @ self._dual for rows in noise.split(_MOST_ROWS)])

    def _kernel(self, rows: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(rows, self._noise).square() / (2 * rows.shape[1]))
