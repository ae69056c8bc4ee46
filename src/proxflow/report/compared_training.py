"""Training runs side by side, from their records: samples at few steps and at many, spread, copies, cost."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from proxflow.metrics import FewSteps, Spread
from proxflow.report.run_comparison import (
    RANKED,
    STANDARD_ERRORS,
    ComparedFigure,
    Comparison,
    Measured,
    by_caution,
    joined,
    one_value,
    settings_of,
    symmetric,
    unlike,
)
from proxflow.report.training_page import complaint
from proxflow.report.wording import counted

__all__ = ["compared_training", "quality_of"]

_COPIES = 0.5  # of the distance of rows to one another, below which samples are called copies, as an audit does
_NOT_KNOWN = "not recorded"
_NOTES = (
    "Variance ratio: total variance of the samples over that of the data. Nearest-row ratio: median distance of "
    "samples at 8 steps to the nearest training row, over that of rows to the nearest other. A figure is best where "
    f"it is nearest to 0 (energy distance) or to 1 (the ratios). {RANKED} Errors are those of the "
    "samples and rows that were measured, not of training: how much a network changes with the seed of its training, "
    "only a second run tells. Rows compared with are rows trained on: a network that copies them wins at energy "
    "distance, and the nearest-row ratio gives it away."
)


def compared_training(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> Comparison:
    """Runs of ``proxflow train`` by their records, which hold all that is needed.

    Raises:
        KeyError, TypeError, ValueError: a record lacks something, or has it in another form.
    """
    qualities = [quality_of(record) for record in records]
    obstacles = _obstacles(names, records)
    distances = _distances(qualities)
    figures = (*distances.values(), *_spreads(qualities), _nearest_rows(records))
    cautions = [_cautions(record, quality) for record, quality in zip(records, qualities, strict=True)]
    data = joined(list(dict.fromkeys(str(record["data"]["name"]) for record in records)))
    return Comparison(
        command="train",
        title=f"{len(names)} networks trained on {data}",
        names=tuple(names),
        settings=settings_of(records),
        facts=_facts(records),
        figures=figures,
        obstacles=obstacles,
        cautions=by_caution(names, cautions),
        verdict=_verdict(names, distances, obstacles),
        notes=_NOTES,
    )


def quality_of(record: Mapping[str, Any]) -> FewSteps:
    """The comparison of samples that a record keeps, without the samples.

    Raises:
        KeyError, TypeError, ValueError: the record lacks something, or has it in another form.
    """
    kept, nothing = record["result"]["quality"], torch.empty(0)
    steps = tuple(int(count) for count in kept["steps"])
    names = ("energy_distance", "energy_distance_error", "total_variance_over_data", "total_variance_error")
    distance, error, total, total_error = (
        tuple(float("nan" if value is None else value) for value in kept[name]) for name in names
    )
    if not steps or {len(steps)} != set(map(len, (distance, error, total, total_error))):
        raise ValueError("quality holds lists of different lengths")
    spread = tuple(
        Spread(ratio, off, nothing, nothing, nothing, nothing) for ratio, off in zip(total, total_error, strict=True)
    )
    of_noise, of_normal = (float(kept[f"energy_distance_of_{law}"]) for law in ("noise", "normal_law"))
    return FewSteps(steps, nothing, distance, error, spread, of_noise, of_normal, int(kept.get("compared", 0)))


def _all_steps(qualities: Sequence[FewSteps]) -> list[int]:
    return sorted({count for quality in qualities for count in quality.steps})


def _distances(qualities: Sequence[FewSteps]) -> dict[int, ComparedFigure]:
    """Energy distances by the number of steps."""
    found = {}
    for count in _all_steps(qualities):
        places = [quality.steps.index(count) if count in quality.steps else None for quality in qualities]
        measured = tuple(
            None if k is None else symmetric(quality.energy_distance[k], quality.energy_distance_error[k])
            for k, quality in zip(places, qualities, strict=True)
        )
        name = f"energy distance, {counted(count, 'step')}"
        found[count] = ComparedFigure(name, measured, target=0.0, below_as_good=True)
    return found


def _spreads(qualities: Sequence[FewSteps]) -> list[ComparedFigure]:
    """Total variances over the data's by the number of steps."""
    found = []
    for count in _all_steps(qualities):
        spreads = [quality.spread[quality.steps.index(count)] if count in quality.steps else None
                   for quality in qualities]  # fmt: skip
        measured = tuple(
            None if one is None or math.isnan(one.total) else symmetric(one.total, one.total_error) for one in spreads
        )
        found.append(ComparedFigure(f"variance ratio, {counted(count, 'step')}", measured, target=1.0))
    return found


