"""The maximum-affine search against a plain product and maximum."""

from __future__ import annotations

import pytest
import torch

from proxflow.kernels import search
from proxflow.kernels.search import max_inner_product


def integers(*shape: int, generator: torch.Generator, dtype: torch.dtype) -> torch.Tensor:
    """Small integers: products and sums are exact, whatever the order."""
    return torch.randint(-9, 10, shape, generator=generator).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns", "k"), [(1, 1, 1), (7, 1, 3), (1, 500, 2), (300, 129, 5), (1000, 700, 3)])
@pytest.mark.parametrize("budget", [1 << 8, 1 << 14, 1 << 20])
def test_agrees_with_the_whole_product(rows, columns, k, dtype, budget, generator, monkeypatch):
    monkeypatch.setattr(search, "_BLOCK_BYTES", budget)
    monkeypatch.setattr(search, "_MIN_ROWS", 16)
    queries = integers(rows, k, generator=generator, dtype=dtype)
    keys = integers(columns, k, generator=generator, dtype=dtype)
    best = max_inner_product(queries, keys)
    scores = queries @ keys.mT
    assert torch.equal(best.value, scores.amax(1))
    lowest = torch.stack([torch.nonzero(row == row.max())[0, 0] for row in scores])
    assert torch.equal(best.index, lowest)
    assert best.value.dtype == dtype
    assert best.index.dtype == torch.int64


def test_no_rows(generator):
    best = max_inner_product(torch.empty(0, 3), integers(5, 3, generator=generator, dtype=torch.float32))
    assert best.value.shape == best.index.shape == (0,)


def test_a_nan_row_stays_alone(generator):
    queries = integers(40, 3, generator=generator, dtype=torch.float64)
    keys = integers(600, 3, generator=generator, dtype=torch.float64)
    clean = max_inner_product(queries, keys)
    queries[11, 1] = torch.nan
    spoiled = max_inner_product(queries, keys)
    others = torch.arange(40) != 11
    assert torch.isnan(spoiled.value[11])
    assert 0 <= int(spoiled.index[11]) < 600
    assert torch.equal(spoiled.index[others], clean.index[others])


def test_keys_that_are_not_contiguous(generator):
    table = integers(50, 8, generator=generator, dtype=torch.float64)
    queries = integers(20, 7, generator=generator, dtype=torch.float64)
    assert torch.equal(max_inner_product(queries, table[:, :-1]).value, (queries @ table[:, :-1].mT).amax(1))
