"""Assignment of two batches of equal size: the permutation of least squared distance, exact or entropic.

Problem: for batches x0, x1 of n points, the permutation p that minimises sum_i |x0_i - x1_p(i)|^2; or, smoothed, the
doubly stochastic plan that minimises the cost less epsilon times its entropy, and a random permutation of that mean.

Exact: shortest augmenting paths (Jonker and Volgenant 1987, by lapx) in float64; on the line by sorting. Entropic:
Sinkhorn's scaling in the logarithm (Cuturi 2013, by POT), rounded to a permutation by ``birkhoff``. Both begin with
prices of rows and columns from a few sweeps of Sinkhorn at falling temperatures.

Invariant: adding prices to rows and columns changes no permutation's rank, so that the exact answer does not depend on
the start; near-optimal prices leave few paths to augment. Exact ends when all rows are assigned; Sinkhorn when its
columns are right to 1%, else a warning says that the pairs are not drawn from the plan.

Cost: exact O(n^3) at worst, in practice near n^2.5 from these prices; Sinkhorn O(n^2) a sweep; both hold n x n numbers.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

import torch
from torch import Tensor

from proxflow.errors import ConvergenceWarning, optional_package
from proxflow.kernels.birkhoff import doubly_stochastic, permutation_of_mean

__all__ = ["least_cost_permutation", "sinkhorn_permutation"]

_MANY_POINTS = 200  # from here on starting prices pay for themselves
_TEMPERATURES = (1 / 4, 1 / 16, 1 / 64)  # of the starting prices, times the deviation of the cost
_LEAST_TEMPERATURE = 1e-30  # float32 divides by it
_SWEEPS = 8  # of Sinkhorn's scaling at each temperature
_LARGEST_EXPONENT = 40.0  # scalings stay within its exponential, so that none leaves the range of float32
_STOPPING_ERROR = 1e-4  # of Sinkhorn's columns, in the 2-norm
_STOPPING_SHARE = 1e-2  # and in any one column, as a share of its mass
_MARGINAL_ERROR = 1e-2  # of a plan that is still taken for converged, in the 1-norm
_COLUMN_ERROR = 0.5  # and in any one column, as a share of its mass


def least_cost_permutation(x0: Tensor, x1: Tensor) -> Tensor:
    """The permutation p, (n,) int64, that minimises sum_i |x0_i - x1_p(i)|^2, up to the rounding of float64.

    Rounding is that of the batches' whole extent: distances of 1e-8 of it are not seen.

    By sorting on the line, else by shortest augmenting paths (Jonker and Volgenant 1987), on the CPU. For many points
    these start from the prices of a few sweeps of Sinkhorn: any prices leave the answer as it is, near-optimal ones
    leave little to augment.

    Args:
        x0: (n, d), finite.
        x1: (n, d), finite, of the same dtype and device.
    """
    if x0.shape[1] == 1:
        permutation = torch.empty(len(x0), dtype=torch.int64, device=x0.device)
        permutation[x0[:, 0].argsort()] = x1[:, 0].argsort()
        return permutation
    if len(x0) == 0:
        return torch.empty(0, dtype=torch.int64, device=x0.device)
    a, b = _centred(x0.double(), x1.double())
    cost = -a @ b.mT  # |x0_i - x1_j|^2 / 2 but for a scale, and for prices of rows and columns
    if len(x0) >= _MANY_POINTS:
        deviation = _deviation(cost)
        nearest = -0.5 * a.square().sum(1).float()
        row, column = _soft_prices(cost.float(), nearest, [share * deviation for share in _TEMPERATURES])
        cost.sub_(row[:, None]).sub_(column)
    cost -= cost.amin(1, keepdim=True)
    cost -= cost.amin(0)
    import lap  # here, so that all else runs on machines without it

    _, column_of_row = lap.lapjvr(cost.cpu().numpy(), return_cost=False)
    return torch.from_numpy(column_of_row).to(x0.device)


def sinkhorn_permutation(x0: Tensor, x1: Tensor, epsilon: float, generator: torch.Generator | None) -> Tensor:
    """A random permutation whose mean is the entropic plan, (n,) int64, without leaving the device of the data.

    Row i goes to column j with the probability n plan_ij, so that the mean cost is that of the plan; rows are not
    drawn independently, since each column is used once.

    The plan comes from POT's log-domain Sinkhorn with regularisation ``epsilon`` times the mean squared distance of the
    batches about their means, which moving either batch does not change; an epsilon below the rounding of the dtype is
    raised to it. Where it ends, its columns are right to 1%; making them exact moves no more mass than twice what they
    miss. A plan that has not converged warns, and is no law to draw from: there, Gumbel noise on the plan's logarithm
    makes each row's best column a draw from the row; pairs that are best for both sides are taken, and the rest choose
    again among themselves, until none is left.

    Raises:
        MissingExtraError: POT is not installed.
    """
    ot = optional_package("ot", "metrics", "POT")
    if len(x0) == 0:
        return torch.empty(0, dtype=torch.int64, device=x0.device)
    dtype = torch.promote_types(x0.dtype, torch.float32)
    epsilon = max(epsilon, torch.finfo(dtype).eps)
    a, b = _centred(x0.to(dtype), x1.to(dtype))
    mean = ((a.square().sum() + b.square().sum()) / len(a)).clamp(min=torch.finfo(dtype).tiny)
    cost = (a * (-2 / mean)) @ b.mT
    nearest = -a.square().sum(1) / mean
    row, column = _soft_prices(cost, nearest, _down_to(epsilon, _TEMPERATURES[0] * _deviation(cost)))
    share = torch.full((len(x0),), 1 / len(x0), dtype=dtype, device=x0.device)
    start = (row / epsilon, column / epsilon)
    tolerance = min(_STOPPING_ERROR, _STOPPING_SHARE / len(x0))
    plan, dual = ot.sinkhorn(
        share, share, cost, epsilon, "sinkhorn_log", stopThr=tolerance, log=True, warn=False, warmstart=start
    )
    missing = (plan.sum(0) - share).abs()  # the rows, scaled last, are right in any case
    error, worst = float(missing.sum()), float(missing.max()) * len(x0)
    if error <= _MARGINAL_ERROR and worst <= _COLUMN_ERROR:
        return permutation_of_mean(doubly_stochastic(len(x0) * plan), generator)
    warnings.warn(
        f"Sinkhorn stopped with an error of {error:.2g} in the marginals of its plan, {worst:.2g} in one of its "
        "columns; the pairs are a permutation all the same, but not drawn from the plan, and of higher cost: raise "
        "epsilon, or use the exact solver",
        ConvergenceWarning,
        stacklevel=5,
    )
    drawn_on = x0.device if generator is None else generator.device
    exponential = torch.empty(plan.shape, dtype=plan.dtype, device=drawn_on).exponential_(generator=generator)
    log_plan = dual["log_u"][:, None] + dual["log_v"] - cost / epsilon  # the logarithm of a plan that underflows
    return _mutual_choice(log_plan - exponential.to(plan.device).log())


def _centred(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor]:
    """The batches, each moved to mean zero, scaled to entries of at most 1.

    Moving a batch adds the same to the cost of every permutation; left in, it would cost digits.
    """
    for _ in range(2):  # scaled first, so that no mean leaves the range of floating point
        scale = torch.maximum(x0.abs().max(), x1.abs().max()).clamp(min=torch.finfo(x0.dtype).tiny)
        x0, x1 = x0 / scale, x1 / scale
        x0, x1 = x0 - x0.mean(0), x1 - x1.mean(0)
    return x0, x1


def _deviation(cost: Tensor) -> float:
    """Standard deviation of a cost whose rows and columns have mean zero; not 0."""
    return max(float(cost.norm()) / len(cost), _LEAST_TEMPERATURE)


def _down_to(lowest: float, highest: float) -> list[float]:
    """Temperatures that halve and end at the lowest."""
    halvings = max(0, math.floor(math.log2(highest) - math.log2(lowest)))
    return [lowest * 2**k for k in range(halvings, -1, -1)]


def _soft_prices(cost: Tensor, row: Tensor, temperatures: Iterable[float]) -> tuple[Tensor, Tensor]:
    """Prices of rows and columns, (n,) each, whose sums are about the cost on optimal pairs, by annealed Sinkhorn.

    Args:
        cost: (n, n), best float32: no precision is needed here.
        row: (n,), prices to begin with. Those that make cost - row the squared distances, but for prices of columns,
            begin with nearest neighbours, so that an outlier is no one's favourite.
        temperatures: falling.
    """
    kernel = torch.sub(cost, row[:, None])  # reused: fresh memory costs as much as the arithmetic
    column = kernel.amin(0)
    row = row + kernel.sub_(column).amin(1)
    for temperature in temperatures:
        torch.sub(cost, row[:, None], out=kernel)
        kernel.sub_(column).div_(-temperature).clamp_(-_LARGEST_EXPONENT, 0.0).exp_()
        v = torch.ones_like(column)
        for _ in range(_SWEEPS):
            u = 1 / (kernel @ v)
            v = 1 / (u @ kernel)
        row, column = row + temperature * u.log(), column + temperature * v.log()
    return row, column


def _mutual_choice(score: Tensor) -> Tensor:
    """Match rows and columns that prefer each other, round after round; (n,) the column of each row."""
    count = len(score)
    rows = columns = torch.arange(count, device=score.device)
    permutation = torch.empty_like(rows)
    while len(rows):
        favourite = score.argmax(1)
        matched = score.argmax(0)[favourite] == torch.arange(len(rows), device=score.device)
        permutation[rows[matched]] = columns[favourite[matched]]
        free = torch.ones_like(matched)
        free[favourite[matched]] = False
        score = score[~matched][:, free]
        rows, columns = rows[~matched], columns[free]
    return permutation
