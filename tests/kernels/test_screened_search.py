"""The search that screens scores in bfloat16 against float64; it runs, slowly, on processors without AMX too."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from proxflow.checks import STORED
from proxflow.kernels import screened_search as screened
from proxflow.kernels import search
from proxflow.kernels.screened_search import Panels, screened_best
from proxflow.potentials import Discrete
from proxflow.torch_support import Derived


@pytest.fixture(params=[(8192, 512, 128), (256, 64, 32)], ids=["one-block", "many-blocks"])
def _blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    columns, rows, group = request.param
    monkeypatch.setattr(screened, "_SCORES", columns * rows)
    monkeypatch.setattr(screened, "_ROWS", rows)
    monkeypatch.setattr(screened, "_GROUP", group)


def best_in_double(queries: torch.Tensor, slopes: torch.Tensor, offsets: torch.Tensor | None) -> torch.Tensor:
    scores = queries.double() @ slopes.double().mT
    return (scores if offsets is None else scores + offsets.double()).argmax(1)


def found(queries: torch.Tensor, slopes: torch.Tensor, offsets: torch.Tensor | None) -> torch.Tensor:
    best = screened_best(queries, slopes, offsets)
    assert best is not None
    index, score = best
    known = index >= 0
    exact = queries.double() @ slopes.double().mT + (0 if offsets is None else offsets.double())
    torch.testing.assert_close(score[known], exact.amax(1)[known], rtol=1e-12, atol=1e-12)
    return index


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("rows", "columns", "k"), [(1, 1, 1), (3, 700, 2), (150, 1000, 40), (70, 129, 900)])
@pytest.mark.parametrize("kind", ["normal", "far", "uneven", "negative", "no offsets"])
def test_the_answer_is_that_of_float64(
    rows: int, columns: int, k: int, kind: str, dtype: torch.dtype, generator: torch.Generator
) -> None:
    """Far from the origin, with norms that differ much, with offsets that decide, and with scores below 0 alone."""
    queries = torch.randn(rows, k, generator=generator, dtype=dtype)
    slopes = torch.randn(columns, k, generator=generator, dtype=dtype)
    if kind == "far":
        slopes += 10
    if kind == "uneven":
        slopes *= (0.5 * torch.randn(columns, 1, generator=generator, dtype=dtype)).exp()
    offsets = -0.5 * slopes.square().sum(1) + torch.randn(columns, generator=generator, dtype=dtype)
    if kind == "negative":
        offsets -= 1e4
    given = None if kind == "no offsets" else offsets
    index = found(queries, slopes, given)
    assert index.dtype == torch.int64
    assert torch.equal(index, best_in_double(queries, slopes, given))


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("with_offsets", [False, True])
def test_slopes_stored_in_fewer_bytes(stored: torch.dtype, with_offsets: bool, generator: torch.Generator) -> None:
    queries = torch.randn(150, 40, generator=generator)
    slopes = torch.randn(1000, 40, generator=generator)
    slopes = (slopes if stored.is_floating_point else (30 * slopes.abs()).clamp(max=127)).to(stored)
    offsets = -0.5 * slopes.float().square().sum(1) if with_offsets else None
    half, single = (screened_best(queries, each, offsets) for each in (slopes, slopes.float()))
    assert half is not None
    assert single is not None
    assert torch.equal(half[0], single[0])
    assert torch.equal(half[1], single[1])


@pytest.mark.usefixtures("_blocks")
def test_scores_that_bfloat16_does_not_tell_apart(generator: torch.Generator) -> None:
    """The best of each row and its rival differ by 2^-12 of their size, 1/16 of what bfloat16 resolves."""
    slopes = torch.nn.functional.normalize(torch.randn(400, 30, generator=generator), dim=1)
    slopes[200:] = slopes[:200] * (1 + 2.0**-12 * torch.randn(200, 1, generator=generator).sign())
    slopes = slopes[torch.randperm(400, generator=generator)]
    queries = 3 * torch.randn(300, 30, generator=generator)
    rounded = (queries.bfloat16() @ slopes.bfloat16().mT).float().argmax(1)
    exact = best_in_double(queries, slopes, None)
    assert (rounded != exact).float().mean() > 0.2
    assert torch.equal(found(queries, slopes, None), exact)


@pytest.mark.usefixtures("_blocks")
def test_an_exact_tie_goes_to_the_lowest(generator: torch.Generator) -> None:
    slopes = torch.randint(-3, 4, (600, 4), generator=generator).float()
    queries = torch.randint(-3, 4, (90, 4), generator=generator).float()
    queries[queries.eq(0).all(1)] = 1
    offsets = torch.randint(-3, 4, (600,), generator=generator).float()
    scores = queries @ slopes.mT + offsets
    assert (scores == scores.amax(1, keepdim=True)).sum(1).max() > 1
    lowest = torch.stack([torch.nonzero(row == row.max())[0, 0] for row in scores])
    assert torch.equal(found(queries, slopes, offsets), lowest)


@pytest.mark.usefixtures("_blocks")
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, 3.4e38])
def test_numbers_that_bfloat16_lacks_are_left_to_another_search(bad: float, generator: torch.Generator) -> None:
    """3.4e38 is a float32 and rounds to infinity."""
    queries, slopes = torch.randn(80, 5, generator=generator), torch.randn(700, 5, generator=generator)
    exact = best_in_double(queries, slopes, None)
    queries[11, 1] = bad
    index, others = found(queries, slopes, None), torch.arange(80) != 11
    assert int(index[11]) == -1
    assert torch.equal(index[others], exact[others])
    queries = torch.randn(80, 5, generator=generator)
    slopes[300, 2] = bad
    best = screened_best(queries, slopes, None)
    assert best is None or best[0].lt(0).all()


@pytest.mark.parametrize("of_queries", [1.0, 2.0**-40, 2.0**-80, 2.0**-126])
@pytest.mark.parametrize("of_slopes", [1.0, 2.0**-40, 2.0**-80, 2.0**-126])
def test_small_numbers_whose_squares_float32_lacks(
    of_queries: float, of_slopes: float, generator: torch.Generator
) -> None:
    """Two coordinates, large among the slopes, cancel in each score: of what is left bfloat16 tells nothing."""
    queries, slopes = torch.randn(50, 32, generator=generator), 0.01 * torch.randn(2000, 32, generator=generator)
    queries[:, 1] = -queries[:, 0]
    slopes[:, :2] += 10 * torch.randn(2000, 1, generator=generator)
    queries, slopes = of_queries * queries, of_slopes * slopes
    best = screened_best(queries, slopes, None)
    if best is not None:
        left = best[0] < 0
        assert torch.equal(best[0][~left], best_in_double(queries, slopes, None)[~left])
    if of_queries * of_slopes == 1:
        assert best is None


@pytest.mark.parametrize("kind", ["normal", "half way between two numbers"])
def test_scores_are_within_their_bound_and_may_come_near_it(kind: str, generator: torch.Generator) -> None:
    """Numbers half way between two of bfloat16, and all of one sign, lose as much as they can."""
    queries, slopes = torch.randn(64, 30, generator=generator), torch.randn(256, 30, generator=generator)
    if kind != "normal":
        queries = torch.full((64, 30), 1 + 2.0**-8)
        slopes = (1 + 2.0**-8) * torch.randn(256, 1, generator=generator).sign().expand(256, 30)
    offsets, nothing = 100 * torch.randn(256, generator=generator), torch.zeros(30)
    sizes, imprecision = screened._sizes(queries)
    panel = screened._panel(slopes, offsets, nothing, torch.zeros(()))
    scores = (panel.rows.double() @ screened._with_ones(queries).double()).mT
    exact = queries.double() @ slopes.double().mT + offsets
    bound = sizes[:, None].double() * panel.error(imprecision).view(-1) + panel.offset_lost
    worst = float(((scores - exact).abs() / bound).max())
    assert (0.1 if kind == "normal" else 0.9) < worst <= 1


def test_gives_up_where_nearly_all_scores_are_near(generator: torch.Generator) -> None:
    """Tight clusters: of the best one no slope could be left out."""
    queries = torch.randn(500, 20, generator=generator)
    clusters = torch.randn(4, 20, generator=generator).repeat(1000, 1)
    assert screened_best(queries, clusters + 1e-4 * torch.randn(4000, 20, generator=generator), None) is None


def test_rows_do_not_depend_on_those_beside_them(generator: torch.Generator) -> None:
    queries, slopes = torch.randn(600, 50, generator=generator), torch.randn(9000, 50, generator=generator)
    whole = found(queries, slopes, None)
    assert torch.equal(found(queries[37:91], slopes, None), whole[37:91])


@pytest.mark.parametrize("kind", ["normal", "clusters", "nan"])
def test_the_search_takes_it_where_it_pays(
    kind: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries, slopes = torch.randn(600, 64, generator=generator), torch.randn(9000, 64, generator=generator)
    if kind == "clusters":
        slopes = 1e-3 * slopes + torch.randn(3, 64, generator=generator).repeat(3000, 1)
    calls = []

    def counted(*arguments: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        calls.append(arguments)
        return screened_best(*arguments)

    monkeypatch.setattr(screened, "_has_tiles", lambda: True)
    monkeypatch.setattr(search, "screened_best", counted)
    exact = best_in_double(queries, slopes, None)
    if kind == "nan":
        queries[3] = torch.nan
    others = torch.arange(600) != 3
    assert torch.equal(search.argmax_affine(queries, slopes)[others], exact[others])
    assert len(calls) == 1
    search.argmax_affine(queries[:100], slopes)
    assert len(calls) == 1


@pytest.mark.usefixtures("_blocks")
def test_panels_that_are_kept_give_the_same_answers(generator: torch.Generator) -> None:
    queries, slopes = torch.randn(300, 20, generator=generator), 3 + torch.randn(3000, 20, generator=generator)
    offsets = -0.5 * slopes.square().sum(1)
    kept = screened.panels_to_keep(slopes, offsets)
    for rows in (queries[:1], queries[:70], queries):
        found = screened_best(rows, slopes, offsets, kept)
        assert found is not None
        assert torch.equal(found[0], best_in_double(rows, slopes, offsets))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_potential_keeps_panels_for_small_batches_alone(
    dtype: torch.dtype, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made once, of its points and heights as they are, and not where they are many bytes."""
    stored = torch.randn(9000, 120, generator=generator).to(dtype)
    points = stored.float()
    potential = Discrete(stored, 0.5 * points.square().sum(1))
    queries = torch.randn(1500, 120, generator=generator)
    made = []

    def counted(slopes: torch.Tensor, offsets: torch.Tensor) -> Panels:
        made.append(len(slopes))
        return screened.panels_to_keep(slopes, offsets)

    monkeypatch.setattr(screened, "_has_tiles", lambda: True)
    potential._panels = Derived(counted)
    exact = best_in_double(queries, points, -potential.heights)
    assert torch.equal(potential.nearest_atom(queries), exact)
    assert not made
    for _ in range(2):
        assert torch.equal(potential.nearest_atom(queries[:300]), exact[:300])
    assert made == [9000]
    potential.heights.mul_(0.9).add_(1.0)
    exact = best_in_double(queries, points, -potential.heights)
    assert torch.equal(potential.nearest_atom(queries[:300]), exact[:300])
    assert made == [9000, 9000]
    monkeypatch.setattr(screened, "_LEAST_WORK", 1 << 20)
    calls: list[Panels | None] = []

    def told(*given: Any) -> tuple[torch.Tensor, torch.Tensor] | None:
        calls.append(given[-1])
        return screened_best(*given)

    monkeypatch.setattr(search, "screened_best", told)
    for count, screens in ((20, 0), (40, 1), (1500, 2)):
        assert torch.equal(potential.nearest_atom(queries[:count]), exact[:count])
        assert len(calls) == screens
    assert [kept is not None for kept in calls] == [True, False]
    batched = torch.vmap(potential.nearest_atom)(queries.reshape(5, 300, 120))
    assert torch.equal(batched.flatten(), exact)
    monkeypatch.setattr(screened, "_MOST_KEPT", 1 << 20)
    potential.heights.add_(1.0)
    assert torch.equal(potential.nearest_atom(queries[:300]), exact[:300])
    assert made == [9000, 9000]


def test_offsets_that_products_cancel(generator: torch.Generator) -> None:
    """Factors that bfloat16 has exactly, so that what offsets lose in two numbers of it is all that scores lose."""
    sign, queries = torch.tensor([1.0, -1.0]).repeat(100), torch.ones(3, 2)
    slopes = -sign[:, None] * torch.tensor([32768.0, 63.0])
    for _ in range(20):
        score = torch.where(torch.arange(200) < 20, 0.0, -4.0) + torch.rand(200, generator=generator)
        offsets = 32831 * sign + score
        assert torch.equal(found(queries, slopes, offsets), best_in_double(queries, slopes, offsets))
