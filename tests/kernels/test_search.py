"""The maximum-affine search against a plain product and maximum."""

from __future__ import annotations

import pytest
import torch

from proxflow.checks import STORED
from proxflow.kernels import search
from proxflow.kernels.search import argmax_affine
from tests.marks import slow_beyond


def integers(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """Small integers: products and sums are exact, whatever the order."""
    return torch.randint(-9, 10, shape, generator=generator).to(dtype)


def first_best(scores: torch.Tensor) -> torch.Tensor:
    """The lowest index of each row's maximum."""
    return torch.stack([torch.nonzero(row == row.max())[0, 0] for row in scores])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns", "k"), [(1, 1, 1), (7, 1, 3), (1, 500, 2), (300, 129, 5), (1000, 700, 3)])
@pytest.mark.parametrize("budget", slow_beyond(2, [1 << 8, 1 << 20, 1 << 14]))
@pytest.mark.parametrize("with_offsets", [False, True])
def test_agrees_with_the_whole_product(
    rows: int,
    columns: int,
    k: int,
    dtype: torch.dtype,
    budget: int,
    with_offsets: bool,
    generator: torch.Generator,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(search, "_BLOCK_BYTES", budget)
    monkeypatch.setattr(search, "_MIN_ROWS", 16)
    queries = integers(rows, k, generator=generator, dtype=dtype)
    slopes = integers(columns, k, generator=generator, dtype=dtype)
    offsets = integers(columns, generator=generator, dtype=dtype) if with_offsets else None
    best = argmax_affine(queries, slopes, offsets)
    scores = queries @ slopes.mT + (0 if offsets is None else offsets)
    assert torch.equal(best, first_best(scores))
    assert best.dtype == torch.int64


@pytest.mark.parametrize("at_once", [1, 100, 1000])
@pytest.mark.parametrize("columns", [61, 500])
@pytest.mark.parametrize("k", [3, 70])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_slopes_a_chunk_at_a_time(
    at_once: int, columns: int, k: int, with_offsets: bool, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In few dimensions offsets are folded into each chunk; equal scores in two chunks go to the first."""
    monkeypatch.setattr(search, "_BLOCK_BYTES", 1 << 10)
    monkeypatch.setattr(search, "_MIN_ROWS", 16)
    monkeypatch.setattr(search, "_CHUNK_NUMBERS", at_once)
    queries = integers(90, k, generator=generator, dtype=torch.float32)
    slopes = integers(columns, k, generator=generator, dtype=torch.float32)
    offsets = integers(columns, generator=generator, dtype=torch.float32) if with_offsets else None
    scores = queries @ slopes.mT + (0 if offsets is None else offsets)
    assert torch.equal(argmax_affine(queries, slopes, offsets), first_best(scores))


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("rows", [1, 7, 300, 1000])
@pytest.mark.parametrize("k", [5, 100])
@pytest.mark.parametrize("with_offsets", [False, True])
def test_slopes_stored_in_fewer_bytes(
    rows: int, k: int, with_offsets: bool, stored: torch.dtype, generator: torch.Generator
) -> None:
    """Place and score are those of the slopes in float32, bit by bit."""
    queries = torch.randn(rows, k, generator=generator)
    slopes = torch.randn(3000, k, generator=generator)
    slopes = (slopes if stored.is_floating_point else (30 * slopes.abs()).clamp(max=127)).to(stored)
    offsets = torch.randn(3000, generator=generator)
    given = offsets if with_offsets else None
    for half, single in zip(
        search.best_by_products(queries, slopes, given),
        search.best_by_products(queries, slopes.float(), given),
        strict=True,
    ):
        assert torch.equal(half, single)
    half_two, two = (search.top_two_affine(queries, each, offsets) for each in (slopes, slopes.float()))
    assert torch.equal(half_two.best, two.best)
    assert torch.equal(half_two.second, two.second)
    assert torch.equal(half_two.gap, two.gap)


def test_no_rows(generator: torch.Generator) -> None:
    best = argmax_affine(torch.empty(0, 3), integers(5, 3, generator=generator, dtype=torch.float32))
    assert best.shape == (0,)


@pytest.mark.parametrize("budget", [1 << 10, 1 << 20])
def test_a_nan_row_stays_alone(budget: int, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "_BLOCK_BYTES", budget)
    queries = integers(40, 3, generator=generator, dtype=torch.float64)
    slopes = integers(600, 3, generator=generator, dtype=torch.float64)
    clean = argmax_affine(queries, slopes)
    queries[11, 1] = torch.nan
    spoiled = argmax_affine(queries, slopes)
    others = torch.arange(40) != 11
    assert 0 <= int(spoiled[11]) < 600
    assert torch.equal(spoiled[others], clean[others])


def test_columns_of_a_wider_table(generator: torch.Generator) -> None:
    table = integers(50, 9, generator=generator, dtype=torch.float64)
    queries = integers(20, 7, generator=generator, dtype=torch.float64)
    best = argmax_affine(queries, table[:, :-2], table[:, -1])
    assert torch.equal(best, first_best(queries @ table[:, :-2].mT + table[:, -1]))


@pytest.mark.parametrize("numbers", [90 * 200, 16 * 45, 16 * 7, 16])
def test_the_best_two_are_the_two_largest_scores_whatever_the_blocks(
    numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(3)
    queries, slopes = (torch.randn(n, 5, generator=generator, dtype=torch.float64) for n in (700, 90))
    offsets = torch.randn(90, generator=generator, dtype=torch.float64)
    scores = queries @ slopes.T + offsets
    order = scores.sort(dim=1, descending=True)
    monkeypatch.setattr(search, "_BLOCK_BYTES", 8 * numbers)
    monkeypatch.setattr(search, "_MIN_ROWS", 16)
    found = search.top_two_affine(queries, slopes, offsets)
    assert torch.equal(found.best, order.indices[:, 0])
    assert torch.equal(found.second, order.indices[:, 1])
    torch.testing.assert_close(found.gap, order.values[:, 0] - order.values[:, 1], rtol=0, atol=1e-13)
    alone = search.top_two_affine(queries[:3], slopes[:1], offsets[:1])
    assert torch.equal(alone.best, alone.second)
    assert torch.isinf(alone.gap).all()
    assert len(search.top_two_affine(queries[:0], slopes, offsets).best) == 0


def test_equal_scores_have_no_gap(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one block or in two, the lower place first."""
    monkeypatch.setattr(search, "_BLOCK_BYTES", 8 * 16 * 3)
    monkeypatch.setattr(search, "_MIN_ROWS", 16)
    slopes = torch.tensor([0.0, 1.0, 0.5, 0.2, 1.0, 0.1, 1.0], dtype=torch.float64)[:, None]
    found = search.top_two_affine(torch.ones(20, 1, dtype=torch.float64), slopes, torch.zeros(7, dtype=torch.float64))
    assert found.best.tolist() == [1] * 20
    assert found.second.tolist() == [4] * 20
    assert not found.gap.any()
