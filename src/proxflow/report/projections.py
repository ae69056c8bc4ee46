"""Points of many dimensions in a plane: data beside samples, and the way from noise to data."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.errors import global_generators_kept, optional_package
from proxflow.report.canvas import literal, mark_points, new_figure, svg
from proxflow.report.classes import Classes, classes_of, one_class
from proxflow.report.descriptions import values_in_words
from proxflow.report.drawn_samples import DrawnSamples
from proxflow.report.figures import brightness, is_image
from proxflow.report.live import Group, Live, Sprite, frames_of, sprite_of
from proxflow.report.template import Picture
from proxflow.seeding import generator_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["RowsShown", "few_rows", "plane_axes", "plane_in_words", "projection", "scatter", "umap_projection"]

_MOST_ROWS, _MOST_SAMPLES = 1500, 600  # points of a panel: a point takes about 200 bytes of the page
_MOST_IMAGES = 500  # of each, where every point has its picture
_WIDTH, _HEIGHT = 4.1, 3.9  # inches of a panel
_ROWS_OF_A_PLANE = 5000  # about: its directions are then known to a hundredth or so
_ROWS_OF_UMAP = 1000  # it takes seconds for these
_Array = npt.NDArray[Any]


def plane_axes(points: Tensor, columns: tuple[str, ...] | None = None) -> tuple[Tensor, tuple[str, str]]:
    """The plane that a picture of (N, d) points, d >= 2, is drawn in, (d, 2), and the names of its axes.

    The coordinates themselves in dimension 2, else the two directions of largest variance.
    """
    if points.shape[1] == 2:
        names = ("first coordinate", "second coordinate") if columns is None else (columns[0], columns[1])
        return torch.eye(2).to(points), names
    centred = _centred(points)
    _, axes = torch.linalg.eigh(centred.mT @ centred)
    return axes[:, -2:].flip(1).to(points), ("first principal direction", "second principal direction")


def plane_in_words(points: Tensor, plane: Tensor) -> str:
    """What plane it is, and how much of the variance of points (N, d) it holds."""
    if points.shape[1] == 2:
        return "the plane of the two coordinates"
    centred = _centred(points)
    share = float((centred @ plane.double()).square().sum() / centred.square().sum().clamp(min=1e-300))
    return f"the plane of the two directions of largest variance, which hold {share:.0%} of it"


def _centred(points: Tensor) -> Tensor:
    """Enough of the rows for a plane, in float64 and about their mean."""
    some = points[:: max(1, len(points) // _ROWS_OF_A_PLANE)].double()
    return some - some.mean(0)


@dataclass(frozen=True)
class RowsShown:
    """Rows of a data set that a picture shows, and the classes of all.

    Attributes:
        rows: (n,) which, increasing.
        classes: of the data; one that holds all where they have none.
        belongs: (n,) which class each row shown is of.
        texts: what each is.
    """

    rows: Tensor
    classes: Classes
    belongs: Tensor
    texts: list[str]

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """For the page; none where there are no classes."""
        return self.classes.legend if len(self.classes.names) > 1 else ()


def few_rows(dataset: Dataset, seed: int, most: int = _MOST_ROWS) -> RowsShown:
    """A random subset of the rows, or all."""
    rows = torch.arange(dataset.n)
    if dataset.n > most:
        rows = torch.randperm(dataset.n, generator=generator_of(seed))[:most].sort().values
    classes = classes_of(dataset)
    if classes is None or dataset.labels is None:
        classes, belongs = one_class("data"), torch.zeros(len(rows), dtype=torch.int64)
        names = [f"row {row:,}" for row in rows.tolist()]
    else:
        belongs = classes.places(dataset.labels.cpu()[rows])
        names = [f"row {r:,}, class {classes.names[k]}" for r, k in zip(rows.tolist(), belongs.tolist(), strict=True)]
    values = values_in_words(dataset, dataset.points.cpu()[rows])
    return RowsShown(rows, classes, belongs, [f"{a}\n{b}" for a, b in zip(names, values, strict=True)])


def scatter(axes: Axes, name: str, seen: _Array, belongs: Tensor, classes: Classes) -> list[tuple[str, _Array]]:
    """Dots (n, 2) coloured by class; the names under which the page finds them, and which they are."""
    groups = []
    for k, colour in enumerate(classes.colours):
        chosen = (belongs == k).nonzero().squeeze(1).numpy()
        if len(chosen):
            marked = mark_points(f"{name}-{k}")
            axes.plot(*seen[chosen].T, ls="", marker="o", ms=3, mew=0, color=colour, alpha=0.75, gid=marked)
            groups.append((f"{name}-{k}", chosen))
    return groups


def projection(dataset: Dataset, drawn: DrawnSamples, seed: int) -> Picture:
    """Data beside samples, which the page moves from noise to where they end."""
    shown = few_rows(dataset, seed, _MOST_IMAGES if is_image(dataset.event_shape) else _MOST_ROWS)
    points = dataset.points.cpu().flatten(1)
    plane, names = plane_axes(points, dataset.columns)
    samples = drawn.points[:, : _samples_shown(dataset)].flatten(2).to(plane)
    moving, still = (samples @ plane).numpy(), (points[shown.rows] @ plane).numpy()
    axis_names = [f"{literal(name)} (standardised)" for name in names]
    clouds = _clouds("plane", dataset, drawn, shown, still, moving)
    panels, groups = _panels(clouds, axis_names)
    words = plane_in_words(points, plane)
    return Picture(
        "Data and samples in a plane",
        f"Two clouds in {words}. {_moments('Data', still)} {_moments('Samples', moving[-1])}",
        f"Left {len(shown.rows):,} of {dataset.n:,} rows, right {moving.shape[1]:,} samples, in {words}. "
        "Point at one to see what it is; the slider moves samples from noise to where they end.",
        panels,
        shown.legend,
        Live(groups, drawn.times, sprite=_sprite(dataset, shown, drawn)),
    )


def umap_projection(dataset: Dataset, drawn: DrawnSamples, seed: int) -> Picture | None:
    """Data beside samples by UMAP of the data alone; None where umap-learn is not installed, or there is no need."""
    if dataset.dim < 3 or dataset.n < 20 or importlib.util.find_spec("umap") is None:
        return None
    few = _MOST_IMAGES if is_image(dataset.event_shape) else _ROWS_OF_UMAP
    shown = few_rows(dataset, seed, few)
    with global_generators_kept():
        model = optional_package("umap", "umap", "umap-learn").UMAP(random_state=seed % 2**32, n_jobs=1)
        still = model.fit_transform(dataset.points.cpu().flatten(1)[shown.rows].numpy())
        ends = model.transform(drawn.end[: _samples_shown(dataset)].flatten(1).numpy())
    clouds = _clouds("umap", dataset, drawn, shown, still, ends[None])
    panels, groups = _panels(clouds, ["first UMAP axis", "second UMAP axis"])
    return Picture(
        "Data and samples by UMAP",
        f"Two clouds by UMAP. {_moments('Data', still)} {_moments('Samples', ends)}",
        f"UMAP of {len(shown.rows):,} rows (left), to which {len(ends):,} samples were added (right). Neighbours stay "
        "neighbours; distances between groups mean little.",
        panels,
        shown.legend,
        Live(groups, sprite=_sprite(dataset, shown, drawn)),
    )


@dataclass(frozen=True)
class _Cloud:
    """What a panel shows.

    Attributes:
        name: in the page.
        title: above it.
        seen: (T, n, 2) places at the times of the slider, of which the last are drawn; T is 1 where none move.
        belongs: (n,) classes of the points.
        classes: names and colours of these.
        texts: what each point is.
        tiles: number of the first one's picture; None without pictures.
    """

    name: str
    title: str
    seen: _Array
    belongs: Tensor
    classes: Classes
    texts: list[str]
    tiles: int | None


def _clouds(
    name: str, dataset: Dataset, drawn: DrawnSamples, shown: RowsShown, still: _Array, moving: _Array
) -> tuple[_Cloud, _Cloud]:
    """Data, (n, 2), and samples, (T, m, 2)."""
    count = moving.shape[1]
    if drawn.labels is None:
        classes, belongs, asked = one_class("samples"), torch.zeros(count, dtype=torch.int64), [""] * count
    else:
        classes, belongs = shown.classes, shown.classes.places(drawn.labels[:count])
        asked = [f", asked for class {classes.names[k]}" for k in belongs.tolist()]
    values = values_in_words(dataset, drawn.end[:count])
    texts = [f"sample {i:,}{a}\n{v}" for i, (a, v) in enumerate(zip(asked, values, strict=True))]
    first, second = (0, len(still)) if is_image(dataset.event_shape) else (None, None)
    return (
        _Cloud(f"{name}-data", "data", still[None], shown.belongs, shown.classes, shown.texts, first),
        _Cloud(f"{name}-samples", "samples", moving, belongs, classes, texts, second),
    )


def _panels(clouds: tuple[_Cloud, ...], axis_names: list[str]) -> tuple[tuple[str, ...], tuple[Group, ...]]:
    """Panels on the same axes, which hold all places at all times."""
    everything = np.concatenate([cloud.seen.reshape(-1, 2) for cloud in clouds])
    panels, groups = [], []
    for cloud in clouds:
        figure = new_figure(_WIDTH, _HEIGHT)
        axes = figure.add_subplot()
        found = scatter(axes, cloud.name, cloud.seen[-1], cloud.belongs, cloud.classes)
        axes.set_title(cloud.title, fontsize=10)
        axes.set(xlabel=axis_names[0], ylabel=axis_names[1])
        axes.update_datalim(everything)
        axes.autoscale_view()
        axes.set_aspect("equal", adjustable="datalim")
        panels.append(svg(figure, cloud.name))
        groups += [_group(name, chosen, cloud, axes) for name, chosen in found]
    return tuple(panels), tuple(groups)


def _group(name: str, chosen: _Array, cloud: _Cloud, axes: Axes) -> Group:
    members = chosen.tolist()
    tiles = None if cloud.tiles is None else [cloud.tiles + i for i in members]
    frames = frames_of(axes, _HEIGHT, cloud.seen[:, chosen]) if len(cloud.seen) > 1 else None
    return Group(name, [cloud.texts[i] for i in members], tiles, frames)


def _samples_shown(dataset: Dataset) -> int:
    return _MOST_IMAGES if is_image(dataset.event_shape) else _MOST_SAMPLES


def _sprite(dataset: Dataset, shown: RowsShown, drawn: DrawnSamples) -> Sprite | None:
    """Pictures of the rows and then of the samples shown, where they are images."""
    if not is_image(dataset.event_shape):
        return None
    both = torch.cat([dataset.points.cpu()[shown.rows], drawn.end[: _samples_shown(dataset)].to(dataset.points.dtype)])
    return sprite_of(brightness(dataset.standardisation.undo(both), dataset.value_range))


def _moments(what: str, seen: _Array) -> str:
    mean, spread = seen.mean(0), seen.std(0)
    return (
        f"{what}: mean ({mean[0]:.2g}, {mean[1]:.2g}), standard deviations {spread[0]:.2g} across and {spread[1]:.2g} "
        "up."
    )
