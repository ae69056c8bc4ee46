"""What benchmarks/gpu.py measures: sizes, the rows that are drawn for it, and what its sections share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gpu_measure import Deadline, Report, Timing, timed

__all__ = ["FULL", "MAX_MEMORY", "QUICK", "Bench", "ImageLaw", "Images", "Sizes"]

MAX_MEMORY = 1 << 30  # bytes for the noise of a step, four times the default: a GPU is quicker with more at once


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    Attributes:
        square: side of the square products.
        product: (B, d, N) of a product as in a search.
        copied: bytes of a copy.
        searches: (B, N, d) of each search; the goal is about the first.
        checked: answers that are compared with float64.
        fit: (N, d) of the fit.
        tol: its tolerance.
        large: (N, d) of the steps on many rows.
        step_seconds: of these steps.
        coupled: (N, d, k) of the couplings.
        batches: numbers of pairs.
        flow: (N, d, B) of the velocities.
        repeats: of a measurement.
    """

    square: int
    product: tuple[int, int, int]
    copied: int
    searches: tuple[tuple[int, int, int], ...]
    checked: int
    fit: tuple[int, int]
    tol: float
    large: tuple[int, int]
    step_seconds: float
    coupled: tuple[int, int, int]
    batches: tuple[int, ...]
    flow: tuple[int, int, int]
    repeats: int


FULL = Sizes(
    square=8192,
    product=(4096, 784, 60_000),
    copied=1 << 31,
    searches=(
        (16_384, 1_000_000, 784),
        (4096, 60_000, 784),
        (16_384, 1_000_000, 64),
        (16_384, 1_000_000, 16),
        (16_384, 100_000, 3072),
    ),
    checked=512,
    fit=(100_000, 3072),
    tol=0.01,
    large=(2_560_000, 3072),
    step_seconds=30.0,
    coupled=(1_000_000, 784, 16),
    batches=(256, 4096),
    flow=(20_000, 784, 256),
    repeats=7,
)
QUICK = Sizes(
    square=64,
    product=(32, 20, 300),
    copied=1 << 16,
    searches=((64, 500, 20), (32, 300, 16)),
    checked=32,
    fit=(300, 100),
    tol=1.0,
    large=(3000, 800),  # few enough, and enough of them for noise that shares directions
    step_seconds=0.1,
    coupled=(400, 12, 4),
    batches=(16, 64),
    flow=(200, 12, 16),
    repeats=2,
)


@dataclass(frozen=True)
class Bench:
    """What all sections share; ``rates`` are operations a second of the square products, by precision."""

    device: torch.device
    sizes: Sizes
    report: Report
    rates: dict[str, float] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        """Whether figures are those of a GPU."""
        return self.device.type == "cuda"

    def timed(self, call: Callable[[], object], deadline: Deadline) -> Timing:
        """The time of a call on the device."""
        return timed(call, self.device, self.sizes.repeats, deadline)

    def verdict(self, reached: bool) -> str:
        """What to say of a goal."""
        if not self.on_gpu:
            return "not measured on a GPU"
        return "reached" if reached else "not reached"


@dataclass(frozen=True)
class Images:
    """Rows (N, d) float32, and the heights (N,) float64 that the optimal potential of their law has there."""

    points: Tensor
    heights: Tensor


class ImageLaw:
    """A normal law with a spectrum like that of images: variances fall like k^-1.5 along random directions, plus noise.

    Args:
        dim: pixels d.
        device: that it draws on.

    Attributes:
        directions: (d, d), principal ones as columns, that of largest variance first.
        deviations: (d,) along them.
    """

    decay = 1.5
    variance = 0.25  # of a pixel in the mean, as of images in [-1, 1]
    noise = 1e-4  # the part of it that is independent of all other pixels
    rows_at_once = 1 << 16

    def __init__(self, dim: int, device: torch.device) -> None:
        self._device = device
        drawn = torch.randn(dim, dim, generator=torch.Generator().manual_seed(0))
        self.directions: Tensor = torch.linalg.qr(drawn.to(device)).Q
        shares = torch.arange(1, dim + 1, dtype=torch.float64) ** -self.decay
        self.deviations = (self.variance * dim * shares / shares.sum() + self.noise).sqrt().float().to(device)

    def draw(self, count: int, coupled: int | None = None) -> Images:
        """So many rows; heights of all coordinates, or of the first ``coupled`` alone.

        The optimal map from normal noise to a normal law of deviations s is z -> s z; the heights are sum_k s_k z_k^2
        / 2.
        """
        generator = torch.Generator(self._device).manual_seed(1)
        dim = len(self.deviations)
        points = torch.empty(count, dim, device=self._device)
        heights = torch.empty(count, dtype=torch.float64, device=self._device)
        for first in range(0, count, self.rows_at_once):
            rows = slice(first, min(first + self.rows_at_once, count))
            noise = torch.randn(rows.stop - first, dim, generator=generator, device=self._device)
            torch.mm(noise * self.deviations, self.directions.T, out=points[rows])
            heights[rows] = 0.5 * noise[:, :coupled].double().square() @ self.deviations[:coupled].double()
        return Images(points, heights)
