"""Whether samples are copies: the training row that is nearest to each, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.auditing.intervals import Estimate, median_ratio
from proxflow.data import Dataset
from proxflow.metrics import NearestRows, nearest_rows
from proxflow.report.canvas import ACCENT, PALE, new_figure, svg
from proxflow.report.descriptions import column_names, four_digits, is_table
from proxflow.report.drawn_samples import DrawnSamples
from proxflow.report.figures import image_panel, is_image
from proxflow.report.template import Picture, Row, Table
from proxflow.seeding import generator_of

__all__ = ["Neighbours", "distance_picture", "nearest_row_fact", "nearest_row_pairs", "neighbours_of"]

_MOST_COMPARED = 1000
_FEWEST_COMPARED = 100
_OPERATIONS = 4e9  # multiplications with all rows, about a second on a core
_PAIRS = 10  # shown
_PAIRS_OF_A_TABLE = 5
_MOST_COLUMNS = 8
_BINS = 30
_ROWS_DRAWN = 8  # numbers the generator, apart from those of the samples


@dataclass(frozen=True)
class Neighbours:
    """Distances to the nearest training row.

    Attributes:
        samples: of samples.
        rows: of rows of the data, to the nearest other row.
    """

    samples: NearestRows
    rows: NearestRows

    @property
    def medians(self) -> tuple[float, float]:
        """Of samples and of rows."""
        return float(self.samples.distance.median()), float(self.rows.distance.median())

    def ratio(self, seed: int) -> Estimate:
        """Median of samples over that of rows, with a 95% interval; 1 is right, copies are at 0. NaN if rows repeat."""
        return median_ratio(self.samples.distance, self.rows.distance, seed)


def neighbours_of(dataset: Dataset, drawn: DrawnSamples, seed: int) -> Neighbours:
    """Of as many samples and as many rows as can be compared with all rows in about a second."""
    affordable = int(_OPERATIONS / (2 * dataset.n * dataset.dim))
    count = min(max(affordable, _FEWEST_COMPARED), _MOST_COMPARED)
    samples = drawn.end[:count].to(dataset.points).cpu()
    chosen = torch.randperm(dataset.n, generator=generator_of(seed, _ROWS_DRAWN, 0))[:count]
    points = dataset.points.cpu()
    left_out = torch.cat([torch.full((len(samples),), -1), chosen])
    found = nearest_rows(torch.cat([samples, points[chosen]]), points, left_out=left_out)
    parts = zip(*(part.split([len(samples), len(chosen)]) for part in (found.index, found.distance)), strict=True)
    ours, theirs = (NearestRows(index, distance) for index, distance in parts)
    return Neighbours(ours, theirs)


def nearest_row_fact(near: Neighbours) -> Row:
    """The ratio that memorisation lowers."""
    ours, theirs = near.medians
    ratio = f"; {ours / theirs:.2f} times as far" if theirs > 0 else ""
    return Row(
        "nearest training row",
        "median distance of samples, and of data rows to the nearest other row; copies are at 0",
        f"{four_digits(ours)} and {four_digits(theirs)}{ratio}",
    )


def distance_picture(near: Neighbours, dataset: Dataset) -> Picture:
    """Histogram of the distances of samples, on that of rows left out."""
    figure = new_figure(5.4, 3.0)
    axes = figure.add_subplot()
    both = torch.cat([near.samples.distance, near.rows.distance])
    edges = torch.linspace(0, max(float(both.max()), 1e-12), _BINS + 1).tolist()
    for found, options in (
        (near.rows, {"color": PALE, "label": "data rows left out"}),
        (near.samples, {"color": ACCENT, "histtype": "step", "lw": 1.6, "label": "samples"}),
    ):
        share = torch.full((len(found.distance),), 1 / len(found.distance)).numpy()
        axes.hist(found.distance.numpy(), bins=edges, weights=share, **options)
    axes.set(xlabel="distance to the nearest training row (standardised)", ylabel="share")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, fontsize=9)
    ours, theirs = near.medians
    least = float(near.samples.distance.min())
    count = f"{len(near.samples.index):,} samples and {len(near.rows.index):,} of {dataset.n:,} rows"
    return Picture(
        "Distance to the nearest training row",
        f"Two histograms. Median distance of samples {ours:.3g}, the least {least:.3g}; of data rows left out "
        f"{theirs:.3g}, the least {float(near.rows.distance.min()):.3g}.",
        f"{count}. No rows are held out from training, so each row is compared with all others (leave one out), as "
        "a new draw of the data's law would be. Samples that are copies pile up near 0; blurred ones lie left of the "
        "data too, noisy ones right.",
        (svg(figure, "distances"),),
    )


def nearest_row_pairs(near: Neighbours, dataset: Dataset, drawn: DrawnSamples) -> Picture | Table:
    """Samples with their nearest training rows, from the closest to the farthest."""
    many = _PAIRS if is_image(dataset.event_shape) else _PAIRS_OF_A_TABLE
    order = near.samples.distance.argsort()
    chosen = order[torch.linspace(0, len(order) - 1, min(many, len(order))).round().long()]
    rows, distances = near.samples.index[chosen], near.samples.distance[chosen].tolist()
    samples = dataset.standardisation.undo(drawn.end[chosen].to(dataset.points.dtype))
    nearest = dataset.standardisation.undo(dataset.points.cpu()[rows])
    if is_image(dataset.event_shape):
        return _image_pairs(dataset, samples, nearest, rows, distances)
    return _number_pairs(dataset, samples, nearest, rows, distances)


def _image_pairs(dataset: Dataset, samples: Tensor, nearest: Tensor, rows: Tensor, distances: list[float]) -> Picture:
    panel = image_panel(
        "pairs",
        torch.cat([samples, nearest]),
        len(samples),
        limits=dataset.value_range,
        row_names=("sample", "nearest row"),
        captions=[f"{distance:.3g}\nrow {row}" for distance, row in zip(distances, rows.tolist(), strict=True)],
    )
    return Picture(
        "Samples and their nearest training rows",
        f"{len(samples)} samples above their nearest training rows, at distances "
        f"{', '.join(f'{d:.3g}' for d in distances)}.",
        "From the closest sample (left) to the farthest, evenly spaced in rank. Below each pair: their distance, "
        "standardised, and the number of the row.",
        (panel,),
    )


def _number_pairs(dataset: Dataset, samples: Tensor, nearest: Tensor, rows: Tensor, distances: list[float]) -> Table:
    names = column_names(dataset) if is_table(dataset) else tuple(f"entry {k}" for k in range(dataset.dim))
    lines = []
    for sample, near, row, distance in zip(
        samples.flatten(1).tolist(), nearest.flatten(1).tolist(), rows.tolist(), distances, strict=True
    ):
        lines.append(("sample", *(four_digits(value) for value in sample[:_MOST_COLUMNS]), f"{distance:.3g}"))
        lines.append((f"row {row:,}", *(four_digits(value) for value in near[:_MOST_COLUMNS]), ""))
    return Table(
        "Samples and their nearest training rows",
        ("", *names[:_MOST_COLUMNS], "distance"),
        tuple(lines),
        "From the closest sample to the farthest, evenly spaced in rank; values in the data's own units, distances "
        "standardised.",
        names=1,
    )
