"""Derivatives taken in another way where PyTorch has no rule for the first one, and errors that this does not mend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import proxflow as pf
from proxflow.analysis.terminal.flat_field import FlatField
from proxflow.sampling.divergence import ExactDivergence
from proxflow.sampling.solvers import CountedField

f64 = torch.float64
T, X = torch.tensor(0.5, dtype=f64), torch.arange(6, dtype=f64).reshape(3, 2)

NOT_MENDED: dict[str, Callable[[], Exception]] = {
    "memory of a GPU": lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "memory": lambda: RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
    "device": lambda: torch.AcceleratorError("CUDA error: an illegal memory access was encountered", 700),
    "convergence": lambda: pf.ConvergenceError("mine"),
    "recursion": lambda: RecursionError("maximum recursion depth exceeded"),
    "value": lambda: ValueError("mine"),
}


class Doubled(torch.autograd.Function):
    """2 x, known to no function transform: it has neither a forward mode nor a rule for batches."""

    failures: ClassVar[list[Exception]] = []  # raised by the derivative, one each time

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return 2 * x

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        if Doubled.failures:
            raise Doubled.failures.pop()
        return 2 * gradients[0]


class Shuffled(Doubled):
    """The same, and data-dependent on the way back."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return 2 * gradients[0] if float(gradients[0].sum().item()) < 1e9 else gradients[0]


class OnceFailing:
    """t x^2, after the failures that are waiting."""

    def __init__(self) -> None:
        self.failures: list[Exception] = []

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        if self.failures:
            raise self.failures.pop()
        return t * x.square()


@pytest.mark.parametrize("kind", NOT_MENDED)
def test_forward_mode_is_kept_after_an_error_of_another_kind(kind: str) -> None:
    field, error = OnceFailing(), NOT_MENDED[kind]()
    flat = FlatField("test", field, X, None, 1 << 20)
    field.failures.append(error)
    with pytest.raises(type(error)) as raised:
        flat.derivative_along(T, X, X)
    assert raised.value is error
    assert flat.has_forward_mode


def test_an_error_of_the_field_itself_comes_through_and_changes_nothing() -> None:
    field = OnceFailing()
    flat = FlatField("test", field, X, None, 1 << 20)
    field.failures += [RuntimeError("mine"), RuntimeError("mine")]
    with pytest.raises(RuntimeError, match="mine"):
        flat.derivative_along(T, X, X)
    assert flat.has_forward_mode
    torch.testing.assert_close(flat.derivative_along(T, X, X), 0.5 * X.square())  # (1 - t) 2 t x w


class Cubed(torch.autograd.Function):
    """x^3 with a derivative that goes back twice, and no forward mode."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x**3

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * x**2 * gradients[0]


def test_without_forward_mode_the_reverse_one_is_taken_from_then_on() -> None:
    flat = FlatField("test", lambda t, x: Cubed.apply(x), X, None, 1 << 20)  # type: ignore[no-untyped-call]
    for _ in range(2):
        torch.testing.assert_close(flat.derivative_along(T, X, X), 0.5 * 3 * X**3)
        assert not flat.has_forward_mode


@pytest.mark.parametrize("kind", NOT_MENDED)
def test_batches_of_gradients_are_kept_after_an_error_of_another_kind(kind: str) -> None:
    divergence, error = ExactDivergence(), NOT_MENDED[kind]()
    field = CountedField("test", lambda t, x: Doubled.apply(x), pf.schedules.Linear())  # type: ignore[no-untyped-call]
    Doubled.failures[:] = [error]
    with pytest.raises(type(error)) as raised:
        divergence.along(field, T, X)
    assert raised.value is error
    assert divergence.has_batches


def test_without_batches_gradients_are_taken_one_by_one_from_then_on() -> None:
    divergence = ExactDivergence()
    field = CountedField("test", lambda t, x: Shuffled.apply(x), pf.schedules.Linear())  # type: ignore[no-untyped-call]
    for _ in range(2):
        torch.testing.assert_close(divergence.along(field, T, X)[1], torch.full((3, 1), 4.0, dtype=f64))
        assert not divergence.has_batches
