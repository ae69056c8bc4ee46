"""Seeds of metrics are those of the library: any integer of 64 bits."""

from __future__ import annotations

import pytest
import torch

from proxflow.metrics import label_accuracy, label_leakage, wasserstein

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABELS = (X[:, 0] > 0).long()


@pytest.mark.parametrize("seed", [-(2**63), -1, 2**32, 2**64 - 1])
def test_any_integer_of_64_bits_is_a_seed(seed: int) -> None:
    assert wasserstein(X, X + 1, exact_up_to=0, seed=seed).value == pytest.approx(1, abs=0.1)
    assert label_leakage(X, LABELS, seed=seed).excess > 0.1
    assert label_accuracy(X, LABELS, X, LABELS, seed=seed).value > 0.8


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 1.0, None, True])
def test_anything_else_is_refused(seed: object) -> None:
    for name, call in (
        ("wasserstein", lambda: wasserstein(X, X + 1, exact_up_to=0, seed=seed)),  # type: ignore[call-overload]
        ("label_leakage", lambda: label_leakage(X, LABELS, seed=seed)),  # type: ignore[arg-type]
        ("label_accuracy", lambda: label_accuracy(X, LABELS, X, LABELS, seed=seed)),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=f"{name}: seed must be an integer of at most 64 bits"):
            call()
