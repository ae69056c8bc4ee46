"""Records that solvers return: value, per-row status, certificate, iterations."""

from __future__ import annotations

import enum
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

__all__ = ["ProxResult", "Status", "Verdict", "brief_repr"]


_Class = TypeVar("_Class", bound=type)
_WIDTH = 100  # characters of a line
_MOST_NUMBERS = 8  # of a tensor that is written out
_LONGEST = 80  # characters of one value


def brief_repr(record: _Class) -> _Class:
    """Class decorator of a dataclass: printed in a few lines, with shape and dtype in place of a tensor's numbers."""
    setattr(record, "__repr__", _brief)  # noqa: B010 - mypy refuses a method that is assigned
    return record


def _brief(record: Any) -> str:
    shown = [f"{field.name}={_summary(getattr(record, field.name))}" for field in fields(record)]
    lines, name = [f"{type(record).__name__}("], type(record).__name__
    for number, entry in enumerate(shown):
        entry += ")" if number == len(shown) - 1 else ","
        if len(lines[-1]) + len(entry) > _WIDTH and lines[-1].strip() != f"{name}(":
            lines.append("    ")
        lines[-1] += entry if lines[-1].endswith(("(", "    ")) else f" {entry}"
    return "\n".join(lines)


def _summary(value: object) -> str:
    """A value in a part of a line."""
    if isinstance(value, Tensor):
        return _summary_of_tensor(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, tuple | list) and value:
        if len(value) > 4 or is_dataclass(value[0]):
            return f"<{len(value)} of {type(value[0]).__name__}>"
        return f"({', '.join(_summary(entry) for entry in value)})"
    if isinstance(value, nn.Module):
        return _summary_of_module(value)
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def _summary_of_tensor(tensor: Tensor) -> str:
    plain = tensor.layout == torch.strided and not tensor.is_meta
    if plain and tensor.ndim <= 1 and 0 < tensor.numel() <= _MOST_NUMBERS:
        numbers = tensor.detach().tolist()
        return _summary(numbers) if tensor.ndim == 0 else f"[{', '.join(_summary(number) for number in numbers)}]"
    place = "" if tensor.device.type == "cpu" else f" on {tensor.device}"
    return f"<{' x '.join(map(str, tensor.shape)) or 'one'} {str(tensor.dtype).removeprefix('torch.')}{place}>"


def _summary_of_module(module: nn.Module) -> str:
    text = repr(module)
    if "\n" not in text and len(text) <= _LONGEST and not text.endswith("()"):
        return text
    count = sum(entry.numel() for entry in (*module.parameters(), *module.buffers()))
    return f"<{type(module).__name__} of {count:,} numbers>"


class Status(enum.IntEnum):
    """Per-row outcome of an iteration; the value is what a ``status`` tensor holds."""

    converged = 0
    """Solved to rounding; the certificate holds."""
    max_iterations = 1
    """Stopped at the step cap; the point is feasible and the certificate still holds."""
    stalled = 2
    """No step improves the point in this precision; the certificate still holds. Try float64."""
    non_finite = 3
    """The query row holds NaN or inf, or its point overflows; its result row is NaN."""


class Verdict(enum.IntEnum):
    """What is known of a statement at a point."""

    failed = 0
    assumed = 1
    verified = 2


@brief_repr
@dataclass(frozen=True)
class ProxResult:
    """The Moreau pair (y, u) of a query x = alpha u + beta y, with u in dpsi(y), and its certificate.

    For ``potential.prox(z, step)`` this reads alpha = step, beta = 1. Rows are independent.

    Attributes:
        point: the data point y, (B, d).
        multiplier: the source point u = (x - beta y) / alpha, (B, d); NaN where alpha = 0, not finite where it
            overflows.
        gap: Fenchel-Young gap phi(u) + psi(y) - <u, y>, (B,), absolute, >= 0; zero for closed forms.
        error_bound: Euclidean bound on ``point``, (B,): sqrt(gap alpha / beta) plus rounding (docs/theory.md 3).
        iterations: steps of the algorithm, (B,) int64; zero for closed forms.
        status: values of ``Status``, (B,) int64.
        velocity_error_bound: bound on the velocity, (B,), where a flow made the query; else None.
    """

    point: Tensor
    multiplier: Tensor
    gap: Tensor
    error_bound: Tensor
    iterations: Tensor
    status: Tensor
    velocity_error_bound: Tensor | None = None
