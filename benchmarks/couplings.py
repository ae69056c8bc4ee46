"""Time to couple a batch of digits with noise, beside torchcfm's sample_plan; and what a label costs the couplings.

The first table has exact assignments of several sizes; the second has the couplings, on as many threads as torch takes
by itself and on one. The third trains the same class-conditional network on four couplings, on one thread: an optimal
coupling of all classes together gives each class its own part of the noise, which sampling then does not respect.

python benchmarks/couplings.py
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torchcfm.optimal_transport import OTPlanSampler

import proxflow as pf
from timing import medians

BATCH, GENERATED, SAMPLE_STEPS = 512, 1000, 20
SIZES = (64, 128, 256, 512, 1024, 1797)


def drawn(points: Tensor, size: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """A batch of noise, and one of data as a loader draws it."""
    index = torch.randperm(len(points), generator=generator)[:size]
    return torch.randn(len(index), points.shape[1], generator=generator), points[index]


def throughput(points: Tensor, repeats: int) -> None:
    """Milliseconds for a batch, and ratios to torchcfm."""
    generator = torch.Generator().manual_seed(0)
    plans = OTPlanSampler("exact")
    semidiscrete = pf.couplings.Semidiscrete(pf.semidiscrete.fit(points).potential, points)
    minibatch = pf.couplings.Minibatch(points, min(BATCH, len(points)))
    seconds = medians(
        {
            "torchcfm, sample_plan": lambda: plans.sample_plan(*drawn(points, BATCH, generator)),
            "proxflow, pair": lambda: pf.couplings.pair(*drawn(points, BATCH, generator)),
            "proxflow, Minibatch": lambda: minibatch.sample(BATCH, generator=generator),
            "proxflow, Semidiscrete": lambda: semidiscrete.sample(BATCH, generator=generator),
        },
        repeats,
    )
    threads = torch.get_num_threads()
    print(f"coupling {BATCH} digits with noise, N = {len(points)}, d = {points.shape[1]}, threads: {threads}")
    for name, value in seconds.items():
        print(f"  {name:24s} {1e3 * value:8.2f} ms  {seconds['torchcfm, sample_plan'] / value:6.1f} x")


def assignments(points: Tensor, sizes: tuple[int, ...], repeats: int) -> None:
    """Milliseconds of exact assignments of several sizes."""
    generator = torch.Generator().manual_seed(0)
    plans = OTPlanSampler("exact")
    print(f"exact assignment, threads: {torch.get_num_threads()}")
    print(f"  {'n':>5s} {'torchcfm':>10s} {'proxflow':>10s}")
    for size in sizes:
        seconds = medians(
            {
                "torchcfm": partial(lambda n: plans.sample_plan(*drawn(points, n, generator)), size),
                "proxflow": partial(lambda n: pf.couplings.pair(*drawn(points, n, generator)), size),
            },
            repeats,
        )
        torchcfm, ours = seconds["torchcfm"], seconds["proxflow"]
        print(f"  {size:5d} {1e3 * torchcfm:7.1f} ms {1e3 * ours:7.1f} ms {torchcfm / ours:6.1f} x")


def conditional(points: Tensor, labels: Tensor, train_steps: int, seeds: int) -> None:
    """Label accuracy and energy distance of class-conditional samples."""
    potential = pf.semidiscrete.fit(points).potential
    couplings: dict[str, pf.couplings.Coupling] = {
        "independent": pf.couplings.Independent(points, labels),
        "semidiscrete, all classes": pf.couplings.Semidiscrete(potential, points, labels),
        "minibatch 256, all classes": pf.couplings.Minibatch(points, 256, labels),
        "conditional": pf.couplings.Conditional.fit(points, labels),
    }
    print(f"class-conditional digits, {train_steps} steps, {SAMPLE_STEPS} Euler steps, {seeds} seeds")
    for name, coupling in couplings.items():
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = pf.matching.MLP((points.shape[1],), classes=10)
            trained = pf.matching.train(network, coupling, steps=train_steps, seed=seed, progress=False)
            generator = torch.Generator().manual_seed(seed)
            wanted = labels[torch.randint(len(labels), (GENERATED,), generator=generator)]
            noise = torch.randn(GENERATED, points.shape[1], generator=generator)
            with torch.no_grad():
                field = pf.matching.field_of(trained.network, wanted)
                end = pf.sampling.integrate(field, noise, steps=SAMPLE_STEPS, method="euler").end
            accuracy = pf.metrics.label_accuracy(end, wanted, points, labels)
            distance = pf.metrics.energy_distance(end, points, unbiased=True)
            print(
                f"  {name:28s} label accuracy {accuracy.value:.3f} +- {accuracy.stderr:.3f} "
                f"(real digits {accuracy.classifier_accuracy:.3f}), energy distance {distance:.4f}",
                flush=True,
            )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--train-steps", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    np.random.seed(0)  # noqa: NPY002 - torchcfm draws with it
    digits = pf.data.load("digits")
    classes = cast(Tensor, digits.labels)
    rows = classes < 2 if options.quick else slice(None)
    points, labels = digits.points[rows].flatten(1), classes[rows]
    assignments(points, SIZES[:1] if options.quick else SIZES, 2 if options.quick else 11)
    for threads in (torch.get_num_threads(), 1):
        torch.set_num_threads(threads)
        throughput(points, 2 if options.quick else options.repeats)
    conditional(points, labels, 20 if options.quick else options.train_steps, options.seeds)


if __name__ == "__main__":
    main()
