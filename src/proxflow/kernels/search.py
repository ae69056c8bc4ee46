"""The maximum-affine search: argmax_j <a_i, b_j> + c_j over many rows, or the best two, in bounded memory.

One matrix product does all the work. The cost beyond it is kept small by a score block that stays in cache and is
reused, and, on the CPU, by numpy's vectorised argmax and by threads that each have a part of many slopes. On a GPU with
Triton the product and the maximum are one kernel; processors that are much quicker in bfloat16 find the few slopes that
matter in that precision. Slopes that are stored in fewer bytes are converted to the dtype of the queries a block at a
time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeAlias, TypeVar

import torch
from torch import Tensor

from proxflow.kernels.geometry import row_blocks
from proxflow.kernels.screened_search import Panels, can_screen, keeps_panels, panels_to_keep, screened_best
from proxflow.kernels.threads import on_threads
from proxflow.kernels.triton_support import by_kernels, has_kernels

if TYPE_CHECKING:
    from proxflow.kernels.fused_search import KeptSlopes

__all__ = [
    "Best",
    "Kept",
    "TopTwo",
    "affine_scores",
    "argmax_affine",
    "best_affine",
    "best_by_products",
    "best_of_parts",
    "kept_for_searches",
    "row_argmax",
    "row_argmin",
    "searched_by",
    "searches_are_split",
    "top_two_affine",
]

T = TypeVar("T")
Kept: TypeAlias = "Panels | KeptSlopes"
"""Slopes and offsets as searches of few rows use them."""

_BLOCK_BYTES = 1 << 21  # one score block: it stays in a cache near the core; written to memory it would halve the speed
_FOLDED = 64  # dimensions up to which offsets are one more coordinate: adding them would take as long as the product
_CHUNK_NUMBERS = 1 << 20  # of slopes, that one thread searches all rows among before the next ones
_MIN_ROWS = 256  # fewer rows than this leave the matrix product inefficient
_LEAST_FUSED, _LEAST_FUSED_DEPTH = 1 << 33, 64  # operations that repay the launches of a GPU's kernels
_ROW_STEP = 16  # rows of a block come in this many, so that a part of the rows is rounded as it is in the whole


class Best(NamedTuple):
    """Best slope of each query, (B,) int64, and its score, (B,) float64."""

    place: Tensor
    score: Tensor


@dataclass(frozen=True)
class TopTwo:
    """Best and second-best slope of each query, (B,) int64 each, and how much their scores differ, (B,)."""

    best: Tensor
    second: Tensor
    gap: Tensor


def _block_shape(rows: int, columns: int, itemsize: int, device: torch.device) -> tuple[int, int]:
    budget = (_BLOCK_BYTES if device.type == "cpu" else 32 * _BLOCK_BYTES) // itemsize
    block_rows = min(rows, max(_MIN_ROWS, budget // columns // _ROW_STEP * _ROW_STEP))
    return block_rows, min(columns, max(1, budget // block_rows))


def row_argmax(scores: Tensor) -> Tensor:
    """Place of the largest entry of each row, (B,) int64; on the CPU numpy's search is the quick one."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(axis=1))
    return scores.argmax(dim=1)


def row_argmin(scores: Tensor) -> Tensor:
    """Place of the least entry of each row, (B,) int64, as ``row_argmax``."""
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmin(axis=1))
    return scores.argmin(dim=1)


def argmax_affine(
    queries: Tensor, slopes: Tensor, offsets: Tensor | None = None, keep: Callable[[], Kept] | None = None
) -> Tensor:
    """argmax_j <queries_i, slopes_j> + offsets_j, the lowest j on an exact tie.

    Args:
        queries: (B, k).
        slopes: (N, k), same device, N >= 1; of the same dtype, or stored in fewer bytes.
        offsets: (N,), of the queries' dtype, or None for zeros.
        keep: gives ``kept_for_searches(slopes, offsets)``, made once; asked where searches of so few rows need them.

    Returns:
        (B,) int64. A row with a NaN gives some index.
    """
    with contextlib.nullcontext() if keep is None else _during(_KEPT, keep):
        index: Tensor = torch.ops.proxflow.argmax_affine(queries, slopes, offsets)
    return index


