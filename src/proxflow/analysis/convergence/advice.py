"""One plain sentence: which batch size, or no minibatch OT at all."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from proxflow.analysis.convergence.rate import Rate, size_for

__all__ = ["Findings", "advise"]

_WORTHWHILE = 1000  # batches, fewer than any training takes, that pay for a fit
_EXACT_PAIRS = "pairs of the exact flow, (x0, flow.transport(x0)),"
_FURTHEST = 4.0  # times the largest size measured: further out a power law is no ground for a choice of batch size


@dataclass(frozen=True)
class Findings:
    """What the advice rests on: excess by gaps (K,) over W2^2, the seconds of a batch, and what else could be done.

    ``fit_seconds`` is None without a fit; ``finite`` says whether the data are finitely many points, ``most`` how large
    a batch of them can be (None: any size), ``weighted`` that they have weights, which ``couplings.Minibatch`` does not
    take. The rate is that of the sizes up to ``most``.
    """

    sizes: Tensor
    excess: Tensor
    transport_cost: float
    seconds: Tensor
    rate: Rate
    wanted: float
    finite: bool
    most: int | None
    weighted: bool
    fit_seconds: float | None


def advise(findings: Findings) -> str:
    """Independent pairs, a batch size that can be drawn, or the population coupling: the cheapest within the excess."""
    usable = [k for k, size in enumerate(findings.sizes.tolist()) if findings.most is None or size <= findings.most]
    if not usable:
        return (
            f"Do not use minibatch OT: a batch has at most all {findings.most:,} points, and every size measured has "
            f"more; {_population(findings)}."
        )
    scale = max(findings.transport_cost, 1e-300)
    shares = {k: float(findings.excess[k]) / scale for k in usable}
    met = [k for k in usable if shares[k] <= findings.wanted]
    return _with_a_size(findings, shares, met[0]) if met else _without_a_size(findings, shares, usable[-1])


def _with_a_size(findings: Findings, shares: dict[int, float], first: int) -> str:
    """Where a size that was measured, the one at ``first``, meets the wanted excess."""
    sizes, goal = findings.sizes.tolist(), _goal(findings)
    share, seconds = f"{_percent(max(shares[first], 0.0))} of it", float(findings.seconds[first])
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
    independent = f" (independent pairs: {_percent(shares[0])})" if sizes[0] == 1 else ""
    drawn = ", drawn by the weights and paired by couplings.pair" if findings.weighted else ""
    exact_pairs = "" if findings.finite else f"; {_EXACT_PAIRS} have no excess at all"
    return (
        f"Use minibatch OT with batches of {sizes[first]:,}{drawn}: the cost exceeds W2^2 by {share}{independent}, "
        f"within {goal}, for {_duration(seconds)} of assignment per batch on this machine{exact_pairs}."
    )


def _without_a_size(findings: Findings, shares: dict[int, float], last: int) -> str:
    """Where none does: the largest one measured is at ``last``."""
    goal, largest = _goal(findings), int(findings.sizes[last])
    sizes, excess = findings.sizes[: last + 1], findings.excess[: last + 1]
    wanted = size_for(findings.wanted * max(findings.transport_cost, 1e-300), sizes, excess, findings.rate)
    still = f"with batches of {largest:,} the cost still exceeds W2^2 by {_percent(shares[last])} of it"
    if not findings.finite and findings.most is None and wanted.size is not None and wanted.size <= _FURTHEST * largest:
        return (
            f"Use minibatch OT with batches of about {_rounded(wanted.size)} (extrapolated) for {goal}: {still}; "
            f"{_EXACT_PAIRS} have no excess at all."
        )
    if largest == findings.most:
        need = "that is as many as there are points"
    elif wanted.size is None:
        need = f"how many give {goal} cannot be told"
    elif findings.most is not None and wanted.size > findings.most:
        need = f"by the rate measured no batch of up to all {findings.most:,} points gives {goal}"
    else:
        need = f"{goal} would take about {_rounded(wanted.size)}"
    return f"Do not use minibatch OT: {still}, and {need}; {_population(findings)}."


def _goal(findings: Findings) -> str:
    return f"the {_percent(findings.wanted)} wanted"


def _population(findings: Findings) -> str:
    if findings.finite:
        return "use the semidiscrete coupling, which has none at any batch size"
    return f"use {_EXACT_PAIRS.rstrip(',')}, which have none at any batch size"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.2g}%" if percent < 10 else f"{percent:,.0f}%"


def _duration(seconds: float) -> str:
    value, unit = (seconds, "s") if seconds >= 1 else (1e3 * seconds, "ms")
    return f"{value:.2g} {unit}" if value < 10 else f"{value:,.0f} {unit}"


def _rounded(size: int) -> str:
    """Two digits, down where there are more, and an exponent where there are too many."""
    if size >= 1e7:
        return f"{size:.1e}"
    unit = 10 ** max(len(str(size)) - 2, 0)
    return f"{size // unit * unit:,}"
