"""Damped Newton on exact cell masses (Kitagawa, Merigot and Thibert 2019), in dimension up to 3.

The masses fall in their own heights and grow in their neighbours': their derivative is minus a weighted graph
Laplacian. Steps are halved until every cell keeps a share of mass and the residual falls as it should; such a method
converges from any heights without empty cells, in the end quadratically.

Problem: heights h with mass_j(h) = b_j for every cell. Invariant: no cell has less than half of the least mass at the
start or of the least weight, which keeps the Laplacian non-singular, and a step of length s takes at least s / 2 of the
residual. Stops at chi2 = 1e-18, the rounding of the masses; where near it a full step does not help; or after 20
halvings or 200 steps, short of the goal. Cost of a step: a power diagram for each halving, and one sparse factorisation
of a planar or near-planar graph, O(N^1.5) in the plane and O(N^2) in space.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.linalg import splu
from scipy.spatial import QhullError
from torch import Tensor

from proxflow.kernels.gaussian_cells import GaussianCells, gaussian_cells
from proxflow.semidiscrete.problem import SemiDual, inner
from proxflow.storage import storable

__all__ = ["DampedNewton", "NewtonState", "missing_dual"]

_MOST_STEPS = 200  # about ten are usual
_MOST_HALVINGS = 20  # of a step, before the method gives up
_ROUNDING = 1e-18  # chi2 of masses that are as good as exact
_NEARLY = 1e-12  # chi2 below which a full step that does not help means that rounding is reached


@storable
@dataclass(frozen=True)
class NewtonState:
    """Heights (N,), the least mass that steps must keep, the steps taken, and whether more would help."""

    heights: Tensor
    floor: float
    steps: int
    finished: bool


class DampedNewton:
    """The moving heights and their cells.

    Raises:
        ValueError: a cell is empty at the start, or the geometry is too degenerate for floating point.
    """

    def __init__(self, problem: SemiDual, state: NewtonState | Tensor) -> None:
        self._points = problem.points.to(torch.float64).cpu()
        self._weights = problem.weights.cpu()
        heights = (state.heights if isinstance(state, NewtonState) else state).cpu()
        cells = self.cells_at(heights)
        if cells is None or (float(cells.mass.min()) <= 0 and problem.points.shape[1] > 1):
            raise ValueError("damped Newton needs a start without empty cells")
        if not isinstance(state, NewtonState):
            floor = 0.5 * min(float(cells.mass.min()), float(self._weights.min()))
            state = NewtonState(heights, floor, 0, False)
        self._at = (state, cells)  # one attribute, so that Ctrl-C finds both or neither changed

    @property
    def state(self) -> NewtonState:
        """Where the method stands."""
        return self._at[0]

    @property
    def cells(self) -> GaussianCells:
        """The cells there."""
        return self._at[1]

    @property
    def chi2(self) -> float:
        """Exact squared relative error of the masses."""
        return self.cells.chi2(self._weights)

    def step(self) -> None:
        """One damped Newton step; marks the state as finished where there is none."""
        residual = self.cells.mass - self._weights
        direction = _laplacian_solve(self.cells, residual)
        if direction is None:
            self._finish()
            return
        length = 1.0
        for _ in range(_MOST_HALVINGS):
            heights = self.state.heights + length * direction
            cells = self.cells_at(heights)
            if cells is not None and self._acceptable(cells, residual, length):
                steps = self.state.steps + 1
                finished = cells.chi2(self._weights) <= _ROUNDING or steps >= _MOST_STEPS
                self._at = (NewtonState(heights, self.state.floor, steps, finished), cells)
                return
            if self.chi2 <= _NEARLY:
                break
            length *= 0.5
        self._finish()

    def cells_at(self, heights: Tensor) -> GaussianCells | None:
        """Masses and Laplacian at other heights; None where the geometry cannot be built."""
        try:
            return gaussian_cells(self._points, heights)
        except QhullError:
            return None

    def _acceptable(self, cells: GaussianCells, residual: Tensor, length: float) -> bool:
        if float(cells.mass.min()) < self.state.floor:
            return False
        error = (cells.mass - self._weights).abs().sum()
        return bool(error <= (1 - 0.5 * length) * residual.abs().sum())

    def _finish(self) -> None:
        self._at = (dataclasses.replace(self.state, finished=True), self.cells)


def missing_dual(cells: GaussianCells, weights: Tensor) -> float:
    """J less its minimum, to second order: half the Newton decrement; inf where the Laplacian is singular."""
    residual = cells.mass - weights
    direction = _laplacian_solve(cells, residual)
    return torch.inf if direction is None else 0.5 * abs(float(inner(residual, direction)))


def _laplacian_solve(cells: GaussianCells, right: Tensor) -> Tensor | None:
    """x with L x = right, the last entry 0, L the Laplacian of the cells' faces; None where L is singular."""
    count = len(right)
    left, other, weight = cells.left.numpy(), cells.right.numpy(), cells.weight.numpy()
    rows, columns = np.concatenate([left, other]), np.concatenate([other, left])
    adjacency = sparse.coo_matrix((np.tile(weight, 2), (rows, columns)), shape=(count, count)).tocsc()
    degree = np.asarray(adjacency.sum(axis=1)).ravel()
    laplacian = (sparse.diags(degree) - adjacency).tocsc()[:-1, :-1]
    try:
        factor = splu(laplacian, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    except RuntimeError:
        return None
    solution = factor.solve(right.numpy()[:-1])
    if not np.isfinite(solution).all():
        return None
    return torch.from_numpy(np.append(solution, 0.0))
