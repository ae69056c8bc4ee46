"""The benchmarks run, at tiny sizes, and print what they promise."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent.parent / "benchmarks"


def printed_by(name: str) -> str:
    command = [sys.executable, str(FOLDER / name), "--quick"]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout


def test_prox() -> None:
    output = printed_by("prox.py")
    assert "ms per query" in output
    assert "points agree to" in output
    assert "two bare GEMMs" in output


def test_semidiscrete() -> None:
    output = printed_by("semidiscrete.py")
    assert "chi2 M/N" in output
    assert "proxflow, certificate included" in output
    assert "OTT" in output
