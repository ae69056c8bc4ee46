"""Tables column by column: histograms, means, deviations and quantiles of data beside samples, in the data's units."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.report.canvas import ACCENT, PALE, literal, new_figure, svg
from proxflow.report.classes import classes_of
from proxflow.report.descriptions import column_names, four_digits
from proxflow.report.template import Picture, Table

__all__ = ["column_table", "marginals"]

_MOST_COLUMNS = 12
_MOST_CLASSES = 12
_QUANTILES = (0.05, 0.5, 0.95)
_OFF = 0.1  # of the data's standard deviation, for means; of 1, for ratios of deviations
_STANDARD_ERRORS = 3.0  # within which nothing is called off
_BINS = 30
_LONGEST = 28  # characters of a name below a histogram, which are as wide as it
_OUTER = 0.001  # quantile of the data beyond which a histogram need not reach


@dataclass(frozen=True)
class _Part:
    """Rows and samples of one class, or all; (n, d) and (m, d) in the data's own units."""

    name: str
    rows: Tensor
    samples: Tensor


def marginals(dataset: Dataset, samples: Tensor, what: str) -> Picture:
    """A histogram of each column of a table, data and samples on top of one another.

    Args:
        dataset: a table.
        samples: (n, d), standardised.
        what: what the samples are, in a few words.
    """
    names = column_names(dataset)[:_MOST_COLUMNS]
    rows, drawn = _own_units(dataset, dataset.points), _own_units(dataset, samples)
    panels = tuple(_histogram(f"column-{k}", name, rows[:, k], drawn[:, k]) for k, name in enumerate(names))
    moments = "; ".join(f"{name}: {_moments(rows[:, k])} and {_moments(drawn[:, k])}" for k, name in enumerate(names))
    return Picture(
        "Column by column",
        f"Histograms of {len(names)} columns. Mean and standard deviation of data and of samples: {moments}.",
        f"{_how_many(dataset)}Data filled, samples outlined, in the units of the data; {what}.",
        panels,
        (("var(--pale)", "data"), ("var(--accent)", "samples")),
    )


def column_table(dataset: Dataset, samples: Tensor, labels: Tensor | None, what: str) -> Table:
    """Numbers of each column, of all and, where samples have labels, of each class.

    Args:
        dataset: a table.
        samples: (n, d), standardised.
        labels: (n,) of the samples; None without.
        what: what the samples are, in a few words.
    """
    parts = _parts(dataset, samples, labels)
    lines: list[tuple[str, ...]] = []
    off = set()
    for k, name in enumerate(column_names(dataset)[:_MOST_COLUMNS]):
        for i, part in enumerate(parts):
            rows, drawn = part.rows[:, k], part.samples[:, k]
            own, none = ([part.name], [""]) if len(parts) > 1 else ([], [])
            head = name if i == 0 else ""
            lines += [(head, *own, "data", *_numbers(rows)), ("", *none, "samples", *_numbers(drawn))]
            off |= {len(lines) - 1} if _is_off(rows, drawn) else set()
    first = ("column", *(["class"] if len(parts) > 1 else []), "")
    return Table(
        "Numbers of each column",
        (*first, "mean", "sd", *(f"{q:.0%}" for q in _QUANTILES)),
        tuple(lines),
        f"{_how_many(dataset)}Mean, standard deviation and quantiles in the units of the data; {what}. Samples are "
        f"coloured where their mean is off by more than {_OFF:g} standard deviations or their deviation by more than "
        f"{_OFF:.0%}, and by more than {_STANDARD_ERRORS:g} standard errors.",
        names=len(first),
        off=frozenset(off),
    )


def _parts(dataset: Dataset, samples: Tensor, labels: Tensor | None) -> list[_Part]:
    rows, drawn = _own_units(dataset, dataset.points), _own_units(dataset, samples)
    parts = [_Part("all", rows, drawn)]
    classes = classes_of(dataset)
    if labels is None or classes is None or dataset.labels is None or len(classes.names) > _MOST_CLASSES:
        return parts
    known = dataset.labels.cpu()
    for number, name in zip(classes.numbers.tolist(), classes.names, strict=True):
        part = _Part(name, rows[known == number], drawn[labels == number])
        if min(len(part.rows), len(part.samples)) > 1:
            parts.append(part)
    return parts


def _own_units(dataset: Dataset, points: Tensor) -> Tensor:
    return dataset.standardisation.undo(points.cpu().double()).flatten(1)


def _histogram(panel: str, name: str, rows: Tensor, samples: Tensor) -> str:
    figure = new_figure(2.7, 2.1)
    axes = figure.add_subplot()
    ends = torch.stack([rows.min(), rows.max(), *(samples.quantile(q) for q in (_OUTER, 1 - _OUTER))])
    edges = torch.linspace(float(ends.min()), float(ends.max()), _BINS + 1, dtype=torch.float64)
    if edges[0] == edges[-1]:
        edges += torch.linspace(-0.5, 0.5, _BINS + 1, dtype=torch.float64)
    bins = edges.tolist()
    axes.hist(rows.numpy(), bins=bins, density=True, color=PALE)
    axes.hist(
        samples.clamp(edges[0], edges[-1]).numpy(), bins=bins, density=True, color=ACCENT, histtype="step", lw=1.4
    )
    axes.set(xlabel=literal(name, _LONGEST), yticks=[])
    axes.tick_params(labelsize=8)
    axes.locator_params(axis="x", nbins=4)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    return svg(figure, panel)


def _numbers(values: Tensor) -> list[str]:
    numbers = [values.mean(), values.std(correction=0), *(values.quantile(q) for q in _QUANTILES)]
    return [four_digits(float(number)) for number in numbers]


def _is_off(rows: Tensor, samples: Tensor) -> bool:
    """Whether mean or deviation differ by more than a tenth, and by more than chance."""
    scale, drawn = float(rows.std(correction=0)), float(samples.std(correction=0))
    if scale == 0:
        return drawn > 0
    chance: float = _STANDARD_ERRORS * math.sqrt(1 / len(rows) + 1 / len(samples))
    apart = abs(float(samples.mean() - rows.mean())) / scale
    return apart > max(_OFF, chance) or abs(drawn / scale - 1) > max(_OFF, chance)


def _moments(values: Tensor) -> str:
    return f"{four_digits(float(values.mean()))} ± {four_digits(float(values.std(correction=0)))}"


def _how_many(dataset: Dataset) -> str:
    return f"The first {_MOST_COLUMNS} of {dataset.dim} columns. " if dataset.dim > _MOST_COLUMNS else ""
