"""Draws that wait are given out once, whoever copies the object that holds them."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from proxflow.couplings import Independent, Minibatch, PairStream, Semidiscrete
from proxflow.couplings.process_local import Reserve
from proxflow.semidiscrete import fit
from tests.couplings.cases import CASES, ROWS, data
from tests.marks import slow_beyond

FORKS = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
# Python, and JAX where POT has loaded it, warn of forks beside threads; the children here draw, write a file and leave
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:os.fork:RuntimeWarning"),
]


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def serves_rows(coupling: Any) -> bool:
    """Whether it has noise for given rows: a Subspace has it if the coupling inside of it has."""
    return hasattr(coupling, "noise_for") and hasattr(getattr(coupling, "coupling", coupling), "noise_for")


def used(name: str) -> Any:
    """A coupling that holds what earlier calls have left."""
    points, labels = data()
    coupling = CASES[name](points, labels)
    coupling.sample(3, generator=seeded(0))
    if serves_rows(coupling):
        coupling.noise_for(torch.arange(3), generator=seeded(0))
    return coupling


def noise_of(coupling: Any, generator: torch.Generator | None) -> Tensor:
    """All the noise that it gives in a few calls, (n, d)."""
    parts = [coupling.sample(9, generator=generator).source for _ in range(3)]
    if serves_rows(coupling):
        parts.append(coupling.noise_for(torch.arange(ROWS).repeat(2), generator=generator))
    return torch.cat([part.flatten(1) for part in parts])


def in_fork(action: Callable[[], Tensor], path: Path) -> Tensor:
    """What a forked child computes."""
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            torch.save(action(), path)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    return torch.load(path)


def all_different(*parts: Tensor) -> bool:
    rows = torch.cat(parts)
    return len(rows.unique(dim=0)) == len(rows)


# ------------------------------------------------------------------ every coupling


EVERY = pytest.mark.parametrize("name", slow_beyond(len(CASES) - 1, CASES))


@EVERY
@pytest.mark.parametrize(
    "copied", [copy.copy, copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))], ids=["shallow", "deep", "pickle"]
)
def test_a_copy_draws_noise_of_its_own(name: str, copied: Callable[..., Any]) -> None:
    coupling = used(name)
    other = copied(coupling)
    assert all_different(noise_of(coupling, seeded(1)), noise_of(other, seeded(2)))


@EVERY
def test_a_copy_gives_what_the_original_gave_when_it_was_new(name: str) -> None:
    """Nothing but the waiting draws is lost."""
    new, other = CASES[name](*data()), copy.deepcopy(used(name))
    assert torch.equal(noise_of(new, seeded(5)), noise_of(other, seeded(5)))


@FORKS
@EVERY
@pytest.mark.parametrize("seeds", [(1, 2), (None, None)], ids=["generators", "torch's own"])
def test_a_forked_process_draws_noise_of_its_own(name: str, seeds: Any, tmp_path: Path) -> None:
    coupling = used(name)
    mine, theirs = (None if seed is None else seeded(seed) for seed in seeds)
    children = [in_fork(lambda: noise_of(coupling, theirs), tmp_path / "noise") for _ in range(1 + (theirs is None))]
    assert all_different(noise_of(coupling, mine), *children)


@EVERY
def test_threads_share_one_coupling(name: str) -> None:
    coupling, parts, failures = used(name), [], []

    def draw(seed: int) -> None:
        try:
            parts.append(noise_of(coupling, seeded(seed)))
        except Exception as error:
            failures.append(error)

    together(draw, 4)
    assert not failures
    assert all_different(*parts)
    if hasattr(coupling, "noise_law"):
        assert coupling.noise_law.served == 3 + 4 * 2 * ROWS  # none lost


def together(action: Callable[[int], None], count: int) -> None:
    """Run it in several threads that change as often as Python can."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=action, args=(seed,)) for seed in range(1, 1 + count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)


