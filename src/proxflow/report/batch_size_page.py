"""The page of a study of batch sizes: how far minibatch pairs are from the optimal ones, and what to do."""

from __future__ import annotations

from proxflow.analysis import MinibatchConvergence
from proxflow.data import Dataset
from proxflow.report.batch_size_figures import batch_convergence
from proxflow.report.table_rows import origin
from proxflow.report.template import Facts, Picture, Row, Table, render

__all__ = ["batch_table", "draws_in_words", "rate_in_words", "render_batch_size_page", "routes_in_words"]

_ROUNDING = 1e-12  # of the transport cost: less than this is no excess


def render_batch_size_page(study: MinibatchConvergence, dataset: Dataset, command: str | None = None) -> str:
    """One self-contained HTML page.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    return render(
        name=dataset.name,
        title=f"How large must the batch be? {dataset.name}",
        good=True,
        verdict=study.advice.replace("W2^2", "W₂²"),
        summary=(
            "Minibatch OT-CFM pairs n noise points with n data points at least cost. Their mean cost C(n) exceeds the "
            "least possible one, W₂², by the excess. It bounds how far the field that they teach is from that of the "
            "population coupling: E|v(n) - v|² is at most excess / (2 t (1 - t)) for the linear schedule."
        ),
        sections=[
            Picture(
                "Excess against batch size",
                _alt(study),
                "Two routes to one number: mean costs less W₂², and twice the mean Fenchel-Young gap, of the same "
                "pairs. Bars are 95% intervals of each; their difference is known far better. The semidiscrete "
                "coupling has no batch size; its line is what its fit misses.",
                (batch_convergence(study),),
            ),
            batch_table(study),
            Facts("The study", tuple(_rows(study, dataset))),
            Facts("Origin", tuple(origin(dataset, command))),
        ],
    )


def _rows(study: MinibatchConvergence, dataset: Dataset) -> list[Row]:
    low, high = study.transport_cost_interval
    return [
        Row("points", "", f"{dataset.n:,}"),
        Row("dimension", "", " x ".join(str(size) for size in dataset.event_shape)),
        Row(
            "W₂²",
            "95% interval, by a route without the dual value",
            f"{study.transport_cost:.4g} [{low:.4g}, {high:.4g}]",
        ),
        Row("targets of a batch", "", draws_in_words(study)),
        Row("rate", "near the largest batch sizes", rate_in_words(study)),
        Row("two routes to the excess", "share the pairs, not the formula", routes_in_words(study)),
        Row("solver", "of the assignments", study.solver),
        Row("seed", "", str(study.seed)),
        Row("schedule", "", repr(study.schedule)),
    ]


def _alt(study: MinibatchConvergence) -> str:
    sizes, shares = study.batch_sizes.tolist(), (2 * study.gap / study.transport_cost).tolist()
    points = ", ".join(f"{share:.1%} at {size:,}" for size, share in zip(sizes, shares, strict=True))
    return f"Excess of the mean cost over W₂² = {study.transport_cost:.4g} at each batch size: {points}."


def batch_table(study: MinibatchConvergence, plus_minus: str = "±") -> Table:
    """The numbers of each batch size, with one standard error; the share is that of the excess by gaps in W2^2."""
    columns = ("n", "cost", "excess by costs", "excess by gaps", "share", "bound, t = 1/2", "ms a batch")
    bound = study.bound(0.5)
    least = _ROUNDING * study.transport_cost
    rows = []
    for k, size in enumerate(study.batch_sizes.tolist()):
        excess = 2 * float(study.gap[k])
        row = (
            f"{size:,}",
            _four_digits(float(study.cost[k])),
            _with_error(float(study.excess[k]), float(study.excess_stderr[k]), least, plus_minus),
            _with_error(excess, 2 * float(study.gap_stderr[k]), least, plus_minus),
            f"{excess / study.transport_cost:.1%}",
            _four_digits(float(bound[k])) if bound[k] > least else "0",
            _in_milliseconds(1e3 * float(study.seconds_per_batch[k])) if size > 1 else "-",
        )
        rows.append(row)
    return Table("Batch by batch", columns, tuple(rows))


def rate_in_words(study: MinibatchConvergence) -> str:
    """The power law, or why there is none."""
    rate = study.rate
    if rate.exponent is None or rate.interval is None:
        return f"none: {rate.reason}"
    low, high = rate.interval
    over = f"from n = {rate.sizes[0]:,} to {rate.sizes[-1]:,}"
    return f"excess ~ n^-{rate.exponent:.2f}, 95% interval [{low:.2f}, {high:.2f}], {over}"


def draws_in_words(study: MinibatchConvergence) -> str:
    """How rows, or draws of another law, come into a batch."""
    replaced = study.replacement.tolist()
    without = "without replacement, as couplings.Minibatch draws them"
    if not any(replaced):
        return f"rows {without}"
    if study.rows is None:
        return "independent draws"
    if all(replaced):
        return "rows with replacement"
    return f"rows {without}; more than there are with replacement"


def routes_in_words(study: MinibatchConvergence) -> str:
    """How far the two routes to the excess are apart, in standard errors of their difference."""
    apart = float((study.disagreement / study.disagreement_stderr).abs().max())
    return f"at most {apart:.1f} standard errors of their difference apart"


def _with_error(value: float, stderr: float, least: float, plus_minus: str) -> str:
    if abs(value) + stderr < least:
        return "0"
    return f"{_four_digits(value)} {plus_minus} {f'{stderr:#.2g}'.rstrip('.')}"


def _four_digits(value: float) -> str:
    return f"{value:#.4g}".rstrip(".")


def _in_milliseconds(time: float) -> str:
    return f"{time:#.2g}" if time < 10 else f"{time:,.0f}"
