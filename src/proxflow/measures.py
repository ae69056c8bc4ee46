"""Probability laws one can sample: the sources of flows.

A source is any object with ``dim``, ``sample`` and ``log_prob`` (the ``Source`` protocol); a user's own class
needs no base class. A source may also offer ``second_moment`` (a float, E|X|^2): cost estimates are then tighter.
"""

from __future__ import annotations

import math
import operator
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["Gaussian", "Source"]


@runtime_checkable
class Source(Protocol):
    """What a source of noise offers: a dimension, samples, and a log-density."""

    @property
    def dim(self) -> int:
        """Dimension d of the space."""

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` independent draws, shape (n, d)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at ``x`` of shape (B, d), shape (B,)."""


class Gaussian:
    """The standard normal law N(0, I) in dimension ``dim``.

    Raises:
        ValueError: ``dim`` is not a positive integer.
    """

    def __init__(self, dim: int) -> None:
        try:
            self._dim = operator.index(dim)
        except TypeError:
            raise ValueError(f"Gaussian: dim must be a positive integer, got {dim!r}") from None
        if self._dim < 1:
            raise ValueError(f"Gaussian: dim must be a positive integer, got {dim!r}")

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self._dim

    @property
    def second_moment(self) -> float:
        """E|X|^2 = d."""
        return float(self._dim)

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` independent draws, shape (n, d); drawn on the generator's device, delivered on ``device``."""
        if n < 0:
            raise ValueError(f"Gaussian.sample: n must not be negative, got {n}")
        drawn_on = generator.device if generator is not None else device
        draws = torch.randn((n, self._dim), generator=generator, dtype=dtype, device=drawn_on)
        return draws.to(device) if device is not None else draws

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at ``x`` of shape (B, d), shape (B,)."""
        if x.ndim != 2 or x.shape[1] != self._dim:
            raise ValueError(f"Gaussian.log_prob: expected x of shape (B, {self._dim}), got {tuple(x.shape)}")
        return -0.5 * (x.square().sum(1) + self._dim * math.log(2 * math.pi))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Gaussian) and other.dim == self.dim

    def __hash__(self) -> int:
        return hash((Gaussian, self._dim))

    def __repr__(self) -> str:
        return f"Gaussian({self._dim})"
