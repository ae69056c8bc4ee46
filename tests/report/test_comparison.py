"""Runs side by side: who leads, what is refused, and the page."""

from __future__ import annotations

import json
import math
import re
from typing import Any

import pytest
import torch

from proxflow.report import render_comparison_page
from proxflow.report.compared_audits import compared_audits
from proxflow.report.compared_training import compared_training, quality_of
from proxflow.report.run_comparison import NO_DIFFERENCE, ComparedFigure, Measured, one_value
from tests.report.run_records import audit_record, training_record
from tests.report.written import Page

INFINITY = math.inf
A = training_record((0.5, 0.3, 0.2, 0.1, 0.05), coupling="independent")
B = training_record((0.1, 0.1, 0.1, 0.06, 0.04), coupling="subspace")


def _figure(
    *measured: tuple[float, ...] | None, target: float | None = 0.0, below_as_good: bool = False
) -> ComparedFigure:
    """Of values with an error, or with one below and one above."""
    known = tuple(None if one is None else Measured(one[0], one[1], one[-1]) for one in measured)
    return ComparedFigure("figure", known, target, below_as_good)


@pytest.mark.parametrize(
    ("figure", "leaders"),
    [
        (_figure((1.0, 0.3), (0.0, 0.4)), (0, 1)),  # apart by 1, of which two combined errors are 1.0
        (_figure((1.01, 0.3), (0.0, 0.4)), (1,)),
        (_figure((3.0, 0.1), (1.0, 0.1), (1.1, 0.1)), (1, 2)),
        (_figure((0.8, 0.01), (1.1, 0.01), target=1.0), (1,)),
        (_figure((-2.0, 0.1), (0.1, 0.1)), (1,)),
        (_figure((-2.0, 0.1), (0.1, 0.1), below_as_good=True), (0, 1)),  # both are 0 within error
        (_figure((1.0, 0.1), None), ()),  # nothing to compare with
        (_figure(None, (5.0, 0.1), (1.0, 0.1)), (2,)),
        (_figure((1.0, 0.1), (5.0, 0.1), target=None), ()),
        (_figure((0.01, 9.0, 0.1), (0.31, 0.02, 9.0)), (0,)),  # apart on the sides that face each other
        (_figure((0.0, 0.0, 0.1), (0.3, 0.2, 0.0)), (0, 1)),
        (_figure((-0.3, 9.0, 0.02), (0.0, 0.1, 0.1)), (1,)),  # from below, its upper side faces the target
        (_figure((0.9, 0.01), (0.2, 0.01), (1.4, 0.1), target=1.0, below_as_good=True), (0, 1)),
        (_figure((1.0, 0.1), (2.0, 0.1), target=-INFINITY), (0,)),
        (_figure((-1.0, 0.1), (2.0, 0.1), target=INFINITY), (1,)),
        (_figure((512.0, 150.0, INFINITY), (100.0, 10.0, 30.0), target=INFINITY), (0,)),
        (_figure((100.0, 10.0, 30.0), (60.0, 5.0, INFINITY), target=INFINITY), (0, 1)),  # it may be any size above 50
        (_figure((512.0, 150.0, INFINITY), (90.0, 5.0, INFINITY), (3.0, 1.0), target=INFINITY), (0, 1)),
    ],
)
def test_a_run_leads_where_errors_allow_it(figure: ComparedFigure, leaders: tuple[int, ...]) -> None:
    assert figure.leaders == leaders
    assert figure.best == (leaders[0] if len(leaders) == 1 else None)


