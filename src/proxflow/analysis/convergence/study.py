"""How far is minibatch OT-CFM from the population flow, and how large must the batch be? (docs/theory.md 4)"""

from __future__ import annotations

import contextlib
import math
import operator
import time
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from proxflow.analysis.convergence.advice import Findings, advise
from proxflow.analysis.convergence.batches import Plan, SizeResult, run_size
from proxflow.analysis.convergence.rate import Rate, fit_rate
from proxflow.analysis.convergence.record import MinibatchConvergence
from proxflow.analysis.convergence.target import FiniteTarget, Target, TransportedTarget, rows_of_equal_weight
from proxflow.checks import Numbers, as_tensor
from proxflow.couplings.pairing import EPSILON, check_solver
from proxflow.errors import ConvergenceWarning
from proxflow.measures import Source
from proxflow.potentials import Discrete, Potential
from proxflow.potentials.atoms import has_atoms
from proxflow.progress import reporter
from proxflow.schedules import Linear, Schedule
from proxflow.seeding import generator_of
from proxflow.semidiscrete import Fit, fit
from proxflow.semidiscrete.fit_result import uninterrupted

__all__ = ["minibatch_convergence"]

_ROUNDINGS = 64  # units of rounding of a cost, that sums of squares may be off by
_LARGE_MASS_ERROR = 0.25  # chi2 from which J(h) - J* is beyond a second-order expansion


def minibatch_convergence(
    points_or_potential: Numbers | Potential | Fit,
    batch_sizes: Sequence[int] | Tensor,
    *,
    solver: str = "exact",
    epsilon: float = EPSILON,
    replacement: bool | None = None,
    seed: int = 0,
    source: Source | None = None,
    schedule: Schedule | None = None,
    transport_cost: float | None = None,
    wanted: float = 0.05,
    relative_error: float = 0.02,
    max_pairs: int = 1 << 16,
    kept_pairs: int = 512,
    fit_tol: float = 0.1,
    max_memory: int = 2**28,
    progress: bool | None = None,
) -> MinibatchConvergence:
    """Cost, excess and mean Fenchel-Young gap of minibatch pairs, with the rate at which they fall and what to do.

    Batches of n independent source points and n targets are assigned at least cost; n = 1 is independent coupling. The
    excess C_n - W2^2 and twice the mean gap are one number by two routes, which share the pairs and the potential, not
    the formula (see ``MinibatchConvergence.disagreement``). Each batch size gets as many batches as bring both standard
    errors down to ``relative_error`` of the excess. Ctrl-C returns the batch sizes that are done, with a warning.

    Rows of the data are drawn as ``couplings.Minibatch`` draws them, without replacement within a batch. A batch of n >
    N is none that ``Minibatch`` makes: its rows are independent draws, as in a loop that draws with replacement. So are
    targets of other laws: those of a potential such as ``Quadratic``, and atoms of unequal weights. C_n does not rise
    with n within either kind; without replacement it is the lower one.

    Args:
        points_or_potential: the data (N, *event), which are fitted first; a fit of them; or a potential whose target is
            known, such as ``potentials.Quadratic``. For finite data the field is that of their weights. A ``Discrete``
            potential of equal weights stands for rows that are its atoms; give the fit where rows are equal.
        batch_sizes: positive whole numbers, distinct; they are put in order.
        solver: "exact" or "sinkhorn" (see ``couplings.pair``), ``epsilon`` the regularisation of the latter.
        epsilon: see ``solver``.
        replacement: None as above. True draws with replacement at every size; False refuses what cannot be drawn
            without.
        seed: seed of all randomness. A batch size has draws of its own, whatever the others are.
        source: law of the noise, for data; standard normal if None. A fit or potential has its own.
        schedule: schedule of the fields whose distance is bounded and measured; Linear if None.
        transport_cost: W2^2 where it is known better than from fresh draws.
        wanted: the excess, as a share of W2^2, that the advice aims at: the yardstick of published path energies. W2^2
            counts all of the way, the mean's and that of noise across the data too, which any coupling learns.
        relative_error: standard errors over the excess to draw for.
        max_pairs: largest number of pairs of one batch size; at least 16 batches are drawn all the same.
        kept_pairs: number of pairs kept of each batch size, for ``measured_error`` and ``field_error``; rounded down
            to a power of two, and less where they would take over a quarter of ``max_memory``.
        fit_tol: tolerance of the fit on chi2. Loose is enough: what it leaves of J(h) - J* is measured, and taken off.
        max_memory: bytes for noise and scores.
        progress: show a status line; None shows one on a terminal.

    Returns:
        ``MinibatchConvergence``.

    Raises:
        ValueError: bad data or arguments; the message names them.
        MissingExtraError: "sinkhorn" without POT.
    """
    sizes = _checked_sizes(batch_sizes)
    check_solver("minibatch_convergence", solver, epsilon)
    _check_numbers(transport_cost, wanted, relative_error, (max_pairs, kept_pairs, max_memory))
    if not (replacement is None or isinstance(replacement, bool)):
        raise ValueError(f"minibatch_convergence: replacement must be None, True or False, got {replacement!r}")
    report = reporter("minibatch", progress)
    target, fitted = _target(points_or_potential, source, transport_cost, fit_tol, seed, max_memory, report)
    kept = _kept_pairs(kept_pairs, target.potential.dim, len(sizes), max_memory)
    plan = Plan(solver, epsilon, relative_error, max_pairs, kept, max_memory, replacement)
    _check_replacement(plan, target.rows, sizes)
    results: list[SizeResult] = []
    try:
        for size in sizes:
            began = time.perf_counter()
            results.append(run_size(target, size, plan, generator_of(seed, size)))
            report(f"batches of {size:,}: mean gap {results[-1].gap.value:.4g}, {time.perf_counter() - began:.1f} s")
    except KeyboardInterrupt:
        if not results:
            raise
        missing = ", ".join(str(size) for size in sizes[len(results) :])
        warnings.warn(f"interrupted: the batch sizes {missing} are missing", ConvergenceWarning, stacklevel=2)
    flow_schedule = Linear() if schedule is None else schedule
    return _record(target, sizes[: len(results)], results, plan, flow_schedule, wanted, seed, fitted)


