"""A shift and one scale, undone to rounding."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proxflow as pf
from proxflow.data import Standardisation
from proxflow.data.standardisation import Kind
from tests.data.sources import POINTS, f64, raw, write_npy


def test_standardised_points_have_mean_zero_and_unit_spread(tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy")
    points = pf.data.load(tmp_path / "x.npy", dtype=f64).points
    torch.testing.assert_close(points.mean(0), torch.zeros(2, dtype=f64), rtol=0, atol=1e-15)
    assert float(points.square().mean()) == pytest.approx(1, rel=1e-14)


def test_one_scale_keeps_the_proportions_of_distances(tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy")
    points = pf.data.load(tmp_path / "x.npy", dtype=f64).points
    original = torch.from_numpy(POINTS)
    ratio = torch.pdist(points) / torch.pdist(original)
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio), rtol=1e-13, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, f64])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_standardisation_is_undone_to_rounding(dtype: torch.dtype, offset: float, tmp_path: Path) -> None:
    original = torch.from_numpy(POINTS + offset)
    np.save(tmp_path / "x.npy", original.numpy())
    dataset = pf.data.load(tmp_path / "x.npy", dtype=dtype)
    undone = dataset.standardisation.undo(dataset.points)
    assert undone.dtype == f64
    assert dataset.points.dtype == dtype
    # of the points, of size at most 4 scales, and of float64 at the size of the data
    rounding = 4 * torch.finfo(dtype).eps * dataset.standardisation.scale + 4e-16 * float(original.abs().max())
    assert (undone.double() - original).abs().max() <= rounding


def test_standardisation_takes_whole_numbers() -> None:
    standardisation = Standardisation(torch.tensor([0.5], dtype=f64), 2.0)
    assert standardisation.apply(torch.tensor([[1], [2]])).tolist() == [[0.25], [0.75]]


def test_without_standardisation_nothing_changes(tmp_path: Path) -> None:
    write_npy(tmp_path / "x.npy")
    standardisation = raw(tmp_path / "x.npy").standardisation
    assert standardisation.scale == 1.0
    assert standardisation.mean.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("value", [0.1, 0.0, -7.3e5, 1e308])
def test_constant_columns_become_exactly_zero_and_come_back(value: float, tmp_path: Path) -> None:
    points = POINTS.copy()
    points[:, 1] = value
    np.save(tmp_path / "x.npy", points)
    dataset = pf.data.load(tmp_path / "x.npy", dtype=f64)
    assert dataset.points[:, 1].tolist() == [0.0] * 6
    assert dataset.standardisation.undo(dataset.points)[:, 1].tolist() == [value] * 6


@pytest.mark.parametrize("count", [1, 3])
def test_equal_points_get_scale_one(count: int, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.full((count, 2), 0.1))
    dataset = pf.data.load(tmp_path / "x.npy")
    assert dataset.standardisation.scale == 1.0
    assert dataset.points.tolist() == [[0.0, 0.0]] * count


@pytest.mark.parametrize("size", [1e-200, 1e-3, 1e200])
def test_the_scale_follows_the_size_of_the_data(size: float, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", POINTS)
    np.save(tmp_path / "y.npy", POINTS * size)
    scale = pf.data.load(tmp_path / "x.npy").standardisation.scale
    assert pf.data.load(tmp_path / "y.npy").standardisation.scale == pytest.approx(scale * size, rel=1e-13)


# -------------------------------------------------------------------- one scale for each column, and whitening

KINDS = ("global", "columns", "whiten", "none")
UNITS = np.random.default_rng(7).normal(size=(40, 3)) @ np.array([[1, 0, 0], [0.8, 1, 0], [0, 0.3, 1]])
UNITS = UNITS * [800.0, 1.0, 0.01] + [4200.0, 17.0, -3.0]


def test_each_column_has_its_own_deviation() -> None:
    dataset = pf.data.from_array(UNITS, standardise="columns", dtype=f64)
    expected = (UNITS - UNITS.mean(0)) / UNITS.std(0)
    torch.testing.assert_close(dataset.points, torch.from_numpy(expected), rtol=0, atol=1e-13)


def test_whitened_points_are_uncorrelated_and_close_to_their_columns() -> None:
    points = pf.data.from_array(UNITS, standardise="whiten", dtype=f64).points.numpy()
    assert np.allclose(np.cov(points.T, bias=True), np.eye(3), atol=1e-12)
    # R^(-1/2) is the symmetric square root: the cross-correlation with the columns is R^(1/2), which is symmetric
    cross = np.corrcoef(points.T, UNITS.T)[:3, 3:]
    assert np.allclose(cross, cross.T, atol=1e-12)
    assert np.allclose(cross @ cross, np.corrcoef(UNITS.T), atol=1e-12)


@pytest.mark.parametrize("kind", ["columns", "whiten"])
def test_units_change_nothing(kind: Kind) -> None:
    ours = pf.data.from_array(UNITS, standardise=kind, dtype=f64).points
    theirs = pf.data.from_array(UNITS * [1e-5, 1e6, 3.0] + [0.0, 5.0, 1.0], standardise=kind, dtype=f64).points
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


@pytest.mark.filterwarnings("ignore::proxflow.DataWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [(40, 3), (10, 3, 2, 2)])
def test_every_standardisation_is_undone_and_saved(kind: Kind, form: tuple[int, ...], tmp_path: Path) -> None:
    data = UNITS if form == (40, 3) else np.random.default_rng(3).normal(size=form) + 5
    dataset = pf.data.from_array(data, standardise=kind, dtype=f64)
    assert dataset.standardisation.kind == kind
    pf.save(dataset.standardisation, tmp_path / "s.safetensors")
    again = pf.load(tmp_path / "s.safetensors")
    for standardisation in (dataset.standardisation, again):
        undone = standardisation.undo(dataset.points)
        torch.testing.assert_close(undone, torch.from_numpy(data), rtol=1e-12, atol=1e-12)
        assert torch.equal(standardisation.apply(torch.from_numpy(data)), dataset.points)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_directions_without_variance_are_not_blown_up(dtype: type[np.floating[Any]]) -> None:
    """A sum, a copy in another unit and a constant: of rank two, up to the rounding of the data."""
    two = UNITS[:, :2]
    data = np.stack([two[:, 0], two[:, 1], two.sum(1), 1000 * two[:, 0], 0 * two[:, 0] + 7], axis=1).astype(dtype)
    dataset = pf.data.from_array(data, standardise="whiten", dtype=f64)
    assert dataset.standardisation.directions.shape == (5, 2)
    covariance = np.cov(dataset.points.numpy().T, bias=True)
    assert np.allclose(np.linalg.eigvalsh(covariance), [0, 0, 0, 1, 1], atol=1e-9)
    undone = dataset.standardisation.undo(dataset.points).numpy()
    assert np.abs((undone - data) / data.std(0).clip(1)).max() < 20 * np.finfo(dtype).eps * 10


def test_fewer_points_than_columns_are_whitened() -> None:
    data = np.random.default_rng(1).normal(size=(5, 30))
    dataset = pf.data.from_array(data, standardise="whiten", dtype=f64)
    assert dataset.standardisation.directions.shape == (30, 4)
    assert np.allclose(dataset.standardisation.undo(dataset.points).numpy(), data, atol=1e-12)


def test_tables_have_a_scale_for_each_column_and_arrays_one(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", POINTS)
    np.savetxt(tmp_path / "x.csv", POINTS, delimiter=",")
    assert pf.data.load(tmp_path / "x.npy").standardisation.kind == "global"
    assert pf.data.load(tmp_path / "x.csv").standardisation.kind == "columns"
    assert pf.data.load(tmp_path / "x.csv", standardise="whiten").standardisation.kind == "whiten"
    assert pf.data.load(tmp_path / "x.csv", standardise=False).standardisation.kind == "none"


def test_one_scale_for_unlike_columns_is_doubted(tmp_path: Path) -> None:
    with pytest.warns(pf.DataWarning, match=r"one scale for all columns, but 0 varies \d+,\d+ times as much as 2"):
        pf.data.from_array(UNITS)
    np.savetxt(tmp_path / "x.csv", UNITS, delimiter=",", header="a,b,c")
    with pytest.warns(pf.DataWarning, match="but a varies .* as much as c, .*--standardise columns"):
        pf.data.load(tmp_path / "x.csv", standardise="global")
    pf.data.from_array(np.concatenate([POINTS, np.ones((6, 1))], axis=1))  # a constant is like any other


# -------------------------------------------------------------------- digits


@pytest.mark.parametrize("kind", ["global", "columns", "whiten"])
@pytest.mark.parametrize("offset", [0.0, 5_411_000.0, 1e9, -1e12])
def test_points_of_the_data_become_their_rows_bit_for_bit(kind: Kind, offset: float) -> None:
    rows = POINTS * 3 + offset
    dataset = pf.data.from_array(rows, standardise=kind)
    order = torch.tensor([3, 0, 5, 5])
    ends = dataset.points[order]
    assert np.array_equal(dataset.undo(ends).numpy(), rows[order])
    mixed = dataset.undo(torch.cat([ends, ends[:1] + 0.25]))  # the last is no point of the data
    assert np.array_equal(mixed[:4].numpy(), rows[order])
    assert torch.equal(mixed[4:], dataset.standardisation.undo(ends[:1] + 0.25))


def test_rows_that_float32_cannot_tell_apart_become_one_of_them() -> None:
    rows = POINTS + 1e9
    dataset = pf.data.from_array(rows, standardise="none")
    assert {tuple(row) for row in dataset.undo(dataset.points).tolist()} < {tuple(row) for row in rows.tolist()}


def test_undoing_keeps_the_digits_of_data_far_from_zero() -> None:
    """Northings of a survey: 3 metres about 5,411,000, where numbers of float32 are half a metre apart."""
    rows = np.random.default_rng(0).normal(size=(200, 2)) * 3 + [5_411_000, 1e9]
    dataset = pf.data.from_array(rows)
    undone = dataset.standardisation.undo(dataset.points + 1e-3).numpy()  # no point of the data
    scale = dataset.standardisation.scale
    assert np.abs(undone - rows - 1e-3 * scale).max() < 4 * scale * 1.2e-7 * 4 + 2.4e-7


@pytest.mark.parametrize("dtype", [np.uint8, np.int32, np.float32, np.float64])
def test_rows_keep_their_dtype(dtype: type[np.generic]) -> None:
    rows = np.arange(12).reshape(6, 2).astype(dtype) ** 2
    dataset = pf.data.from_array(rows)
    assert dataset.undo(dataset.points).numpy().dtype == dtype
    assert np.array_equal(dataset.undo(dataset.points).numpy(), rows)


def test_every_way_along_an_exact_flow_ends_on_rows() -> None:
    rows = np.random.default_rng(2).normal(size=(30, 2)) * [3, 0.5] + [5_411_000, 0]
    dataset = pf.data.from_array(rows)
    flow = pf.ProximalFlow(pf.semidiscrete.fit(dataset.points).potential)
    noise = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    known = {row.tobytes() for row in rows}
    for method in ("proximal", "euler", "heun", "dopri5"):
        end = pf.sampling.integrate(flow, noise, 1 if method == "dopri5" else 4, method).end
        assert {row.tobytes() for row in dataset.undo(end).numpy()} <= known
    assert {row.tobytes() for row in dataset.undo(flow.transport(noise)).numpy()} <= known
