"""Which rows are coupled together under a condition, and what conditions cost that are not kept apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from proxflow.checks import Numbers, point_weights, real_number
from proxflow.couplings.joint_conditional import NoiseAndCondition
from proxflow.couplings.pairs import Rows
from proxflow.kernels.equal_rows import row_coordinates
from proxflow.kernels.geometry import ScaledRows, covariance_about, largest_entry, weighted_sum
from proxflow.measures import Empirical, Source, Uniform, draw, draw_rows, is_normal
from proxflow.seeding import generator_of

__all__ = ["Group", "Groups", "checked_strength", "groups_of", "places_of_groups", "weights_of"]

_MOST_ROWS = 2048  # that say how far points spread, if they have more coordinates
_MOST_COLUMNS = 2048  # of a covariance of all rows, which takes as long as a few steps of a fit
_DRAWS = 8192  # of a source whose covariance is not known: two digits


@dataclass(frozen=True)
class Groups:
    """Which rows are coupled together: of each row the name of its group, (N,) int64, and of each group its rows."""

    of_row: Tensor
    members: dict[int, Tensor]


@dataclass(frozen=True)
class Group:
    """The rows of a group, in the coupled directions.

    Attributes:
        flat: (n, d) its points.
        directions: (d, k), or None.
        rows: the points (n, k) that are coupled, with their weights.
        features: (n, m) of the conditions that cost, or None.
        noise: its law, standard normal if None, as it is wherever directions are given.
    """

    flat: Tensor
    directions: Numbers | None
    rows: Rows
    features: Tensor | None
    noise: Source | None

    @classmethod
    def of(
        cls,
        data: Rows,
        rows: Tensor,
        directions: Numbers | None,
        strength: tuple[float, ...],
        source: Source | None = None,
    ) -> Self:
        """Those of some rows of the data, for noise of the source, or standard normal noise."""
        flat = data.flat[rows]
        coupled = flat
        if directions is not None:
            coupled = row_coordinates(flat, torch.as_tensor(directions).to(flat.device, data.dtype))
        own = Rows("Conditional", coupled, None, weights_of(data, rows))
        columns = [column[rows] for column in _columns(data)]
        if len(strength) == 1:
            costs = [(strength[0], columns)]
        else:
            costs = [(each, [column]) for each, column in zip(strength, columns, strict=True)]
        soft = [cost for cost in costs if cost[0] < math.inf]
        noise = source if directions is None else None
        return cls(flat, directions, own, _condition_features(soft, own, noise), noise)

    @property
    def joined(self) -> Tensor:
        """What is fitted: the points, and the conditions that cost."""
        return self.rows.flat if self.features is None else torch.cat([self.rows.flat, self.features], dim=1)

    @property
    def joint_source(self) -> Source | None:
        """Its noise, and a condition drawn apart; None for normal noise alone."""
        if self.features is None:
            return self.noise
        return NoiseAndCondition(self.rows.source_or_normal(self.noise), Empirical(self.features, self.rows.weights))


def groups_of(data: Rows, strength: tuple[float, ...]) -> Groups:
    """The rows that agree in the conditions that are kept apart, ascending.

    Raises:
        ValueError: no row of a group has a weight.
    """
    columns = _columns(data)
    kept_apart = (
        columns
        if strength == (math.inf,)
        else [column for column, each in zip(columns, strength, strict=False) if each == math.inf]
    )
    if data.labels is not None and data.labels.ndim == 1 and kept_apart:
        of_row = kept_apart[0].to(torch.int64)
    elif kept_apart:
        of_row = torch.unique(torch.stack(kept_apart, 1), dim=0, return_inverse=True)[1]
    else:
        of_row = torch.zeros(len(data), dtype=torch.int64, device=data.flat.device)
    members = dict(places_of_groups(of_row))
    if data.weights is not None:
        empty = [label for label, rows in members.items() if not bool(data.weights[rows].any())]
        if empty:
            raise ValueError(f"Conditional: all rows of the classes {empty[:5]} have weight zero; leave them out")
    return Groups(of_row, members)


def places_of_groups(group: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Each group that is named in (n,) int64, ascending, with the places of its name, ascending, (m,) int64."""
    order = group.argsort(stable=True)
    names, counts = torch.unique_consecutive(group[order], return_counts=True)
    yield from zip(names.tolist(), order.split(counts.tolist()), strict=True)


def _columns(data: Rows) -> list[Tensor]:
    """The conditions one by one: each column of labels (N, k), or (N,) by itself."""
    labels = data.labels
    if labels is None:
        return []
    return [labels] if labels.ndim == 1 else list(labels.flatten(1).unbind(1))


