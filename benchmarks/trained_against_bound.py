"""How far are trained minibatch networks from the exact field, beside what the convergence theorem allows?

Digits; the same perceptron, steps and seed for batches of 1 (independent pairs), 16 and 256 and for the population
coupling, no pair broken. v is the field of the exact flow, v(n) what pairs of batch size n teach a perfect network,
v(net) the trained one; mean squares over x_t of the coupling's own pairs, fresh ones. Columns:

  bound       on |v(n) - v|^2: W^2 E_n / (2 alpha beta), E_n the excess of the cost; 0 for the population coupling
  v(n) - v    measured: in closed form for n = 1, else from independent pairs through the same x_t, by exact rejection
  net - v     measured against the exact flow
  net - v(n)  the network's own regression error: measured for n = 1 and the population, else the loss of the network
              less that of the exact field, plus |v(n) - v|^2 (the variance of the target cancels)
  at most     what the theorem leaves for net - v: (bound^(1/2) + (net - v(n))^(1/2))^2

python benchmarks/trained_against_bound.py
"""

from __future__ import annotations

import argparse
import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

import proxflow as pf

BATCHES = (1, 16, 256)
TRAINING_BATCH = 256
TIMES = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Mean:
    """A mean and its standard error."""

    value: float
    stderr: float

    def __str__(self) -> str:
        return f"{self.value:9.3f} +- {self.stderr:5.3f}"


def mean_of(values: Tensor, unit: int) -> Mean:
    """Over pairs (M,), in independent runs of ``unit``."""
    runs = values.double().view(-1, unit).mean(1)
    return Mean(float(runs.mean()), float(runs.std()) / math.sqrt(len(runs)))


def trained(coupling: pf.couplings.Coupling, dim: int, steps: int, seed: int) -> torch.nn.Module:
    """The network with averaged parameters."""
    torch.manual_seed(seed)
    network = pf.matching.MLP((dim,), width=512, depth=3)
    return pf.matching.train(
        network, coupling, steps=steps, batch_size=TRAINING_BATCH, seed=seed, progress=False
    ).network


def squares(field: Tensor, other: Tensor) -> Tensor:
    """Squared distances of velocities (M, d), (M,)."""
    return (field - other).square().sum(1)


def of_couplings(study: pf.analysis.MinibatchConvergence, t: float, queries: int, assignments: int) -> list[Mean]:
    """|v(n) - v|^2 for each batch size, from fewer points where each takes long."""
    small = study.field_error(t, assignments=assignments)
    large = study.field_error(t, largest=int(study.batch_sizes[-1]), queries=queries, assignments=assignments)
    known = torch.isfinite(small.value)
    value = torch.where(known, small.value, large.value).tolist()
    stderr = torch.where(known, small.stderr, large.stderr).tolist()
    return [Mean(*pair) for pair in zip(value, stderr, strict=True)]


def rows(
    name: str,
    n: int | None,
    network: torch.nn.Module,
    pairs: pf.couplings.Pairs,
    flow: pf.ProximalFlow,
    bounds: Tensor,
    of_coupling: list[Mean],
) -> list[str]:
    """The lines of one coupling, one for each time."""
    unit = n if n is not None and n > 1 else 1
    lines = []
    for t, bound, ideal in zip(TIMES, bounds.tolist(), of_coupling, strict=True):
        x, target = (1 - t) * pairs.source + t * pairs.target, pairs.target - pairs.source
        exact = flow.velocity(t, x)
        with torch.no_grad():
            net = network(t, x)
        whole = mean_of(squares(net, exact), unit)
        if n is None:
            own = whole
        elif n == 1:
            potential = flow.potential
            independent = pf.IndependentField(potential.get_buffer("points"), potential.get_buffer("weights"))
            own = mean_of(squares(net, independent(t, x)), 1)
        else:
            above = mean_of(squares(net, target) - squares(exact, target), unit)
            own = Mean(above.value + ideal.value, math.hypot(above.stderr, ideal.stderr))
        most = (math.sqrt(bound) + math.sqrt(max(own.value, 0.0))) ** 2
        lines.append(f"{name:16s}{t:6.2f}{bound:10.3f}  {ideal}  {whole}  {own}{most:10.3f}")
    return lines


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train-steps", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=1 << 13, help="fresh pairs that errors are averaged over")
    parser.add_argument("--queries", type=int, default=64, help="points x_t at which v(n) is drawn for the largest n")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    batches, count, assignments = BATCHES, None, 1 << 14
    if options.quick:
        options.train_steps, options.pairs, options.queries, batches, count = 2, 64, 16, (1, 4, 8), 100
        assignments = 1 << 8
    began = time.perf_counter()
    points = pf.data.load("digits", n=count).points.flatten(1)
    fit = pf.semidiscrete.fit(points, seed=options.seed, progress=False)
    flow = pf.ProximalFlow(fit.potential)
    study = pf.analysis.minibatch_convergence(fit, batches, seed=options.seed, progress=False)
    fields = [of_couplings(study, t, options.queries, assignments) for t in TIMES]
    print(
        f"digits, {len(points):,} x {points.shape[1]}; {options.train_steps:,} steps of {TRAINING_BATCH} pairs; "
        f"W2^2 = {study.transport_cost:.2f}, fit chi2 {fit.chi2:.2g}; torch {torch.__version__}, "
        f"{torch.get_num_threads()} threads; fit and study {time.perf_counter() - began:.0f} s"
    )
    print(
        f"{'coupling':16s}{'t':>6s}{'bound':>10s}{'v(n) - v':>20s}{'net - v':>20s}{'net - v(n)':>20s}{'at most':>10s}"
    )
    for k, n in enumerate([*batches, None]):
        began = time.perf_counter()
        coupling: pf.couplings.Coupling
        if n is None:
            name, coupling = "population", pf.couplings.Semidiscrete(fit.potential, points)
            bounds, ideal = torch.zeros(len(TIMES)), [Mean(0.0, 0.0)] * len(TIMES)
        else:
            name = f"batches of {n}"
            coupling = pf.couplings.Minibatch(points, n) if n > 1 else pf.couplings.Independent(points)
            bounds = torch.stack([study.bound(t)[k] for t in TIMES])
            ideal = [field[k] for field in fields]
        network = trained(coupling, points.shape[1], options.train_steps, options.seed)
        pairs = coupling.sample(options.pairs, generator=torch.Generator().manual_seed(1000 + options.seed))
        print("\n".join(rows(name, n, network, pairs, flow, bounds, ideal)), flush=True)
        print(f"{'':16s}{time.perf_counter() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
