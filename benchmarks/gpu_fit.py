"""Sections 3 and 4 of benchmarks/gpu.py: a fit of images, and steps of a fit of millions of them."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

import proxflow as pf
from gpu_measure import Deadline, Stages, forget_peak, peak_bytes
from gpu_search import Problem, slopes_scored_again
from gpu_sizes import MAX_MEMORY, Bench, ImageLaw
from proxflow.semidiscrete.descent import Descent, Iterate
from proxflow.semidiscrete.fitting import Task, posed, returned_of, task_of
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.shared_directions import Sharing, shared_axes, turned
from proxflow.semidiscrete.start import scaled_start
from proxflow.semidiscrete.stochastic_fit import Run

__all__ = ["fit_of_images", "steps_on_many"]

_GOAL_SECONDS = 60.0
_CAP = 4.0  # chi2 M / N at which it is given up
_TO_CERTIFY = 0.2  # of the time of the fit, that its last evaluation may need
_FEWER_DRAWS = 2048  # of a step with independent noise, whose draws take longer
_DRAWS_PER_ATOM = 1.2  # chi2 M / N of a fit as measured (docs/theory.md 3)
_WANTED_CHI2 = 0.05  # where the published fit ended
_PUBLISHED_ATOMS, _PUBLISHED_HOURS = 2_560_000, 96.0  # ImageNet-32 with mirror images; about 12 h on 8 H100
_BYTES_BESIDE_ROWS = 3072  # of an atom: coordinates in shared directions, places for the groups, heights
_MEMORY_SHARE = 0.85  # of what is free


# ---------------------------------------------------------------- 3. a fit


def fit_of_images(bench: Bench, deadline: Deadline) -> None:
    """A whole fit, stage by stage, that ends at its tolerance or when time is up."""
    deadline.require()
    report, tol, (count, dim) = bench.report, bench.sizes.tol, bench.sizes.fit
    most = math.ceil(_CAP * count / tol)
    points = ImageLaw(dim, bench.device).draw(count).points
    report.add(
        f"{count:,} rows of {dim:,} numbers in float32, drawn from a normal law whose variances along random "
        f"orthonormal directions fall like k^-1.5, plus 1e-4 a pixel. Wanted: chi2 + 2 standard errors <= {tol:g}, "
        f"by at most {most:,} draws. max_memory = {MAX_MEMORY:,} bytes.\n"
    )
    forget_peak(bench.device)
    stages = Stages(bench.device)
    task = task_of(points, None, None, 0.0, None, tol, most, 0, MAX_MEMORY)
    stages.end("check the rows, merge equal ones")
    run = _prepared(task, stages)
    reserve = _TO_CERTIFY * deadline.left
    while not run.finished and deadline.left > reserve:
        moved = run.state.iterate.moved
        run.advance()
        stages.end("steps" if run.state.iterate.moved > moved else "evaluations on the way")
    stopped = not run.finished
    solution = run.certify()
    stages.end("last evaluation, and W2^2")
    _show(bench, stages)
    last, used = solution.history[-1], solution.samples_used
    reached = last.chi2 + 2 * last.chi2_stderr <= tol
    report.add(
        f"\n- chi2 {last.chi2:.5f} +- {last.chi2_stderr:.5f} by {used:,} draws that moved the heights, and "
        f"{solution.evaluation_samples:,} that judged them; chi2 M / N = {last.chi2 * used / count:.2f}",
        f"- peak memory {peak_bytes(bench.device) / 2**30:.2f} GiB, of which the rows take {points.nbytes / 2**30:.2f}",
    )
    if not reached:
        why = "time was up" if stopped else "the draws were used up"
        report.add(f"- the tolerance was not reached: {why}")
        if "steps" in stages.seconds:
            _remaining(bench, run, used / stages.seconds["steps"])
    goal = f"goal, chi2 = {tol:g} in less than {_GOAL_SECONDS:.0f} s"
    report.add(f"- **{goal}: {bench.verdict(reached and stages.total < _GOAL_SECONDS)}**\n")
    measure = partial(_kinds_of_noise, bench, run.descent, run.state.iterate, deadline)
    report.attempt("kinds of noise of a step", measure)


def _prepared(task: Task, stages: Stages) -> Run:
    fine = posed(task)[1]
    stages.end("centre, radius and span of the rows")
    session = Session(time.perf_counter(), False, None, None)
    run = Run(fine.problem, returned_of(task, fine), None, task.tol, task.max_samples, task.seed, session)
    stages.end("groups of atoms, first heights")
    return run


def _show(bench: Bench, stages: Stages) -> None:
    table = bench.report.table("stage", "seconds")
    for stage, seconds in stages.seconds.items():
        table.add(stage, seconds)
    table.add("**all**", stages.total)


def _remaining(bench: Bench, run: Run, rate: float) -> None:
    wanted = run.expected().moving
    bench.report.add(
        f"- expected for {len(run.problem):,} rows and shared directions (variance x {run.descent.inflation:.3f}): "
        f"{wanted:,.0f} draws; at {rate:,.0f} draws/s of steps these take {wanted / rate:,.1f} s"
    )


def _kinds_of_noise(bench: Bench, descent: Descent, iterate: Iterate, deadline: Deadline) -> None:
    """A step with the noise that the fit chose, beside one with independent noise; and what the first is made of."""
    generator = torch.Generator(bench.device).manual_seed(3)
    table = bench.report.table("a step, or a part of it", "draws", "seconds", "repeats", "draws/s")

    def show(name: str, draws: int, call: Callable[[], object]) -> None:
        taken = bench.timed(call, deadline)
        table.add(name, draws, taken.seconds, taken.repeats, draws / taken.seconds)

    sharing = descent.sharing
    notes: list[str] = []
    if sharing is not None:
        name = f"step, blocks of {sharing.rows:,} draws that share {sharing.directions} directions, as the fit chose"
        bench.report.attempt(name, partial(show, name, descent.batch, partial(descent.step, iterate, generator)))
        for name, call in _parts_of_sharing(descent.problem, sharing, iterate, generator).items():
            bench.report.attempt(name, partial(show, f"one block: {name}", sharing.rows, call))
        again = _scored_again_in_a_block(descent.problem, sharing, iterate, generator)
        notes = [] if again is None else [f"\n- slopes scored in float64, of a vector of such a block: {again:.3g}"]
    alone = copy.copy(descent)
    alone.sharing, alone.batch = None, min(descent.batch, _FEWER_DRAWS)
    name = "step, independent noise"
    bench.report.attempt(name, partial(show, name, alone.batch, partial(alone.step, iterate, generator)))
    bench.report.add(*notes)


def _parts_of_sharing(
    problem: SemiDual, sharing: Sharing, iterate: Iterate, generator: torch.Generator
) -> dict[str, Callable[[], object]]:
    slopes = problem._slopes
    axes = shared_axes(problem.source.dim, sharing, generator, slopes)
    seen = problem._seen_as(slopes @ axes)
    noise = problem.noise(sharing.rows, generator)
    return {
        "draw the noise": lambda: problem.noise(sharing.rows, generator),
        "draw the directions": lambda: shared_axes(problem.source.dim, sharing, generator, slopes),
        "coordinates of the atoms": lambda: slopes @ axes,
        "search and count": lambda: seen.assign(turned(noise, sharing.directions), iterate.heights),
    }


def _scored_again_in_a_block(
    problem: SemiDual, sharing: Sharing, iterate: Iterate, generator: torch.Generator
) -> float | None:
    coordinates = problem._slopes @ shared_axes(problem.source.dim, sharing, generator, problem._slopes)
    noise = turned(problem.noise(sharing.rows, generator), sharing.directions)
    return slopes_scored_again(Problem(noise, coordinates, problem._offsets(iterate.heights)))


# ---------------------------------------------------------------- 4. steps on many rows


def steps_on_many(bench: Bench, deadline: Deadline) -> None:
    """Steps of a fit of as many rows as memory and time allow, and what a whole fit would take at their rate."""
    deadline.require()
    report, seconds, (wanted, dim) = bench.report, bench.sizes.step_seconds, bench.sizes.large
    law = ImageLaw(dim, bench.device)
    in_memory, in_time = _most_in_memory(bench, dim), _most_in_time(bench, law, deadline.left - 2 * seconds)
    count = min(wanted, in_memory, in_time)
    report.add(
        f"N = {count:,} of {wanted:,} such rows as in section 3, {4 * count * dim / 1e9:.1f} GB; memory has room for "
        f"{in_memory:,}, and there is time to prepare {in_time:,}. The heights are those of the rows' law. "
        f"max_memory = {MAX_MEMORY:,} bytes.\n",
    )
    forget_peak(bench.device)
    stages = Stages(bench.device)
    descent, heights = _descent_of(law, count)
    stages.end("draw the rows, prepare the fit")
    generator = torch.Generator(bench.device).manual_seed(4)
    start = scaled_start(descent.problem, descent.groups, descent.copies, generator, heights)
    iterate = Iterate.start(start, generator)
    iterate = descent.step(iterate, generator)
    stages.end("units of height, first step")
    until, before = Deadline(seconds), iterate.samples_used
    while until.left > 0:
        iterate = descent.step(iterate, generator)
        stages.end("steps")
    _show(bench, stages)
    draws = iterate.samples_used - before
    rate = draws / stages.seconds["steps"]
    report.add(
        f"\n- {draws // descent.batch:,} steps of {descent.batch:,} draws in {stages.seconds['steps']:.1f} s: "
        f"{rate:,.0f} draws/s",
        f"- peak memory {peak_bytes(bench.device) / 2**30:.2f} GiB",
    )
    _extrapolate(bench, descent, rate, wanted)
    report.attempt("kinds of noise of a step", partial(_kinds_of_noise, bench, descent, iterate, deadline))


def _most_in_memory(bench: Bench, dim: int) -> int:
    if not bench.on_gpu:
        return bench.sizes.large[0]
    return int(_MEMORY_SHARE * torch.cuda.mem_get_info(bench.device)[0] / (4 * dim + _BYTES_BESIDE_ROWS))


def _most_in_time(bench: Bench, law: ImageLaw, seconds: float) -> int:
    """How many of the rows can be prepared in that time, by what smaller numbers take; at least those tried."""
    sizes, times = [bench.sizes.large[0] // part for part in (64, 32, 16)], []
    for size in sizes:  # the first one loads libraries
        stages = Stages(bench.device)
        _descent_of(law, size)
        stages.end("prepare")
        times.append(stages.total)
    a_row = max((times[2] - times[1]) / (sizes[2] - sizes[1]), 1e-9)
    return max(sizes[2], min(bench.sizes.large[0], int(sizes[2] + (seconds - times[2]) / a_row)))


def _descent_of(law: ImageLaw, count: int) -> tuple[Descent, Tensor]:
    """The steps of a fit of so many rows, and heights (N,) in its units."""
    images = law.draw(count)
    points = images.points
    weights = torch.full((count,), 1 / count, dtype=torch.float64, device=points.device)
    problem = SemiDual(points, weights, pf.measures.Gaussian(points.shape[1]), 0.0, MAX_MEMORY)
    return Descent(problem), images.heights / problem.radius


def _extrapolate(bench: Bench, descent: Descent, rate: float, wanted: int) -> None:
    """The time of all draws for the wanted number of rows, with the arithmetic."""
    report, count = bench.report, len(descent.problem)
    scaled = rate * count / wanted
    draws = _DRAWS_PER_ATOM * descent.inflation * wanted / _WANTED_CHI2
    hours = draws / scaled / 3600
    report.add(
        f"- draws to chi2 = {_WANTED_CHI2:g}: {_DRAWS_PER_ATOM} N / chi2 = {_DRAWS_PER_ATOM} x {descent.inflation:.3f} "
        f"(variance of shared directions) x {wanted:,} / {_WANTED_CHI2:g} = {draws:,.0f}"
    )
    if count < wanted:
        report.add(
            f"- a draw takes time in proportion to N: {rate:,.0f} x {count:,} / {wanted:,} = {scaled:,.0f} draws/s"
        )
    report.add(f"- {draws:,.0f} / {scaled:,.0f} = {draws / scaled:,.0f} s = {hours:.3g} hours of steps on this device")
    if bench.on_gpu and wanted == _PUBLISHED_ATOMS:
        report.add(
            f"- published for as many rows: about 12 h on 8 H100, {_PUBLISHED_HOURS:g} hours of one, "
            f"{_PUBLISHED_HOURS / hours:,.0f} times as long"
        )
    else:
        report.add(f"- published for {_PUBLISHED_ATOMS:,} rows: about 12 h on 8 H100; not comparable with this run")
    report.add("- this is extrapolated, not run; preparing the fit and judging it come on top\n")
