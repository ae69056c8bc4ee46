"""Sums of a Gaussian kernel over all pairs of data points, at many scales, in bounded memory."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["KernelSums", "kernel_sums", "useful_scales"]

_SCALES = 20
_TRIAL_SCALES = 96
_TRIAL_ROWS = 256
_FEWEST_PAIRS = 30
_MOST_PER_POINT = 300
_CACHE_BYTES = 1 << 22  # a block of kernels that stays in cache is several times faster


@dataclass(frozen=True)
class KernelSums:
    """For each scale sigma and point i, sums over j != i of k_ij = exp(-|y_i - y_j|^2 / (2 sigma^2)); all (S, N).

    Attributes:
        mass: sum k.
        square: sum k |y_i - y_j|^2 / sigma^2.
        overlap: sum k^2.
        shift: |sum k (y_j - y_i)|^2 / sigma^2.
    """

    mass: Tensor
    square: Tensor
    overlap: Tensor
    shift: Tensor


def kernel_sums(points: Tensor, scales: Tensor, max_memory: int) -> KernelSums:
    """All sums for points (N, d) in float64 and scales (S,)."""
    rows = max(1, min(max_memory, _CACHE_BYTES) // (8 * 3 * len(points)))
    blocks = [_block(points, part, scales) for part in torch.arange(len(points), device=points.device).split(rows)]
    return KernelSums(*(torch.cat(parts, 1) for parts in zip(*blocks, strict=True)))


def _block(points: Tensor, part: Tensor, scales: Tensor) -> tuple[Tensor, ...]:
    squares = _distances(points, part)
    kernel = torch.empty_like(squares)
    sums = []
    for variance in scales.square():
        torch.mul(squares, -0.5 / variance, out=kernel).exp_()
        kernel[torch.arange(len(part), device=part.device), part] = 0.0
        mass = kernel.sum(1)
        square = torch.linalg.vecdot(kernel, squares) / variance
        shift = (kernel @ points - mass[:, None] * points[part]).square().sum(1) / variance
        sums.append((mass, square, torch.linalg.vecdot(kernel, kernel), shift))
    return tuple(torch.stack(parts) for parts in zip(*sums, strict=True))


def useful_scales(points: Tensor) -> Tensor:
    """Scales at which 30 pairs to 300 per point are effectively seen, or a quarter of all pairs; (20,) ascending.

    Pairs are counted by (sum k)^2 / sum k^2 over a spread-out sample of 256 points.
    """
    count = len(points)
    part = torch.linspace(0, count - 1, min(count, _TRIAL_ROWS), dtype=torch.float64).round().long().to(points.device)
    squares = _distances(points, part)
    squares[torch.arange(len(part), device=part.device), part] = torch.inf
    low, high = squares[squares > 0].min(), squares[torch.isfinite(squares)].max()
    trial = torch.logspace(float((0.01 * low).log10()), float(high.log10()), _TRIAL_SCALES, dtype=torch.float64)
    pairs = torch.stack([_effective_pairs(torch.exp(squares * (-0.5 / variance))) for variance in trial.tolist()])
    pairs = pairs * (0.5 * count / len(part))
    most = min(_MOST_PER_POINT * count, count**2 / 8)
    inside = trial[((pairs >= _FEWEST_PAIRS) & (pairs <= most)).cpu()]
    low, high = (trial[0], trial[-1]) if len(inside) == 0 else (inside[0], inside[-1])
    scales = torch.logspace(0.5 * float(low.log10()), 0.5 * float(high.log10()), _SCALES, dtype=torch.float64)
    return scales.to(points.device)


def _effective_pairs(kernel: Tensor) -> Tensor:
    return kernel.sum().square() / kernel.square().sum().clamp(min=torch.finfo(kernel.dtype).tiny)


def _distances(points: Tensor, part: Tensor) -> Tensor:
    """Squared distances (P, N) from the rows ``part``, of points centred beforehand."""
    norms = points.square().sum(1)
    return (norms[part, None] + norms - 2 * points[part] @ points.mT).clamp(min=0)
