"""Files back and forth: arrays of every kind, bit by bit, and what is refused."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import torch
from numpy.typing import NDArray

import proxflow as pf
from proxflow.data import standardisation
from tests.data.sources import LABELS, POINTS, WRITERS, f64, raw, refusal, table
from tests.peak_memory import peak_bytes


@pytest.mark.parametrize("suffix", WRITERS)
def test_files_come_back_bit_by_bit(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"points{suffix}"
    WRITERS[suffix](path)
    for source in (path, str(path)):
        dataset = raw(source)
        assert np.array_equal(dataset.points.numpy(), POINTS)
        assert dataset.name == "points"
        if suffix == ".npy":
            assert dataset.labels is None
        else:
            assert np.array_equal(dataset.labels.numpy(), LABELS)


def test_suffixes_are_read_in_any_case(tmp_path: Path) -> None:
    path = tmp_path / "POINTS.NPY"
    with path.open("wb") as file:
        np.save(file, POINTS)
    assert raw(path).n == 6


def test_the_only_array_of_an_archive_may_have_any_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", whatever=POINTS)
    assert np.array_equal(raw(tmp_path / "a.npz").points.numpy(), POINTS)
    np.savez(tmp_path / "b.npz", first=POINTS, second=POINTS)
    assert "it holds first (6, 2), second (6, 2); choose the points with array= (--array)" in refusal(
        tmp_path / "b.npz"
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8, torch.bool])
def test_tensors_of_any_real_dtype_keep_their_values(dtype: torch.dtype, tmp_path: Path) -> None:
    tensor = torch.tensor([[0.5, 3.0], [1.0, 0.0]]).to(dtype)
    torch.save(tensor, tmp_path / "x.pt")
    assert torch.equal(raw(tmp_path / "x.pt").points, tensor.double())


def test_tensors_with_a_gradient_and_sparse_ones_are_read(tmp_path: Path) -> None:
    torch.save(torch.eye(3, requires_grad=True), tmp_path / "a.pt")
    torch.save(torch.eye(3).to_sparse(), tmp_path / "b.pt")
    assert torch.equal(raw(tmp_path / "a.pt").points, torch.eye(3, dtype=f64))
    assert torch.equal(raw(tmp_path / "b.pt").points, torch.eye(3, dtype=f64))


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", ">f4"])
def test_what_is_loaded_is_converted_a_block_at_a_time(dtype: str, tmp_path: Path) -> None:
    """Points in float32 are 4 bytes a number; in float64 the rows of an unusual dtype are 8 more."""
    rows = (100 * np.random.default_rng(0).random((3000, 10, 40))).astype(dtype)
    np.save(tmp_path / "x.npy", rows)
    expected = rows.astype(np.float64)
    held = peak_bytes(lambda: pf.data.load(tmp_path / "x.npy"))
    assert held < (5 if dtype != ">f4" else 13) * rows.size + 64 * standardisation._AT_ONCE
    dataset = pf.data.load(tmp_path / "x.npy", standardise="columns", dtype=f64)
    torch.testing.assert_close(dataset.points.mean(0), torch.zeros(10, 40, dtype=f64), rtol=0, atol=1e-12)
    torch.testing.assert_close(dataset.points.square().mean(0), torch.ones(10, 40, dtype=f64))
    assert np.array_equal(dataset.rows.double().numpy(), expected)


def test_a_few_points_of_a_file_larger_than_memory(tmp_path: Path) -> None:
    """Of a file with holes, which takes no room on the disk; the first and last rows are there."""
    count = 1 << 25
    file = np.lib.format.open_memmap(tmp_path / "x.npy", mode="w+", dtype=np.uint8, shape=(count, 64, 64))
    file[0], file[-1] = 1, 2
    file.flush()
    del file
    assert "take fewer points with n= (--points)" in refusal(tmp_path / "x.npy")
    dataset = raw(tmp_path / "x.npy", n=5)
    assert dataset.points.shape == (5, 64, 64)
    np.save(tmp_path / "scalar.npy", np.float32(3))
    assert "shape ()" in refusal(tmp_path / "scalar.npy", n=2)
    np.save(tmp_path / "few.npy", POINTS)
    assert "6 points, 1,000,000,000,000 were asked for" in refusal(tmp_path / "few.npy", n=10**12)


def test_equal_rows_stay_equal_when_they_are_whitened() -> None:
    """Though products round the last row of a block otherwise on some processors, and one that is alone on any."""
    rows = np.random.default_rng(0).normal(size=(standardisation._AT_ONCE // 16 + 1, 16))
    rows[-1] = rows[0]
    points = pf.data.from_array(rows, standardise="whiten", dtype=f64).points
    assert torch.equal(points[-1], points[0])


@pytest.mark.parametrize("kind", ["global", "columns"])
def test_wide_rows_are_standardised_without_a_copy(kind: Any) -> None:
    rows = torch.randint(256, (200, 1 << 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    assert peak_bytes(lambda: standardisation.standardisation_of(rows, kind)) < rows.nbytes


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (f"touch '{self.mark}'",)


@pytest.mark.parametrize("wrapped", [True, False], ids=["in torch.save", "bare pickle"])
@pytest.mark.parametrize("suffix", [".pt", ".npy", ".npz"])
def test_no_file_runs_code(wrapped: bool, suffix: str, tmp_path: Path) -> None:
    mark, path = tmp_path / "sprung", tmp_path / f"trap{suffix}"
    if wrapped:
        torch.save({"points": Trap(mark)}, path)
    else:
        path.write_bytes(pickle.dumps(Trap(mark)))
    message = refusal(path)
    assert str(path) in message
    assert not mark.exists()
    for dangerous in ("weights_only", "allow_pickle", "trust"):
        assert dangerous not in message
    pickle.loads(pickle.dumps(Trap(mark)))
    assert mark.exists()


def test_a_pickle_in_a_pt_file_says_what_to_save_instead(tmp_path: Path) -> None:
    torch.save({"points": Trap(tmp_path / "sprung")}, tmp_path / "trap.pt")
    assert "objects other than tensors" in refusal(tmp_path / "trap.pt")


@pytest.mark.parametrize("content", [b"", b"hello world\n" * 20, bytes(range(256))], ids=["empty", "text", "bytes"])
@pytest.mark.parametrize("suffix", WRITERS)
def test_unreadable_files_are_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"broken{suffix}"
    path.write_bytes(content)
    assert str(path) in refusal(path)


@pytest.mark.parametrize("suffix", sorted(set(WRITERS) - {".csv"}))
@pytest.mark.parametrize("kept", [0.3, 0.7, 0.98])
def test_truncated_files_are_named(suffix: str, kept: float, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    WRITERS[suffix](path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    assert f"{path} cannot be read" in refusal(path)


def test_an_unknown_suffix_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("1 2")
    message = refusal(tmp_path / "x.txt")
    assert "'.txt'" in message
    assert all(suffix in message for suffix in WRITERS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("suffix", [".npy", ".csv", ".parquet"])
def test_rows_that_are_not_finite_are_named(bad: float, suffix: str, tmp_path: Path) -> None:
    points = POINTS.copy()
    points[[1, 4], [0, 1]] = bad
    path = tmp_path / f"holes{suffix}"
    if suffix == ".npy":
        np.save(path, points)
    elif suffix == ".csv":
        pyarrow.csv.write_csv(table(points), path)
    else:
        pyarrow.parquet.write_table(table(points), path)
    message = refusal(path)
    assert str(path) in message
    assert "2 rows" in message
    assert "[1, 4]" in message


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 3)), "non-empty"),
        (np.zeros((3, 0)), "non-empty"),
        (np.ones(3), r"(N, *event)"),
        (np.array(1.0), r"(N, *event)"),
        (np.array([["a"]]), "expected numbers"),
        (np.array([[1j]]), "expected numbers"),
        (np.array([["2020-01-01"]], dtype="M8[D]"), "expected numbers"),
        (np.array([[object()]]), "cannot be read"),
    ],
)
def test_arrays_that_are_no_points_are_refused(array: NDArray[Any], words: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, array)
    message = refusal(path)
    assert words in message
    assert str(path) in message


def test_values_beyond_the_dtype_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.array([[1e200], [-1e200]]))
    assert "too large for torch.float32" in refusal(tmp_path / "x.npy", standardise=False)
    assert pf.data.load(tmp_path / "x.npy").points.tolist() == [[1.0], [-1.0]]
