"""Fits on shortlists: weights as exact as those of ``fit``, for pairs that are optimal among a part of all pairs.

The rows are cut into about sqrt(N) groups of near rows, and the centres of the groups are coupled with the noise, as if
each were an atom of its group's weight. Which groups score best for a noise vector there is its shortlist. Then the
semi-dual of the pairs that the shortlists allow is solved as that of all pairs is: the mass of each cell is known from
draws as it is there, and the dual value with all atoms tells how far the pairs are from optimal ones.
"""

from __future__ import annotations

import dataclasses
import math
import os
import time

import torch
from torch import Tensor

from proxflow.checks import Numbers, whole_number, working_dtype
from proxflow.kernels.geometry import ManyRows, ScaledRows, row_blocks
from proxflow.kernels.shortlist import Shortlist
from proxflow.measures import Source
from proxflow.potentials.atoms import centre_and_radius
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.semidiscrete.atom_groups import equal_groups, group_count
from proxflow.semidiscrete.evaluation_plan import EvaluationPlan
from proxflow.semidiscrete.fit_result import ShortlistedFit
from proxflow.semidiscrete.fitting import Task, certified, record_of, task_of
from proxflow.semidiscrete.light import light_among
from proxflow.semidiscrete.prepare import gather_atoms
from proxflow.semidiscrete.problem import SemiDual
from proxflow.semidiscrete.returned import Returned
from proxflow.semidiscrete.session import Session
from proxflow.semidiscrete.stochastic_fit import LIGHT_SHARE, Run, StochasticState, on_device
from proxflow.symmetry import Symmetry
from proxflow.torch_support import in_full_precision

__all__ = ["check_shortlist", "fit_shortlisted", "listed", "with_shortlist"]

_COARSE_TOL = 0.02  # of the fit to the centres, at the most,
_COARSE_SHARE = 0.25  # and of the tolerance: lists of one group leave its mass as it is
_ROWS = 1 << 12  # light atoms at once


@in_full_precision
def fit_shortlisted(
    points: Numbers,
    weights: Numbers | None = None,
    *,
    count: int = 16,
    source: Source | None = None,
    tol: float = 1e-2,
    max_samples: int | None = None,
    seed: int = 0,
    checkpoint: str | os.PathLike[str] | None = None,
    max_memory: int = 2**28,
    progress: bool | None = None,
) -> ShortlistedFit:
    """Fit the heights of nearly optimal pairs, for a coupling of very many rows on a CPU.

    Each noise vector is searched among the atoms of ``count`` of about sqrt(N) groups, which takes about
    (1 + count) / sqrt(N) of the products of a search among all. The pairs have the laws of noise and data as exactly as
    those of ``fit`` do: chi2 + 2 stderr <= tol on fresh draws. They are the optimal ones of the pairs that shortlists
    allow; how near that is to W2^2, ``ShortlistedFit`` tells. ``couplings.Semidiscrete(fit.potential, points)`` draws
    them. Inside of a group of torch.distributed processes share the draws as in ``fit``; the fit is that of one process
    but for draws whose two best scores are equal to rounding.

    Args:
        points: (N, d) or (N, *event), as of ``fit``; searches make two or three copies of the atoms.
        weights: (N,), not negative; equal if None.
        count: groups on a list, at least 1; more than there are groups count as all of them.
        source: law of the noise; standard normal if None.
        tol: tolerance on chi2.
        max_samples: cap on the draws that move the heights, 100 N / tol if None.
        seed: seed of all randomness.
        checkpoint: file to save the run in, as of ``fit``.
        max_memory: bytes for noise and scores.
        progress: show a status line; None shows one on a terminal.

    Raises:
        ValueError: bad data or arguments, a checkpoint of another fit, or processes that were given different ones.
        ConnectionError: another process of the group stopped or failed.
    """
    began = time.perf_counter()
    plain = task_of(points, weights, source, 0.0, None, tol, max_samples, seed, max_memory)
    task = listed(plain, count)
    solution, session = certified(task, None, checkpoint, progress, began, with_shortlist)
    assert isinstance(solution.potential, Shortlisted)  # noqa: S101 - the task has a shortlist
    optimality = 1.0 if solution.quality is None else solution.quality.optimality  # of a single atom
    return ShortlistedFit(potential=solution.potential, optimality=optimality, **record_of(solution, task, session))


