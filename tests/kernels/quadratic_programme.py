"""The prox of a polyhedral potential by an independent interior-point solver."""

from __future__ import annotations

import clarabel
import numpy as np
import torch
from scipy import sparse


def clarabel_prox(points: torch.Tensor, heights: torch.Tensor, z: torch.Tensor, step: float) -> torch.Tensor:
    """argmin_y psi(y) + |y - z|^2 / (2 step) for one z (d,), as a QP in the weights and the point, (d,)."""
    count, d = points.shape
    quadratic = sparse.block_diag([sparse.csc_matrix((count, count)), sparse.eye(d) / step]).tocsc()
    linear = np.concatenate([heights.numpy(), -z.numpy() / step])
    link = sparse.hstack([sparse.csc_matrix(points.numpy().T), -sparse.eye(d)])
    total = sparse.hstack([sparse.csc_matrix(np.ones((1, count))), sparse.csc_matrix((1, d))])
    positive = sparse.hstack([-sparse.eye(count), sparse.csc_matrix((count, d))])
    matrix = sparse.csc_matrix(sparse.vstack([link, total, positive]))
    right = np.concatenate([np.zeros(d), [1.0], np.zeros(count)])
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-13
    settings.tol_ktratio = 1e-10
    cones = [clarabel.ZeroConeT(d + 1), clarabel.NonnegativeConeT(count)]
    solution = clarabel.DefaultSolver(quadratic, linear, matrix, right, cones, settings).solve()
    status = str(solution.status)
    if status not in ("Solved", "AlmostSolved", "InsufficientProgress"):
        raise RuntimeError(f"Clarabel: {status}")
    weights = np.clip(np.asarray(solution.x[:count]), 0.0, None)
    return torch.from_numpy(points.numpy().T @ (weights / weights.sum()))


def reference_error(
    points: torch.Tensor, heights: torch.Tensor, z: torch.Tensor, step: float, y: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    """How far ``y`` with psi(y) <= ``value`` can be from the prox, by its own Fenchel-Young gap."""
    u = (z - y) / step
    gap = (points @ u - heights).max() + value - u @ y
    return (step * gap.clamp(min=0)).sqrt()
