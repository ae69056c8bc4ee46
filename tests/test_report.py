"""The report page: self-contained, true to the fit, and safe against hostile names."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

import proxflow as pf
from proxflow.report import figures, render_page

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """Parses a page and refuses one whose tags do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self.rows[-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.text += data
        if {"th", "td"} & set(self.open) and "small" not in self.open:
            self.rows[-1][-1] += data

    def cell(self, name: str) -> str:
        (value,) = [row[1].strip() for row in self.rows if row[0].strip() == name]
        return value

    def numbers(self, name: str) -> list[str]:
        text = self.cell(name).replace("95% interval", "").replace(",", "")
        return re.findall(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", text)

    def pictures(self) -> list[Image.Image]:
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        assert all(source.startswith("data:image/png;base64,") for source in sources)
        return [Image.open(io.BytesIO(base64.b64decode(s.partition(",")[2], validate=True))) for s in sources]


def same_number(shown: str, value: float) -> bool:
    """Whether ``shown`` is ``value`` to all the digits that are shown."""
    mantissa, _, exponent = shown.partition("e")
    last = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return abs(float(shown) - value) <= 0.5 * last * (1 + 1e-9)


def dataset(tmp_path, points: np.ndarray, name: str = "points", labels=None) -> pf.data.Dataset:
    np.save(tmp_path / f"{name}.npy", points)
    return pf.data.load(tmp_path / f"{name}.npy")


def fitted(data: pf.data.Dataset, **options) -> tuple[pf.semidiscrete.Fit, pf.ProximalFlow]:
    fit = pf.semidiscrete.fit(data.points, **({"tol": 0.5, "max_samples": 5000} | options))
    return fit, pf.ProximalFlow(fit.potential)


def page_of(data: pf.data.Dataset, **options) -> Page:
    return Page(render_page(*fitted(data, **options), data))


def random_points(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape)


@pytest.fixture(scope="module")
def plane(tmp_path_factory):
    """Data in the plane with a pair of equal rows, its fit, flow and page as text."""
    points = random_points(30, 2)
    points[7] = points[3]
    data = dataset(tmp_path_factory.mktemp("plane"), points)
    fit, flow = fitted(data, seed=5)
    return data, fit, flow, render_page(fit, flow, data, seed=5)


SHAPES = {
    "line": (20, 1),
    "plane": (20, 2),
    "space": (20, 5),
    "grey images": (6, 5, 4),
    "colour images": (6, 3, 5, 4),
    "one-channel images": (6, 1, 5, 4),
    "one point": (1, 3),
    "one point on a line": (1, 1),
    "one image": (1, 4, 4),
    "two points": (2, 2),
    "not quite images": (8, 2, 2),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_every_kind_of_data_gives_a_page(shape, tmp_path):
    data = dataset(tmp_path, random_points(*shape))
    page = page_of(data)
    pictures = page.pictures()
    for picture in pictures:
        assert picture.format == "PNG"
        assert min(picture.size) > 50
        assert np.asarray(picture.convert("L")).std() > 1
    images = figures.is_image(data.event_shape)
    assert len(pictures) == 2 + images + (shape[0] > 1)
    assert ("Images along the flow" in page.text) == images
    assert page.cell("points") == str(shape[0])
    assert page.numbers("dimension")[0] == str(data.dim)


def test_the_page_needs_nothing_from_outside(plane):
    text = plane[-1]
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


def test_the_certificate_holds_the_numbers_of_the_fit(plane):
    data, fit, _, text = plane
    page = Page(text)
    expected = {
        "points": [30],
        "atoms": [29],
        "dimension": [2],
        "χ²": [fit.chi2, fit.chi2_stderr],
        "tolerance": [fit.tol],
        "χ² x draws / atoms": [fit.chi2 * fit.samples_used / 29],
        "transport cost W₂²": [fit.transport_cost, *fit.transport_cost_interval],
        "noise draws to fit": [fit.samples_used],
        "noise draws to evaluate": [fit.evaluation_samples],
        "time": [fit.seconds],
        "seed": [5],
    }
    for name, values in expected.items():
        shown = page.numbers(name)
        assert len(shown) == len(values), name
        assert all(same_number(s, v) for s, v in zip(shown, values, strict=True)), name
    assert page.cell("schedule") == "Linear()"
    assert page.cell("data, SHA-256") == data.content_hash


def test_the_digits_shown_are_compared_strictly():
    assert same_number("0.0069", 0.00692)
    assert not same_number("0.0069", 0.00696)
    assert same_number("1.2e-05", 1.21e-5)
    assert not same_number("83.4125", 83.4131)


def test_the_same_seed_gives_the_same_page(plane):
    data, fit, flow, text = plane
    assert render_page(fit, flow, data, seed=5) == text
    assert render_page(fit, flow, data, seed=6) != text


def test_the_page_leaves_the_global_generator_alone(plane):
    data, fit, flow, _ = plane
    state = torch.random.get_rng_state()
    render_page(fit, flow, data, seed=5)
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


def test_the_verdict_follows_the_fit(plane, tmp_path):
    _, fit, _, text = plane
    assert fit.converged
    assert "Converged" in text
    assert "Not converged" not in text
    data = dataset(tmp_path, random_points(30, 2))
    with pytest.warns(pf.ConvergenceWarning):
        unfinished = page_of(data, tol=1e-2, max_samples=1)
    assert "Not converged" in unfinished.text
    assert "exactly optimal for the shares" in unfinished.text
    assert "one data point" in page_of(dataset(tmp_path, random_points(1, 2))).text


def test_straight_lines_are_claimed_for_the_linear_schedule_only(plane):
    data, fit, _, text = plane
    assert "a straight line" in text
    curved = render_page(fit, pf.ProximalFlow(fit.potential, pf.schedules.Cosine()), data)
    assert "a straight line" not in curved
    assert Page(curved).cell("schedule") == "Cosine()"


@pytest.mark.parametrize("module", ["jinja2", "matplotlib.figure"])
def test_a_missing_extra_is_named(module, plane, monkeypatch):
    data, fit, flow, _ = plane
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImportError, match=r'pip install "proxflow\[report\]"'):
        render_page(fit, flow, data)


# -------------------------------------------------------------------- figures


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_grid_shows_every_image_at_its_place():
    levels = torch.linspace(0, 1, 5)
    shown = pixels(figures.image_grid(levels[:, None, None].expand(5, 8, 8), columns=3))
    height, width, _ = shown.shape
    for index, level in enumerate(levels.tolist()):
        row, column = divmod(index, 3)
        middle = shown[int((row + 0.5) / 2 * height), int((column + 0.5) / 3 * width)]
        assert np.abs(middle - 255 * level).max() <= 3
    assert (shown[int(0.75 * height), int(2.5 / 3 * width)] == 255).all()


def test_colours_keep_their_channels():
    image = torch.zeros(2, 3, 6, 6)
    image[0, 0] = 1
    image[1, 2] = 1
    shown = pixels(figures.image_grid(image, columns=2))
    middle = shown.shape[0] // 2
    assert shown[middle, shown.shape[1] // 4].tolist() == [255, 0, 0]
    assert shown[middle, 3 * shown.shape[1] // 4].tolist() == [0, 0, 255]


def test_limits_are_black_and_white():
    images = torch.tensor([-5.0, 2.0, 3.0, 4.0, 9.0])[:, None, None].expand(5, 4, 4)
    shown = pixels(figures.image_grid(images, columns=5, limits=(2.0, 4.0)))
    width = shown.shape[1]
    middles = [shown[shown.shape[0] // 2, int((i + 0.5) / 5 * width), 0] for i in range(5)]
    assert np.abs(np.array(middles) - [0, 0, 127.5, 255, 255]).max() <= 3


def test_equal_images_are_drawn():
    assert pixels(figures.image_grid(torch.ones(1, 3, 3), columns=1)).size > 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8), True), ((3, 8, 8), True), ((1, 8, 8), True), ((2, 8, 8), False), ((5,), False), ((2, 9), False)],
)
def test_what_counts_as_an_image(shape, expected):
    assert figures.is_image(shape) is expected


def test_a_picture_in_the_plane_shows_the_coordinates_themselves():
    axes, names = figures.plane_axes(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(axes, torch.eye(2))
    assert names == ("first coordinate", "second coordinate")


def test_a_picture_of_space_shows_the_two_largest_variances():
    points = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()
    points = points @ torch.diag(torch.tensor([0.1, 3.0, 0.2, 1.0]).double())
    axes, _ = figures.plane_axes(points)
    _, _, rows = np.linalg.svd((points - points.mean(0)).numpy(), full_matrices=False)
    assert np.abs(np.abs(axes.T.numpy()) - np.abs(rows[:2])).max() < 1e-10


@pytest.mark.parametrize("values", [[1.0] * 5, [0.5, 1.5], list(np.arange(3, 40) / 20), list(np.arange(500) / 100)])
def test_bins_hold_all_values_and_equally_many_levels(values):
    edges = figures._aligned_bins(torch.tensor(values, dtype=torch.float64))
    counts, _ = np.histogram(values, bins=edges)
    assert counts.sum() == len(values)
    assert len(counts) <= 42
    if len(values) > 2:
        assert len(set(counts[:-1].tolist())) <= 1
