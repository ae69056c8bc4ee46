"""Probability laws one can sample: the sources of flows.

A source is any object with ``dim``, ``sample`` and ``log_prob`` (the ``Source`` protocol); a user's own class
needs no base class. A source may also offer ``second_moment`` (a float, E|X|^2): cost estimates are then tighter.
"""

from __future__ import annotations

import math
from typing import Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from proxflow.checks import Numbers, flat_points, point_weights, real_number, whole_number
from proxflow.errors import NoDensityError, counted
from proxflow.seeding import check_generator
from proxflow.storage import storable

__all__ = ["Empirical", "Gaussian", "Source", "Uniform", "draw_rows"]

_DENSITY_NUMBERS = 1 << 22  # entries of one block of distances


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


@storable
class Gaussian:
    """The standard normal law N(0, I) in dimension ``dim``.

    Raises:
        ValueError: ``dim`` is not a positive integer.
    """

    def __init__(self, dim: int) -> None:
        number = whole_number(dim)
        if number is None or number < 1:
            raise ValueError(f"Gaussian: dim must be a positive integer, got {dim!r}")
        self._dim = number

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self._dim

    @property
    def second_moment(self) -> float:
        """E|X|^2 = d."""
        if not is_normal(self):
            raise AttributeError(
                f"{type(self).__name__} is another law than Gaussian, and has no second_moment of its own"
            )
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
        _check_draws(self, n, generator, dtype)
        drawn_on = generator.device if generator is not None else device
        draws = torch.randn((n, self._dim), generator=generator, dtype=dtype, device=drawn_on)
        return draws.to(device) if device is not None else draws

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at ``x`` of shape (B, d), shape (B,)."""
        _check_rows(self, x)
        return -0.5 * (x.square().sum(1) + self._dim * math.log(2 * math.pi))

    def __eq__(self, other: object) -> bool:
        return self is other or (is_normal(self) and is_normal(other) and self.dim == other.dim)

    def __hash__(self) -> int:
        return hash((Gaussian, self._dim))

    def __repr__(self) -> str:
        return f"Gaussian({self._dim})"


def is_normal(source: object) -> TypeGuard[Gaussian]:
    """Whether a source is N(0, I): a ``Gaussian``, or of a subclass that changes neither draws nor density."""
    if not isinstance(source, Gaussian):
        return False
    kind = type(source)
    return kind.sample is Gaussian.sample and kind.log_prob is Gaussian.log_prob


@storable
class Uniform:
    """The uniform law on the box [low, high]^dim.

    Raises:
        ValueError: ``dim`` is not a positive integer, or low and high are not finite with low < high.
    """

    def __init__(self, dim: int, low: float = 0.0, high: float = 1.0) -> None:
        self._dim = Gaussian(dim).dim
        if not -math.inf < real_number(low) < real_number(high) < math.inf:
            raise ValueError(f"Uniform: low and high must be finite with low < high, got {low!r} and {high!r}")
        self.low, self.high = float(low), float(high)

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self._dim

    @property
    def second_moment(self) -> float:
        """E|X|^2 = d (low^2 + low high + high^2) / 3."""
        return self._dim * (self.low**2 + self.low * self.high + self.high**2) / 3

    def constructor_arguments(self) -> dict[str, object]:
        """Dimension and ends."""
        return {"dim": self._dim, "low": self.low, "high": self.high}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` independent draws, shape (n, d); drawn on the generator's device, delivered on ``device``."""
        _check_draws(self, n, generator, dtype)
        drawn_on = generator.device if generator is not None else device
        draws = self.low + (self.high - self.low) * torch.rand(
            (n, self._dim), generator=generator, dtype=dtype, device=drawn_on
        )
        return draws.to(device) if device is not None else draws

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at ``x`` of shape (B, d), shape (B,); -inf off the box."""
        _check_rows(self, x)
        inside = ((x >= self.low) & (x <= self.high)).all(1)
        return torch.where(inside, -self._dim * math.log(self.high - self.low), -torch.inf).to(x)

    def cdf(self, x: Tensor) -> Tensor:
        """P(X <= x) on the line (dimension 1), elementwise."""
        return ((x - self.low) / (self.high - self.low)).clamp(0, 1)

    def __repr__(self) -> str:
        return f"Uniform({self._dim}, {self.low:g}, {self.high:g})"


@storable
class Empirical:
    """A finite data set as a source (unpaired data to data), its rows blurred by normal noise if wanted.

    With ``bandwidth`` 0 a source of n rows has masses in steps of 1 / n only: a map from it can meet the weights of a
    target only to that accuracy, and n should be far above the number of atoms. A bandwidth above 0 makes it a mixture
    of normal laws, which has a density. Draws come back in the dtype asked for.

    Args:
        points: (n, *event) rows, finite; float32 or float64. Not copied: do not change them afterwards.
        weights: (n,), not negative; equal if None.
        bandwidth: standard deviation of the blur per coordinate.

    Raises:
        ValueError: rows or weights that are not finite, weights of the wrong number or negative, or a bad bandwidth.
    """

    def __init__(self, points: Numbers, weights: Numbers | None = None, bandwidth: float = 0.0) -> None:
        flat = flat_points("Empirical", points)
        if not 0 <= real_number(bandwidth) < math.inf:
            raise ValueError(f"Empirical: the bandwidth must be a number of at least 0, got {bandwidth!r}")
        self.points = flat
        self.weights = point_weights("Empirical", weights, flat)
        self.bandwidth = float(bandwidth)

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self.points.shape[1]

    @property
    def second_moment(self) -> float:
        """E|X|^2."""
        rows = float(self.weights @ self.points.double().square().sum(1))
        return rows + self.dim * self.bandwidth**2

    def constructor_arguments(self) -> dict[str, object]:
        """Points, weights and bandwidth."""
        return {"points": self.points, "weights": self.weights, "bandwidth": self.bandwidth}

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """``n`` independent draws, shape (n, d); drawn on the generator's device, delivered on ``device``."""
        _check_draws(self, n, generator, dtype)
        drawn_on = generator.device if generator is not None else self.points.device
        draws = self.points[draw_rows(self.weights, n, generator)].to(self.points.dtype if dtype is None else dtype)
        if self.bandwidth > 0:
            blur = torch.randn(draws.shape, generator=generator, dtype=draws.dtype, device=drawn_on)
            draws = draws + self.bandwidth * blur.to(draws.device)
        return draws.to(device) if device is not None else draws

    def log_prob(self, x: Tensor) -> Tensor:
        """Log-density at ``x`` of shape (B, d), shape (B,).

        Raises:
            ValueError: the bandwidth is 0, where there is no density.
        """
        _check_rows(self, x)
        if self.bandwidth == 0:
            raise NoDensityError("Empirical.log_prob: finitely many points have no density; give a bandwidth above 0")
        points, offset = self.points.to(x), self.dim * math.log(self.bandwidth * math.sqrt(2 * math.pi))
        levels = torch.log(self.weights).to(x) - offset
        parts = [
            torch.logsumexp(levels - 0.5 * (_distances(rows, points) / self.bandwidth).square(), dim=1)
            for rows in x.split(max(1, _DENSITY_NUMBERS // len(points)))
        ]
        return torch.cat(parts)

    def __repr__(self) -> str:
        return f"Empirical({counted(len(self.points), 'point')} in dimension {self.dim}, bandwidth={self.bandwidth:g})"


def check_source(owner: str, source: Source, dim: int) -> None:
    """Refuse what is no source, or one of another dimension than the points.

    Raises:
        ValueError: as said.
    """
    check_is_source(owner, source)
    if source.dim != dim:
        raise ValueError(f"{owner}: the source has dimension {source.dim}, the points {dim}")


def check_is_source(owner: str, source: object) -> None:
    """Refuse what is no source.

    Raises:
        ValueError: as said.
    """
    if isinstance(source, type) or not (hasattr(source, "dim") and callable(getattr(source, "sample", None))):
        name = source.__name__ if isinstance(source, type) else type(source).__name__
        raise ValueError(
            f"{owner}: source must be an object with dim, sample and log_prob, got {name}; measures.Gaussian(dim) is "
            "one, and measures.Empirical(points) makes one of data"
        )


def draw(source: Source, n: int, generator: torch.Generator | None, dtype: torch.dtype, device: torch.device) -> Tensor:
    """n draws of a source, maybe somebody's own, (n, d) in the dtype and on the device asked for, detached.

    Raises:
        ValueError: it gave something else, or draws that are not finite.
    """
    noise = source.sample(n, generator=generator, dtype=dtype, device=device)
    if is_normal(source):
        return noise
    asked = f"{type(source).__name__}.sample: asked for ({n}, {source.dim}) of {dtype} on {device.type}"
    if not isinstance(noise, Tensor):
        raise ValueError(f"{asked}, it gave {type(noise).__name__}")
    if (noise.shape, noise.dtype, noise.device.type) != ((n, source.dim), dtype, device.type):
        raise ValueError(f"{asked}, it gave {tuple(noise.shape)} of {noise.dtype} on {noise.device.type}")
    if not bool(torch.isfinite(noise).all()):
        raise ValueError(f"{asked}, it gave NaN or inf")
    return noise.detach()


def draw_rows(weights: Tensor, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n independent row numbers, (n,) int64, with the probabilities ``weights`` (N,), float64 of sum 1.

    Rows of weight zero are never drawn. A weight below 2^-53 of the sum is beneath the resolution of the random
    numbers: such a row may never come.
    """
    drawn_on = weights.device if generator is None else generator.device
    uniform = torch.rand(n, generator=generator, dtype=torch.float64, device=drawn_on).to(weights.device)
    until = weights.cumsum(0)
    last = torch.searchsorted(until, until[-1:])  # the last row that adds anything
    return torch.minimum(torch.searchsorted(until, uniform * until[-1], right=True), last)


def _distances(rows: Tensor, points: Tensor) -> Tensor:
    """Without the expansion |a|^2 - 2 <a, b> + |b|^2, which cancels far from the origin."""
    return torch.cdist(rows, points, compute_mode="donot_use_mm_for_euclid_dist")


def _check_draws(source: Source, n: int, generator: object, dtype: torch.dtype | None) -> None:
    if whole_number(n) is None or n < 0:
        raise ValueError(f"{type(source).__name__}.sample: n must not be negative, and an integer, got {n!r}")
    check_generator(generator)
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"{type(source).__name__}.sample: dtype must be one of floating point, got {dtype}")


def _check_rows(source: Source, x: Tensor) -> None:
    if x.ndim != 2 or x.shape[1] != source.dim:
        raise ValueError(
            f"{type(source).__name__}.log_prob: expected x of shape (B, {source.dim}), got {tuple(x.shape)}"
        )