def check_shortlist(owner: str, shortlist: int | None, symmetry: Symmetry | None, epsilon: float) -> None:
    """Refuse a shortlist together with what fits on shortlists do not take."""
    if shortlist is not None and (symmetry is not None or epsilon != 0):
        raise ValueError(f"{owner}: a shortlist goes with neither a symmetry nor epsilon")


def listed(task: Task, count: int) -> Task:
    """The task of a fit on lists of so many groups of its atoms.

    Raises:
        ValueError: a count that is no whole number of at least 1.
    """
    number = whole_number(count)
    if number is None or number < 1:
        raise ValueError(f"fit_shortlisted: count must be a whole number of at least 1, got {count!r}")
    return dataclasses.replace(task, listed=number)


def with_shortlist(task: Task, session: Session) -> Task:
    """The task with its shortlist: of a run that is resumed its own, else the first process makes one."""
    state = session.state
    if isinstance(state, StochasticState) and state.shortlist is not None:
        shortlist = on_device(state.shortlist, task.atoms.points.device)
    else:
        shortlist = session.ranks.from_first(lambda: _shortlist(task))
    return dataclasses.replace(task, shortlist=shortlist)


def _shortlist(task: Task) -> Shortlist:
    """Groups of the atoms, and the heights of their centres."""
    atoms, group = task.atoms, _groups(task)
    mass, centres = _masses_and_centres(atoms.points, atoms.weights, group)
    rows = centres.to(working_dtype(atoms.points))
    return Shortlist(group, rows, _heights_of(rows, mass, task), min(task.listed or 1, len(rows)))


def _heights_of(centres: Tensor, mass: Tensor, task: Task) -> Tensor:
    """Of centres (G, d), for cells of these masses (G,); Ctrl-C ends it as it ends the rest of the preparation."""
    atoms = gather_atoms(centres, mass)
    if len(atoms.points) == 1:
        return torch.zeros_like(centres[:, 0])
    problem = SemiDual(atoms.points, atoms.weights, task.source, 0.0, task.max_memory)
    returned = Returned(atoms, task.source, 0.0, problem.rows_at_once)
    tol = min(_COARSE_TOL, _COARSE_SHARE * task.tol)
    run = Run(problem, returned, None, tol, None, ~task.seed, Session(time.perf_counter(), False, None, None))
    while not run.finished:
        run.advance()
    return run.potential.heights[atoms.atom_of_row]


def _groups(task: Task) -> Tensor:
    """The group of each atom, (N,): atoms too light for the draws of the fit join others, which bound their cells."""
    points = ScaledRows(task.atoms.points, *centre_and_radius(task.atoms.points))
    weights = task.atoms.weights
    wanted = EvaluationPlan(len(points), task.tol, 1.0, task.max_samples).wanted
    light = light_among(weights, 1 / wanted, LIGHT_SHARE * task.tol)
    heavy = torch.nonzero(~light)[:, 0]
    halvings = round(0.5 * math.log2(len(heavy)))
    if len(heavy) == len(points):
        return equal_groups(points, weights, halvings)
    group = heavy.new_empty(len(points))
    group[heavy] = equal_groups(points.only(heavy), weights[heavy], halvings)
    centres = _masses_and_centres(points.only(heavy), weights[heavy], group[heavy])[1]
    for rows in torch.nonzero(light)[:, 0].split(_ROWS):
        group[rows] = torch.cdist(points[rows], centres).argmin(1)
    return group


def _masses_and_centres(points: ManyRows, weights: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Of each group, (G,) and (G, d) float64."""
    groups = group_count(group)
    mass = weights.new_zeros(groups).index_add_(0, group, weights)
    total = weights.new_zeros(groups, points.shape[1])
    for rows in row_blocks(points):
        total.index_add_(0, group[rows], weights[rows, None] * points[rows].double())
    return mass, total / mass[:, None]
