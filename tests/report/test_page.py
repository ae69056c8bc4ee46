"""The report page: self-contained, with its pictures, and safe against hostile names."""

from __future__ import annotations

import dataclasses
import html
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from proxflow.report import render_page
from tests.marks import slow_beyond
from tests.report.written import Page, Written, dataset, page_of, random_points

TRAJECTORIES, IMAGES, COLUMNS, CONVERGENCE, SHARES = PICTURES = (
    "From noise to data",
    "Images along the flow",
    "Column by column",
    "Convergence",
    "Shares of the noise",
)
ALWAYS = ("Certificate", "Origin", "Made with")
SHAPES = {
    "line": ((20, 1), {TRAJECTORIES, COLUMNS}),
    "plane": ((20, 2), {TRAJECTORIES, COLUMNS, CONVERGENCE}),
    "space": ((20, 3), {TRAJECTORIES, COLUMNS, CONVERGENCE}),
    "five dimensions": ((20, 5), {TRAJECTORIES, COLUMNS, CONVERGENCE, SHARES}),
    "grey images": ((6, 5, 4), set(PICTURES) - {COLUMNS}),
    "colour images": ((6, 3, 5, 4), set(PICTURES) - {COLUMNS}),
    "one-channel images": ((6, 1, 5, 4), set(PICTURES) - {COLUMNS}),
    "one point": ((1, 3), {TRAJECTORIES, COLUMNS}),
    "one point on a line": ((1, 1), {TRAJECTORIES, COLUMNS}),
    "one image": ((1, 4, 4), {TRAJECTORIES, IMAGES}),
    "two points": ((2, 2), {TRAJECTORIES, COLUMNS}),
    "not quite images": ((8, 2, 2), {TRAJECTORIES, CONVERGENCE, SHARES}),
}


@pytest.mark.parametrize(("shape", "expected"), slow_beyond(4, SHAPES.values()), ids=SHAPES)
def test_every_kind_of_data_gives_a_page(shape: tuple[int, ...], expected: set[str], tmp_path: Path) -> None:
    data = dataset(tmp_path, random_points(*shape))
    page = page_of(data)
    for picture in page.pictures():
        assert picture.format == "PNG"
        assert np.asarray(picture.convert("L")).std() > 1
    assert [heading for heading in page.headings if heading in PICTURES] == [p for p in PICTURES if p in expected]
    assert len(page.alts) == len(expected)
    assert all(re.search(r"\d", alt) for alt in page.alts)
    for drawing in page.panels():
        assert len(list(drawing.iter("path"))) + len(list(drawing.iter("image"))) > 1
    assert page.headings[-3:] == list(ALWAYS)
    assert page.cell("points") == str(shape[0])
    assert page.numbers("dimension")[0] == str(data.dim)


def test_smoothed_data_give_a_page_with_every_picture(tmp_path: Path) -> None:
    page = page_of(dataset(tmp_path, random_points(6, 5, 4)), epsilon=0.3)
    assert len(page.alts) == len(PICTURES) - 1


@pytest.mark.parametrize("which", ["plane", "space", "smooth"])
def test_the_page_needs_nothing_from_outside(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which).text
    page = Page(text)
    assert "://" not in text
    assert "@import" not in text
    assert not re.search(r"url\s*\((?!#)", text)
    for tag, attributes in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        assert attributes.get("href", "#").startswith(("#", "data:image/png;base64,"))
        assert attributes.get("src", "data:").startswith("data:")
        assert tag != "script" or "src" not in attributes
    assert len(text) < 5e6
    assert page.tags[0] == ("html", {"lang": "en"})
    assert text.startswith("<!doctype html>")
    assert ("meta", {"charset": "utf-8"}) in page.tags


