"""Runs held side by side: settings, facts, and figures with errors, of which the best is named where errors allow it.

Rule: a figure is as good as it is near its target. The best run leads alone where every other is farther from the
target by more than two combined standard errors; runs that are not are said not to differ.
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
    "unlike",
]

STANDARD_ERRORS = 2.0  # combined, that a difference must exceed
NO_DIFFERENCE = "no difference beyond error"
RANKED = (
    "One run is named, and its figure marked, where all others are off by more, by over two combined standard errors; "
    "of several that are named none is told apart from the best of them. Of twenty such differences one is expected "
    "where there is none."
)
_ROUNDING = 1e-9  # of figures of order one
_HASH = 12  # characters of a hash that tell data sets apart


@dataclass(frozen=True)
class Measured:
    """A value and its standard error."""

    value: float
    error: float

    @property
    def in_words(self) -> str:
        """To three digits, and one of the error."""
        value = "0" if abs(self.value) < _ROUNDING else f"{self.value:#.3g}".rstrip(".")
        return f"{value} ± {self.error:.1g}"


@dataclass(frozen=True)
class ComparedFigure:
    """One figure of merit of every run.

    Attributes:
        name: of the figure.
        measured: of each run; None where it was not measured.
        target: the value that is best; None if none is.
        never_below: whether the true value is at least the target, so that a measured one below is as good as it.
    """

    name: str
    measured: tuple[Measured | None, ...]
    target: float | None
    never_below: bool = False

    @property
    def leaders(self) -> tuple[int, ...]:
        """Places of the runs that the best one is not told apart from, itself among them; empty if not ranked."""
        known = [(k, self._off(one), one.error) for k, one in enumerate(self.measured) if one is not None]
        if self.target is None or len(known) < 2:
            return ()
        _, least, error = min(known, key=lambda one: one[1])
        return tuple(k for k, off, its in known if off - least <= STANDARD_ERRORS * math.hypot(error, its))

    @property
    def best(self) -> int | None:
        """Place of the run that leads alone."""
        return self.leaders[0] if len(self.leaders) == 1 else None

    @property
    def all_alike(self) -> bool:
        """Whether no run is told apart from the best."""
        return len(self.leaders) == sum(one is not None for one in self.measured)

    def in_words(self, names: Sequence[str]) -> str:
        """Who leads."""
        if not self.leaders:
            return ""
        if self.all_alike:
            return NO_DIFFERENCE
        return joined([names[k] for k in self.leaders])

    def _off(self, one: Measured) -> float:
        off = one.value - (self.target or 0.0)
        return max(off, 0.0) if self.never_below else abs(off)


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
        ends = [(None, None) if one is None else (one.value, one.error) for one in figure.measured]
        return {
            "name": figure.name,
            "target": figure.target,
            "values": [value for value, _ in ends],
            "errors": [error for _, error in ends],
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
    """A value with a 95% interval as one with a standard error; None where it was not measured."""
    if value is None or low is None or high is None:
        return None
    return Measured(float(value), (float(high) - float(low)) / (2 * 1.959964))  # of the normal law at 97.5%


def joined(words: Sequence[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _setting(value: Any) -> str:
    if value is None:
        return _NOT_GIVEN
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
