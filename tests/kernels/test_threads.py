"""Parts of a search on several threads: the answers of one, and nothing of torch's changed."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from proxflow.kernels import threads
from proxflow.kernels.search import argmax_affine
from proxflow.kernels.signed_sums import SlopesInParts, best_of_signs, hadamard_signs
from proxflow.kernels.threads import on_threads

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_parts_come_in_their_order_from_threads_that_have_one_of_torchs() -> None:
    together, seen = threading.Barrier(2), set[int]()

    def work(parts: Iterator[int]) -> Iterator[tuple[int, int]]:
        together.wait(60)
        for part in parts:
            seen.add(threading.get_ident())
            yield part**2, torch.get_num_threads()
            torch.zeros(1 << 16).add_(1)

    assert on_threads(work, range(20), CPU) == [(number**2, 1) for number in range(20)]
    assert threading.get_ident() not in seen


def test_torch_keeps_its_number_of_threads_here_and_in_threads_to_come() -> None:
    with ThreadPoolExecutor(1) as another, ThreadPoolExecutor(1) as new:
        another.submit(torch.get_num_threads).result()  # the first call undoes what was set before
        another.submit(torch.set_num_threads, 5).result()
        torch.set_num_threads(3)
        assert another.submit(on_threads, lambda parts: parts, range(20), CPU).result() == list(range(20))
        assert another.submit(torch.get_num_threads).result() == 5
        assert torch.get_num_threads() == new.submit(torch.get_num_threads).result() == 3


@pytest.mark.parametrize(("count", "device"), [(3, "cpu"), (20, "meta")])
def test_few_parts_and_those_of_a_gpu_are_this_threads(count: int, device: str) -> None:
    found = on_threads(lambda parts: (threading.get_ident() for _ in parts), range(count), torch.device(device))
    assert set(found) == {threading.get_ident()}


def test_an_error_ends_all_and_the_next_search_works() -> None:
    done = list[int]()

    def work(parts: Iterator[int]) -> Iterator[int]:
        for part in parts:
            if part == 3:
                raise ValueError("of part 3")
            time.sleep(0.01)
            done.append(part)
            yield part

    with pytest.raises(ValueError, match="of part 3"):
        on_threads(work, range(1000), CPU)
    assert len(done) < 20
    assert on_threads(lambda parts: parts, range(5), CPU) == [0, 1, 2, 3, 4]


def test_threads_that_cannot_be_had_leave_none_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    started, start = list[threading.Thread](), threading.Thread.start

    def one_alone(self: threading.Thread) -> None:
        if started:
            raise RuntimeError("can't start new thread")
        started.append(self)
        start(self)

    monkeypatch.setattr(threads, "_known", {})
    monkeypatch.setattr(threading.Thread, "start", one_alone)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        on_threads(lambda parts: parts, range(5), CPU)
    monkeypatch.undo()
    for thread in started:
        thread.join(10)
        assert not thread.is_alive()
    assert on_threads(lambda parts: parts, range(5), CPU) == [0, 1, 2, 3, 4]


INTERRUPTED = """
import random, signal, threading, time, torch
from proxflow.kernels import threads

def interrupt(*_):
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise KeyboardInterrupt

def searched():
    return threads.on_threads(lambda parts: parts, range(8), torch.device("cpu"))

torch.set_num_threads(3)
signal.signal(signal.SIGALRM, interrupt)
draw, end, interrupts = random.Random(0), time.monotonic() + 5, 0
while time.monotonic() < end:
    if draw.random() < 0.02:
        threads._known.clear()
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + draw.random() * 6e-4)
        for _ in range(50):
            searched()
        time.sleep(0.01)
    except KeyboardInterrupt:
        interrupts += 1
assert interrupts > 200, interrupts
assert searched() == list(range(8))
numbers = []
new = threading.Thread(target=lambda: numbers.append(torch.get_num_threads()))
new.start(), new.join()
assert numbers == [3], numbers
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers here")
def test_ctrl_c_at_any_moment_leaves_nothing_waiting() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", INTERRUPTED], check=True, timeout=100)


def test_a_search_at_the_end_of_a_program_ends() -> None:
    script = """
import atexit, torch
search = lambda: print(threads.on_threads(lambda parts: parts, range(5), torch.device("cpu")))
atexit.register(search)
from proxflow.kernels import threads
torch.set_num_threads(2)
search()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, timeout=100, check=True
    )
    assert done.stdout == 2 * "[0, 1, 2, 3, 4]\n"


def test_searches_in_parts_find_the_largest_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    slopes = torch.randn(300_000, 16, generator=generator, dtype=torch.float64)
    queries, offsets = torch.randn(40, 16, generator=generator, dtype=torch.float64), -slopes.square().sum(1) / 2
    slopes[200_000], offsets[200_000] = slopes[7], offsets[7]  # of equal scores the first
    queries[0] = slopes[7]
    exact = (queries @ slopes.mT + offsets).argmax(1)
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        with mode():
            assert torch.equal(argmax_affine(queries, slopes.requires_grad_(), offsets), exact)
    assert exact[0] == 7


def test_searches_of_signs_in_parts_find_the_largest_scores() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(20_000, 64, generator=generator, dtype=torch.float64)
    parts, offsets = torch.randn(4, 40, 16, generator=generator, dtype=torch.float64), -rows.square().sum(1) / 2
    slopes = SlopesInParts.of(rows, torch.eye(64, dtype=torch.float64), 4)
    assert len(slopes.panels) >= 4
    signed = (hadamard_signs(4)[:, :, None, None] * parts).permute(0, 2, 1, 3).flatten(2)
    with torch.inference_mode():
        assert torch.equal(best_of_signs(parts, slopes, offsets)[0], (signed @ rows.mT + offsets).argmax(2))


FORKING = """
import os, signal, torch
from proxflow.kernels.threads import on_threads
torch.set_num_threads(2)
assert on_threads(lambda parts: parts, range(5), torch.device("cpu")) == [0, 1, 2, 3, 4]
if os.fork() == 0:
    signal.alarm(60)
    os._exit(0 if on_threads(lambda parts: parts, range(5), torch.device("cpu")) == [0, 1, 2, 3, 4] else 1)
raise SystemExit(os.waitstatus_to_exitcode(os.wait()[1]))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_starts_threads_of_its_own() -> None:
    assert subprocess.run([sys.executable, "-W", "ignore", "-c", FORKING], check=False).returncode == 0
