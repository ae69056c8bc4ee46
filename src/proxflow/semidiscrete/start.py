"""Where the heights start: the potential of independent marginals, scaled to fit; or an earlier fit, carried over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.measures import Gaussian
from proxflow.potentials.discrete import Discrete
from proxflow.potentials.entropic import Entropic
from proxflow.seeding import generator_of
from proxflow.semidiscrete.fit_result import Fit
from proxflow.semidiscrete.problem import SMALL_GAP, SemiDual

__all__ = ["Start", "carried_heights", "isolation", "marginal_form", "scaled_start"]

_DRAWS = 512  # of a step of the bisection, and of the gaps: a median to about 5%
_BISECTIONS = 8  # steps, after which the scale is known to 1 / 256
_QUANTILE_DRAWS = 1 << 12  # that stand for the marginals of a source that is not normal
_FAR = 16.0  # median distances from the centre; farther atoms count as this far when the axes are chosen
_NEIGHBOURS = 1 << 8  # atoms among which the nearest is sought
_ROWS = 1 << 14  # atoms at once
_ISOLATED = 4.0  # median distances to the nearest of those, from which an atom counts as isolated
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


def scaled_start(problem: SemiDual, groups: list[Tensor], generator: torch.Generator, heights: Tensor | None) -> Start:
    """Heights s h with h the marginal form and s minimising the convex s -> J(s h), by bisection.

    Given ``heights`` (a warm start) are kept. A unit is the median gap between the best and the second-best
    score of a draw, plus the smoothing: steps measured in it are invariant to the scale of the data.
    """
    draws = _DRAWS if heights is not None else (1 + _BISECTIONS) * _DRAWS
    first, *others = problem.noise(draws, generator).split(_DRAWS)
    if heights is None:
        form = marginal_form(problem, generator)
        draws += 0 if isinstance(problem.source, Gaussian) else _QUANTILE_DRAWS
        target = float(problem.weights @ form)
        low, high = 0.0, 2.0
        for noise in others:
            middle = 0.5 * (low + high)
            slope = target - float(problem.count(noise, middle * form).mass @ form)
            low, high = (middle, high) if slope < 0 else (low, middle)
        heights = 0.5 * (low + high) * form
    own = problem.score_gaps(problem.ranks.share(first), heights, groups).double() + problem.epsilon
    gaps = problem.ranks.all_rows(own, len(first))
    units = tuple(gaps.median(0).values.tolist())
    start = Start(heights, units, float(gaps[:, 0].quantile(SMALL_GAP)), draws)
    return problem.ranks.from_first(lambda: start)


def isolation(points: Tensor) -> Tensor:
    """By how much a step of each atom's height must be longer than a typical one's, (N,) of at least 1.

    The scores of an atom and its neighbours part in proportion to their distance: an atom a million spacings away from
    all others moves the border of its cell a million times less with the same step.
    """
    chosen = torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:_NEIGHBOURS].to(points.device)
    distances = []
    for rows in points.split(_ROWS):
        apart = torch.cdist(rows, points[chosen], compute_mode="donot_use_mm_for_euclid_dist")
        distances.append(torch.where(apart > 0, apart, torch.inf).amin(1))
    nearest = torch.cat(distances)
    return (nearest / (_ISOLATED * nearest.median())).clamp(min=1)


def marginal_form(problem: SemiDual, generator: torch.Generator) -> Tensor:
    """sum_k psi_k(y_k) over the principal axes, psi_k the Brenier potential of the k-th marginal, (N,).

    It is the optimum where the coordinates are independent, and strictly convex everywhere: no cell is empty.
    """
    axes = _principal_axes(problem.points, problem.weights)
    centred = problem.points - problem.weights @ problem.points
    draws = None if isinstance(problem.source, Gaussian) else problem.noise(_QUANTILE_DRAWS, generator).double()
    form = torch.zeros_like(problem.weights)
    for axis in axes.mT:
        form += _line_potential(centred @ axis, problem.weights, None if draws is None else draws @ axis)
    return form


def _principal_axes(points: Tensor, weights: Tensor) -> Tensor:
    """Principal axes (d, k) of some extent; neither a few far atoms nor a few heavy ones hide the others."""
    distance = torch.linalg.vector_norm(points, dim=1)
    farthest = _FAR * distance[distance > 0].median()
    near = points * (farthest / distance.clamp(min=farthest))[:, None]
    share = 0.5 * (weights + 1 / len(weights))
    centred = near - share @ near
    variances, axes = torch.linalg.eigh((centred * share[:, None]).mT @ centred)
    kept: Tensor = axes[:, variances > 1e-12 * variances[-1]]
    return kept


def _line_potential(values: Tensor, weights: Tensor, draws: Tensor | None) -> Tensor:
    """The piecewise linear potential whose slopes are the noise's quantiles at the levels between sorted values.

    The noise is standard normal, or known by ``draws``.
    """
    order = values.argsort()
    below = weights[order].cumsum(0)[:-1].clamp(min=_LEAST_LEVEL)
    above = weights[order].flip(0).cumsum(0).flip(0)[1:].clamp(min=_LEAST_LEVEL)
    if draws is None:
        slopes = torch.where(below < above, torch.special.ndtri(below), -torch.special.ndtri(above))
    else:
        slopes = torch.quantile(draws, below.clamp(max=1))
    heights = torch.zeros_like(values)
    heights[order[1:]] = (values[order].diff() * slopes).cumsum(0)
    return heights


_CLOUD = 1 << 12  # samples of the noise that a potential is carried over on
_BLOCK = 1 << 10  # atoms at once


def carried_heights(warm_start: Fit | Discrete | Entropic | Tensor, points: Tensor) -> Tensor:
    """Heights (N,) in float64 for the distinct atoms (N, d) of a new fit.

    Heights given as a tensor are taken as they are. From a fit or potential, atoms that it knows keep their heights;
    those added or moved get the conjugate of its phi over a cloud of noise, h = max_u <u, y> - phi(u), which leaves
    no cell empty.

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
    potential = warm_start.potential if isinstance(warm_start, Fit) else warm_start
    if not isinstance(potential, Discrete | Entropic):
        raise ValueError(f"fit: warm_start must be a Fit, a potential or heights, got {type(potential).__name__}")
    if potential.dim != points.shape[1]:
        raise ValueError(f"fit: warm_start has dimension {potential.dim}, the points {points.shape[1]}")
    known, place = _known_atoms(potential.points.to(points), points)
    heights = potential.heights.to(points.device, torch.float64)[place]
    if bool(known.all()):
        return heights
    carried = _conjugate_over_cloud(potential, points)
    # The cloud misses the maximum by about as much at known atoms, where the truth is at hand.
    shift = (heights - carried)[known].median() if bool(known.any()) else 0.0
    return torch.where(known, heights, carried + shift)


def _known_atoms(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Which new rows are among the old (N,), and where (N,); 0 where they are not."""
    _, label = torch.unique(torch.cat([old, new]), dim=0, return_inverse=True)
    place = torch.full((int(label.max()) + 1,), -1, device=new.device)
    place[label[: len(old)]] = torch.arange(len(old), device=new.device)
    found = place[label[len(old) :]]
    return found >= 0, found.clamp(min=0)


def _conjugate_over_cloud(potential: Discrete | Entropic, points: Tensor) -> Tensor:
    """max over noise u of <u, y> - phi(u) for each row y, (N,) float64."""
    own = potential.points
    generator = generator_of(0, device=own.device)
    cloud = potential.source.sample(_CLOUD, generator=generator, dtype=own.dtype, device=own.device)
    levels = potential.conjugate(cloud).detach().to(points.device, torch.float64)
    cloud = cloud.to(points.device, torch.float64)
    rows = points.double().split(_BLOCK)
    return torch.cat([(part @ cloud.mT - levels).amax(1) for part in rows])
