"""The search for vectors with signs, beside the search of each vector in float64."""

from __future__ import annotations

import pytest
import torch

from proxflow.kernels import signed_sums
from proxflow.kernels.signed_sums import SlopesInParts, best_of_signs, hadamard_signs


def cloud(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("parts", [1, 2, 4, 8, 16])
def test_the_signs_are_orthogonal_rows_and_their_negatives(parts: int) -> None:
    signs = hadamard_signs(parts)
    assert torch.equal(signs.abs(), torch.ones(2 * parts, parts, dtype=torch.int64))
    first, second = signs.chunk(2)
    assert torch.equal(first @ first.mT, parts * torch.eye(parts, dtype=torch.int64))
    assert torch.equal(second, -first)


def signed(queries: torch.Tensor, parts: int) -> torch.Tensor:
    """All signed queries (2 m, B, m k) of queries (m, B, k)."""
    return (hadamard_signs(parts)[:, :, None, None] * queries).transpose(1, 2).flatten(2)


@pytest.mark.parametrize("parts", [1, 2, 4, 16])
@pytest.mark.parametrize(("count", "dim", "size", "rows"), [(700, 40, 48, 70), (37, 16, 16, 5), (90, 33, 16, 40)])
@pytest.mark.parametrize("scores", [1 << 18, 1 << 11])
def test_places_are_those_of_a_search_of_each_vector(
    parts: int, count: int, dim: int, size: int, rows: int, scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By one block of slopes and by many, and where parts are filled with zeros."""
    monkeypatch.setattr(signed_sums, "_SCORES", scores)
    slopes, offsets = cloud(count, dim, seed=0), 3 * cloud(count, seed=1)
    frame = torch.linalg.qr(cloud(size, size, seed=2)).Q
    split = SlopesInParts.of(slopes, frame, parts)
    assert (len(split.panels) > 1) == (parts * count > scores // 32)
    queries = cloud(parts, rows, split.shape[1], seed=3)
    found, score = best_of_signs(queries, split, offsets)
    whole = torch.cat(split.panels, dim=-1).flatten(0, 1)
    best = (signed(queries, parts) @ whole + offsets).max(-1)
    assert torch.equal(found, best.indices)
    torch.testing.assert_close(score, best.values)
    assert len(found.unique()) > 5


@pytest.mark.parametrize(("dim", "size", "parts"), [(40, 48, 4), (33, 16, 8), (16, 16, 1)])
def test_a_frame_keeps_products(dim: int, size: int, parts: int) -> None:
    """Those of slopes with slopes; so a normal vector of the frame's coordinates stands for one of the space."""
    slopes = cloud(60, dim, seed=0)
    frame = torch.linalg.qr(cloud(size, size, seed=1)).Q
    split = SlopesInParts.of(slopes, frame, parts)
    whole = torch.cat(split.panels, dim=-1).flatten(0, 1)
    torch.testing.assert_close(whole.mT @ whole, slopes @ slopes.mT)


def test_rows_in_bytes_are_as_their_numbers() -> None:
    rows = torch.randint(0, 255, (50, 12), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    frame = torch.linalg.qr(cloud(12, 12, seed=1)).Q.float()
    (stored,), (numbers,) = (SlopesInParts.of(each, frame, 2).panels for each in (rows, rows.float()))
    assert stored.dtype == torch.float32
    assert torch.equal(stored, numbers)


def test_on_a_tie_the_lowest_place() -> None:
    """Of small whole numbers, whose products are exact; others round equal slopes apart on some processors."""
    slopes, queries = (8 * cloud(20, 8, seed=0)).round(), (8 * cloud(2, 100, 4, seed=1)).round()
    split = SlopesInParts.of(slopes.repeat(2, 1), torch.eye(8, dtype=torch.float64), 2)
    found, _ = best_of_signs(queries, split, torch.zeros(40, dtype=torch.float64))
    assert int(found.max()) < 20