def _target(
    given: Numbers | Potential | Fit,
    source: Source | None,
    transport_cost: float | None,
    fit_tol: float,
    seed: int,
    max_memory: int,
    report: Callable[[str], None],
) -> tuple[Target, Fit | None]:
    """The law that pairs end in, and the fit that its potential is from."""
    if isinstance(given, Potential | Fit) and source is not None:
        raise ValueError("minibatch_convergence: source is for data; a fit or potential has one of its own")
    if isinstance(given, Potential):
        potential, fitted = given, None
    elif isinstance(given, Fit):
        potential, fitted = given.potential, given
    else:
        points = as_tensor("minibatch_convergence", "points_or_potential", given)
        report("fitting the potential")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # what the heights miss is measured below
            found = fit(points, source=source, tol=fit_tol, seed=seed, max_memory=max_memory, progress=False)
        fitted = uninterrupted(found)
        potential = fitted.potential
    generator = generator_of(seed, 0)
    report("fresh draws for W2^2")
    if not isinstance(potential, Discrete):
        return TransportedTarget(potential, transport_cost, generator, max_memory), fitted
    rows = rows_of_equal_weight(potential, None if fitted is None else fitted.atom_of_row)
    target = FiniteTarget(potential, rows, fitted, transport_cost, generator, max_memory)
    if target.height_error is not None:
        masses = target.height_error.masses
        if masses.chi2 - 2 * masses.stderr > _LARGE_MASS_ERROR:
            warnings.warn(
                f"the cells of the potential miss its weights by chi2 = {masses.chi2:.2g}: its gaps are not those of "
                "the data, and the correction for that is crude; fit the heights first (semidiscrete.fit)",
                ConvergenceWarning,
                stacklevel=3,
            )
    return target, fitted


