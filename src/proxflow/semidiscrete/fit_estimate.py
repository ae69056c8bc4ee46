"""What a fit will take, told before it is run: it is prepared, run for seconds, and the rest is reckoned from that."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean

import torch
from torch import Tensor

from proxflow.checks import Numbers
from proxflow.measures import Source
from proxflow.seeding import generator_of
from proxflow.semidiscrete.exact import exact_applies
from proxflow.semidiscrete.fitting import Posed, Task, posed, returned_of, solve, task_of
from proxflow.semidiscrete.prepare import Atoms
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.shortlist_fit import check_shortlist, listed, with_shortlist
from proxflow.semidiscrete.stochastic_fit import Run
from proxflow.symmetry import Symmetry
from proxflow.torch_support import in_full_precision

try:
    import resource
except ImportError:  # Windows has none
    resource = None  # type: ignore[assignment]

__all__ = ["Estimate", "estimate", "peak_memory"]

_LEAST_TIMED, _MOST_TIMED = 1 << 10, 1 << 13  # draws of an evaluation that are timed together; a step's, between these
_SHARES = 0.5, 0.7, 0.9, 0.3, 0.1  # of the way, where steps are timed; at the first one in any case
_FIRST, _FEWEST = 100, 500  # atoms of exact fits: of the first one, and of the first one that is timed
# The slope of the logarithm of an exact fit's time against that of its atoms, as measured in each dimension: in two 1.2
# and 1.45 on two processors, where more atoms leave a core's cache. From one size to the next it is .9 to 2, since the
# number of Newton steps varies.
_SLOPES = {1: 1.05, 2: 1.3, 3: 1.05}


@dataclass(frozen=True)
class Estimate:
    """What a fit is expected to take on this machine.

    Attributes:
        method: as ``Fit.method``.
        seconds: of wall time, preparation included.
        samples: draws that move the heights; 0 where masses are exact.
        evaluation_samples: draws that judge them, and those of W2^2.
        memory: bytes, the largest of this process so far and what the fit will still add, of the GPU's memory where the
            points are on one; None where the system does not say.
        spent: seconds that the estimate itself took.
    """

    method: str
    seconds: float
    samples: int
    evaluation_samples: int
    memory: int | None
    spent: float


@in_full_precision
def estimate(
    points: Numbers,
    weights: Numbers | None = None,
    *,
    source: Source | None = None,
    epsilon: float = 0.0,
    symmetry: Symmetry | None = None,
    shortlist: int | None = None,
    tol: float = 1e-2,
    max_samples: int | None = None,
    seed: int = 0,
    max_memory: int = 2**28,
    seconds: float = 2.0,
) -> Estimate:
    """What ``fit`` with these arguments, or ``fit_shortlisted``, will take: time, draws and memory on this machine.

    The fit is prepared, and its steps and evaluations are timed for ``seconds``; their number follows from the
    tolerance, since chi2 of M draws for N atoms is about 1.15 N / M. Fits in up to three dimensions, which are exact,
    are timed on subsets.

    Args:
        points: as of ``fit``, and so are all others but these.
        shortlist: ``count`` of ``fit_shortlisted``, which is estimated if it is given; without epsilon and symmetry.
        seconds: of timing, beyond the preparation.

    Raises:
        ValueError: bad data or arguments.
    """
    began = time.perf_counter()
    task = task_of(points, weights, source, epsilon, symmetry, tol, max_samples, seed, max_memory)
    check_shortlist("estimate", shortlist, symmetry, epsilon)
    if shortlist is not None:
        task = with_shortlist(listed(task, shortlist), Session(began, False, None, None))
    if len(task.atoms.points) == 1:
        spent = time.perf_counter() - began
        return Estimate("one atom", spent, 0, 0, peak_memory(task.atoms.points.device), spent)
    rough, fine = posed(task)
    if exact_applies(rough.problem):
        return _of_exact_fit(task, rough.problem.source.dim, seconds, began)
    return _of_noisy_fit(task, fine, seconds, began)


def _of_noisy_fit(task: Task, fine: Posed, seconds: float, began: float) -> Estimate:
    problem, session = fine.problem, Session(began, False, None, None)
    device = problem.points.device
    run = Run(problem, returned_of(task, fine), None, task.tol, task.max_samples, task.seed, session)
    prepared, expected = _now(device) - began, run.expected()
    a_step = _seconds_a_draw_of_steps(run, expected.moving, seconds)
    a_count, a_judgement = _seconds_a_draw(run, seconds / 2)
    moving = max(expected.moving - run.state.iterate.samples_used, 0)
    total = prepared + a_step * (moving + expected.on_the_way)
    total += a_count * expected.own_searches + a_judgement * (expected.judging + expected.others)
    peak = peak_memory(device)
    return Estimate(
        "averaged gradient",
        total,
        expected.moving,
        expected.on_the_way + expected.judging + expected.bias + expected.others,
        peak,
        time.perf_counter() - began,
    )


def _seconds_a_draw_of_steps(run: Run, moving: int, seconds: float) -> float:
    """The mean over the way, as far as there is time: the first steps take fewer draws, each at a higher cost."""
    device, found = run.problem.points.device, []
    began = _now(device)
    for number, share in enumerate(_SHARES, start=1):
        iterate = dataclasses.replace(run.state.iterate, moved=int(share * moving))
        iterate = run.descent.step(iterate, run.motion)  # the first one of a size is slower than the others
        before, start = iterate.moved, _now(device)
        while iterate.moved == before or _now(device) - began < number * seconds / len(_SHARES):
            iterate = run.descent.step(iterate, run.motion)
        found.append((_now(device) - start) / (iterate.moved - before))
        if _now(device) - began > seconds:
            break
    return mean(found)


def _seconds_a_draw(run: Run, seconds: float) -> tuple[float, float]:
    """Of the problem's own count, and of a judgement of what the fit will return."""
    problem, device, potential = run.problem, run.problem.points.device, run.potential
    generator = generator_of(0, device=device)
    at_once = min(max(run.descent.batch, _LEAST_TIMED), _MOST_TIMED)
    tasks: tuple[Callable[[int], object], ...] = (
        lambda draws: problem.count(problem.noise(draws, generator), run.heights),
        lambda draws: run.returned.judge(potential, draws, generator),
    )
    found = []
    for task in tasks:
        task(_LEAST_TIMED)  # the first one is slower than the others
        draws, start = 0, _now(device)
        while not draws or _now(device) - start < seconds / len(tasks):
            task(at_once)
            draws += at_once
        found.append((_now(device) - start) / draws)
    return found[0], found[1]


