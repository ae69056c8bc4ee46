"""Several processes share a fit: the result of one, and none is left waiting for another."""

from __future__ import annotations

import datetime
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed import HashStore  # type: ignore[attr-defined]

import proxflow as pf
from proxflow.measures import Uniform
from proxflow.semidiscrete import Fit, ShortlistedFit, descent, fit, fit_shortlisted
from proxflow.semidiscrete.ranks import ALONE, _name_of_start
from proxflow.semidiscrete.shared_directions import Sharing
from tests.processes import Processes, Signalled
from tests.semidiscrete.sources import PlainNormal
from tests.semidiscrete.test_checkpoint import cloud

QUICK: dict[str, Any] = {"max_samples": 15_000, "max_memory": 1 << 19}  # few draws: the fit need not be good


@pytest.fixture
def processes(tmp_path: Path) -> Processes:
    return Processes(tmp_path)


def numbers(found: Fit) -> tuple[Any, ...]:
    history = [(evaluation.samples_used, evaluation.chi2, evaluation.chi2_stderr) for evaluation in found.history]
    drawn = found.samples_used, found.evaluation_samples
    return history, drawn, found.transport_cost, found.transport_cost_interval, found.converged, found.method


def same(first: Fit, second: Fit) -> bool:
    """Bit by bit."""
    heights = torch.equal(first.potential.heights, second.potential.heights)
    return heights and torch.equal(first.cell_mass, second.cell_mass) and numbers(first) == numbers(second)


def four_fits(rank: int) -> list[Fit]:
    weights = torch.rand(97, generator=torch.Generator().manual_seed(1)) + 0.1
    heights = torch.linspace(0, 1, 80, dtype=torch.float64)
    nearly_twice = torch.cat([cloud(40, 3), cloud(40, 3) + 1e-4 * cloud(40, 3, seed=1)])
    return [
        fit(cloud(97, 6).float(), weights, **QUICK),
        fit(nearly_twice, source=Uniform(3, -1.0, 1.0), warm_start=heights, **QUICK),
        fit(cloud(200, 2), seed=3),
        fit(cloud(1, 2), source=PlainNormal(2)),
    ]


def test_the_result_is_that_of_one_process_bit_by_bit(processes: Processes) -> None:
    (alone,) = processes.run(1, four_fits)
    assert [found.method for found in alone] == ["averaged gradient", "averaged gradient", "damped Newton", "one atom"]
    for size in (2, 3):
        for together in processes.run(size, four_fits):
            assert all(same(*pair) for pair in zip(together, alone, strict=True))


def fit_that_shares_directions(rank: int) -> Fit:
    descent.best_sharing = lambda *_: Sharing(24, 8)  # type: ignore[attr-defined]
    return fit(cloud(97, 40).float(), **{**QUICK, "max_memory": 1 << 13})  # without room for antithetic noise


@pytest.mark.slow
def test_blocks_that_share_directions_are_searched_whole(processes: Processes) -> None:
    (alone,) = processes.run(1, fit_that_shares_directions)
    for size in (2, 3):
        assert all(same(together, alone) for together in processes.run(size, fit_that_shares_directions))


def fit_on_shortlists(rank: int) -> ShortlistedFit:
    return fit_shortlisted(cloud(900, 6).float(), count=3, tol=0.05)


@pytest.mark.slow
def test_a_fit_on_shortlists_is_that_of_one_process(processes: Processes) -> None:
    """To rounding: where a row stands among those of its group decides how its scores are rounded."""
    (alone,) = processes.run(1, fit_on_shortlists)
    first, second = processes.run(2, fit_on_shortlists)
    assert torch.equal(first.potential.heights, second.potential.heights)
    assert torch.equal(first.cell_mass, second.cell_mass)
    assert first.transport_cost_interval == second.transport_cost_interval
    assert torch.equal(first.potential.group, alone.potential.group)
    torch.testing.assert_close(first.potential.heights, alone.potential.heights, rtol=1e-4, atol=1e-4)
    assert first.samples_used == alone.samples_used
    assert first.transport_cost == pytest.approx(alone.transport_cost, rel=1e-5)


def smooth_fit(rank: int) -> Fit:
    return fit(cloud(60, 4), epsilon=0.3, **QUICK)


def test_a_smooth_fit_is_that_of_one_process_to_rounding(processes: Processes) -> None:
    """Float32 probabilities are added up in float64; one process adds blocks of other sizes, in float32."""
    (alone,) = processes.run(1, smooth_fit)
    for together in processes.run(2, smooth_fit):
        assert together.samples_used == alone.samples_used
        torch.testing.assert_close(together.potential.heights, alone.potential.heights, rtol=0, atol=1e-6)
        torch.testing.assert_close(together.cell_mass, alone.cell_mass, rtol=1e-6, atol=1e-9)
        assert together.transport_cost == pytest.approx(alone.transport_cost, rel=1e-6)


def failed_exact_fit(rank: int) -> Fit:
    from proxflow.semidiscrete import exact, fitting

    fitting.solve_exactly = lambda *_: exact.Attempt(None)  # type: ignore[attr-defined]
    return fit(cloud(50, 2), **QUICK)


def test_where_the_exact_method_gives_up_all_go_over_to_noise(processes: Processes) -> None:
    (alone,) = processes.run(1, failed_exact_fit)
    assert alone.method == "averaged gradient"
    assert all(same(together, alone) for together in processes.run(2, failed_exact_fit))


# ------------------------------------------------------------------ what goes wrong in one process


