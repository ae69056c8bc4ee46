"""Equal rows: against sorting, whatever the signs of zeros, the blocks and the keys."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from proxflow.checks import STORED
from proxflow.kernels import equal_rows, geometry
from proxflow.kernels.equal_rows import first_equal_rows, places_among, row_coordinates, row_keys


def by_looking(rows: Tensor) -> tuple[list[int], list[int]]:
    """One row after the other."""
    kept: list[int] = []
    of_row = []
    for number, row in enumerate(rows.tolist()):
        found = next((place for place, first in enumerate(kept) if rows[first].tolist() == row), None)
        if found is None:
            kept.append(number)
        of_row.append(len(kept) - 1 if found is None else found)
    return kept, of_row


def few_values(dtype: torch.dtype) -> Tensor:
    """100 rows of which many are equal, some but for the sign of a zero."""
    values = torch.tensor([1.0, -0.0, 0.0, 1e-30, 3.0] if dtype == torch.uint8 else [-1.0, -0.0, 0.0, 1e-30, 3.0]).to(
        dtype
    )
    return values[torch.randint(5, (100, 3), generator=torch.Generator().manual_seed(0))]


@pytest.mark.parametrize("keys", ["as made", "all alike", "two kinds"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *STORED], ids=str)
def test_first_of_equal_rows(dtype: torch.dtype, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = few_values(dtype)
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 21)
    if keys != "as made":  # unlike rows share a key: then rows themselves decide
        own = torch.zeros(100, dtype=torch.int64) if keys == "all alike" else (rows[:, 0] > 0).long()
        monkeypatch.setattr(equal_rows, "row_keys", lambda _: own)
    kept, of_row = first_equal_rows(rows)
    assert (kept.tolist(), of_row.tolist()) == by_looking(rows)
    assert len(kept) < 60
    assert torch.equal(rows[kept][of_row], rows)


@pytest.mark.parametrize("numbers", [(0, 1), (2, 3), (1, 2), (-1, 1), (0, 128), (0.5, 0.75)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16], ids=str)
def test_keys_of_numbers_with_few_digits_are_apart(dtype: torch.dtype, numbers: tuple[float, float]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.unique(torch.tensor(numbers, dtype=dtype)[torch.randint(2, (20_000, 40), generator=generator)], dim=0)
    assert len(rows) > 19_000
    assert len(torch.unique(row_keys(rows))) == len(rows)


def test_distinct_rows_stay_where_they_are() -> None:
    rows = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    kept, of_row = first_equal_rows(rows)
    assert torch.equal(kept, torch.arange(1000))
    assert torch.equal(of_row, torch.arange(1000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_the_last_bit_of_a_row_is_in_its_key(dtype: torch.dtype) -> None:
    rows = torch.randn(50, 6, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for column in range(6):
        other = rows.clone()
        other[:, column] = torch.nextafter(rows[:, column], torch.tensor(torch.inf, dtype=dtype))
        assert bool((row_keys(rows) != row_keys(other)).all())
    assert not torch.equal(row_keys(rows), row_keys(rows.flip(1)))


@pytest.mark.parametrize("keys", ["as made", "all alike"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, *STORED], ids=str)
def test_places_of_rows_among_distinct_ones(dtype: torch.dtype, keys: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Equal numbers are found in any dtype; others, and rows that are not there, are not."""
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 21)
    if keys == "all alike":
        monkeypatch.setattr(equal_rows, "row_keys", lambda rows, _: torch.zeros(len(rows), dtype=torch.int64))
    rows = few_values(dtype)
    distinct = rows[first_equal_rows(rows)[0]] if keys == "as made" else torch.unique(rows, dim=0)
    distinct, left_out = distinct[1:].flip(0), distinct[0]
    for asked in (rows, rows.double(), rows.float()):
        found = places_among(distinct, asked)
        absent = (asked == left_out).all(1) | ~(asked == rows).all(1)
        assert bool(absent.any())
        assert torch.equal(found < 0, absent)
        assert torch.equal(distinct[found[~absent]].to(asked.dtype), asked[~absent])
    assert places_among(distinct, rows[:0]).shape == (0,)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(("count", "dim", "axes"), [(1001, 16, 4), (8193, 64, 16)])
def test_equal_rows_have_equal_coordinates(dtype: torch.dtype, count: int, dim: int, axes: int) -> None:
    """Though some processors round the last rows of a product in another way."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(count, dim, generator=generator, dtype=dtype)
    rows[-1] = rows[count // 2] = rows[0]
    frame = torch.linalg.qr(torch.randn(dim, axes, generator=generator, dtype=dtype)).Q
    found = row_coordinates(rows, frame)
    torch.testing.assert_close(found, rows @ frame)
    assert torch.equal(found[[-1, count // 2]], found[[0, 0]])
