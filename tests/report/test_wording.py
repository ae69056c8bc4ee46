"""What a page says: the certificate, the verdict and the captions are true to the fit."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

import proxflow as pf
from proxflow.report import column_comparison, fit_figures, noise_to_data, render_page
from proxflow.report.wording import method_in_words
from proxflow.semidiscrete.damped_newton import DampedNewton
from tests.report.written import Page, Written, dataset, page_of, random_points, same_number


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures are the business of others."""
    for module in (fit_figures, noise_to_data, column_comparison):
        monkeypatch.setattr(module, "svg", lambda _figure, _name: "")


def common_rows(fit: pf.semidiscrete.Fit) -> dict[str, list[float]]:
    return {"points": [30], "atoms": [29], "tolerance": [fit.tol], "time": [fit.seconds], "seed": [5]}


def check_rows(page: Page, expected: dict[str, list[float]]) -> None:
    for name, values in expected.items():
        shown = page.numbers(name)
        assert len(shown) == len(values), name
        assert all(same_number(s, v) for s, v in zip(shown, values, strict=True)), name


def test_the_certificate_holds_the_numbers_of_a_fit_by_noise(space: Written) -> None:
    fit, page = space.fit, space.page
    expected: dict[str, list[float]] = {
        "dimension": [5],
        "χ²": [fit.chi2, fit.chi2_stderr],
        "χ² x draws / atoms": [fit.chi2 * fit.samples_used / 29],
        "transport cost W₂²": [fit.transport_cost, *fit.transport_cost_interval],
        "noise samples to fit": [fit.samples_used],
        "noise samples to evaluate": [fit.evaluation_samples],
    }
    check_rows(page, common_rows(fit) | expected)
    assert page.cell("method").startswith("averaged stochastic gradient")
    assert page.cell("schedule") == "Linear()"
    assert page.cell("data, SHA-256") == space.data.content_hash
    assert "±" in page.cell("χ²")
    assert "95% interval" in page.cell("transport cost W₂²")
    assert "smoothing ε" not in page.names


def test_the_certificate_of_an_exact_fit_says_exact(plane: Written) -> None:
    fit, page = plane.fit, plane.page
    expected: dict[str, list[float]] = {
        "dimension": [2],
        "χ²": [fit.chi2],
        "transport cost W₂²": [fit.transport_cost],
        "noise samples to check": [fit.evaluation_samples],
    }
    check_rows(page, common_rows(fit) | expected)
    assert page.cell("method") == "damped Newton; the cell masses are computed exactly"
    assert page.cell("noise samples to fit") == "none"
    assert page.cell("χ²").endswith(", exact")
    assert page.cell("transport cost W₂²").endswith(", exact")
    certificate = plane.text.partition("<h2>Convergence</h2>")[2]
    assert "±" not in certificate
    assert "standard error" not in certificate
    assert "statistical limit" not in page.text
    assert not {"χ² x draws / atoms", "noise samples to evaluate", "smoothing ε"} & page.names


def test_the_certificate_of_a_smoothed_fit_says_what_was_smoothed(smooth: Written) -> None:
    fit, page = smooth.fit, smooth.page
    expected = {"smoothing ε": [0.25], "transport cost W₂²": [fit.transport_cost, *fit.transport_cost_interval]}
    check_rows(page, common_rows(fit) | expected)
    assert "from noise to where the flow ends" in page.text
    assert "χ² x draws / atoms" not in page.names  # its limit is that of counts


def test_every_method_has_its_words(plane: Written) -> None:
    words = {method_in_words(dataclasses.replace(plane.fit, method=method)) for method in pf.semidiscrete.METHODS}
    assert len(words) == len(pf.semidiscrete.METHODS)


def test_an_exact_cost_shows_its_bounds_where_they_can_be_told_apart(plane: Written, tmp_path: Path) -> None:
    cost = plane.fit.transport_cost
    wide = dataclasses.replace(plane.fit, transport_cost_interval=(0.99 * cost, 1.01 * cost))
    page = Page(render_page(wide, plane.flow, plane.data))
    check_rows(page, {"transport cost W₂²": [cost, 0.99 * cost, 1.01 * cost]})
    assert "between" in page.cell("transport cost W₂²")
    assert "95%" not in page.cell("transport cost W₂²")


def test_labels_are_counted_by_class(tmp_path: Path) -> None:
    (tmp_path / "pets.csv").write_text("x,label\n1,dog\n2,a <cat>\n3,dog\n")
    page = page_of(pf.data.load(tmp_path / "pets.csv"))
    assert page.cell("labels").replace("\N{NO-BREAK SPACE}", " ") == "a <cat>: 1, dog: 2"


