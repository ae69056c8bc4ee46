"""What noise for one given row costs a trainer: noise_for and a file of pairs, beside a training step.

Rows of Fashion-MNIST are coupled in 8 directions, and asked for one by one in a random order, as a loop at batch size
1 does. noise_for draws until noise falls into the row's cell and keeps the rest: most calls find theirs waiting, and a
few, most of them in the first epoch, pause for the draws of many. A file of pairs has them in advance. The step is
forward, backward and Adam of a perceptron of ten million parameters. Times are the processor's, on one thread.

python benchmarks/noise_of_rows.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

import proxflow as pf

DIRECTIONS, WIDTH, WARM_UP = 8, 1600, 3


def seconds_of(call: Callable[[int], object], numbers: list[int]) -> Tensor:
    """Seconds of each call, of the processor: other work on the machine does not count."""
    taken = []
    for number in numbers:
        began = time.process_time()
        call(number)
        taken.append(time.process_time() - began)
    return torch.tensor(taken, dtype=torch.float64)


def training_step(dim: int, width: int, batch: int) -> Callable[[int], None]:
    """One step of Adam, on a batch that is always the same."""
    network = pf.matching.MLP((dim,), width=width, depth=4)
    optimiser = torch.optim.Adam(network.parameters())
    x, t = torch.randn(batch, dim), torch.rand(batch)

    def step(_: int) -> None:
        optimiser.zero_grad()
        network(t, x).square().mean().backward()
        optimiser.step()

    print(f"network of {sum(p.numel() for p in network.parameters()) / 1e6:.1f} million parameters, batch {batch}")
    return step


def show(name: str, seconds: Tensor, step: float) -> None:
    """Median, 99th percentile, largest and mean, and the first two as shares of a step."""
    median, high, largest, mean = (
        float(1e3 * each) for each in (seconds.median(), seconds.quantile(0.99), seconds.max(), seconds.mean())
    )
    print(
        f"  {name:34s} median {median:8.3f} ms ({median / step / 1e3:6.2%})   99% {high:8.3f} ms "
        f"({high / step / 1e3:6.2%})   largest {largest:9.1f} ms   mean {mean:8.3f} ms",
        flush=True,
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tol", type=float, default=0.3, help="tolerance on chi2 of the fit")
    parser.add_argument("--calls", type=int, default=60_000, help="rows asked for, first")
    parser.add_argument("--quick", action="store_true", help="a few digits, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    points = pf.data.load("digits", n=300).points if options.quick else pf.data.load("fashion-mnist").points
    points = points.flatten(1)
    calls = 300 if options.quick else options.calls
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)
        coupling = pf.couplings.Subspace.fit(points, dim=DIRECTIONS, tol=options.tol, progress=False)
    print(f"{len(points):,} x {points.shape[1]}, {DIRECTIONS} directions, one thread")
    step = training_step(points.shape[1], 32 if options.quick else WIDTH, 1)
    taken = seconds_of(step, list(range(10 if options.quick else 100)))[WARM_UP:]
    one_step = float(taken.median())
    print(f"  training step                      median {1e3 * one_step:8.3f} ms")
    visits = torch.cat([torch.randperm(len(points)) for _ in range(2)])[: 2 * calls].tolist()
    for name, rows in (("noise_for, first calls", visits[:calls]), ("noise_for, as many again", visits[calls:])):
        show(name, seconds_of(lambda row: coupling.noise_for([row]), rows), one_step)
    print(f"  {coupling.noise_law}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs"
        began = time.perf_counter()
        record = pf.couplings.PairFile.write(coupling, path, pairs=len(points), progress=False)
        taken_to_write = time.perf_counter() - began
        pairs = pf.couplings.PairFile(path, points)
        order = torch.randperm(len(pairs))[: min(calls, 20_000)].tolist()
        show("file of pairs, one pair", seconds_of(pairs.__getitem__, order), one_step)
        size = path.stat().st_size / len(pairs)
        print(f"  written in {taken_to_write:.1f} s, {size:.1f} bytes a pair, chi2 {record.chi2:.3f}")


if __name__ == "__main__":
    main()
