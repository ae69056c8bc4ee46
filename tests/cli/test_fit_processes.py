"""``proxflow fit`` and ``train`` in several processes: one folder, printed once, and a restart goes on."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import proxflow as pf
from proxflow import cli, report
from tests.processes import Processes

ROOT = Path(__file__).parents[2]
POINTS = np.random.default_rng(0).normal(size=(80, 5))
OPTIONS = ["--tol", "0.2", "--max-samples", "12000"]


def command(rank: int, size: int, port: int, *arguments: str) -> tuple[str, str, object]:
    """A command of one of the processes that torchrun started: what it prints, and its status."""
    if size > 1:
        os.environ |= {"TORCHELASTIC_RUN_ID": "a run", "RANK": str(rank), "WORLD_SIZE": str(size)}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    report.render_page = lambda *_, **options: options["command"]  # the page itself takes seconds
    report.render_training_page = lambda *_, **options: "page"
    status: object = 0
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            cli.main(list(arguments))
        except SystemExit as stopped:
            status = stopped.code
    return out.getvalue(), err.getvalue(), status


def together(processes: Processes, size: int, *arguments: str) -> list[tuple[str, str, object]]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return processes.run(size, command, size, port, *arguments, group=False)


def record(folder: Path) -> dict[str, object]:
    found = json.loads((folder / "run.json").read_text())
    assert found["result"].pop("seconds") > 0
    return found


def test_two_processes_write_one_folder_and_print_once(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", POINTS)
    processes = Processes(tmp_path)
    fit = ["fit", str(tmp_path / "data.npy"), *OPTIONS, "--out"]
    ((printed, _, _),) = together(processes, 1, *fit, str(tmp_path / "one"))
    first, second = together(processes, 2, *fit, str(tmp_path / "two"))
    assert first[0].count("report: ") == 1
    assert len(first[0].splitlines()) == len(printed.splitlines())
    assert second == ("", "", 0)
    assert sorted(os.listdir(tmp_path / "two")) == sorted(os.listdir(tmp_path / "one"))
    assert record(tmp_path / "two") == record(tmp_path / "one")
    heights = [pf.load(tmp_path / name / "fit.safetensors").potential.heights for name in ("one", "two")]
    assert torch.equal(*heights)
    refused = together(processes, 2, *fit, str(tmp_path / "two"))
    assert [status for *_, status in refused] == [2, 2]
    assert "already holds a run" in refused[0][1]
    assert refused[1][:2] == ("", "")


@pytest.mark.slow
def test_two_processes_train_one_network_and_print_once(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", POINTS)
    processes = Processes(tmp_path)
    small = ["--steps", "8", "--batch-size", "16", "--network", "mlp", "--width", "8", "--directions", "4"]
    train = ["train", str(tmp_path / "data.npy"), *small, "--out"]
    ((printed, _, _),) = together(processes, 1, *train, str(tmp_path / "one"))
    first, second = together(processes, 2, *train, str(tmp_path / "two"))
    assert first[1:] == ("", 0)
    assert first[0].count("report: ") == 1
    assert len(first[0].splitlines()) == len(printed.splitlines())
    assert second == ("", "", 0)
    kinds = [{Path(name).suffix for name in os.listdir(tmp_path / folder)} for folder in ("one", "two")]
    assert kinds[0] == kinds[1]
    fits = [load_file(tmp_path / name / "checkpoint.safetensors") for name in ("one", "two")]
    assert all(torch.equal(fits[0][key], fits[1][key]) for key in fits[0])
    networks = [load_file(tmp_path / name / "network.safetensors") for name in ("one", "two")]
    for key, weight in networks[0].items():
        torch.testing.assert_close(networks[1][key], weight, rtol=1e-4, atol=1e-5)
    again = together(processes, 2, *train, str(tmp_path / "two"), "--overwrite", "--seed", "1")
    assert [status for *_, status in again] == [0, 0]
    assert json.loads((tmp_path / "two" / "run.json").read_text())["arguments"]["seed"] == 1
    refused = together(processes, 2, *train, str(tmp_path / "two"))
    assert [status for *_, status in refused] == [2, 2]
    assert "already holds a run" in refused[0][1]
    assert refused[1][:2] == ("", "")


KILLER = """
import os, signal, sys
from proxflow.cli import main
from proxflow.semidiscrete import session
from proxflow.semidiscrete.descent import Descent
session._SAVE_EVERY, steps, step = 0.0, [], Descent.step
def descend(*arguments):
    steps.append(1)
    if (len(steps), os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"]) == (20, "1", "0"):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*arguments)
Descent.step = descend
main(sys.argv[1:])
print("steps", len(steps))
"""


@pytest.mark.slow
def test_torchrun_starts_killed_processes_again_and_they_go_on(tmp_path: Path) -> None:
    np.save(tmp_path / "data.npy", POINTS)
    (tmp_path / "killer.py").write_text(KILLER)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    fit = ["fit", str(tmp_path / "data.npy"), *OPTIONS, "--out"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    plain = subprocess.run(
        [*launcher, "-m", "proxflow", *fit, str(tmp_path / "whole")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert plain.returncode == 0, plain.stderr
    assert plain.stdout.count("report: ") == 1
    killed = subprocess.run(
        [*launcher, "--max-restarts=1", str(tmp_path / "killer.py"), *fit, str(tmp_path / "killed")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert killed.returncode == 0, killed.stderr
    assert f"Signal {signal.SIGKILL.value} (SIGKILL)" in killed.stderr or "-9" in killed.stderr
    steps = [int(line.split()[1]) for line in killed.stdout.splitlines() if line.startswith("steps")]
    whole = (12_000 - 9 * 512) // 256
    assert len(steps) == 2
    assert max(steps) < whole
    assert record(tmp_path / "killed") == record(tmp_path / "whole")
