"""Records that solvers return: value, per-row status, certificate, iterations."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from torch import Tensor

__all__ = ["ProxResult", "Status", "Verdict"]


class Status(enum.IntEnum):
    """Per-row outcome of an iteration; the value is what a ``status`` tensor holds."""

    converged = 0
    """Solved to rounding; the certificate holds."""
    max_iterations = 1
    """Stopped at the step cap; the point is feasible and the certificate still holds."""
    stalled = 2
    """No step improves the point in this precision; the certificate still holds. Try float64."""
    non_finite = 3
    """The query row holds NaN or inf, or its point overflows; its result row is NaN."""


class Verdict(enum.IntEnum):
    """What is known of a statement at a point."""

    failed = 0
    assumed = 1
    verified = 2


@dataclass(frozen=True)
class ProxResult:
    """The Moreau pair (y, u) of a query x = alpha u + beta y, with u in dpsi(y), and its certificate.

    For ``potential.prox(z, step)`` this reads alpha = step, beta = 1. Rows are independent.

    Attributes:
        point: the data point y, (B, d).
        multiplier: the source point u = (x - beta y) / alpha, (B, d); NaN where alpha = 0, not finite where it
            overflows.
        gap: Fenchel-Young gap phi(u) + psi(y) - <u, y>, (B,), absolute, >= 0; zero for closed forms.
        error_bound: Euclidean bound on ``point``, (B,): sqrt(gap alpha / beta) plus rounding (THEORY 3).
        iterations: steps of the algorithm, (B,) int64; zero for closed forms.
        status: values of ``Status``, (B,) int64.
        velocity_error_bound: bound on the velocity, (B,), where a flow made the query; else None.
    """

    point: Tensor
    multiplier: Tensor
    gap: Tensor
    error_bound: Tensor
    iterations: Tensor
    status: Tensor
    velocity_error_bound: Tensor | None = None
