"""The examples run, at tiny sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "examples"


@pytest.mark.slow
@pytest.mark.parametrize(
    "launch",
    [
        [sys.executable],
        pytest.param([sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"], marks=pytest.mark.slow),
    ],
    ids=["one process", "two processes"],
)
def test_accelerate_training(launch: list[str]) -> None:
    command = [*launch, str(FOLDER / "accelerate_training.py"), "--steps", "5", "--rows", "50"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300)
    assert done.stdout.count("Euler steps: energy distance") == 2  # of the first process alone
