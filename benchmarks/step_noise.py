"""Fits of Fashion-MNIST in all 784 dimensions with antithetic noise, shared directions and independent noise.

The first table is of a step alone: what a noise vector costs, and what part of that the bare matrix product with all
rows would be. Each fit of the second runs in a process of its own, whose peak memory is told, the images among it. The
last one searches by float32 products alone, where the others screen in bfloat16 on processors that have AMX. chi2 is
told by independent draws in all cases; chi2 M / N compares a fit that used M draws with the limit of independent
ones, which is 1.

python benchmarks/step_noise.py
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import multiprocessing
import resource
import time
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import proxflow as pf
from proxflow.kernels import search
from proxflow.semidiscrete import descent
from proxflow.semidiscrete.descent import Descent, Iterate
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.shared_directions import Sharing, best_sharing
from proxflow.semidiscrete.start import Start
from timing import medians

KINDS = ("antithetic", "shared directions", "independent", "independent, float32 alone")
Choice = Callable[[SemiDual, int], tuple[int | None, Sharing | None]]
CHOICES: dict[str, Choice] = {
    "shared directions": lambda problem, batch: (None, best_sharing(problem.weights, problem.source.dim, batch)),
    "independent": lambda problem, batch: (None, None),
}
"""What a descent does in place of its own choice."""


def loaded(count: int) -> Tensor:
    """The first images, or digits where fewer than 2,000 are asked for."""
    if count < 2_000:
        return pf.data.load("digits", n=count).points.flatten(1)
    return pf.data.load("fashion-mnist").points.flatten(1)[:count]


def show_steps(points: Tensor, repeats: int) -> None:
    """Microseconds a noise vector of a step of either kind, and of the bare product."""
    weights = torch.full((len(points),), 1 / len(points), dtype=torch.float64)
    dim = points.shape[1]
    problem = SemiDual(points.double(), weights, pf.measures.Gaussian(dim), 0.0, 1 << 28)
    kinds = {"antithetic": Descent(problem)}
    for kind, choice in CHOICES.items():
        kinds[kind] = copy.copy(kinds["antithetic"])
        kinds[kind].parts, kinds[kind].sharing = choice(problem, kinds[kind].batch)
    generator = torch.Generator().manual_seed(0)
    start = Iterate.start(
        Start(torch.zeros_like(weights), (1e-3,) * (1 + len(kinds["independent"].groups)), 1.0, 0), generator
    )
    start = dataclasses.replace(start, moved=1 << 30)  # late steps, which most are
    product = torch.randn(256, dim) @ points.mT  # in memory already
    seconds = medians(
        {name: partial(kind.step, start, generator) for name, kind in kinds.items()}
        | {"bare product": lambda: torch.mm(torch.randn(256, dim), points.mT, out=product)},
        repeats,
    )
    draws = dict.fromkeys(kinds, kinds["independent"].batch) | {"bare product": 256}
    chosen = kinds["antithetic"]
    print(
        f"a step, N = {len(points):,}, d = {dim}, {torch.get_num_threads()} threads: {chosen.parts} parts, variance of "
        f"masses {chosen.inflation:.4f} times that of independent draws; {kinds['shared directions'].sharing}"
    )
    bare = seconds["bare product"] / draws["bare product"]
    for name, taken in seconds.items():
        a_draw = taken / draws[name]
        print(
            f"  {name:20s}{1e6 * a_draw:10.1f} us a draw{bare / a_draw:8.2f} x the rate of the bare product", flush=True
        )


def fitted(count: int, tol: float, noise: str) -> None:
    """One line of the second table."""
    if noise != KINDS[0]:
        chosen = CHOICES["shared directions" if noise == KINDS[1] else "independent"]
        descent._noise = chosen  # type: ignore[assignment]
    if noise == KINDS[3]:
        search.can_screen = lambda *_, **__: False  # type: ignore[attr-defined]
    points = loaded(count)
    began, busy = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)
        fit = pf.semidiscrete.fit(points, tol=tol, progress=False)
    wall, cpu = time.perf_counter() - began, time.process_time() - busy
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    low, high = fit.transport_cost_interval
    print(
        f"  {noise:27s}{wall:9.1f}{cpu:9.1f}{memory:8.2f}"
        f"{fit.samples_used:12,}{fit.evaluation_samples:10,}{fit.chi2:9.4f} +- {fit.chi2_stderr:.4f}"
        f"{fit.chi2 * fit.samples_used / count:7.2f}{fit.transport_cost:10.2f} ({low:.2f}, {high:.2f})",
        flush=True,
    )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=60_000, help="images")
    parser.add_argument("--tol", type=float, default=0.05, help="chi2 wanted, two standard errors included")
    parser.add_argument("--noise", nargs="+", choices=KINDS, default=KINDS, help="of the fits, these kinds alone")
    parser.add_argument("--quick", action="store_true", help="a few digits, to see that it runs")
    options = parser.parse_args()
    count, tol = (300, 0.5) if options.quick else (options.count, options.tol)
    show_steps(loaded(count), 1 if options.quick else 5)
    print(f"fits to chi2 + 2 standard errors <= {tol:g}")
    heads = f"{'seconds':>9s}{'CPU s':>9s}{'GiB':>8s}{'draws M':>12s}{'to judge':>10s}{'chi2':>9s}{'chi2 M / N':>17s}"
    print(f"  {'noise':27s}{heads}{'W2^2':>10s}")
    for noise in options.noise:
        process = multiprocessing.get_context("spawn").Process(target=fitted, args=(count, tol, noise))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()
