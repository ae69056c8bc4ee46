"""Sums of a Gaussian kernel over all pairs of data points, at many scales, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["CANCELLED", "SCALES", "KernelSums", "kernel_sums", "squared_distances", "useful_scales"]

CANCELLED = 1e-5  # of the largest coordinate: squared distances below lose half of their digits in a matrix product
SCALES = 20  # at which sums are taken
_TRIAL_SCALES = 96  # from which the useful range is found
_TRIAL_ROWS = 256  # rows that it is found on
_FEWEST_PAIRS = 30  # that a sum must count
_MOST_PER_POINT = 300  # pairs for each point: beyond, a sum sees more than the neighbourhood
_CACHE_BYTES = 1 << 22  # a block of kernels that stays in cache is several times faster


@dataclass(frozen=True)
class KernelSums:
    """For each scale s and point i, sums over j != i of k_ij = exp(-(|y_i - y_j| / (s w_i))^2 / 2); all (S, N).

    Attributes:
        mass: sum k.
        square: sum k |y_i - y_j|^2 / (s w_i)^2.
        overlap: sum k^2.
        shift: |sum k (y_j - y_i)|^2 / (s w_i)^2.
        self_shift: sum k^2 |y_j - y_i|^2 / (s w_i)^2, what single points contribute to ``shift``.
    """

    mass: Tensor
    square: Tensor
    overlap: Tensor
    shift: Tensor
    self_shift: Tensor


def kernel_sums(points: Tensor, width: Tensor, scales: Tensor, max_memory: int) -> KernelSums:
    """All sums for centred points (N, d) in float64, a width of each (N,) and scales (S,), in units of the width."""
    rows = max(1, min(max_memory, _CACHE_BYTES) // (8 * 3 * len(points)))
    parts = torch.arange(len(points), device=points.device).split(rows)
    exact = bool(width.min() < CANCELLED)
    blocks = [_block(points, width, part, scales, exact) for part in parts]
    return KernelSums(*(torch.cat(parts, 1) for parts in zip(*blocks, strict=True)))


def _block(points: Tensor, width: Tensor, part: Tensor, scales: Tensor, exact: bool) -> tuple[Tensor, ...]:
    squares = _relative_squares(points, width, part, exact)
    kernel = torch.empty_like(squares)
    sums = []
    for scale in scales:
        torch.mul(squares, -0.5 / scale.square(), out=kernel).exp_()
        kernel[torch.arange(len(part), device=part.device), part] = 0.0
        mass = kernel.sum(1)
        square = torch.linalg.vecdot(kernel, squares) / scale.square()
        moved = (kernel @ points - mass[:, None] * points[part]) / (scale * width[part, None])
        kernel.square_()
        self_shift = torch.linalg.vecdot(kernel, squares) / scale.square()
        sums.append((mass, square, kernel.sum(1), moved.square().sum(1), self_shift))
    return tuple(torch.stack(parts) for parts in zip(*sums, strict=True))


def useful_scales(points: Tensor, width: Tensor) -> Tensor:
    """Scales at which 30 pairs to 300 per point are effectively seen, or a quarter of all pairs; (20,) ascending.

    In units of the width of each point. Pairs are counted by (sum k)^2 / sum k^2 over a sample of 256 points.
    """
    count = len(points)
    part = torch.linspace(0, count - 1, min(count, _TRIAL_ROWS), dtype=torch.float64).round().long().to(points.device)
    squares = _relative_squares(points, width, part, exact=bool(width.min() < CANCELLED))
    squares[torch.arange(len(part), device=part.device), part] = torch.inf
    low, high = squares[squares > 0].min(), squares[torch.isfinite(squares)].max()
    trial = torch.logspace(float((0.01 * low).log10()), float(high.log10()), _TRIAL_SCALES, dtype=torch.float64)
    pairs = torch.stack([_effective_pairs(torch.exp(squares * (-0.5 / variance))) for variance in trial.tolist()])
    pairs = pairs * (0.5 * count / len(part))
    most = min(_MOST_PER_POINT * count, count**2 / 8)
    inside = trial[((pairs >= _FEWEST_PAIRS) & (pairs <= most)).cpu()]
    low, high = (trial[0], trial[-1]) if len(inside) == 0 else (inside[0], inside[-1])
    scales = torch.logspace(0.5 * float(low.log10()), 0.5 * float(high.log10()), SCALES, dtype=torch.float64)
    return scales.to(points.device)


def _effective_pairs(kernel: Tensor) -> Tensor:
    return kernel.sum().square() / kernel.square().sum().clamp(min=torch.finfo(kernel.dtype).tiny)


def _relative_squares(points: Tensor, width: Tensor, part: Tensor, exact: bool) -> Tensor:
    return squared_distances(points, part, exact).div_(width[part, None].square())


def squared_distances(points: Tensor, part: Tensor, exact: bool) -> Tensor:
    """Squared distances (P, N) from the rows ``part`` of points whose mean is 0 and largest coordinate 1.

    By a matrix product, unless ``exact``: then by differences, which takes several times as long.
    """
    if exact:
        mode = "donot_use_mm_for_euclid_dist"
        return torch.cdist(points[part], points, compute_mode=mode).square_()
    norms = points.square().sum(1)
    return (norms[part, None] + norms - 2 * points[part] @ points.mT).clamp_(min=0)
