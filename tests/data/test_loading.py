"""From a source to a data set: subsets, hashes, arguments that are not used."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import proxflow as pf
from tests.data.sources import POINTS, WRITERS, f64, raw, refusal, write_csv, write_h5ad, write_parquet


def test_the_hash_is_of_the_values_and_their_shape(tmp_path: Path) -> None:
    hashes = []
    for name, array in {"a": POINTS, "b": POINTS.copy(), "c": POINTS[::-1], "d": POINTS.reshape(6, 2, 1)}.items():
        np.save(tmp_path / f"{name}.npy", array)
        hashes.append(pf.data.load(tmp_path / f"{name}.npy").content_hash)
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3
    write_csv(tmp_path / "e.csv")
    assert pf.data.load(tmp_path / "e.csv", dtype=f64, standardise=False).content_hash == hashes[0]


def test_loading_does_not_change_the_default_dtype() -> None:
    before = torch.get_default_dtype()
    pf.data.load("circle", n=4, dtype=f64)
    assert torch.get_default_dtype() == before


def test_a_missing_reader_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parquet(tmp_path / "x.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r'pip install "proxflow\[data\]"'):
        pf.data.load(tmp_path / "x.parquet")


def test_a_missing_anndata_names_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_h5ad(tmp_path / "x.h5ad")
    monkeypatch.setitem(sys.modules, "anndata", None)
    with pytest.raises(ImportError, match=r'pip install "proxflow\[data\]"'):
        pf.data.load(tmp_path / "x.h5ad")


# -------------------------------------------------------------------- subsets


@pytest.fixture
def sorted_by_class(tmp_path: Path) -> Path:
    """1,000 points 0, 1, 2, ... of ten classes, one after the other."""
    np.savez(tmp_path / "sorted.npz", points=np.arange(1000.0)[:, None], labels=np.arange(1000) // 100)
    return tmp_path / "sorted.npz"


def test_a_subset_is_in_order_without_repeats_and_keeps_its_labels(sorted_by_class: Path) -> None:
    dataset = raw(sorted_by_class, n=300)
    rows = dataset.points[:, 0]
    assert dataset.n == 300
    assert (rows.diff() > 0).all()
    assert torch.equal(dataset.labels, rows.long() // 100)


def test_subsets_are_uniform(sorted_by_class: Path) -> None:
    draws = torch.zeros(1000)
    for seed in range(200):
        draws[raw(sorted_by_class, n=100, seed=seed).points[:, 0].long()] += 1
    # Each row is drawn Binomial(200, 0.1) times, of variance 18.
    assert float(((draws - 20) ** 2).mean()) == pytest.approx(18, rel=0.2)
    assert (draws.reshape(10, 100).mean(1) - 20).abs().max() < 5 * np.sqrt(18 / 100)


def test_a_subset_follows_its_seed(sorted_by_class: Path) -> None:
    first = raw(sorted_by_class, n=50, seed=3)
    assert first.content_hash == raw(sorted_by_class, n=50, seed=3).content_hash
    assert first.content_hash != raw(sorted_by_class, n=50, seed=4).content_hash


@pytest.mark.parametrize("seed", [0, 1])
def test_all_points_are_all_of_them(seed: int, sorted_by_class: Path) -> None:
    whole = raw(sorted_by_class)
    assert whole.n == 1000
    assert torch.equal(raw(sorted_by_class, n=1000, seed=seed).points, whole.points)


def test_more_points_than_there_are_is_refused(sorted_by_class: Path) -> None:
    message = refusal(sorted_by_class, n=1001)
    assert "has 1,000 points, 1,001 were asked for" in message
    assert "--points" in message


def test_a_subset_is_standardised_by_itself(sorted_by_class: Path) -> None:
    points = pf.data.load(sorted_by_class, n=100, dtype=f64).points
    assert float(points.mean()) == pytest.approx(0, abs=1e-14)
    assert float(points.square().mean()) == pytest.approx(1, rel=1e-13)


def test_rows_that_are_not_finite_have_their_number_in_the_file(tmp_path: Path) -> None:
    points = np.arange(100.0)[:, None]
    np.save(tmp_path / "x.npy", points)
    chosen = raw(tmp_path / "x.npy", n=10).points[:, 0].long().tolist()
    points[chosen[7]] = np.nan
    np.save(tmp_path / "x.npy", points)
    assert f"the first: [{chosen[7]}]" in refusal(tmp_path / "x.npy", n=10)
    points[:] = np.nan
    points[chosen] = 1.0
    np.save(tmp_path / "x.npy", points)
    assert raw(tmp_path / "x.npy", n=10).n == 10


# -------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("source", "option"),
    [
        ("digits", "label"),
        ("moons", "data_dir"),
        ("fashion-mnist", "label"),
        ("fashion-mnist", "representation"),
        (".npy", "label"),
        (".npy", "array"),
        (".npz", "representation"),
        (".pt", "split"),
        (".csv", "representation"),
        (".parquet", "data_dir"),
        (".h5ad", "data_dir"),
        (".csv", "array"),
        ("digits", "split"),
        ("folder", "label"),
        ("folder", "array"),
    ],
)
def test_an_argument_that_would_change_nothing_is_refused(source: str, option: str, tmp_path: Path) -> None:
    given: str | Path = tmp_path if source == "folder" else source
    if source in WRITERS:
        given = tmp_path / f"x{source}"
        WRITERS[source](given)
    message = refusal(given, **{option: "x"})
    assert f"{option}= (--{option.replace('_', '-')}) is for " in message
    assert "leave it out" in message


@pytest.mark.parametrize("source", ["", "  "])
def test_no_name_is_not_the_current_folder(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of a variable of a shell that is not set."""
    write_parquet(tmp_path / "x.parquet")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"data.load: the name is empty"):
        pf.data.load(source)
    assert pf.data.load(".").n == len(POINTS)
