"""How far the heights of a discrete potential are from the optimum: J(h) - J*, from fresh draws alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from proxflow.kernels.search import TopTwo, top_two_affine
from proxflow.potentials import Discrete
from proxflow.potentials.atoms import centre_and_radius
from proxflow.semidiscrete.certificate import MassError, mass_error
from proxflow.semidiscrete.problem import Tally

__all__ = ["HeightError", "height_error", "top_two"]

_FOLDS = 8  # parts of the draws whose noise is independent
_LINKS_PER_ATOM, _LEAST_SHARE = 8, 0.1  # draws near two atoms, in number and as a share of all
_MOST_ITERATIONS = 5000  # of conjugate gradients
_EXPANSION_ERROR = 0.2  # of the second order, where cells miss their weights by a few percent


@dataclass(frozen=True)
class HeightError:
    """J(h) - J* >= 0 to second order, its standard error, and the error of the cell masses behind it."""

    value: float
    stderr: float
    masses: MassError


def top_two(potential: Discrete, u: Tensor) -> TopTwo:
    """The two largest of <u, y_j> - h_j for each row of ``u`` (B, d), in the dtype of the potential's scores."""
    dtype = potential.heights.dtype
    centre, _ = centre_and_radius(potential.points)
    points = (potential.points.double() - centre).to(dtype)  # a shift changes all scores alike, and keeps their digits
    found = top_two_affine(u.to(dtype), points, -potential.heights)
    return TopTwo(found.best, found.second, found.gap.to(u.dtype))


def height_error(draws: TopTwo, weights: Tensor) -> HeightError:
    """Half the Newton decrement r' L^+ r / 2 of J, with r = m - b and the Laplacian L of the cells' common faces.

    The derivative of the masses in the heights is w_ij = #{best two = {i, j}, gap < delta} / (2 delta M), with delta
    a quantile of the gaps: a delta wide enough to link every atom makes L a little small, and the error a little large.
    Noise in r would add to a square: products of different folds of the draws have none.

    Args:
        draws: draws of M independent source points.
        weights: (N,) b, float64.
    """
    count, total = len(weights), len(draws.best)
    counts = torch.bincount(draws.best, minlength=count).double()
    masses = mass_error(Tally(counts, counts, total), weights)
    if count == 1:
        return HeightError(0.0, 0.0, masses)
    laplacian = _laplacian(draws, count)
    residuals = np.stack(
        [
            (torch.bincount(fold, minlength=count).double() / len(fold) - weights).cpu().numpy()
            for fold in draws.best.chunk(_FOLDS)
        ]
    )
    residuals = _without_component_means(residuals, laplacian)
    products = residuals @ np.stack([_solve(laplacian, residual) for residual in residuals]).T
    off = products - np.diag(np.diag(products))
    folds = len(products)
    value = 0.5 * float(off.sum()) / (folds * (folds - 1))
    left_out = 0.5 * (off.sum() - off.sum(0) - off.sum(1)) / ((folds - 1) * (folds - 2))
    stderr = math.sqrt((folds - 1) / folds * float(((left_out - left_out.mean()) ** 2).sum()))
    value = max(value, 0.0)
    return HeightError(value, math.hypot(stderr, _EXPANSION_ERROR * value), masses)


def _laplacian(draws: TopTwo, count: int) -> sparse.csr_array:
    share = min(max(_LINKS_PER_ATOM * count / len(draws.best), _LEAST_SHARE), 0.5)
    width = float(draws.gap.kthvalue(max(1, math.ceil(share * len(draws.gap)))).values)
    near = draws.gap < width
    first, second = draws.best[near].cpu().numpy(), draws.second[near].cpu().numpy()
    weight = np.full(2 * len(first), 1 / (2 * max(width, 1e-300) * len(draws.best)))
    ends = (np.concatenate([first, second]), np.concatenate([second, first]))
    adjacency = sparse.coo_array((weight, ends), shape=(count, count)).tocsr()
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    return sparse.csr_array(sparse.diags_array(degree) - adjacency)


def _without_component_means(residuals: NDArray[np.float64], laplacian: sparse.csr_array) -> NDArray[np.float64]:
    """What L can move: no mass goes between groups of atoms that no draw links."""
    _, label = connected_components(laplacian, directed=False)
    size = np.bincount(label)
    means = np.stack([np.bincount(label, weights=residual) / size for residual in residuals])
    return residuals - means[:, label]


def _solve(laplacian: sparse.csr_array, right: NDArray[np.float64]) -> NDArray[np.float64]:
    """L^+ r by preconditioned conjugate gradients; L is singular, r in its range."""
    degree = laplacian.diagonal()
    inverse = np.where(degree > 0, 1 / np.where(degree > 0, degree, 1.0), 0.0)
    scaling = LinearOperator(laplacian.shape, matvec=lambda vector: inverse * vector, dtype=np.float64)
    solution, _ = cg(laplacian, right, rtol=1e-6, maxiter=_MOST_ITERATIONS, M=scaling)
    return np.asarray(solution)
