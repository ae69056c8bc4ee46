"""What proxflow does on a GPU: the rates of the card, searches, a fit of images, steps on millions of rows, couplings.

Needs no network and no data: rows are drawn from a normal law with a spectrum like that of images. Writes
RESULTS-GPU.md in the current folder, or the file that --out names, in about --budget seconds: what does not fit in is
measured fewer times or left out, and the file says so. A time is the median of several calls after one that is not
counted, each until the device has done its work.

python benchmarks/gpu.py
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from gpu_fit import fit_of_images, steps_on_many
from gpu_measure import Deadline, Report, float32_products, machine
from gpu_search import card, searches
from gpu_sizes import FULL, QUICK, Bench


def couplings_and_velocities(bench: Bench, deadline: Deadline) -> None:
    """Imported here, so that all else is measured where what couplings import is missing."""
    from gpu_couplings import couplings_and_velocities as measure

    measure(bench, deadline)


SECTIONS: tuple[tuple[str, float, Callable[[Bench, Deadline], None]], ...] = (
    ("The card", 0.06, card),
    ("The search", 0.22, searches),
    ("A fit of images", 0.34, fit_of_images),
    ("Steps on millions of rows", 0.28, steps_on_many),
    ("Couplings and velocities", 0.10, couplings_and_velocities),
)
"""Titles, and shares of the budget: what one section leaves the next may use."""


def head(device: torch.device, quick: bool, budget: float) -> str:
    """The command, the machine, and whether a GPU was measured at all."""
    command = " ".join(["python benchmarks/gpu.py", *sys.argv[1:]])
    text = f"# What proxflow does on a GPU\n\n`{command}`\n\n{machine(device)}- budget: {budget:g} s\n"
    if device.type == "cpu":
        text += (
            "\n**No GPU was measured.** This run used the CPU, at sizes that only show that the command works: no "
            "figure below says anything of a GPU.\n"
        )
    elif quick:
        text += "\n**Tiny sizes** (`--quick`): the figures say that the command works, no more.\n"
    return text


def main() -> None:
    """Measure section by section."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("RESULTS-GPU.md"), help="the file to write")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1, ..., or cpu together with --quick")
    parser.add_argument("--budget", type=float, default=420.0, help="seconds for all of it")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("PyTorch sees no GPU here; --device cpu --quick shows that the command works")
    if device.type == "cpu" and not options.quick:
        parser.error("on a CPU these sizes take days; add --quick")
    began, share = time.perf_counter(), 0.0
    report = Report(options.out)
    report.add(head(device, options.quick, options.budget))
    bench = Bench(device, QUICK if options.quick else FULL, report)
    with float32_products("highest"):
        for number, (title, its_share, section) in enumerate(SECTIONS, 1):
            share += its_share
            deadline = Deadline(share * options.budget - (time.perf_counter() - began))
            report.add(f"\n## {number}. {title}\n")
            report.attempt(title, partial(section, bench, deadline))
    report.add(f"\nAll of it took {time.perf_counter() - began:.0f} s.\n")


if __name__ == "__main__":
    main()