def test_many_classes_are_cut_short(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", points=random_points(50, 1), labels=np.arange(50))
    shown = page_of(pf.data.load(tmp_path / "x.npz")).cell("labels")
    assert shown.startswith("0:")
    assert shown.endswith(", and 20 more")
    assert shown.count(":") == 30


def test_the_command_is_shown_if_there_was_one(plane: Written) -> None:
    assert "repeats this run" not in plane.text
    page = Page(render_page(plane.fit, plane.flow, plane.data, command="proxflow fit 'a <b>.npy'"))
    assert page.cell("command") == "proxflow fit 'a <b>.npy'"
    assert "labels" not in plane.page.names


def test_the_digits_shown_are_compared_strictly() -> None:
    assert same_number("0.0069", 0.00692)
    assert not same_number("0.0069", 0.00696)
    assert same_number("1.2e-05", 1.21e-5)
    assert not same_number("83.4125", 83.4131)


def verdict_of(page: Page) -> str:
    (start,) = [
        line for line in page.text.splitlines() if line.startswith(("Converged: ", "Not converged: ", "Exact: "))
    ]
    return start


def test_the_verdict_of_a_fit_by_noise_is_an_upper_bound(space: Written) -> None:
    upper = space.fit.chi2 + 2 * space.fit.chi2_stderr
    verdict = verdict_of(space.page)
    assert verdict.startswith("Converged: ")
    assert f"at most {upper**0.5:.1%}" in verdict
    assert f"χ² plus two standard errors is {upper:.3g}, the tolerance 0.5" in verdict


def test_the_verdict_of_an_exact_fit_is_the_error_itself(plane: Written) -> None:
    verdict = verdict_of(plane.page)
    assert verdict.startswith("Converged: ")
    assert "at most" not in verdict
    assert "computed, not counted" in verdict
    (shown,) = re.findall(r"relative error of (\S+)%", verdict)
    assert same_number(shown, 100 * plane.fit.chi2**0.5)
    assert float(shown) > 0


def test_the_verdict_of_an_unfinished_fit(tmp_path: Path) -> None:
    data = dataset(tmp_path, random_points(30, 5))
    for options, words in (
        ({}, "exactly optimal for the shares that they do receive"),
        ({"epsilon": 0.2}, "exactly optimal between noise and where it ends"),
    ):
        with pytest.warns(pf.ConvergenceWarning):
            page = page_of(data, tol=1e-2, max_samples=1, **options)
        verdict = verdict_of(page)
        assert verdict.startswith("Not converged: ")
        assert "above the tolerance 0.01" in verdict
        assert words in verdict


def test_the_verdict_of_an_unfinished_exact_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the second Newton step: the page shows the shares, computed."""
    step = DampedNewton.step

    def interrupted(self: DampedNewton) -> None:
        if self.state.steps == 1:
            raise KeyboardInterrupt
        step(self)

    monkeypatch.setattr(DampedNewton, "step", interrupted)
    with pytest.warns(pf.ConvergenceWarning):
        page = page_of(dataset(tmp_path, random_points(60, 2)), tol=1e-6)
    verdict = verdict_of(page)
    assert verdict.startswith("Not converged: ")
    assert "up to" not in verdict
    assert "computed, not counted" in verdict
    assert "all of the spread is error of the fit" in page.text
    assert page.headings[3:5] == ["Convergence", "Shares of the noise"]


def test_the_verdict_of_one_point(tmp_path: Path) -> None:
    page = page_of(dataset(tmp_path, random_points(1, 2)))
    assert verdict_of(page) == "Exact: there is one data point, and it receives all of the noise."
    assert page.cell("χ²") == "0, exact"
    assert page.cell("noise samples to evaluate") == "none"


def test_where_the_flow_ends_is_said(plane: Written, smooth: Written) -> None:
    assert "The exact optimal-transport flow of points" in plane.page.text
    assert "ends on the data themselves" in plane.page.text
    assert "The smoothed optimal-transport flow of points" in smooth.page.text
    assert "not on the data themselves but between them" in smooth.page.text
    assert "ends on the data" not in smooth.page.text


def test_counting_noise_is_named_where_there_is_counting(plane: Written, space: Written, smooth: Written) -> None:
    assert "counting noise" in space.page.text
    assert "sampling error" in smooth.page.text
    assert "counting noise" not in plane.page.text + smooth.page.text


def test_straight_lines_are_claimed_for_the_linear_schedule_only(plane: Written, smooth: Written) -> None:
    for case in (plane, smooth):
        assert "a straight line" in case.text
        curved = render_page(case.fit, pf.ProximalFlow(case.fit.potential, pf.schedules.Cosine()), case.data)
        assert "a straight line" not in curved
        assert Page(curved).cell("schedule") == "Cosine()"
