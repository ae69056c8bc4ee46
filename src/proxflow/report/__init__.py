"""Figures, and self-contained HTML pages about fitted flows, trained networks and studies of them.

Pages other than that of a fit load on first use: a fit needs neither networks nor metrics.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from proxflow.report.fit_page import render_page

if TYPE_CHECKING:
    from proxflow.report.audit_page import render_audit_page
    from proxflow.report.batch_size_page import render_batch_size_page
    from proxflow.report.comparison_page import render_comparison_page
    from proxflow.report.terminal_page import render_terminal_page
    from proxflow.report.training_page import render_training_page

__all__ = [
    "render_audit_page",
    "render_batch_size_page",
    "render_comparison_page",
    "render_page",
    "render_terminal_page",
    "render_training_page",
]

_HOME = {
    "render_audit_page": "audit_page",
    "render_batch_size_page": "batch_size_page",
    "render_comparison_page": "comparison_page",
    "render_terminal_page": "terminal_page",
    "render_training_page": "training_page",
}


def __getattr__(name: str) -> object:
    if name in _HOME:
        return getattr(importlib.import_module(f"proxflow.report.{_HOME[name]}"), name)
    raise AttributeError(f"module 'proxflow.report' has no attribute {name!r}")
