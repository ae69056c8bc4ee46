"""Ctrl-C in every command and at every stage: it leaves nothing, or what --resume continues."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

import proxflow as pf
from proxflow import report, storage
from tests.cli.commands import call
from tests.marks import slow_beyond

TRAIN = ["train", "--steps", "8", "--width", "8", "--depth", "1", "--batch-size", "8"]
COMMANDS = {
    "fit": ["fit", "--max-samples", "3000", "--tol", "0.5"],
    "train": TRAIN,
    "train on a fit": [*TRAIN, "--coupling", "semidiscrete"],
    "batch-size": ["batch-size", "--max-batch", "2"],
    "terminal": ["terminal", "--count", "3"],
}
WORK = {
    "fit": (pf.semidiscrete, "fit"),
    "train": (pf.matching, "train"),
    "batch-size": (pf.analysis, "minibatch_convergence"),
    "terminal": (pf.analysis, "terminal_study"),
}
PAGES = {"fit": "page", "train": "training_page", "batch-size": "batch_size_page", "terminal": "terminal_page"}
STAGES: dict[str, tuple[str, ...]] = dict.fromkeys(COMMANDS, ("load", "work", "render", "write"))
STAGES |= {"fit": ("read", "work", "render", "write"), "train on a fit": ("fit", "work", "write")}


PLACES = sorted(  # loading and working first; pages and files are written by one function for all commands
    ((name, stage) for name in COMMANDS for stage in STAGES[name]),
    key=lambda place: place[1] in ("render", "write") and place[0] != "fit",
)


def interrupt(*_args: object, **_options: object) -> NoReturn:
    raise KeyboardInterrupt


def target(command: str, stage: str) -> tuple[object, str]:
    """What is interrupted when it is called."""
    return {
        "load": (pf.data, "load"),
        "read": (np, "load"),
        "fit": (pf.semidiscrete, "fit"),
        "work": WORK[command],
        "render": (report, f"render_{PAGES[command]}"),
        "write": (storage, "write_atomically"),
    }[stage]


@pytest.fixture(autouse=True)
def blank_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    for page in PAGES.values():
        monkeypatch.setattr(report, f"render_{page}", lambda *_args, **_options: "<!doctype html>")


@pytest.mark.parametrize(("name", "stage"), slow_beyond(6, PLACES))
def test_ctrl_c_leaves_nothing_or_what_resume_continues(
    name: str,
    stage: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    command, *options = COMMANDS[name]
    folder = tmp_path / "runs" / "mine"
    given = [command, data, *options, "--out", folder]
    with monkeypatch.context() as patched:
        patched.setattr(*target(command, stage), interrupt)
        assert call(*given) == 130
    error = capsys.readouterr().err
    assert error.splitlines()[-1] == "proxflow: interrupted"
    assert "Traceback" not in error
    kept = sorted(os.listdir(folder)) if folder.exists() else []
    assert "run.json" not in kept
    assert not folder.exists() or kept
    resumable = "checkpoint.safetensors" in kept or "training.safetensors" in kept
    assert resumable == ("--resume continues it" in error)
    assert resumable or not kept
    assert call(*given, *(["--resume"] if resumable else [])) == 0
    assert (folder / "run.json").is_file()
    lengthened = command == "train"  # by --resume and more --steps, for which it keeps its state
    assert lengthened or "checkpoint.safetensors" not in os.listdir(folder)
