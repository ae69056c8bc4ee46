"""Where the heights start: the potential of independent marginals, scaled to fit; or an earlier fit, carried over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.checks import working_dtype
from proxflow.kernels.geometry import covariance_about, distances_from, projected, weighted_sum
from proxflow.measures import draw, is_normal
from proxflow.potentials.discrete import Discrete
from proxflow.potentials.entropic import Entropic
from proxflow.potentials.orbits import atom_of_rows
from proxflow.potentials.shortlisted import Shortlisted
from proxflow.potentials.symmetric import SymmetricDiscrete
from proxflow.seeding import generator_of
from proxflow.semidiscrete.fit_result import FitRecord, ReturnedPotential
from proxflow.semidiscrete.near_copies import NearCopies
from proxflow.semidiscrete.problem import SMALL_GAP, SemiDual, inner
from proxflow.symmetry import Symmetry

__all__ = ["Start", "carried_heights", "marginal_form", "scaled_start"]

_DRAWS = 512  # of a step of the bisection, and of the gaps: a median to about 5%
_BISECTIONS = 8  # steps, after which the scale is known to 1 / 256
_QUANTILE_DRAWS = 1 << 12  # that stand for the marginals of a source that is not normal
_FAR = 16.0  # median distances from the centre; farther atoms count as this far when the axes are chosen
_LEAST_AXES, _PROJECTIONS = 8, 1 << 22  # axes projected on at once, or as many as so many numbers: atoms are read once
_SMALL = (0.05, 0.1, 0.2, 0.35)  # quantiles of gaps that may show more small ones than the median has it
_LEAST_LEVEL = 1e-300  # of a quantile


@dataclass(frozen=True)
class Start:
    """Initial heights (N,), the natural units of height, and the noise samples spent on them.

    ``units`` has one entry for single atoms and one for each level of groups; ``small_gap`` is the gap between best and
    second-best score that few draws fall below.
    """

    heights: Tensor
    units: tuple[float, ...]
    small_gap: float
    samples_used: int


def scaled_start(
    problem: SemiDual,
    groups: list[Tensor],
    copies: NearCopies | None,
    generator: torch.Generator,
    heights: Tensor | None,
) -> Start:
    """Heights s h with h the marginal form and s minimising the convex s -> J(s h), by bisection.

    Given ``heights`` (a warm start) are kept. A unit is a typical gap between the best and the second-best
    score of a draw, plus the smoothing: steps measured in it are invariant to the scale of the data. With ``copies``
    that of single atoms is a gap between these.
    """
    draws = _DRAWS if heights is not None else (1 + _BISECTIONS) * _DRAWS
    first, *others = problem.noise(draws, generator).split(_DRAWS)
    if heights is None:
        form = marginal_form(problem, generator)
        draws += 0 if is_normal(problem.source) else _QUANTILE_DRAWS
        target = float(inner(problem.weights, form))
        low, high = 0.0, 2.0
        for noise in others:
            middle = 0.5 * (low + high)
            slope = target - float(inner(problem.count(noise, middle * form).mass, form))
            low, high = (middle, high) if slope < 0 else (low, middle)
        heights = 0.5 * (low + high) * form
    own = problem.score_gaps(problem.ranks.share(first), heights, groups).double() + problem.epsilon
    gaps = problem.ranks.all_rows(own, len(first))
    small_gap = float(gaps[:, 0].quantile(SMALL_GAP))
    if copies is not None:
        gaps[:, 0] = copies.gaps(first) + problem.epsilon
    start = Start(heights, _typical(gaps), small_gap, draws)
    return problem.ranks.from_first(lambda: start)


def _typical(gaps: Tensor) -> tuple[float, ...]:
    """Of gaps (n, k), for each column: the median, or less where small gaps are more than those of an exponential law.

    A step moves as much mass as the density of gaps at 0 has it. Where groups cut through clusters that density is
    far above what the median tells, and steps in units of the median would set one half of a cluster against the other.
    """
    levels = gaps.new_tensor([*_SMALL, 0.5])
    scales = math.log(0.5) / torch.log1p(-levels)  # of the median to each quantile, of an exponential law
    typical: list[float] = (gaps.quantile(levels, dim=0) * scales[:, None]).amin(0).tolist()
    return tuple(typical)


def marginal_form(problem: SemiDual, generator: torch.Generator) -> Tensor:
    """sum_k psi_k(y_k) over the principal axes, psi_k the Brenier potential of the k-th marginal, (N,).

    It is the optimum where the coordinates are independent, and strictly convex everywhere: no cell is empty. Under a
    symmetry the marginals are those of all images, and the mean over these makes the form invariant.
    """
    mean = problem.mean()
    axes = _principal_axes(problem)
    draws = None if is_normal(problem.source) else problem.noise(_QUANTILE_DRAWS, generator).double()
    weights = problem.weights.repeat(problem.elements) / problem.elements
    form = torch.zeros_like(problem.weights)
    equal, slopes = draws is None and bool((weights == weights[0]).all()), None  # on every axis alike
    for part in axes.mT.split(max(_LEAST_AXES, _PROJECTIONS // len(weights))):
        values = torch.cat([projected(problem.points, mean, moved.mT) for moved in _images(part, problem.symmetry)])
        for axis, column in zip(part, values.mT.contiguous(), strict=True):
            order = column.argsort()
            if slopes is None or not equal:
                slopes = _quantiles_between(weights[order], None if draws is None else inner(draws, axis))
            line = torch.zeros_like(column)
            line[order[1:]] = (column[order].diff() * slopes).cumsum(0)  # piecewise linear, with these slopes
            form += line.reshape(problem.elements, -1).mean(0)
    return form


def _images(rows: Tensor, symmetry: Symmetry | None) -> Tensor:
    """Rows (B, d) under every element, (G, B, d)."""
    if symmetry is None:
        return rows[None]
    return torch.stack([symmetry.apply(rows, element) for element in range(len(symmetry))])


def _principal_axes(problem: SemiDual) -> Tensor:
    """Principal axes (d, k) of some extent; neither a few far atoms nor a few heavy ones hide the others."""
    points, weights = problem.points, problem.weights
    distance = distances_from(points, torch.zeros_like(problem.centre))
    farthest = _FAR * distance[distance > 0].median()
    drawn_in = farthest / distance.clamp(min=farthest)
    share = 0.5 * (weights + 1 / len(weights))
    mean = _images(weighted_sum(share * drawn_in, points)[None], problem.symmetry).mean(0)[0]
    covariance = _averaged(covariance_about(points, share, mean, drawn_in), problem.symmetry)
    variances, axes = torch.linalg.eigh(covariance)
    kept: Tensor = axes[:, variances > 1e-12 * variances[-1]]
    return kept


def _averaged(covariance: Tensor, symmetry: Symmetry | None) -> Tensor:
    """The covariance (d, d) of all images, from that of the rows about a centre that the group leaves in place."""
    if symmetry is None:
        return covariance
    total = torch.zeros_like(covariance)
    for element in range(len(symmetry)):
        total += symmetry.apply(symmetry.apply(covariance, element).mT, element)
    return total / len(symmetry)


def _quantiles_between(weights: Tensor, draws: Tensor | None) -> Tensor:
    """The noise's quantiles at the levels between neighbours on a line, whose weights (N,) come in order, (N - 1,).

    The noise is standard normal, or known by ``draws``.
    """
    below = weights.cumsum(0)[:-1].clamp(min=_LEAST_LEVEL)
    above = weights.flip(0).cumsum(0).flip(0)[1:].clamp(min=_LEAST_LEVEL)
    if draws is None:
        return torch.where(below < above, torch.special.ndtri(below), -torch.special.ndtri(above))
    return torch.quantile(draws, below.clamp(max=1))


_CLOUD = 1 << 12  # samples of the noise that a potential is carried over on
_BLOCK = 1 << 10  # atoms at once


def carried_heights(
    warm_start: FitRecord | ReturnedPotential | Tensor, points: Tensor, symmetry: Symmetry | None = None
) -> Tensor:
    """Heights (N,) in float64 for the distinct atoms (N, d) of a new fit.

    Heights given as a tensor are taken as they are. From a fit or potential, atoms that it knows keep their heights;
    those added or moved get the conjugate of its phi over a cloud of noise, h = max_u <u, y> - phi(u), which leaves
    no cell empty. Under a symmetry an atom is known if an image of it is.

    Raises:
        ValueError: heights of the wrong number or not finite, or a potential of another dimension.
    """
    if isinstance(warm_start, Tensor):
        heights = warm_start.detach().to(points.device, torch.float64)
        if heights.shape != (len(points),) or not bool(torch.isfinite(heights).all()):
            raise ValueError(
                f"fit: warm_start must give {len(points)} finite heights, one per distinct atom, "
                f"got shape {tuple(heights.shape)}; give the earlier Fit where atoms were added or moved"
            )
        return heights
    potential = warm_start.potential if isinstance(warm_start, FitRecord) else warm_start
    if not isinstance(potential, Discrete | Entropic | SymmetricDiscrete | Shortlisted):
        raise ValueError(f"fit: warm_start must be a Fit, a potential or heights, got {type(potential).__name__}")
    if potential.dim != points.shape[1]:
        raise ValueError(f"fit: warm_start has dimension {potential.dim}, the points {points.shape[1]}")
    atoms = potential.points.to(points.device)
    if points.is_floating_point():  # in whole numbers other atoms would become equal to rows
        atoms = atoms.to(points.dtype)
    atom = atom_of_rows(atoms, points, symmetry)
    known = atom >= 0
    heights = potential.heights.to(points.device, torch.float64)[atom.clamp(min=0)]
    if bool(known.all()):
        return heights
    carried = _conjugate_over_cloud(potential, points)
    # The cloud misses the maximum by about as much at known atoms, where the truth is at hand.
    shift = (heights - carried)[known].median() if bool(known.any()) else 0.0
    return torch.where(known, heights, carried + shift)


def _conjugate_over_cloud(potential: ReturnedPotential, points: Tensor) -> Tensor:
    """max over noise u of <u, y> - phi(u) for each row y, (N,) float64."""
    own = potential.points
    generator = generator_of(0, device=own.device)
    cloud = draw(potential.source, _CLOUD, generator, working_dtype(own), own.device)
    levels = potential.conjugate(cloud).detach().to(points.device, torch.float64)
    cloud = cloud.to(points.device, torch.float64)
    return torch.cat([(part.double() @ cloud.mT - levels).amax(1) for part in points.split(_BLOCK)])