def _nearest_rows(records: Sequence[Mapping[str, Any]]) -> ComparedFigure:
    measured = tuple(_nearest_row(record) for record in records)
    return ComparedFigure("nearest-row ratio", measured, target=1.0)


def _nearest_row(record: Mapping[str, Any]) -> Measured | None:
    kept = record["result"]["quality"]
    return one_value(kept.get("nearest_row_ratio"), *kept.get("nearest_row_ratio_interval", (None, None)))


def _facts(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    results = [record["result"] for record in records]
    arguments = [record["arguments"] for record in records]
    return {
        "data and points": tuple(f"{record['data']['name']}, {record['data']['points']:,}" for record in records),
        "coupling": tuple(str(told["coupling"]) for told in arguments),
        "network": tuple(str(told["network"]) for told in arguments),
        "width and depth": tuple(f"{told['width']}, {told['depth']}" for told in arguments),
        "parameters": tuple(_count(result.get("parameters")) for result in results),
        "training steps": tuple(
            f"{result['steps']:,}{'' if result['finished'] else ', stopped early'}" for result in results
        ),
        "seconds": tuple(f"{result['seconds']:.1f}" for result in results),
        "loss at the end": tuple(f"{result['loss']:.4g}" for result in results),
        "field error": tuple(
            "not measured" if result["field_error"] is None else f"{result['field_error']:.4g}" for result in results
        ),
        "samples measured": tuple(_count(result["quality"].get("samples")) for result in results),
        "rows compared with": tuple(_count(result["quality"].get("compared")) for result in results),
    }


def _count(number: int | None) -> str:
    return _NOT_KNOWN if number is None else f"{number:,}"


def _obstacles(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Why figures of these runs are not of one thing."""
    data = [record["data"] for record in records]
    kept = [record["result"]["quality"] for record in records]
    hashes = [str(one["sha256"]) for one in data]
    if len(set(hashes)) > 1:
        described = [f"{one['name']} of {counted(one['points'], 'point')}, {one['sha256'][:6]}" for one in data]
        return tuple(unlike("other data", names, described))
    found = unlike("other standardisation, so distances are in other units", names,
                   [str(one["standardise"]) for one in data])  # fmt: skip
    found += unlike("other numbers of samples", names, [_count(one.get("samples")) for one in kept])
    found += unlike("other numbers of rows compared with", names, [_count(one.get("compared")) for one in kept])
    if not found and any(one.get("compared", 0) < whole["points"] for one, whole in zip(kept, data, strict=True)):
        seeds = [f"by seed {record['arguments']['seed']}" for record in records]
        found += unlike("other rows of the data compared with, drawn", names, seeds)
    return tuple(found)


def _cautions(record: Mapping[str, Any], quality: FewSteps) -> list[str]:
    """What is wrong with a run, by the rules of its own page."""
    found = [said] if (said := complaint(quality)) else []
    if not record["result"]["finished"]:
        found.append("Training was stopped early.")
    near = _nearest_row(record)
    if near is not None and near.value + STANDARD_ERRORS * near.above < _COPIES:
        found.append(
            "The samples are copies of rows: the nearest is at less than half of the distance at which rows have "
            "theirs. Train for less time, or on more rows."
        )
    return found


def _verdict(names: Sequence[str], distances: Mapping[int, ComparedFigure], obstacles: Sequence[str]) -> str:
    """Who is nearest to the data, at which numbers of steps."""
    if obstacles:
        return f"Not ranked, since the runs were not measured on the same: {'; '.join(obstacles)}."
    parts = [
        _led(names, distances, list(steps))
        for _, steps in itertools.groupby(distances, key=lambda count: distances[count].leaders)
    ]
    text = "; ".join(filter(None, parts))
    return f"{text[:1].upper()}{text[1:]}." if text[:3] == "at " else f"{text}."


def _led(names: Sequence[str], distances: Mapping[int, ComparedFigure], steps: list[int]) -> str:
    """What is said of numbers of steps where the same runs lead."""
    figure, at = distances[steps[0]], _at(steps)
    if not figure.leaders:
        return ""
    if figure.all_alike:
        return f"at {at} the runs do not differ beyond error"
    nearest = "nearer" if len(names) == 2 else "nearest"
    leaders = joined([names[k] for k in figure.leaders])
    if figure.best is not None:
        return f"{leaders} is {nearest} to the data at {at}"
    return f"at {at} {leaders} are {nearest} to the data and do not differ beyond error"


def _at(steps: list[int]) -> str:
    if len(steps) == 1:
        return counted(steps[0], "step")
    return f"{steps[0]} {'and' if len(steps) == 2 else 'to'} {steps[-1]:,} steps"
