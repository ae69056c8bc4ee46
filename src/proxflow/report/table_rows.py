"""The rows of a report's table: what the fit is worth, and what it was made from."""

from __future__ import annotations

from proxflow.data import Dataset
from proxflow.flow import ProximalFlow
from proxflow.report.template import Row
from proxflow.report.wording import chi2_in_words, cost_in_words, is_exact, method_in_words
from proxflow.semidiscrete import Fit

__all__ = ["certificate", "origin"]

_CLASSES_SHOWN = 30  # classes whose sizes fit a cell of the table
_UNITS = {
    "global": "standardised: the mean subtracted, and one scale for all coordinates, their root-mean-square deviation",
    "columns": "standardised: from each column its mean subtracted, and divided by its own standard deviation",
    "whiten": "whitened: means subtracted, each column divided by its standard deviation, and correlations removed",
    "none": "those of the data",
}


def certificate(fit: Fit, flow: ProximalFlow, dataset: Dataset) -> list[Row]:
    """What the fit is worth."""
    shape = " x ".join(str(size) for size in dataset.event_shape)
    exact = is_exact(fit)
    rows = [
        Row("points", "", f"{dataset.n:,}"),
        Row("atoms", "distinct points", f"{len(fit.potential.points):,}"),
        Row("dimension", "", f"{fit.potential.dim} ({shape})" if len(dataset.event_shape) > 1 else shape),
        Row("method", "", method_in_words(fit)),
    ]
    if fit.epsilon > 0:
        rows.append(Row("smoothing ε", "at 0 each noise point goes to one data point", f"{fit.epsilon:g}"))
    rows += [
        Row("χ²", "mean squared relative error of the cell masses", chi2_in_words(fit)),
        Row("tolerance", "on χ²" if exact else "on χ² plus two standard errors", f"{fit.tol:g}"),
    ]
    if not exact and fit.epsilon == 0:
        efficiency = fit.chi2 * fit.samples_used / len(fit.potential.points)
        rows.append(Row("χ² x draws / atoms", "1 is the statistical limit", f"{efficiency:.2f}"))
    end = "where the flow ends" if fit.epsilon > 0 else "data"
    if exact and fit.method != "one atom":
        evaluation = Row(
            "noise samples to check", "their counts agree with the cell masses", _count(fit.evaluation_samples)
        )
    else:
        evaluation = Row("noise samples to evaluate", "", _count(fit.evaluation_samples))
    return [
        *rows,
        Row("transport cost W₂²", f"mean squared distance from noise to {end}, standardised", cost_in_words(fit)),
        Row("noise samples to fit", "", _count(fit.samples_used)),
        evaluation,
        Row("time", "", f"{fit.seconds:.2f} s"),
        Row("seed", "", str(fit.seed)),
        Row("schedule", "", repr(flow.schedule)),
    ]


def origin(dataset: Dataset, command: str | None) -> list[Row]:
    """What the fit was made from, and the command that makes it again."""
    rows = [
        Row("units", "of points, distances and W₂²", _UNITS[dataset.standardisation.kind]),
        Row("data, SHA-256", "before standardisation", dataset.content_hash),
    ]
    rows += [Row("reading", "what was used and what was not", note) for note in dataset.notes]
    counts = dataset.class_counts
    if counts is not None:
        shown = [f"{name}:\N{NO-BREAK SPACE}{count:,}" for name, count in list(counts.items())[:_CLASSES_SHOWN]]
        hidden = len(counts) - len(shown)
        rows.append(
            Row("labels", "points of each class", ", ".join(shown) + (f", and {hidden:,} more" if hidden else ""))
        )
    if command is not None:
        rows.append(Row("command", "repeats this run", command, is_command=True))
    return rows


def _count(draws: int) -> str:
    return f"{draws:,}" if draws else "none"
