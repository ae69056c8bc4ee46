"""Searches on shortlists against all scores, with those of other groups left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any

import pytest
import torch
from torch import Tensor

from proxflow.kernels.search import argmax_affine
from proxflow.kernels.shortlist import GroupedSlopes, Shortlist, argmax_on_shortlist
from proxflow.kernels.threads import on_threads


def problem(
    slopes: int, dim: int, groups: int, count: int, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Shortlist]:
    """Slopes and offsets of numbers that all dtypes hold, and a shortlist of groups of unequal sizes."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(-20, 20, (slopes, dim), generator=generator).to(dtype)
    offsets = torch.randint(-50, 50, (slopes,), generator=generator).to(dtype)
    group = torch.cat([torch.arange(groups), (torch.rand(slopes - groups, generator=generator) ** 2 * groups).long()])
    group = group[torch.randperm(slopes, generator=generator)]
    centres = torch.randint(-20, 20, (groups, dim), generator=generator).to(dtype)
    levels = torch.randint(-9, 9, (groups,), generator=generator).to(dtype)
    return rows, offsets, Shortlist(group, centres, levels, count)


def by_all_scores(queries: Tensor, slopes: Tensor, offsets: Tensor, shortlist: Shortlist) -> Tensor:
    """The answer in float64, (B,)."""
    scores = queries.double() @ shortlist.centres.double().mT - shortlist.levels.double()
    least = scores.sort(dim=1, descending=True).values[:, shortlist.count - 1]
    allowed = (scores >= least[:, None])[:, shortlist.group]
    values = queries.double() @ slopes.double().mT + offsets.double()
    return torch.where(allowed, values, -torch.inf).argmax(1)


Parts = list[int]


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Parts]:
    """Searches in many parts, whose numbers these are."""
    parts: Parts = []

    def counted(work: Any, of: Sequence[Any], device: torch.device) -> list[Any]:
        parts.append(len(of))
        return on_threads(work, of, device)

    monkeypatch.setattr("proxflow.kernels.shortlist._SCORES", 1 << 15)
    monkeypatch.setattr("proxflow.kernels.shortlist._BLOCKS_AT_ONCE", 8)
    monkeypatch.setattr("proxflow.kernels.shortlist.on_threads", counted)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield parts
    torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("queries", [1, 40, 3000])
@pytest.mark.parametrize(("slopes", "dim", "groups", "count"), [(5000, 4, 70, 5), (300, 1, 16, 1), (40, 9, 40, 12)])
def test_the_best_slope_of_the_listed_groups_is_found(
    slopes: int, dim: int, groups: int, count: int, queries: int, dtype: torch.dtype
) -> None:
    """Whole numbers, so that scores are exact and many are equal: of those the lowest slope is the answer."""
    rows, offsets, shortlist = problem(slopes, dim, groups, count, dtype)
    noise = torch.randint(-6, 6, (queries, dim), generator=torch.Generator().manual_seed(1)).to(dtype)
    grouped = GroupedSlopes(rows, shortlist.group, dtype).with_offsets(offsets)
    found = argmax_on_shortlist(noise, shortlist, grouped)
    assert torch.equal(found, by_all_scores(noise, rows, offsets, shortlist))
    again = argmax_on_shortlist(noise, shortlist, grouped.with_offsets(-offsets))
    assert torch.equal(again, by_all_scores(noise, rows, -offsets, shortlist))


def test_other_devices_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """By PyTorch, whose selection and search other devices use."""
    rows, offsets, shortlist = problem(5000, 4, 70, 5)
    noise = torch.randint(-6, 6, (3000, 4), generator=torch.Generator().manual_seed(1)).double()
    grouped = GroupedSlopes(rows, shortlist.group, noise.dtype).with_offsets(offsets)
    found = argmax_on_shortlist(noise, shortlist, grouped)
    monkeypatch.setattr("proxflow.kernels.shortlist._by_numpy", lambda scores: False)
    assert torch.equal(argmax_on_shortlist(noise, shortlist, grouped), found)


def test_more_groups_than_two_bytes_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxflow.kernels.shortlist._MOST_SHORT", 8)
    monkeypatch.setattr("proxflow.kernels.shortlist._SCORES", 100)  # and many blocks of queries
    rows, offsets, shortlist = problem(500, 3, 30, 4)
    noise = torch.randn(200, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = argmax_on_shortlist(
        noise, shortlist, GroupedSlopes(rows, shortlist.group, noise.dtype).with_offsets(offsets)
    )
    assert torch.equal(found, by_all_scores(noise, rows, offsets, shortlist))


def test_a_list_of_all_groups_is_the_plain_search() -> None:
    rows, offsets, shortlist = problem(900, 6, 25, 25)
    noise = torch.randn(400, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    grouped = GroupedSlopes(rows, shortlist.group, noise.dtype).with_offsets(offsets)
    assert torch.equal(argmax_on_shortlist(noise, shortlist, grouped), argmax_affine(noise, rows, offsets))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_two_threads_find_the_same(mode: Callable[[], AbstractContextManager[None]], two_threads: Parts) -> None:
    rows, offsets, shortlist = problem(5000, 4, 70, 5)
    noise = torch.randint(-6, 6, (3000, 4), generator=torch.Generator().manual_seed(1)).double()
    with mode():
        grouped = GroupedSlopes(rows, shortlist.group, noise.dtype).with_offsets(offsets)
        found = argmax_on_shortlist(noise, shortlist, grouped)
    assert torch.equal(found, by_all_scores(noise, rows, offsets, shortlist))
    assert len(two_threads) == 2
    assert min(two_threads) >= 4  # fewer would be this thread's


def test_bad_queries_give_some_slope_and_leave_the_others_alone() -> None:
    rows, offsets, shortlist = problem(900, 6, 25, 3)
    noise = torch.randn(50, 6, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    grouped = GroupedSlopes(rows, shortlist.group, noise.dtype).with_offsets(offsets)
    wanted = argmax_on_shortlist(noise, shortlist, grouped)
    noise[7], noise[30, 2] = torch.nan, torch.inf
    found = argmax_on_shortlist(noise, shortlist, grouped)
    assert bool(((found >= 0) & (found < 900)).all())
    good = torch.ones(50, dtype=torch.bool)
    good[[7, 30]] = False
    assert torch.equal(found[good], wanted[good])
    assert len(argmax_on_shortlist(noise[:0], shortlist, grouped)) == 0