def test_equal_runs_are_rarely_told_apart() -> None:
    """Two standard errors of a normal difference: 4.55% of pairs, whatever the two errors are."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.randn(4000, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.1, 0.3]) + 5.0
    found = [_figure((a, 0.1), (b, 0.3)).best is not None for a, b in pairs.tolist()]
    wanted = math.erfc(math.sqrt(2.0))
    assert abs(sum(found) / 4000 - wanted) < 4 * math.sqrt(wanted / 4000)


def test_the_verdict_says_who_is_nearest_at_which_numbers_of_steps() -> None:
    found = compared_training(["a", "b"], [A, B])
    assert found.verdict == "b is nearer to the data at 1 to 8 steps; at 100 steps the runs do not differ beyond error."
    third = training_record((0.1, 0.1, 0.3, 0.06, 0.04))
    found = compared_training(["a", "b", "c"], [A, B, third])
    assert found.verdict.startswith(
        "At 1 and 2 steps b and c are nearest to the data and do not differ beyond error; b"
    )
    assert [name for name in found.differing if name != "coupling"] == []
    assert "coupling" not in found.agreeing
    assert found.agreeing["network"] == "mlp"
    assert "label" not in found.agreeing  # not given in any


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (training_record(data={"sha256": "cd" * 32}), "other data (a: moons of 400 points, ababab; b: moons of 400"),
        (training_record(data={"standardise": "whiten"}), "other standardisation"),
        (training_record(measured={"samples": 200}), "other numbers of samples (a: 1,000; b: 200)"),
        (training_record(measured={"samples": None}), "other numbers of samples (a: 1,000; b: not recorded)"),
        (training_record(measured={"compared": 300}), "other numbers of rows"),
        (training_record(seed=1), None),  # all rows are compared with
    ],
)
def test_what_was_measured_otherwise_is_shown_but_not_ranked(other: dict[str, Any], said: str | None) -> None:
    found = compared_training(["a", "b"], [A, other])
    assert bool(found.obstacles) == (said is not None)
    if said is not None:
        assert said in found.verdict
        assert found.verdict.startswith("Not ranked")
        assert all(one["leaders"] == [] for one in found.as_record["figures"])
        page = Page(render_comparison_page(found, ["a", "b"]))
        assert NO_DIFFERENCE not in page.text
        assert page.cell("energy distance, 1 step") == "0.500 ± 0.01"
        assert not any(attributes.get("class") == "best" for _, attributes in page.tags)


def test_rows_that_were_drawn_by_another_seed_are_other_rows() -> None:
    large: dict[str, Any] = {"data": {"points": 5000}, "measured": {"compared": 2000}}
    records = [training_record(**large), training_record(**large, seed=1)]
    assert "by seed 0; b: by seed 1" in compared_training(["a", "b"], records).verdict


def test_runs_are_judged_by_the_rules_of_their_own_pages() -> None:
    poor = training_record((1.5, 1.4, 1.3, 1.2, 1.1))
    copies = training_record(nearest=(0.1, 0.05, 0.15), variances=(0.5,) * 5)
    stopped = training_record(result={"finished": False})
    found = compared_training(["a", "b", "c", "d"], [poor, copies, stopped, poor])
    said = {words.split(":")[0][:40]: names for words, names in found.cautions.items()}
    assert said["The samples are hardly better than noise"] == ("a", "d")
    assert said["The samples are copies of rows"] == ("b",)
    assert said["The samples do not spread as the data do"] == ("b",)
    assert said["Training was stopped early."] == ("c",)


def test_figures_of_an_interrupted_comparison() -> None:
    found = compared_training(["a", "b"], [A, training_record((0.1, 0.1))])
    assert found.verdict == "b is nearer to the data at 1 and 2 steps."
    assert Page(render_comparison_page(found, ["a", "b"])).text.count("not measured") == 6 + 2  # field error of each


def test_a_record_without_figures_is_refused() -> None:
    change: dict[str, Any]
    for change in ({"steps": [1, 2]}, {"steps": []}, {"energy_distance": None}, {"total_variance_error": ["x"] * 5}):
        with pytest.raises((ValueError, TypeError)):
            quality_of(training_record(measured=change))


def test_the_page_shows_all_runs() -> None:
    names = ["<first>", "second & last"]
    found = compared_training(names, [A, B])
    text = render_comparison_page(found, ["runs/a", "runs/b"], "proxflow compare runs/a runs/b")
    page = Page(text)
    assert page.headings[0] == "Settings that differ"
    assert len(page.alts) == 1
    assert "energy distance, 1 step: <first> 0.500 ± 0.01, second & last 0.100 ± 0.01" in page.alts[0]
    assert next(row for row in page.rows if row[0] == "coupling") == ["coupling", "independent", "subspace"]
    (row,) = [row for row in page.rows if row[0] == "energy distance, 1 step"]
    assert row[1:] == ["0.500 ± 0.01", "0.100 ± 0.01", "second & last"]
    (row,) = [row for row in page.rows if row[0] == "energy distance, 100 steps"]
    assert row[3] == NO_DIFFERENCE
    assert text.count('class="best"') == 4
    assert "<first>" not in text
    assert text.count("<details>") == 1
    texts = [group["texts"] for group in page.live()[0]["groups"]]
    assert len(texts) == 4
    assert texts[1][0] == "second & last, 1 step\n0.100 ± 0.01"
    assert not re.search(r"\bnan\b", page.text.lower())


def test_curves_have_a_bar_at_every_number_of_steps() -> None:
    page = Page(render_comparison_page(compared_training(["a", "b"], [A, B]), ["a", "b"]))
    for panel in page.panels():
        marked = {g.get("data-points"): len(g.findall(".//use")) for g in panel.iter("g") if g.get("data-points")}
        assert sorted(marked.values()) == [5, 5]


def test_audits_are_ranked_by_the_laws() -> None:
    one = audit_record(
        {
            "recovered_drift": (0.5, 0.01),
            "variance_ratio": (1.2, 0.02),
            "precision": (0.5, 0.01),
            "local_dimension": (3, 0),
        }
    )
    other = audit_record(
        {
            "recovered_drift": (0.1, 0.01),
            "variance_ratio": (0.97, 0.02),
            "precision": (0.9, 0.01),
            "local_dimension": (1, 0),
        }
    )
    found = compared_audits(["a", "b"], [one, other])
    leaders = {figure["name"]: figure["leaders"] for figure in found.as_record["figures"]}
    assert leaders == {"recovered drift": ["b"], "variance ratio": ["b"], "precision": ["b"], "local dimension": []}
    assert found.verdict == (
        "Is it a prox? b leads in recovered drift. Does it make the data? b leads in variance ratio and precision."
    )
    page = Page(render_comparison_page(found, ["a", "b"]))
    assert page.alts == []
    assert page.cell("recovered drift") == "0.500 ± 0.01"
    assert "other --count (a: 128; b: 64)" in compared_audits(["a", "b"], [one, audit_record({}, count=64)]).verdict


def test_equal_runs_with_unequal_sides_are_rarely_told_apart() -> None:
    """Sizes of lognormal error: their intervals are longer above."""
    generator = torch.Generator().manual_seed(0)
    logs = torch.randn(4000, 2, generator=generator, dtype=torch.float64) * torch.tensor([0.15, 0.3]) + math.log(40.0)
    sizes, ends = logs.exp(), [(logs + side * 1.959964 * torch.tensor([0.15, 0.3])).exp() for side in (-1, 1)]
    found = 0
    for value, low, high in zip(sizes.tolist(), *(end.tolist() for end in ends), strict=True):
        measured = tuple(one_value(*one) for one in zip(value, low, high, strict=True))
        found += ComparedFigure("figure", measured, math.inf).best is not None
    assert 0.03 < found / 4000 < 0.065


def test_a_figure_with_a_lower_end_alone_is_shown_and_ranked() -> None:
    """As an audit writes it: null is the end that there is none of."""
    sizes = [(512.0, 119.0, None), (14.0, 11.0, 19.0), (1.0, 1.0, 1.0)]
    records = [audit_record({"recovered_drift": (0.1, 0.01)}) for _ in sizes]
    for record, (value, low, high) in zip(records, sizes, strict=True):
        record["result"]["figures"]["equivalent_batch"] = {"value": value, "interval": [low, high], "exact": None}
        record["result"]["figures"]["density_bits"] = {"value": value / 100, "interval": [value / 100] * 2}
    found = compared_audits(["a", "b", "c"], records)
    batch, bits = (found.as_record["figures"][k] for k in (1, 2))
    assert batch["name"] == "equivalent batch"
    assert batch["best"] == "larger"
    assert batch["leaders"] == ["a"]
    assert batch["intervals"][0] == [pytest.approx(119.0), None]
    assert batch["errors"][0] is None
    assert (bits["best"], bits["leaders"]) == ("smaller", ["c"])
    page = Page(render_comparison_page(found, ["a", "b", "c"]))
    (row,) = [row for row in page.rows if row[0] == "equivalent batch"]
    assert row[1:] == ["at least 119", "14.0 +3 -2", "1.00 ± 0", "a"]
    assert "not measured" not in page.text
    json.dumps(found.as_record, allow_nan=False)