@pytest.mark.slow
def test_the_same_seed_gives_the_same_page_at_the_same_time(plane: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    pages = [render_page(plane.fit, plane.flow, plane.data, seed=seed) for seed in (5, 5, 6)]
    assert pages[0] == pages[1]
    assert pages[0] != pages[2]
    assert Page(pages[0]).cell("date") == "1970-01-02 00:00 UTC"


def test_the_page_leaves_the_global_generator_alone(plane: Written) -> None:
    state = torch.random.get_rng_state()
    render_page(plane.fit, plane.flow, plane.data, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())


HOSTILE = ["<script>alert(1)<!--", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}{% raw %}", "a & b 'c'", "\u202eevil"]


@pytest.mark.parametrize("name", slow_beyond(2, HOSTILE))
def test_hostile_names_are_only_text(name: str, tmp_path: Path) -> None:
    data = dataset(tmp_path, random_points(1, 2), name)
    assert data.name == name
    page = page_of(data)
    honest = page_of(dataset(tmp_path, random_points(1, 2), "honest"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in honest.tags]
    assert f"flow of {name}\n" in page.text
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)


@pytest.mark.parametrize("name", slow_beyond(1, ["</script><script>$x$ and $", "_hidden", "名前", *HOSTILE]))
def test_hostile_columns_and_classes_are_only_text(name: str, tmp_path: Path) -> None:
    data = dataset(tmp_path, random_points(20, 2))
    labels = torch.arange(20) % 2
    named = dataclasses.replace(data, labels=labels, label_names=(name, "b"), columns=(name, "y"))
    plain = dataclasses.replace(data, labels=labels, label_names=("a", "b"), columns=("x", "y"))
    pages = [page_of(shown) for shown in (named, plain)]
    outside = [Page(re.sub(r"<svg.*?</svg>", "", page.source, flags=re.DOTALL)) for page in pages]
    assert [tag for tag, _ in outside[0].tags] == [tag for tag, _ in outside[1].tags]
    texts = [text for group in pages[0].live()[0]["groups"] for text in group["texts"]]
    assert any(f", class {name}\n{name} " in text for text in texts)
    labels_of_axes = [element.text for panel in pages[0].panels() for element in panel.iter("text")]
    assert f"{name} (standardised)" in labels_of_axes


def test_the_machine_and_versions_are_said(plane: Written) -> None:
    assert f"torch {torch.__version__}" in plane.page.cell("versions")
    assert plane.page.cell("threads") == str(torch.get_num_threads())
    assert "cores" in plane.page.cell("machine")


def test_a_command_does_not_break_inside_an_option(plane: Written) -> None:
    command = "proxflow fit 'my data.csv' --label 'a b' --conditional --points 500"
    text = render_page(plane.fit, plane.flow, plane.data, command=command)
    parts = re.findall(r"<span>(.*?)</span>", text)
    assert [html.unescape(part) for part in parts] == [
        "proxflow", "fit", "'my data.csv'", "--label 'a b'", "--conditional", "--points 500"
    ]  # fmt: skip
    assert Page(text).cell("command") == command


def test_rows_are_described_where_they_are_drawn(tmp_path: Path) -> None:
    """The places of the dots in the drawing, undone by two of them, are those of the data."""
    page = page_of(dataset(tmp_path, random_points(20, 2)))
    (live,) = page.live()
    still, moving = live["groups"]
    drawing = page.panels()[0]
    (group,) = [element for element in drawing.iter("g") if element.get("data-points") == still["name"]]
    seen = np.array([[float(use.get("x")), float(use.get("y"))] for use in group.iter("use")])
    told = np.array(
        [[float(x) for x in re.findall(r"-?\d[\d.e-]*", text.split("\n")[1])[1::2]] for text in still["texts"]]
    )
    assert seen.shape == told.shape == (20, 2)
    for k in (0, 1):
        slope, offset = np.polyfit(told[:, k], seen[:, k], 1)
        assert np.abs(slope * told[:, k] + offset - seen[:, k]).max() < 0.1
    frames = np.array(moving["frames"]).reshape(len(live["times"]), -1, 2) / 10
    ends = [int(text.rpartition(" ")[2]) for text in moving["texts"]]
    assert np.abs(frames[-1] - seen[ends]).max() < 0.1
    (group,) = [element for element in drawing.iter("g") if element.get("data-points") == "moving"]
    start = np.array([[float(use.get("x")), float(use.get("y"))] for use in group.iter("use")])
    assert np.abs(frames[0] - start).max() < 0.1
    middle = live["times"].index(0.5)
    assert np.abs(frames[middle] - (frames[0] + frames[-1]) / 2).max() < 0.2  # tenths, rounded


@pytest.mark.parametrize("module", ["jinja2", "matplotlib.figure"])
def test_a_missing_extra_is_named(module: str, plane: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "proxflow\[report\]"'):
        render_page(plane.fit, plane.flow, plane.data)
