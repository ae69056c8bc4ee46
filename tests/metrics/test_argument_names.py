"""Errors name the arguments of the function that was called."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow import metrics

GOOD = torch.arange(24.0).reshape(12, 2).sin()
BAD = {
    "whole numbers": torch.ones(12, 2, dtype=torch.int64),
    "no rows": torch.empty(0, 2),
    "not finite": torch.full((12, 2), torch.nan),
    "other points": torch.ones(12, 3),
}
LABELS = torch.arange(12) % 2
FUNCTIONS: dict[Callable[..., Any], dict[str, Any]] = {
    metrics.energy_distance: {"a": GOOD, "b": GOOD},
    metrics.energy_distance_error: {"a": GOOD, "b": GOOD},
    metrics.wasserstein: {"a": GOOD, "b": GOOD},
    metrics.spread: {"samples": GOOD, "data": GOOD},
    metrics.nearest_rows: {"samples": GOOD, "rows": GOOD},
    metrics.nearest_row_ratio: {"samples": GOOD, "rows": GOOD, "held_out": GOOD + 1},
    metrics.label_leakage: {"noise": GOOD},
    metrics.label_accuracy: {"samples": GOOD, "train_points": GOOD},
    metrics.few_steps: {"noise": GOOD, "data": GOOD},
}
FURTHER: dict[Callable[..., Any], dict[str, Any]] = {
    metrics.label_leakage: {"labels": LABELS},
    metrics.label_accuracy: {"labels": LABELS, "train_labels": LABELS},
    metrics.few_steps: {"field": lambda t, x: x, "steps": (1,)},
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_bad_cloud_is_named_as_the_function_names_it(function: Callable[..., Any], kind: str) -> None:
    clouds, further = FUNCTIONS[function], FURTHER.get(function, {})
    if kind == "other points" and len(clouds) == 1:
        return
    for name in clouds:
        with pytest.raises(ValueError, match=f"^{function.__name__}: ") as raised:
            function(**{**clouds, **further, name: BAD[kind]})
        said = str(raised.value)
        assert re.search(rf"\b{name}\b", said), said
        own = "|".join(inspect.signature(function).parameters)
        assert re.match(rf"{function.__name__}: ({own}) ", said), said


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (pf.analysis.terminal_spectrum, {"times": 0.5}),
        (pf.analysis.terminal_study, {"scale": 0.1}),
        (pf.analysis.lyapunov_exponents, {"times": 0.5}),
        (pf.analysis.scale_spectrum, {"times": 0.5}),
        (pf.analysis.perturb, {"t": 0.5}),
        (pf.analysis.local_dimension, {"t": 0.5}),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_points_of_an_analysis_are_named_as_it_names_them(function: Callable[..., Any], options: Any) -> None:
    name = next(name for name in inspect.signature(function).parameters if name in ("x0", "x"))
    for points in (torch.ones(3, dtype=torch.float64), torch.ones(3, 0), torch.ones(3, 2, dtype=torch.int64)):
        with pytest.raises(ValueError, match=f"^{function.__name__}: {name} must "):
            function(lambda t, x: -x, points, **options)
