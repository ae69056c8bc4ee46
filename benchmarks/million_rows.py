"""A million rows in few directions, which is what pairs that are optimal in a subspace need.

python benchmarks/million_rows.py fits       to chi2 + 2 standard errors <= .05; each an hour or more
python benchmarks/million_rows.py fits --shortlist 16    the same for nearly optimal pairs, in minutes
python benchmarks/million_rows.py batches    256 pairs, beside other ways to search, and OTT and POT
python benchmarks/million_rows.py steps      of a fit of rows in 64 dimensions that stay in their file
python benchmarks/million_rows.py images     pairs in 16 directions of images in bytes, that stay in their file
python benchmarks/million_rows.py processes  a short fit by one process and by two
python benchmarks/million_rows.py classes    pairs of many classes, each coupled by itself in 16 directions of 64

Rows are 50 clusters, or images of Fashion-MNIST with noise added in their principal directions. Fits and steps run in
processes of their own, whose peak memory is told. A batch is timed at the heights that a fit starts from, in turn with
a plain search in blocks, which writes its scores and keeps the best; OTT, compiled, and POT take turns after that, with
the same heights. Pairs by shortlists come in blocks of 64 batches, of which one in 64 is told. What pairs save at least
is a share of what optimal ones save over independent ones.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor

import proxflow as pf
from gpu_measure import synchronise
from proxflow.semidiscrete.descent import Descent, Iterate
from proxflow.semidiscrete.fitting import posed, task_of
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.shortlist_fit import listed, with_shortlist
from proxflow.semidiscrete.start import Start, marginal_form
from search import heights_of, mixture, noisy_images
from timing import medians

BATCH = 256
BATCHES = 64  # of a stream, drawn together
LISTED = 16  # groups on a shortlist
BLOCK = 4096  # rows whose scores are written together
STEPS, STEP_DIMENSION = 20, 64
CLASS_SIZES, CLASS_DIMENSION, CLASS_DIRECTIONS = ((10, 6_000), (100, 1_300), (1_000, 1_300)), 64, 16
SHORT_FIT: dict[str, Any] = {"max_samples": 300_000, "tol": 1.0, "progress": False}


def rows_of(law: str, count: int, dim: int) -> Tensor:
    """(count, dim), of either law."""
    return mixture(count, dim) if law == "mixture" else noisy_images(count, dim)


def where(device: torch.device) -> str:
    """What a heading says of the machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.get_num_threads()} threads"


