"""What a fit holds before its first step: no copy of the points, but blocks of them and a few directions."""

from __future__ import annotations

import pytest
import torch

from proxflow.kernels import geometry
from proxflow.semidiscrete import start
from proxflow.semidiscrete.atom_groups import nested_groups
from proxflow.semidiscrete.fitting import posed, task_of
from proxflow.semidiscrete.prepare import _reach_all_directions, _RelativeRows, _triangle
from proxflow.semidiscrete.start import marginal_form
from tests.peak_memory import peak_bytes


@pytest.mark.slow
def test_preparing_makes_no_further_copies_of_the_points(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(geometry, "_BLOCK_NUMBERS", 1 << 14)
    monkeypatch.setattr(start, "_PROJECTIONS", 1 << 14)
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
def test_rows_reach_all_directions_only_where_their_singular_values_say_so(decay: float) -> None:
    deviations = torch.logspace(0, -decay, 12, dtype=torch.float64)
    points = deviations * torch.randn(500, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = _RelativeRows(points)
    smallest = float(torch.linalg.svdvals(_triangle(parts)).min())
    torch.testing.assert_close(_triangle(parts).mT @ _triangle(parts), sum(block.mT @ block for block in parts))
    assert not _reach_all_directions(parts, 1.0001 * smallest)
    assert _reach_all_directions(parts, 0.9 * smallest) or decay == 8.0
    assert not _reach_all_directions(_RelativeRows(points[:, :1] * deviations), smallest)


def test_rows_in_all_directions_take_no_singular_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.linalg, "svd", None)
    points = torch.randn(200, 30, generator=torch.Generator().manual_seed(0))
    task = task_of(points, None, None, 0.0, None, 0.1, None, 0, 1 << 22)
    assert posed(task)[0].problem.source.dim == 30


def test_rows_in_a_plane_make_one_problem_unless_they_are_in_it_up_to_rounding_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = (10 * torch.randn(100, 2, generator=generator)).round() @ torch.tensor([[1.0, 2, 0, 4], [0, 1, 1, 0.5]])
    exact, rounded = (
        posed(task_of(points, None, None, 0.0, None, 0.1, None, 0, 1 << 22)) for points in (rows, rows / 3)
    )
    assert [part.problem.source.dim for part in exact] == [2, 2]
    assert exact[0] is exact[1]
    assert [part.problem.source.dim for part in rounded] == [2, 4]


def test_gaps_between_groups_are_those_of_their_best_atoms() -> None:
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 6, generator=generator)
    problem = posed(task_of(points, None, None, 0.0, None, 0.1, None, 0, 1 << 22))[0].problem
    groups, noise = nested_groups(problem.points, problem.weights).levels, torch.randn(70, 6, generator=generator)
    assert len(groups) > 2
    found = problem.score_gaps(noise, 0.1 * points[:, 0].double(), groups)
    scores = noise.double() @ problem.points[:].mT - 0.1 * points[:, 0].double()
    for column, labels in zip(found.T, [torch.arange(300), *groups], strict=True):
        best = torch.stack([scores[:, labels == group].amax(1) for group in labels.unique()], 1)
        top = best.topk(2, dim=1).values
        torch.testing.assert_close(column.double(), top[:, 0] - top[:, 1], rtol=1e-4, atol=1e-5)
