"""The page of an audit."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

import proxflow as pf
from proxflow.report import render_audit_page
from proxflow.report.audit_page import audit_table, figure_in_words, scales_of_figures
from tests.report.written import Page


@pytest.fixture(scope="module")
def found() -> pf.analysis.Audit:
    points = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    flow = pf.ProximalFlow(pf.potentials.Discrete(points, 0.4 * points.square().sum(1)))
    rows = flow.sample(200, generator=torch.Generator().manual_seed(1))
    return pf.analysis.audit(flow, flow, data=rows, count=64, steps=8, progress=False)


def test_the_page_holds_the_verdict_and_every_figure(found: pf.analysis.Audit) -> None:
    page = Page(render_audit_page(found, "atoms", "an exact flow", "proxflow audit runs/atoms"))
    assert found.verdict in page.text
    assert page.cell("command") == "proxflow audit runs/atoms"
    for row in audit_table(found).rows:
        assert list(row) in page.rows
    for one in found.figures.values():
        assert one.meaning in page.text


def test_marks_are_there_and_rounding_is_left_out(found: pf.analysis.Audit) -> None:
    drift = found.figures["recovered_drift"]
    assert drift.exact == 0
    assert drift.independent > 0.1
    assert figure_in_words(drift) == "0 [0, 0]"


def test_scales_are_drawn_where_all_marks_agree_and_where_a_value_is_not_finite() -> None:
    same = pf.analysis.Figure("same", 0.0, 0.0, 0.0, 0.0, 0.0, "")
    none = pf.analysis.Figure("none", float("nan"), float("nan"), float("nan"), None, None, "")
    drawn = scales_of_figures([same, none], "scales")
    assert ElementTree.fromstring(drawn).tag.endswith("svg")
    assert "nan" not in drawn.lower()


def test_a_figure_that_is_no_number_is_not_shown_as_one() -> None:
    """Two rows are too few for W2, and equal rows have no deviation to measure anything by."""
    rows = torch.tensor([[-1.0, 1.0], [1.0, -1.0]])
    found = pf.analysis.audit(lambda t, x: -x, data=rows, count=64, steps=8)
    assert math.isnan(found.figures["wasserstein"].value)
    shown = {row[0]: row[1:] for row in audit_table(found).rows}
    assert shown["wasserstein"] == ("not measured", "", "")
    assert "nan" not in str(shown)


def test_an_audit_is_saved_and_loaded(found: pf.analysis.Audit, tmp_path: Path) -> None:
    pf.save(found, tmp_path / "audit.safetensors")
    again = pf.load(tmp_path / "audit.safetensors")
    assert again.figures == found.figures
    assert again.verdict == found.verdict
    torch.testing.assert_close(again.group_shares, found.group_shares)
