"""Assignment of two batches of equal size: the permutation of least squared distance, exact or entropic."""

from __future__ import annotations

import warnings

import lap
import torch
from torch import Tensor

from proxflow.errors import ConvergenceWarning
from proxflow.optional import optional_package

__all__ = ["least_cost_permutation", "sinkhorn_permutation", "squared_distances"]

_MANY_POINTS = 200  # from here on starting prices pay for themselves
_TEMPERATURES = (1 / 4, 1 / 16, 1 / 64)  # of the starting prices, times the deviation of the cost
_SWEEPS = 8  # of Sinkhorn's scaling at each temperature
_LARGEST_EXPONENT = 40.0  # scalings stay within its exponential, so that none leaves the range of float32
_MARGINAL_ERROR = 1e-2  # of a plan that is still taken for converged, in the 1-norm


def least_cost_permutation(x0: Tensor, x1: Tensor) -> Tensor:
    """The permutation p, (n,) int64, that minimises sum_i |x0_i - x1_p(i)|^2, exactly up to the rounding of float64.

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
    cost = _centred(-x0.double()) @ _centred(x1.double()).mT  # |x0_i - x1_j|^2 / 2 but for prices of rows and columns
    if len(x0) >= _MANY_POINTS:
        row, column = _soft_prices(cost.float())
        cost.sub_(row[:, None]).sub_(column)
    cost -= cost.amin(1, keepdim=True)
    cost -= cost.amin(0)
    _, column_of_row = lap.lapjvr(cost.cpu().numpy(), return_cost=False)
    return torch.from_numpy(column_of_row).to(x0.device)


def sinkhorn_permutation(x0: Tensor, x1: Tensor, epsilon: float, generator: torch.Generator | None) -> Tensor:
    """A random permutation drawn from the entropic plan, (n,) int64, without leaving the device of the data.

    The plan comes from POT's log-domain Sinkhorn with regularisation ``epsilon`` times the mean squared distance of the
    batches about their means, which moving either batch does not change. Gumbel noise on its logarithm makes each row's
    best column a draw from the row; pairs that are best for both sides are taken, and the rest choose again among
    themselves, until none is left: no point is lost or used twice.

    Raises:
        MissingExtraError: POT is not installed.
    """
    ot = optional_package("ot", "metrics", "POT")
    if len(x0) == 0:
        return torch.empty(0, dtype=torch.int64, device=x0.device)
    dtype = torch.promote_types(x0.dtype, torch.float32)
    cost = _centred_cost(x0.to(dtype), x1.to(dtype))
    cost = cost / cost.mean().clamp(min=torch.finfo(cost.dtype).tiny)
    share = torch.full((len(x0),), 1 / len(x0), dtype=dtype, device=x0.device)
    plan, dual = ot.sinkhorn(share, share, cost, epsilon, "sinkhorn_log", stopThr=1e-4, log=True, warn=False)
    error_of_plan = float((plan.sum(0) - share).abs().sum())  # its rows, scaled last, are right in any case
    if not error_of_plan <= _MARGINAL_ERROR:
        warnings.warn(
            f"Sinkhorn stopped with an error of {error_of_plan:.2g} in the marginals of its plan; the pairs are a "
            "permutation all the same, but dearer: raise epsilon, or use the exact solver",
            ConvergenceWarning,
            stacklevel=5,
        )
    drawn_on = x0.device if generator is None else generator.device
    exponential = torch.empty(plan.shape, dtype=plan.dtype, device=drawn_on).exponential_(generator=generator)
    log_plan = dual["log_u"][:, None] + dual["log_v"] - cost / epsilon  # the logarithm of a plan that underflows
    return _mutual_choice(log_plan - exponential.to(plan.device).log())


def squared_distances(x0: Tensor, x1: Tensor) -> Tensor:
    """|x0_i - x1_j|^2, (n, m), about the common mean, where the expansion loses fewest digits."""
    centre = 0.5 * (x0.mean(0) + x1.mean(0))
    a, b = x0 - centre, x1 - centre
    return torch.addmm(a.square().sum(1)[:, None] + b.square().sum(1), a, b.mT, alpha=-2)


def _centred_cost(x0: Tensor, x1: Tensor) -> Tensor:
    """Squared distances, (n, n), of the batches moved to one mean and scaled.

    Moving a batch adds the same to the cost of every permutation; left in, it would cost digits.
    """
    scale = torch.maximum(x0.abs().max(), x1.abs().max()).clamp(min=torch.finfo(x0.dtype).tiny)
    a, b = x0 / scale, x1 / scale
    a, b = a - a.mean(0), b - b.mean(0)
    spread = torch.maximum(a.abs().max(), b.abs().max()).clamp(min=torch.finfo(x0.dtype).tiny)
    return squared_distances(a / spread, b / spread)


def _centred(x: Tensor) -> Tensor:
    """The batch moved to mean zero and scaled to entries of at most 1; which permutation is best does not change."""
    for _ in range(2):  # scaled first, so that no mean leaves the range of floating point
        x = x / x.abs().max().clamp(min=torch.finfo(x.dtype).tiny)
        x = x - x.mean(0)
    return x


def _soft_prices(cost: Tensor) -> tuple[Tensor, Tensor]:
    """Prices of rows and columns, (n,) each, whose sums are about the cost on optimal pairs: annealed Sinkhorn."""
    deviation = (cost.norm() / len(cost)).clamp(min=1e-30)
    row, column = cost.amin(1), torch.zeros_like(cost[0])
    kernel = torch.empty_like(cost)  # reused: fresh memory costs as much as the arithmetic
    for share in _TEMPERATURES:
        temperature = share * deviation
        torch.sub(cost, row[:, None], out=kernel)
        kernel.sub_(column).div_(-temperature).clamp_(min=-_LARGEST_EXPONENT).exp_()
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
