"""Interrupting and resuming: the same heights, bit by bit."""

from __future__ import annotations

import dataclasses
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import proxflow as pf
from proxflow.errors import ConvergenceWarning
from proxflow.semidiscrete import Fit, descent, fit
from proxflow.semidiscrete.session import Checkpoint
from proxflow.semidiscrete.shared_directions import Sharing
from proxflow.semidiscrete.stochastic_fit import StochasticState, on_device
from proxflow.storage import load, save
from tests.marks import slow_beyond
from tests.semidiscrete.sources import Interrupted, PlainNormal

INTERRUPTIONS = {"noise": 8}  # of the quick one; 20 of the others


def cloud(count: int, dim: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fit_that_shares_directions(points: torch.Tensor, **options: Any) -> Fit:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(descent, "best_sharing", lambda *_: Sharing(24, 8))
        return fit(points, max_memory=1 << 10, **options)  # without room for antithetic noise


PROBLEMS: dict[str, Callable[..., Fit]] = {
    "noise": lambda **options: fit(cloud(100, 5), tol=6e-3, **options),
    "smooth": lambda **options: fit(cloud(40, 4), epsilon=0.3, tol=3e-3, **options),
    "noise that shares directions": lambda **options: fit_that_shares_directions(cloud(100, 40), tol=0.03, **options),
    "Newton": lambda **options: fit(cloud(150, 3), **options),
}


def interrupted_after(seconds: float, run: Callable[[], object]) -> None:
    """Ctrl-C after some time; a run that is over before is let be."""
    timer = threading.Timer(seconds, signal.raise_signal, [signal.SIGINT])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            timer.start()
            run()
    except KeyboardInterrupt:
        pass
    finally:
        try:
            timer.cancel()
            timer.join()
        except KeyboardInterrupt:
            timer.join()


def same(first: Fit, second: Fit) -> bool:
    """Bit by bit, but for the cost: a mean over many draws, whose last digit depends on where memory was free."""
    heights = torch.equal(first.potential.heights, second.potential.heights)
    masses = torch.equal(first.cell_mass, second.cell_mass)
    numbers = (first.chi2, first.samples_used) == (second.chi2, second.samples_used)
    return heights and masses and numbers and first.transport_cost == pytest.approx(second.transport_cost, rel=1e-12)


def test_a_fit_that_began_on_another_kind_of_device_goes_on_with_noise_of_its_own(tmp_path: Path) -> None:
    """A GPU's generators have a state of 16 bytes, the CPU's one of thousands."""
    path, points = tmp_path / "checkpoint", cloud(100, 5)
    with pytest.warns(ConvergenceWarning):
        fit(points, tol=0.02, max_samples=3000, checkpoint=path)
    kept = load(path)
    assert isinstance(kept, Checkpoint)
    assert isinstance(kept.state, StochasticState)
    elsewhere = torch.arange(16, dtype=torch.uint8)
    iterate = dataclasses.replace(kept.state.iterate, noise=elsewhere)
    save(dataclasses.replace(kept, state=dataclasses.replace(kept.state, iterate=iterate, fresh=elsewhere)), path)
    rest = fit(points, tol=0.02, checkpoint=path)
    assert rest.converged
    assert rest.history[0] == kept.state.history[0]
    again = fit(points, tol=0.02)
    assert rest.samples_used == pytest.approx(again.samples_used, rel=0.3)


# Python drops an interrupt that lands in a finaliser, and says so; the run then continues to its end.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", slow_beyond(1, PROBLEMS))
def test_a_run_interrupted_at_random_moments_ends_as_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    began = time.perf_counter()
    whole = PROBLEMS[name]()
    duration = time.perf_counter() - began
    moments = random.Random(7)
    for count in range(INTERRUPTIONS.get(name, 20)):
        path = tmp_path / f"{count}.safetensors"
        interrupted_after(moments.uniform(0, 1.2 * duration), partial(PROBLEMS[name], checkpoint=path))
        assert same(PROBLEMS[name](checkpoint=path), whole)


@pytest.mark.parametrize("call", slow_beyond(1, [40, 5, 100]))
def test_ctrl_c_keeps_the_state_on_disk_and_the_next_call_goes_on(call: int, tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    points = cloud(300, 6)
    whole = fit(points, source=PlainNormal(6))
    with pytest.warns(ConvergenceWarning):
        part = fit(points, source=Interrupted(6, call), checkpoint=path)
    assert not part.converged
    state = pf.load(path).state
    assert state.iterate.samples_used == part.samples_used
    going_on = PlainNormal(6)
    assert same(fit(points, source=going_on, checkpoint=path), whole)
    from_scratch = PlainNormal(6)
    fit(points, source=from_scratch, checkpoint=tmp_path / "other.safetensors")
    assert going_on.calls < from_scratch.calls


@pytest.mark.slow
def test_a_killed_process_can_be_gone_on_from(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    script = (
        "import sys, torch, proxflow as pf\n"
        "points = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)\n"
        f"pf.semidiscrete.fit(points, checkpoint={str(path)!r})\n"
    )
    watcher = "from proxflow.semidiscrete import session\nsession._SAVE_EVERY = 0.0\n"
    process = subprocess.Popen([sys.executable, "-c", watcher + script])
    try:
        for _ in range(600):
            if path.exists():
                break
            time.sleep(0.1)
        time.sleep(0.3)
    finally:
        process.kill()
        process.wait()
    assert path.exists()
    points = torch.randn(2000, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert same(fit(points, checkpoint=path), fit(points))


def test_a_checkpoint_goes_to_the_device_of_the_points_but_for_its_generators(tmp_path: Path) -> None:
    """The meta device stands for a GPU: a file is read onto the CPU."""
    path = tmp_path / "run.safetensors"
    fit(cloud(30, 4), tol=0.5, checkpoint=path)
    state = pf.load(path).state
    assert isinstance(state, StochasticState)
    moved = on_device(state, torch.device("meta"))
    assert {moved.iterate.noise.device.type, moved.fresh.device.type} == {"cpu"}
    assert {part.heights.device.type for part in (moved.iterate, moved.iterate.averages, *moved.snapshots)} == {"meta"}
    assert moved.judgement is not None
    assert {moved.judgement.tally.total.device.type, moved.judgement.costs.mean.device.type} == {"meta"}
    assert moved.light.device.type == "meta"
    assert (moved.history, moved.iterate.units) == (state.history, state.iterate.units)


def test_a_finished_checkpoint_gives_the_result_again_without_a_draw_for_the_heights(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    first = PROBLEMS["noise"](checkpoint=path)
    before = pf.load(path).state.iterate.moved
    assert same(PROBLEMS["noise"](checkpoint=path), first)
    assert pf.load(path).state.iterate.moved == before


def test_a_larger_cap_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    points = cloud(300, 6)
    with pytest.warns(ConvergenceWarning):
        part = fit(points, max_samples=5_000, checkpoint=path)
    rest = fit(points, checkpoint=path)
    assert rest.converged
    before = len(part.history) - 1  # the last evaluation of what was returned is by other draws
    assert rest.history[:before] == part.history[:before]
    assert rest.history[before].samples_used == part.history[before].samples_used


@pytest.mark.parametrize(
    "other",
    [
        {"seed": 1},
        {"epsilon": 0.1},
        {"weights": torch.arange(1.0, 41.0)},
        {"source": PlainNormal(4)},
        {"warm_start": torch.zeros(40)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_checkpoint_of_another_fit_is_refused(other: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    points = cloud(40, 4)
    if "source" in other:
        fit(points, checkpoint=path, source=pf.measures.Uniform(4, -1.0, 1.0))
    else:
        fit(points, checkpoint=path)
    with pytest.raises(ValueError, match="belongs to a fit of other"):
        fit(points, checkpoint=path, **other)


def test_a_checkpoint_by_steps_of_other_groups_is_refused(tmp_path: Path) -> None:
    """One of an earlier version: the number of levels is what would not fit."""
    path = tmp_path / "run.safetensors"
    fit(cloud(40, 4), checkpoint=path)
    kept = load(path)
    assert isinstance(kept, Checkpoint)
    assert isinstance(kept.state, StochasticState)
    iterate = dataclasses.replace(kept.state.iterate, units=kept.state.iterate.units[1:])
    save(dataclasses.replace(kept, state=dataclasses.replace(kept.state, iterate=iterate)), path)
    with pytest.raises(ValueError, match="another version of proxflow"):
        fit(cloud(40, 4), checkpoint=path)


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "potential.safetensors"
    pf.save(pf.potentials.Ball(2), path)
    with pytest.raises(ValueError, match="is not a checkpoint"):
        fit(cloud(10, 4), checkpoint=path)
    with pytest.raises(ValueError, match="folder of the checkpoint"):
        fit(cloud(10, 4), checkpoint=tmp_path / "missing" / "run.safetensors")


def test_a_folder_is_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"fit: the checkpoint .* is a folder; give a file in it"):
        fit(cloud(40, 4), tol=0.5, checkpoint=tmp_path)
