"""Runs held side by side: settings, facts, and figures with errors, of which the best is named where errors allow it.

Rule: a figure is as good as it is near its target, which may be as large or as small as can be. The best run leads
alone where every other is farther from the target by more than two combined standard errors; runs that are not are said
not to differ. Intervals may be longer on one side, or have no upper end: combined are then the errors on the sides that
would bring two runs together (Zou and Donner, Statistics in Medicine 27, 2008).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = [
    "RANKED",
    "STANDARD_ERRORS",
    "ComparedFigure",
    "Comparison",
    "Measured",
    "by_caution",
    "joined",
    "one_value",
    "settings_of",
    "symmetric",
    "unlike",
]

STANDARD_ERRORS = 2.0  # combined, that a difference must exceed
NO_DIFFERENCE = "no difference beyond error"
RANKED = (
    "± is one standard error; where it is not the same to both sides, both are given. One run is named, and its figure "
    "marked, where all others are off by more, by over two combined standard errors; of several that are named none is "
    "told apart from the best of them. Of twenty such differences one is expected where there is none."
)
_QUANTILE = 1.959964  # of the normal law at 97.5%
_ALIKE = 1.5  # times the error on the other side: less is hardly seen in one digit
_ROUNDING = 1e-9  # of figures of order one
_HASH = 12  # characters of a hash that tell data sets apart


@dataclass(frozen=True)
class Measured:
    """A value and its standard errors to either side.

    Attributes:
        value: measured.
        below: error on the side of smaller values.
        above: error on the side of larger values; infinite where only a lower end is known.
    """

    value: float
    below: float
    above: float

    @property
    def error(self) -> float:
        """Half the interval of one standard error."""
        return 0.5 * (self.below + self.above)

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95%."""
        return self.value - _QUANTILE * self.below, self.value + _QUANTILE * self.above

    @property
    def in_words(self) -> str:
        """To three digits, and one of the errors; the lower end of the interval where there is no upper one."""
        if self.above == math.inf:
            return f"at least {_digits(self.interval[0])}"
        below, above = _digit(self.below), _digit(self.above)
        if below == above or max(self.below, self.above) <= _ALIKE * min(self.below, self.above):
            return f"{_digits(self.value)} ± {_digit(self.error)}"
        return f"{_digits(self.value)} +{above} -{below}"


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of merit of every run.

    Attributes:
        name: of the figure.
        measured: of each run; None where it was not measured.
        target: the value that is best, infinite where more is always better, minus infinite where less is; None if
            nothing is.
        below_as_good: whether any value below the target is as good as it.
    """

    name: str
    measured: tuple[Measured | None, ...]
    target: float | None
    below_as_good: bool = False

    @property
    def leaders(self) -> tuple[int, ...]:
        """Places of the runs that the best one is not told apart from, itself among them; empty if not ranked."""
        known = [(k, one) for k, one in enumerate(self.measured) if one is not None]
        if self.target is None or len(known) < 2:
            return ()
        best = min((one for _, one in known), key=lambda one: (self._off(one), one.error))
        return tuple(k for k, one in known if one is best or not self._told_apart(best, one))

    @property
    def best(self) -> int | None:
        """Place of the run that leads alone."""
        return self.leaders[0] if len(self.leaders) == 1 else None

    @property
    def all_alike(self) -> bool:
        """Whether no run is told apart from the best."""
        return len(self.leaders) == sum(one is not None for one in self.measured)

    @property
    def what_is_best(self) -> str:
        """In a word or two: "0", "at most 1", "larger", "smaller"; empty if nothing is."""
        if self.target is None:
            return ""
        if math.isinf(self.target):
            return "larger" if self.target > 0 else "smaller"
        return f"{'at most ' if self.below_as_good else ''}{self.target:g}"

    def in_words(self, names: Sequence[str]) -> str:
        """Who leads."""
        if not self.leaders:
            return ""
        if self.all_alike:
            return NO_DIFFERENCE
        return joined([names[k] for k in self.leaders])

    def _told_apart(self, best: Measured, other: Measured) -> bool:
        error = math.hypot(self._side(best, towards=False), self._side(other, towards=True))
        return self._off(other) - self._off(best) > STANDARD_ERRORS * error

    def _off(self, one: Measured) -> float:
        """How far from the target, or, where that is infinite, from 0 and with its sign."""
        target = self.target or 0.0
        if math.isinf(target):
            return -one.value if target > 0 else one.value
        return max(one.value - target, 0.0) if self.below_as_good else abs(one.value - target)

    def _side(self, one: Measured, *, towards: bool) -> float:
        """The error on the side of the target, or on the other."""
        target = self.target or 0.0
        if one.value == target:
            return max(one.below, one.above)
        return one.below if (one.value > target or self.below_as_good) is towards else one.above


@dataclass(frozen=True)
class Comparison:
    """R runs of one command.

    Attributes:
        command: that made them, "train" or "audit".
        title: what they are, in a few words.
        names: (R,) of the runs, all different.
        settings: name -> value of each run, as text; what they were told and what they were made from.
        facts: name -> value of each run, as text; what is good to know and is neither better nor worse.
        figures: figures of merit.
        obstacles: why the runs cannot be ranked, one by one; empty if they can.
        cautions: what is wrong with some of the runs -> their names.
        verdict: one plain paragraph.
        notes: what the figures mean and where from their errors are.
    """

    command: str
    title: str
    names: tuple[str, ...]
    settings: Mapping[str, tuple[str, ...]]
    facts: Mapping[str, tuple[str, ...]]
    figures: tuple[ComparedFigure, ...]
    obstacles: tuple[str, ...]
    cautions: Mapping[str, tuple[str, ...]]
    verdict: str
    notes: str

    @property
    def differing(self) -> dict[str, tuple[str, ...]]:
        """Settings that are not the same in all runs."""
        return {name: values for name, values in self.settings.items() if len(set(values)) > 1}

    @property
    def agreeing(self) -> dict[str, str]:
        """Settings that are, of those that were given at all."""
        return {
            name: values[0]
            for name, values in self.settings.items()
            if len(set(values)) == 1 and values[0] not in (_NOT_GIVEN, "no")
        }

    @property
    def as_record(self) -> dict[str, Any]:
        """Everything, for programs."""
        return {
            "command": self.command,
            "names": list(self.names),
            "differing": {name: list(values) for name, values in self.differing.items()},
            "agreeing": self.agreeing,
            "facts": {name: list(values) for name, values in self.facts.items()},
            "figures": [self._figure_record(one) for one in self.figures],
            "not_ranked": list(self.obstacles),
            "cautions": [{"runs": list(names), "caution": said} for said, names in self.cautions.items()],
            "verdict": self.verdict,
        }

    def leaders_of(self, figure: ComparedFigure) -> tuple[int, ...]:
        """Those of the figure, or none where the runs cannot be ranked."""
        return () if self.obstacles else figure.leaders

    def _figure_record(self, figure: ComparedFigure) -> dict[str, Any]:
        known = figure.measured
        return {
            "name": figure.name,
            "best": figure.what_is_best,
            "values": [None if one is None else one.value for one in known],
            "errors": [None if one is None else _finite(one.error) for one in known],
            "intervals": [None if one is None else [_finite(end) for end in one.interval] for one in known],
            "leaders": [self.names[k] for k in self.leaders_of(figure)],
        }


_NOT_GIVEN = "not given"


def settings_of(records: Sequence[Mapping[str, Any]], leave_out: Sequence[str] = ()) -> dict[str, tuple[str, ...]]:
    """What runs were told and made from and with, as text: data first, then options, then versions."""
    data = [record["data"] for record in records]
    found = {
        "data": tuple(str(one["name"]) for one in data),
        "points": tuple(f"{one['points']:,}" for one in data),
        "shape of a point": tuple(" x ".join(str(size) for size in one["event_shape"]) for one in data),
        "data, SHA-256": tuple(str(one["sha256"])[:_HASH] for one in data),
        "units": tuple(str(one["standardise"]) for one in data),
    }
    hidden = {"data", "points", "standardise", *leave_out}
    names = dict.fromkeys(name for record in records for name in record["arguments"] if name not in hidden)
    for name in names:
        found[name.replace("_", " ")] = tuple(_setting(record["arguments"].get(name)) for record in records)
    packages = dict.fromkeys(name for record in records for name in record["versions"])
    return found | {name: tuple(str(record["versions"].get(name)) for record in records) for name in packages}


def unlike(what: str, names: Sequence[str], values: Sequence[str]) -> list[str]:
    """What runs are not alike in and how, if they are not."""
    if len(set(values)) < 2:
        return []
    return [f"{what} ({'; '.join(f'{name}: {value}' for name, value in zip(names, values, strict=True))})"]


def by_caution(names: Sequence[str], said: Sequence[Sequence[str]]) -> dict[str, tuple[str, ...]]:
    """What is said of each run as what is said -> the runs that it is said of."""
    texts = dict.fromkeys(text for of_one in said for text in of_one)
    return {text: tuple(name for name, own in zip(names, said, strict=True) if text in own) for text in texts}


def one_value(value: float | None, low: float | None, high: float | None) -> Measured | None:
    """A value with a 95% interval, without an upper end where ``high`` is None; None where it was not measured."""
    if value is None or low is None:
        return None
    above = math.inf if high is None else (float(high) - float(value)) / _QUANTILE
    return Measured(float(value), (float(value) - float(low)) / _QUANTILE, above)


def symmetric(value: float, error: float) -> Measured:
    """A value whose standard error is the same to both sides."""
    return Measured(value, error, error)


def joined(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _digits(value: float) -> str:
    return "0" if abs(value) < _ROUNDING else f"{value:#.3g}".rstrip(".")


def _digit(error: float) -> str:
    return "0" if error < _ROUNDING else f"{error:.1g}"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _setting(value: Any) -> str:
    if value is None:
        return _NOT_GIVEN
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
