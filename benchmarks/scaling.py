"""Time of a noise vector in a fit against the number of atoms and of dimensions, beside a model with three constants.

Noise that judges a fit, or moves its heights where it is independent, is d numbers a vector, and is searched among N
atoms: a product of d multiplications and one comparison for each. The model is

    seconds a vector = c d + N (a + b d),

with c timed on its own, and a and b for each kind of search: one that screens in bfloat16 (on processors with AMX, from
8,192 atoms on, in 16 dimensions or more) and one by float32 products. They fit all times measured best, in relative
error, and each time is printed beside the model's, with the slope of its logarithm from the size before. From them
follows what larger fits would take, at 1.2 N / chi2 vectors: hours on the threads of this process; hours of a GPU that
multiplies at a rate that is assumed; and, where processes share the rows, what each exchanges: 16 bytes a vector, over
a network whose rate is assumed. The last table is arithmetic, not a measurement.

python benchmarks/scaling.py
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls

import proxflow as pf
from proxflow.kernels.screened_search import can_screen
from proxflow.semidiscrete.problem import SemiDual

ATOMS = (1_000, 3_000, 10_000, 30_000, 100_000, 300_000)
DIMENSIONS = (2, 4, 8, 16, 32, 64, 128, 256, 784)
FIXED_DIMENSION, FIXED_ATOMS = 64, 60_000
LARGER = (
    (60_000, 784), (1_000_000, 16), (1_000_000, 64), (1_300_000, 3072), (2_560_000, 3072), (1_000_000_000, 512),
)  # fmt: skip
CHI2, EFFICIENCY = 0.05, 1.2
GPU_RATE = 4e14  # operations a second, as searches of 100,000 x 3,072 rows reached on an H100
NETWORK_RATE = 1.25e9  # bytes a second: 10 Gbit/s
EXCHANGED = 16  # bytes a vector, by each process
_VECTORS = 4096


@dataclass(frozen=True)
class Timing:
    """Seconds a noise vector for N atoms in d dimensions, and whether the search screens."""

    atoms: int
    dim: int
    screens: bool
    seconds: float


def timed(atoms: int, dim: int, seconds: float) -> Timing:
    """The median of several steps' noise and counts."""
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(atoms, dim, generator=generator)
    weights = torch.full((atoms,), 1 / atoms, dtype=torch.float64)
    problem = SemiDual(points, weights, pf.measures.Gaussian(dim), 0.0, 1 << 28)
    heights = 0.5 * torch.cat([part.square().sum(1) for part in points.split(4096)]).double() / problem.radius
    times: list[float] = []
    vectors, began = min(_VECTORS, max(256, atoms // 8)), time.perf_counter()
    while len(times) < 4 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        problem.count(problem.noise(vectors, generator), heights)
        times.append(time.perf_counter() - start)
    screens = can_screen(points[:1].expand(vectors, -1), points)
    return Timing(atoms, dim, screens, statistics.median(times[1:]) / vectors)


def noise_alone(seconds: float) -> float:
    """Seconds for each number of a noise vector."""
    times: list[float] = []
    source, began = pf.measures.Gaussian(DIMENSIONS[-1]), time.perf_counter()
    while len(times) < 4 or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        source.sample(_VECTORS, generator=torch.Generator().manual_seed(0))
        times.append((time.perf_counter() - start) / (_VECTORS * DIMENSIONS[-1]))
    return statistics.median(times)


def constants(timings: list[Timing], c: float) -> tuple[float, float, float]:
    """(a, b, c) of the model, none negative, by least squares of relative errors."""
    terms = np.array([[each.atoms, each.atoms * each.dim] for each in timings], dtype=float)
    seconds = np.array([each.seconds for each in timings])
    searched = np.maximum(1 - c * np.array([each.dim for each in timings]) / seconds, 0)
    a, b = nnls(terms / seconds[:, None], searched)[0]
    return float(a), float(b), c


def modelled(atoms: int, dim: int, found: tuple[float, float, float]) -> float:
    """Seconds a vector."""
    a, b, c = found
    return atoms * (a + b * dim) + c * dim


def show(timings: list[Timing], found: dict[bool, tuple[float, float, float]], along: str) -> None:
    """One table: N or d grows."""
    print(f"  {'N':>9s}{'d':>6s}  {'search':10s}{'us a vector':>12s}{'model':>10s}{'ratio':>8s}{'slope':>8s}")
    before = None
    for each in timings:
        size = each.atoms if along == "N" else each.dim
        slope = "" if before is None else f"{math.log(each.seconds / before[1]) / math.log(size / before[0]):8.2f}"
        before = size, each.seconds
        model = modelled(each.atoms, each.dim, found[each.screens])
        kind = "screens" if each.screens else "products"
        print(
            f"  {each.atoms:9,}{each.dim:6d}  {kind:10s}{1e6 * each.seconds:12.1f}{1e6 * model:10.1f}"
            f"{each.seconds / model:8.2f}{slope}",
            flush=True,
        )


def show_larger(found: tuple[float, float, float]) -> None:
    """What fits to chi2 = .05 would take at the model's rate."""
    print(f"by the model, chi2 {CHI2:g}: {EFFICIENCY:g} N / chi2 vectors; not measured")
    print(f"  {'':45s}{'float32':>9s}{'hours on':>12s}{'GPU-hours at':>14s}{'exchanged':>12s}{'hours at':>10s}")
    print(
        f"  {'N':>13s}{'d':>6s}{'vectors':>15s}{'operations':>11s}{'rows, GB':>9s}{'these threads':>14s}"
        f"{f'{GPU_RATE / 1e12:g} TFLOP/s':>12s}{'GB':>12s}{f'{NETWORK_RATE * 8e-9:g} Gbit/s':>10s}"
    )
    for atoms, dim in LARGER:
        vectors = EFFICIENCY * atoms / CHI2
        operations, hours = 2 * vectors * atoms * dim, vectors * modelled(atoms, dim, found) / 3600
        print(
            f"  {atoms:13,}{dim:6d}{vectors:15,.0f}{operations:11.1e}{4e-9 * atoms * dim:9,.2f}{hours:14,.2f}"
            f"{operations / GPU_RATE / 3600:12,.3f}{1e-9 * EXCHANGED * vectors:12,.2f}"
            f"{EXCHANGED * vectors / NETWORK_RATE / 3600:10.4f}"
        )


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--quick", action="store_true", help="few sizes, to see that it runs")
    options = parser.parse_args()
    atoms, dims = (ATOMS[:3], DIMENSIONS[:3]) if options.quick else (ATOMS, DIMENSIONS)
    seconds = 0.05 if options.quick else options.seconds
    by_atoms = [timed(count, FIXED_DIMENSION, seconds) for count in atoms]
    by_dims = [timed(FIXED_ATOMS, dim, seconds) for dim in dims]
    timings = by_atoms + by_dims
    kinds = sorted({each.screens for each in timings})
    c = noise_alone(seconds)
    found = {kind: constants([each for each in timings if each.screens == kind], c) for kind in kinds}
    for kind, (a, b, _) in found.items():
        print(
            f"{'screening' if kind else 'products'}, {torch.get_num_threads()} threads: "
            f"a = {1e9 * a:.3f} ns, b = {1e9 * b:.4f} ns, c = {1e9 * c:.1f} ns"
        )
    show(by_atoms, found, "N")
    show(by_dims, found, "d")
    show_larger(found[kinds[-1]])


if __name__ == "__main__":
    main()