def other_calls(rank: int, checkpoint: Path) -> list[str]:
    said = []
    options: dict[str, Any]
    for options in ({"seed": rank}, {"tol": 0.1 + rank}, {"weights": torch.arange(1.0, 41.0) ** rank}):
        try:
            fit(cloud(40, 4), **options)
        except ValueError as error:
            said.append(str(error))
    try:
        fit(cloud(40, 4), checkpoint=checkpoint)
    except ValueError as error:
        said.append(str(error))
    return said


def test_other_arguments_and_a_bad_checkpoint_are_refused_by_all(processes: Processes, tmp_path: Path) -> None:
    pf.save(pf.potentials.Ball(2), tmp_path / "ball.safetensors")
    for said in processes.run(2, other_calls, tmp_path / "ball.safetensors"):
        assert len(said) == 4
        assert all(line.startswith("fit: process 1 of 2 was called with other data or arguments") for line in said[:3])
        assert "is not a checkpoint of a fit" in said[3]
        assert not any("\n" in line for line in said)


class Broken(PlainNormal):
    """Normal noise, until something goes wrong."""

    def sample(self, n: int, **options: Any) -> torch.Tensor:
        if self.calls == 12:
            raise ZeroDivisionError("in a source")
        return super().sample(n, **options)


def failing_fit(rank: int) -> tuple[str, Fit]:
    source = Broken(6) if rank == 1 else PlainNormal(6)
    try:
        fit(cloud(100, 6), source=source, **QUICK)
    except (ConnectionError, ZeroDivisionError) as error:
        first = str(error)
    again = fit(cloud(100, 2))  # the group still serves
    return first, again


def test_an_error_in_one_process_is_an_error_in_all_and_the_next_fit_works(processes: Processes) -> None:
    (first, one), (second, two) = processes.run(2, failing_fit)
    assert first.startswith("fit: another process of this run failed; start all of them again")
    assert second == "in a source"
    assert same(one, two)


# ------------------------------------------------------------------ Ctrl-C, and processes that are killed


def signalled_fit(rank: int, checkpoint: Path | None, rank_hit: int = -1, call: int = 0, number: int = 0) -> Fit:
    source = Signalled(6, call, number) if rank == rank_hit else PlainNormal(6)
    return fit(cloud(120, 6), source=source, **QUICK, checkpoint=checkpoint)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    (found,) = Processes(tmp_path_factory.mktemp("whole")).run(1, signalled_fit, None)
    return found


@pytest.mark.parametrize(("rank", "call"), [(1, 12), (0, 24)])
def test_ctrl_c_in_one_process_stops_all_at_one_step(
    rank: int, call: int, processes: Processes, tmp_path: Path, whole: Fit
) -> None:
    path = tmp_path / "run.safetensors"
    parts = processes.run(2, signalled_fit, path, rank, call, signal.SIGINT)
    assert same(*parts)
    assert 0 < parts[0].samples_used < whole.samples_used
    assert pf.load(path).state.iterate.samples_used == parts[0].samples_used
    assert all(same(going_on, whole) for going_on in processes.run(1 + rank, signalled_fit, path))


@pytest.mark.parametrize(("rank", "call"), [(1, 12), (0, 24)])
def test_a_killed_process_is_an_error_in_the_others_and_the_fit_resumes(
    rank: int, call: int, processes: Processes, tmp_path: Path, whole: Fit
) -> None:
    path = tmp_path / "run.safetensors"
    results = processes.run(2, signalled_fit, path, rank, call, signal.SIGKILL)
    assert results[rank] is None
    assert isinstance(results[1 - rank], ConnectionError)
    assert str(results[1 - rank]).startswith("fit: another process of this run stopped; start all of them again")
    assert 0 < pf.load(path).state.iterate.samples_used < whole.samples_used
    assert all(same(going_on, whole) for going_on in processes.run(1 + rank, signalled_fit, path))


@pytest.mark.slow
def test_killed_at_random_moments_the_others_stop_within_seconds(
    processes: Processes, tmp_path: Path, whole: Fit
) -> None:
    moments = random.Random(5)
    for count in range(6):
        path, victim = tmp_path / f"{count}.safetensors", count % 2
        members = processes.start(2, signalled_fit, path)
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.3))
        members[victim].kill()
        began = time.monotonic()
        results = processes.finish(members)
        assert time.monotonic() - began < 10
        assert isinstance(results[1 - victim], ConnectionError | Fit)  # a Fit where it was over
        assert all(same(going_on, whole) for going_on in processes.run(1 + victim, signalled_fit, path))


def test_processes_that_are_started_again_agree_on_a_new_name() -> None:
    """The store of torchrun keeps what killed processes wrote; a process of the new start may come late."""
    store = HashStore()
    store.set_timeout(datetime.timedelta(seconds=10))
    names: list[str] = []
    for _ in range(3):
        with ThreadPoolExecutor(3) as pool:
            first = pool.submit(_name_of_start, store, 0, 3)
            time.sleep(0.05)  # it finds and answers what those of the last start wrote
            others = [pool.submit(_name_of_start, store, rank, 3) for rank in (2, 1)]
            found = {task.result(timeout=20) for task in (first, *others)}
        assert len(found) == 1
        names += found
    assert len(set(names)) == 3


def test_alone_nothing_is_exchanged_or_copied() -> None:
    rows = torch.ones(5, 2)
    assert ALONE.share(rows) is rows
    assert ALONE.summed(rows)[0] is rows
    assert ALONE.all_rows(rows, 5) is rows
    assert ALONE.from_first(lambda: rows) is rows
