"""Power laws in the batch size: fitted by weighted regression, and read the other way round for a wanted value."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy import stats
from torch import Tensor

from proxflow.storage import storable

__all__ = ["Rate", "WantedSize", "fit_rate", "size_for"]

_LEAST_SIZES = 4  # of batches that a rate is fitted to
_LEAST_SPAN = 8.0  # largest over smallest size, below which an exponent says little
_WINDOW = 16.0  # the largest sizes, over this factor, speak for those beyond them
_RESOLVED = 2.0  # standard errors above zero
_MOST_DECADES = 12.0  # beyond which a wanted size is not told


@storable
@dataclass(frozen=True)
class Rate:
    """value ~ n^-exponent near the largest sizes, or the reason why no such law is stated.

    Attributes:
        exponent: None where refused.
        interval: its 95% interval, widened where the points bend more than their errors explain; None where refused.
        sizes: those used.
        pivot: the size in the middle of them, where value is known best.
        value: at the pivot; None where refused.
        reason: why there is no rate; empty where there is one.
    """

    exponent: float | None
    interval: tuple[float, float] | None
    sizes: tuple[int, ...]
    pivot: float
    value: float | None
    reason: str


@dataclass(frozen=True)
class WantedSize:
    """The smallest size with a wanted value.

    Attributes:
        size: whole number, None where unknown.
        interval: 95% interval of an extrapolated size, as far as the power law holds; None otherwise.
        extrapolated: whether it lies beyond the sizes measured.
        reason: why it is unknown; empty otherwise.
    """

    size: int | None
    interval: tuple[float, float] | None
    extrapolated: bool
    reason: str


def fit_rate(sizes: Tensor, values: Tensor, stderr: Tensor) -> Rate:
    """Least squares of log value on log size, weighted by the values' errors, over the largest sizes.

    Those are the sizes within a factor 16 of the largest resolved one (value above two standard errors), or the four
    largest. Finite data change their exponent with n: a fit over all sizes would describe none of them.

    Args:
        sizes: (K,) int64, ascending.
        values: (K,), and ``stderr`` (K,) their standard errors.
    """
    resolved = (values > _RESOLVED * stderr) & torch.isfinite(values)
    n, value, error = (part[resolved].double() for part in (sizes, values, stderr))
    used = tuple(int(size) for size in n.tolist())
    if len(n) < _LEAST_SIZES or float(n[-1] / n[0]) < _LEAST_SPAN:
        span = f"{used[-1] / used[0]:.3g}" if used else "0"
        reason = (
            f"a rate needs at least {_LEAST_SIZES} batch sizes over a factor of {_LEAST_SPAN:g} or more, with values "
            f"above twice their standard errors; there are {len(n)}, over a factor of {span}"
        )
        return Rate(None, None, used, math.nan, None, reason)
    window = n >= n[-1] / _WINDOW
    window[-_LEAST_SIZES:] = True
    n, value, error = n[window], value[window], error[window]
    used = tuple(int(size) for size in n.tolist())
    weight = (value / error.clamp(min=1e-12 * float(value.max()))).square()
    x, y = n.log(), value.log()
    centre, level = (weight @ x) / weight.sum(), (weight @ y) / weight.sum()
    spread = weight @ (x - centre).square()
    slope = float(weight @ ((x - centre) * (y - level)) / spread)
    misfit = float(weight @ (y - level - slope * (x - centre)).square()) / (len(n) - 2)
    half = float(stats.t.ppf(0.975, len(n) - 2)) * math.sqrt(max(misfit, 1.0) / float(spread))
    if -slope - half <= 0:
        reason = f"the values do not fall with n beyond doubt: exponent {-slope:.2g} +- {half:.2g}"
        return Rate(None, None, used, math.nan, None, reason)
    pivot, middle = math.exp(float(centre)), math.exp(float(level))
    return Rate(-slope, (-slope - half, -slope + half), used, pivot, middle, "")


def size_for(wanted: float, sizes: Tensor, values: Tensor, rate: Rate) -> WantedSize:
    """The smallest size whose value is at most ``wanted``: interpolated on logarithmic scales, else extrapolated."""
    below = torch.nonzero(values <= wanted)[:, 0]
    if len(below):
        first = int(below[0])
        if first == 0 or float(values[first]) <= 0:
            return WantedSize(int(sizes[first]), None, False, "")
        (a, b), (u, v) = sizes[first - 1 : first + 1].double().log(), values[first - 1 : first + 1].double().log()
        share = float((u - math.log(wanted)) / (u - v))
        return WantedSize(_whole(float(a) + share * float(b - a)), None, False, "")
    if wanted <= 0:
        return WantedSize(None, None, False, "no batch size reaches an error of zero")
    if rate.exponent is None or rate.interval is None or rate.value is None:
        return WantedSize(None, None, False, rate.reason)
    decades = math.log(rate.value / wanted)
    guesses = [decades / exponent for exponent in (rate.exponent, rate.interval[1], rate.interval[0])]
    if guesses[0] > _MOST_DECADES * math.log(10):
        return WantedSize(None, None, True, f"it would be over 10^{_MOST_DECADES:g}")
    start = math.log(rate.pivot)
    least = math.log(float(sizes[-1]))  # values fall with n: beyond what was measured
    low, high = (math.exp(min(max(start + guess, least), 700.0)) for guess in guesses[1:])
    return WantedSize(_whole(max(start + guesses[0], least)), (low, high), True, "")


def _whole(logarithm: float) -> int:
    """exp, rounded up, but not for a rounding error."""
    return math.ceil(math.exp(logarithm) * (1 - 1e-9))
