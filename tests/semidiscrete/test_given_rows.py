"""The rows that a user gives: kept in order, apart from what the user does with them, and in their file if they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch

import proxflow as pf
from proxflow.checks import as_tensor
from proxflow.semidiscrete.fitting import posed, task_of
from proxflow.semidiscrete.prepare import gather_atoms
from proxflow.semidiscrete.start import marginal_form
from tests.peak_memory import peak_bytes

ROWS = np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32)


def written(folder: Path, rows: npt.NDArray[Any] = ROWS) -> npt.NDArray[Any]:
    """A file of rows, mapped to be read."""
    np.save(folder / "rows.npy", rows)
    mapped: npt.NDArray[Any] = np.load(folder / "rows.npy", mmap_mode="r")
    return mapped


def test_atoms_come_in_the_order_of_their_first_rows() -> None:
    rows = torch.tensor([[3.0], [1.0], [3.0], [2.0], [1.0]])
    fitted = pf.semidiscrete.fit(rows, progress=False)
    assert fitted.potential.points.flatten().tolist() == [3.0, 1.0, 2.0]
    assert fitted.atom_of_row.tolist() == [0, 1, 0, 2, 1]
    torch.testing.assert_close(fitted.potential.weights, torch.tensor([0.4, 0.4, 0.2]))


@pytest.mark.parametrize("kind", ["tensor", "view", "array", "table"])
def test_a_potential_does_not_change_with_the_array_it_was_fitted_to(kind: str) -> None:
    tensor = torch.tensor(ROWS)
    given: dict[str, Any] = {
        "tensor": tensor,
        "view": tensor[:, None, :],
        "array": tensor.numpy(),
        "table": pd.DataFrame(tensor.numpy()),
    }
    fitted = pf.semidiscrete.fit(given[kind], tol=0.5, progress=False)
    before = fitted.potential.points.clone()
    tensor.mul_(2)
    assert torch.equal(fitted.potential.points, before)
    assert torch.equal(before, torch.tensor(ROWS))


def test_a_mapped_file_is_not_copied_and_not_written_to(tmp_path: Path) -> None:
    mapped = written(tmp_path, ROWS.repeat(50, 0) + np.arange(10_000, dtype=np.float32)[:, None])
    size = mapped.nbytes
    assert peak_bytes(lambda: as_tensor("test", "points", mapped)) < 0.1 * size
    assert peak_bytes(lambda: gather_atoms(torch.tensor(np.asarray(mapped)), None)) > 0.9 * size
    atoms = gather_atoms(mapped, None)
    assert torch.equal(atoms.points, torch.tensor(np.asarray(mapped)))
    atoms.points.mul_(2)  # in memory alone
    assert np.array_equal(np.load(tmp_path / "rows.npy"), mapped)


@pytest.mark.parametrize("part", [np.s_[:], np.s_[20:90], np.s_[3:4], np.s_[::2], np.s_[:, 1:4], np.s_[50:5:-1]])
def test_parts_of_a_mapped_file(part: Any, tmp_path: Path) -> None:
    mapped = written(tmp_path)[20:][part]
    assert torch.equal(as_tensor("test", "points", mapped), torch.tensor(ROWS[20:][part].copy()))


@pytest.mark.parametrize("dtype", [">f4", "<f8"])
def test_mapped_numbers_of_other_kinds(dtype: str, tmp_path: Path) -> None:
    mapped = written(tmp_path, ROWS.astype(dtype))
    tensor = as_tensor("test", "points", mapped)
    assert torch.equal(tensor.float(), torch.tensor(ROWS))
    assert tensor.dtype == (torch.float32 if dtype == ">f4" else torch.float64)


def test_a_single_number_in_a_mapped_file(tmp_path: Path) -> None:
    assert float(as_tensor("test", "points", written(tmp_path, np.array(3.0)))) == 3.0


def test_a_file_that_was_replaced_is_not_read_in_its_place(tmp_path: Path) -> None:
    mapped = written(tmp_path)
    (tmp_path / "rows.npy").unlink()
    written(tmp_path, np.zeros_like(ROWS))
    assert torch.equal(as_tensor("test", "points", mapped), torch.tensor(ROWS))
    (tmp_path / "rows.npy").unlink()
    assert torch.equal(as_tensor("test", "points", mapped), torch.tensor(ROWS))
    (tmp_path / "rows.npy").write_bytes(b"short")
    assert torch.equal(as_tensor("test", "points", mapped), torch.tensor(ROWS))


def test_a_fit_of_a_mapped_file_is_that_of_the_array(tmp_path: Path) -> None:
    fits = [pf.semidiscrete.fit(rows, tol=0.3, progress=False) for rows in (written(tmp_path), ROWS)]
    assert torch.equal(fits[0].potential.heights, fits[1].potential.heights)
    assert torch.equal(fits[0].potential.points, fits[1].potential.points)


@pytest.mark.parametrize("offset", [0.0, 0.3, 3000.0])
def test_rows_far_from_the_origin_lose_no_digits_in_the_search(offset: float) -> None:
    rows = torch.tensor(ROWS) + offset
    problem = posed(task_of(rows, None, None, 0.0, None, 0.1, None, 0, 1 << 22))[0].problem
    heights = marginal_form(problem, torch.Generator())
    noise = problem.noise(20_000, torch.Generator().manual_seed(7))
    found = problem.assign(noise, heights).total
    problem.search_in(torch.float64)
    exact = problem.assign(noise.double(), heights).total
    assert float((found - exact).abs().sum()) <= 10
