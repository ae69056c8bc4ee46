"""Rows in blocks, from loops, zarr, h5py and parquet, written to one file that is mapped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import proxflow as pf

ROWS = np.random.default_rng(0).normal(size=(1000, 4, 3)).astype(np.float32)


def blocks_of(rows: np.ndarray[Any, Any], sizes: tuple[int, ...]) -> Iterator[np.ndarray[Any, Any]]:
    first = 0
    for size in sizes:
        yield rows[first : first + size]
        first += size


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "uint8", "int8"])
def test_blocks_of_any_sizes_are_one_file(dtype: str, tmp_path: Path) -> None:
    rows = (np.abs(10 * ROWS) if dtype.endswith("int8") else ROWS).astype(dtype)
    found = pf.data.mapped_rows(tmp_path / "rows.npy", blocks_of(rows, (1, 0, 998, 1)))
    assert isinstance(found, np.memmap)
    assert found.mode == "r"
    assert found.dtype == rows.dtype
    assert np.array_equal(found, rows)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), rows)
    assert [file.name for file in tmp_path.iterdir()] == ["rows.npy"]


def test_tensors_and_arrays_in_any_layout(tmp_path: Path) -> None:
    blocks = (torch.from_numpy(ROWS[:10]), np.asfortranarray(ROWS[10:20]), ROWS[20:30].astype(">f4"), ROWS[30:50:2])
    found = pf.data.mapped_rows(tmp_path / "rows.npy", blocks)
    assert np.array_equal(found, np.concatenate([ROWS[:30], ROWS[30:50:2]]))


def test_a_zarr_array_is_read_by_its_chunks(tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    stored = zarr.create_array(store=tmp_path / "rows.zarr", shape=ROWS.shape, chunks=(128, 4, 3), dtype="float32")
    stored[:] = ROWS
    found = pf.data.mapped_rows(tmp_path / "rows.npy", zarr.open_array(tmp_path / "rows.zarr", mode="r"))
    assert np.array_equal(found, ROWS)


def test_an_array_without_chunks_is_read_a_part_at_a_time(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    wide = np.zeros((300, 1 << 16), dtype=np.float32)
    wide[:, 0] = np.arange(300)
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["rows"] = wide
        read: list[int] = []

        class Counted:
            shape = wide.shape

            def __getitem__(self, which: slice) -> Any:
                read.append(which.stop - which.start)
                return file["rows"][which]

        found = pf.data.mapped_rows(tmp_path / "rows.npy", Counted())  # type: ignore[arg-type]
    assert np.array_equal(found, wide)
    assert max(read) * wide[0].nbytes <= 1 << 24


class Chunked:
    """An array that says how it is stored, and counts the rows of each reading."""

    def __init__(self, rows: np.ndarray[Any, Any], chunks: Any) -> None:
        self.shape, self.chunks, self._rows = rows.shape, chunks, rows
        self.read: list[int] = []

    def __getitem__(self, which: slice) -> np.ndarray[Any, Any]:
        part = self._rows[which]
        self.read.append(len(part))
        return part


@pytest.mark.parametrize(
    ("chunks", "read"),
    [
        ((1, 1 << 12), [512, 488]),  # 2^24 bytes of float64 are 512 rows
        ((300, 1 << 12), [300, 300, 300, 100]),
        ((100, 1 << 11), [500, 500]),
        ((700, 1 << 12), [700, 300]),
        (((200, 200, 200, 200, 200), (1 << 12,)), [400, 400, 200]),  # as dask has them
    ],
)
def test_whole_chunks_are_read_and_many_small_ones_at_once(chunks: Any, read: list[int], tmp_path: Path) -> None:
    rows = np.arange(1000, dtype=np.float32)[:, None] * np.ones(1 << 12, dtype=np.float32)
    given = Chunked(rows, chunks)
    found = pf.data.mapped_rows(tmp_path / "rows.npy", given)  # type: ignore[arg-type]
    assert np.array_equal(found, rows)
    assert given.read == read


def test_row_groups_of_parquet(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    rows = ROWS[:, 0]
    table = pyarrow.table({name: rows[:, place] for place, name in enumerate("xyz")})
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=100)
    batches = parquet.ParquetFile(tmp_path / "rows.parquet").iter_batches(64, columns=["z", "x"])
    found = pf.data.mapped_rows(tmp_path / "rows.npy", (batch.to_pandas() for batch in batches))
    assert np.array_equal(found, rows[:, [2, 0]])


def test_a_fit_of_such_a_file_is_that_of_its_rows(tmp_path: Path) -> None:
    rows = ROWS[:80].reshape(80, 12)
    mapped = pf.data.mapped_rows(tmp_path / "rows.npy", blocks_of(rows, (50, 30)))
    first, second = (pf.semidiscrete.fit(each, tol=0.5, max_samples=5000) for each in (mapped, rows))
    assert torch.equal(first.potential.heights, second.potential.heights)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ([], "hold no rows"),
        ([ROWS[:0]], "hold no rows"),
        ([ROWS, ROWS[:, :2]], r"block 1 has events \(2, 3\) of float32, the first \(4, 3\) of float32"),
        ([ROWS, ROWS.astype("float64")], r"block 1 has events \(4, 3\) of float64"),
        ([ROWS[:, 0, 0]], r"block 0 must be \(n, \*event\), got \(1000,\)"),
        (ROWS[:, 0, 0], r"expected rows \(N, \*event\), got an array of shape \(1000,\)"),
        ([ROWS > 0], r"block 0 is torch.bool"),
        ([(ROWS * 100).astype(np.int16)], r"block 0 is torch.int16; convert it to float32 or float16, and its scale"),
        ([torch.zeros(3, 2, dtype=torch.bfloat16)], r"block 0 is torch.bfloat16"),
        ([ROWS, np.full((3, 4, 3), np.nan, np.float32)], r"block 1 has 3 rows with NaN or inf, the first: \[0, 1, 2\]"),
        ([np.array([["a"]])], "mapped_rows: block 0"),
    ],
)
def test_what_is_refused_leaves_the_old_file(blocks: Any, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", ROWS[:5])
    with pytest.raises(ValueError, match=message):
        pf.data.mapped_rows(tmp_path / "rows.npy", blocks)
    assert np.array_equal(np.load(tmp_path / "rows.npy"), ROWS[:5])
    assert [file.name for file in tmp_path.iterdir()] == ["rows.npy"]


def test_an_error_of_the_loop_is_passed_on(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray[Any, Any]]:
        yield ROWS
        raise OSError("the disk of another machine is gone")

    with pytest.raises(OSError, match="the disk of another machine is gone"):
        pf.data.mapped_rows(tmp_path / "rows.npy", broken())
    assert not list(tmp_path.iterdir())


def test_names_of_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must end in \.npy, got .*rows\.zarr"):
        pf.data.mapped_rows(tmp_path / "rows.zarr", [ROWS])
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        pf.data.mapped_rows(tmp_path / "none" / "rows.npy", [ROWS])