def checked_strength(data: Rows, strength: float | Sequence[float]) -> tuple[float, ...]:
    """One strength for all columns of the labels, or one for each.

    Raises:
        ValueError: a strength below 0 or none, another number of them than of columns, or labels that cannot be kept
            apart or have no distance.
    """
    given = tuple(strength) if isinstance(strength, Sequence | Tensor) else (strength,)
    found, columns = tuple(real_number(each) for each in given), _columns(data)
    if not found or not min(found) >= 0 or any(map(math.isnan, found)):
        raise ValueError(
            f"Conditional: strength must be a number of at least 0, or one for each condition, got {strength!r}"
        )
    if len(found) > 1 and len(found) != len(columns):
        raise ValueError(
            f"Conditional: {len(found)} strengths for {len(columns)} conditions; give one for each, or one for all"
        )
    each = found * len(columns) if len(found) == 1 else found
    if found == (math.inf,) and (data.labels is None or data.labels.ndim > 2 or data.labels.is_floating_point()):
        got = "None" if data.labels is None else f"{tuple(data.labels.shape)} of {data.labels.dtype}"
        raise ValueError(
            f"Conditional: labels must be (N,) or (N, k) whole numbers, got {got}; "
            "for continuous conditions give a finite strength=, or use couplings.JointConditional"
        )
    if not columns:
        raise ValueError("Conditional: labels must be given, got None; couplings.Semidiscrete takes none")
    for column, one in zip(columns, each, strict=True):
        if not bool(torch.isfinite(column).all()):
            raise ValueError("Conditional: labels must be finite; drop the rows that are not")
        if one == math.inf and not _is_whole(column):
            raise ValueError("Conditional: labels that are kept apart (strength inf) must be whole numbers of int64")
    return found


def _is_whole(column: Tensor) -> bool:
    """Whether conditions (N,) are whole numbers that int64 holds, as names of classes."""
    if column.is_floating_point():
        return bool((column == column.to(torch.int64)).all())
    return column.dtype != torch.uint64 or bool((column.to(torch.int64) >= 0).all())


def weights_of(data: Rows, rows: Tensor) -> Tensor | None:
    """The weights of some rows; None where all are equal."""
    return None if data.weights is None else data.weights[rows]


def _condition_features(
    groups: Sequence[tuple[float, Sequence[Tensor]]], rows: Rows, source: Source | None
) -> Tensor | None:
    """Features (N, m) such that |f(c) - f(c')|^2 costs, for unrelated conditions, strength x the saving on average.

    The saving is what optimal pairs of normal laws, of the covariances of noise and data, cost less than independent
    ones. Whole numbers are classes, of which all that differ are equally far apart.

    Args:
        groups: a strength, and the conditions (N,) whose squared distances it weighs together.
        rows: the points and their weights.
        source: of the noise; standard normal if None.

    Returns:
        None where nothing is left that costs: strengths of 0, conditions that are all the same.
    """
    found = []
    for strength, columns in groups:
        features = torch.cat([_plain_features(column, rows) for column in columns], dim=1).double()
        unrelated = 2 * float(rows.mass @ (features - rows.mass @ features).square().sum(1))
        if strength > 0 and unrelated > 0:
            found.append((features, strength, unrelated))
    if not found:
        return None
    saving = _saving(rows, source)
    scaled = [features * (strength * saving / unrelated) ** 0.5 for features, strength, unrelated in found]
    return torch.cat(scaled, dim=1).to(rows.dtype)


def _plain_features(column: Tensor, rows: Rows) -> Tensor:
    """Numbers as they are, (N, 1); a class as a corner of a simplex of side 1, (N, classes)."""
    if column.is_floating_point():
        return column[:, None].to(rows.flat.device, rows.dtype)
    classes, place = torch.unique(column, return_inverse=True)
    return torch.nn.functional.one_hot(place, len(classes)).to(rows.flat.device, rows.dtype) / 2**0.5


def _saving(rows: Rows, source: Source | None = None) -> float:
    """2 tr (C^(1/2) S C^(1/2))^(1/2) of the covariances S of the rows and C of the source (Gelbrich, 1990).

    With S = A' A and C = F' F that is twice the sum of the singular values of A F'.
    """
    return 2 * float(torch.linalg.svdvals(_times_root(_covariance_root(rows.flat, rows.mass), source)).sum())


def _times_root(rows: Tensor, source: Source | None) -> Tensor:
    """A F' for rows A (m, d) and any F such that F' F is the covariance of the source, standard normal if None."""
    if source is None or is_normal(source):
        return rows
    if isinstance(source, Uniform):
        return rows * ((source.high - source.low) / 12**0.5)
    if isinstance(source, Empirical):
        root = _covariance_root(source.points.to(rows.device), source.weights.to(rows.device))
        return torch.cat([rows @ root.mT, source.bandwidth * rows], 1)
    count = _MOST_ROWS if source.dim > _MOST_COLUMNS else _DRAWS
    draws = draw(source, count, generator_of(0), rows.dtype, rows.device)
    return rows @ _covariance_root(draws, point_weights("Conditional", None, draws)).mT


def _covariance_root(points: Tensor, mass: Tensor) -> Tensor:
    """A (m, d) float64, m at most 2,048, with A' A the covariance of points (N, d), whatever their order.

    Above 2,048 points and as many coordinates it is that of 2,048 draws of them: as their rank is smaller, the sum of
    singular values is too small by a quarter for data without structure, by less for others.
    """
    many = len(points) > _MOST_ROWS
    if many and points.shape[1] <= _MOST_COLUMNS:
        mean, unit = weighted_sum(mass, points), largest_entry(points).clamp(min=torch.finfo(torch.float64).tiny)
        covariance = covariance_about(ScaledRows(points, mean, unit), mass, torch.zeros_like(mean))
        values, axes = torch.linalg.eigh(covariance)
        root: Tensor = unit * values.clamp(min=0).sqrt()[:, None] * axes.mT
        return root
    if many:
        points = points[draw_rows(mass, _MOST_ROWS, generator_of(0))]
        mass = point_weights("Conditional", None, points)
    points, mass = points.double(), mass / mass.sum()
    return (points - mass @ points) * mass.sqrt()[:, None]
