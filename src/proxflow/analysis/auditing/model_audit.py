"""A model of anyone's against the exact laws: ``audit``."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from proxflow.analysis.auditing.audit_record import Audit, figures_of
from proxflow.analysis.auditing.generated_pairs import FieldCall, GeneratedPairs
from proxflow.analysis.auditing.generation import (
    Groups,
    copies,
    energy_share,
    generation_figures,
    group_shares,
    groups_of,
    paired_variances,
)
from proxflow.analysis.auditing.intervals import Estimate, root_ratio
from proxflow.analysis.auditing.optimality import VelocityErrors, optimality_figures, velocity_errors
from proxflow.analysis.auditing.proximality import Jacobians, jacobian_figures, measured_jacobians, pair_figures
from proxflow.analysis.auditing.readings import Reading, attempt, better_reading
from proxflow.analysis.auditing.verdict import FAR, advise, faults, verdict_of
from proxflow.analysis.terminal.flat_field import DENSE_LIMIT, Field
from proxflow.checks import Numbers, as_tensor, flat_points, whole_number
from proxflow.errors import ConvergenceWarning
from proxflow.flow import ProximalFlow, schedule_of
from proxflow.independent_field import IndependentField
from proxflow.measures import Gaussian, Source
from proxflow.progress import reporter
from proxflow.sampling.integration import integrate
from proxflow.schedules import Schedule
from proxflow.seeding import generator_of, seeded_generator
from proxflow.semidiscrete.fit_result import Fit
from proxflow.semidiscrete.fitting import fit

__all__ = ["Reference", "audit"]

Reference: TypeAlias = ProximalFlow | Fit | Numbers

_LEAST_COUNT = 64  # of noise points, for intervals to mean something
_MOST_ROWS = 2048  # of the data that samples are compared with, and that independent pairs are made of
_JACOBIAN_ROWS, _FEW_JACOBIAN_ROWS = 24, 6  # trajectories with Jacobians, written out or by products
_MOST_ASSIGNED = 1024  # pairs of one assignment: a second
_FIT_SAMPLES = 1 << 18  # of the fit of a reference given as points
_STEPS = (1, 2, 4, 8)  # of the curve of few steps
_SHUFFLE, _REFERENCE = 1, 2  # streams of random numbers besides the noise


def audit(
    field: Field | ProximalFlow,
    reference: Reference | None = None,
    *,
    source: Source | None = None,
    data: Numbers | None = None,
    labels: Numbers | None = None,
    held_out: Numbers | None = None,
    schedule: Schedule | None = None,
    count: int = 1024,
    steps: int = 32,
    marks: bool = True,
    seed: int = 0,
    progress: bool | None = None,
) -> Audit:
    """Measure any flow-matching model against the laws that the exact flow obeys, and say in plain words what is wrong.

    The field is followed from noise; what it makes is compared with the data, the pairs that it makes with the least
    cost, and its Jacobian along the way with that of a prox. Figures that need what is not given are left out: those
    against the exact flow without a reference, those of samples without data or reference, copies of rows without
    held-out rows. Up to 256 dimensions Jacobians are written out on 24 trajectories; above, they are multiplied by
    random directions on 6, and no d x d matrix is formed.

    Not measured: which size of minibatches would give the same error (``analysis.minibatch_convergence`` studies
    that), and the rates of arrival beyond the local dimension (``analysis.terminal_study``).

    Args:
        field: callable (t, x) -> velocity (B, *event), t 0-dimensional, as ``matching.field_of`` and adapters make
            them; or a ``ProximalFlow``. Rows must not depend on each other; nothing is called at t = 1.
        reference: the exact flow: a ``ProximalFlow``, a ``Fit``, or points (N, *event) to which one is fitted here.
        source: law of the noise; that of the reference, else standard normal.
        data: (N, *event) rows that the model should generate; draws of the reference if None. At most 2,048 of them,
            chosen by the seed, are compared with samples.
        labels: (N,) classes of the data, whose shares are compared; clusters of the data if None.
        held_out: (m, *event) rows that the model was not trained on, where ``data`` are those that it was.
        schedule: schedule of a bare callable, Linear if None.
        count: noise points, at least 64.
        steps: of the trajectories, at least 8; the field is called twice in each.
        marks: measure the field of independent pairs too, which takes as long again as a small network.
        seed: seed of all draws.
        progress: show progress on standard error; None where it is a terminal.

    Returns:
        ``Audit``: ``figures`` with intervals and marks, ``verdict``, ``warnings``, ``advice``.

    Raises:
        ValueError: nothing tells the shape of points, shapes that disagree, bad numbers, or a field that does not give
            a tensor like its points.
        ConvergenceError: the reference has no answer at its own noise.
    """
    started = time.perf_counter()
    seeded_generator("audit", seed)
    for name, value, least in (("count", count, _LEAST_COUNT), ("steps", steps, 8)):
        if (whole_number(value) or 0) < least:
            raise ValueError(f"audit: {name} must be an integer of at least {least}, got {value!r}")
    say = reporter("audit", progress)
    subject = _subject(field, reference, source, data, labels, held_out, schedule, int(seed), say)
    say(f"following {count:,} noise points in {steps} steps")
    noise = subject.source.sample(int(count), generator=generator_of(seed), dtype=subject.dtype, device=subject.device)
    call, pairs = attempt(field, noise, subject.event, subject.schedule, int(steps))
    call, pairs, reading = _read_rightly(subject, field, call, pairs, noise, int(steps), say)
    if pairs is None:
        return _broken(seed, time.perf_counter() - started)
    measured = _Measured(subject, call, pairs, noise, say)
    found = measured.figures()
    exact, independent = measured.of_reference(), measured.of_independent(int(steps)) if marks else {}
    figures = figures_of(found, exact, independent)
    shares = None if subject.groups is None else group_shares(pairs.target, subject.groups)
    warned = faults(figures, reading, shares)
    advice = advise(figures, warned, reading)
    times, error, bound = measured.velocity_curve(found)
    curve = tuple(root_ratio(squares, pairs.variances).value for squares in measured.step_errors)
    return Audit(
        figures=figures,
        verdict=verdict_of(figures, warned, advice),
        warnings=warned,
        advice=advice,
        times=times,
        velocity_error=error,
        velocity_bound=bound,
        steps=_STEPS,
        step_error=curve,
        group_names=() if shares is None else shares.groups.names,
        group_shares=torch.empty(0, 2)
        if shares is None
        else torch.stack([shares.found.cpu(), shares.groups.shares.cpu()], 1),
        seed=int(seed),
        seconds=time.perf_counter() - started,
    )


@dataclass(frozen=True)
class _Subject:
    """What a field is compared with, all flat and on its dtype and device."""

    event: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    schedule: Schedule
    source: Source
    flow: ProximalFlow | None
    data: Tensor | None
    groups: Groups | None
    rows: Tensor | None
    held_out: Tensor | None
    seed: int

    def exact(self, noise: Tensor) -> Tensor | None:
        """Where the exact flow carries flat noise, (n, d); None without a reference."""
        if self.flow is None:
            return None
        own = next(self.flow.potential.buffers(), noise)
        return self.flow.transport(noise.to(own)).detach().to(noise)


def _subject(
    field: Field | ProximalFlow,
    reference: Reference | None,
    source: Source | None,
    data: Numbers | None,
    labels: Numbers | None,
    held_out: Numbers | None,
    schedule: Schedule | None,
    seed: int,
    say: Callable[[str], None],
) -> _Subject:
    path = schedule_of("audit", field, schedule)
    rows = None if data is None else as_tensor("audit", "data", data)
    if rows is None and labels is not None:
        raise ValueError("audit: labels are those of data, which were not given; give data")
    flow = _flow_of(reference, path, source, seed, say)
    noise = source or (flow.potential.source if flow is not None else None)
    event = _event_shape(field, reference, rows, noise)
    dim = math.prod(event)
    noise = Gaussian(dim) if noise is None else noise
    if noise.dim != dim or (flow is not None and flow.dim != dim):
        raise ValueError(
            f"audit: points have {dim} entries, the source {noise.dim}"
            + ("" if flow is None else f" and the reference {flow.dim}")
        )
    dtype, device = _kind_of(field, rows, flow)
    flat = None if rows is None else flat_points("audit", rows, "data").to(device, dtype)
    made = _Subject(event, dtype, device, path, noise, flow, flat, None, flat, _rows_like(held_out, dim, device, dtype),
                    seed)  # fmt: skip
    return _with_data(made, None if labels is None else as_tensor("audit", "labels", labels))


def _with_data(subject: _Subject, labels: Tensor | None) -> _Subject:
    """The subject with at most 2,048 rows in random order, or as many draws of the reference, and their groups."""
    rows, group = subject.rows, labels
    if rows is None:
        draws = subject.source.sample(
            _MOST_ROWS, generator=generator_of(subject.seed, _REFERENCE), dtype=subject.dtype, device=subject.device
        )
        rows = subject.exact(draws)
        if rows is None:
            return subject
    elif group is not None and group.shape != (len(rows),):
        raise ValueError(f"audit: labels must be ({len(rows)},), one for each row of data, got {tuple(group.shape)}")
    order = torch.randperm(len(rows), generator=generator_of(subject.seed, _SHUFFLE))[:_MOST_ROWS]
    chosen = rows[order.to(rows.device)]
    groups = groups_of(chosen, None if group is None else group[order.to(group.device)].to(rows.device), subject.seed)
    return _Subject(subject.event, subject.dtype, subject.device, subject.schedule, subject.source, subject.flow,
                    chosen, groups, subject.rows, subject.held_out, subject.seed)  # fmt: skip


def _flow_of(
    reference: Reference | None, path: Schedule, source: Source | None, seed: int, say: Callable[[str], None]
) -> ProximalFlow | None:
    """The exact flow, with the schedule of the field; its maps of noise do not depend on that."""
    if reference is None:
        return None
    if isinstance(reference, ProximalFlow):
        return reference
    if isinstance(reference, Fit):
        return ProximalFlow(reference.potential, path)
    points = flat_points("audit", as_tensor("audit", "reference", reference), "reference")
    say(f"fitting the exact flow of {len(points):,} points")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any fit is an exact flow of its own weights
        fitted = fit(points, source=source, max_samples=_FIT_SAMPLES, seed=seed, progress=False)
    return ProximalFlow(fitted.potential, path)


def _event_shape(
    field: Field | ProximalFlow, reference: Reference | None, rows: Tensor | None, source: Source | None
) -> tuple[int, ...]:
    if rows is not None:
        return tuple(rows.shape[1:])
    if reference is not None and not isinstance(reference, ProximalFlow | Fit):
        return tuple(as_tensor("audit", "reference", reference).shape[1:])
    if source is not None:
        return (source.dim,)
    if isinstance(field, ProximalFlow):
        return (field.dim,)
    raise ValueError("audit: nothing tells what points the field takes; give data, a reference or a source")


def _kind_of(
    field: Field | ProximalFlow, rows: Tensor | None, flow: ProximalFlow | None
) -> tuple[torch.dtype, torch.device]:
    """Of the field's own numbers, else the data's, else the reference's, else PyTorch's default."""
    own = None
    if isinstance(field, nn.Module):
        own = next((entry for entry in (*field.parameters(), *field.buffers()) if entry.is_floating_point()), None)
    if own is None:
        own = rows
    if own is None and flow is not None:
        own = next(flow.potential.buffers(), None)
    return (torch.get_default_dtype(), torch.device("cpu")) if own is None else (own.dtype, own.device)


def _rows_like(given: Numbers | None, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    if given is None:
        return None
    flat = flat_points("audit", given, "held_out")
    if flat.shape[1] != dim:
        raise ValueError(f"audit: held_out has {flat.shape[1]} entries per row, the points {dim}")
    return flat.to(device, dtype)


def _read_rightly(
    subject: _Subject,
    field: FieldCall,
    call: FieldCall,
    pairs: GeneratedPairs | None,
    noise: Tensor,
    steps: int,
    say: Callable[[str], None],
) -> tuple[FieldCall, GeneratedPairs | None, Reading | None]:
    """The field as it makes the data: as it stands, or in another reading that does where this does not."""
    if subject.data is None:
        return call, pairs, None
    stated = None if pairs is None else pairs.target
    if stated is not None and not _is_far(stated, subject.data):
        return call, pairs, None
    say("the samples are not the data; trying other readings of the field")
    reading = better_reading(field, stated, noise, subject.data, subject.event, subject.schedule)
    if reading is None:
        return call, pairs, None
    read, its_pairs = attempt(reading.field, noise, subject.event, subject.schedule, steps)
    return read, its_pairs, reading


def _is_far(samples: Tensor, data: Tensor) -> bool:
    found = energy_share(samples, data)
    return not found.value - 1.5 * (found.value - found.low) <= FAR


class _Measured:
    """All figures of one field, and the same of the two fields that give the marks."""

    def __init__(
        self, subject: _Subject, field: FieldCall, pairs: GeneratedPairs, noise: Tensor, say: Callable[[str], None]
    ) -> None:
        self.subject, self.field, self.pairs, self._say = subject, field, pairs, say
        self._exact = subject.exact(noise)
        self._errors: VelocityErrors | None = None
        say("errors of few steps")
        self.step_errors = [self._squared_error(count) for count in _STEPS]

    def figures(self) -> dict[str, Estimate]:
        """Of the field itself."""
        subject, pairs = self.subject, self.pairs
        self._say("Jacobians")
        found = self._laws(self.field, pairs)
        found["four_step_error"] = root_ratio(self.step_errors[_STEPS.index(4)], pairs.variances)
        if self._exact is not None:
            self._say("against the exact flow")
            self._errors = velocity_errors(self.field, pairs.source, self._exact, subject.event, subject.schedule)
            found |= optimality_figures(pairs, self._exact, self._errors)
        self._say("samples against the data")
        found |= self._samples(pairs.target)
        if self._exact is not None:
            found |= paired_variances(pairs.target, self._exact)
        return found

    def of_reference(self) -> dict[str, Estimate]:
        """What the exact flow has where no law says it."""
        return {} if self._exact is None else self._samples(self._exact)

    def of_independent(self, steps: int) -> dict[str, Estimate]:
        """What the field of independent pairs with the data has."""
        subject = self.subject
        if subject.data is None:
            return {}
        self._say("the field of independent pairs")
        other = IndependentField(subject.data, schedule=subject.schedule, source=subject.source)
        _, pairs = attempt(other, self.pairs.source, (other.dim,), subject.schedule, steps)
        if pairs is None:
            return {}
        found = pair_figures(pairs, _MOST_ASSIGNED) | self._samples(pairs.target)
        found |= jacobian_figures(self._jacobians(other, pairs, (other.dim,)))
        if self._exact is not None:
            errors = velocity_errors(other, pairs.source, self._exact, (other.dim,), subject.schedule)
            found |= optimality_figures(pairs, self._exact, errors)
        return found

    def velocity_curve(self, found: dict[str, Estimate]) -> tuple[Tensor, Tensor, Tensor] | tuple[None, None, None]:
        """Times, error, and the bound of docs/theory.md 4 for the excess that was found."""
        if self._errors is None or self._exact is None:
            return None, None, None
        least = float((self._exact.double() - self.pairs.source.double()).square().sum(1).mean())
        excess = max(found["cost_excess"].value, 0.0) * least
        times, schedule = self._errors.times, self.subject.schedule
        product = schedule.alpha(times) * schedule.beta(times)
        bound = schedule.wronskian(times) * (excess / (2 * product)).sqrt()
        return times, self._errors.squared.mean(1).sqrt(), bound

    def _laws(self, field: FieldCall, pairs: GeneratedPairs) -> dict[str, Estimate]:
        found = jacobian_figures(self._jacobians(field, pairs, self.subject.event))
        return found | pair_figures(pairs, _MOST_ASSIGNED)

    def _jacobians(self, field: FieldCall, pairs: GeneratedPairs, event: tuple[int, ...]) -> Jacobians:
        small = math.prod(event) <= DENSE_LIMIT
        rows = min(_JACOBIAN_ROWS if small else _FEW_JACOBIAN_ROWS, len(pairs.source))
        return measured_jacobians(field, pairs, event, self.subject.schedule, rows, self.subject.seed)

    def _samples(self, samples: Tensor) -> dict[str, Estimate]:
        subject = self.subject
        if subject.data is None or subject.groups is None:
            return {}
        found = generation_figures(samples, subject.data, subject.groups)
        if subject.held_out is not None and subject.rows is not None:
            found["nearest_row_ratio"] = copies(samples, subject.rows, subject.held_out, subject.seed)
        return found

    @torch.no_grad()
    def _squared_error(self, count: int) -> Tensor:
        """|x1 in few steps - x1|^2, (n,)."""
        x0 = self.pairs.source.reshape(-1, *self.subject.event)
        end = integrate(lambda t, x: self.field(t, x), x0, count, "proximal", self.subject.schedule).end
        return (end.reshape(self.pairs.target.shape).double() - self.pairs.target.double()).square().sum(1)


def _broken(seed: int, seconds: float) -> Audit:
    """Of a field that cannot be followed."""
    warned = ("The field cannot be followed from noise to data: its trajectories are not finite.",)
    advice = advise({}, warned, None)
    empty = torch.empty(0, 2)
    return Audit({}, verdict_of({}, warned, advice), warned, advice, None, None, None, (), (), (), empty, seed, seconds)
