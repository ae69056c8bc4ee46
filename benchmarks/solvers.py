"""Solvers of the semi-discrete problem with noise N(0, I) beside one another: chi2 against seconds and against draws.

python benchmarks/solvers.py [--only DATA ...] [--figure FILE]

- proxflow: ``pf.semidiscrete.fit`` at several tolerances; each line is a whole fit, its certificate included.
- steps: the same without what a certificate takes: steps alone, as many as should just do, known afterwards as for the
  other solvers.
- OTT: ``SemidiscreteSolver`` with its tutorial's schedule of rates, and a grid of schedules, constant rates, batches
  and averages.
- POT, 0.9.7 or later: ``ot.semidiscrete.solve_semidiscrete``, averaged SGD, with its default arguments, and a grid of
  rates; regularised, and less and less so, where the line says DRAG.
- Adam: on the semi-dual, with an exponential average of the iterates, as AlignFlow's ``sdot_solve`` does it (arXiv
  2510.15038), written here, with its default arguments, with those of its example in the plane, and a grid of rates.

chi2 = sum_j (m_j - b_j)^2 / b_j of the cell masses is measured afterwards, for all on the same draws, which no solver
has seen. Seconds are wall time on one thread. They count no compilation, no measurement of chi2 and no search for a
setting; fits of proxflow measure their own chi2, and that is counted. chi2 M / N compares M draws with the statistical
limit, 1. Solvers have the dtype of the points, float32. proxflow and Adam run on --device; POT runs on numpy, OTT on
JAX's own device.

The other solvers are helped with what their user would not know. Rates are in units of the scale of the problem
(``typical_gap``); the half of a grid that is best with some draws is tried with twice as many, until the target is
reached, the budget is spent, or draws are 64 times the first; and the fastest setting that reaches it is run three
times more, with as many draws as should just do and somewhat more. The fastest runs then take turns with other seeds,
and the mean chi2 that they come to is told, too.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING

import jax
import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor

import proxflow as pf
from proxflow.errors import counted
from proxflow.report.canvas import INK, class_colours, name_level, new_figure, plain_ticks, png
from proxflow.semidiscrete.certificate import MassError
from proxflow.semidiscrete.evaluation_plan import draws_to_judge
from semidiscrete import mass_errors, normal_cloud
from solver_settings import (
    Setting,
    Solve,
    Solver,
    adam_solver,
    least_draws,
    ott_solver,
    pot_solver,
    proxflow_solver,
    steps_solver,
    typical_gap,
)
from timing import medians

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OWN = {"proxflow": "proxflow", "steps": "its steps alone"}
"""Of the solvers, and how they are called."""
SOLVERS = (*OWN, "OTT", "POT", "Adam")
DOUBLINGS = 6  # of the draws that grids begin with, at most
LEAST_SHARE = 0.25  # of a run's draws: from many more than it takes nothing can be told of few
SHARPER = 4  # times the draws that judge a fit judge the settings: the best of many is the one that is told too low
MARGINS = (1.1, 1.3, 1.5)  # draws of the last runs over those that should just do


@dataclass(frozen=True)
class Data:
    """Points (N, d) to couple with noise, made when their turn comes, and the chi2 to be reached."""

    points: Callable[[], Tensor]
    target: float


@dataclass(frozen=True)
class Effort:
    """Seconds of each solver on a data set, how often draws are doubled at least, one of how many settings of a grid is
    tried, and rounds of the fastest in turn, each with a seed of its own."""

    budget: float
    doublings: int = 2
    stride: int = 1
    rounds: int = 5


@dataclass(frozen=True)
class Run:
    """What a setting came to with seed 0."""

    setting: Setting
    solve: Solve
    heights: Tensor
    draws: int
    seconds: float


@dataclass
class Trials:
    """Runs of one solver within its seconds; one too long at the pace of the run before it is left out."""

    solver: str
    budget: float
    runs: list[Run] = field(default_factory=list)
    pace: float = 0.0  # seconds a draw
    left_out: int = 0

    def attempt(self, setting: Setting) -> Run | None:
        """Run a setting, unless that takes too long."""
        if sum(run.seconds for run in self.runs) + self.pace * setting.draws > self.budget:
            self.left_out += 1
            return None
        solve = setting.prepare()
        began = time.perf_counter()
        heights, draws = solve(0)
        run = Run(setting, solve, heights, draws, time.perf_counter() - began)
        self.pace = run.seconds / setting.draws
        self.runs.append(run)
        return run


@dataclass(frozen=True)
class Study:
    """The runs of each solver on a data set, with their chi2."""

    name: str
    count: int
    target: float
    judged: dict[str, list[tuple[Run, MassError]]]


DATA = {
    "digits": Data(lambda: pf.data.load("digits").points.flatten(1), 0.01),
    "fashion-mnist": Data(lambda: pf.data.load("fashion-mnist", n=10_000).points.flatten(1), 0.3),
    "normal": Data(lambda: normal_cloud(10_000, 64), 0.1),
    "breast-cancer": Data(lambda: pf.data.from_array(load_breast_cancer().data, standardise="columns").points, 0.01),
    "moons": Data(lambda: pf.data.load("moons", n=2000).points, 0.1),
}
"""Targets are what at least two solvers reach within a minute."""


# ------------------------------------------------------------------ the study


def searched(solver: Solver, points: Tensor, target: float, effort: Effort) -> Trials:
    """Its settings; of the grid the better half goes on to twice the draws until one reaches the target.

    What is better is judged by draws that are not those of the final judgement.
    """
    trials = Trials(solver.name, effort.budget)
    for setting in solver.fixed:
        trials.attempt(setting)
    draws, kept, reached = least_draws(points, target), solver.grid[:: effort.stride], []
    for doublings in range(DOUBLINGS + 1):
        tried = [(make, trials.attempt(make(draws << doublings))) for make in kept]
        made = [(make, run) for make, run in tried if run is not None]
        if not made:
            break
        to_judge = SHARPER * draws_to_judge(len(points), target)
        errors = mass_errors(points, [run.heights for _, run in made], None, to_judge, 1)
        shares = [max(error.chi2 / target, LEAST_SHARE) for error in errors]  # of its draws that should do
        ranked = sorted(zip(shares, made, strict=True), key=lambda entry: entry[0])
        kept = tuple(make for _, (make, _) in ranked[: -(-len(ranked) // 2)])
        reached += [(share * run.seconds, round(share * run.draws), make) for share, (make, run) in ranked if share < 1]
        if reached and doublings >= effort.doublings:
            break
    if reached:
        _, enough, make = min(reached, key=lambda entry: entry[0])
        for margin in MARGINS:
            trials.attempt(make(round(margin * enough)))
    return trials


def studied(name: str, data: Data, device: torch.device, effort: Effort) -> Study:
    """Run all solvers on a data set, judge them together, and print the table and the times to the target."""
    points = data.points()
    own = points.to(device)
    print(f"\n{name}: N = {len(points):,}, d = {points.shape[1]}; the typical gap is {typical_gap(points):.2g}")
    makers = (
        (proxflow_solver, own),
        (steps_solver, own),
        (ott_solver, points),
        (pot_solver, points),
        (adam_solver, own),
    )
    solvers = [make(rows, data.target) for make, rows in makers]
    trials = [searched(solver, own, data.target, effort) for solver in solvers]
    errors = iter(mass_errors(own, [run.heights for trial in trials for run in trial.runs]))
    judged = {trial.solver: [(run, next(errors)) for run in trial.runs] for trial in trials if trial.runs}
    study = Study(name, len(points), data.target, judged)
    print_table(study)
    for trial in trials:
        if trial.left_out > 0:
            print(
                f"  {trial.solver}: {counted(trial.left_out, 'run')} left out, beyond the budget of {effort.budget:g} s"
            )
    print_race(study, own, effort.rounds)
    return study


def print_table(study: Study) -> None:
    """A line for each run."""
    print(
        f"  {'solver':9s}{'setting':66s}{'draws M':>11s}{'seconds':>9s}{'chi2':>9s}    {'stderr':>8s}{'chi2 M/N':>10s}"
    )
    for solver, rows in study.judged.items():
        for run, error in rows:
            ratio = error.chi2 * run.draws / study.count
            accuracy = f"{error.chi2:9.2g} +- {error.stderr:8.2g}{ratio:10.2f}"
            print(f"  {solver:9s}{run.setting.name:66s}{run.draws:11,d}{run.seconds:9.2f}{accuracy}")


def print_race(study: Study, points: Tensor, rounds: int) -> None:
    """A line: median times of the fastest runs that reach the target, in turn with other seeds, and their mean chi2."""
    reached = {name: [run for run, error in rows if error.chi2 <= study.target] for name, rows in study.judged.items()}
    fastest = {name: min(runs, key=lambda run: run.seconds) for name, runs in reached.items() if runs}
    found: dict[str, list[Tensor]] = {name: [] for name in fastest}

    def next_run(name: str) -> None:
        found[name].append(fastest[name].solve(1 + len(found[name]))[0])

    timed = medians({name: partial(next_run, name) for name in fastest}, rounds)
    words = []
    for name, rows in study.judged.items():
        whose = OWN.get(name, f"{name}'s best")
        if name not in timed:
            least = min((error.chi2 for _, error in rows), default=math.inf)
            words.append(f"{whose} not reached, {least:.2g}")
            continue
        ratios = "".join(f", {timed[name] / timed[own]:.2g} x {own}" for own in OWN if own in timed and name not in OWN)
        chi2 = mean(error.chi2 for error in mass_errors(points, found[name]))
        words.append(f"{whose} {timed[name]:.3g} s{ratios} ({fastest[name].setting.name}; chi2 {chi2:.2g})")
    print(f"  time to chi2 <= {study.target:g}, in turn, medians of {rounds} seeds: " + "; ".join(words), flush=True)


# ------------------------------------------------------------------ the figure


def drawn(studies: Sequence[Study]) -> bytes:
    """The PNG: for each data set chi2 against seconds and against draws.

    What lies below its own standard error is drawn there; documented settings are hollow.
    """
    figure = new_figure(9, 2.9 * len(studies) + 0.5)
    grid = figure.subplots(len(studies), 2, squeeze=False, sharey="row")
    for study, panels in zip(studies, grid, strict=True):
        for axes, across, measure in zip(panels, ("seconds", "draws"), (seconds_of, draws_of), strict=True):
            draw_panel(axes, study, measure)
            axes.set(xscale="log", yscale="log", xlabel=across)
            plain_ticks(axes.xaxis, in_short)
            axes.set_title(f"{study.name}, N = {study.count:,}", fontsize=10, loc="left")
        panels[0].set_ylabel("χ² of the atoms' weights")
        draws = [run.draws for rows in study.judged.values() for run, _ in rows if run.draws > 0]
        limit = [(study.count - 1) / number for number in (min(draws), max(draws))]
        panels[1].plot((min(draws), max(draws)), limit, color=INK, ls="--", lw=1, label="limit, (N - 1) / draws")
    figure.legend(*grid[0, 1].get_legend_handles_labels(), loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    return png(figure)


def draw_panel(axes: Axes, study: Study, measure: Callable[[Run], float]) -> None:
    """All runs as dots, and a line through those of a solver that no other of its runs beats in both coordinates."""
    name_level(axes, study.target, f"target {study.target:g}", at=0.8)
    colours = dict(zip(SOLVERS, class_colours(len(SOLVERS)), strict=True))
    for solver, rows in study.judged.items():
        colour = colours[solver]
        dots = sorted((measure(run), max(error.chi2, error.stderr), run.setting.documented) for run, error in rows)
        line: list[tuple[float, float]] = []
        for x, y, documented in dots:
            axes.scatter(x, y, s=18, color="none" if documented else colour, edgecolor=colour)
            if not line or y < line[-1][1]:
                line.append((x, y))
        axes.plot(*zip(*line, strict=True), color=colour, lw=1.5, label=solver)


def in_short(number: float) -> str:
    """As 0.5, 20k or 3M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:g}{letter}"
    return f"{number:g}"


