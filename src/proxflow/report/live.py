"""What the script of a page needs of a figure's points: what they are, and where they are at other times."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from proxflow.errors import optional_package
from proxflow.report.figures import reduced

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Group", "Live", "Sprite", "frames_of", "sprite_of"]

_MOST_NUMBERS = 1_000_000  # of all images of a sprite, for a page under 5 MB


@dataclass(frozen=True)
class Group:
    """The markers of one line of a figure, in its order.

    Attributes:
        name: as given to ``canvas.mark_points``.
        texts: what each point is.
        tiles: number of each point's image in the sprite.
        frames: (T, 2 n) places at the times of the figure, x and y in turns, in tenths of the figure's unit.
    """

    name: str
    texts: list[str]
    tiles: list[int] | None = None
    frames: list[list[int]] | None = None


@dataclass(frozen=True)
class Sprite:
    """Small images side by side in one."""

    png: str
    width: int
    height: int
    columns: int


@dataclass(frozen=True)
class Live:
    """All of a figure's points.

    Attributes:
        groups: its marked lines.
        times: of the frames of those that move; empty if none does.
        start: time of the figure as drawn.
        slider: what the slider does.
        sprite: images of the points.
    """

    groups: tuple[Group, ...]
    times: tuple[float, ...] = ()
    start: float = 1.0
    slider: str = "From noise to data"
    sprite: Sprite | None = None

    @property
    def content(self) -> dict[str, Any]:
        """What is written into the page."""
        sprite = self.sprite
        size = None if sprite is None else {"width": sprite.width, "height": sprite.height, "columns": sprite.columns}
        return {"groups": [vars(group) for group in self.groups], "times": list(self.times), "sprite": size}


def frames_of(axes: Axes, height: float, places: npt.NDArray[Any]) -> list[list[int]]:
    """Places (T, n, 2) in data coordinates as those of an SVG ``height`` inches high, once it has been drawn."""
    shape = places.shape
    drawn = axes.transData.transform(places.reshape(-1, 2)).reshape(shape)
    drawn[..., 1] = 72 * height - drawn[..., 1]  # 72 units an inch, and an axis that points down
    frames: list[list[int]] = np.rint(10 * drawn).astype(int).reshape(shape[0], -1).tolist()
    return frames


def sprite_of(images: Tensor) -> Sprite:
    """Images (n, C, H, W) between 0 black and 1 white, as large as a page can hold."""
    image_module = optional_package("PIL.Image", "report", "pillow")
    small = reduced(images, _MOST_NUMBERS)[:, :3]
    n, channels, height, width = small.shape
    columns = math.ceil(math.sqrt(n))
    padded = small.new_zeros(columns * math.ceil(n / columns), channels, height, width)
    padded[:n] = small
    grid = padded.reshape(-1, columns, channels, height, width).permute(0, 3, 1, 4, 2)
    pixels = (255 * grid.clamp(0, 1)).round().byte().reshape(-1, columns * width, channels).cpu().numpy()
    buffer = io.BytesIO()
    image_module.fromarray(pixels.squeeze(2) if channels == 1 else pixels).save(buffer, format="png", optimize=True)
    return Sprite(base64.b64encode(buffer.getvalue()).decode("ascii"), width, height, columns)
