"""Section 5 of benchmarks/gpu.py: batches of pairs, and velocities on a GPU beside those on the CPU."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

import proxflow as pf
from gpu_measure import Deadline, timed
from gpu_sizes import Bench, ImageLaw
from proxflow.couplings.stream import batch_of

__all__ = ["couplings_and_velocities"]


def couplings_and_velocities(bench: Bench, deadline: Deadline) -> None:
    """Both, the one whether or not the other works."""
    bench.report.attempt("couplings", partial(_couplings, bench, deadline))
    bench.report.attempt("velocities", partial(_velocities, bench, deadline))


def _couplings(bench: Bench, deadline: Deadline) -> None:
    count, dim, k = bench.sizes.coupled
    law = ImageLaw(dim, bench.device)
    images, frame = law.draw(count, coupled=k), law.directions[:, :k].contiguous()
    features = images.points @ frame
    inner = pf.couplings.Semidiscrete(pf.potentials.Discrete(features, images.heights.float()), features)
    named: dict[str, pf.couplings.Coupling] = {
        f"Semidiscrete, d = {k}": inner,
        f"Subspace, {k} of {dim} directions": pf.couplings.Subspace(inner, images.points, frame),
    }
    generator = torch.Generator(bench.device).manual_seed(5)
    table = bench.report.table("coupling", "noise drawn", "pairs", "seconds", "repeats", "pairs/s")
    for name, coupling in named.items():
        for pairs in bench.sizes.batches:
            ways: dict[str, Callable[[], object]] = {
                f"on {bench.device}": partial(coupling.sample, pairs, generator=generator),
                "by number, on the CPU, as in training": partial(batch_of, coupling, 0, pairs, 0),
            }
            for where, call in ways.items():
                taken = bench.timed(call, deadline)
                table.add(name, where, pairs, taken.seconds, taken.repeats, pairs / taken.seconds)
    bench.report.add(f"\nN = {count:,} rows.\n")


@dataclass(frozen=True)
class Agreement:
    """Velocities on two devices: the largest difference, the largest share of the bounds, and how many failed."""

    largest: float
    of_bounds: float
    failed: int


def _velocities(bench: Bench, deadline: Deadline) -> None:
    count, dim, batch = bench.sizes.flow
    cpu = torch.device("cpu")
    images = ImageLaw(dim, cpu).draw(count)
    here = pf.ProximalFlow(pf.potentials.Discrete(images.points, images.heights.float()), on_failure="nan")
    there = copy.deepcopy(here).to(bench.device)
    noise = torch.randn(batch, dim, generator=torch.Generator().manual_seed(6))
    table = bench.report.table(
        "velocity at t = .5", "points", f"seconds on {bench.device}", "seconds on the CPU", "largest difference",
        "of the bounds", "equal to rounding", "failed",
    )  # fmt: skip
    for name, x in (("on trajectories", here.interpolate(0.5, noise)), ("off trajectories", 0.5 * noise)):
        moved = x.to(bench.device)
        found = _agreement(here, x, there, moved)
        fast = bench.timed(partial(there.velocity, 0.5, moved), deadline).seconds
        slow = timed(partial(here.velocity, 0.5, x), cpu, 1, deadline).seconds
        equal = "yes" if found.of_bounds <= 1 else "**no**"
        share = f"{100 * found.of_bounds:.2g}%"
        table.add(name, batch, fast, slow, found.largest, share, equal, found.failed)
    bench.report.add(
        f"\nN = {count:,} rows of {dim:,} numbers in float32. A velocity comes with a bound of its error: two are "
        "equal to rounding where they differ by no more than both bounds together. Off trajectories the prox takes "
        "several steps of the active-set method.\n"
    )


def _agreement(here: pf.ProximalFlow, x: Tensor, there: pf.ProximalFlow, moved: Tensor) -> Agreement:
    difference = torch.linalg.vector_norm(here.velocity(0.5, x) - there.velocity(0.5, moved).cpu(), dim=1)
    share = difference / (_bound(here, x) + _bound(there, moved))
    solved = torch.isfinite(difference)
    return Agreement(float(difference[solved].max()), float(share[solved].max()), int((~solved).sum()))


def _bound(flow: pf.ProximalFlow, x: Tensor) -> Tensor:
    bound = flow.solve(0.5, x).velocity_error_bound
    if bound is None:
        raise RuntimeError("no error bound")
    return bound.cpu()