def test_threads_lose_no_pair_of_an_assignment() -> None:
    """Assignments of all rows: what threads get and what still waits hold each row as often."""
    points, _ = data()
    coupling = Minibatch(points, ROWS)
    parts: list[Any] = []

    def draw(seed: int) -> None:
        generator = seeded(seed)
        parts.extend(coupling.sample(7, generator=generator) for _ in range(24))

    together(draw, 4)
    served = torch.cat([part.index for part in parts])
    count = torch.bincount(served, minlength=ROWS)
    assert len(served) % ROWS == 0
    assert bool((count == len(served) // ROWS).all())
    assert all_different(*(part.source.flatten(1) for part in parts))


# ------------------------------------------------------------------ workers of a DataLoader


class Batches(IterableDataset[Any]):
    """Noise of couplings that were used before, in batches."""

    def __init__(self, couplings: dict[str, Any]) -> None:
        self.couplings = couplings

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for name, coupling in self.couplings.items():
            yield name, noise_of(coupling, None)


@pytest.mark.filterwarnings("ignore:This DataLoader will create:UserWarning")  # on a machine with one core
@pytest.mark.parametrize(
    ("start", "names"),
    slow_beyond(1, [("fork", list(CASES)), ("spawn", ["minibatch", "semidiscrete"])]),  # spawned ones import it all
    ids=["fork", "spawn"],
)
def test_workers_and_epochs_share_no_row(start: str, names: list[str]) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"no {start} here")
    couplings = {name: used(name) for name in names}
    drawn: dict[str, list[Tensor]] = {name: [noise_of(coupling, None)] for name, coupling in couplings.items()}
    for _ in range(2):
        loader = DataLoader(Batches(couplings), batch_size=None, num_workers=2, multiprocessing_context=start)
        for name, noise in loader:
            drawn[name].append(noise.clone())
    for name, parts in drawn.items():
        assert len(parts) == 1 + 2 * 2, name
        assert all_different(*parts), name


# ------------------------------------------------------------------ torch's default generator


@FORKS
def test_a_child_that_seeds_torch_draws_with_torch_s_own_generator(tmp_path: Path) -> None:
    coupling = Independent(data()[0])

    def drawn() -> Tensor:
        torch.manual_seed(77)
        return coupling.sample(5).source

    child = in_fork(drawn, tmp_path / "noise")
    with torch.random.fork_rng():
        assert torch.equal(child, drawn())


@FORKS
def test_a_child_leaves_torch_s_default_generator_alone(tmp_path: Path) -> None:
    coupling = used("minibatch")

    def state() -> Tensor:
        before = torch.random.get_rng_state()
        noise_of(coupling, None)
        assert torch.equal(before, torch.random.get_rng_state())
        return torch.ones(1)

    assert in_fork(state, tmp_path / "state") == 1


# ------------------------------------------------------------------ streams


def test_a_stream_refuses_to_be_copied() -> None:
    with PairStream(Minibatch(data()[0], 10), 4) as stream:
        next(stream)
        for copied in (copy.copy, copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match=r"PairStream: a copy would give the same batches again; .*position="):
                copied(stream)


@FORKS
@pytest.mark.parametrize("ahead", [0, 2])
def test_a_stream_refuses_to_repeat_its_batches_in_a_forked_process(ahead: int, tmp_path: Path) -> None:
    def refused() -> Tensor:
        try:
            next(stream)
        except RuntimeError as error:
            stream.close()
            return torch.tensor("no part in the stream of its parent" in str(error))
        return torch.tensor(False)

    with PairStream(Minibatch(data()[0], 10), 4, ahead=ahead) as stream:
        next(stream)
        assert in_fork(refused, tmp_path / "refused")
        next(stream)  # the parent continues
        assert stream.position == 2


@pytest.mark.parametrize("ahead", [0, 2])
def test_threads_share_out_the_batches_of_a_stream(ahead: int) -> None:
    points, _ = data()
    with PairStream(Independent(points), 4, seed=1, ahead=ahead) as stream:
        alone = [next(stream).source for _ in range(60)]
    parts: list[Tensor] = []
    with PairStream(Independent(points), 4, seed=1, ahead=ahead) as stream:
        together(lambda _: parts.extend(next(stream).source for _ in range(15)), 4)
        assert stream.position == 60

    def rows(batches: list[Tensor]) -> list[list[float]]:
        return sorted(torch.cat(batches).flatten(1).tolist())

    assert rows(parts) == rows(alone)


# ------------------------------------------------------------------ reserves


def test_a_copied_reserve_is_empty_and_has_a_lock_of_its_own() -> None:
    reserve: Reserve[int] = Reserve()
    with reserve.opened() as opened:
        opened.kept = 3
        for other in (copy.copy(reserve), copy.deepcopy(reserve), pickle.loads(pickle.dumps(reserve))):
            with other.opened() as empty:
                assert empty.kept is None
    assert reserve.kept == 3


@FORKS
def test_a_lock_that_a_thread_holds_at_the_fork_does_not_stop_the_child(tmp_path: Path) -> None:
    coupling = Semidiscrete(fit(data()[0]).potential, data()[0])
    held, go = threading.Event(), threading.Event()

    def hold() -> None:
        with coupling._pool._stock.opened():
            held.set()
            go.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(30)
    try:
        noise = in_fork(lambda: coupling.noise_for(torch.arange(4), generator=seeded(1)), tmp_path / "noise")
    finally:
        go.set()
        thread.join()
    assert noise.shape[0] == 4
