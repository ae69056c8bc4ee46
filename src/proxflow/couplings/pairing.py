"""Pairing two batches: minibatch optimal transport as one line in an existing loop."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor, real_number
from proxflow.couplings.pairs import Pairs, checked_labels
from proxflow.errors import counted
from proxflow.kernels.assignment import least_cost_permutation, sinkhorn_permutation
from proxflow.seeding import own_generator
from proxflow.torch_support import in_full_precision

__all__ = ["SOLVERS", "check_solver", "pair", "permutation"]

SOLVERS = ("exact", "sinkhorn")
EPSILON = 0.05  # of Sinkhorn, as a share of the mean squared distance


def pair(
    x0: Numbers,
    x1: Numbers,
    *,
    label: Numbers | None = None,
    solver: str = "exact",
    epsilon: float = EPSILON,
    generator: torch.Generator | None = None,
) -> Pairs:
    """Pair two batches by a permutation of least squared distance; every point is used exactly once.

    ``pairs = pf.couplings.pair(x0, x1, label=y)`` replaces the sampling of a transport plan in a training loop. The
    source keeps its order; the targets, their indices into ``x1`` and their labels are permuted together.

    Args:
        x0: (n, *event) source points, finite; a tensor, a numpy array or a pandas object (values in order).
        x1: (n, *event) data points, of the same dtype and device.
        label: (n,) or (n, k), the labels of ``x1``.
        solver: "exact" assigns on the CPU. "sinkhorn" draws, on the points' device, a permutation whose mean is the
            entropic plan: pair (i, j) has the probability n plan_ij, and the expected cost is that of the plan. Where
            the plan has not converged it warns, and pairs greedily by the plan's logarithm instead.
        epsilon: regularisation of "sinkhorn", as a share of the mean squared distance about the batches' means.
        generator: generator of the draw of "sinkhorn".

    Raises:
        ValueError: shapes, dtypes or devices differ, points are not floating point or not finite, labels are not one
            for each point, or the solver is unknown.
        MissingExtraError: "sinkhorn" without POT.
    """
    x0, x1 = as_tensor("pair", "x0", x0), as_tensor("pair", "x1", x1)
    _check_batches(x0, x1)
    labels = checked_labels("pair", label, len(x1))
    check_solver("pair", solver, epsilon)
    index = permutation(x0.detach().flatten(1), x1.detach().flatten(1), solver, epsilon, generator)
    return Pairs(x0, x1[index], index, None if labels is None else labels[index.to(labels.device)])


@in_full_precision
def permutation(x0: Tensor, x1: Tensor, solver: str, epsilon: float, generator: torch.Generator | None) -> Tensor:
    """The row of x1 (n, d) for each row of x0 (n, d), by either solver."""
    if solver == "exact":
        return least_cost_permutation(x0, x1)
    return sinkhorn_permutation(x0, x1, epsilon, own_generator(generator))


def check_solver(name: str, solver: str, epsilon: float) -> None:
    """Refuse an unknown solver or a regularisation that is not positive."""
    if solver not in SOLVERS:
        raise ValueError(f"{name}: unknown solver {solver!r}; known are {', '.join(SOLVERS)}")
    if not 0 < real_number(epsilon) < math.inf:
        raise ValueError(f"{name}: epsilon must be a positive number, got {epsilon!r}")


def _check_batches(x0: Tensor, x1: Tensor) -> None:
    if x0.shape != x1.shape or x0.ndim < 2 or 0 in x0.shape[1:]:
        raise ValueError(
            f"pair: x0 and x1 must both have shape (n, *event), got {tuple(x0.shape)} and {tuple(x1.shape)}; "
            "to couple batches of unequal size use couplings.Semidiscrete"
        )
    if x0.dtype != x1.dtype or x0.device != x1.device:
        raise ValueError(f"pair: x0 is {x0.dtype} on {x0.device}, x1 is {x1.dtype} on {x1.device}; convert one of them")
    if not x0.is_floating_point():
        raise ValueError(f"pair: x0 and x1 must be floating point, got {x0.dtype}; convert them")
    for name, points in (("x0", x0), ("x1", x1)):
        bad = torch.nonzero(~torch.isfinite(points.detach().flatten(1)).all(1))[:, 0]
        if len(bad):
            found = counted(len(bad), f"row of {name} holds", f"rows of {name} hold")
            raise ValueError(f"pair: {found} NaN or inf, the first: {bad[:5].tolist()}")
