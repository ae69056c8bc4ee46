"""The potentials under the law suite. A new potential joins by adding one constructor here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from proxflow.potentials import (
    Ball,
    Discrete,
    Ellipsoid,
    Entropic,
    Potential,
    Product,
    Quadratic,
    Quantile,
    Radial,
    SymmetricDiscrete,
)
from proxflow.symmetry import Group


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


def atoms_and_images() -> Potential:
    turn = torch.tensor([[-0.5, -(0.75**0.5)], [0.75**0.5, -0.5]], dtype=torch.float64)
    turns = Group(torch.stack([torch.block_diag(torch.linalg.matrix_power(turn, k), torch.eye(2)) for k in range(3)]))
    return SymmetricDiscrete(_random(15, 4), 0.3 * _random(15, seed=1), turns)


def cospherical_grid() -> Potential:
    points = _grid()
    return Discrete(points, 0.5 * points.square().sum(1))


def entropic(epsilon: float, *, weights: torch.Tensor | None = None) -> Potential:
    """Softened random atoms; epsilon in units of the data's variance, which is 1."""
    return Entropic(_random(60, 4), 0.3 * _random(60, seed=1), epsilon, weights)


# levels repeat at gaps, values at atoms
STEPS_AND_GAPS = (
    torch.tensor([0.0, 0.2, 0.2, 0.5, 0.7, 0.7, 0.9, 1.0], dtype=torch.float64),
    torch.tensor([-2.0, -1.0, -0.5, -0.5, 0.3, 1.0, 1.0, 4.0], dtype=torch.float64),
)
SHELLS = (
    torch.tensor([0.0, 0.3, 0.3, 0.6, 0.8, 1.0], dtype=torch.float64),
    torch.tensor([0.0, 0.0, 1.0, 1.0, 2.0, 2.5], dtype=torch.float64),
)
HOLLOW = ([0.0, 0.5, 0.5, 1.0], [1.0, 1.5, 2.0, 2.0])


def logistic(tail: torch.Tensor) -> torch.Tensor:
    return torch.log(tail) - torch.log1p(-tail)


def uniform_ball(dim: int) -> Potential:
    return Radial(dim, lambda level: level ** (1 / dim))


def exponential_radius() -> Potential:
    return Radial(3, lambda level: -torch.log1p(-level), upper_quantile=lambda tail: -torch.log(tail))


STORED: dict[str, Callable[[], Potential]] = {
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
    "atoms and their images": atoms_and_images,
    "one atom": lambda: Discrete(torch.ones(1, 3).double(), torch.zeros(1).double()),
    "rotated ball": lambda: Ball(3, 2.0).rotate(_rotation(3), _random(3)),
    "scaled gaussian": lambda: full_gaussian().scale(3.0),
    "rotated scaled atoms": lambda: random_atoms().scale(0.1).rotate(_rotation(4), _random(4)),
    "product with atoms": lambda: Product([random_atoms(), Ball(2), full_gaussian()]),
    "entropic": lambda: entropic(0.3),
    "sharp entropic": lambda: entropic(1e-3),
    "weighted entropic": lambda: entropic(0.1, weights=torch.linspace(0.1, 2.0, 60, dtype=torch.float64)),
    "entropic with fewer atoms than dimensions": lambda: Entropic(_random(3, 6), _random(3, seed=1), 0.2),
    "entropic on a line": lambda: Entropic(torch.arange(5).double()[:, None] * _random(1, 3), _random(5), 0.5),
    "one entropic atom": lambda: Entropic(torch.ones(1, 3).double(), torch.zeros(1).double(), 0.1),
    "scaled entropic": lambda: entropic(0.3).scale(10.0),
    "rotated entropic": lambda: entropic(0.3).rotate(_rotation(4), _random(4)),
    "product with entropic": lambda: Product([entropic(0.3), Ball(2)]),
    "line with atoms and gaps": lambda: Quantile(STEPS_AND_GAPS),
    "two atoms on the line": lambda: Quantile(([0.0, 0.3, 0.3, 1.0], [-1.5, -1.5, 1.5, 1.5])),
    "uniform on an interval": lambda: Quantile(([0.0, 1.0], [0.0, 1.0])),
    "scaled line": lambda: Quantile(STEPS_AND_GAPS).scale(0.2),
    "moved line": lambda: Quantile(STEPS_AND_GAPS).rotate(-torch.ones(1, 1).double(), torch.ones(1).double()),
    "shells and an atom at 0": lambda: Radial(3, SHELLS),
    "hollow ball and its sphere": lambda: Radial(2, HOLLOW),
    "radial on the line": lambda: Radial(1, SHELLS),
    "dirac as radial": lambda: Radial(2, ([0.0, 1.0], [0.0, 0.0])),
    "rotated shells": lambda: Radial(3, SHELLS).rotate(_rotation(3), _random(3)),
    "product of line and shells": lambda: Product([Quantile(STEPS_AND_GAPS), Radial(3, SHELLS), Ball(2)]),
}


def cube_of_the_documentation() -> Potential:
    page = (Path(__file__).parents[2] / "docs" / "potentials.md").read_text()
    namespace: dict[str, Any] = {}
    exec(re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)[0], namespace)
    cube: Potential = namespace["Cube"](3)
    return cube


# those given by functions cannot be written to a file
CASES: dict[str, Callable[[], Potential]] = STORED | {
    "logistic": lambda: Quantile(logistic, upper_quantile=lambda tail: -logistic(tail)),
    "exponential": lambda: Quantile(lambda level: -torch.log1p(-level)),
    "coin and interval": lambda: Quantile(lambda level: torch.where(level < 0.4, -1.0, 2 * level)),
    "uniform ball": lambda: uniform_ball(5),
    "uniform ball in high dimension": lambda: uniform_ball(100),
    "exponential radius": exponential_radius,
    "a user's own, as the documentation shows it": cube_of_the_documentation,
    "scaled exponential radius": lambda: exponential_radius().scale(0.3),
    "product of functions": lambda: Product([uniform_ball(2), Quantile(lambda level: level.square())]),
}

# moved, scaled, weighted, joined or in another dimension, of potentials and by wrappers that stand above as well
VARIANTS = {
    "ball of radius 2.5 in R^1",
    "needle",
    "dirac as gaussian",
    "collinear atoms",
    "one entropic atom",
    "entropic with fewer atoms than dimensions",
    "two atoms on the line",
    "uniform on an interval",
    "uniform ball",
    "dirac as radial",
    "hollow ball and its sphere",
    "atoms and their images",
    "rotated ball",
    "scaled gaussian",
    "weighted entropic",
    "entropic on a line",
    "scaled entropic",
    "rotated entropic",
    "product with entropic",
    "scaled line",
    "moved line",
    "rotated shells",
    "product of line and shells",
    "radial on the line",
    "scaled exponential radius",
    "product of functions",
}


def marked(names: Iterable[str]) -> list[Any]:
    """Names of cases, to be parameters; those of variants are slow."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in names]
