"""One plain sentence: which batch size, or no minibatch OT at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from proxflow.analysis.convergence_rate import Rate, size_for

__all__ = ["Findings", "advise"]

_WORTHWHILE = 1000  # batches, fewer than any training takes, that pay for a fit
_EXACT_PAIRS = "pairs of the exact flow, (x0, flow.transport(x0)),"
_FURTHEST = 4.0  # times the largest size measured: further out a power law is no ground for a choice of batch size


@dataclass(frozen=True)
class Findings:
    """What the advice rests on: excess by gaps (K,) over W2^2, the seconds of a batch, and what else could be done.

    ``fit_seconds`` is None without a fit; ``finite`` says whether the data are finitely many points.
    """

    sizes: Tensor
    excess: Tensor
    transport_cost: float
    seconds: Tensor
    rate: Rate
    wanted: float
    finite: bool
    fit_seconds: float | None


def advise(findings: Findings) -> str:
    """Independent pairs, a batch size, or the population coupling: the cheapest that meets the wanted excess."""
    sizes = findings.sizes.tolist()
    scale = max(findings.transport_cost, 1e-300)
    shares = [excess / scale for excess in findings.excess.tolist()]
    goal = f"the {_percent(findings.wanted)} wanted"
    met = [k for k, share in enumerate(shares) if share <= findings.wanted]
    if met:
        first = met[0]
        share, seconds = f"{_percent(max(shares[first], 0.0))} of it", float(findings.seconds[first])
        independent = f" (independent pairs: {_percent(shares[0])})" if sizes[0] == 1 else ""
        if sizes[first] == 1:
            return (
                "Independent coupling is enough: its cost exceeds the least possible one, W2^2 = "
                f"{findings.transport_cost:.4g}, by {share}, within {goal}."
            )
        if findings.fit_seconds is not None and findings.fit_seconds < _WORTHWHILE * seconds:
            paid_back = math.ceil(findings.fit_seconds / seconds)
            return (
                f"Do not use minibatch OT: batches of {sizes[first]:,} give {goal}, but take {_duration(seconds)}; "
                "use the semidiscrete coupling, which has no excess at any batch size, for a fit of "
                f"{_duration(findings.fit_seconds)}, what {paid_back:,} such batches take."
            )
        exact_pairs = "" if findings.finite else f"; {_EXACT_PAIRS} have no excess at all"
        return (
            f"Use minibatch OT with batches of {sizes[first]:,}: the cost exceeds W2^2 by {share}{independent}, within "
            f"{goal}, for {_duration(seconds)} of assignment per batch on this machine{exact_pairs}."
        )
    wanted = size_for(findings.wanted * scale, findings.sizes, findings.excess, findings.rate)
    last = f"with batches of {sizes[-1]:,} the cost still exceeds W2^2 by {_percent(shares[-1])} of it"
    close = wanted.size is not None and wanted.size <= _FURTHEST * sizes[-1]
    if wanted.size is not None and close and not findings.finite:
        return (
            f"Use minibatch OT with batches of about {_rounded(wanted.size)} (extrapolated) for {goal}: {last}; "
            f"{_EXACT_PAIRS} have no excess at all."
        )
    need = f"{goal} would take about {_rounded(wanted.size)}" if wanted.size is not None else f"how many give {goal} "
    if wanted.size is None:
        need += "cannot be told"
    if findings.finite:
        return (
            f"Do not use minibatch OT: {last}, and {need}; use the semidiscrete coupling, which has none at any size."
        )
    return f"Do not use minibatch OT: {last}, and {need}; use {_EXACT_PAIRS.rstrip(',')}."


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.2g}%" if percent < 10 else f"{percent:,.0f}%"


def _duration(seconds: float) -> str:
    value, unit = (seconds, "s") if seconds >= 1 else (1e3 * seconds, "ms")
    return f"{value:.2g} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def _rounded(size: int) -> str:
    """Two digits, and an exponent where there are too many."""
    return f"{float(f'{size:.2g}'):,.0f}" if size < 1e7 else f"{size:.1e}"
