"""Monotone transports as opaque PyTorch operators: autograd, vmap and compile see only their results.

The operators know a transport by a number, since their arguments must be tensors and numbers. So any quantile function
works under vmap and compile, numpy's too, and the root finder may stop when its rows are done.
"""

from __future__ import annotations

import itertools
import weakref
from typing import Any, Protocol

import torch
from torch import Tensor

__all__ = ["Transport", "formula_level", "monotone_integral", "monotone_pair", "monotone_value", "register"]


class Transport(Protocol):
    """What the operators ask of a transport, on flat float64 rows without derivatives."""

    def evaluate(self, s: Tensor) -> Tensor:
        """T(s)."""

    def integrate(self, s: Tensor) -> Tensor:
        """Integral of T from 0 to s."""

    def solve(self, z: Tensor, alpha: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """s and y with alpha s + beta y = z and y in T(s)."""


class Levelled(Protocol):
    """What ``formula_level`` asks of a quantile function."""

    def find_level(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """The last level whose value is at most y, and its complement, on flat float64 rows."""


_transports: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()
_numbers = itertools.count()


def register(transport: Transport | Levelled) -> int:
    """A number for ``transport``, for as long as it lives."""
    number = next(_numbers)
    _transports[number] = transport
    return number


@torch.library.custom_op("proxflow::monotone_value", mutates_args=())
def monotone_value(s: Tensor, transport: int) -> Tensor:
    """T(s), elementwise."""
    value: Tensor = _transports[transport].evaluate(s.flatten())
    return value.reshape(s.shape).clone()


@torch.library.custom_op("proxflow::monotone_integral", mutates_args=())
def monotone_integral(s: Tensor, transport: int) -> Tensor:
    """Integral of T from 0 to s, elementwise."""
    value: Tensor = _transports[transport].integrate(s.flatten())
    return value.reshape(s.shape).clone()


@torch.library.custom_op("proxflow::monotone_pair", mutates_args=())
def monotone_pair(z: Tensor, alpha: Tensor, beta: Tensor, transport: int) -> tuple[Tensor, Tensor]:
    """s and y with alpha s + beta y = z and y in T(s), elementwise."""
    s, y = _transports[transport].solve(z.flatten(), alpha.flatten(), beta.flatten())
    return s.reshape(z.shape).clone(), y.reshape(z.shape).clone()


@torch.library.custom_op("proxflow::formula_level", mutates_args=())
def formula_level(y: Tensor, formula: int) -> tuple[Tensor, Tensor]:
    """The last level whose value is at most y, and its complement, elementwise."""
    p, c = _transports[formula].find_level(y.flatten())
    return p.reshape(y.shape).clone(), c.reshape(y.shape).clone()


@formula_level.register_fake
def _(y: Tensor, formula: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(y)


@formula_level.register_vmap
def _(
    info: object, in_dims: tuple[int, None], y: Tensor, formula: int
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    return formula_level(y, formula), (in_dims[0], in_dims[0])


@monotone_value.register_fake
@monotone_integral.register_fake
def _(s: Tensor, transport: int) -> Tensor:
    return torch.empty_like(s)


@monotone_pair.register_fake
def _(z: Tensor, alpha: Tensor, beta: Tensor, transport: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(z), torch.empty_like(z)


@monotone_value.register_vmap
def _(info: object, in_dims: tuple[int, None], s: Tensor, transport: int) -> tuple[Tensor, int]:
    return monotone_value(s, transport), in_dims[0]


@monotone_integral.register_vmap
def _(info: object, in_dims: tuple[int, None], s: Tensor, transport: int) -> tuple[Tensor, int]:
    return monotone_integral(s, transport), in_dims[0]


@monotone_pair.register_vmap
def _(
    info: object, in_dims: tuple[int | None, ...], z: Tensor, alpha: Tensor, beta: Tensor, transport: int
) -> tuple[tuple[Tensor, Tensor], tuple[int, int]]:
    aligned = [
        part if dim is None else part.movedim(dim, 0) for part, dim in zip((z, alpha, beta), in_dims[:3], strict=True)
    ]
    return monotone_pair(*torch.broadcast_tensors(*aligned), transport), (0, 0)
