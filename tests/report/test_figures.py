"""Pictures: what is where, and on which scale."""

from __future__ import annotations

import io
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.font_manager import fontManager
from PIL import Image

import proxflow as pf
from proxflow.report import figures, projections
from proxflow.report.canvas import literal
from proxflow.report.column_comparison import marginals
from proxflow.report.fit_figures import _aligned_bins


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def test_a_grid_shows_every_image_at_its_place() -> None:
    levels = torch.linspace(0, 1, 5)
    shown = pixels(figures.image_grid(levels[:, None, None].expand(5, 8, 8), columns=3))
    height, width, _ = shown.shape
    for index, level in enumerate(levels.tolist()):
        row, column = divmod(index, 3)
        middle = shown[int((row + 0.5) / 2 * height), int((column + 0.5) / 3 * width)]
        assert np.abs(middle - 255 * level).max() <= 3
    assert (shown[int(0.75 * height), int(2.5 / 3 * width)] == 255).all()


def test_colours_keep_their_channels() -> None:
    image = torch.zeros(2, 3, 6, 6)
    image[0, 0] = 1
    image[1, 2] = 1
    shown = pixels(figures.image_grid(image, columns=2))
    middle = shown.shape[0] // 2
    assert shown[middle, shown.shape[1] // 4].tolist() == [255, 0, 0]
    assert shown[middle, 3 * shown.shape[1] // 4].tolist() == [0, 0, 255]


def test_limits_are_black_and_white() -> None:
    images = torch.tensor([-5.0, 2.0, 3.0, 4.0, 9.0])[:, None, None].expand(5, 4, 4)
    shown = pixels(figures.image_grid(images, columns=5, limits=(2.0, 4.0)))
    width = shown.shape[1]
    middles = [shown[shown.shape[0] // 2, int((i + 0.5) / 5 * width), 0] for i in range(5)]
    assert np.abs(np.array(middles) - [0, 0, 127.5, 255, 255]).max() <= 3


def test_equal_images_are_drawn() -> None:
    assert pixels(figures.image_grid(torch.ones(1, 3, 3), columns=1)).size > 0


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 8), True), ((3, 8, 8), True), ((1, 8, 8), True), ((2, 8, 8), False), ((5,), False), ((2, 9), False)],
)
def test_what_counts_as_an_image(shape: tuple[int, ...], expected: bool) -> None:
    assert figures.is_image(shape) is expected


def test_a_picture_in_the_plane_shows_the_coordinates_themselves() -> None:
    axes, names = projections.plane_axes(torch.randn(9, 2, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(axes, torch.eye(2))
    assert names == ("first coordinate", "second coordinate")


def test_a_picture_of_space_shows_the_two_largest_variances() -> None:
    points = torch.randn(500, 4, generator=torch.Generator().manual_seed(0)).double()
    points = points @ torch.diag(torch.tensor([0.1, 3.0, 0.2, 1.0]).double())
    axes, _ = projections.plane_axes(points)
    _, _, rows = np.linalg.svd((points - points.mean(0)).numpy(), full_matrices=False)
    assert np.abs(np.abs(axes.T.numpy()) - np.abs(rows[:2])).max() < 1e-10


@pytest.mark.parametrize("values", [[1.0] * 5, [0.5, 1.5], list(np.arange(3, 40) / 20), list(np.arange(500) / 100)])
def test_bins_hold_all_values_and_equally_many_levels(values: Any) -> None:
    edges = _aligned_bins(torch.tensor(values, dtype=torch.float64))
    counts, _ = np.histogram(values, bins=edges)
    assert counts.sum() == len(values)
    assert len(counts) <= 42
    if len(values) > 2:
        assert len(set(counts[:-1].tolist())) <= 1


def test_a_long_name_keeps_both_its_ends() -> None:
    """Names of many columns often differ in their last letters alone."""
    names = [f"a rather long name of the gene number {number}" for number in (10, 11)]
    shown = [literal(name, 28) for name in names]
    assert shown == ["a rather long …ene number 10", "a rather long …ene number 11"]
    assert literal("price $", 28) == r"price \$"


def test_long_names_fit_below_their_histograms() -> None:
    points = np.random.default_rng(0).normal(size=(20, 2))
    name = "a rather long name of the gene number 1234567890"
    dataset = pf.data.from_frame(pd.DataFrame(points, columns=[name, "b"]))
    panel = marginals(dataset, dataset.points, "").panels[0]
    assert isinstance(panel, str)
    assert name[:30] not in panel
    assert "a rather long" in panel


def test_letters_that_the_own_font_lacks_are_drawn_in_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """U+20D2 is in fonts that come with matplotlib, though not in its own."""
    image = torch.zeros(2, 4, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures.image_grid(image, columns=1, row_names=["a\u20d2", "b"])
    own = [font for font in fontManager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(fontManager, "ttflist", own)
    with pytest.warns(pf.DataWarning, match="no font that is installed has 猫: .* boxes") as said:
        figures.image_grid(image, columns=1, row_names=["猫", "b"])
    assert len(said) == 1
