"""Control variates: functions of the noise whose mean is known, and what they explain of a cost.

They keep means unbiased whatever the potential: that costs stay right where a potential is wrong is what makes the
identity of excess and gap a test.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.measures import Source, is_normal

__all__ = ["MeanWithError", "Regression", "known_functions"]

_MOST_DEGREE, _MOST_FUNCTIONS = 8, 64  # of normal noise


@dataclass(frozen=True)
class MeanWithError:
    """A cost in squared units of the data, and its standard error."""

    value: float
    stderr: float


class Regression:
    """Regression, block by block, of two quantities on functions of the noise whose mean is zero."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._count = 0
        self._gram: Tensor | None = None
        self._products: Tensor | None = None
        self._square = 0.0

    def add(self, x: Tensor, control: Tensor, cost: Tensor) -> None:
        """More draws x (n, d), float64, with the quantity to control (n,) and the one to average (n,)."""
        columns = torch.cat([torch.ones_like(x[:, :1]), known_functions(self._source, x)], dim=1)
        gram, products = columns.mT @ columns, columns.mT @ torch.stack([control, cost], dim=1)
        self._gram = gram if self._gram is None else self._gram + gram
        self._products = products if self._products is None else self._products + products
        self._square += float(cost.square().sum())
        self._count += len(x)

    @property
    def slopes(self) -> Tensor:
        """Of the quantity to control, one for each function, (k,)."""
        return self._coefficients[1:, 0]

    @property
    def cost(self) -> MeanWithError:
        """Mean of the other, what the functions explain taken out."""
        coefficients, products = self._coefficients[:, 1], self._products
        if products is None:
            return MeanWithError(math.nan, math.nan)
        rest = max(self._square - float(coefficients @ products[:, 1]), 0.0)
        return MeanWithError(float(coefficients[0]), math.sqrt(rest) / self._count)

    @property
    def _coefficients(self) -> Tensor:
        if self._gram is None or self._products is None:
            raise ValueError("no draws were added")
        solution: Tensor = torch.linalg.lstsq(self._gram, self._products).solution
        return solution


def known_functions(source: Source, x: Tensor) -> Tensor:
    """Functions of the noise with known mean zero, (n, k).

    Of normal noise all quadratic ones, and polynomials in the levels of the coordinates, which stay bounded where high
    powers would let a few far draws decide; in many dimensions the coordinates and the square. Of a source that offers
    ``second_moment`` its square, of others nothing.
    """
    if is_normal(source):
        exponents = _exponents(source.dim)
        if exponents is None:
            return torch.cat([x, x.square().sum(1, keepdim=True) - source.second_moment], dim=1)
        first, second = torch.triu_indices(source.dim, source.dim, device=x.device)
        products = x[:, first] * x[:, second] - (first == second).to(x)
        columns = torch.arange(source.dim, device=x.device)
        levels = _legendre(torch.erf(x / math.sqrt(2)), int(exponents.max()))
        return torch.cat([x, products, levels[:, columns, exponents.to(x.device)].prod(2)], dim=1)
    moment = getattr(source, "second_moment", None)
    if moment is None:
        return x[:, :0]
    return x.square().sum(1, keepdim=True) - float(moment)


@functools.cache
def _exponents(dim: int) -> Tensor | None:
    """Degrees in each coordinate of all products up to a total degree, (k, dim), without the constant; None if many."""
    degree = max(k for k in range(_MOST_DEGREE + 1) if math.comb(dim + k, k) <= _MOST_FUNCTIONS or k == 0)
    if degree < 2:
        return None
    chosen = [
        torch.bincount(torch.tensor(picks), minlength=dim)
        for total in range(1, degree + 1)
        for picks in itertools.combinations_with_replacement(range(dim), total)
    ]
    return torch.stack(chosen)


def _legendre(u: Tensor, degree: int) -> Tensor:
    """Legendre polynomials of numbers in [-1, 1], of mean zero under the uniform law; (n, d, degree + 1)."""
    values = [torch.ones_like(u), u]
    for k in range(1, degree):
        values.append(((2 * k + 1) * u * values[k] - k * values[k - 1]) / (k + 1))
    return torch.stack(values, dim=2)
