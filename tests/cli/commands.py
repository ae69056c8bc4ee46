"""Running commands in this process, and what they leave."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from proxflow import cli

POINTS = np.random.default_rng(0).normal(size=(24, 2)) * [30.0, 5.0] + [1000.0, -200.0]  # fitted exactly
SPACE = np.random.default_rng(1).normal(size=(24, 4))  # fitted by noise
RUN_FILES = ["fit.safetensors", "report.html", "rows.safetensors", "run.json", "standardisation.safetensors"]
UNFINISHED_FILES = ["checkpoint.safetensors", *RUN_FILES]
SAMPLE_FILES = ["samples.json", "samples.npy"]
QUICK = ["--max-samples", "3000", "--tol", "0.5"]


def call(*arguments: object) -> int:
    """Exit status of a command; fits are quick ones unless the command says otherwise."""
    given = [str(argument) for argument in arguments]
    if given[:1] == ["fit"] and len(given) > 1:
        given[2:2] = [part for i in (0, 2) if QUICK[i] not in given for part in QUICK[i : i + 2]]
    try:
        cli.main(given)
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def refusal(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one line on standard error of a refused command."""
    assert call(*arguments) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert output.err.startswith("proxflow: ")
    assert "Traceback" not in output.err
    return output.err


def digest(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}
