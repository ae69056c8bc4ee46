"""The field of minibatch pairs on the line, in closed form."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import binom, hypergeom, norm
from torch import Tensor

__all__ = ["minibatch_field"]


def minibatch_field(rows: Tensor, size: int) -> Callable[[Tensor, Tensor], Tensor]:
    """v_t(x) = (E[X1 | X_t = x] - x) / (1 - t) of pairs of batches of ``size`` rows (N, 1) without replacement.

    On the line batches are paired in order. Row k of N ascending has R rows of its batch below it, hypergeometric, and
    noise u has B of its batch below it, binomial with Phi(u); they are a pair where R = B. Given x_t = x the row k has
    the noise u_k = (x - t y_k) / (1 - t).
    """
    ordered = rows[:, 0].sort().values.double()
    count = len(ordered)
    ranks = np.arange(size)
    of_row = np.asarray(hypergeom.pmf(ranks[:, None], count - 1, np.arange(count), size - 1))  # (size, N)

    def field(t: Tensor, x: Tensor) -> Tensor:
        noise = ((x.double() - float(t) * ordered) / (1 - float(t))).numpy()  # (B, N)
        below = binom.pmf(ranks[:, None, None], size - 1, norm.cdf(noise).clip(1e-12, 1 - 1e-12))
        together = np.log((of_row[:, None] * below).sum(0).clip(1e-300))
        weights = torch.from_numpy(together + norm.logpdf(noise)).softmax(1)
        return ((weights @ ordered)[:, None] - x) / (1 - float(t))

    return field