def in_own_process(task: Callable[..., None], *arguments: object) -> None:
    """Runs a task in a new process."""
    process = multiprocessing.get_context("spawn").Process(target=task, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(process.exitcode)


def peak_gibibytes(device: torch.device | None = None) -> float:
    """That this process took at most so far, on a GPU or of memory, files that it has mapped among them."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


# ---------------------------------------------------------------- fits


def show_fits(
    count: int, laws: list[str], dims: list[int], tol: float, device: torch.device, shortlist: int | None
) -> None:
    """A line for each law and dimension."""
    way = "" if shortlist is None else f", shortlists of {shortlist} groups"
    print(f"fits of {count:,} rows to chi2 + 2 standard errors <= {tol:g}{way}, {where(device)}")
    heads = f"{'seconds':>9s}{'CPU s':>9s}{'GiB':>7s}{'draws M':>13s}{'to judge':>11s}{'chi2':>9s}{'chi2 M / N':>19s}"
    print(f"  {'':32s}{heads}{'W2^2':>10s}", flush=True)
    for law in laws:
        for dim in dims:
            in_own_process(fitted, law, count, dim, tol, device, shortlist)


def fitted(law: str, count: int, dim: int, tol: float, device: torch.device, shortlist: int | None) -> None:
    """The line of one fit; on a GPU, after a small one that compiles what it takes."""
    points = rows_of(law, count, dim).to(device)
    if device.type == "cuda":
        pf.semidiscrete.fit(points[:20_000], tol=1.0, progress=False)
    began, busy = time.perf_counter(), time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)
        fit: pf.semidiscrete.Fit | pf.semidiscrete.ShortlistedFit
        if shortlist is None:
            fit = pf.semidiscrete.fit(points, tol=tol, progress=False)
        else:
            fit = pf.semidiscrete.fit_shortlisted(points, count=shortlist, tol=tol, progress=False)
    wall, cpu = time.perf_counter() - began, time.process_time() - busy
    low, high = fit.transport_cost_interval
    print(
        f"  {law + f', d = {dim}':32s}{wall:9.1f}{cpu:9.1f}{peak_gibibytes(device):7.2f}"
        f"{fit.samples_used:13,}{fit.evaluation_samples:11,}{fit.chi2:9.4f} +- {fit.chi2_stderr:.4f}"
        f"{fit.chi2 * fit.samples_used / count:9.2f}{fit.transport_cost:10.3f} ({low:.3f}, {high:.3f})"
        + (f", saves at least {fit.optimality:.2%}" if isinstance(fit, pf.semidiscrete.ShortlistedFit) else ""),
        flush=True,
    )


# ---------------------------------------------------------------- batches


def show_batches(count: int, laws: list[str], dims: list[int], repeats: int, device: torch.device) -> None:
    """Milliseconds for a batch of each way, on each law and dimension."""
    print(f"{BATCH} pairs of {count:,} rows, {where(device)}; ms, and times those of proxflow")
    for law in laws:
        for dim in dims:
            points = rows_of(law, count, dim)
            heights = heights_of(points)
            placed = points.to(device), heights.to(device)
            own_ways: dict[str, Callable[[], object]] = {
                "proxflow, Semidiscrete.sample": own_batches(*placed),
                "search in blocks": partial(blocked, *placed),
            }
            seconds = medians(own_ways, repeats)  # before JAX, whose threads wait on all cores
            listed = medians({"": listed_batches(points, heights, device)}, repeats)[""] / BATCHES
            seconds[f"proxflow, {LISTED} groups, of a stream"] = listed
            peers = {"OTT, SemidiscreteOutput.sample": ott_batches(points, heights)}
            if device.type == "cpu":  # POT's map is one of numpy
                peers["POT, semidiscrete_ot_map"] = pot_batches(points, heights)
            seconds |= medians(peers, repeats)
            own = seconds["proxflow, Semidiscrete.sample"]
            print(f"  {law}, d = {dim}")
            for way, taken in seconds.items():
                print(f"    {way:32s}{1e3 * taken:10.1f}{taken / own:8.1f} x", flush=True)


def own_batches(points: Tensor, heights: Tensor) -> Callable[[], object]:
    """A batch of a coupling, with noise of its own."""
    coupling = pf.couplings.Semidiscrete(pf.potentials.Discrete(points, heights), points)
    generator = torch.Generator(points.device).manual_seed(0)

    def batch() -> None:
        coupling.sample(BATCH, generator=generator)
        synchronise(points.device)

    return batch


def listed_batches(points: Tensor, heights: Tensor, device: torch.device) -> Callable[[], object]:
    """The next batches of a coupling by shortlists."""
    task = listed(task_of(points, None, None, 0.0, None, 0.05, None, 0, 1 << 28), LISTED)
    shortlist = with_shortlist(task, Session(time.perf_counter(), False, None, None)).shortlist
    assert shortlist is not None  # noqa: S101 - it has one now
    potential = pf.potentials.Shortlisted(points, heights, shortlist).to(device)
    coupling, numbers = pf.couplings.Semidiscrete(potential, points.to(device)), itertools.count()

    def batches() -> None:
        for _ in range(BATCHES):
            coupling.batch(next(numbers), BATCH, 0)
        synchronise(device)

    return batches


def blocked(points: Tensor, heights: Tensor) -> Tensor:
    """The rows that a batch of noise goes to, by scores of one block after another."""
    noise = torch.randn(BATCH, points.shape[1], device=points.device)
    score, best = noise.new_full((BATCH,), -torch.inf), noise.new_zeros(BATCH, dtype=torch.int64)
    for first in range(0, len(points), BLOCK):
        rows = slice(first, first + BLOCK)
        found = torch.addmm(-heights[rows], noise, points[rows].mT).max(1)
        better = found.values > score
        score, best = torch.where(better, found.values, score), torch.where(better, first + found.indices, best)
    chosen = points[best]
    synchronise(points.device)
    return chosen


def ott_batches(points: Tensor, heights: Tensor) -> Callable[[], object]:
    """A batch of OTT's, with noise of its own, compiled."""
    import jax
    import jax.numpy as jnp
    from ott.geometry.semidiscrete_pointcloud import SemidiscretePointCloud
    from ott.problems.linear.semidiscrete_linear_problem import SemidiscreteLinearProblem
    from ott.solvers.linear.semidiscrete import SemidiscreteOutput

    def batch(key: jax.Array, rows: jax.Array, potential: jax.Array) -> tuple[jax.Array, jax.Array]:
        cloud = SemidiscretePointCloud(lambda key, shape, dtype: jax.random.normal(key, shape, dtype), rows, epsilon=0)
        found: Any = SemidiscreteOutput(potential, SemidiscreteLinearProblem(cloud)).sample(key, BATCH)
        return found.geom.x, rows[found.paired_indices[1]]

    rows = jnp.asarray(points.numpy())
    potential = jnp.asarray((points.square().sum(1) - 2 * heights).numpy())
    compiled, key = jax.jit(batch), jax.random.key(0)
    return lambda: jax.block_until_ready(compiled(key, rows, potential))  # type: ignore[no-untyped-call]


def pot_batches(points: Tensor, heights: Tensor) -> Callable[[], object]:
    """A batch of POT's map, by numpy."""
    import ot

    rows, potential = points.numpy(), (points.square().sum(1) - 2 * heights).numpy()
    generator = np.random.default_rng(0)

    def batch() -> np.ndarray[Any, Any]:
        noise = generator.standard_normal((BATCH, rows.shape[1]), dtype=np.float32)
        found: np.ndarray[Any, Any] = ot.semidiscrete.semidiscrete_ot_map(rows, noise, potential)
        return found

    return batch


# ---------------------------------------------------------------- many classes


def show_classes(sizes: Sequence[tuple[int, int]], repeats: int) -> None:
    """256 pairs of a conditional coupling, at the heights of Voronoi cells, alone and from a stream."""
    print(f"{BATCH} pairs of rows in {CLASS_DIMENSION} dimensions, each class coupled in {CLASS_DIRECTIONS} directions")
    for classes, each in sizes:
        rows = torch.randn(classes * each, CLASS_DIMENSION, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(len(rows)) % classes
        frame = torch.eye(CLASS_DIMENSION)[:, :CLASS_DIRECTIONS]
        own = (rows[k::classes, :CLASS_DIRECTIONS].contiguous() for k in range(classes))
        potentials = {k: pf.potentials.Discrete(points, points.square().sum(1) / 2) for k, points in enumerate(own)}
        began = time.perf_counter()
        coupling = pf.couplings.Conditional(rows, labels, potentials, directions=dict.fromkeys(range(classes), frame))
        made, numbers = time.perf_counter() - began, itertools.count()
        coupling.batch(next(numbers), BATCH, 0)  # each class prepares itself at its first search

        def streamed(coupling: pf.couplings.Conditional = coupling, numbers: Iterator[int] = numbers) -> None:
            for _ in range(BATCHES):
                coupling.batch(next(numbers), BATCH, 0)

        taken = medians({"alone": partial(coupling.sample, BATCH), "stream": streamed}, repeats)
        alone, one = taken["alone"] * 1e3, taken["stream"] * 1e3 / BATCHES
        print(
            f"  {classes:5,} classes of {each:,} rows: coupling made in {made:.1f} s, sample {alone:.1f} ms, "
            f"of a stream {one:.1f} ms ({alone / one:.1f} x)"
        )


# ---------------------------------------------------------------- steps on a mapped file


def show_steps(count: int, folder: Path) -> None:
    """Steps of a fit of a file, in a process of its own."""
    file = folder / "rows.npy"
    np.save(file, mixture(count, STEP_DIMENSION).numpy())
    in_own_process(steps, file)


def steps(file: Path) -> None:
    """A step beside the bare product of its noise with the rows, in blocks."""
    rows = np.load(file, mmap_mode="r")
    began = time.perf_counter()
    problem = posed(task_of(rows, None, None, 0.0, None, 1.0, None, 0, 1 << 28))[1].problem
    problem.search_in(torch.float32)
    descent = Descent(problem)
    generator = torch.Generator().manual_seed(0)
    heights = marginal_form(problem, generator)
    prepared = time.perf_counter() - began
    iterate = Iterate.start(Start(heights, (1e-3,) * (1 + len(descent.groups)), 1.0, 0), generator)
    taken = []
    for _ in range(STEPS):
        began = time.perf_counter()
        iterate = descent.step(iterate, generator)
        taken.append(time.perf_counter() - began)
    memory = peak_gibibytes()
    noise = torch.randn(BLOCK, rows.shape[1])
    whole = torch.from_numpy(np.array(rows))
    bare = medians({"products": partial(products, noise, whole)}, 3)["products"] * descent.batch / len(noise)
    step = float(np.median(taken))
    print(
        f"{STEPS} steps of {descent.batch:,} draws, {rows.shape[0]:,} x {rows.shape[1]} rows of a mapped file of "
        f"{rows.nbytes / 2**30:.2f} GiB, {torch.get_num_threads()} threads\n"
        f"  prepared in {prepared:.1f} s; a step {step:.2f} s, the bare products of its noise with rows in memory, in "
        f"blocks, {bare:.2f} s: {step / bare:.2f} x\n"
        f"  peak memory {memory:.2f} GiB, with the pages of the file"
    )


def products(noise: Tensor, rows: Tensor) -> None:
    """All scores, into one buffer that stays in a cache."""
    buffer = torch.empty(len(noise), BLOCK)
    for block in rows.split(BLOCK):
        torch.mm(noise, block.mT, out=buffer[:, : len(block)])


# ---------------------------------------------------------------- images in bytes


def show_images(count: int, folder: Path, tol: float) -> None:
    """Pairs with 3 x 32 x 32 bytes a row, in a mapped file."""
    generator = np.random.default_rng(0)
    shapes = (12 * np.logspace(0, -1, 64)[:, None] * generator.standard_normal((64, 3072))).astype(np.float32)

    def block(size: int) -> Any:
        rows = generator.standard_normal((size, 64), dtype=np.float32) @ shapes
        rows += 4 * generator.standard_normal(rows.shape, dtype=np.float32)
        return (128 + rows).round().clip(0, 255).astype(np.uint8).reshape(-1, 3, 32, 32)

    file = folder / "images.npy"
    pf.data.mapped_rows(file, (block(min(BLOCK, count - first)) for first in range(0, count, BLOCK)))
    in_own_process(images, file, tol)


def images(file: Path, tol: float) -> None:
    """Directions, a fit in them, and a batch; the memory of the process."""
    rows = np.load(file, mmap_mode="r")
    began = time.perf_counter()
    frame = pf.couplings.principal_directions(rows, 16)
    directed = time.perf_counter() - began
    began = time.perf_counter()
    coupling = pf.couplings.Subspace.fit(rows, frame=frame, dim=16, tol=tol, progress=False)
    coupled = time.perf_counter() - began
    memory = peak_gibibytes()
    batch = medians({"batch": lambda: coupling.sample(BATCH)}, 5)["batch"]
    print(
        f"{len(rows):,} images of 3 x 32 x 32 bytes in a mapped file of {rows.nbytes / 2**30:.2f} GiB, "
        f"{torch.get_num_threads()} threads\n"
        f"  16 principal directions {directed:.0f} s, a fit in them to chi2 + 2 standard errors <= {tol:g} "
        f"{coupled:.0f} s, {BATCH} pairs {1e3 * batch:.0f} ms\n"
        f"  peak memory {memory:.2f} GiB, with the pages of the file"
    )


# ---------------------------------------------------------------- two processes


def show_processes(count: int, folder: Path) -> None:
    """A short fit by one process, by two that share its draws, and by two that share its atoms, on a thread each."""
    print(
        f"short fits of {count:,} x 16 rows, {SHORT_FIT['max_samples']:,} draws or somewhat more, one thread a process"
    )
    context = multiprocessing.get_context("spawn")
    first = None
    for number, (name, size, split) in enumerate(
        (("one process", 1, False), ("two that share draws", 2, False), ("two that share atoms", 2, True))
    ):
        store = f"file://{folder / f'store{number}'}"
        results = [folder / f"result{number}-{rank}.pt" for rank in range(size)]
        members = [
            context.Process(target=member, args=(count, rank, size, split, store, result))
            for rank, result in enumerate(results)
        ]
        for each in members:
            each.start()
        for each in members:
            each.join()
        found = [torch.load(result) for result in results]
        first = found[0] if first is None else first
        equal = all(torch.equal(each[key], first[key]) for each in found for key in ("heights", "mass"))
        print(
            f"  {name:22s}{found[0]['seconds']:9.1f} s{first['seconds'] / found[0]['seconds']:7.2f} x   "
            f"peak memory {max(each['memory'] for each in found):.2f} GiB   chi2 {found[0]['chi2']:.4f}   "
            f"heights and masses {'the bits of one process' if equal else 'NOT those of one process'}",
            flush=True,
        )


def member(count: int, rank: int, size: int, split: bool, store: str, result: Path) -> None:
    """One process of a fit."""
    torch.set_num_threads(1)
    if size > 1:
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=size)
    points = mixture(count, 16)
    began = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pf.ConvergenceWarning)
        if split:
            with pf.semidiscrete.split_atoms():
                fit = pf.semidiscrete.fit(points, **SHORT_FIT)
        else:
            fit = pf.semidiscrete.fit(points, **SHORT_FIT)
    seconds = time.perf_counter() - began
    torch.save(
        {
            "heights": fit.potential.heights,
            "mass": fit.cell_mass,
            "chi2": fit.chi2,
            "seconds": seconds,
            "memory": peak_gibibytes(),
        },
        result,
    )


