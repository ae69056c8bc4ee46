"""The four tasks in the plane of Tong et al. (arXiv 2302.00482, Table 2): torchcfm's couplings beside proxflow's.

Protocol: perceptron of 3 x 64 with SELU, AdamW (1e-3, weight decay 1e-5), batch 512, sigma 0.1, 10,000 / 1,000 / 1,000
points to train, validate and test, the network of least validation loss, 100 Euler steps. W2 is exact, from generated
to test points. The normalised path energy is |E - W2^2| / W2^2, E the energy of the Euler paths from the test source,
W2 between the test source and the test target. The validation loss is that of each row's own coupling. The last row
trains nothing: it carries the test source by the exact flow to the training points. Its energy is optimal, so that its
path energy is the error of W2 between 1,000 test points and as many: the protocol resolves nothing finer.

8 Gaussians: radius 5, covariance sqrt(0.1) I, as in torchcfm.utils. Two moons: noise 0.05, times 2, minus 1.
S-curve: noise 0.05, coordinates 1 and 3, times 1.5.

python benchmarks/two_dimensional.py --steps 20000   # as published; the default takes about an hour on one core
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

import numpy as np
import ot
import sklearn.datasets
import torch
from torch import Tensor, nn
from torchcfm.conditional_flow_matching import (
    ConditionalFlowMatcher,
    ExactOptimalTransportConditionalFlowMatcher,
)

import proxflow as pf

BATCH, SIGMA, EULER_STEPS, VALIDATE_EVERY = 512, 0.1, 100, 250
TRAIN, HELD_OUT = 10_000, 1_000
BANDWIDTH = 0.05  # blur of a source that is a data set, so that it has a density
TASKS = {"N -> 8gaussians": ("normal", "8gaussians"), "moons -> 8gaussians": ("moons", "8gaussians"),
         "N -> moons": ("normal", "moons"), "N -> scurve": ("normal", "scurve")}  # fmt: skip
ROWS = (
    "I-CFM, torchcfm",
    "OT-CFM, torchcfm",
    "minibatch, proxflow",
    "semidiscrete, proxflow",
    "exact flow, untrained",
)
Sampler = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def draw(name: str, n: int, seed: int) -> Tensor:
    """n points of a law."""
    generator = np.random.default_rng(seed)
    if name == "normal":
        points = generator.normal(size=(n, 2))
    elif name == "8gaussians":
        angle = generator.integers(8, size=n) * math.pi / 4
        points = 5 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.1**0.25 * generator.normal(size=(n, 2))
    elif name == "moons":
        points = 2 * sklearn.datasets.make_moons(n, noise=0.05, random_state=seed)[0] - 1
    else:
        points = 1.5 * sklearn.datasets.make_s_curve(n, noise=0.05, random_state=seed)[0][:, [0, 2]]
    return torch.from_numpy(points).float()


@dataclass(frozen=True)
class Split:
    """Source and target points to train, to validate and to test."""

    train: tuple[Tensor, Tensor]
    validate: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]


def split_of(task: str, seed: int, train: int) -> Split:
    """Fresh points of both laws."""
    sizes = (train, HELD_OUT, HELD_OUT)
    source, target = (draw(name, sum(sizes), 10 * seed + i) for i, name in enumerate(TASKS[task]))
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    return Split(*zip(source[order].split(sizes), target[order].split(sizes), strict=True))


def perceptron() -> nn.Sequential:
    """Velocity of (x, t) as one row of three numbers."""
    layers: list[nn.Module] = [nn.Linear(3, 64), nn.SELU()]
    for _ in range(2):
        layers += [nn.Linear(64, 64), nn.SELU()]
    return nn.Sequential(*layers, nn.Linear(64, 2))


def velocity(network: nn.Module, t: Tensor, x: Tensor) -> Tensor:
    """The network's velocity at times (n,) or one time."""
    found: Tensor = network(torch.cat([x, t.expand(len(x))[:, None]], dim=1))
    return found


Batches = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