def seconds_of(run: Run) -> float:
    """Its time."""
    return run.seconds


def draws_of(run: Run) -> float:
    """Its draws; those of an exact fit, which has none, are not on a logarithmic scale."""
    return run.draws or math.nan


# ------------------------------------------------------------------ from the command line


def on_one_core() -> None:
    """Pin this process to a core: JAX has no setting of its own for one thread. Torch is told to use one."""
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def main() -> None:
    """Run the studies asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(DATA), default=list(DATA), help="these data sets alone")
    parser.add_argument("--device", default="cpu", help="of proxflow and Adam")
    parser.add_argument("--budget", type=float, default=600.0, help="seconds of each solver on each data set")
    parser.add_argument("--figure", type=Path, help="file for a picture, PNG")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    options = parser.parse_args()
    on_one_core()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "ott-jax", "POT"))
    print(f"proxflow {pf.__version__}, {versions}; one thread; proxflow and Adam on {options.device}, POT on numpy,")
    print(f"OTT on JAX's {jax.default_backend()}. Seconds without compilation; proxflow's are of whole certified fits.")
    device, studies = torch.device(options.device), []
    if options.quick:
        data = Data(lambda: normal_cloud(50, 4), 0.1)
        studies.append(studied("50 normal points in R^4", data, device, Effort(options.budget, 0, 4, 1)))
    else:
        for name in options.only:
            try:
                studies.append(studied(name, DATA[name], device, Effort(options.budget)))
            except ValueError as error:
                print(f"{name} is left out: {error}")
    if options.figure is not None and studies:
        options.figure.parent.mkdir(parents=True, exist_ok=True)
        options.figure.write_bytes(drawn(studies))
        print(f"figure: {options.figure}")


if __name__ == "__main__":
    main()