def _argmax_affine(queries: Tensor, slopes: Tensor, offsets: Tensor | None) -> Tensor:
    if len(queries) == 0:
        return torch.empty(0, dtype=torch.int64, device=queries.device)
    split = _SPLIT.get()
    if split is not None:
        return split(queries, slopes, offsets)
    return best_affine(queries, slopes, offsets, _KEPT.get()).place


_KEPT: ContextVar[Callable[[], Kept] | None] = ContextVar("kept", default=None)
"""Of the call of ``argmax_affine`` that is under way: an operator takes tensors alone."""

_SPLIT: ContextVar[Callable[[Tensor, Tensor, Tensor | None], Tensor] | None] = ContextVar("split", default=None)


@contextlib.contextmanager
def searched_by(split: Callable[[Tensor, Tensor, Tensor | None], Tensor] | None) -> Iterator[None]:
    """In this block, of this thread, every ``argmax_affine`` is this function's answer; its own one for None."""
    with _during(_SPLIT, split):
        yield


@contextlib.contextmanager
def _during(variable: ContextVar[T], value: T) -> Iterator[None]:
    """The variable has this value in the block, of this thread."""
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def searches_are_split() -> bool:
    """Whether ``searched_by`` is in force here."""
    return _SPLIT.get() is not None


def best_affine(
    queries: Tensor, slopes: Tensor, offsets: Tensor | None, keep: Callable[[], Kept] | None = None
) -> Best:
    """``argmax_affine`` with the scores, by the quickest way on this device; B >= 1."""
    if not keeps_panels(len(queries), slopes):
        keep = None
    screened = None
    if _can_fuse(queries, slopes):
        screened = by_kernels(queries.device, lambda: _fused_best(queries, slopes, offsets, keep))
    elif can_screen(queries, slopes, kept=keep is not None):
        kept = None if keep is None else keep()
        screened = screened_best(queries, slopes, offsets, kept if isinstance(kept, Panels) else None)
    if screened is None:
        return best_by_products(queries, slopes, offsets)
    index, score = screened
    left = torch.nonzero(index < 0)[:, 0]
    if len(left):
        index[left], score[left] = best_by_products(queries[left], slopes, offsets)
    return Best(index, score)


def _fused_best(
    queries: Tensor, slopes: Tensor, offsets: Tensor | None, keep: Callable[[], Kept] | None
) -> tuple[Tensor, Tensor] | None:
    from proxflow.kernels.fused_search import KeptSlopes, fused_best

    kept = None if keep is None else keep()
    return fused_best(queries, slopes, offsets, kept if isinstance(kept, KeptSlopes) else None)


def kept_for_searches(slopes: Tensor, offsets: Tensor) -> Kept:
    """What searches of few rows each want of the slopes (N, k) and offsets (N,), made once, on their device."""
    if has_kernels(slopes.device):
        from proxflow.kernels.fused_search import kept_slopes

        return kept_slopes(slopes, offsets)
    return panels_to_keep(slopes, offsets)


