"""The exact prox of the digits' potential beside a QP solver (off the trajectory) and bare GEMMs (on it).

python benchmarks/prox.py
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from typing import cast

import numpy as np
import piqp
import torch
from scipy import sparse
from torch import Tensor

import proxflow as pf
from timing import medians

PIQP_TOLERANCE = 1e-8


def digits_potential(count: int | None) -> pf.potentials.Discrete:
    """The fitted potential of the first ``count`` digits, or of all."""
    fit = pf.semidiscrete.fit(pf.data.load("digits", dtype=torch.float64).points[:count])
    return cast(pf.potentials.Discrete, fit.potential)


def between_trajectories(flow: pf.ProximalFlow, n: int, seed: int = 0) -> Tensor:
    """x_t at t = 1/2 of noise and data paired at random: off every trajectory of the exact flow."""
    generator = torch.Generator().manual_seed(seed)
    points = flow.potential.get_buffer("points")
    noise = torch.randn(n, flow.dim, generator=generator, dtype=points.dtype)
    return 0.5 * (noise + points[torch.randint(len(points), (n,), generator=generator)])


def weights_qp(potential: pf.potentials.Discrete, z: Tensor) -> Callable[[], np.ndarray]:
    """min <p, h> + |Y'p - z|^2 / 2 over the simplex: the dual QP in the N weights p, dense."""
    points, heights, count = potential.points.numpy(), potential.heights.numpy(), len(potential.points)
    solver = piqp.DenseSolver()
    configure(solver)
    linear = heights - points @ z.numpy()
    ones, bounds = np.ones((1, count)), (np.zeros(count), np.full(count, np.inf))
    solver.setup(points @ points.T, linear, ones, np.ones(1), None, None, None, *bounds)
    return lambda: points.T @ solved(solver)


def lifted_qp(potential: pf.potentials.Discrete, z: Tensor) -> Callable[[], np.ndarray]:
    """The same problem with y = Y'p as a variable, which is sparse: a formulation that suits the solver better."""
    points, heights = potential.points.numpy(), potential.heights.numpy()
    count, d = points.shape
    solver = piqp.SparseSolver()
    configure(solver)
    quadratic = sparse.block_diag([sparse.csc_matrix((count, count)), sparse.eye(d)]).tocsc()
    linear = np.concatenate([heights, -z.numpy()])
    link = sparse.hstack([sparse.csc_matrix(points.T), -sparse.eye(d)])
    total = sparse.hstack([sparse.csc_matrix(np.ones((1, count))), sparse.csc_matrix((1, d))])
    equal = np.concatenate([np.zeros(d), [1.0]])
    lower = np.concatenate([np.zeros(count), np.full(d, -np.inf)])
    matrix = sparse.csc_matrix(sparse.vstack([link, total]))
    solver.setup(quadratic, linear, matrix, equal, None, None, None, lower, np.full(count + d, np.inf))
    return lambda: solved(solver)[count:]


def configure(solver: piqp.DenseSolver | piqp.SparseSolver) -> None:
    """The tolerance of the comparison."""
    solver.settings.eps_abs = solver.settings.eps_rel = PIQP_TOLERANCE
    solver.settings.verbose = False


def solved(solver: piqp.DenseSolver | piqp.SparseSolver) -> np.ndarray:
    """Solve again from scratch."""
    status = solver.solve()
    if status != piqp.PIQP_SOLVED:
        raise RuntimeError(f"PIQP: {status}")
    return np.asarray(solver.result.x)


def off_trajectory(flow: pf.ProximalFlow, batch: int, queries: int) -> None:
    """Time per query of the batched prox and of PIQP on some of the same queries; agreement of the points."""
    potential = cast(pf.potentials.Discrete, flow.potential)
    z = 2 * between_trajectories(flow, batch)
    ours = medians({"proxflow": lambda: potential.prox(z, 1.0)}, 7)["proxflow"] / batch
    pair = potential.prox(z, 1.0)
    gap = float((pair.gap / (1 + potential.conjugate(pair.multiplier).abs())).max())
    print(f"off the trajectory, t = 0.5, batch {batch}, N = {len(potential.points)}, d = {flow.dim}, float64")
    print(f"  proxflow                   {1e3 * ours:9.3f} ms per query, relative gap at most {gap:.1e}, ", end="")
    print(f"{float(pair.iterations.double().mean()):.1f} steps on average, {int(pair.iterations.max())} at most")
    for name, build in (("PIQP, QP in the weights", weights_qp), ("PIQP, lifted and sparse", lifted_qp)):
        solvers = [build(potential, row) for row in z[:queries]]
        distance = max(float(np.abs(s() - y.numpy()).max()) for s, y in zip(solvers, pair.point, strict=False))
        seconds = medians({str(i): solver for i, solver in enumerate(solvers)}, 1)
        theirs = float(np.median(list(seconds.values())))
        print(f"  {name:25s}  {1e3 * theirs:9.3f} ms per query: {theirs / ours:.0f} x; points agree to {distance:.0e}")


def on_trajectory(flow: pf.ProximalFlow, batch: int, repeats: int) -> None:
    """Time of recover_target on exact trajectories against two bare matrix products of the same size."""
    points = flow.potential.get_buffer("points")
    noise = torch.randn(batch, flow.dim, generator=torch.Generator().manual_seed(1), dtype=points.dtype)
    x = flow.interpolate(0.5, noise)
    scores = points.new_empty(batch, len(points))

    def two_products() -> None:
        torch.mm(x, points.T, out=scores)
        torch.mm(x, points.T, out=scores)

    seconds = medians({"products": two_products, "recover": lambda: flow.recover_target(0.5, x)}, repeats)
    ratio = seconds["recover"] / seconds["products"]
    print(f"on a trajectory, batch {batch}, float32")
    print(f"  two bare GEMMs x @ Y.T     {1e3 * seconds['products']:9.3f} ms")
    print(f"  recover_target             {1e3 * seconds['recover']:9.3f} ms: {ratio:.2f} x")


def main(arguments: list[str] | None = None) -> None:
    """Run both comparisons."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    quick = parser.parse_args(arguments).quick
    potential = digits_potential(100 if quick else None)
    off_trajectory(pf.ProximalFlow(potential), 16 if quick else 512, 1 if quick else 6)
    on_trajectory(pf.ProximalFlow(copy.deepcopy(potential).float()), 64 if quick else 4096, 1 if quick else 21)


if __name__ == "__main__":
    main()
