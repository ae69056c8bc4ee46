"""Streams of batches: known by their number alone, whoever draws them, however far ahead, from wherever."""

from __future__ import annotations

import itertools
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from proxflow.couplings import Conditional, Coupling, Independent, Minibatch, Pairs, PairStream, Semidiscrete
from proxflow.errors import ConvergenceWarning
from proxflow.seeding import generator_of
from proxflow.semidiscrete import fit

ROWS = 40
BATCH = 12


def points() -> Tensor:
    return torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


LABELS = torch.arange(ROWS) % 3
FITTED = Semidiscrete(fit(points()).potential, points(), LABELS)
BY_CLASS = Conditional.fit(points(), LABELS)

COUPLINGS: dict[str, Callable[[], Coupling]] = {
    "independent": lambda: Independent(points()),
    "semidiscrete": lambda: FITTED,
    "conditional": lambda: BY_CLASS,
    "one pair an assignment": lambda: Minibatch(points(), 1, LABELS),
    "smaller assignments that do not divide": lambda: Minibatch(points(), 5, LABELS),
    "smaller assignments that divide": lambda: Minibatch(points(), 6),
    "assignments of the batch": lambda: Minibatch(points(), BATCH, LABELS),
    "larger assignments that do not divide": lambda: Minibatch(points(), 31, LABELS),
    "larger assignments that divide": lambda: Minibatch(points(), 36),
    "sinkhorn": lambda: Minibatch(points(), 20, solver="sinkhorn", epsilon=0.2),
}
EVERY = pytest.mark.parametrize("coupling", [pytest.param(make, id=name) for name, make in COUPLINGS.items()])
ASSIGNED = pytest.mark.parametrize("size", [1, 5, 6, BATCH, 31, 36, ROWS])


def batches(make: Callable[[], Coupling], count: int, batch_size: int = BATCH, **options: int) -> list[Pairs]:
    with PairStream(make(), batch_size, **{"seed": 3, **options}) as stream:
        return list(itertools.islice(stream, count))


def same(a: Pairs, b: Pairs) -> bool:
    both = [(a.source, b.source), (a.target, b.target), (a.index, b.index)]
    if a.label is not None or b.label is not None:
        both.append((a.label, b.label))
    return all(torch.equal(x, y) for x, y in both)


def put_together(parts: list[Pairs]) -> Pairs:
    """The shares of all processes, in an order of their own: of the noise, no two of which are equal."""
    source = torch.cat([part.source for part in parts])
    order = source[:, 0].argsort()
    label = None if parts[0].label is None else torch.cat([part.label for part in parts])[order]
    target, index = (torch.cat([getattr(part, name) for part in parts])[order] for name in ("target", "index"))
    return Pairs(source[order], target, index, label)


# ------------------------------------------------------------------ what a batch depends on


@EVERY
@pytest.mark.parametrize("ahead", [1, 5])
def test_the_batches_are_the_same_however_far_ahead_they_are_drawn(coupling: Callable[..., Any], ahead: int) -> None:
    at_once, before = batches(coupling, 8, ahead=0), batches(coupling, 8, ahead=ahead)
    assert all(len(pairs) == BATCH for pairs in at_once)
    assert all(map(same, at_once, before))


@EVERY
@pytest.mark.parametrize("ahead", [0, 2])
def test_a_stream_goes_on_from_any_position(coupling: Callable[..., Any], ahead: int) -> None:
    whole = batches(coupling, 9, ahead=ahead)
    for position in (1, 4, 8):
        rest = batches(coupling, 9 - position, position=position, ahead=ahead)
        assert all(map(same, whole[position:], rest))


@EVERY
@pytest.mark.parametrize("ahead", [0, 3])
def test_setting_the_position_goes_on_from_there(coupling: Callable[..., Any], ahead: int) -> None:
    whole = batches(coupling, 9)
    with PairStream(coupling(), BATCH, seed=3, ahead=ahead) as stream:
        for position in (0, 5, 1, 8):
            stream.position = position
            assert stream.position == position
            assert same(next(stream), whole[position])
        stream.position = 2
        assert all(same(next(stream), whole[number]) for number in range(2, 9))
        assert stream.position == 9
        wrong: Any
        for wrong in (-1, 1.5, "1"):
            with pytest.raises(ValueError, match="position must be a whole number of at least 0"):
                stream.position = wrong


