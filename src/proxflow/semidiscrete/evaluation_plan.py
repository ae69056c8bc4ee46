"""When a fit is judged on its way, and by how many draws.

chi2 of M draws for N atoms is about 1.15 N / M, so that the draws until a tolerance are known beforehand but for a
factor near 1: a run is judged there first, and again where its own chi2, falling like 1 / M, would meet the tolerance.
A judgement on the way, by noise like that of the steps, costs little, and tells chi2 of few atoms less well than it is
known beforehand: both count, by their variances. Where chi2 is low enough, more draws, independent ones, judge what the
fit would return; that judgement is told, and nearly always meets the tolerance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from proxflow.semidiscrete.fit_result import Evaluation

__all__ = ["EvaluationPlan", "draws_to_judge", "usual_chi2"]

_LEAST_DRAWS = 1 << 14  # of a judgement
_LEAST_TOLD = 1 << 15  # of one that tells W2^2, too: a standard error of half a hundredth of the spread of costs
_USUAL_EFFICIENCY = 1.15  # chi2 M / N as measured: 1.05 to 1.25; the theory's limit for many draws is 25/24
_USUAL_SPREAD = 0.2  # relative deviation of it between data sets
_ROUGH = 0.5  # standard error of a judgement on the way, relative to that, at the most: .3 for digits
_FAR = 1e3  # times as much as is usual: as good as infinite, which it may be with weights of 1e-300
_LEAST_MOVING = 1 << 17  # draws of a fit: below this the bias of W2^2 would show beside its standard error
_EARLY = (8, 4, 2)  # parts of the first goal, at which a run is judged roughly
_FEWEST_ROUGH = 1 << 12  # draws of that
_GROWTH = 1.05, 1.5  # of draws between judgements, at the least and at the most
_ON_THE_WAY = 0.4, 0.1  # of the draws to judge, and of those that moved heights: the more of both
_STANDARD_ERRORS = 2  # that what is told is to be below the tolerance by
_SAFE, _PROMISING = 3.3, 3  # standard errors of it that chi2 is to be below: in the plan, and on the way


def draws_to_judge(count: int, tol: float, chi2: float = 0.0) -> int:
    """Of one judgement of ``count`` atoms; fewer where chi2 was far above the tolerance.

    Its standard error is about sqrt(2 N) / n: a thirteenth of the tolerance. With many atoms it is less, since a
    smaller one lets a fit stop earlier: 2 N^(3/4) / tol draws make the sum of those that move heights and those that
    judge about least.
    """
    wanted = max(13 * math.sqrt(2 * count), 2 * math.pow(count, 0.75))
    return max(_LEAST_DRAWS, math.ceil(wanted / max(tol, chi2 / 4)))


def usual_chi2(count: int, inflation: float, moving: float) -> float:
    """After so many draws, whose masses vary ``inflation`` times as much as those of independent ones."""
    return _USUAL_EFFICIENCY * inflation * count / moving


@dataclass(frozen=True)
class EvaluationPlan:
    """The plan of one run.

    Attributes:
        count: atoms.
        tol: wanted of chi2 + 2 standard errors.
        inflation: of the variance of masses, by noise that is not independent.
        cap: on the draws that move heights.
    """

    count: int
    tol: float
    inflation: float
    cap: int | None

    @property
    def wanted(self) -> float:
        """Draws that the tolerance is expected to take."""
        return max(usual_chi2(self.count, self.inflation, 1) / self._aim, _LEAST_MOVING)

    @property
    def most(self) -> int:
        """Draws after which a run ends."""
        return math.ceil(100 * self.count / self.tol) + _LEAST_MOVING if self.cap is None else self.cap

    @property
    def least(self) -> float:
        """Draws before which the tolerance is not to be expected."""
        return min(self.wanted, self.most)

    def met(self, last: Evaluation) -> bool:
        """Whether this evaluation met the tolerance."""
        return last.samples_used >= self.least and last.chi2 + _STANDARD_ERRORS * last.chi2_stderr <= self.tol

    def promising(self, last: Evaluation) -> bool:
        """Whether after this evaluation, on the way, one to be told can be expected to meet the tolerance."""
        chi2 = self.chi2(last)
        stderr = self.stderr(chi2, self.draws_to_tell(chi2))
        return last.samples_used >= self.least and chi2 + _PROMISING * stderr <= self.tol

    def goal(self, last: Evaluation | None) -> int:
        """The next number of draws to judge at, after the last one."""
        used = 0 if last is None else last.samples_used
        early = [math.ceil(self.least / part) for part in (*_EARLY, 1)]
        later = [goal for goal in early if goal > used]
        if later or last is None:
            return min(later[0], self.most)
        least, most = _GROWTH
        growth = min(max(self.chi2(last) / self._aim, least), most)
        return min(math.ceil(used * growth), self.most)

    def chi2(self, last: Evaluation) -> float:
        """What is expected of chi2 after this evaluation: the mean of what it told and of what is usual, by variances.

        That of chi2 between data sets is at least the square of how far apart the two are, less the other (empirical
        Bayes): data that are not like others count by themselves. So do those with errors larger than others have.
        """
        usual = usual_chi2(self.count, self.inflation, last.samples_used)
        told, stderr = min(_FAR * usual, last.chi2), min(_ROUGH * usual, last.chi2_stderr)
        between = max((_USUAL_SPREAD * usual) ** 2, (told - usual) ** 2 - stderr**2)
        return told + stderr**2 / (between + stderr**2) * (usual - told)

    def draws_to_tell(self, chi2: float = 0.0) -> int:
        """Of a judgement to be told, where chi2 is this; W2^2 is taken on them too."""
        return max(draws_to_judge(self.count, self.tol, chi2), _LEAST_TOLD)

    def draws_on_the_way(self, moved: int) -> int:
        """Of a judgement on the way, after so many that moved heights; before ``least``, to tell chi2 to about half."""
        if moved >= self.least:
            chi2 = usual_chi2(self.count, self.inflation, moved)
            judging, moving = _ON_THE_WAY
            return math.ceil(max(judging * draws_to_judge(self.count, self.tol, chi2), moving * moved))
        return min(max(math.ceil(2 * moved / math.sqrt(self.count)), _FEWEST_ROUGH), _LEAST_DRAWS)

    def stderr(self, chi2: float, draws: int) -> float:
        """Of a judgement by so many independent draws where chi2 is this."""
        return math.sqrt(2 * self.count / draws**2 + 4 * max(chi2, 0.0) / draws)

    @property
    def _aim(self) -> float:
        """chi2 at which a judgement nearly always meets the tolerance."""
        stderr = self.stderr(self.tol, self.draws_to_tell())
        return max(self.tol - _SAFE * stderr, 0.5 * self.tol)