def batches(row: str, split: Split, seed: int) -> Batches:
    """From rows of source and target to (t, x_t, u_t) by a row's coupling."""
    plain: Batches = ConditionalFlowMatcher(sigma=SIGMA).sample_location_and_conditional_flow
    if row == "I-CFM, torchcfm":
        return plain
    if row == "OT-CFM, torchcfm":
        optimal: Batches = ExactOptimalTransportConditionalFlowMatcher(sigma=SIGMA).sample_location_and_conditional_flow
        return optimal
    if row == "minibatch, proxflow":

        def minibatch(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            pairs = pf.couplings.pair(x0, x1)
            return plain(pairs.source, pairs.target)

        return minibatch
    coupling = pf.couplings.Semidiscrete(fitted(split, seed), split.train[1])
    generator = torch.Generator().manual_seed(seed)

    def semidiscrete(x0: Tensor, x1: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pairs = coupling.sample(len(x0), generator=generator)
        return plain(pairs.source, pairs.target)

    return semidiscrete


def fitted(split: Split, seed: int) -> pf.potentials.Discrete:
    """The potential between the source and the training points of the target."""
    source, target = split.train
    normal = bool((source.mean(0).abs() < 0.1).all() and (source.var(0) - 1).abs().max() < 0.1)
    law = None if normal else pf.measures.Empirical(source, bandwidth=BANDWIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)
        fit = pf.semidiscrete.fit(target, source=law, seed=seed, max_samples=2_000_000)
    print(f"    {fit.method}: chi2 {fit.chi2:.2g} in {fit.seconds:.1f} s", flush=True)
    return cast(pf.potentials.Discrete, fit.potential)


def trained(row: str, split: Split, seed: int, steps: int) -> nn.Module:
    """The network of least validation loss."""
    sample = batches(row, split, seed)
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - torchcfm draws its plans with it
    network = perceptron()
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3, weight_decay=1e-5)
    best, least = copy.deepcopy(network), math.inf

    def loss_on(source: Tensor, target: Tensor) -> Tensor:
        t, x, u = sample(source, target)
        return (velocity(network, t, x) - u).square().mean()

    for step in range(1, steps + 1):
        rows = [torch.randint(len(part), (BATCH,)) for part in split.train]
        loss = loss_on(split.train[0][rows[0]], split.train[1][rows[1]])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if step % VALIDATE_EVERY == 0 or step == steps:
            with torch.no_grad():
                validation = float(loss_on(*split.validate))
            if validation < least:
                best, least = copy.deepcopy(network), validation
    return best


def result(row: str, split: Split, seed: int, steps: int) -> tuple[float, float]:
    """W2 to the test points, and normalised path energy."""
    source, target = split.test
    if row == "exact flow, untrained":
        end = pf.ProximalFlow(fitted(split, seed)).transport(source)
        energy = float((end - source).square().sum(1).mean())
    else:
        end, energy = generated(trained(row, split, seed, steps), source)
    return _w2_squared(end, target) ** 0.5, abs(energy / _w2_squared(source, target) - 1)


@torch.no_grad()
def generated(network: nn.Module, source: Tensor) -> tuple[Tensor, float]:
    """Where a network takes the source points, and the energy of their paths."""
    path = pf.sampling.integrate(lambda t, x: velocity(network, t, x), source, steps=EULER_STEPS, method="euler")
    return path.end, float((path.points.diff(dim=0).square().sum(2).mean(1) * EULER_STEPS).sum())


def _w2_squared(x: Tensor, y: Tensor) -> float:
    cost = torch.cdist(x.double(), y.double()).square()
    return float(ot.emd2([], [], cost.numpy(), numItermax=10_000_000))


def main() -> None:
    """Print W2 and path energy of every row and task, mean and standard deviation over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--train", type=int, default=TRAIN, help="training points")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--rows", nargs="*", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    if options.quick:
        options.steps, options.seeds, options.train, options.tasks = 2, 1, 50, list(TASKS)[1:3]
    torch.set_num_threads(1)
    print(f"{options.steps} steps, {options.seeds} seeds from 42; mean +- standard deviation over seeds")
    for task in options.tasks:
        print(task)
        for row in options.rows:
            began, results = time.perf_counter(), []
            for seed in range(42, 42 + options.seeds):
                split = split_of(task, seed, options.train)
                results.append(result(row, split, seed, options.steps))
            w2, energy = zip(*results, strict=True)
            seconds = (time.perf_counter() - began) / options.seeds
            print(f"  {row:24s} W2 {_spread(w2)}   NPE {_spread(energy)}   {seconds:6.1f} s a run", flush=True)


def _spread(values: tuple[float, ...]) -> str:
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return f"{statistics.mean(values):7.4f} +- {deviation:6.4f}"


if __name__ == "__main__":
    main()
