"""Grids of images, as PNG for files and as SVG for pages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

from proxflow.report.canvas import literal, new_figure, png, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["brightness", "image_grid", "image_panel", "is_image", "reduced"]

_MOST_NUMBERS = 700_000  # of all images of a panel: as much as its PNG may have bytes, for a page under 5 MB
_TILE = 0.55  # inches in a page
_LETTER = 0.08  # inches a letter of the names beside a grid takes up


def is_image(event_shape: tuple[int, ...]) -> bool:
    """Whether points of this shape are grey (H, W) or colour (C, H, W) images."""
    return (len(event_shape) == 2 and min(event_shape) > 2) or (len(event_shape) == 3 and event_shape[0] in (1, 3, 4))


def brightness(images: Tensor, limits: tuple[float, float] | None = None) -> Tensor:
    """Images (n, H, W) or (n, C, H, W) as (n, C, H, W) from 0 black to 1 white; their own extremes without limits."""
    low, high = limits if limits is not None else (float(images.min()), float(images.max()))
    shown = ((images - low) / max(high - low, 1e-12)).clamp(0, 1)
    return shown if shown.ndim == 4 else shown[:, None]


def reduced(images: Tensor, most: int) -> Tensor:
    """Images (n, C, H, W), each square of pixels by its mean where all together have more numbers than ``most``."""
    side = math.ceil(math.sqrt(images.numel() / most))
    side = min(side, *images.shape[2:])
    return avg_pool2d(images, side) if side > 1 else images


def image_grid(
    images: Tensor,
    columns: int,
    *,
    limits: tuple[float, float] | None = None,
    row_names: Sequence[str] = (),
) -> bytes:
    """The PNG of a grid, on one scale of brightness: ``limits`` are black and white; names stand left of its rows."""
    tiles = _coloured(brightness(images, limits))
    height, width = tiles.shape[2] * -(-len(tiles) // columns), tiles.shape[3] * columns
    inches = min(1.0 * columns, 8.0)
    beside = _LETTER * max(map(len, row_names), default=0)
    figure = new_figure(inches + beside, inches * height / width)
    _draw(figure, tiles, columns, (), row_names, ())
    return png(figure)


def image_panel(
    name: str,
    images: Tensor,
    columns: int,
    *,
    limits: tuple[float, float],
    titles: Sequence[str] = (),
    row_names: Sequence[str] = (),
    captions: Sequence[str] = (),
) -> str:
    """The SVG of a grid.

    Args:
        name: of the panel.
        images: (n, H, W) or (n, C, H, W); those that are NaN are left out.
        columns: images in a row.
        limits: numbers that are black and white.
        titles: above the columns.
        row_names: left of the rows.
        captions: below the columns of the last row.
    """
    shown = reduced(brightness(images, limits), _MOST_NUMBERS)
    tiles = _coloured(shown)
    tiles = torch.where(torch.isnan(shown).flatten(1).any(1)[:, None, None, None], 0.0, tiles)
    rows = -(-len(tiles) // columns)
    beside = _LETTER * max(map(len, row_names), default=0)
    lines = sum(max((text.count("\n") + 1 for text in words), default=0) for words in (titles, captions))
    ratio = tiles.shape[2] / tiles.shape[3]
    figure = new_figure(_TILE * columns + beside, _TILE * rows * ratio + 0.2 * lines + 0.1)
    _draw(figure, tiles, columns, titles, row_names, captions)
    return svg(figure, name)


def _draw(
    figure: Figure,
    tiles: Tensor,
    columns: int,
    titles: Sequence[str],
    row_names: Sequence[str],
    captions: Sequence[str],
) -> None:
    mosaic, (tall, wide) = _mosaic(tiles, columns)
    axes = figure.add_subplot()
    axes.imshow(mosaic.cpu().numpy(), interpolation="none")
    axes.set_frame_on(False)
    axes.tick_params(length=0, labelsize=8)
    centres = [(i + 0.5) * wide - 1 for i in range(columns)]
    axes.set_yticks([(i + 0.5) * tall - 1 for i in range(len(row_names))], [literal(name) for name in row_names])
    axes.set_xticks(centres[: len(captions)], list(captions))
    if titles:
        upper = axes.secondary_xaxis("top")
        upper.set_xticks(centres[: len(titles)], list(titles))
        upper.tick_params(length=0, labelsize=8)
        upper.spines["top"].set_visible(False)


def _coloured(images: Tensor) -> Tensor:
    """(n, C, H, W) as red, green, blue and opacity."""
    colours = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
    return colours if colours.shape[1] == 4 else torch.cat([colours, torch.ones_like(colours[:, :1])], 1)


def _mosaic(images: Tensor, columns: int) -> tuple[Tensor, tuple[int, int]]:
    """Images (n, 4, H, W) as one (height, width, 4) with transparent gaps, and the size of a tile with its gap."""
    n, channels, height, width = images.shape
    rows = -(-n // columns)
    gap = max(1, min(height, width) // 8)
    tiles = images.new_zeros(rows * columns, channels, height + gap, width + gap)
    tiles[:n, :, :height, :width] = images
    grid = tiles.reshape(rows, columns, channels, height + gap, width + gap).permute(0, 3, 1, 4, 2)
    whole = grid.reshape(rows * (height + gap), columns * (width + gap), channels)
    return whole[: whole.shape[0] - gap, : whole.shape[1] - gap], (height + gap, width + gap)