def main() -> None:
    """Print what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("fits", "batches", "steps", "images", "processes", "classes"))
    laws = ("mixture", "Fashion-MNIST with noise")
    parser.add_argument("--laws", nargs="+", choices=laws, default=list(laws), help="of fits and batches")
    parser.add_argument("--dims", nargs="+", type=int, default=[16, 32], help="of fits and batches")
    parser.add_argument("--count", type=int, default=1_000_000, help="rows")
    parser.add_argument(
        "--tol", type=float, default=0.05, help="of fits and images: chi2 wanted, two standard errors included"
    )
    parser.add_argument("--shortlist", type=int, help="of fits: groups that noise is searched among, all if not given")
    parser.add_argument("--quick", action="store_true", help="a few rows, to see that it runs")
    parser.add_argument("--device", default="cpu", help="of fits and batches; OTT's is the one that JAX chooses")
    options = parser.parse_args()
    device = torch.device(options.device)
    count, tol, repeats = (2_000, 1.0, 1) if options.quick else (options.count, options.tol, 7)
    if options.part == "fits":
        show_fits(count, options.laws, options.dims, tol, device, options.shortlist)
    elif options.part == "batches":
        show_batches(count, options.laws, options.dims, repeats, device)
    elif options.part == "classes":
        show_classes(((3, 20),) if options.quick else CLASS_SIZES, 1 if options.quick else 5)
    else:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            if options.part == "images":
                show_images(count, folder, tol)
            elif options.part == "steps":
                show_steps(count, folder)
            else:
                show_processes(count, folder)


if __name__ == "__main__":
    main()
