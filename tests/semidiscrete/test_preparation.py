"""What a fit holds before its first step: no copy of the points, but blocks of them and a few directions."""

from __future__ import annotations

import pytest
import torch

from proxflow.kernels import geometry
from proxflow.semidiscrete.atom_groups import nested_groups
from proxflow.semidiscrete.fitting import posed, task_of
from proxflow.semidiscrete.prepare import _InRoundings, _reach_all_directions, _triangle
from proxflow.semidiscrete.start import marginal_form
from tests.peak_memory import peak_bytes


@pytest.mark.slow
def test_preparing_makes_no_further_copies_of_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 1 << 14)
    points = torch.randn(10_000, 40, generator=torch.Generator().manual_seed(0))
    task = task_of(points, None, None, 0.0, None, 0.1, None, 0, 1 << 22)
    copy = 8 * points.numel()
    assert peak_bytes(lambda: posed(task)) < 0.4 * copy
    problem = posed(task)[0].problem
    assert peak_bytes(lambda: marginal_form(problem, torch.Generator())) < 1.2 * copy
    assert peak_bytes(lambda: nested_groups(problem.points, problem.weights)) < 1.8 * copy


@pytest.mark.parametrize("dim", [3, 70])
def test_blocks_change_no_result(dim: int, monkeypatch: pytest.MonkeyPatch) -> None:
    points = torch.randn(1_000, dim, generator=torch.Generator().manual_seed(0))
    task = task_of(points, None, None, 0.0, None, 0.1, None, 0, 1 << 22)
    whole = posed(task)[0].problem
    groups, form = nested_groups(whole.points, whole.weights).levels, marginal_form(whole, torch.Generator())
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 97 * dim)
    parts = posed(task)[0].problem
    assert torch.equal(parts.points[:], whole.points[:])
    torch.testing.assert_close(marginal_form(parts, torch.Generator()), form, rtol=1e-12, atol=1e-13)
    agreeing = [
        float((mine == theirs).double().mean())
        for mine, theirs in zip(nested_groups(parts.points, parts.weights).levels, groups, strict=True)
    ]
    assert min(agreeing) > 0.99


@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0, 8.0])
@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
def test_rows_reach_all_directions_only_where_their_singular_values_say_so(
    decay: float, precision: torch.dtype
) -> None:
    deviations = torch.logspace(0, -decay, 12, dtype=torch.float64)
    points = deviations * torch.randn(500, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = _InRoundings(points, precision)
    smallest = float(torch.linalg.svdvals(_triangle(parts)).min())
    torch.testing.assert_close(_triangle(parts).mT @ _triangle(parts), sum(block.mT @ block for block in parts))
    assert not _reach_all_directions(parts, 1.0001 * smallest)
    assert _reach_all_directions(parts, 0.9 * smallest) or decay == 8.0
    assert not _reach_all_directions(_InRoundings(points[:, :1] * deviations, precision), smallest)


def test_rows_in_all_directions_take_no_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "svd", None)
    points = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    task = task_of(points, None, None, 0.0, None, 0.1, None, 0, 1 << 22)
    assert posed(task)[0].problem.source.dim == 30
