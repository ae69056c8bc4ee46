"""The monotone transport T = quantile o cdf of a scalar source variable, and what follows from it.

T is the optimal map in dimension 1, and the radial part of it between rotation-invariant laws. Where levels run out
(a source tail of 2^-1000, or of 2^-30 where a level rounds like 1) an unbounded T is continued linearly: still an exact
optimal map, to a law that differs from the target by that much mass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from proxflow.kernels.monotone import last_true, monotone_root
from proxflow.kernels.panels import Panels, partial_integral, tabulate
from proxflow.potentials.base import Float64Module
from proxflow.potentials.quantile.levels import Levels
from proxflow.potentials.quantile.quantile_function import QuantileFunction
from proxflow.potentials.quantile.transport_operator import monotone_integral, monotone_pair, monotone_value, register

__all__ = ["MonotoneMap", "MonotonePair"]

_EPS = torch.finfo(torch.float64).eps
_LARGEST = torch.finfo(torch.float64).max
_HUGE = 1e300  # slope that stands for infinity
_TINY = 1e-300  # slope that stands for 0
_BEND_SPACING = 1e-5  # of a difference of slopes, in quartile distances of the source: to 1e-6 where T is smooth
_FIRST_PANELS = 512  # of the table of phi, before they are split
_LAST_TAIL = 2.0**-1000  # smallest level that is resolved
_ROUNDED_TAIL = 2.0**-30  # smallest upper level where only 1 - p is known: float64 rounds p there


@dataclass(frozen=True)
class MonotonePair:
    """The scalar Moreau pair z = alpha s + beta y, y in T(s), of each z; all (B,) float64.

    Attributes:
        source, target: s and y; differentiable once in z, alpha and beta.
        source_gain, target_gain: ds/dz and dy/dz; differentiable once in z, alpha and beta, in grad mode.
        magnitude: the number whose roundings bound the error of ``target``.
    """

    source: Tensor
    target: Tensor
    source_gain: Tensor
    target_gain: Tensor
    magnitude: Tensor


class MonotoneMap(Float64Module):
    """T = quantile o cdf on the whole line, or for a distance on s >= 0 with T(0) = 0.

    Attributes:
        lowest, highest: bounds of T, infinite where it is unbounded.
    """

    _edges: Tensor
    _values: Tensor
    _integrals: Tensor

    def __init__(self, levels: Levels, quantile: QuantileFunction) -> None:
        super().__init__()
        self.levels, self.quantile = levels, quantile
        self._resolves_lower = quantile.smallest_tails[0] == _LAST_TAIL
        self._resolves_upper = levels.keeps_upper_tail and quantile.keeps_upper_tail
        self._find_range()
        self._tabulate()
        self._number = register(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._number = register(self)  # a copy is a transport of its own

    # ---------------------------------------------------------------- queries

    def value(self, s: Tensor) -> Tensor:
        """T(s), elementwise, without derivatives."""
        value: Tensor = monotone_value(s.detach(), self._number)
        return value

    def slope(self, s: Tensor, precision: float = _EPS) -> Tensor:
        """T'(s), elementwise; inf where T jumps within some roundings of s, relative to ``precision``."""
        at, slope = s.detach(), self._smooth_slope(s)
        reach = (4 * precision * at.abs()).clamp(min=_TINY)
        behind, ahead = self.value(at - reach), self.value(at + reach)
        ordinary = 2 * reach * slope + _EPS * (behind.abs() + ahead.abs() + self._level_noise(at, slope))
        return torch.where(ahead - behind > 64 * ordinary, torch.inf, slope)

    def integral(self, s: Tensor) -> Tensor:
        """Integral of T from 0 to s, elementwise; differentiable once."""
        at = s.detach()
        integral: Tensor = monotone_integral(at, self._number)
        return integral + self.value(at) * (s - at)

    def inverse(self, y: Tensor) -> Tensor:
        """A point s with y in T(s), for y within the bounds of T; differentiable once where T is smooth."""
        at = y.detach()
        finite = torch.isfinite(at)
        target, zero = torch.where(finite, at, 0.0), torch.zeros_like(at)
        s: Tensor = monotone_pair(target, zero, zero + 1, self._number)[0]
        return s + (y - at) / self.slope(s).clamp(min=_TINY)

    def conjugate_value(self, y: Tensor) -> Tensor:
        """sup_s s y - integral(s), elementwise, for y within the bounds of T; differentiable once."""
        at = y.detach()
        s = self.inverse(at)
        return s * at - self.integral(s) + s * (y - at)

    def pair(self, z: Tensor, alpha: Tensor, beta: Tensor) -> MonotonePair:
        """The scalar Moreau pair of each z; rows that are not finite are answered as if z = 0."""
        finite = torch.isfinite(z.detach() + alpha.detach() + beta.detach())
        z0 = torch.where(finite, z.detach(), 0.0)
        a = torch.where(finite, alpha.detach(), 1.0)
        b = torch.where(finite, beta.detach(), 1.0)
        with torch.no_grad():
            s, y = monotone_pair(z0, a, b, self._number)
            slope = self.slope(s)
            spread = torch.where(torch.isinf(slope), 0.0, 1 / (a + b * slope)).clamp(max=_HUGE)
            gain = torch.where(torch.isinf(slope), 1 / b, slope / (a + b * slope))
            free = (b * self.lowest < z0) & (z0 < b * self.highest)
            gain = torch.where(a == 0, torch.where(free, 1 / b, 0.0), gain).clamp(max=_HUGE)
            noise = a * spread * self._level_noise(s, slope)
            magnitude = y.abs() + gain * ((a * s).abs() + (b * y).abs()) + noise
        change = z - alpha * s - beta * y  # what the root misses, by roundings; the pair is that much moved to meet z
        source, target = s + spread * change, y + gain * change
        if torch.is_grad_enabled():
            bend = torch.where(torch.isinf(slope), 0.0, self._bend(s) * spread.pow(3)).nan_to_num(0.0, 0.0, 0.0)
            moved = (z - z0) - s * (alpha - a) - y * (beta - b)  # 0, of the gradient of what moves s
            less = spread * (alpha - a) + gain * (beta - b)  # 0 likewise, of the logarithm of a + b T'(s) at this s
            spread, gain = spread - b * bend * moved - spread * less, gain + a * bend * moved - gain * less
        return MonotonePair(source, target, spread, gain, magnitude)

    # ---------------------------------------------------------------- behind the operators

    def evaluate(self, s: Tensor) -> Tensor:
        """T(s), (B,)."""
        value = self._inner(s.clamp(self._start, self._end))
        (start, start_slope), (end, end_slope) = self._lines
        value = torch.where(s < self._start, start + start_slope * s, value)
        value = torch.where(s > self._end, end + end_slope * s, value)
        return value if self.levels.signed else torch.where(s > 0, value, 0.0)

    def integrate(self, s: Tensor) -> Tensor:
        """Integral of T from 0 to s, (B,)."""
        first, last = self._first, self._end
        inner = partial_integral(self.evaluate, Panels(self._edges, self._integrals), s.clamp(first, last))
        before, after = (s - first).clamp(max=0), (s - last).clamp(min=0)
        (start, start_slope), (end, end_slope) = self._lines
        outer = (end + end_slope * (last + 0.5 * after)) * after
        return inner + outer + (start + start_slope * (first + 0.5 * before)) * before - self._offset

    def solve(self, z: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """s and y with alpha s + beta y = z and y in T(s), (B,)."""
        direct = beta == 0
        b = torch.where(direct, 1.0, beta)
        at_first = alpha * self._edges[0] + b * self._values[0]
        before, after = z < at_first, z >= alpha * self._edges[-1] + b * self._values[-1]
        inside = torch.where(before | after, at_first, z)
        s, y = monotone_root(self.evaluate, inside, alpha, b, self._edges, self._values)
        s_before, y_before = self._solve_outside(z, alpha, b, 0, torch.minimum)
        s_after, y_after = self._solve_outside(z, alpha, b, -1, torch.maximum)
        s = torch.where(before, s_before, torch.where(after, s_after, s))
        y = torch.where(before, y_before, torch.where(after, y_after, y))
        s = torch.where(direct, z / alpha, s)
        return s, torch.where(direct, self.evaluate(s), y)

    # ---------------------------------------------------------------- inside

    def _solve_outside(
        self, z: Tensor, alpha: Tensor, beta: Tensor, end: int, outermost: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The same beyond the first (``end`` 0) or last edge (-1), where T is linear, or in a jump at that edge."""
        edge, value = self._edges[end], self._values[end]
        intercept, slope = self._lines[end]
        line = (z - beta * intercept) / (alpha + beta * slope)
        s = outermost(torch.where(torch.isfinite(line), line, edge), edge)
        beyond = intercept + slope * s
        jump = torch.minimum(value, beyond), torch.maximum(value, beyond)
        within = torch.minimum(torch.maximum((z - alpha * s) / beta, jump[0]), jump[1])
        return s, torch.where(s == edge, within, beyond)

    def _inner(self, s: Tensor) -> Tensor:
        return self.quantile.value(*self.levels.tails(s))

    def _smooth_slope(self, s: Tensor) -> Tensor:
        within = s.clamp(self._start, self._end)
        if self.quantile.differentiable:
            lower, upper = self.levels.tails(within)
            slope = self.quantile.slope(lower, upper, self.levels.density(within))
        else:
            h = 1e-5 * self._scale
            ahead, behind = within + h, within - h
            if not self.levels.signed:
                behind = behind.clamp(min=_TINY)
            slope = (self.value(ahead) - self.value(behind)) / (ahead - behind)
        (_, before), (_, after) = self._lines
        slope = torch.where(s > self._end, after, torch.where(s < self._start, before, slope))
        return slope.nan_to_num(nan=0.0, posinf=_HUGE).clamp(min=0)

    def _bend(self, s: Tensor) -> Tensor:
        """T''(s) by a central difference of T', without derivatives."""
        with torch.no_grad():
            h = _BEND_SPACING * self._scale
            return (self._smooth_slope(s + h) - self._smooth_slope(s - h)) / (2 * h)

    def _level_noise(self, s: Tensor, slope: Tensor) -> Tensor:
        """The change of T over the whole size of a level, dT / dlog(level): its roundings are those of T."""
        noise = torch.where(torch.isinf(slope), 0.0, slope) * self._level_size(s, s) / self.levels.density(s)
        inside = (s >= self._start) & (s <= self._end)
        return torch.where(inside, noise.nan_to_num(nan=0.0, posinf=_HUGE), 0.0)

    def _level_size(self, left: Tensor, right: Tensor) -> Tensor:
        """The number whose roundings are those of levels between two points: the tail, where it is resolved, else 1."""
        one = torch.ones_like(left)
        lower = self.levels.tails(right)[0] if self._resolves_lower else one
        upper = self.levels.tails(left)[1] if self._resolves_upper else one
        return torch.minimum(lower, upper)

    # ---------------------------------------------------------------- preparation

    def _find_range(self) -> None:
        """The stretch of source points whose levels are resolved, and the lines on which T continues beyond it."""
        least_lower, least_upper = self.quantile.smallest_tails
        if not self.levels.keeps_upper_tail:
            least_upper = max(least_upper, _ROUNDED_TAIL)
        at_zero, at_one = self.quantile.ends
        self._start = self._at_lower_tail(least_lower if math.isinf(at_zero) else _LAST_TAIL)
        self._end = self._at_upper_tail(least_upper if math.isinf(at_one) else _LAST_TAIL)
        low, median, high = (self._at_lower_tail(level) for level in (0.25, 0.5, 0.75))
        self._scale = high - low
        before, after = (at_zero, 0.0), (at_one, 0.0)  # intercept and slope
        if not self.levels.signed and at_zero == 0 and self._start > 0:
            before = 0.0, self._scalar(self._start) / self._start
        if math.isinf(at_zero):
            before = self._line(self._start, 0.5 * (self._start + median), through=self._start)
        if math.isinf(at_one):
            after = self._line(0.5 * (self._end + median), self._end, through=self._end)
        self._lines = before, after
        self.lowest = 0.0 if not self.levels.signed else -math.inf if before[1] > 0 else before[0]
        self.highest = math.inf if after[1] > 0 else after[0]

    def _tabulate(self) -> None:
        self._first = first = self._start if self.levels.signed else 0.0
        count = min(_FIRST_PANELS, 2 + math.ceil((self._end - first) / (0.5 * self._scale)))
        anchor = min(max(0.0, first), self._end)
        known = torch.tensor([anchor, math.nextafter(anchor, math.inf), self._start], dtype=torch.float64)
        grid = torch.linspace(first, self._end, count, dtype=torch.float64)
        edges = torch.unique(torch.cat([grid, known, self._break_points()]).clamp(first, self._end))
        panels = tabulate(self.evaluate, edges, anchor, self._unresolved)
        self.register_buffer("_edges", panels.edges, persistent=False)
        self.register_buffer("_values", self.evaluate(panels.edges), persistent=False)
        self.register_buffer("_integrals", panels.integrals, persistent=False)
        self._offset = 0.0
        self._offset = float(self.integrate(torch.zeros(1, dtype=torch.float64)))

    def _unresolved(self, left: Tensor, right: Tensor) -> Tensor:
        """Rounding of a level as a fraction of a panel's mass."""
        below_left, above_left = self.levels.tails(left)
        below_right, above_right = self.levels.tails(right)
        mass = torch.maximum(below_right - below_left, above_left - above_right).clamp(min=_TINY)
        return (_EPS * self._level_size(left, right) / mass).clamp(max=1.0)

    def _break_points(self) -> Tensor:
        """Source points, both neighbours, where the level passes a break of the quantile function."""
        levels, complements = self.quantile.breaks
        if not len(levels):
            return levels

        def before(s: Tensor) -> Tensor:
            lower, upper = self.levels.tails(s)
            return torch.where(lower < 0.5, lower < levels, upper > complements)

        return torch.cat(self._turn(before, levels))

    def _at_lower_tail(self, level: float) -> float:
        """The first point with P(S <= s) >= level."""
        return float(self._turn(lambda s: self.levels.tails(s)[0] < level, torch.zeros(1, dtype=torch.float64))[1])

    def _at_upper_tail(self, level: float) -> float:
        """The last point with P(S > s) >= level."""
        return float(self._turn(lambda s: self.levels.tails(s)[1] >= level, torch.zeros(1, dtype=torch.float64))[0])

    def _turn(self, condition: Callable[[Tensor], Tensor], like: Tensor) -> tuple[Tensor, Tensor]:
        lowest = -_LARGEST if self.levels.signed else 0.0
        return last_true(condition, torch.full_like(like, lowest), torch.full_like(like, _LARGEST))

    def _scalar(self, s: float) -> float:
        return float(self._inner(torch.tensor([s], dtype=torch.float64)))

    def _line(self, left: float, right: float, through: float) -> tuple[float, float]:
        """Intercept and slope of the chord of T, moved to meet T at a point."""
        slope = (self._scalar(right) - self._scalar(left)) / (right - left)
        return self._scalar(through) - slope * through, slope
