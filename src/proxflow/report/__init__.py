"""Figures, and self-contained HTML pages about fitted flows and trained networks."""

from proxflow.report.page import render_page
from proxflow.report.training import StepComparison, compare_steps, render_training_page

__all__ = ["StepComparison", "compare_steps", "render_page", "render_training_page"]
