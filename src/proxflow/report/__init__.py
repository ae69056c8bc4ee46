"""Figures and one self-contained HTML page about a fitted flow."""

from proxflow.report.page import render_page

__all__ = ["render_page"]
