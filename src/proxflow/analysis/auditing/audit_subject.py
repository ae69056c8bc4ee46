"""What a field is compared with: the exact flow, the source, rows of data and their groups, as the field's numbers."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor, nn

from proxflow.analysis.auditing.generation import Groups, groups_of
from proxflow.analysis.terminal.flat_field import Field
from proxflow.checks import Numbers, as_tensor, flat_points, working_dtype
from proxflow.errors import ConvergenceWarning
from proxflow.fingerprint import source_probes
from proxflow.flow import ProximalFlow, schedule_of, source_of
from proxflow.measures import Gaussian, Source, check_is_source, draw
from proxflow.schedules import Schedule
from proxflow.seeding import generator_of
from proxflow.semidiscrete.fit_result import Fit, uninterrupted
from proxflow.semidiscrete.fitting import fit

__all__ = ["Given", "Reference", "Subject", "subject_of"]

Reference: TypeAlias = ProximalFlow | Fit | Numbers

_MOST_ROWS = 2048  # of the data that samples are compared with, and that independent pairs are made of
_FIT_SAMPLES = 1 << 18  # of the fit of a reference given as points
_SHUFFLE, _REFERENCE = 1, 2  # streams of random numbers besides the noise


@dataclass(frozen=True)
class Given:
    """The arguments of an audit that say what the field is compared with, as the user gave them."""

    reference: Reference | None
    source: Source | None
    data: Numbers | None
    labels: Numbers | None
    class_names: Mapping[int, str] | None
    held_out: Numbers | None
    schedule: Schedule | None
    seed: int


@dataclass(frozen=True)
class Subject:
    """What a field is compared with, all flat and of its dtype and device.

    Attributes:
        event: shape of a point.
        dtype, device: of the field's numbers.
        schedule: of the field.
        source: law of the noise.
        flow: the exact flow, or None.
        misfit: chi2 of the fit that it is made of, or None.
        data: at most 2,048 rows in random order, or draws of the exact flow; None if there is neither.
        labels: of these rows, or None.
        groups: of these rows.
        rows: all rows given, or None.
        held_out: rows that the model was not trained on, or None.
        seed: of all draws.
    """

    event: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device
    schedule: Schedule
    source: Source
    flow: ProximalFlow | None
    misfit: float | None
    data: Tensor | None
    labels: Tensor | None
    groups: Groups | None
    rows: Tensor | None
    held_out: Tensor | None
    seed: int

    def noise(self, count: int) -> Tensor:
        """Source points, (count, d)."""
        return draw(self.source, count, generator_of(self.seed), self.dtype, self.device)

    def exact(self, noise: Tensor) -> Tensor | None:
        """Where the exact flow carries flat noise, (n, d); None without a reference."""
        if self.flow is None:
            return None
        dtype, device = self.flow.potential.query_kind or (noise.dtype, noise.device)
        return self.flow.transport(noise.to(device, dtype)).detach().to(noise)


def subject_of(field: Field | ProximalFlow, given: Given, say: Callable[[str], None]) -> Subject:
    """What the user gave, checked and completed.

    Raises:
        ValueError: nothing tells the shape of points, or shapes disagree.
    """
    path = schedule_of("audit", field, given.schedule)
    rows = None if given.data is None else as_tensor("audit", "data", given.data)
    if rows is None and given.labels is not None:
        raise ValueError("audit: labels are those of data, which were not given; give data")
    given = dataclasses.replace(given, source=source_of(field, given.source))
    if given.source is not None:
        check_is_source("audit", given.source)
    flow, misfit = _flow_of(given, path, say)
    source = given.source if flow is None else source_of(flow, given.source)
    event = _event_shape(field, given.reference, rows, source)
    dim = math.prod(event)
    source = Gaussian(dim) if source is None else source
    if source.dim != dim or (flow is not None and flow.dim != dim):
        own = "" if flow is None else f" and the reference {flow.dim}"
        raise ValueError(f"audit: points have {dim} entries, the source {source.dim}{own}; give those of one space")
    if flow is not None and not _alike(source, flow.potential.source):
        raise ValueError(
            f"audit: the source is {source!r}, that of the reference {flow.potential.source!r}; leave source out, or "
            "give a reference with the noise that the field was trained on"
        )
    dtype, device = _kind_of(field, rows, flow)
    flat = None if rows is None else flat_points("audit", rows, "data").to(device, dtype)
    held_out = _rows_like(given.held_out, dim, device, dtype)
    bare = Subject(event, dtype, device, path, source, flow, misfit, None, None, None, flat, held_out, given.seed)
    labels = None if given.labels is None else as_tensor("audit", "labels", given.labels)
    return _with_data(bare, labels, given.class_names)


def _with_data(subject: Subject, labels: Tensor | None, class_names: Mapping[int, str] | None) -> Subject:
    """The subject with its rows in random order, or with draws of the reference, and their groups."""
    rows = subject.rows
    if rows is None:
        generator = generator_of(subject.seed, _REFERENCE)
        noise = draw(subject.source, _MOST_ROWS, generator, subject.dtype, subject.device)
        rows = subject.exact(noise)
    if rows is None:
        return subject
    if subject.rows is not None and bool((rows == rows[:1]).all()):
        raise ValueError("audit: all rows of data are equal; give data that vary, since figures are told by how much")
    if labels is not None and labels.shape != (len(rows),):
        raise ValueError(f"audit: labels must be ({len(rows)},), one for each row of data, got {tuple(labels.shape)}")
    order = torch.randperm(len(rows), generator=generator_of(subject.seed, _SHUFFLE))[:_MOST_ROWS]
    chosen = rows[order.to(rows.device)]
    classes = None if labels is None else labels[order.to(labels.device)].to(rows.device)
    groups = groups_of(chosen, classes, subject.seed, class_names)
    return dataclasses.replace(subject, data=chosen, labels=classes, groups=groups)


def _flow_of(given: Given, path: Schedule, say: Callable[[str], None]) -> tuple[ProximalFlow | None, float | None]:
    """The exact flow, with the schedule of the field, and chi2 of its fit; its map does not depend on the schedule."""
    reference = given.reference
    if reference is None or isinstance(reference, ProximalFlow):
        return reference, None
    if isinstance(reference, Fit):
        return ProximalFlow(reference.potential, path), reference.chi2
    points = flat_points("audit", reference, "reference")
    say(f"fitting the exact flow of {len(points):,} points")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # any fit is an exact flow of its own weights
        found = fit(points, source=given.source, max_samples=_FIT_SAMPLES, seed=given.seed, progress=False)
    fitted = uninterrupted(found)
    return ProximalFlow(fitted.potential, path), fitted.chi2


def _alike(one: Source, other: Source) -> bool:
    """Whether two sources of one dimension give the same draws."""
    return one == other or torch.equal(source_probes(one), source_probes(other))


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
        if own is not None and not isinstance(field, ProximalFlow):
            return own.dtype, own.device
    if own is None:
        own = rows
    if own is not None:
        return working_dtype(own), own.device
    return (None if flow is None else flow.potential.query_kind) or (torch.get_default_dtype(), torch.device("cpu"))


def _rows_like(given: Numbers | None, dim: int, device: torch.device, dtype: torch.dtype) -> Tensor | None:
    if given is None:
        return None
    flat = flat_points("audit", given, "held_out")
    if flat.shape[1] != dim:
        raise ValueError(f"audit: held_out has {flat.shape[1]} entries per row, the points {dim}")
    return flat.to(device, dtype)