def best_by_products(queries: Tensor, slopes: Tensor, offsets: Tensor | None) -> Best:
    """``best_affine`` by all scores in the precision of the rows."""
    rows, columns = len(queries), len(slopes)
    if offsets is not None:
        offsets = offsets.contiguous()  # the product reads them once for each row
    height, width = _block_shape(rows, columns, queries.element_size(), queries.device)
    folds = offsets is not None and queries.device.type == "cpu" and rows >= _ROW_STEP and slopes.shape[1] <= _FOLDED
    if folds:
        queries = torch.cat([queries, queries.new_ones(rows, 1)], dim=1)
    if slopes.dtype != queries.dtype:
        width = min(width, max(1, _CHUNK_NUMBERS // slopes.shape[1]))  # so much is converted at once, for few rows too
    blocks = queries.split(height)
    size = width if columns <= width else width * max(1, _CHUNK_NUMBERS // (width * queries.shape[1]))

    def among(chunks: Iterator[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        buffer = queries.new_empty(height * width)
        for chunk in chunks:
            near = _folded(slopes[chunk].to(queries.dtype), None if offsets is None else offsets[chunk], folds)
            found = [_block_argmax(block, *near, buffer, width) for block in blocks]
            its_index, its_score = (torch.cat(parts) for parts in zip(*found, strict=True))
            yield its_index + chunk.start, its_score

    # All rows before the next slopes: each is read once, of a file too.
    chunks = [slice(left, left + size) for left in range(0, columns, size)]
    index, score = best_of_parts(on_threads(among, chunks, queries.device))
    return Best(index, score.double())


def best_of_parts(found: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The place and the score that are largest, of those of each part: on an exact tie those of the first part."""
    (place, score), *others = found
    for its_place, its_score in others:
        better = its_score > score
        place, score = torch.where(better, its_place, place), torch.where(better, its_score, score)
    return place, score


def _folded(slopes: Tensor, offsets: Tensor | None, folds: bool) -> tuple[Tensor, Tensor | None]:
    """Slopes and offsets; or slopes whose last coordinate is the offset, for queries whose last one is 1."""
    if not folds or offsets is None:
        return slopes, offsets
    return torch.cat([slopes, offsets[:, None]], dim=1), None


def _can_fuse(queries: Tensor, slopes: Tensor) -> bool:
    """Whether Triton's kernels search these rows (B, k) among these slopes (N, k), and are quicker than products."""
    scores = len(queries) * len(slopes)
    return scores * max(slopes.shape[1], _LEAST_FUSED_DEPTH) >= _LEAST_FUSED and has_kernels(queries.device)


def top_two_affine(queries: Tensor, slopes: Tensor, offsets: Tensor) -> TopTwo:
    """The two largest of <queries_i, slopes_j> + offsets_j; a single slope counts twice, with gap inf.

    Args:
        queries: (B, k).
        slopes: (N, k), as of ``argmax_affine``.
        offsets: (N,).
    """
    found = None
    if _can_fuse(queries, slopes):
        found = by_kernels(queries.device, lambda: _fused_top_two(queries, slopes, offsets))
    if found is None:
        return _top_two_by_products(queries, slopes, offsets)
    left = torch.nonzero(found.second < 0)[:, 0]
    if len(left):
        other = _top_two_by_products(queries[left], slopes, offsets)
        found.best[left], found.second[left], found.gap[left] = other.best, other.second, other.gap
    return found


def _fused_top_two(queries: Tensor, slopes: Tensor, offsets: Tensor) -> TopTwo | None:
    """A second of -1 where only one, or none, was found."""
    from proxflow.kernels.fused_search import fused_best_two

    found = fused_best_two(queries, slopes, offsets)
    if found is None:
        return None
    (best, value), (second, runner_up) = found
    return TopTwo(best, second, (value - runner_up).to(queries.dtype))


def _top_two_by_products(queries: Tensor, slopes: Tensor, offsets: Tensor) -> TopTwo:
    height, width = _block_shape(max(1, len(queries)), len(slopes), queries.element_size(), queries.device)
    found = [_block_top_two(block, slopes, offsets, width) for block in queries.split(height)]
    best, second, gap = (torch.cat(parts) for parts in zip(*found, strict=True))
    return TopTwo(best, best if len(slopes) == 1 else second, gap)


def _block_top_two(queries: Tensor, slopes: Tensor, offsets: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Best, second and gap for one block of rows, ``width`` slopes at a time."""
    best, value, second, runner_up = _leading_two(queries, slopes[:width], offsets[:width])
    for left in range(width, len(slopes), width):
        chunk = slice(left, left + width)
        first, first_value, next_, next_value = _leading_two(queries, slopes[chunk], offsets[chunk])
        better = first_value > value
        beaten, beaten_value = torch.where(better, best, first + left), torch.where(better, value, first_value)
        rival, rival_value = torch.where(better, next_ + left, second), torch.where(better, next_value, runner_up)
        best, value = torch.where(better, first + left, best), torch.where(better, first_value, value)
        ahead = (rival_value > beaten_value) | (~better & (rival_value == beaten_value))  # on a tie the lower place
        second, runner_up = torch.where(ahead, rival, beaten), torch.where(ahead, rival_value, beaten_value)
    return best, second, value - runner_up


def _leading_two(queries: Tensor, slopes: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The two largest scores and their places; of a single slope the second score is -inf."""
    scores = affine_scores(queries, slopes, offsets)
    best = row_argmax(scores)
    value = _entries(scores, best)
    scores.scatter_(1, best[:, None], -torch.inf)
    second = row_argmax(scores)
    return best, value, second, _entries(scores, second)


def affine_scores(queries: Tensor, slopes: Tensor, offsets: Tensor) -> Tensor:
    """All scores <queries_i, slopes_j> + offsets_j, (B, N); arguments as of ``argmax_affine``."""
    if slopes.dtype == queries.dtype:
        return torch.addmm(offsets, queries, slopes.mT)
    parts = [torch.addmm(offsets[rows], queries, slopes[rows].to(queries.dtype).mT) for rows in row_blocks(slopes)]
    return torch.cat(parts, dim=1)


def _of_that_shape(queries: Tensor, slopes: Tensor, offsets: Tensor | None) -> Tensor:
    return torch.empty(len(queries), dtype=torch.int64, device=queries.device)


def _of_many(
    info: object, in_dims: tuple[int | None, ...], queries: Tensor, slopes: Tensor, offsets: Tensor | None
) -> tuple[Tensor, int]:
    if in_dims[0] is None or in_dims[1] is not None or in_dims[2] is not None:
        raise NotImplementedError("the slopes and offsets of a maximum-affine search cannot be batched by vmap")
    queries = queries.movedim(in_dims[0], 0)
    return argmax_affine(queries.flatten(0, 1), slopes, offsets).unflatten(0, queries.shape[:2]), 0


# An opaque operator, so that vmap and compile see only its result; without derivatives it needs no custom_op's layers.
_LIBRARY = torch.library.Library("proxflow", "FRAGMENT")
_LIBRARY.define("argmax_affine(Tensor queries, Tensor slopes, Tensor? offsets) -> Tensor")
_LIBRARY.impl("argmax_affine", _argmax_affine, "CompositeExplicitAutograd")
torch.library.register_fake("proxflow::argmax_affine", _of_that_shape, lib=_LIBRARY)
torch.library.register_vmap("proxflow::argmax_affine", _of_many, lib=_LIBRARY)


def _block_argmax(
    queries: Tensor, slopes: Tensor, offsets: Tensor | None, buffer: Tensor, width: int
) -> tuple[Tensor, Tensor]:
    """The search for one block of rows, ``width`` slopes at a time, and the best scores."""
    scores = _scores(queries, slopes[:width], None if offsets is None else offsets[:width], buffer)
    index = row_argmax(scores)
    value = _entries(scores, index)
    for left in range(width, len(slopes), width):
        chunk = slice(left, left + width)
        scores = _scores(queries, slopes[chunk], None if offsets is None else offsets[chunk], buffer)
        found = row_argmax(scores)
        found_value = _entries(scores, found)
        better = found_value > value
        value, index = torch.where(better, found_value, value), torch.where(better, found + left, index)
    return index, value


def _scores(queries: Tensor, slopes: Tensor, offsets: Tensor | None, buffer: Tensor) -> Tensor:
    """All scores at once, in the buffer."""
    scores = buffer[: len(queries) * len(slopes)].view(len(queries), len(slopes))
    if offsets is None:
        return torch.mm(queries, slopes.T, out=scores)
    return torch.addmm(offsets, queries, slopes.T, out=scores)


def _entries(scores: Tensor, index: Tensor) -> Tensor:
    return scores.gather(1, index[:, None])[:, 0]
