"""Potentials made of others, beyond the laws that all of them obey."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from proxflow.potentials import Ball, Potential, Quadratic


def ball(dtype: torch.dtype) -> Potential:
    return Ball(3, 2.0)


def flat(dtype: torch.dtype) -> Potential:
    return Quadratic(torch.zeros(3, dtype=dtype), torch.diag(torch.tensor([1.0, 4.0, 0.0], dtype=dtype)))


@pytest.mark.parametrize("inner", [ball, flat])
@pytest.mark.parametrize(("dtype", "shift"), [(torch.float32, 1e4), (torch.float64, 1e9)])
def test_rounding_by_a_large_shift_does_not_leave_the_domain(
    inner: Callable[..., Any], dtype: torch.dtype, shift: float, generator: torch.Generator
) -> None:
    rotation = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64)).Q.to(dtype)
    potential = inner(dtype).rotate(rotation, torch.full((3,), shift, dtype=dtype))
    y = potential.brenier_map(torch.randn(200, 3, generator=generator, dtype=dtype))
    assert torch.isfinite(potential.value(y)).all()
    assert torch.isinf(potential.value(y + 1e-2 * shift * torch.ones(3, dtype=dtype))).all()
