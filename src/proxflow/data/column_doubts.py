"""Why a column of numbers may not be meant as a coordinate: identities, targets, dates and codes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from proxflow.data.reading import Array
from proxflow.errors import counted

__all__ = ["IDENTITY", "doubt", "doubt_of_index", "doubt_of_numbers", "doubt_of_rounding"]

IDENTITY = re.compile(
    r"(?i:(.*[ _.-])?(id|idx|index|no|nr|number|obs|row)|row[ _.-]?(id|names?|numbers?)|case|observation)|.*[a-z]I[dD]"
)
_TARGETS = {"label", "labels", "target", "class", "y", "species"}
_YEAR = re.compile(r"(?i:(.*[ _.-])?(year|yr))|.*[a-z]Year")
_TIME = re.compile(r"(?i:(.*[ _.-])?(time|date|datetime|timestamp|epoch|unix)|ts|t|unixtime)|.*[a-z](Time|Date)")
_YEARS = (1500, 2200)
_DATES = (1900_01_01, 2100_12_31)  # of eight digits: year, month, day
# Units in a second, from seconds to nanoseconds; 1e9 to 2e9 seconds since 1970 are the years 2001 to 2033.
_UNITS = {"seconds": 1.0, "milliseconds": 1e3, "microseconds": 1e6, "nanoseconds": 1e9}
_SECONDS = (1e9, 2e9)
_WHOLE = 2.0**53  # from which float64 does not hold all whole numbers
_CODES = (-99, -999, -9999, -99999)  # in place of missing values


def doubt(name: str, what: str, more: str = "") -> str:
    """A doubt about a coordinate, with what to do."""
    advice = f"drop={name!r} (--drop {shlex.quote(name)}) leaves it out{more}"
    return f"the column {name!r} is a coordinate but {what}; {advice}"


def doubt_of_numbers(values: Array, name: str, others: Collection[str], label: str | None) -> str | None:
    """A doubt about a column of a table with columns ``others``, of which ``label`` was asked for as labels."""
    return _identity(values, name) or _target(name, others, label) or _time(values, name) or _code(values, name)


def _identity(values: Array, name: str) -> str | None:
    """A doubt about whole numbers that are all different, of a column that is called like one that tells rows apart."""
    if values.ndim > 1 or not IDENTITY.fullmatch(name) or len(np.unique(values)) < len(values):
        return None
    return doubt(name, "looks like a number that only tells rows apart") if (values == np.rint(values)).all() else None


def _target(name: str, others: Collection[str], label: str | None) -> str | None:
    """A doubt about a column that is called like what the others are to tell; y is none where there is an x."""
    if name.lower() not in _TARGETS or (name.lower() == "y" and "x" in map(str.lower, others)):
        return None
    classes = "" if label is not None else f"; label={name!r} (--label {shlex.quote(name)}) makes it the classes"
    return doubt(name, "is called like what the others tell", classes)


def _time(values: Array, name: str) -> str | None:
    """A doubt about whole numbers that are dates, years, or times since 1970 by their values, name or order."""
    known = values[np.isfinite(values)] if values.ndim == 1 else values[:0]
    if len(known) == 0 or (known != np.rint(known)).any():
        return None
    if _YEAR.fullmatch(name) and _all_within(known, _YEARS):
        return doubt(name, f"looks like a year, such as {known[0]:.0f}")
    if _all_within(known, _DATES) and _all_within(known // 100 % 100, (1, 12)) and _all_within(known % 100, (1, 31)):
        return doubt(name, f"looks like a date, year, month and day, such as {known[0]:.0f}")
    for unit, count in _UNITS.items():
        ordered = len(known) > 1 and (np.diff(known) >= 0).all()
        if _all_within(known / count, _SECONDS) and (ordered or _TIME.fullmatch(name)):
            return doubt(name, f"looks like a time in {unit} since 1970, such as {known[0]:.0f}")
    return None


def _code(values: Array, name: str) -> str | None:
    """A doubt about a least value such as -999 that is farther from all others than these are from one another."""
    known = values[np.isfinite(values)] if values.ndim == 1 else values[:0]
    code = known.min() if len(known) else 0
    others = known[known != code]
    if code not in _CODES or len(others) == 0 or others.min() - code <= np.ptp(others):
        return None
    found = f"holds {counted(len(known) - len(others), 'cell')} of {code:g}, as missing values are often written"
    return doubt(name, found, "; empty such cells, and drop_missing=True (--drop-missing) leaves out their rows")


def doubt_of_rounding(values: Array, column: Any, name: str) -> str | None:
    """A doubt about whole numbers of a column of arrow that are too large for float64, as random identities are.

    Text is a whole number where it has digits alone.
    """
    row = int(np.abs(np.nan_to_num(values)).argmax())
    written = str(column[row].as_py()).strip()
    if abs(values[row]) < _WHOLE or not written.lstrip("+-").isdigit():
        return None
    return doubt(name, f"has whole numbers above 2^53, which float64 rounds, such as {written}")


def _all_within(values: Array, ends: tuple[float, float]) -> bool:
    return bool(((values >= ends[0]) & (values <= ends[1])).all())


def doubt_of_index(name: str, before: Sequence[str], values: Array | str) -> str | None:
    """A doubt about a column that is left out as a row index by its name, after the named columns ``before``."""
    if isinstance(values, str) or values.ndim > 1:
        return None
    known = values[np.isfinite(values)]
    if before:
        why = f"comes after {before[0]!r}, where row indices come first"
    elif (known != np.rint(known)).any():
        why = f"holds numbers that are not whole, such as {known[known != np.rint(known)][0]:g}"
    else:
        return None
    return (
        f"the column {name!r} is left out as a row index, by its name, but {why}; name it in the file to make it a "
        f"coordinate, or drop={name!r} (--drop {shlex.quote(name)})"
    )
