"""The page and the picture of a study of batch sizes."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
import torch

import proxflow as pf
from proxflow.report import render_batch_size_page
from proxflow.report.batch_size_figures import batch_convergence
from proxflow.report.batch_size_page import batch_table, rate_in_words
from tests.report.written import Page


def study(points: torch.Tensor, sizes: list[int]) -> pf.analysis.MinibatchConvergence:
    return pf.analysis.minibatch_convergence(points, sizes, relative_error=0.1, max_pairs=1 << 11, progress=False)


def test_the_page_holds_the_advice_and_every_batch_size() -> None:
    dataset = pf.data.load("moons", n=80)
    found = study(dataset.points, [1, 4, 16, 64])
    page = Page(render_batch_size_page(found, dataset, "proxflow batch-size moons"))
    assert found.advice.replace("W2^2", "W₂²") in page.text
    assert page.cell("command") == "proxflow batch-size moons"
    assert page.cell("rate") == rate_in_words(found)
    table = batch_table(found)
    assert list(table.columns) in page.rows
    for row, size, cost in zip(table.rows, (1, 4, 16, 64), found.cost.tolist(), strict=True):
        assert list(row) in page.rows
        assert int(row[0]) == size
        assert float(row[1]) == pytest.approx(cost, rel=1e-3)


@pytest.mark.parametrize("points", [torch.ones(1, 2), torch.linspace(-1, 1, 9)[:, None], torch.eye(6)])
def test_excess_is_drawn_where_it_is_zero_known_exactly_or_estimated(points: torch.Tensor) -> None:
    drawing = ElementTree.fromstring(batch_convergence(study(points, [1, 2, 8])))
    assert "batch size n" in [text.text for text in drawing.iter("text")]
    assert len(list(drawing.iter("use"))) > 3


def test_rounding_is_no_excess() -> None:
    for row in batch_table(study(torch.ones(1, 3), [1, 2, 8])).rows:
        assert row[2:6] == ("0", "0", "0.0%", "0")


def test_the_rate_says_why_there_is_none() -> None:
    assert rate_in_words(study(torch.ones(1, 2), [1, 2])).startswith("none: a rate needs at least 4 batch sizes")
