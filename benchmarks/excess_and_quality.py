"""Does the excess of a coupling predict the few-step quality of a network trained on it?

Digits, the same perceptron, steps and seeds for batches of 1 (independent pairs), 16, 128 and 1,024, for the population
coupling and for optimal pairs in 4, 8 and 16 principal directions. Beside each the excess E|x0 - x1|^2 - W2^2 of its
pairs, by Fenchel-Young gaps. Energy distance (unbiased) to 360 held-out digits. The lines at the end are the rank
correlation over couplings in all directions, and over all: 1 if a larger excess always means a larger distance.

python benchmarks/excess_and_quality.py
"""

from __future__ import annotations

import argparse
import statistics

import torch
from scipy.stats import spearmanr
from torch import Tensor

import proxflow as pf
from digits_few_steps import NETWORKS, STEPS, sampled, split

BATCHES = (1, 16, 128, 1024)
DIRECTIONS = (4, 8, 16)
PAIRS = 20_000  # of the excess of pairs in a few directions
TRAINED_ON = 1437


def quality(coupling: pf.couplings.Coupling, held_out: Tensor, seed: int, train_steps: int, n: int) -> list[float]:
    """Energy distance to held-out digits at each number of steps."""
    ends = sampled(coupling, NETWORKS["mlp"], seed, train_steps, n)
    return [pf.metrics.energy_distance(end, held_out, unbiased=True) for end in ends]


def excess_of(coupling: pf.couplings.Subspace, fit: pf.semidiscrete.Fit, pairs: int) -> float:
    """E|x0 - x1|^2 - W2^2 = 2 E[phi(x0) + psi(x1) - <x0, x1>] of pairs of rows, psi(x1) being the height of the row."""
    drawn = coupling.sample(pairs, generator=torch.Generator().manual_seed(0))
    x0, x1 = drawn.source.double(), drawn.target.double()
    atom = pf.couplings.Semidiscrete(fit.potential, coupling.rows.flat).atom_of_row[drawn.index]
    gap = fit.potential.conjugate(drawn.source).double() + fit.potential.heights[atom] - (x0 * x1).sum(1)
    return 2 * float(gap.mean())


def main() -> None:
    """Print excess and distances, and how well one orders the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-steps", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    rows, generated = TRAINED_ON, 2000
    batches: tuple[int, ...] = BATCHES
    directions: tuple[int, ...] = DIRECTIONS
    pairs = PAIRS
    if options.quick:
        options.train_steps, rows, generated, pairs = 2, 100, 50, 200
        batches, directions = BATCHES[:2], DIRECTIONS[:1]
    points, held_out = split(0, rows)
    fit = pf.semidiscrete.fit(points, progress=False)
    study = pf.analysis.minibatch_convergence(fit, batches, progress=False)
    excess = [*(2 * study.gap).tolist(), 0.0]
    couplings: dict[str, pf.couplings.Coupling] = {}
    for n in batches:
        couplings[f"batches of {n}"] = pf.couplings.Minibatch(points, n) if n > 1 else pf.couplings.Independent(points)
    couplings["semidiscrete"] = pf.couplings.Semidiscrete(fit.potential, points)
    for k in directions:
        subspace = pf.couplings.Subspace.fit(points, k, progress=False)
        couplings[f"{k} directions"] = subspace
        excess.append(excess_of(subspace, fit, pairs))
    print(f"{options.train_steps} training steps, {options.seeds} seeds, W2^2 = {study.transport_cost:.2f}")
    print(f"{'Euler steps':20s}{'excess':>9s}" + "".join(f"{k:>10d}" for k in STEPS))
    table = []
    for (name, coupling), value in zip(couplings.items(), excess, strict=True):
        runs = [quality(coupling, held_out, s, options.train_steps, generated) for s in range(options.seeds)]
        table.append([statistics.mean(column) for column in zip(*runs, strict=True)])
        print(f"{name:20s}{value:9.3f}" + "".join(f"{cell:10.4f}" for cell in table[-1]), flush=True)
    for name, count in (("all directions", len(batches) + 1), ("all couplings", len(table))):
        ranks = [spearmanr(excess[:count], [row[k] for row in table[:count]]).statistic for k in range(len(STEPS))]
        print(f"{f'rank correlation, {name}':33s}" + "".join(f"{rank:10.2f}" for rank in ranks).removeprefix("    "))


if __name__ == "__main__":
    main()
