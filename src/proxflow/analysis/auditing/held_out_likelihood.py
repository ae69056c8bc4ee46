"""How likely rows are under a model: minus their mean log2-density, by dimension."""

from __future__ import annotations

import math
import warnings

import torch
from torch import Tensor

from proxflow.analysis.auditing.audit_subject import Subject
from proxflow.analysis.auditing.intervals import Estimate, normal_estimate
from proxflow.analysis.terminal.flat_field import Field
from proxflow.errors import ConvergenceError, ConvergenceWarning, NoDensityError
from proxflow.flow import ProximalFlow, flow_of
from proxflow.sampling.likelihood import log_likelihood
from proxflow.seeding import generator_of

__all__ = ["density_bits", "density_bits_of_flow"]

_ROWS = 128  # one of them takes some 100 evaluations and d times as many backward passes
_EXACT_DIMENSION = 64  # of the divergence; above it random probes, whose scatter is in that of the rows
_PROBES = 4
_TOLERANCE = 1e-4  # of the log-density, nats: far within the scatter of the rows
_ORDER = 0x11CE  # marks the stream of the choice of rows


@torch.no_grad()  # its memory would be that of all evaluations
def density_bits(field: Field | ProximalFlow, subject: Subject) -> Estimate:
    """Of the held-out rows, or else of the data, 128 at most, under a field; flat rows of the subject.

    Raises:
        ValueError: there are no rows, the field has no density there, or one of its own.
    """
    rows = _rows(subject)
    x = rows.reshape(-1, *subject.event)
    exact = rows.shape[1] <= _EXACT_DIMENSION
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)
        called = _Called(field)
        try:
            found = log_likelihood(field if flow_of(field) is not None else called, x, source=subject.source,
                                   schedule=subject.schedule, seed=subject.seed,
                                   divergence="exact" if exact else "hutchinson", probes=None if exact else _PROBES,
                                   rtol=_TOLERANCE, atol=_TOLERANCE).value  # fmt: skip
        except (ConvergenceWarning, ConvergenceError) as error:
            raise ValueError(
                "audit: the model does not lead to all rows, so that their likelihood makes no sense; leave likelihood "
                f"out ({error})"
            ) from error
        except ValueError as error:
            if error is called.error:
                raise
            raise ValueError(f"audit: there is no likelihood, leave it out ({error})") from error
    return _mean_bits(found.detach(), rows.shape[1])


def density_bits_of_flow(subject: Subject) -> Estimate | None:
    """The same of the exact flow, where it has a density."""
    if subject.flow is None:
        return None
    rows = _rows(subject)
    dtype, device = subject.flow.potential.query_kind or (rows.dtype, rows.device)
    rows = rows.to(device, dtype)
    try:
        subject.flow.log_prob(rows[:0])
    except NoDensityError:
        return None
    return _mean_bits(subject.flow.log_prob(rows), rows.shape[1])


class _Called:
    """A field whose own ValueError is told from that of whoever calls it."""

    def __init__(self, field: Field) -> None:
        self._field = field
        self.error: ValueError | None = None

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        try:
            return self._field(t, x)
        except ValueError as error:
            self.error = error
            raise


def _rows(subject: Subject) -> Tensor:
    if subject.held_out is not None:
        order = torch.randperm(len(subject.held_out), generator=generator_of(subject.seed, _ORDER))
        return subject.held_out[order[:_ROWS].to(subject.held_out.device)]
    if subject.data is None:
        raise ValueError("audit: likelihood is that of rows, which were not given; give held_out or data")
    return subject.data[:_ROWS]


def _mean_bits(log_densities: Tensor, dim: int) -> Estimate:
    bits = -log_densities.double() / (dim * math.log(2))
    return normal_estimate(float(bits.mean()), float(bits.std()) / math.sqrt(len(bits)))