def _of_exact_fit(task: Task, dim: int, seconds: float, began: float) -> Estimate:
    """From the times of random subsets, each twice as large as the one before, as long as there is time."""
    prepared, count = time.perf_counter() - began, len(task.atoms.points)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).to(task.atoms.points.device)
    _solved(_subset(task, order[:_FIRST]))  # the first one is slower than the others
    start = time.perf_counter()
    size, taken = 0, 0.0
    totals: list[float] = []
    while not totals or (size < count and time.perf_counter() - start + 2 * taken < seconds):
        size = min(2 * size if totals else _FEWEST, count)
        method, taken = _solved(_subset(task, order[:size]))
        totals.append(taken * (count / size) ** _SLOPES[dim])
    total = prepared + (totals[-1] if size == count else mean(totals[-2:]))
    return Estimate(method, total, 0, 0, peak_memory(task.atoms.points.device), time.perf_counter() - began)


def _solved(task: Task) -> tuple[str, float]:
    """The method of a fit, and the seconds that it took."""
    began = time.perf_counter()
    method = solve(task, None, Session(began, False, None, None)).method
    return method, time.perf_counter() - began


def _subset(task: Task, rows: Tensor) -> Task:
    weights = task.atoms.weights[rows]
    atoms = Atoms(task.atoms.points[rows], weights / weights.sum(), torch.arange(len(rows)))
    return dataclasses.replace(task, atoms=atoms)


def _now(device: torch.device) -> float:
    """Seconds of a clock, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def peak_memory(device: torch.device | None = None) -> int | None:
    """Bytes that this process took at most so far: of a GPU's memory by tensors, if the device is one."""
    if device is not None and device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    if not hasattr(resource, "getrusage"):
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
