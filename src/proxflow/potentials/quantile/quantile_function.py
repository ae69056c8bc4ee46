"""Quantile functions: levels to values, as a formula or as a table of (levels, values)."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from proxflow.kernels.monotone import last_true
from proxflow.potentials.base import DENSITY_ACCURACY, Float64Module, as_parameter
from proxflow.potentials.quantile.transport_operator import formula_level, register
from proxflow.results import Verdict

__all__ = ["Formula", "QuantileFunction", "QuantileLike", "Table", "checked_table"]

QuantileLike: TypeAlias = Callable[[Any], Any] | tuple[Any, Any]

_GRID = 4096  # levels at which a quantile function is checked
_NEAR = 2.0**-20  # two levels so near with one value are taken for an atom
_DEEPEST = 1000  # tails are asked for down to levels of 2^-1000,
_SPACINGS = (5e-3, 5e-4, 5e-5)  # of levels for a numerical derivative, relative to the tail: to 1e-10 where smooth
_SMALLEST = 2.0**-1070  # some of the smallest numbers
_LEVEL_ROUNDINGS = 4 * 2.0**-52  # of a level, relative to what it is rounded like
_SHALLOW = 30  # but no further than 2^-30 where they are infinite there, or a level is rounded like 1


class QuantileFunction(Float64Module):
    """A quantile function, asked by both tails: level p and its complement c = 1 - p, each accurate when small.

    Attributes:
        keeps_upper_tail: whether c counts beyond the rounding of p.
        differentiable: whether ``slope`` works; else the caller takes differences.
        smallest_tails: levels down to which the lower and the upper tail are finite and resolved.
        ends: values at the levels 0 and 1; infinite for an unbounded law.
        has_atoms: whether a flat stretch was found, so that the law has an atom.
        of_distance: whether values are distances from 0, none negative.
    """

    keeps_upper_tail: bool = True
    differentiable: bool = True
    smallest_tails: tuple[float, float] = (2.0**-_DEEPEST, 2.0**-_DEEPEST)
    ends: tuple[float, float]
    has_atoms: bool
    of_distance: bool

    @abstractmethod
    def value(self, p: Tensor, c: Tensor) -> Tensor:
        """The quantile at level p = 1 - c, elementwise in float64."""

    @abstractmethod
    def slope(self, p: Tensor, c: Tensor, density: Tensor) -> Tensor:
        """Derivative along a change of level of ``density`` per unit, elementwise."""

    @abstractmethod
    def log_density(self, y: Tensor) -> Tensor:
        """-log of the derivative at the level of ``y``, elementwise in float64: the log-density of the law.

        -inf off the support; NaN where it cannot be told to ``DENSITY_ACCURACY``. A property of the law alone: no
        source enters.
        """

    @abstractmethod
    def smooth_at(self, y: Tensor, tolerance: Tensor) -> Tensor:
        """Whether the support is an interval or an isolated point around y, elementwise: a ``Verdict``."""

    @property
    def breaks(self) -> tuple[Tensor, Tensor]:
        """Levels, and their complements, where the function may jump or kink; both empty if unknown."""
        none = torch.empty(0, dtype=torch.float64)
        return none, none


class Table(QuantileFunction):
    """Linear interpolation of (levels, values); equal levels are gaps of the law, equal values its atoms."""

    _starts: Tensor
    _complements: Tensor
    _bases: Tensor
    _rises: Tensor
    _rates: Tensor

    def __init__(self, levels: Tensor, values: Tensor, of_distance: bool = False) -> None:
        super().__init__()
        self.of_distance = of_distance
        levels, values = levels.detach().double(), values.detach().double()
        mass, rise = levels.diff(), values.diff()
        used = mass > 0
        last = torch.nonzero(used)[-1, 0] + 1
        for name, entries in (
            ("_starts", levels[:-1][used]),
            ("_complements", 1 - levels[:-1][used]),
            ("_bases", values[:-1][used]),
            ("_rises", rise[used]),
            ("_rates", rise[used] / mass[used]),
        ):
            self.register_buffer(name, entries, persistent=False)
        self.ends = (float(self._bases[0]), float(values[last]))
        self.has_atoms = bool((rise[used] == 0).any())

    def value(self, p: Tensor, c: Tensor) -> Tensor:
        """The interpolated value; above the median its distance in level is counted from the upper end."""
        piece = self._piece(p, c)
        passed = torch.where(p < 0.5, p - self._starts[piece], self._complements[piece] - c)
        climbed = (self._rates[piece] * passed).clamp(min=0)
        return self._bases[piece] + torch.minimum(climbed, self._rises[piece])

    def slope(self, p: Tensor, c: Tensor, density: Tensor) -> Tensor:
        """The piece's rate times the density."""
        return self._rates[self._piece(p, c)] * density

    def log_density(self, y: Tensor) -> Tensor:
        """Minus the log rate of the piece that holds y, the upper one where two meet."""
        at = y.detach().contiguous()
        piece = (torch.searchsorted(self._bases, at, right=True) - 1).clamp(0, len(self._bases) - 1)
        ends = self._bases + self._rises
        earlier = (piece - 1).clamp(min=0)
        piece = torch.where((at > ends[piece]) & (at <= ends[earlier]), earlier, piece)
        inside = (at >= self._bases[piece]) & (at <= ends[piece])
        density = torch.where(inside, -self._rates[piece].log(), -torch.inf)
        return torch.where(torch.isnan(at), torch.nan, density) + 0 * (y - at).nan_to_num()  # constant: gradient 0

    def smooth_at(self, y: Tensor, tolerance: Tensor) -> Tensor:
        """Verified inside an interval of pieces that touch, and at an isolated atom; failed at ends and in gaps."""
        lows, highs = self._bases, self._bases + self._rises
        joined = lows[1:] <= highs[:-1]
        none = torch.ones(1, dtype=torch.bool, device=lows.device)
        lows, highs = lows[torch.cat([none, ~joined])], highs[torch.cat([~joined, none])]
        place, slack = y.contiguous(), tolerance
        piece = (torch.searchsorted(lows, place + slack, right=True) - 1).clamp(min=0)
        low, high = lows[piece], highs[piece]
        low = torch.where((low == 0) & self.of_distance & (high > 0), -torch.inf, low)  # 0 is inside a ball
        inside = (place - low > slack) & (high - place > slack)
        isolated = (low == high) & ((place - low).abs() <= slack)
        return torch.where(inside | isolated, int(Verdict.verified), int(Verdict.failed))

    @property
    def breaks(self) -> tuple[Tensor, Tensor]:
        """All inner levels."""
        return self._starts[1:], self._complements[1:]

    def _piece(self, p: Tensor, c: Tensor) -> Tensor:
        p, c = p.detach().contiguous(), c.detach().contiguous()
        below = torch.searchsorted(self._starts, p, right=True)
        above = torch.searchsorted(-self._complements, -c, right=True)
        return (torch.where(p < 0.5, below, above) - 1).clamp(0, len(self._starts) - 1)


