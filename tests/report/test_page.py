"""The report page: self-contained, with its pictures, and safe against hostile names."""

from __future__ import annotations

import re
import sys

import numpy as np
import pytest
import torch

from proxflow.report import render_page
from tests.report.written import Page, dataset, page_of, random_points

TRAJECTORIES, IMAGES, CONVERGENCE, SHARES = PICTURES = (
    "From noise to data",
    "Images along the flow",
    "Convergence",
    "Shares of the noise",
)
SHAPES = {
    "line": ((20, 1), {TRAJECTORIES}),
    "plane": ((20, 2), {TRAJECTORIES, CONVERGENCE}),
    "space": ((20, 3), {TRAJECTORIES, CONVERGENCE}),
    "five dimensions": ((20, 5), {TRAJECTORIES, CONVERGENCE, SHARES}),
    "grey images": ((6, 5, 4), set(PICTURES)),
    "colour images": ((6, 3, 5, 4), set(PICTURES)),
    "one-channel images": ((6, 1, 5, 4), set(PICTURES)),
    "one point": ((1, 3), {TRAJECTORIES}),
    "one point on a line": ((1, 1), {TRAJECTORIES}),
    "one image": ((1, 4, 4), {TRAJECTORIES, IMAGES}),
    "two points": ((2, 2), {TRAJECTORIES}),
    "not quite images": ((8, 2, 2), {TRAJECTORIES, CONVERGENCE, SHARES}),
}


@pytest.mark.parametrize(("shape", "expected"), SHAPES.values(), ids=SHAPES)
def test_every_kind_of_data_gives_a_page(shape, expected, tmp_path):
    data = dataset(tmp_path, random_points(*shape))
    page = page_of(data)
    pictures = page.pictures()
    for picture in pictures:
        assert picture.format == "PNG"
        assert min(picture.size) > 50
        assert np.asarray(picture.convert("L")).std() > 1
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == [
        p for p in PICTURES if p in expected
    ]
    assert len(pictures) == len(expected)
    assert page.cell("points") == str(shape[0])
    assert page.numbers("dimension")[0] == str(data.dim)


def test_smoothed_data_give_a_page_with_every_picture(tmp_path):
    page = page_of(dataset(tmp_path, random_points(6, 5, 4)), epsilon=0.3)
    assert len(page.pictures()) == len(PICTURES)


@pytest.mark.parametrize("which", ["plane", "space", "smooth"])
def test_the_page_needs_nothing_from_outside(which, request):
    text = request.getfixturevalue(which).text
    page = Page(text)
    assert "://" not in text
    assert "@import" not in text
    assert not re.search(r"url\s*\(", text)
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object", "embed", "base")
        assert "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:")
    assert page.tags[0] == ("html", {"lang": "en"})
    assert text.startswith("<!doctype html>")
    assert ("meta", {"charset": "utf-8"}) in page.tags


def test_the_same_seed_gives_the_same_page(plane):
    assert render_page(plane.fit, plane.flow, plane.data, seed=5) == plane.text
    assert render_page(plane.fit, plane.flow, plane.data, seed=6) != plane.text


def test_the_page_leaves_the_global_generator_alone(plane):
    state = torch.random.get_rng_state()
    render_page(plane.fit, plane.flow, plane.data, seed=5)
    assert torch.equal(state, torch.random.get_rng_state())


HOSTILE = ["<script>alert(1)<!--", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}{% raw %}", "a & b 'c'", "\u202eevil"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_text(name, tmp_path):
    data = dataset(tmp_path, random_points(1, 2), name)
    assert data.name == name
    page = page_of(data)
    honest = page_of(dataset(tmp_path, random_points(1, 2), "honest"))
    assert [tag for tag, _ in page.tags] == [tag for tag, _ in honest.tags]
    assert f"flow of {name}\n" in page.text
    assert all(not key.startswith("on") for _, attributes in page.tags for key in attributes)


@pytest.mark.parametrize("module", ["jinja2", "matplotlib.figure"])
def test_a_missing_extra_is_named(module, plane, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "proxflow\[report\]"'):
        render_page(plane.fit, plane.flow, plane.data)
