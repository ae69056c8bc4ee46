"""The potentials under the law suite. A new potential joins by adding one constructor here."""

from __future__ import annotations

from collections.abc import Callable

import torch

from proxflow.potentials import Ball, Discrete, Ellipsoid, Potential, Product, Quadratic


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _rotation(d: int) -> torch.Tensor:
    return torch.linalg.qr(_random(d, d, seed=5))[0]


def _grid() -> torch.Tensor:
    line = torch.linspace(-1, 1, 4, dtype=torch.float64)
    return torch.cartesian_prod(line, line, line)


def singular_gaussian() -> Potential:
    factor = _random(4, 2)
    return Quadratic(_random(4, seed=1), factor @ factor.T)


def full_gaussian() -> Potential:
    factor = _random(3, 3, seed=2)
    return Quadratic(_random(3, seed=3), factor @ factor.T)


def random_atoms() -> Potential:
    return Discrete(_random(60, 4), 0.3 * _random(60, seed=1), torch.rand(60, dtype=torch.float64) + 0.1)


def cospherical_grid() -> Potential:
    points = _grid()
    return Discrete(points, 0.5 * points.square().sum(1))


CASES: dict[str, Callable[[], Potential]] = {
    "ball": lambda: Ball(3),
    "ball of radius 2.5 in R^1": lambda: Ball(1, 2.5),
    "ellipsoid": lambda: Ellipsoid([0.3, 1.0, 2.5]),
    "needle": lambda: Ellipsoid([1e-3, 1.0]),
    "clifford torus": lambda: Product([Ball(2), Ball(2)]),
    "gaussian": full_gaussian,
    "singular gaussian": singular_gaussian,
    "dirac as gaussian": lambda: Quadratic(torch.ones(2).double(), torch.zeros(2, 2).double()),
    "atoms": random_atoms,
    "grid": cospherical_grid,
    "fewer atoms than dimensions": lambda: Discrete(_random(3, 6), _random(3, seed=1)),
    "collinear atoms": lambda: Discrete(torch.arange(5).double()[:, None] * _random(1, 3), _random(5)),
    "one atom": lambda: Discrete(torch.ones(1, 3).double(), torch.zeros(1).double()),
    "rotated ball": lambda: Ball(3, 2.0).rotate(_rotation(3), _random(3)),
    "scaled gaussian": lambda: full_gaussian().scale(3.0),
    "rotated scaled atoms": lambda: random_atoms().scale(0.1).rotate(_rotation(4), _random(4)),
    "product with atoms": lambda: Product([random_atoms(), Ball(2), full_gaussian()]),
}
