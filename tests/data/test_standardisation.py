"""A shift and one scale, undone to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.data import Standardisation
from tests.data.sources import POINTS, f64, raw, write_npy


def test_standardised_points_have_mean_zero_and_unit_spread(tmp_path):
    write_npy(tmp_path / "x.npy")
    points = pf.data.load(tmp_path / "x.npy", dtype=f64).points
    torch.testing.assert_close(points.mean(0), torch.zeros(2, dtype=f64), rtol=0, atol=1e-15)
    assert float(points.square().mean()) == pytest.approx(1, rel=1e-14)


def test_one_scale_keeps_the_proportions_of_distances(tmp_path):
    write_npy(tmp_path / "x.npy")
    points = pf.data.load(tmp_path / "x.npy", dtype=f64).points
    original = torch.from_numpy(POINTS)
    ratio = torch.pdist(points) / torch.pdist(original)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_standardisation_is_undone_to_rounding(dtype, offset, tmp_path):
    original = torch.from_numpy(POINTS + offset)
    np.save(tmp_path / "x.npy", original.numpy())
    dataset = pf.data.load(tmp_path / "x.npy", dtype=dtype)
    undone = dataset.standardisation.undo(dataset.points)
    assert undone.dtype == dtype
    assert dataset.points.dtype == dtype
    rounding = 4 * torch.finfo(dtype).eps * float(original.abs().max())
    assert (undone.double() - original).abs().max() <= rounding


def test_standardisation_takes_whole_numbers():
    standardisation = Standardisation(torch.tensor([0.5], dtype=f64), 2.0)
    assert standardisation.apply(torch.tensor([[1], [2]])).tolist() == [[0.25], [0.75]]


def test_without_standardisation_nothing_changes(tmp_path):
    write_npy(tmp_path / "x.npy")
    standardisation = raw(tmp_path / "x.npy").standardisation
    assert standardisation.scale == 1.0
    assert standardisation.mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3e5, 1e308])
def test_constant_columns_become_exactly_zero_and_come_back(value, tmp_path):
    points = POINTS.copy()
    points[:, 1] = value
    np.save(tmp_path / "x.npy", points)
    dataset = pf.data.load(tmp_path / "x.npy", dtype=f64)
    assert dataset.points[:, 1].tolist() == [0.0] * 6
    assert dataset.standardisation.undo(dataset.points)[:, 1].tolist() == [value] * 6


@pytest.mark.parametrize("count", [1, 3])
def test_equal_points_get_scale_one(count, tmp_path):
    np.save(tmp_path / "x.npy", np.full((count, 2), 0.1))
    dataset = pf.data.load(tmp_path / "x.npy")
    assert dataset.standardisation.scale == 1.0
    assert dataset.points.tolist() == [[0.0, 0.0]] * count


@pytest.mark.parametrize("size", [1e-200, 1e-3, 1e200])
def test_the_scale_follows_the_size_of_the_data(size, tmp_path):
    np.save(tmp_path / "x.npy", POINTS)
    np.save(tmp_path / "y.npy", POINTS * size)
    scale = pf.data.load(tmp_path / "x.npy").standardisation.scale
    assert pf.data.load(tmp_path / "y.npy").standardisation.scale == pytest.approx(scale * size, rel=1e-13)
