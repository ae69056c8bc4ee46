"""What ``estimate`` says of a fit beside what the fit takes: seconds, draws and memory, on real and made-up data.

Each in a process of its own, since memory is the largest that a process ever took.

python benchmarks/estimates.py
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import proxflow as pf
from proxflow.data.fashion_mnist import INSTALLED
from proxflow.semidiscrete.fit_estimate import peak_memory


def normal(n: int, d: int) -> Tensor:
    """Rows of a normal law whose deviations fall from 1 to 1/10."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(0)) * torch.logspace(0, -1, d)


CASES: dict[str, tuple[Callable[[], Tensor], dict[str, Any]]] = {
    "digits": (lambda: pf.data.load("digits").points, {}),
    "digits, smooth": (lambda: pf.data.load("digits").points, {"epsilon": 0.3, "tol": 0.05}),
    "20,000 x 16": (lambda: normal(20_000, 16), {"tol": 0.05}),
    "100,000 x 4": (lambda: normal(100_000, 4), {"tol": 0.1}),
    "moons, 10,000": (lambda: pf.data.load("moons", n=10_000).points, {}),
    "swissroll, 4,000": (lambda: pf.data.load("swissroll", n=4000).points, {}),
    "Fashion-MNIST, 5,000": (lambda: pf.data.load("fashion-mnist", n=5000).points, {"tol": 0.05}),
}


def compared(name: str, quick: bool) -> str:
    """A line of the table."""
    load, options = CASES[name]
    points = load()[:400] if quick else load()
    expected = pf.semidiscrete.estimate(points, **options)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)
        fit = pf.semidiscrete.fit(points, **options)
    seconds, memory = time.perf_counter() - began, peak_memory()
    gigabytes = "" if memory is None or expected.memory is None else f"{expected.memory / 1e9:9.2f}{memory / 1e9:7.2f}"
    ratio = expected.seconds / seconds
    draws = f"{expected.samples:13,}{fit.samples_used:12,}"
    return f"{name:22s}{expected.seconds:10.1f}{seconds:8.1f}{ratio:7.2f}{draws}{gigabytes}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), help="this one alone")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    if options.case is not None:
        print(compared(options.case, options.quick), flush=True)
        return
    print(f"{'':22s}{'seconds':>18s}{'':7s}{'draws':>25s}{'GB':>16s}")
    print(
        f"{'':22s}{'told':>10s}{'took':>8s}{'ratio':>7s}{'told':>13s}{'took':>12s}{'told':>9s}{'took':>7s}", flush=True
    )
    for name in CASES:
        if "Fashion" in name and not INSTALLED.is_dir():
            continue
        command = [sys.executable, __file__, "--case", name, *(["--quick"] if options.quick else [])]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="", flush=True)


if __name__ == "__main__":
    main()
