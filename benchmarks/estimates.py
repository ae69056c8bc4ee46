"""What ``estimate`` says of a fit beside what the fit takes: seconds, draws and memory, on real and made-up data.

Each in a process of its own, since memory is the largest that a process ever took, and several times, with other
seeds: chance decides how many draws a fit takes, and two seconds of a machine with other work vary by as much as an
estimate is to be right to. Medians, and the range of ratios.

python benchmarks/estimates.py
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from statistics import median
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


def compared(name: str, seed: int, quick: bool) -> dict[str, float]:
    """What was told and what it took."""
    load, options = CASES[name]
    points = load()[:400] if quick else load()
    expected = pf.semidiscrete.estimate(points, seed=seed, **options)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)
        fit = pf.semidiscrete.fit(points, seed=seed, **options)
    return {
        "seconds": time.perf_counter() - began,
        "told seconds": expected.seconds,
        "draws": fit.samples_used,
        "told draws": expected.samples,
        "memory": peak_memory() or math.nan,
        "told memory": expected.memory or math.nan,
    }


def line(name: str, runs: list[dict[str, float]]) -> str:
    """Of the table: medians over the runs of one case."""
    middle = {key: median(run[key] for run in runs) for key in runs[0]}
    ratios = sorted(run["told seconds"] / run["seconds"] for run in runs)
    told, took = middle["told seconds"], middle["seconds"]
    text = f"{name:22s}{told:10.1f}{took:8.1f}{told / took:7.2f}  {ratios[0]:5.2f} to {ratios[-1]:4.2f}"
    text += f"{middle['told draws']:13,.0f}{middle['draws']:12,.0f}"
    return text + f"{middle['told memory'] / 1e9:9.2f}{middle['memory'] / 1e9:7.2f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=list(CASES), help="this one alone, once, as JSON")
    parser.add_argument("--seed", type=int, default=0, help="of the one case")
    parser.add_argument("--repeats", type=int, default=3, help="of each case, with seeds from 0 on")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, once, to see that it runs")
    options = parser.parse_args()
    if options.case is not None:
        print(json.dumps(compared(options.case, options.seed, options.quick)))
        return
    cases = [name for name in CASES if "Fashion" not in name or INSTALLED.is_dir()]
    quick = ["--quick"] if options.quick else []
    print(f"{'':22s}{'seconds':>18s}{'told / took':>22s}{'draws':>25s}{'GB':>16s}")
    print(f"{'':22s}{'told':>10s}{'took':>8s}{'':22s}{'told':>13s}{'took':>12s}{'told':>9s}{'took':>7s}", flush=True)
    for name in cases:
        runs = []
        for seed in range(1 if options.quick else options.repeats):
            command = [sys.executable, __file__, "--case", name, "--seed", str(seed), *quick]
            runs.append(json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout))
        print(line(name, runs), flush=True)


if __name__ == "__main__":
    main()