@EVERY
@pytest.mark.parametrize("processes", [2, 3])
def test_the_shares_of_several_processes_are_the_batch_of_one(coupling: Callable[..., Any], processes: int) -> None:
    alone = batches(coupling, 5)
    shares = [batches(coupling, 5, rank=rank, processes=processes) for rank in range(processes)]
    for step, batch in enumerate(alone):
        parts = [share[step] for share in shares]
        assert same(put_together(parts), put_together([batch]))
        assert {len(part) for part in parts} == {BATCH // processes}


def test_shares_of_a_batch_that_does_not_divide_differ_by_one() -> None:
    alone = batches(COUPLINGS["semidiscrete"], 3, batch_size=11)
    shares = [batches(COUPLINGS["semidiscrete"], 3, batch_size=11, rank=r, processes=3) for r in range(3)]
    assert [len(share[0]) for share in shares] == [4, 4, 3]
    assert all(same(put_together([s[k] for s in shares]), put_together([alone[k]])) for k in range(3))


@EVERY
def test_another_seed_and_another_position_are_other_draws(coupling: Callable[..., Any]) -> None:
    first, second = batches(coupling, 2)
    other = batches(coupling, 1, seed=4)[0]
    assert not torch.isin(first.source, second.source).any()
    assert not torch.isin(first.source, other.source).any()


@EVERY
def test_global_random_numbers_are_left_alone(coupling: Callable[..., Any]) -> None:
    made = coupling()
    before = torch.random.get_rng_state()
    batches(lambda: made, 3)
    assert torch.equal(before, torch.random.get_rng_state())


def test_streams_of_one_coupling_do_not_disturb_each_other() -> None:
    coupling = Minibatch(points(), 31)
    alone = batches(lambda: coupling, 6, ahead=0)
    coupling.sample(7, generator=torch.Generator().manual_seed(0))  # leaves pairs in its own buffer
    first, second = (PairStream(coupling, BATCH, seed=3, ahead=0, position=p) for p in (0, 3))
    turns = [(next(first), next(second)) for _ in range(3)]
    assert all(same(a, alone[k]) and same(b, alone[k + 3]) for k, (a, b) in enumerate(turns))


# ------------------------------------------------------------------ assignments of any size


@ASSIGNED
@pytest.mark.parametrize("batch", [1, 12, 50])
def test_batches_are_cut_from_whole_assignments_laid_end_to_end(size: int, batch: int) -> None:
    pairs = batches(lambda: Minibatch(points(), size), 6, batch_size=batch)
    coupling = Minibatch(points(), size)
    whole = [coupling.assign(generator=generator_of(3, k)) for k in range(-(-6 * batch // size))]
    for name in ("source", "target", "index"):
        laid = torch.cat([getattr(part, name) for part in whole])[: 6 * batch]
        assert torch.equal(torch.cat([getattr(part, name) for part in pairs]), laid)


def test_an_assignment_is_made_once_though_several_batches_are_cut_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    assign = Minibatch.assign

    def counted(self: Minibatch, **options: Any) -> Pairs:
        made.append(1)
        return assign(self, **options)

    monkeypatch.setattr(Minibatch, "assign", counted)
    batches(lambda: Minibatch(points(), 36), 9, ahead=0)  # 108 pairs
    assert len(made) == 3


def test_assignments_that_are_used_up_are_forgotten() -> None:
    coupling = Minibatch(points(), 5)
    stream = PairStream(coupling, 2, ahead=0)
    for _ in range(50):
        next(stream)
        assert len(coupling._numbered.last.kept[0]) <= 2


# ------------------------------------------------------------------ drawing ahead


class Watched:
    """Counts its calls and their threads, and may fail."""

    def __init__(self, failing: int | None = None, error: BaseException | None = None) -> None:
        self.threads: list[str] = []
        self.failing, self.error = failing, error

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        self.threads.append(threading.current_thread().name)
        if self.error is not None and len(self.threads) - 1 == self.failing:
            raise self.error
        noise = torch.randn(n, 2, generator=generator)
        return Pairs(noise, noise, torch.arange(n))


def settled(watched: Watched, calls: int) -> bool:
    """Whether that many calls have been made, and no more come."""
    deadline = time.monotonic() + 5
    while len(watched.threads) < calls and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.02)
    return len(watched.threads) == calls


@pytest.mark.parametrize("ahead", [1, 3])
def test_that_many_batches_wait_drawn_by_a_thread_of_their_own(ahead: int) -> None:
    watched = Watched()
    with PairStream(watched, 4, ahead=ahead) as stream:
        assert settled(watched, 0)
        next(stream)
        assert settled(watched, 1 + ahead)
        next(stream)
        assert settled(watched, 2 + ahead)
    assert all(name.startswith("coupling") for name in watched.threads)


def test_nothing_ahead_is_drawn_by_the_caller() -> None:
    watched = Watched()
    with PairStream(watched, 4, ahead=0) as stream:
        next(stream)
        next(stream)
    assert watched.threads == [threading.current_thread().name] * 2


@pytest.mark.parametrize("ahead", [0, 2])
def test_what_the_coupling_raises_reaches_the_caller_at_its_batch(ahead: int) -> None:
    with PairStream(Watched(3, OSError("disk full")), 4, ahead=ahead) as stream:
        assert len(list(itertools.islice(stream, 3))) == 3
        with pytest.raises(OSError, match="disk full"):
            next(stream)
        assert stream.position == 3


def test_a_batch_that_failed_is_not_passed_over() -> None:
    """Going on would silently give the batches after it under wrong numbers."""
    with PairStream(Watched(1, OSError("disk full")), 4, ahead=2) as stream:
        next(stream)
        for _ in range(3):
            with pytest.raises(OSError, match="disk full"):
                next(stream)
        assert stream.position == 1


def test_a_failure_that_passes_leaves_the_batches_in_order_without_a_thread() -> None:
    undisturbed = list(itertools.islice(PairStream(Watched(), 4, ahead=0), 3))
    stream = PairStream(Watched(1, OSError("disk full")), 4, ahead=0)
    batches = [next(stream)]
    with pytest.raises(OSError, match="disk full"):
        next(stream)
    batches += [next(stream), next(stream)]
    assert all(map(same, batches, undisturbed))


def test_a_warning_of_the_thread_reaches_the_caller_as_the_error_it_was_made() -> None:
    many = torch.randn(150, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with (
        PairStream(Minibatch(many, 150, solver="sinkhorn", epsilon=1e-5), 4) as stream,
        pytest.raises(ConvergenceWarning, match="raise epsilon"),
    ):
        next(stream)


def test_warning_filters_of_the_caller_stay_as_they_are() -> None:
    """The filters are the process's, not a thread's: a draw must not change them."""
    with PairStream(Minibatch(points(), 30, solver="sinkhorn", epsilon=0.2), 4, ahead=3) as stream:
        before = list(warnings.filters)
        for _ in range(30):
            next(stream)
            assert warnings.filters == before


def test_closing_stops_the_thread_and_what_it_would_have_drawn() -> None:
    watched = Watched()
    alive = threading.active_count()
    stream = PairStream(watched, 4, ahead=50)
    next(stream)
    stream.close()
    drawn = len(watched.threads)
    assert settled(watched, drawn)
    assert threading.active_count() == alive
    with pytest.raises(RuntimeError, match="it is closed; make another one with position="):
        next(stream)
    stream.close()  # once more does no harm


def test_leaving_the_with_block_by_an_error_closes_too() -> None:
    alive = threading.active_count()

    def interrupted() -> None:
        with PairStream(Watched(), 4) as stream:
            next(stream)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert threading.active_count() == alive


def test_the_position_counts_the_batches_taken() -> None:
    with PairStream(Watched(), 4, position=7) as stream:
        assert stream.position == 7
        next(stream)
        next(stream)
        assert stream.position == 9
        assert iter(stream) is stream


@pytest.mark.parametrize(
    "options",
    [
        {"rank": -1},
        {"rank": 2, "processes": 2},
        {"processes": 0},
        {"processes": 5},
        {"position": -1},
        {"ahead": -1},
        {"position": 0.5},
        {"rank": 0.0},
        {"ahead": 1.5},
        {"processes": "1"},
    ],
    ids=str,
)
def test_numbers_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="PairStream: needs whole numbers, 0 <= rank < processes <= batch_size"):
        PairStream(Watched(), 4, **options)


def test_a_batch_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 0"):
        PairStream(Watched(), 0)


@pytest.mark.parametrize("batch_size", [4.0, "4", None, True])
def test_a_batch_size_that_is_no_whole_number_is_refused(batch_size: Any) -> None:
    with pytest.raises(ValueError, match=f"batch_size {batch_size!r}"):
        PairStream(Watched(), batch_size)


@pytest.mark.parametrize("seed", [1.5, "1", None])
def test_a_seed_that_is_no_whole_number_is_not_cut_off(seed: Any) -> None:
    with pytest.raises(ValueError, match="PairStream: seed must be a whole number, got"):
        PairStream(Watched(), 4, seed=seed)


def test_points_are_no_coupling() -> None:
    with pytest.raises(ValueError, match=r"a coupling must have sample.* got Tensor; for plain points couplings.Indep"):
        PairStream(points(), 4)  # type: ignore[arg-type]
