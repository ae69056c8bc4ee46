"""Sections 1 and 2 of benchmarks/gpu.py: the rates of the card, and the search beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from gpu_measure import Deadline, Table, float32_products, timed
from gpu_sizes import Bench, ImageLaw
from proxflow.kernels.screening import best_of
from proxflow.kernels.search import _can_fuse, argmax_affine, best_by_products, top_two_affine
from proxflow.kernels.softmax.sums import _summed_by_blocks, summed_laws

__all__ = ["Problem", "card", "searches", "slopes_scored_again"]

_PRECISIONS = ("bfloat16", "TF32", "float32")
_GOAL = 0.6  # of the bfloat16 rate
_GROUP = 128  # slopes of which a screening keeps the largest score alone
_BLOCK_NUMBERS = 1 << 28  # scores of one block of the plain search: 1 GiB
_CHECKED_AT_ONCE = 1 << 15  # slopes that are converted to float64 together


# ---------------------------------------------------------------- 1. the card


def card(bench: Bench, deadline: Deadline) -> None:
    """Matrix products in three precisions, and a copy."""
    table = bench.report.table("product", "rows x inner x columns", "seconds", "repeats", "TFLOP/s")
    for precision in _PRECISIONS:
        for shape in ((bench.sizes.square,) * 3, bench.sizes.product):
            measure = partial(_product, bench, precision, shape, table, deadline)
            bench.report.attempt(f"{precision}, {shape}", measure)
    bench.report.add(
        "\n- TFLOP/s: 2 x rows x inner x columns / seconds / 1e12; a rate below is that of a square product"
    )
    if "TF32" in bench.rates and "bfloat16" in bench.rates:
        share = bench.rates["TF32"] / bench.rates["bfloat16"]
        bench.report.add(f"- TF32 has {100 * share:.0f}% of the bfloat16 rate")
    bench.report.attempt("copy", partial(_copy, bench, deadline))


def _product(bench: Bench, precision: str, shape: tuple[int, int, int], table: Table, deadline: Deadline) -> None:
    rows, inner, columns = shape
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    left, right = (torch.randn(n, inner, device=bench.device).to(dtype) for n in (rows, columns))
    result = torch.empty(rows, columns, dtype=dtype, device=bench.device)
    with float32_products("high" if precision == "TF32" else "highest"):
        taken = bench.timed(lambda: torch.mm(left, right.T, out=result), deadline)
    rate = 2.0 * rows * inner * columns / taken.seconds
    if rows == inner == columns:
        bench.rates[precision] = rate
    table.add(precision, f"{rows:,} x {inner:,} x {columns:,}", taken.seconds, taken.repeats, rate / 1e12)


def _copy(bench: Bench, deadline: Deadline) -> None:
    source = torch.ones(bench.sizes.copied // 4, device=bench.device)
    target = torch.empty_like(source)
    taken = bench.timed(lambda: target.copy_(source), deadline)
    moved = 2.0 * source.nbytes
    bench.report.add(
        f"- memory: a copy of {source.nbytes:,} bytes reads and writes {moved:,.0f} in {taken.seconds:.3g} s "
        f"(median of {taken.repeats}): {moved / taken.seconds / 1e9:,.0f} GB/s"
    )


# ---------------------------------------------------------------- 2. the search


@dataclass(frozen=True)
class Problem:
    """Noise (B, d), slopes (N, d) and offsets (N,) of a search: as in a fit whose heights are right but for details."""

    queries: Tensor
    slopes: Tensor
    offsets: Tensor

    def operations(self, rows: int) -> float:
        """Of the product for so many noise vectors, 2 rows N d."""
        return 2.0 * rows * self.slopes.numel()

    @property
    def name(self) -> str:
        """Its sizes."""
        return f"B = {len(self.queries):,}, N = {len(self.slopes):,}, d = {self.slopes.shape[1]:,}"


@dataclass(frozen=True)
class Truth:
    """The best scores (n,) of the first noise vectors in float64, their places, and how far below counts as wrong."""

    problem: Problem
    best: Tensor
    place: Tensor
    allowed: Tensor

    @classmethod
    def of(cls, problem: Problem, count: int) -> Truth:
        """By all scores, some slopes at a time."""
        noise, offsets = problem.queries[:count].double(), problem.offsets.double()
        best, place = torch.full_like(noise[:, 0], -torch.inf), noise.new_zeros(len(noise), dtype=torch.int64)
        size = noise.new_zeros(())
        for first in range(0, len(offsets), _CHECKED_AT_ONCE):
            part = problem.slopes[first : first + _CHECKED_AT_ONCE].double()
            value, at = torch.addmm(offsets[first : first + len(part)], noise, part.T).max(1)
            place = torch.where(value > best, first + at, place)
            best = torch.maximum(best, value)
            size = torch.maximum(size, torch.linalg.vector_norm(part, dim=1).max())
        eps = torch.finfo(torch.float32).eps
        score = 2 * math.sqrt(noise.shape[1]) * eps * torch.linalg.vector_norm(noise, dim=1) * size
        return cls(problem, best, place, 2 * (score + eps * offsets.abs().max()))

    def shortfall(self, found: Tensor) -> Tensor:
        """How far below the best the scores of answers are, in units of what counts as wrong, (n,)."""
        rows = found[: len(self.best)]
        noise, slopes = self.problem.queries[: len(rows)].double(), self.problem.slopes[rows].double()
        own = (noise * slopes).sum(1) + self.problem.offsets[rows].double()
        return (self.best - own) / self.allowed

    def wrong(self, found: Tensor) -> int:
        """How many answers are."""
        return int((self.shortfall(found) > 1).sum())


def searches(bench: Bench, deadline: Deadline) -> None:
    """The search of the library, checked, beside products of torch, and what it is made of."""
    report, checked = bench.report, bench.sizes.checked
    report.add(
        "`argmax_affine`: the largest of N scores <u, y> - h for each of B noise vectors u, in a fit of rows with a "
        "spectrum like that of images, whose heights are those of their law.\n"
    )
    table = report.table(
        "sizes", "seconds", "repeats", "TFLOP/s", *(f"of {precision}" for precision in _PRECISIONS),
        "slopes scored in float64, of a vector", f"wrong of {checked}",
        "torch, float32 blocks and maxima: seconds",
    )  # fmt: skip
    report.add(
        "\n- TFLOP/s: 2 B N d / seconds / 1e12, and its share of the rates of section 1",
        "- the search takes all scores in float16 in one kernel, and again in float64 those that may be the largest",
        "- wrong: the answer's score, in float64, is below the best by more than two scores may be off in float32, "
        "2 (2 sqrt(d) eps |u| max|y| + eps max|h|)\n",
    )
    parts = report.table("sizes", "what", "noise vectors", "seconds", "repeats", "TFLOP/s", f"wrong of {checked}")
    report.add(
        "\n- in float32: the same search where float16 does not tell scores apart",
        "- softmax laws: for each slope the sums over the noise of its probability and of the square, as a smooth fit "
        "takes them; the kernels' two products, of three in TF32 each, count as one",
        f"- group maxima: torch's product in bfloat16 and the largest of each {_GROUP} scores, rows converted before",
    )
    for number, (rows, count, dim) in enumerate(bench.sizes.searches):
        whole = Deadline(deadline.left / (len(bench.sizes.searches) - number))
        measure = partial(_case, bench, (rows, count, dim), table, parts, whole, number == 0)
        report.attempt(f"B = {rows:,}, N = {count:,}, d = {dim:,}", measure)


def _case(
    bench: Bench, sizes: tuple[int, int, int], table: Table, parts: Table, deadline: Deadline, is_goal: bool
) -> None:
    rows, count, dim = sizes
    images = ImageLaw(dim, bench.device).draw(count)
    queries = torch.randn(rows, dim, generator=torch.Generator(bench.device).manual_seed(2), device=bench.device)
    problem = Problem(queries, images.points, -images.heights.float())
    truth = Truth.of(problem, bench.sizes.checked)
    bench.report.attempt(problem.name, partial(_search, bench, truth, table, deadline, is_goal))
    for part in _parts(bench, problem):
        bench.report.attempt(f"{problem.name}, {part.name}", partial(_part, bench, truth, part, parts, deadline))


def _search(bench: Bench, truth: Truth, table: Table, deadline: Deadline, is_goal: bool) -> None:
    problem = truth.problem
    arguments = problem.queries, problem.slopes, problem.offsets
    taken = bench.timed(lambda: argmax_affine(*arguments), deadline)
    found = argmax_affine(*arguments)
    plain = timed(lambda: _plain_search(problem), bench.device, 2, deadline).seconds if deadline.left > 0 else None
    rate = problem.operations(len(problem.queries)) / taken.seconds
    shares = [f"{100 * rate / bench.rates[kind]:.0f}%" if kind in bench.rates else None for kind in _PRECISIONS]
    wrong = truth.wrong(found)
    table.add(
        problem.name, taken.seconds, taken.repeats, rate / 1e12, *shares, slopes_scored_again(problem), wrong, plain
    )
    others = int((found[: len(truth.place)] != truth.place).sum())
    bench.report.add(
        f"- {problem.name}: {others:,} of {len(truth.place):,} answers name another row than float64 does; the largest "
        f"shortfall is {max(float(truth.shortfall(found).max()), 0.0):.2g} of what counts as wrong"
    )
    if is_goal:
        reached = rate >= _GOAL * bench.rates.get("bfloat16", math.inf)
        bench.report.add(f"- **goal, {100 * _GOAL:.0f}% of the bfloat16 rate there: {bench.verdict(reached)}**")


def _plain_search(problem: Problem) -> Tensor:
    """Blocks of all scores in float32, and their maxima."""
    blocks = problem.queries.split(max(1, _BLOCK_NUMBERS // len(problem.slopes)))
    return torch.cat([torch.addmm(problem.offsets, part, problem.slopes.T).max(1).indices for part in blocks])


def slopes_scored_again(problem: Problem) -> float | None:
    """In float64, for a noise vector in the mean; None where the search is one of products."""
    if not _can_fuse(problem.queries, problem.slopes):
        return None
    from proxflow.kernels import fused_search

    counts: list[int] = []
    scores = fused_search._scores

    def counted(queries: Tensor, slopes: Tensor, offsets: Tensor, kept: Tensor, count: int) -> Tensor:
        counts.append(count)
        return scores(queries, slopes, offsets, kept, count)

    with mock.patch.object(fused_search, "_scores", counted):
        argmax_affine(problem.queries, problem.slopes, problem.offsets)
    return sum(counts) / len(problem.queries)


@dataclass(frozen=True)
class Part:
    """Something to time beside the search.

    Attributes:
        name: what it is.
        rows: noise vectors that it multiplies with all slopes; 0 where it multiplies none.
        prepare: makes the call, whose result are answers if ``answers``.
        answers: whether they can be checked.
    """

    name: str
    rows: int
    prepare: Callable[[], Callable[[], object]]
    answers: bool = True


def _parts(bench: Bench, problem: Problem) -> Iterator[Part]:
    rows = len(problem.queries)
    apart = "argmax_affine, rows d + 2 numbers apart, as a potential keeps them"
    yield Part(apart, rows, lambda: _search_of_rows_apart(problem))
    yield Part("group maxima in bfloat16", rows, lambda: _group_maxima(problem), answers=False)
    arguments = problem.queries, problem.slopes, problem.offsets
    yield Part("products in float32, in blocks", rows, lambda: lambda: best_by_products(*arguments).place)
    if not _can_fuse(problem.queries, problem.slopes):
        return
    from proxflow.kernels import fused_search

    def in_float32() -> Tensor | None:
        found = fused_search._screened(*arguments, torch.float32, 1)
        return None if found is None else best_of(*found, rows, len(problem.slopes))[0]

    yield Part("in float32", rows, lambda: in_float32)
    yield Part("the best two", rows, lambda: lambda: top_two_affine(*arguments).best)
    yield Part("softmax laws, summed", rows, lambda: lambda: summed_laws(*arguments), answers=False)
    blocks = partial(_summed_by_blocks, *arguments)
    yield Part("softmax laws, summed in blocks by torch", rows, lambda: blocks, answers=False)
    rounded = partial(fused_search.kept_slopes, problem.slopes, problem.offsets)
    yield Part("slopes rounded to float16, with bounds", 0, lambda: rounded, answers=False)


def _part(bench: Bench, truth: Truth, part: Part, table: Table, deadline: Deadline) -> None:
    call = part.prepare()
    taken = bench.timed(call, deadline)
    rate = truth.problem.operations(part.rows) / taken.seconds / 1e12 if part.rows else "no product"
    found = call()
    wrong = truth.wrong(found) if part.answers and isinstance(found, Tensor) else "no answers"
    table.add(truth.problem.name, part.name, part.rows, taken.seconds, taken.repeats, rate, wrong)


def _search_of_rows_apart(problem: Problem) -> Callable[[], Tensor]:
    count, dim = problem.slopes.shape
    apart = problem.slopes.new_empty(count, dim + 2)[:, :dim].copy_(problem.slopes)
    return lambda: argmax_affine(problem.queries, apart, problem.offsets)


def _group_maxima(problem: Problem) -> Callable[[], Tensor]:
    """The largest bfloat16 score of each group of slopes, for each noise vector, (groups, B), in blocks."""
    slopes = problem.slopes[: len(problem.slopes) // _GROUP * _GROUP].bfloat16()
    queries = problem.queries.bfloat16()
    rows = len(queries)
    blocks = slopes.split(_GROUP * max(1, _BLOCK_NUMBERS // (_GROUP * rows)))
    return lambda: torch.cat([(part @ queries.T).view(-1, _GROUP, rows).amax(1) for part in blocks])
