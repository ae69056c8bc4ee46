"""Real images beside samples; of a conditional network a row for each class, with the accuracy of its labels."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.data import Dataset
from proxflow.errors import MissingExtraError
from proxflow.metrics import LabelAccuracy, label_accuracy
from proxflow.report.classes import Classes, classes_of
from proxflow.report.drawn_samples import DrawnSamples
from proxflow.report.figures import image_panel
from proxflow.report.template import Picture, Row
from proxflow.seeding import generator_of

__all__ = ["accuracy_fact", "accuracy_of", "data_beside_samples"]

_EACH = 5  # images of data, and as many samples, in a row
_ROWS = 5  # without classes
_MOST_CLASSES = 20
_MOST_JUDGED = 2000  # rows of the data that the classifier is made of, evenly by class: about a second
_CHOICE = 9  # numbers the generator, apart from those of the samples


def accuracy_of(dataset: Dataset, drawn: DrawnSamples, seed: int) -> LabelAccuracy | None:
    """How often samples look like the class that they were asked for.

    None where none was asked for, where there are not two classes of two rows, or without scikit-learn.
    """
    classes = classes_of(dataset)
    if drawn.labels is None or dataset.labels is None or classes is None:
        return None
    rows = _evenly(dataset.labels.cpu(), classes, seed)
    known = dataset.labels.cpu()[rows]
    judged = torch.isin(drawn.labels, known)
    if len(torch.unique(known)) < 2 or not bool(judged.any()):
        return None
    samples = drawn.end[judged].to(dataset.points.dtype)
    try:
        return label_accuracy(samples, drawn.labels[judged], dataset.points.cpu()[rows], known, seed=seed % 2**32)
    except MissingExtraError:
        return None


def _evenly(labels: Tensor, classes: Classes, seed: int) -> Tensor:
    """Rows of each class that has at least two, as many of each as there are, up to an even share."""
    most = max(2, _MOST_JUDGED // len(classes.names))
    order = torch.randperm(len(labels), generator=generator_of(seed, _CHOICE))
    members = [order[labels[order] == number][:most] for number in classes.numbers.tolist()]
    return torch.cat([rows for rows in members if len(rows) > 1] or [order[:0]]).sort().values


def accuracy_fact(accuracy: LabelAccuracy) -> Row:
    """For the table of a run."""
    return Row(
        "label accuracy",
        "share of samples to which a classifier of the data gives the class that they were asked for; and its own, on "
        "data that it has not seen",
        f"{accuracy.value:.1%} ± {accuracy.stderr:.1%}; {accuracy.classifier_accuracy:.1%}",
    )


def data_beside_samples(dataset: Dataset, drawn: DrawnSamples, accuracy: LabelAccuracy | None, seed: int) -> Picture:
    """Five images of data and five samples in each row."""
    classes = classes_of(dataset)
    order = torch.randperm(dataset.n, generator=generator_of(seed, _CHOICE))
    if drawn.labels is None or dataset.labels is None or classes is None:
        ours, theirs = order[: _ROWS * _EACH], torch.arange(min(_ROWS * _EACH, len(drawn.end)))
        rows, names = [(part, other) for part, other in zip(ours.split(_EACH), theirs.split(_EACH), strict=False)], []
    else:
        shown = list(zip(classes.numbers.tolist(), classes.names, strict=True))[:_MOST_CLASSES]
        labels = dataset.labels.cpu()[order]
        rows = [
            (order[labels == number][:_EACH], (drawn.labels == number).nonzero().squeeze(1)[:_EACH])
            for number, _ in shown
        ]
        names = [_row_name(name, None if accuracy is None else accuracy.by_class.get(number)) for number, name in shown]
    panel = image_panel(
        "images",
        _tiles(dataset, drawn, rows),
        2 * _EACH + 1,
        limits=dataset.value_range,
        titles=_titles(),
        row_names=names,
    )
    return Picture("Data beside samples", _alt(names, len(rows)), _caption(drawn, classes, accuracy), (panel,))


def _titles() -> list[str]:
    titles = [""] * (2 * _EACH + 1)
    titles[_EACH // 2], titles[_EACH + 1 + _EACH // 2] = "data", "samples"
    return titles


def _tiles(dataset: Dataset, drawn: DrawnSamples, rows: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Data, a gap, samples, in the data's own units; NaN where there is none."""
    tiles = torch.full((len(rows), 2 * _EACH + 1, *dataset.event_shape), torch.nan, dtype=dataset.points.dtype)
    for line, (ours, theirs) in zip(tiles, rows, strict=True):
        line[: len(ours)] = dataset.standardisation.undo(dataset.points.cpu()[ours])
        line[_EACH + 1 : _EACH + 1 + len(theirs)] = dataset.standardisation.undo(drawn.end[theirs].to(tiles))
    return tiles.flatten(0, 1)


def _row_name(name: str, right: float | None) -> str:
    return name if right is None else f"{name}: {right:.0%}"


def _alt(names: list[str], count: int) -> str:
    if not names:
        return f"{count} rows of {_EACH} images of the data at the left and {_EACH} samples at the right."
    return (
        f"A row for each class, {_EACH} images of the data at the left and {_EACH} samples at the right. "
        f"{', '.join(names)}."
    )


def _caption(drawn: DrawnSamples, classes: Classes | None, accuracy: LabelAccuracy | None) -> str:
    text = f"Drawn at random, not chosen, of {drawn.in_words}."
    if drawn.labels is None or classes is None:
        return text
    if len(classes.names) > _MOST_CLASSES:
        text += f" The first {_MOST_CLASSES} of {len(classes.names)} classes."
    if accuracy is not None:
        text += (
            " The share beside a class is that of its samples to which a classifier of the data gives it; for data "
            f"that the classifier has not seen, that is {accuracy.classifier_accuracy:.0%} over all classes."
        )
    return text
