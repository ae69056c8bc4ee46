"""The semi-dual problem in its own units: atoms centred and scaled to the unit ball, noise drawn by need."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.kernels.search import Maximum, max_inner_product
from proxflow.measures import Source
from proxflow.semidiscrete.atoms import Atoms

__all__ = ["SemiDual"]

_FLOAT32_ROUNDINGS = 2.0**12  # a score gap this many roundings wide is safe in float32


class SemiDual:
    """J(h) = E phi_h(X0) + <b, h> for normalised atoms, with the noise and the precision of its search.

    Scores are shifted by <u, centre> against the user's; the maximising atom is the same, and heights in the
    user's units are ``radius`` times those here.
    """

    def __init__(self, atoms: Atoms, source: Source, max_memory: int) -> None:
        points = atoms.points.double()
        self.weights = atoms.weights
        self.source = source
        self.centre = points.mean(0)
        centred = points - self.centre
        self.radius = float(torch.linalg.vector_norm(centred, dim=1).max()) or 1.0
        self.points = centred / self.radius
        self.dtype = torch.float32
        self.rows_at_once = max(256, min(1 << 16, max_memory // (16 * (points.shape[1] + 2))))
        self._keys = self._build_keys()

    def __len__(self) -> int:
        return len(self.points)

    def choose_precision(self, gap: float, heights: Tensor) -> None:
        """Search in float32 where a typical score gap is far above its rounding, else in float64."""
        size = float(self.source.dim) ** 0.5 + float(heights.abs().max())
        if gap < _FLOAT32_ROUNDINGS * torch.finfo(torch.float32).eps * size:
            self.dtype = torch.float64
            self._keys = self._build_keys()

    def noise(self, n: int, generator: torch.Generator) -> Tensor:
        """``n`` source draws with a trailing 1 for the height coordinate, (n, d + 1)."""
        device = self.points.device
        draws = self.source.sample(n, generator=generator, dtype=self.dtype, device=device)
        return torch.cat([draws, draws.new_ones(n, 1)], dim=1)

    def search(self, noise: Tensor, heights: Tensor) -> Maximum:
        """Best score and its atom for each noise row, at normalised heights (N,)."""
        self._keys[:, -1] = -heights
        return max_inner_product(noise, self._keys)

    def score_gaps(self, noise: Tensor, heights: Tensor) -> Tensor:
        """Best minus second-best score of each noise row, (n,)."""
        self._keys[:, -1] = -heights
        best = torch.cat([(part @ self._keys.mT).topk(2, dim=1).values for part in noise.split(64)])
        return best[:, 0] - best[:, 1]

    def _build_keys(self) -> Tensor:
        return torch.cat([self.points, self.points.new_zeros(len(self.points), 1)], dim=1).to(self.dtype)