def _record(
    target: Target,
    sizes: list[int],
    results: list[SizeResult],
    plan: Plan,
    schedule: Schedule,
    wanted: float,
    seed: int,
    fitted: Fit | None,
) -> MinibatchConvergence:
    heights, w2 = target.height_error, target.cost
    missing, missing_stderr = (0.0, 0.0) if heights is None else (heights.value, heights.stderr)
    batch_sizes = torch.tensor(sizes)
    cost, cost_stderr = _columns([result.cost.value for result in results], [result.cost.stderr for result in results])
    raw, raw_stderr = _columns([result.gap.value for result in results], [result.gap.stderr for result in results])
    gap, gap_stderr = raw - missing, torch.hypot(raw_stderr, torch.full_like(raw, missing_stderr))
    difference, difference_stderr = _columns(
        [result.difference.value for result in results], [result.difference.stderr for result in results]
    )
    seconds, batches = _columns([result.seconds for result in results], [result.batches for result in results])
    replaced = torch.tensor([result.replacement for result in results])
    most = _most(target)
    findings = Findings(
        sizes=batch_sizes,
        excess=2 * gap,
        transport_cost=w2.value,
        seconds=seconds,
        rate=_rate(batch_sizes, 2 * gap, 2 * gap_stderr, replaced, most),
        wanted=wanted,
        finite=isinstance(target, FiniteTarget),
        most=most,
        weighted=isinstance(target, FiniteTarget) and target.rows is None,
        fit_seconds=None if fitted is None else fitted.seconds,
    )
    rounding = _ROUNDINGS * torch.finfo(target.dtype).eps * (cost.abs() + w2.value)
    shared = torch.full_like(cost, w2.stderr + 2 * missing_stderr) + rounding
    return MinibatchConvergence(
        batch_sizes=batch_sizes,
        cost=cost,
        cost_stderr=cost_stderr,
        excess=cost - w2.value,
        excess_stderr=torch.hypot(cost_stderr, torch.full_like(cost, w2.stderr)),
        gap=gap,
        gap_stderr=gap_stderr,
        disagreement=difference - w2.value + 2 * missing,
        disagreement_stderr=torch.hypot(difference_stderr, shared),
        rows=target.rows,
        replacement=replaced,
        transport_cost=w2.value,
        transport_cost_interval=(w2.value - 1.96 * w2.stderr, w2.value + 1.96 * w2.stderr),
        height_error=missing,
        height_error_stderr=missing_stderr,
        batches=batches.long(),
        draws=batches.long() * batch_sizes,
        fresh_draws=target.draws,
        seconds_per_batch=seconds,
        fit_seconds=findings.fit_seconds,
        rate=_rate(batch_sizes, 2 * gap, 2 * gap_stderr, replaced, None),
        wanted=wanted,
        advice=advise(findings),
        solver=plan.solver,
        epsilon=plan.epsilon,
        seed=seed,
        source_pairs=torch.stack([result.source for result in results]),
        target_pairs=torch.stack([result.target for result in results]),
        potential=target.potential,
        schedule=schedule,
    )


def _most(target: Target) -> int | None:
    """The largest batch that the advice may name: as many as there are points; None for a law that never runs out."""
    if has_atoms(target.potential):
        return target.rows or len(target.potential.points)
    return None


def _rate(sizes: Tensor, excess: Tensor, stderr: Tensor, replaced: Tensor, most: int | None) -> Rate:
    """Of the sizes up to ``most`` whose batches are drawn as those of the largest one are: no law covers both kinds."""
    kept = torch.ones_like(replaced) if most is None else sizes <= most
    if bool(kept.any()):
        kept &= replaced == replaced[kept][-1]
    return fit_rate(sizes[kept], excess[kept], stderr[kept])


def _columns(first: Sequence[float], second: Sequence[float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(first, dtype=torch.float64), torch.tensor(second, dtype=torch.float64)


def _kept_pairs(wanted: int, dim: int, sizes: int, max_memory: int) -> int:
    """A power of two of at least 32."""
    most = max(32, min(wanted, max_memory // (4 * 16 * dim * sizes)))
    return 1 << (most.bit_length() - 1)


def _checked_sizes(batch_sizes: Sequence[int] | Tensor) -> list[int]:
    given = batch_sizes.tolist() if isinstance(batch_sizes, Tensor) else batch_sizes
    sizes: list[int] = []
    with contextlib.suppress(TypeError):
        sizes = sorted(operator.index(size) for size in given)
    if not sizes or sizes[0] < 1 or len(set(sizes)) < len(sizes):
        raise ValueError(
            f"minibatch_convergence: batch_sizes must be distinct positive whole numbers, got {batch_sizes!r}"
        )
    return sizes


def _check_replacement(plan: Plan, rows: int | None, sizes: list[int]) -> None:
    if plan.replacement is not False:
        return
    if rows is None:
        raise ValueError(
            "minibatch_convergence: only rows of equal weight can be drawn without replacement; leave replacement out"
        )
    if sizes[-1] > rows:
        raise ValueError(
            f"minibatch_convergence: batch_sizes must be at most the {rows:,} rows without replacement, got "
            f"{sizes[-1]:,}; replacement=None draws larger batches with it"
        )


def _check_numbers(
    transport_cost: float | None, wanted: float, relative_error: float, counts: tuple[int, int, int]
) -> None:
    if transport_cost is not None and not (math.isfinite(transport_cost) and transport_cost >= 0):
        raise ValueError(
            f"minibatch_convergence: transport_cost must be a number of at least 0, got {transport_cost!r}"
        )
    for name, value in (("wanted", wanted), ("relative_error", relative_error)):
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"minibatch_convergence: {name} must be a positive number, got {value!r}")
    if min(counts) < 1:
        raise ValueError(f"minibatch_convergence: max_pairs, kept_pairs and max_memory must be positive, got {counts}")
