"""Integrals of non-decreasing functions of one variable, tabulated on panels by Gauss-Legendre rules.

Monotonicity bounds the integral over a panel from both sides: a panel across a jump is split until the jump no longer
counts, and no error is larger than that bracket.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Panels", "partial_integral", "tabulate"]

_NODES = 10  # Gauss-Legendre nodes of a panel
_MISSED_WIDTH = 0.02  # of a panel, between a node and an end or the middle
_MAX_DEPTH = 60  # halvings of a panel: float64 has no finer ones
_MAX_OPEN_PANELS = 1 << 16  # panels at work at once, which bounds memory


@dataclass(frozen=True)
class Panels:
    """Integrals of a function from an anchor to the edges of panels.

    Attributes:
        edges: (K,) ascending.
        integrals: (K,) integral from the anchor to each edge.
    """

    edges: Tensor
    integrals: Tensor


def tabulate(
    function: Callable[[Tensor], Tensor],
    edges: Tensor,
    anchor: float,
    unresolved: Callable[[Tensor, Tensor], Tensor],
) -> Panels:
    """Integrals of a non-decreasing function, on panels split until each is known to about 1e-13 of itself.

    Args:
        function: elementwise, non-decreasing.
        edges: (K,) ascending: first panels; kinks and jumps that are known belong here.
        anchor: one of the edges, where the integral is 0.
        unresolved: for ends of panels, the fraction of the function's rise that is rounding noise: no reason to split.
    """
    left, right = edges[:-1], edges[1:]
    starts, parts = [], []
    narrowest = 2.0**-46 * (edges[-1] - edges[0])  # relative to it, jumps nearer to 0 count no more
    for depth in range(_MAX_DEPTH):
        middle = 0.5 * (left + right)
        low, centre, high = function(left), function(middle), function(right)
        halves = _integral(function, left, middle, low, centre) + _integral(function, middle, right, centre, high)
        reach = torch.maximum(left.abs(), right.abs()).clamp(min=narrowest)
        checks = torch.stack([low, centre, high], dim=-1)
        accept = _is_accurate(function, left, right, halves, checks, reach, unresolved(left, right))
        if depth == _MAX_DEPTH - 1 or len(left) > _MAX_OPEN_PANELS + len(edges):
            accept = torch.ones_like(accept)
        starts.append(left[accept])
        parts.append(halves[accept])
        left, middle, right = left[~accept], middle[~accept], right[~accept]
        if not len(left):
            break
        left, right = torch.cat([left, middle]), torch.cat([middle, right])
    order = torch.argsort(torch.cat(starts))
    return _accumulate(torch.cat(starts)[order], torch.cat(parts)[order], edges[-1], anchor)


def partial_integral(function: Callable[[Tensor], Tensor], panels: Panels, s: Tensor) -> Tensor:
    """Integral from the anchor to ``s`` within the panels, elementwise."""
    last = len(panels.edges) - 2
    panel = (torch.searchsorted(panels.edges, s.contiguous(), right=True) - 1).clamp(0, last)
    start = panels.edges[panel]
    return panels.integrals[panel] + _integral(function, start, s, function(start), function(s))


def _is_accurate(
    function: Callable[[Tensor], Tensor],
    left: Tensor,
    right: Tensor,
    halves: Tensor,
    checks: Tensor,
    reach: Tensor,
    unresolved: Tensor,
) -> Tensor:
    width = right - left
    inner = function(_points(left, right))
    whole = 0.5 * width * (inner * _rule(left)[1]).sum(-1)
    # a jump between a node and a check point is seen by neither rule, but it is off the polynomial through the nodes
    missed = (inner @ _interpolation(left) - checks).abs().amax(-1)
    bracket = width * (checks[..., 2] - checks[..., 0])
    error = torch.minimum((whole - halves).abs() + _MISSED_WIDTH * width * missed, bracket)
    size = checks.abs().amax(-1)
    tolerance = 2.0**-44 * width * size + 2.0**-54 * reach * size + 4 * bracket * unresolved
    return error <= tolerance


def _integral(function: Callable[[Tensor], Tensor], left: Tensor, right: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Gauss-Legendre, within the bounds that the values at both ends set: exact where the function is constant."""
    width = right - left
    return torch.minimum(torch.maximum(_gauss(function, left, right), width * low), width * high)


def _gauss(function: Callable[[Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    return 0.5 * (right - left) * (function(_points(left, right)) * _rule(left)[1]).sum(-1)


def _points(left: Tensor, right: Tensor) -> Tensor:
    return left[..., None] + 0.5 * (right - left)[..., None] * (1 + _rule(left)[0])


def _rule(like: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights on [-1, 1]."""
    nodes, weights, _ = _constants()
    return torch.as_tensor(nodes, device=like.device), torch.as_tensor(weights, device=like.device)


def _interpolation(like: Tensor) -> Tensor:
    """Values at -1, 0 and 1 of the polynomial through values at the nodes, (nodes, 3)."""
    return torch.as_tensor(_constants()[2], device=like.device)


@functools.cache
def _constants() -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    at_nodes = np.polynomial.legendre.legvander(nodes, _NODES - 1)
    at_checks = np.polynomial.legendre.legvander(np.array([-1.0, 0.0, 1.0]), _NODES - 1)
    return nodes, weights, (at_checks @ np.linalg.inv(at_nodes)).T.copy()


def _accumulate(starts: Tensor, parts: Tensor, end: Tensor, anchor: float) -> Panels:
    """Sums outwards from the anchor, so that integrals near it keep their relative accuracy."""
    edges = torch.cat([starts, end[None]])
    at = int(torch.searchsorted(edges, anchor))
    after = _cumulative(parts[at:])
    before = -_cumulative(parts[:at].flip(0)).flip(0)
    return Panels(edges, torch.cat([before, parts.new_zeros(1), after]))


def _cumulative(parts: Tensor) -> Tensor:
    """Partial sums, in extended precision where the processor has it: hundreds of roundings would add up."""
    sums = np.cumsum(parts.cpu().numpy(), dtype=np.longdouble)
    return torch.from_numpy(sums.astype(np.float64)).to(parts)
