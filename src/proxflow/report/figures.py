"""The figures of a report: each takes results and returns the bytes of a PNG."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.errors import MissingExtraError
from proxflow.flow import ProximalFlow
from proxflow.semidiscrete import Fit

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["atom_weights", "convergence", "image_grid", "is_image", "path_images", "trajectories"]

_INK, _ACCENT, _PALE = "#1f2933", "#c2410c", "#94a3b8"


def convergence(fit: Fit) -> bytes:
    """Error of the atoms' weights against noise draws, with the statistical limit."""
    figure = _figure(6.4, 3.6)
    axes = figure.add_subplot()
    draws = [entry.samples_used for entry in fit.history]
    errors = [max(entry.chi2, 1e-12) for entry in fit.history]
    bars = [2 * entry.chi2_stderr for entry in fit.history]
    axes.errorbar(draws, errors, yerr=bars, color=_ACCENT, marker="o", capsize=3, label="chi2 on fresh draws (2 s.e.)")
    count = len(fit.potential.points)
    axes.plot(draws, [(count - 1) / d for d in draws], color=_INK, ls="--", label="statistical limit (N - 1) / draws")
    axes.axhline(fit.tol, color=_PALE, label="tolerance")
    axes.set(xscale="log", yscale="log", xlabel="noise draws used", ylabel="chi2 of the atoms' weights")
    axes.legend(frameon=False)
    return _png(figure)


def atom_weights(fit: Fit) -> bytes:
    """Mass of each Laguerre cell against the weight it should have."""
    figure = _figure(6.4, 3.2)
    axes = figure.add_subplot()
    ratio = (fit.cell_mass / fit.potential.weights.double()).cpu().numpy()
    axes.hist(ratio, bins=50, color=_PALE)
    axes.axvline(1, color=_ACCENT, label="wanted")
    axes.set(xlabel="measured cell mass / wanted weight (includes counting noise)", ylabel="atoms")
    axes.legend(frameon=False)
    return _png(figure)


def trajectories(flow: ProximalFlow, dataset: Dataset, generator: torch.Generator, count: int = 60) -> bytes:
    """Straight paths from noise to data, seen in the plane of the data's two largest variances."""
    points = dataset.points.reshape(len(dataset.points), -1)
    plane = _principal_plane(points)
    centre = points.mean(0)
    noise = flow.potential.source.sample(count, generator=generator, dtype=points.dtype)
    paths = torch.stack([flow.interpolate(t, noise) for t in torch.linspace(0, 1, 9).tolist()])
    flat = ((paths - centre) @ plane).cpu().numpy()
    cloud = ((points - centre) @ plane).cpu().numpy()
    figure = _figure(6.4, 5.2)
    axes = figure.add_subplot()
    axes.scatter(cloud[:, 0], cloud[:, -1], s=4, color=_PALE, label="data")
    for i in range(count):
        axes.plot(flat[:, i, 0], flat[:, i, -1], color=_ACCENT, lw=0.7, alpha=0.7)
    axes.scatter(flat[0, :, 0], flat[0, :, -1], s=10, color=_INK, label="noise (t = 0)", zorder=3)
    axes.set(xlabel="first principal direction", ylabel="second principal direction", aspect="equal")
    axes.legend(frameon=False)
    return _png(figure)


def path_images(flow: ProximalFlow, dataset: Dataset, generator: torch.Generator, rows: int = 8) -> bytes:
    """Images along exact trajectories, one trajectory a row, t = 0 to 1 from left to right."""
    points = dataset.points
    noise = flow.potential.source.sample(rows, generator=generator, dtype=points.dtype)
    times = torch.linspace(0, 1, 8).tolist()
    stages = torch.stack([flow.interpolate(t, noise) for t in times], dim=1)
    images = dataset.standardisation.undo(stages.reshape(-1, *dataset.event_shape))
    return image_grid(images, len(times), [f"t = {t:.2f}" for t in times])


def image_grid(images: Tensor, columns: int, titles: list[str] | None = None) -> bytes:
    """Images (n, H, W) or (n, C, H, W) in a grid."""
    if images.ndim == 4:
        images = images.movedim(1, -1)
        low, high = images.min(), images.max()
        images = (images - low) / (high - low).clamp(min=1e-12)
    rows = -(-len(images) // columns)
    figure = _figure(1.0 * columns, 1.0 * rows + (0.3 if titles else 0))
    for i, image in enumerate(images.cpu().numpy()):
        axes = figure.add_subplot(rows, columns, i + 1)
        axes.imshow(image, cmap="gray_r")
        axes.set_axis_off()
        if titles and i < columns:
            axes.set_title(titles[i], fontsize=8)
    return _png(figure)


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether points of this shape are grey (H, W) or colour (C, H, W) images."""
    return (len(event_shape) == 2 and min(event_shape) > 2) or (len(event_shape) == 3 and event_shape[0] in (1, 3, 4))


def _principal_plane(points: Tensor) -> Tensor:
    centred = points.double() - points.double().mean(0)
    _, axes = torch.linalg.eigh(centred.mT @ centred)
    plane: Tensor = axes[:, -2:].flip(1).to(points)
    return plane


def _figure(width: float, height: float) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("matplotlib", "report") from error
    return Figure(figsize=(width, height), layout="constrained", dpi=130)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
