"""Clouds that the tests of several metrics share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

f64 = torch.float64

Metric = Callable[[Tensor, Tensor], object]


def normal(n: int, *event: int, seed: int = 0) -> Tensor:
    return torch.randn((n, *event), generator=torch.Generator().manual_seed(seed), dtype=f64)


BAD_PAIRS: dict[str, tuple[Any, Any, str]] = {
    "empty": (torch.zeros(0, 2), torch.zeros(3, 2), r"a must be .* got \(0, 2\)"),
    "no coordinate": (torch.zeros(3, 2), torch.zeros(3, 0), r"b must be .* got \(3, 0\)"),
    "single number": (torch.tensor(1.0), torch.zeros(3), r"a must be .* got \(\)"),
    "integers": (torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64), "b must be .* got torch.int64; convert"),
    "half": (torch.zeros(3, 2, dtype=torch.float16), torch.zeros(3, 2), "a must be .* got torch.float16; convert"),
    "text": (torch.zeros(3, 2).numpy().astype(str), torch.zeros(3, 2), "a must be a torch tensor, .* of <U32; convert"),
    "sparse": (torch.zeros(3, 2), torch.eye(2).to_sparse(), r"b must be .* torch.sparse_coo; call its .to_dense\(\)"),
    "nan": (
        torch.zeros(3, 2),
        torch.tensor([[0.0, 1], [torch.nan, 0], [0, torch.inf]]),
        r"b has rows .*\(1, 2\); drop",
    ),
    "many nan": (torch.full((9, 1), torch.nan), torch.zeros(3, 1), r"a has rows .*\(0, 1, 2, 3, 4, \.\.\. 9 in all\)"),
    "event": (torch.zeros(3, 2, 2), torch.zeros(3, 4), r"one shape, got \(2, 2\) and \(4,\); reshape"),
}


def check_refusals(metric: Metric, case: str, names: tuple[str, str] = ("a", "b")) -> None:
    """``names`` are those of the metric's two clouds."""
    x, y, message = BAD_PAIRS[case]
    if message[:2] in ("a ", "b "):
        message = names["ab".index(message[0])] + message[1:]
    with pytest.raises(ValueError, match=message):
        metric(x, y)
