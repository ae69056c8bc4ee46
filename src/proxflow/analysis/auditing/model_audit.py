"""A model of anyone's against the exact laws: ``audit``."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from proxflow.analysis.auditing.audit_record import Audit, figures_of
from proxflow.analysis.auditing.audit_subject import Given, Reference, Subject, subject_of
from proxflow.analysis.auditing.condition_leakage import ConditionalField, NotFollowedError, condition_leakage
from proxflow.analysis.auditing.equivalent_batch import BatchCurve, batch_curve, equivalent_batch, independent_rule
from proxflow.analysis.auditing.generated_pairs import FieldCall, GeneratedPairs
from proxflow.analysis.auditing.generation import (
    Shares,
    copies,
    energy_share,
    generation_figures,
    group_shares,
    paired_variances,
    row_variances,
)
from proxflow.analysis.auditing.held_out_likelihood import density_bits, density_bits_of_flow
from proxflow.analysis.auditing.intervals import Estimate, root_ratio
from proxflow.analysis.auditing.optimality import (
    Misses,
    PairBound,
    misses_on_the_way,
    optimality_figures,
    pair_bound,
    velocity_errors,
)
from proxflow.analysis.auditing.proximality import Jacobians, jacobian_figures, measured_jacobians, pair_figures
from proxflow.analysis.auditing.readings import Attempt, Reading, attempt, better_reading
from proxflow.analysis.auditing.step_grid import best_grid
from proxflow.analysis.auditing.verdict import FAR, advise, faults, verdict_of
from proxflow.analysis.first_call import hinted
from proxflow.analysis.terminal.flat_field import DENSE_LIMIT, Field
from proxflow.checks import Numbers, whole_number
from proxflow.flow import ProximalFlow
from proxflow.independent_field import IndependentField
from proxflow.measures import Source, is_normal
from proxflow.progress import reporter
from proxflow.sampling.integration import integrate
from proxflow.sampling.row_by_row import check_row_by_row
from proxflow.schedules import Schedule
from proxflow.seeding import seeded_generator

__all__ = ["STEPS", "audit"]

_LEAST_COUNT = 64  # of noise points, for intervals to mean something
_LEAST_STEPS = 8  # so that the moments at which Jacobians are taken differ
_JACOBIAN_ROWS, _FEW_JACOBIAN_ROWS = 24, 6  # trajectories with Jacobians, written out or by products
_MOST_ASSIGNED = 1024  # pairs of one assignment: a second

_FEW_STEPS = 4  # whose times are chosen
_ROUNDING = 1e-6  # of an error over the samples' deviation
_STANDARD_ERRORS = 3.0  # that samples must be off by before other readings are tried

STEPS = (1, 2, 4, 8)
"""Numbers of steps of the curve of few steps."""


def audit(
    field: Field | ProximalFlow,
    reference: Reference | None = None,
    *,
    source: Source | None = None,
    data: Numbers | None = None,
    labels: Numbers | None = None,
    class_names: Mapping[int, str] | None = None,
    conditional: ConditionalField | None = None,
    held_out: Numbers | None = None,
    schedule: Schedule | None = None,
    count: int = 1024,
    steps: int = 32,
    compare_independent: bool = True,
    likelihood: bool = False,
    seed: int = 0,
    progress: bool | None = None,
) -> Audit:
    """Measure any flow-matching model against the laws that the exact flow obeys, and say in plain words what is wrong.

    The field is followed from noise; what it makes is compared with the data, the pairs that it makes with the least
    cost, and its Jacobian along the way with that of a prox. Figures that need what is not given are left out: those
    against the exact flow without a reference, those of samples without data or reference, copies of rows without
    held-out rows. Up to 256 dimensions Jacobians are written out on 24 trajectories; above, they are multiplied by
    random directions on 6, and no d x d matrix is formed.

    Not measured: the rates of arrival beyond the local dimension (``analysis.terminal_study``).

    Args:
        field: callable (t, x) -> velocity (B, *event), t 0-dimensional, as ``matching.field_of`` and adapters make
            them; or a ``ProximalFlow``. Rows must not depend on each other, nor on chance: a network must be in
            evaluation mode. Nothing is called at t = 1.
        reference: the exact flow: a ``ProximalFlow``, a ``Fit``, or points (N, *event) to which one is fitted here.
        source: law of the noise; if None, the field's own, as of a ``ProximalFlow``, else that of the reference, else
            standard normal.
        data: (N, *event) rows that the model should generate; draws of the reference if None. At most 2,048 of them,
            chosen by the seed, are compared with samples.
        labels: (N,) classes of the data, whose shares are compared; clusters of the data if None.
        class_names: of labels, for the verdict and the report; classes without a name are called by their number.
        conditional: of a model that is told labels, callable (t, x, label) -> velocity, label (B,) as in ``labels``;
            whether the noise tells them is measured, and ``field`` is the model without a label or with one.
        held_out: (m, *event) rows that the model was not trained on, where ``data`` are those that it was.
        schedule: schedule of a bare callable, Linear if None.
        count: noise points, at least 64.
        steps: of the trajectories, at least 8; the field is called twice in each.
        compare_independent: measure the field of independent pairs too, which takes as long again as a small network.
        likelihood: the mean log-density of held-out rows, or else of the data, too: as long again or longer.
        seed: seed of all draws.
        progress: show progress on standard error; None where it is a terminal.

    Returns:
        ``Audit``: ``figures`` with intervals, beside those of the exact flow and of independent pairs; ``verdict``,
        ``warnings``, ``advice``.

    Raises:
        ValueError: nothing tells the shape of points, shapes that disagree, data that do not vary, bad numbers, a field
            that does not give a tensor like its points, or one whose rows depend on chance or on each other; or a
            likelihood is asked for of one without a density.
        ConvergenceError: the reference has no answer at its own noise.
        Exception: whatever the field raises; one of its first call has a note on how fields are called.
    """
    started = time.perf_counter()
    seeded_generator("audit", seed)
    for name, value, least in (("count", count, _LEAST_COUNT), ("steps", steps, _LEAST_STEPS)):
        if (whole_number(value) or 0) < least:
            raise ValueError(f"audit: {name} must be an integer of at least {least}, got {value!r}")
    if conditional is not None and labels is None:
        raise ValueError("audit: conditional is told the labels of data, which were not given; give labels")
    say = reporter("audit", progress)
    given = Given(reference, source, data, labels, class_names, held_out, schedule, int(seed))
    subject = subject_of(field, given, say)
    say(f"following {count:,} noise points in {steps} steps")
    called = hinted(field)
    some = subject.noise(_LEAST_COUNT)
    check_row_by_row("audit", called, some.new_tensor(0.5), some.reshape(-1, *subject.event))
    followed, reading = _followed(subject, called, int(count), int(steps), say)
    pairs = followed.pairs
    if pairs is None:
        return _broken(followed.failure, subject.seed, time.perf_counter() - started)
    measured = _Measured(subject, followed.field, pairs, say)
    found = (measured.likelihood() if likelihood else {}) | measured.figures()
    leakage, missing = (None, ()) if conditional is None else measured.leakage(conditional)
    found |= {} if leakage is None else {"label_leakage": leakage}
    independent, not_compared = measured.of_independent(int(steps)) if compare_independent else ({}, ())
    missing += not_compared
    figures = figures_of(found, measured.of_reference(likelihood), independent)
    shares = None if subject.groups is None else group_shares(pairs.target, subject.groups)
    warned = faults(figures, reading, shares, normal_source=is_normal(subject.source))
    advice = advise(figures, warned, reading, measured.step_grid)
    verdict = verdict_of(figures, warned, advice, subject.misfit, missing)
    curves = measured.pair_bound
    times, error, bound = (None,) * 3 if curves is None else (curves.times, curves.error, curves.bound)
    curve = tuple(root_ratio(squares, pairs.variances).value for squares in measured.step_errors)
    names, compared = _compared(shares)
    seconds = time.perf_counter() - started
    return Audit(
        figures, verdict, warned + missing, advice, times, error, bound, STEPS, curve, measured.step_grid, names,
        compared, subject.seed, seconds,
    )  # fmt: skip


def _compared(shares: Shares | None) -> tuple[tuple[str, ...], Tensor]:
    """Names of groups, and their shares (G, 2) of samples and data."""
    if shares is None:
        return (), torch.empty(0, 2)
    return shares.names, torch.stack([shares.found, shares.right], 1)


def _followed(
    subject: Subject, field: FieldCall, count: int, steps: int, say: Callable[[str], None]
) -> tuple[Attempt, Reading | None]:
    """The field followed: as it stands, or in another reading where that makes the data and this does not."""
    noise = subject.noise(count)
    stated = attempt(field, noise, subject.event, subject.schedule, steps)
    samples = None if stated.pairs is None else stated.pairs.target
    if subject.data is None or (samples is not None and not _is_far(samples, subject.data)):
        return stated, None
    say("the samples are not the data; trying other readings of the field")
    reading = better_reading(field, samples, noise, subject.data, subject.event, subject.schedule)
    if reading is None:
        return stated, None
    return attempt(reading.field, noise, subject.event, subject.schedule, steps), reading


def _is_far(samples: Tensor, data: Tensor) -> bool:
    return not energy_share(samples, data, _STANDARD_ERRORS).low <= FAR


class _Measured:
    """All figures of one field, and the same of the exact flow and of the field of independent pairs."""

    def __init__(self, subject: Subject, field: FieldCall, pairs: GeneratedPairs, say: Callable[[str], None]) -> None:
        self.subject, self.field, self.pairs, self._say = subject, field, pairs, say
        self._exact = subject.exact(pairs.source)
        self.pair_bound: PairBound | None = None
        self._curve: tuple[IndependentField, BatchCurve] | None = None
        say("errors of few steps")
        equal = [torch.linspace(0, 1, count + 1, dtype=torch.float64) for count in STEPS]
        self.step_errors = [self._squared_error(grid, pairs) for grid in equal]
        half = len(pairs.source) // 2
        self._search, self._judged = pairs.of_rows(slice(half)), pairs.of_rows(slice(half, None))
        self.step_grid = best_grid(
            lambda grid: self._squared_error(grid, self._search).mean(), self._search, subject.schedule, _FEW_STEPS
        )

    def figures(self) -> dict[str, Estimate]:
        """Of the field itself."""
        subject, pairs = self.subject, self.pairs
        self._say("Jacobians")
        found = self._laws(self.field, pairs)
        found["four_step_error"] = root_ratio(self.step_errors[STEPS.index(_FEW_STEPS)], pairs.variances)
        found |= self._at_best_times()
        if self._exact is not None and subject.flow is not None:
            self._say("against the exact flow")
            found |= self._optimality(self.field, pairs, self._exact, subject.event)
            misses = misses_on_the_way(pairs, subject.flow, subject.schedule)
            self.pair_bound = pair_bound(misses, pairs, self._exact, subject.schedule)
            found["pair_excess"] = self.pair_bound.excess
            self._say("against minibatches")
            found |= self._batch(misses, subject.flow)
        self._say("samples against the data")
        return found | self._samples(pairs.target)

    def leakage(self, conditional: ConditionalField) -> tuple[Estimate | None, tuple[str, ...]]:
        """Of the labels into the noise; else None, and a sentence that says why it was not measured."""
        subject = self.subject
        if subject.data is None or subject.labels is None:
            return None, ()
        self._say("labels in the noise")
        rows = subject.data.reshape(-1, *subject.event)
        try:
            found = condition_leakage(conditional, rows, subject.labels, subject.schedule, subject.seed)
        except NotFollowedError as error:
            return None, (f"label_leakage was not measured: {error}.",)
        return found, ()

    def likelihood(self) -> dict[str, Estimate]:
        """Of rows under the field."""
        self._say("log-likelihood")
        return {"density_bits": density_bits(self.field, self.subject)}

    def of_reference(self, likelihood: bool) -> dict[str, Estimate]:
        """What the exact flow has where no law says it."""
        found = {} if self._exact is None else self._samples(self._exact)
        bits = density_bits_of_flow(self.subject) if likelihood else None
        return found if bits is None else found | {"density_bits": bits}

    def of_independent(self, steps: int) -> tuple[dict[str, Estimate], tuple[str, ...]]:
        """What the field of independent pairs with the data has; or nothing, and a sentence that says why."""
        subject = self.subject
        if subject.data is None:
            return {}, ()
        self._say("the field of independent pairs")
        other = IndependentField(subject.data, schedule=subject.schedule, source=subject.source)
        tried = attempt(other, self.pairs.source, (other.dim,), subject.schedule, steps)
        if tried.pairs is None:
            return {}, (f"Independent pairs were not compared: {tried.failure.rstrip('.')}.",)
        pairs = tried.pairs
        found = pair_figures(pairs, _MOST_ASSIGNED) | self._samples(pairs.target)
        found |= jacobian_figures(self._jacobians(other, pairs, (other.dim,)))
        if self._exact is not None and subject.flow is not None:
            found |= self._optimality(other, pairs, self._exact, (other.dim,))
            misses = misses_on_the_way(pairs, subject.flow, subject.schedule)
            found["pair_excess"] = pair_bound(misses, pairs, self._exact, subject.schedule).excess
            found |= self._batch(misses, subject.flow)
        return found, ()

    def _batch(self, misses: Misses, flow: ProximalFlow) -> dict[str, Estimate]:
        """The size of minibatches that would leave these misses; the curve that says so is drawn once."""
        if self._curve is None:
            independent = independent_rule(flow, self.subject.schedule, self.subject.seed)
            self._curve = independent, batch_curve(flow, independent, misses.times, self.subject.seed)
        found = equivalent_batch(misses, *self._curve)
        return {} if found is None else {"equivalent_batch": found}

    def _optimality(
        self, field: FieldCall, pairs: GeneratedPairs, exact: Tensor, event: tuple[int, ...]
    ) -> dict[str, Estimate]:
        errors = velocity_errors(field, pairs.source, exact, event, self.subject.schedule)
        return optimality_figures(pairs, exact, errors)

    def _laws(self, field: FieldCall, pairs: GeneratedPairs) -> dict[str, Estimate]:
        found = jacobian_figures(self._jacobians(field, pairs, self.subject.event))
        return found | pair_figures(pairs, _MOST_ASSIGNED)

    def _jacobians(self, field: FieldCall, pairs: GeneratedPairs, event: tuple[int, ...]) -> Jacobians:
        small = math.prod(event) <= DENSE_LIMIT
        rows = min(_JACOBIAN_ROWS if small else _FEW_JACOBIAN_ROWS, len(pairs.source))
        return measured_jacobians(field, pairs, event, self.subject.schedule, rows, self.subject.seed)

    def _samples(self, samples: Tensor) -> dict[str, Estimate]:
        """Of samples of the noise that the field itself was followed from."""
        subject = self.subject
        if subject.data is None or subject.groups is None:
            return {}
        found = generation_figures(samples, subject.data, subject.groups)
        if self._exact is None:
            found |= row_variances(samples, subject.data)
        else:
            found |= paired_variances(samples, self._exact, subject.data)
        if subject.held_out is not None and subject.rows is not None:
            found["nearest_row_ratio"] = copies(samples, subject.rows, subject.held_out, subject.seed)
        return found

    def _at_best_times(self) -> dict[str, Estimate]:
        """On the half of the noise that the grid was not chosen by; no gain where equal steps leave only rounding."""
        grid = torch.tensor(self.step_grid, dtype=torch.float64)
        errors, variances = self._squared_error(grid, self._judged), self._judged.variances
        found = {"four_step_best_error": root_ratio(errors, variances)}
        equal = self.step_errors[STEPS.index(_FEW_STEPS)][-len(variances) :]
        if float(equal.mean()) > _ROUNDING**2 * float(variances.mean()):
            found["four_step_gain"] = root_ratio(errors, equal)
        return found

    @torch.no_grad()
    def _squared_error(self, grid: Tensor, pairs: GeneratedPairs) -> Tensor:
        """|x1 in few steps - x1|^2, (n,)."""
        x0 = pairs.source.reshape(-1, *self.subject.event)
        end = integrate(
            lambda t, x: self.field(t, x), x0, method="proximal", schedule=self.subject.schedule, times=grid
        ).end
        return (end.reshape(pairs.target.shape).double() - pairs.target.double()).square().sum(1)


def _broken(failure: str, seed: int, seconds: float) -> Audit:
    """Of a field that cannot be followed, and why."""
    warned = (f"The field cannot be followed from noise to data: {failure.rstrip('.')}.",)
    advice = advise({}, warned, None)
    empty = torch.empty(0, 2)
    return Audit(
        {}, verdict_of({}, warned, advice), warned, advice, None, None, None, (), (), (), (), empty, seed, seconds
    )
