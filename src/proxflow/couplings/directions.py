"""How many directions of an optimal map the rows can estimate: what two halves of the data agree on.

The rows are split at random, and each half is coupled with the same noise, in the same k directions. Given the noise u
the halves name two rows, T_A(u) and T_B(u), independent of one another. So the mean of <T_A(u) - E T_A, T_B(u) - E T_B>
over the noise, as a share of the data's variance, is what the map of one half says of rows that it never saw: the
variance of samples that a network can learn to make from the noise in one step. More directions fix more of a row,
until their cells are too many for the rows to tell where they lie. The directions are the principal ones of one half,
then of the other, since those of a half fit its own rows too well.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from proxflow.checks import Numbers, as_tensor, flat_points, point_weights, whole_number, working_dtype
from proxflow.couplings.projected_symmetry import invariant_axes, invariant_count
from proxflow.couplings.semidiscrete_coupling import Semidiscrete
from proxflow.errors import ConvergenceWarning, counted
from proxflow.kernels.equal_rows import first_equal_rows
from proxflow.kernels.geometry import (
    ScaledRows,
    by_blocks,
    principal_axes_about,
    telling_vector,
    weighted_sum,
)
from proxflow.measures import Gaussian
from proxflow.potentials.symmetric import check_symmetry
from proxflow.results import brief_repr
from proxflow.seeding import generator_of
from proxflow.semidiscrete import fit
from proxflow.semidiscrete.fit_result import uninterrupted
from proxflow.symmetry import Symmetry

__all__ = ["DirectionChoice", "check_directions", "choose_directions", "directions_kept_by", "principal_directions"]

COUNTS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)  # about a factor sqrt 2 apart
_DRAWS = 1 << 14  # of noise: a standard error of the agreement below .01
_DRAWS_PER_ROW = 32  # for the heights, chi2 about 0.04: far rougher ones give the agreement to three digits too
_PATIENCE = 2  # counts in a row below the best, after which no larger ones are tried
_LEAST_ROWS = 8  # distinct ones, of which two halves say anything
_ORTHONORMAL = 1e-4  # largest error of directions^T directions
_BLOCK = 1 << 24  # entries of a block of rows
_MIXED = 64  # directions that a symmetry may mix with one another


@brief_repr
@dataclass(frozen=True)
class DirectionChoice:
    """How many directions to couple, and why.

    Attributes:
        directions: (d, k), orthonormal: the first directions of the frame, or principal directions of all rows; k is
            the count of most agreement.
        counts: the numbers of directions tried.
        agreement: (K,) for each of them, the share of the data's variance that the maps of two halves agree on; NaN
            where the rows are too few to be halved.
        error: (K,) its standard error: that of the noise, and half the difference between the two choices of a half
            for the directions.
    """

    directions: Tensor
    counts: tuple[int, ...]
    agreement: Tensor
    error: Tensor

    @property
    def count(self) -> int:
        """Number of directions k."""
        return int(self.directions.shape[1])


def choose_directions(
    points: Numbers,
    weights: Numbers | None = None,
    *,
    frame: Numbers | None = None,
    counts: Sequence[int] = COUNTS,
    max_rows: int = 16384,
    seed: int = 0,
    progress: bool | None = None,
) -> DirectionChoice:
    """The number of directions in which the rows tell most of the optimal map from normal noise.

    Args:
        points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8.
        weights: (N,), not negative; equal if None.
        frame: (d, m), orthonormal columns, the most important first; the principal directions if None.
        counts: numbers of directions to try; those above m or a quarter of the rows are lowered to that.
        max_rows: rows used, drawn at random if there are more. Fewer rows can estimate fewer directions.
        seed: seed of the halves, the noise and the fits.
        progress: progress of the fits; None shows a status line on a terminal.

    Raises:
        ValueError: bad points, weights or frame, or counts that are not whole numbers of at least 1.
    """
    name = "choose_directions"
    flat = flat_points(name, points, stored=True)
    mass = point_weights(name, weights, flat)
    wanted = [whole_number(count) or 0 for count in counts]
    if not wanted or min(wanted) < 1 or (whole_number(max_rows) or 0) < _LEAST_ROWS:
        raise ValueError(
            f"{name}: counts must be whole numbers of at least 1 and max_rows at least {_LEAST_ROWS}, "
            f"got {tuple(counts)!r} and {max_rows!r}"
        )
    columns = None if frame is None else check_directions(name, frame, flat)
    available = flat.shape[1] if columns is None else columns.shape[1]
    halves = _halves(flat, mass, int(max_rows), seed)
    if halves is None or available == 1:
        nothing = torch.full((1,), torch.nan, dtype=torch.float64)
        return DirectionChoice(_leading(flat, mass, 1, columns), (1,), nothing, nothing)
    largest = min(available, max(1, sum(len(half.points) for half in halves) // 4))
    leading = [_leading(half.points, half.weights, min(largest, max(wanted)), columns) for half in halves]
    tried: list[int] = []
    found: list[tuple[float, float]] = []
    for count in sorted({min(count, largest) for count in wanted}):
        tried.append(count)
        found.append(_agreement(halves, [axis[:, :count] for axis in leading], seed, progress))
        best = max(range(len(found)), key=lambda k: found[k][0])
        if len(found) - 1 - best >= _PATIENCE:
            break
    agreement, error = torch.tensor(found, dtype=torch.float64).T
    return DirectionChoice(_leading(flat, mass, tried[best], columns), tuple(tried), agreement, error)


def principal_directions(
    points: Numbers, count: int, weights: Numbers | None = None, *, symmetry: Symmetry | None = None
) -> Tensor:
    """The directions of largest variance of the rows, (d, count), orthonormal columns, of the points' dtype and device.

    Args:
        points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8.
        count: how many, from 1 to d.
        weights: (N,), not negative; equal if None.
        symmetry: a group, whose images of the rows are rows, too; it maps the span of the directions to itself. This
            takes an eigenproblem in d coordinates.

    Raises:
        ValueError: bad points or weights, a count out of range, or one that parts directions which the symmetry mixes.
    """
    name = "principal_directions"
    flat = flat_points(name, points, stored=True)
    mass = point_weights(name, weights, flat)
    dim, number = flat.shape[1], whole_number(count)
    if number is None or not 1 <= number <= dim:
        raise ValueError(
            f"{name}: the number of directions must be between 1 and the {counted(dim, 'coordinate')}, got {count!r}"
        )
    if symmetry is not None:
        check_symmetry(name, symmetry, np.shape(points)[1:])
        kept = directions_kept_by(symmetry, flat, mass, number)
        if kept.shape[1] != number:
            raise ValueError(f"{name}: the symmetry mixes direction {number} with the next ones; take {kept.shape[1]}")
        return kept
    axes = principal_axes_about(flat, mass, weighted_sum(mass, flat), number)
    return axes.to(working_dtype(flat)).contiguous()


def directions_kept_by(symmetry: Symmetry, points: Tensor, weights: Tensor, count: int) -> Tensor:
    """``count`` principal directions of rows (N, d) with their images, or as many fewer, or else more, as it takes for
    the group to map their span to itself, (d, k)."""
    axes = invariant_axes(points, weights, symmetry, min(points.shape[1], 2 * count + _MIXED))
    kept = invariant_count(symmetry, axes, count)
    if kept == 0:
        raise ValueError(
            f"the symmetry mixes the first {axes.shape[1]} principal directions with others; give a frame that it keeps"
        )
    return axes[:, :kept].to(working_dtype(points)).contiguous()


def _leading(points: Tensor, weights: Tensor, count: int, frame: Tensor | None) -> Tensor:
    """The first directions of a frame, or else the principal ones of the points."""
    if frame is None:
        return principal_directions(points, count, weights)
    return frame[:, :count].to(working_dtype(points)).contiguous()


def check_directions(caller: str, directions: Numbers, points: Tensor) -> Tensor:
    """Directions (d, k) of flat points (N, d), as a tensor of their device and of the dtype of pairs.

    Raises:
        ValueError: another shape, not finite, or columns that are not orthonormal.
    """
    frame = as_tensor(caller, "directions", directions).detach().to(points.device, working_dtype(points)).contiguous()
    dim = points.shape[1]
    if frame.ndim != 2 or len(frame) != dim or not 1 <= frame.shape[1] <= dim:
        raise ValueError(
            f"{caller}: directions must be (d, k) with d = {dim} entries a point and k at most d, got "
            f"{tuple(frame.shape)}"
        )
    exact = frame.double()
    off = (exact.T @ exact - torch.eye(frame.shape[1], dtype=torch.float64, device=frame.device)).abs().max()
    if not float(off) <= _ORTHONORMAL:
        raise ValueError(
            f"{caller}: the columns of directions must be orthonormal, W^T W misses the identity by {float(off):.2g}; "
            "torch.linalg.qr(directions).Q makes them so"
        )
    return frame


@dataclass(frozen=True)
class _Half:
    """Distinct rows (n, d) in float64, centred, in units of the largest coordinate, and weights (n,) of sum 1."""

    points: Tensor
    weights: Tensor

    @property
    def variance(self) -> float:
        """E|X - E X|^2."""
        return float(self.weights @ self.points.square().sum(1))


def _halves(flat: Tensor, mass: Tensor, max_rows: int, seed: int) -> tuple[_Half, _Half] | None:
    """Two halves of the distinct rows, none in both; None where there are too few, or all are one.

    They depend on neither the order nor the unit of the rows: what is drawn are places along a fixed direction.
    """
    first_row, of_row = first_equal_rows(flat)
    total = torch.zeros(len(first_row), dtype=torch.float64, device=flat.device).index_add_(0, of_row, mass)
    kept = torch.nonzero(total > 0)[:, 0]
    if len(kept) < _LEAST_ROWS:
        return None
    scaled = ScaledRows.in_units(flat)
    along = by_blocks(scaled, lambda rows: rows @ telling_vector(flat))
    kept = kept[along[first_row[kept]].argsort()]
    order = torch.randperm(len(kept), generator=generator_of(seed, 0)).to(kept.device)[:max_rows]
    parts = [kept[order[start::2]] for start in (0, 1)]
    points = [scaled[first_row[part]] for part in parts]
    weights = [total[part] / total[part].sum() for part in parts]
    first, second = (_Half(rows - weight @ rows, weight) for rows, weight in zip(points, weights, strict=True))
    return (first, second) if min(first.variance, second.variance) > 0 else None


def _agreement(
    halves: tuple[_Half, _Half], frames: Sequence[Tensor], seed: int, progress: bool | None
) -> tuple[float, float]:
    """The agreement in the directions (d, k) of each half, and its standard error."""
    noise = Gaussian(frames[0].shape[1]).sample(
        _DRAWS, generator=generator_of(seed, 1), dtype=torch.float64, device=halves[0].points.device
    )
    scale = math.sqrt(halves[0].variance * halves[1].variance)
    products, chance = [], generator_of(seed, 2)
    for directions in frames:
        rows = [_row_of(noise, each, directions, seed, chance, progress) for each in halves]
        products.append(_products(halves, rows) / scale)
    means = [float(product.mean()) for product in products]
    of_noise = [float(product.var()) / _DRAWS for product in products]
    error = math.hypot(math.sqrt(max(of_noise)), 0.5 * (means[0] - means[1]))
    return sum(means) / 2, error


def _row_of(
    noise: Tensor, half: _Half, directions: Tensor, seed: int, chance: torch.Generator, progress: bool | None
) -> Tensor:
    """The row of a half that each noise point (M, k) goes to, (M,); of rows with the same coordinates one by chance."""
    features = (half.points @ directions).float()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # an early end changes the agreement by less than its error
        draws = _DRAWS_PER_ROW * len(features)
        found = fit(features, half.weights, tol=1 / _DRAWS_PER_ROW, max_samples=draws, seed=seed, progress=progress)
    coupling = Semidiscrete(uninterrupted(found).potential, features, weights=half.weights)
    return coupling.rows_for(noise.to(features.dtype), generator=chance)


def _products(halves: tuple[_Half, _Half], rows: Sequence[Tensor]) -> Tensor:
    """<T_A(u), T_B(u)> for each noise point, less the product of the means, (M,)."""
    means = [half.points[row].mean(0) for half, row in zip(halves, rows, strict=True)]
    size = max(1, _BLOCK // halves[0].points.shape[1])
    products = [
        (halves[0].points[a] * halves[1].points[b]).sum(1)
        for a, b in zip(rows[0].split(size), rows[1].split(size), strict=True)
    ]
    return torch.cat(products) - means[0] @ means[1]
