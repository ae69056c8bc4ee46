"""Several processes, and processes that are killed."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.matching import runs

ROOT = Path(__file__).parents[2]


def _start(folder: Path, *options: str, processes: int = 1) -> subprocess.Popen[bytes]:
    folder.mkdir(exist_ok=True)
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(ROOT / "tests/matching/runs.py"), str(folder), *options]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish(process: subprocess.Popen[bytes]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()


@pytest.mark.slow
def test_two_processes_see_step_by_step_the_pairs_of_one(tmp_path: Path) -> None:
    alone, together = _start(tmp_path / "one"), _start(tmp_path / "two", processes=2)
    _finish(alone)
    _finish(together)
    one = torch.load(tmp_path / "one" / "rank0.pt")
    two = [torch.load(tmp_path / "two" / f"rank{rank}.pt") for rank in range(2)]
    assert len(one["seen"]) == runs.STEPS
    for step, whole in enumerate(one["seen"]):
        parts = [part["seen"][step] for part in two]
        assert len(parts[0]) == len(parts[1]) == 16
        assert sorted(map(tuple, torch.cat(parts).tolist())) == sorted(map(tuple, whole.tolist()))
    for name, value in one["network"].items():
        assert torch.equal(two[0]["network"][name], two[1]["network"][name])
        torch.testing.assert_close(two[0]["network"][name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_ctrl_c_in_one_process_stops_all_and_resumed_they_draw_the_same_random_numbers(tmp_path: Path) -> None:
    for folder, options in (("whole", ()), ("parts", ("--interrupt",)), ("parts", ())):
        _finish(_start(tmp_path / folder, "--dropout", *options, processes=2))
        if options:
            stopped = [torch.load(tmp_path / folder / f"rank{rank}.pt") for rank in range(2)]
            assert [len(part["seen"]) for part in stopped] == [17, 17]  # told in step 16, known in step 17
    for rank in range(2):
        whole, resumed = (torch.load(tmp_path / folder / f"rank{rank}.pt") for folder in ("whole", "parts"))
        assert len(resumed["seen"]) == runs.STEPS - 17
        for name, value in whole["network"].items():
            assert torch.equal(resumed["network"][name], value)


@pytest.mark.slow
def test_what_fails_in_one_process_is_said_by_all(tmp_path: Path) -> None:
    """One that waits for another that has given up would wait for ever."""
    for option, said in (
        ("--nan", ["the loss of another process is not finite at step 12; ", "the loss is nan at step 12; "]),
        ("--unwritable", ["IsADirectoryError(21, ", "IsADirectoryError(21, "]),
    ):
        _finish(_start(tmp_path / option, option, processes=2))
        for rank, words in enumerate(said):
            assert words in torch.load(tmp_path / option / f"rank{rank}.pt")["error"]


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_parameters(tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    process = _start(folder, "--pause")
    deadline = time.monotonic() + 60
    while not (folder / "waiting").exists():
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.communicate()
    assert not (folder / "rank0.pt").exists()
    _finish(_start(folder))
    resumed = torch.load(folder / "rank0.pt")
    assert len(resumed["seen"]) == runs.STEPS - 20  # from the checkpoint of step 20
    for name, value in runs.small_run(runs.network()).network.state_dict().items():
        assert torch.equal(resumed["network"][name], value)
