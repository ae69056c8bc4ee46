"""What a training page says of samples: against rows, classes and columns."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.report.column_comparison import column_table, marginals
from proxflow.report.drawn_samples import DrawnSamples, draw_samples
from proxflow.report.image_comparison import accuracy_of, data_beside_samples
from proxflow.report.neighbours import distance_picture, nearest_row_fact, nearest_row_pairs, neighbours_of
from proxflow.report.projections import projection
from tests.report.written import Page


@pytest.fixture(scope="module")
def digits() -> pf.data.Dataset:
    return pf.data.load("digits", n=300)


def drawn_as(points: torch.Tensor, labels: torch.Tensor | None = None) -> DrawnSamples:
    """Samples that went straight from 0 to these points."""
    return DrawnSamples((0.0, 0.5, 1.0), torch.stack([0 * points, 0.5 * points, points]), labels)


def test_copies_are_seen(digits: pf.data.Dataset) -> None:
    copies = neighbours_of(digits, drawn_as(digits.points[:200]), 0)
    assert copies.medians[0] == 0
    assert copies.medians[1] > 1
    assert "0.00 times as far" in nearest_row_fact(copies).value
    assert "Median distance of samples 0, the least 0;" in distance_picture(copies, digits).alt


def test_new_draws_are_as_far_as_rows_left_out() -> None:
    """Both medians estimate one number, from 1,000 draws each."""
    everything = pf.data.load("8gaussians", n=3000)
    data = dataclasses.replace(everything, points=everything.points[:2000], labels=None)
    ours, theirs = neighbours_of(data, drawn_as(everything.points[2000:]), 0).medians
    assert ours / theirs == pytest.approx(1, abs=0.15)  # a median's standard error is about 1.2 / sqrt(n) of itself


def test_a_pair_is_a_sample_and_its_nearest_row(digits: pf.data.Dataset) -> None:
    moved = digits.points[:40] + 0.01
    picture: Any = nearest_row_pairs(neighbours_of(digits, drawn_as(moved), 0), digits, drawn_as(moved))
    captions = [text.text for text in Page.drawings(picture.panels[0])[0].iter("text")]
    assert any(text.startswith("row ") for text in captions)
    assert "0.08" in captions  # |(0.01, ..., 0.01)| in dimension 64
    table = pf.data.load("moons", n=50)
    pairs: Any = nearest_row_pairs(
        neighbours_of(table, drawn_as(table.points[:9]), 0), table, drawn_as(table.points[:9])
    )
    lines = pairs.rows
    for sample, row in zip(lines[::2], lines[1::2], strict=True):
        assert sample[1:3] == row[1:3]
        assert sample[3] == "0"
        own = table.standardisation.undo(table.points[int(row[0].removeprefix("row "))])
        assert [float(cell) for cell in row[1:3]] == pytest.approx(own.tolist(), rel=1e-3)


def test_the_accuracy_of_labels_is_that_of_each_class(digits: pf.data.Dataset) -> None:
    labels = digits.labels.clone()
    labels[digits.labels == 3] = 4  # asked for a four, given a three
    accuracy = accuracy_of(digits, drawn_as(digits.points, labels), 0)
    fours, threes = (int((digits.labels == label).sum()) for label in (4, 3))
    assert accuracy.by_class[4] == pytest.approx(fours / (fours + threes), abs=0.05)
    assert min(right for label, right in accuracy.by_class.items() if label != 4) > 0.8
    picture = data_beside_samples(digits, drawn_as(digits.points, labels), accuracy, 0)
    names = [text.text for text in Page.drawings(picture.panels[0])[0].iter("text")]
    assert f"4: {accuracy.by_class[4]:.0%}" in names
    assert {"data", "samples"} <= set(names)


def test_there_is_no_accuracy_without_labels(digits: pf.data.Dataset) -> None:
    assert accuracy_of(digits, drawn_as(digits.points), 0) is None
    assert accuracy_of(dataclasses.replace(digits, labels=None), drawn_as(digits.points), 0) is None
    single = torch.zeros(digits.n, dtype=torch.int64)
    assert accuracy_of(dataclasses.replace(digits, labels=single), drawn_as(digits.points, single), 0) is None


@pytest.fixture
def birds(tmp_path: Path) -> pf.data.Dataset:
    """A table whose columns have units."""
    random = np.random.default_rng(0)
    kinds = np.repeat([0, 1], 100)
    mass, depth = 4000 + 1000 * kinds + 100 * random.normal(size=200), 15 + 3 * kinds + random.normal(size=200)
    np.savez(tmp_path / "birds.npz", points=np.stack([mass, depth], 1), labels=kinds)
    return dataclasses.replace(
        pf.data.load(tmp_path / "birds.npz", standardise="columns"),
        label_names=("small", "large"),
        columns=("mass", "depth"),
    )


def test_columns_are_compared_in_their_own_units_by_class(birds: pf.data.Dataset) -> None:
    own = birds.standardisation.undo(birds.points.double()).numpy()
    wrong = birds.points.clone()
    wrong[birds.labels == 1, 1] += 2 * wrong[:, 1].std()
    table = column_table(birds, wrong, birds.labels, "samples")
    assert table.columns == ("column", "class", "", "mean", "sd", "5%", "50%", "95%")
    names = [("mass", "all"), ("", "small"), ("", "large"), ("depth", "all"), ("", "small"), ("", "large")]
    assert [row[:2] for row in table.rows[::2]] == names
    for row, (column, chosen) in zip(
        table.rows[::2],
        [(k, slice(None) if c is None else birds.labels.numpy() == c) for k in (0, 1) for c in (None, 0, 1)],
        strict=True,
    ):
        values = own[:, column][chosen]
        expected = [values.mean(), values.std(), *np.quantile(values, [0.05, 0.5, 0.95])]
        assert [float(cell) for cell in row[3:]] == pytest.approx(expected, rel=2e-3)
    assert table.off == {7, 11}  # depth of all and of the large ones, in the lines of samples
    assert "mass" in marginals(birds, wrong, "samples").alt


def test_data_and_samples_share_a_plane_and_samples_move_through_it(birds: pf.data.Dataset) -> None:
    picture = projection(birds, drawn_as(birds.points, birds.labels), 0)
    assert [name for _, name in picture.legend] == ["small", "large"]
    groups = {group.name: group for group in picture.live.groups}
    places = {}
    for panel in picture.panels:
        for group in Page.drawings(panel)[0].iter("g"):
            if group.get("data-points"):
                places[group.get("data-points")] = [(float(u.get("x")), float(u.get("y"))) for u in group.iter("use")]
    assert places.keys() == groups.keys() == {f"plane-{w}-{k}" for w in ("data", "samples") for k in (0, 1)}
    assert "small" in groups["plane-data-0"].texts[0]
    assert "asked for class large\nmass" in groups["plane-samples-1"].texts[0]
    for k in (0, 1):
        moving = np.array(groups[f"plane-samples-{k}"].frames).reshape(3, -1, 2) / 10
        assert np.abs(moving[-1] - places[f"plane-samples-{k}"]).max() < 0.1
        assert np.abs(moving[-1] - places[f"plane-data-{k}"]).max() < 3  # the samples are the rows; titles differ
        assert np.ptp(moving[0], axis=0).max() < 0.11  # all from one place


def test_a_large_page_stays_small() -> None:
    """Of 60,000 rows a picture shows some."""
    points = torch.randn(60_000, 3, generator=torch.Generator().manual_seed(0))
    standardisation = pf.data.Standardisation(torch.zeros(3), 1.0)
    dataset = pf.data.Dataset(points, None, "many", standardisation, "")
    picture = projection(dataset, drawn_as(points[:1000]), 0)
    assert "1,500 of 60,000 rows" in picture.caption
    assert sum(map(len, picture.panels)) < 1e6


@pytest.mark.parametrize("classes", [0, 10])
def test_samples_are_drawn_under_labels_where_the_network_takes_them(digits: pf.data.Dataset, classes: int) -> None:
    torch.manual_seed(0)
    network = pf.matching.MLP(digits.event_shape, width=8, depth=1, classes=classes)
    coupling = pf.couplings.Independent(digits.points, digits.labels if classes else None)
    result = pf.matching.train(network, coupling, steps=1, batch_size=8, progress=False)
    drawn = draw_samples(result, digits, None)
    assert drawn.points.shape == (9, 1000, 8, 8)
    assert drawn.times == tuple(np.linspace(0, 1, 9))
    assert (drawn.labels is not None) == (classes > 0)
    with torch.no_grad():
        field = pf.matching.field_of(result.network, drawn.labels)
        end = pf.sampling.integrate(field, drawn.points[0], steps=8, method="proximal").end
    assert torch.allclose(drawn.end, end, atol=1e-5)
