"""Data sets by name: synthetic ones, and real ones that a package brings."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from proxflow.data.fashion_mnist import read_fashion_mnist
from proxflow.data.reading import Array, Raw, Request
from proxflow.errors import optional_package

__all__ = ["BUILT_IN"]

_SYNTHETIC_POINTS = 2000  # unless told otherwise
_Draw = Callable[[int, int], tuple[Array, Array | None]]


def _digits(request: Request) -> Raw:
    bunch = optional_package("sklearn.datasets", "data").load_digits()
    return Raw.of(bunch.images, bunch.target)


def _synthetic(draw: _Draw) -> Callable[[Request], Raw]:
    """A set that ``draw(n, seed)`` makes as large as it is wanted."""

    def read(request: Request) -> Raw:
        n = _SYNTHETIC_POINTS if request.n is None else int(request.n)
        return Raw.of(*draw(n, request.seed))

    return read


def _moons(n: int, seed: int) -> tuple[Array, Array]:
    points, labels = optional_package("sklearn.datasets", "data").make_moons(n, noise=0.05, random_state=seed)
    return points, labels


def _eight_gaussians(n: int, seed: int) -> tuple[Array, Array]:
    """Eight normals of standard deviation 1 centred on a ring of radius 5."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(8, size=n)
    angle = labels * np.pi / 4
    centres = 5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return centres + generator.standard_normal((n, 2)), labels


def _circle(n: int, seed: int) -> tuple[Array, None]:
    angle = np.random.default_rng(seed).uniform(0, 2 * np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1), None


def _swissroll(n: int, seed: int) -> tuple[Array, None]:
    return optional_package("sklearn.datasets", "data").make_swiss_roll(n, noise=0.0, random_state=seed)[0], None


def _scurve(n: int, seed: int) -> tuple[Array, None]:
    return optional_package("sklearn.datasets", "data").make_s_curve(n, noise=0.05, random_state=seed)[0], None


BUILT_IN: dict[str, Callable[[Request], Raw]] = {
    "8gaussians": _synthetic(_eight_gaussians),
    "circle": _synthetic(_circle),
    "digits": _digits,
    "fashion-mnist": read_fashion_mnist,
    "moons": _synthetic(_moons),
    "scurve": _synthetic(_scurve),
    "swissroll": _synthetic(_swissroll),
}