class Formula(QuantileFunction):
    """A callable, level -> value, checked on a grid of levels that reaches far into both tails.

    Args:
        owner: name of the potential, for messages.
        quantile: callable on tensors, or on numpy arrays, of levels.
        upper: callable from P(X > x) to x, accurate in the upper tail; None where there is none.
        nonnegative: whether negative values are refused.

    Raises:
        ValueError: what the callable returns is no quantile function; the message names the level.
    """

    def __init__(
        self, owner: str, quantile: Callable[[Any], Any], upper: Callable[[Any], Any] | None, nonnegative: bool
    ) -> None:
        super().__init__()
        self._quantile = _on_tensors(owner, quantile, "quantile")
        self.of_distance = nonnegative
        self._upper = None if upper is None else _on_tensors(owner, upper, "upper_quantile")
        self.keeps_upper_tail = upper is not None
        self._number = register(self)
        p, c = _probes(self.keeps_upper_tail)
        values = self.value(p, c)
        _check_values(owner, p, c, values, nonnegative)
        ends = self.value(torch.tensor([0.0, 1.0]).double(), torch.tensor([1.0, 0.0]).double()).tolist()
        if np.isnan(ends).any() or (nonnegative and not 0 <= ends[0] < np.inf):
            raise ValueError(f"{owner}: quantile gives {ends} at the levels 0 and 1; give their limits there")
        self.ends = (ends[0], ends[1])
        deep = torch.isfinite(values)
        shallow = 2.0**-_SHALLOW
        self.smallest_tails = (
            2.0**-_DEEPEST if bool(deep[p < 0.5].all()) else shallow,
            2.0**-_DEEPEST if bool(deep[p >= 0.5].all()) and self.keeps_upper_tail else shallow,
        )
        grid = torch.arange(1, _GRID, dtype=torch.float64) / _GRID
        self.has_atoms = bool((self.value(grid, 1 - grid) == self.value(grid + _NEAR, 1 - grid - _NEAR)).any())
        self.differentiable = self._derivative_agrees()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        self._number = register(self)  # a copy is a quantile function of its own

    def value(self, p: Tensor, c: Tensor) -> Tensor:
        """The callable's value, from the upper tail above the median where that is offered."""
        if self._upper is None:
            return self._quantile(p)
        return torch.where(p < 0.5, self._quantile(p.clamp(max=0.5)), self._upper(c.clamp(max=0.5)))

    def slope(self, p: Tensor, c: Tensor, density: Tensor) -> Tensor:
        """Forward derivative through the callable."""
        rate: Tensor = torch.func.jvp(self.value, (p, c), (density, -density))[1]
        return rate

    def log_density(self, y: Tensor) -> Tensor:
        """From the level found by bisection; NaN where its rounding, or a kink, leaves the derivative open.

        Raises:
            ValueError: a gradient is asked for, and torch cannot differentiate the callable.
        """
        if y.requires_grad and not self.differentiable:
            raise ValueError(
                "log_density: torch cannot differentiate this quantile function (its answer is numpy's, or is "
                "detached); write it in torch for gradients, or detach y"
            )
        at = y.detach()
        p, c = self.level(at)
        step = _LEVEL_ROUNDINGS * torch.where(p < 0.5, p, c if self.keeps_upper_tail else 1.0)
        (p_low, c_low), (p_high, c_high) = _moved(p, c, -step), _moved(p, c, step)
        gap, edge = self._in_jump(at, p, c, step, self.value(p_high, c_high) - self.value(p_low, c_low))
        rate = self._rate(p, c)
        # how far the level is off: by its own rounding, and by that of the values
        off = step + ((_LEVEL_ROUNDINGS * at.abs() + _SMALLEST) / rate).nan_to_num(nan=0.0)
        around = [self._rate(*_moved(p, c, -off)), rate, self._rate(*_moved(p, c, off))]
        logs = torch.stack(around).log()
        density = -rate.log()
        known = logs.amax(0) - logs.amin(0) <= DENSITY_ACCURACY * (1 + density.abs())
        if y.requires_grad or self.differentiable:
            moved = (y - at) / torch.where(known, rate, 1.0)
            density = -self._rate(p + moved, c - moved).log()
        density = torch.where(known & ~edge, density, torch.nan)
        outside = (at < self.ends[0]) | (at > self.ends[1]) | gap | torch.isinf(at)
        return torch.where(torch.isnan(at), torch.nan, torch.where(outside, -torch.inf, density))

    def level(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The last level p with a value of at most y, and its complement c, without derivatives."""
        p, c = formula_level(y.flatten(), self._number)
        return p.reshape(y.shape), c.reshape(y.shape)

    def find_level(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """``level`` on flat rows, by bisection on the order of the floating-point numbers."""
        zero, half = torch.zeros_like(y), torch.full_like(y, 0.5)
        below = last_true(lambda p: self.value(p, 1 - p) <= y, zero, half)[0]
        upper = self._upper
        if upper is None:
            above = last_true(lambda p: self.value(p, 1 - p) <= y, half, zero + 1)[0]
            beyond = 1 - above
        else:
            beyond = last_true(lambda c: upper(c) > y, zero, half)[1]
            above = 1 - beyond
        lower_half = self.value(half, half) > y
        return torch.where(lower_half, below, above), torch.where(lower_half, 1 - below, beyond)

    def smooth_at(self, y: Tensor, tolerance: Tensor) -> Tensor:
        """Failed off the ends, at finite ones, and in gaps; a point if both ends agree; else assumed."""
        low, high = self.ends
        if low == high:
            return torch.where((y - low).abs() <= tolerance, int(Verdict.verified), int(Verdict.failed))
        if low == 0 and self.of_distance:
            low = -np.inf  # 0 is inside a ball
        gap = torch.isneginf(self.log_density(y.detach()))
        return torch.where(
            gap | (y - low <= tolerance) | (high - y <= tolerance), int(Verdict.failed), int(Verdict.assumed)
        )

    def _in_jump(self, y: Tensor, p: Tensor, c: Tensor, step: Tensor, rise: Tensor) -> tuple[Tensor, Tensor]:
        """Whether y is inside a jump at p, and whether it is at an end of one, elementwise.

        Over four times the step a jump rises no more than over ``step``, a continuous function does.
        """
        wide = self.value(*_moved(p, c, 4 * step)) - self.value(*_moved(p, c, -4 * step))
        low, high = self.value(*_moved(p, c, -step)), self.value(*_moved(p, c, step))
        noise = 64 * torch.finfo(y.dtype).eps * (low.abs() + high.abs())
        jump = (rise > 0.75 * wide) & (rise > noise)
        within = (y - low > noise) & (high - y > noise)
        return jump & within, jump & ~within

    def _rate(self, p: Tensor, c: Tensor) -> Tensor:
        """Derivative in the level; NaN where numerical derivatives at different spacings disagree."""
        if self.differentiable:
            return self.slope(p, c, torch.ones_like(p))
        coarse, middle, fine = (self._difference(p, c, spacing) for spacing in _SPACINGS)
        rate = torch.where(_agree(coarse, middle), coarse, torch.nan)
        return torch.where(torch.isnan(rate) & _agree(middle, fine), middle, rate)

    def _difference(self, p: Tensor, c: Tensor, spacing: float) -> Tensor:
        """Derivative of the polynomial through values at five levels around p, in the tail that is the smaller one."""
        lower = p < 0.5
        tail = torch.where(lower, p, c)
        nodes = tail + spacing * tail * torch.arange(-2, 3, dtype=p.dtype, device=p.device).reshape(-1, *[1] * p.ndim)
        levels = torch.where(lower, nodes, 1 - nodes)
        if not self.keeps_upper_tail:
            nodes = torch.where(lower, nodes, 1 - levels)  # as rounded
        values = self.value(levels, torch.where(lower, 1 - nodes, nodes))
        gaps = nodes[:, None] - nodes[None]
        gaps = torch.where(gaps == 0, 1.0, gaps / tail)
        rates = [gaps[2].prod(0) / gaps[k].prod(0) / gaps[2, k] * (values[k] - values[2]) for k in (0, 1, 3, 4)]
        return torch.stack(rates).sum(0) / tail * torch.where(lower, 1.0, -1.0)

    def _derivative_agrees(self) -> bool:
        """Whether torch differentiates the callable; one that leaves torch on the way raises, or gives zeros."""
        p = torch.linspace(0.013, 0.987, 97, dtype=torch.float64)
        h = 1e-6
        differences = (self.value(p + h, 1 - p - h) - self.value(p - h, 1 - p + h)) / (2 * h)
        try:
            rates = self.slope(p, 1 - p, torch.ones_like(p))
        except (RuntimeError, TypeError):
            return False
        slack = 1e-2 * (rates.abs() + differences.abs()) + 1e-6 * differences.abs().median()
        return bool(((rates - differences).abs() <= slack).double().mean() > 0.75)


def _moved(p: Tensor, c: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    """A level and its complement after a step, within [0, 1]."""
    return (p + step).clamp(0, 1), (c - step).clamp(0, 1)


def _agree(a: Tensor, b: Tensor) -> Tensor:
    return (a - b).abs() <= 0.1 * DENSITY_ACCURACY * a.abs()


def checked_table(owner: str, quantile: object, nonnegative: bool) -> tuple[Tensor, Tensor]:
    """A pair (levels, values) as float tensors of their own dtype.

    Raises:
        ValueError: it is not a table of a quantile function; the message says why and what to do.
    """
    if not isinstance(quantile, tuple | list) or len(quantile) != 2:
        raise ValueError(
            f"{owner}: quantile must be a callable, level -> value, or a pair (levels, values), got {quantile!r}"
        )
    levels, values = (as_parameter(part) for part in quantile)
    levels, values = (part if part.is_floating_point() else part.double() for part in (levels, values))
    if levels.ndim != 1 or levels.shape != values.shape or len(levels) < 2:
        raise ValueError(
            f"{owner}: levels and values must have the same shape (K,), K >= 2, "
            f"got {tuple(levels.shape)} and {tuple(values.shape)}"
        )
    for name, entries in (("levels", levels), ("values", values)):
        if not bool(torch.isfinite(entries).all()):
            raise ValueError(f"{owner}: {name} must be finite; an unbounded law needs a callable")
        falls = torch.nonzero(entries.diff() < 0)[:, 0]
        if len(falls):
            k = int(falls[0])
            raise ValueError(
                f"{owner}: {name} must not decrease, entries {k} and {k + 1} are {entries[k]:.6g} and "
                f"{entries[k + 1]:.6g}; sort them"
            )
    if levels[0] != 0 or levels[-1] != 1:
        raise ValueError(f"{owner}: levels must go from 0 to 1, got {levels[0]:.6g} to {levels[-1]:.6g}")
    if nonnegative and values[0] < 0:
        raise ValueError(f"{owner}: values are distances from 0 and must not be negative, got {values[0]:.6g}")
    return levels, values


def _on_tensors(owner: str, quantile: Callable[[Any], Any], name: str) -> Callable[[Tensor], Tensor]:
    """The callable as a function from float64 tensors to float64 tensors, also where it answers with numpy."""
    if not callable(quantile):
        raise ValueError(f"{owner}: {name} must be callable, level -> value, got {quantile!r}")

    def through_torch(levels: Tensor) -> Tensor:
        answer: Tensor = quantile(levels)
        return answer.to(levels)

    def through_numpy(levels: Tensor) -> Tensor:
        with np.errstate(all="ignore"):
            answer = np.asarray(quantile(levels.detach().cpu().numpy()), dtype=np.float64)
        return torch.from_numpy(np.ascontiguousarray(answer)).to(levels)

    probe = torch.tensor([[0.25, 0.5, 0.75]], dtype=torch.float64)
    try:
        in_torch = isinstance(quantile(probe), Tensor)
    except Exception:  # whatever a numpy function says to a tensor: what counts is its answer to an array
        in_torch = False
    chosen = through_torch if in_torch else through_numpy
    try:
        shape = tuple(chosen(probe).shape)
    except Exception as error:
        raise ValueError(f"{owner}: {name} accepts neither a tensor nor an array of levels ({error!r})") from error
    if shape != (1, 3):
        raise ValueError(f"{owner}: {name} must give one value per level, got shape {shape} for levels (1, 3)")
    return chosen


def _probes(keeps_upper_tail: bool) -> tuple[Tensor, Tensor]:
    """Levels p in ascending order and their complements c: a grid, and powers of 2 into the tails."""
    exponents = [_DEEPEST, *range(900, 60, -60), 55, 50, 45, 40, 35, _SHALLOW, 25, 20, 15]
    tail = torch.tensor([2.0**-k for k in exponents], dtype=torch.float64)
    upper = (tail if keeps_upper_tail else tail[tail >= 2.0**-50]).flip(0)
    grid = torch.arange(1, _GRID, dtype=torch.float64) / _GRID
    return torch.cat([tail, grid, 1 - upper]), torch.cat([1 - tail, 1 - grid, upper])


def _check_values(owner: str, p: Tensor, c: Tensor, values: Tensor, nonnegative: bool) -> None:
    needed = torch.minimum(p, c) >= 2.0**-_SHALLOW
    bad = torch.isnan(values) | (needed & ~torch.isfinite(values))
    if bool(bad.any()):
        k = int(torch.nonzero(bad)[0, 0])
        raise ValueError(f"{owner}: quantile must be finite inside (0, 1), at level {p[k]:.6g} it is {values[k]:.6g}")
    slack = 1e-11 * torch.maximum(values[1:].abs(), values[:-1].abs())
    falls = torch.nonzero(values[1:] < values[:-1] - slack)[:, 0]
    if len(falls):
        k = int(falls[0])
        raise ValueError(
            f"{owner}: quantile must not decrease, at the levels {p[k]:.6g} and {p[k + 1]:.6g} it is "
            f"{values[k]:.6g} and {values[k + 1]:.6g}"
        )
    if nonnegative and bool((values < 0).any()):
        raise ValueError(f"{owner}: quantile gives distances from 0 and must not be negative, got {values.min():.6g}")
