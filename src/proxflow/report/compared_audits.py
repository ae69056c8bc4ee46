"""Audits side by side, from their records: every figure with its error, and who is nearer to the exact flow."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from proxflow.analysis.auditing.audit_record import GROUPS_OF_FIGURES
from proxflow.report.run_comparison import (
    RANKED,
    ComparedFigure,
    Comparison,
    by_caution,
    joined,
    one_value,
    settings_of,
    unlike,
)

__all__ = ["compared_audits"]

_TARGETS = {
    "largest_eigenvalue": 1.0, "equivalent_batch": math.inf, "wasserstein": 0.0, "group_least": 1.0, "precision": 1.0,
    "recall": 1.0, "nearest_row_ratio": 1.0, "density_bits": -math.inf,
}  # fmt: skip
"""What is best of figures that no law fixes. Two have no best value: the local dimension is that of the data, and the
gain of four steps at other times says what would help; what they then err is a figure of its own."""
_BELOW_AS_GOOD = frozenset({"energy_distance", "group_error", "label_leakage", "largest_eigenvalue"})
"""Unbiased estimates of what is at least 0, and an eigenvalue with an upper bound."""
_MEASURED_BY = ("data", "held_out", "points", "count", "steps")  # options on which figures depend
_NOTES = (
    "A figure is best where it is nearest to the value of an exact optimal-transport flow, or, where no law fixes "
    "that, of data of the same law; an equivalent batch where it is large, density bits where they are few. The local "
    f"dimension and the gain of four steps at other times have no best value. {RANKED}"
)


def compared_audits(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> Comparison:
    """Runs of ``proxflow audit`` by their records, which hold all that is needed.

    Raises:
        KeyError, TypeError, ValueError: a record lacks something, or has it in another form.
    """
    questions = {question: _figures(entries, records) for question, entries in GROUPS_OF_FIGURES.items()}
    obstacles = _obstacles(names, records)
    data = joined(list(dict.fromkeys(str(record["data"]["name"]) for record in records)))
    return Comparison(
        command="audit",
        title=f"Audits of {len(names)} flows of {data}",
        names=tuple(names),
        settings=settings_of(records, ("run", "data")) | _audited(records),
        facts={"warnings": tuple(str(len(record["result"]["warnings"])) for record in records)},
        figures=tuple(figure for figures in questions.values() for figure in figures),
        obstacles=obstacles,
        cautions=by_caution(names, [[str(said) for said in record["result"]["warnings"]] for record in records]),
        verdict=_verdict(names, questions, obstacles),
        notes=_NOTES,
    )


def _audited(records: Sequence[Mapping[str, Any]]) -> dict[str, tuple[str, ...]]:
    return {
        "run that was audited": tuple(str(record["arguments"]["run"]) for record in records),
        "data of the audit": tuple(str(record["arguments"]["data"] or "kept by the run") for record in records),
    }


def _figures(
    entries: Mapping[str, tuple[float | None, str]], records: Sequence[Mapping[str, Any]]
) -> list[ComparedFigure]:
    """Those of one question that were measured in any run."""
    found = []
    for name, (law, _) in entries.items():
        kept = [record["result"]["figures"].get(name) for record in records]
        if any(kept):
            measured = tuple(None if one is None else one_value(one["value"], *one["interval"]) for one in kept)
            target = _TARGETS.get(name) if law is None else law
            found.append(ComparedFigure(name.replace("_", " "), measured, target, name in _BELOW_AS_GOOD))
    return found


def _obstacles(names: Sequence[str], records: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    data = [record["data"] for record in records]
    described = [f"{one['name']}, {str(one['sha256'])[:6]}" for one in data]
    found = unlike("other data", names, described)
    found += unlike("other standardisation, so distances are in other units", names,
                    [str(one["standardise"]) for one in data])  # fmt: skip
    for name in _MEASURED_BY:
        given = [record["arguments"].get(name) for record in records]
        found += unlike(f"other --{name.replace('_', '-')}", names, [str(one or "not given") for one in given])
    return tuple(found)


def _verdict(names: Sequence[str], questions: Mapping[str, Sequence[ComparedFigure]], obstacles: Sequence[str]) -> str:
    """For each question, which run leads alone in which figures."""
    if obstacles:
        return f"Not ranked, since the runs were not audited alike: {'; '.join(obstacles)}."
    parts = []
    for question, figures in questions.items():
        led = {name: [figure.name for figure in figures if figure.best == k] for k, name in enumerate(names)}
        said = [f"{name} leads in {joined(named)}" for name, named in led.items() if named]
        if any(figure.leaders for figure in figures):
            parts.append(f"{question} {'; '.join(said) or 'No run leads beyond error'}.")
    return " ".join(parts)
