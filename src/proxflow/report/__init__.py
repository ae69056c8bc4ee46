"""Figures, and self-contained HTML pages about fitted flows and trained networks.

The page of a training run loads on first use: a fit needs neither networks nor metrics.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from proxflow.report.page import render_page

if TYPE_CHECKING:
    from proxflow.report.training import StepComparison, compare_steps, render_training_page

__all__ = ["StepComparison", "compare_steps", "render_page", "render_training_page"]


def __getattr__(name: str) -> object:
    if name in __all__:
        return getattr(importlib.import_module("proxflow.report.training"), name)
    raise AttributeError(f"module 'proxflow.report' has no attribute {name!r}")
