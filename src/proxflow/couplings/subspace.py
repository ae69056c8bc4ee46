"""Optimal pairs in a few directions: what finitely many rows can tell about the optimal map, and no more.

The optimal map to n rows in R^d estimates the map to the law behind them at a rate like n^(-1/d): beyond a few
directions it is cut into cells that new data would not confirm, and that no network can follow. So the noise is coupled
in the directions that the rows can estimate, and left independent of the data in the others (Monge-independent
coupling, Muzellec & Cuturi, "Subspace detours", NeurIPS 2019). Noise and data keep their laws and the law of the pairs
is fixed, so that training on these pairs is exact in law whatever the directions.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Self

import torch
from torch import Tensor

from proxflow.checks import Numbers, whole_number
from proxflow.couplings.directions import (
    DirectionChoice,
    check_directions,
    choose_directions,
    directions_kept_by,
    principal_directions,
)
from proxflow.couplings.noise_pool import WAITING, NoiseLaw
from proxflow.couplings.pairs import Pairs, Rows, check_count
from proxflow.couplings.projected_symmetry import ProjectedSymmetry, invariant_count
from proxflow.couplings.semidiscrete_coupling import Semidiscrete, rounded_alike
from proxflow.couplings.stream import Coupling, batch_of
from proxflow.errors import counted
from proxflow.kernels.equal_rows import row_coordinates
from proxflow.kernels.geometry import coordinates
from proxflow.measures import Gaussian
from proxflow.potentials import AtomicPotential, SymmetricDiscrete
from proxflow.potentials.symmetric import check_symmetry
from proxflow.seeding import generator_of, own_generator
from proxflow.semidiscrete import Fit, ShortlistedFit, fit, fit_shortlisted
from proxflow.semidiscrete.shortlist_fit import check_shortlist
from proxflow.symmetry import Symmetry
from proxflow.torch_support import in_full_precision

__all__ = ["Subspace", "first_directions"]

_OTHER_SYMMETRY = (
    "Subspace: the coupling must have the symmetry of the points as it acts on their coordinates, or neither have one; "
    "Subspace.fit(points, symmetry=...) fits such a coupling"
)
_OTHER_DIRECTIONS = (0, 0)  # number the generator of a batch's independent noise, apart from that of its pairs


class Subspace:
    """Noise coupled with the data in k directions, independent of them in the other d - k.

    x0 = W z + (I - W W^T) g, where z in R^k is paired with a row by another coupling, and g is fresh noise.
    ``Subspace.fit(points)`` fits a ``Semidiscrete`` coupling of the data's coordinates in principal directions, as many
    as the rows can estimate. The coupling in R^k may be any other: a ``Conditional`` one or a ``Minibatch`` of
    ``points @ directions``, an entropic one, or one of features of the rows (an encoder's latents, say). The pairs are
    exact in law for all of them; that their cost is small takes features that say where in the k directions a row is.

    With a symmetry targets are images of rows (rows moved by a uniform element of the group, in law), ``index`` and
    ``label`` those of the row; the coupling is one of the coordinates under the group as it acts on them.

    Args:
        coupling: coupling of standard normal noise in R^k with the rows, in their order.
        points: (N, *event), the rows; finite, on the coupling's device, with pairs of its dtype.
        directions: (d, k), orthonormal columns in the flat space of the points.
        symmetry: the group on the points, where the coupling has one: it is that of ``directions^T g directions``.

    Attributes:
        selection: how ``fit`` chose the number of directions; None where it was given.
        record: what ``fit`` fitted in these: chi2, and by shortlists how near to optimal the pairs are; else None.

    Raises:
        ValueError: bad points or directions, or a coupling of other rows, another noise, dimension or symmetry.
    """

    selection: DirectionChoice | None = None
    record: Fit | ShortlistedFit | None = None

    def __init__(
        self, coupling: Coupling, points: Numbers, directions: Numbers, *, symmetry: Symmetry | None = None
    ) -> None:
        inner = getattr(coupling, "rows", None)
        if not isinstance(inner, Rows):
            raise ValueError(
                f"Subspace: the coupling must be one of proxflow's, of the rows' coordinates, got {_name(coupling)}"
            )
        self.rows = Rows("Subspace", points, inner.labels)
        self.directions = check_directions("Subspace", directions, self.rows.flat)
        k = self.directions.shape[1]
        if (len(inner), inner.dim) != (len(self.rows), k) or inner.dtype != self.rows.dtype:
            raise ValueError(
                f"Subspace: the coupling has {len(inner)} rows of {inner.dim} {inner.dtype} entries, the points "
                f"{len(self.rows)} rows of {self.rows.dtype} and {k} directions; couple points @ directions"
            )
        if getattr(coupling, "source", None) != Gaussian(k):
            raise ValueError(
                f"Subspace: the noise of the coupling must be standard normal in {counted(k, 'dimension')}"
            )
        self.coupling: Any = coupling
        self.source = Gaussian(self.rows.dim)
        self._images = _projected(symmetry, self.rows, self.directions)
        group = getattr(coupling, "symmetry", None)
        if not (group is None if self._images is None else self._images.acts_as(group)):
            raise ValueError(_OTHER_SYMMETRY)
        self._centre = None if group is None else group.invariant_part(inner.flat.double().mean(0, keepdim=True))

    @classmethod
    def fit(
        cls,
        points: Numbers,
        dim: int | None = None,
        *,
        labels: Numbers | None = None,
        frame: Numbers | None = None,
        weights: Numbers | None = None,
        symmetry: Symmetry | None = None,
        epsilon: float = 0.0,
        shortlist: int | None = None,
        tol: float = 1e-2,
        seed: int = 0,
        checkpoint: str | os.PathLike[str] | None = None,
        progress: bool | None = None,
    ) -> Self:
        """Fit a semidiscrete coupling in the first directions of a frame.

        Args:
            points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8: pairs are then
                float32.
            dim: number of directions, from 1 to those of the frame; if None, as many as ``choose_directions`` finds.
            labels: (N,) or (N, k), or None. For a network that is told a class, ``Conditional.fit(directions=...)``.
            frame: (d, m), orthonormal columns, of which the first ``dim`` are taken; the principal directions if None.
            weights: (N,), of the rows; equal if None.
            symmetry: a group, as ``symmetry.HorizontalFlip((C, H, W))``, whose images of rows are data, too. Directions
                are then the principal ones of rows and images; of the number that is chosen, by the rows alone, as many
                fewer (else more) are taken as it takes for the group to map their span to itself.
            epsilon: epsilon of the fit, in units of the scores; see ``semidiscrete.fit``.
            shortlist: for very many rows on a CPU: pairs are nearly optimal, each noise vector searched among that many
                groups of rows, of about sqrt(N); 16, say. See ``semidiscrete.fit_shortlisted``.
            tol: tolerance on chi2 of the fit.
            seed: seed of the choice and the fit.
            checkpoint: file to save the fit in, as of ``semidiscrete.fit``; directions are chosen again.
            progress: show a status line; None shows one on a terminal.

        Raises:
            ValueError: bad data or arguments, a shortlist with a symmetry or epsilon, or a number of directions of
                which the symmetry mixes some with others.
        """
        rows = Rows("Subspace", points, labels, weights)
        if symmetry is not None:
            check_symmetry("Subspace", symmetry, rows.event_shape)
        check_shortlist("Subspace.fit", shortlist, symmetry, epsilon)
        selection = None
        if dim is not None:
            found = first_directions(rows, dim, frame, symmetry)
        else:
            selection = choose_directions(rows.flat, rows.weights, frame=frame, seed=seed, progress=progress)
            if symmetry is not None:
                kept = _kept_of(rows, selection.count, frame, symmetry)
                selection = dataclasses.replace(selection, directions=kept)
            found = selection.directions
        images = _projected(symmetry, rows, found)
        features = _features(rows, found, images)
        options: dict[str, Any] = {"tol": tol, "seed": seed, "checkpoint": checkpoint, "progress": progress}
        record: Fit | ShortlistedFit
        if shortlist is not None:
            record = fit_shortlisted(features, rows.weights, count=shortlist, **options)
        else:
            group = None if images is None else images.group
            record = fit(features, rows.weights, symmetry=group, epsilon=epsilon, **options)
        potential = record.potential
        fitted = cls.from_potential(potential, points, found, labels, weights=rows.weights, symmetry=symmetry)
        fitted.selection, fitted.record = selection, record
        return fitted

    @classmethod
    def from_potential(
        cls,
        potential: AtomicPotential | SymmetricDiscrete,
        points: Numbers,
        directions: Numbers,
        labels: Numbers | None = None,
        *,
        weights: Numbers | None = None,
        symmetry: Symmetry | None = None,
        max_memory: int = WAITING,
    ) -> Self:
        """The coupling of a potential that was fitted to ``points @ directions``, with its rounding or another's.

        With a symmetry it is one that ``Subspace.fit`` fitted, to coordinates about the mean of rows and images.

        Args:
            potential: as fitted.
            points: (N, *event), the rows that it was fitted to.
            directions: (d, k), orthonormal columns.
            labels: (N,) or (N, k), or None.
            weights: (N,), of the rows, as given to the fit; equal if None.
            symmetry: the group on the points, as given to ``Subspace.fit``; None if the potential has no symmetry.
            max_memory: bytes of noise that wait for their row to be asked for.

        Raises:
            ValueError: bad points or directions, or a potential of other points, weights or symmetry.
        """
        rows = Rows("Subspace", points, labels)
        if isinstance(potential, SymmetricDiscrete) != (symmetry is not None):
            raise ValueError(_OTHER_SYMMETRY)
        frame = check_directions("Subspace", directions, rows.flat)
        features = rounded_alike(_features(rows, frame, _projected(symmetry, rows, frame)), potential.points)
        coupling = Semidiscrete(potential, features, labels, weights=weights, max_memory=max_memory)
        return cls(coupling, points, frame, symmetry=symmetry)

    def __repr__(self) -> str:
        return self.rows.described(counted(self.dim, "direction"))

    @property
    def symmetry(self) -> Symmetry | None:
        """The group whose images of rows are the targets; None where these are rows."""
        return None if self._images is None else self._images.symmetry

    @property
    def dim(self) -> int:
        """Number of coupled directions."""
        return int(self.directions.shape[1])

    @property
    def potential(self) -> AtomicPotential | SymmetricDiscrete:
        """The potential of the coupling in R^k, where it has one; ``proxflow.save`` keeps it."""
        potential: AtomicPotential | SymmetricDiscrete = self.coupling.potential
        return potential

    @property
    def deterministic(self) -> bool:
        """Whether the noise decides the point, as it does in all directions; in fewer it decides a part of it."""
        all_directions = self.directions.shape[0] == self.directions.shape[1]
        return all_directions and bool(getattr(self.coupling, "deterministic", False))

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        group = [] if self.symmetry is None else self.symmetry.tensors
        return [*self.coupling.tensors, self.rows.flat, self.directions, *group]

    @property
    def noise_law(self) -> NoiseLaw:
        """How exact what ``noise_for`` has given so far is."""
        law: NoiseLaw = self.coupling.noise_law
        return law

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs: noise and row of the coupling in R^k, and fresh noise in the other directions.

        Raises:
            ValueError: n is no whole number of at least 1.
        """
        check_count("Subspace", n)
        generator = own_generator(generator)
        return self._completed(self.coupling.sample(n, generator=generator), generator)

    def batch(self, number: int, n: int, seed: int) -> Pairs:
        """Batch ``number`` of n pairs of an endless sequence, whatever was drawn before."""
        pairs = batch_of(self.coupling, number, n, seed)
        return self._completed(pairs, generator_of(seed, number, *_OTHER_DIRECTIONS))

    def pairs_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Pairs:
        """Pairs of given rows, for loops that visit the data in epochs; with a symmetry targets are images of them.

        See ``Semidiscrete.pairs_for``.

        Raises:
            ValueError: as of ``noise_for``, but for the symmetry.
        """
        if self.symmetry is None:
            rows = self.rows.checked_index(index)
            return self.rows.pairs(self.noise_for(rows, generator=generator).flatten(1), rows)
        generator = own_generator(generator)
        pairs = self.coupling.pairs_for(index, generator=generator)
        return self._completed(pairs, generator)

    def rows_for(self, noise: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """The row for each source point (n, *event), (n,) int64: that of its k coordinates in the directions.

        See ``Semidiscrete.rows_for``.

        Raises:
            ValueError: as there, or the coupling in R^k has no rows for given noise, as a ``Minibatch`` has none.
        """
        self._check_rows_for()
        z = coordinates(self.rows.checked_noise(noise), self.directions)
        rows: Tensor = self.coupling.rows_for(z, generator=generator)
        return rows

    @property
    def row_weights(self) -> Tensor:
        """How often each row is to come, (N,) float64 of sum 1."""
        self._check_rows_for()
        weights: Tensor = self.coupling.row_weights
        return weights

    def noise_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """Source points of given rows, (len(index), *event).

        See ``Semidiscrete.noise_for``; what waits there to be asked for takes k numbers a draw.

        Raises:
            ValueError: as there, or the coupling in R^k has no noise for given rows, as a ``Minibatch`` has none.
        """
        if not hasattr(self.coupling, "noise_for"):
            raise ValueError(
                f"Subspace: {_name(self.coupling)} pairs what it draws itself and has no noise for given rows; "
                "Semidiscrete and Conditional have"
            )
        generator = own_generator(generator)
        z = self.coupling.noise_for(index, generator=generator)
        return self._noise(z.flatten(1), generator).reshape(len(z), *self.rows.event_shape)

    def _check_rows_for(self) -> None:
        if not hasattr(self.coupling, "rows_for"):
            raise ValueError(
                f"Subspace: {_name(self.coupling)} pairs what it draws itself and has no rows for given noise; "
                "Semidiscrete and Conditional have"
            )

    def _completed(self, pairs: Pairs, generator: torch.Generator | None) -> Pairs:
        """The same pairs in the space of the points."""
        noise, target = self._noise(pairs.source.flatten(1), generator), None
        if self._images is not None and self._centre is not None:
            rows = self.rows.targets(pairs.index)
            place = pairs.target.flatten(1).double() - self._centre
            target = self._images.symmetry.apply(rows, self._images.elements(rows, place, generator))
        lifted = self.rows.pairs(noise, pairs.index, target)
        return Pairs(lifted.source, lifted.target, pairs.index, pairs.label)

    @in_full_precision
    def _noise(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """W z + (I - W W^T) g for fresh noise g, (n, d)."""
        frame = self.directions
        if frame.shape[0] == frame.shape[1]:
            return z @ frame.T
        g = self.rows.draw_noise(self.source, len(z), generator)
        return torch.addmm(g, z - g @ frame, frame.T)


def first_directions(
    rows: Rows, dim: int | None, frame: Numbers | None = None, symmetry: Symmetry | None = None
) -> Tensor:
    """The first ``dim`` columns of a frame (d, m), all if None; of the principal directions without a frame.

    Raises:
        ValueError: a frame that is none, or a number out of its range.
    """
    if frame is None:
        return principal_directions(rows.flat, rows.dim if dim is None else dim, rows.weights, symmetry=symmetry)
    columns = check_directions(rows.name, frame, rows.flat)
    number = columns.shape[1] if dim is None else whole_number(dim)
    if number is None or not 1 <= number <= columns.shape[1]:
        raise ValueError(f"{rows.name}: dim must be between 1 and the {columns.shape[1]} of the frame, got {dim!r}")
    return columns[:, :number].contiguous()


def _kept_of(rows: Rows, count: int, frame: Numbers | None, symmetry: Symmetry) -> Tensor:
    """About ``count`` directions that the symmetry keeps: the first of a frame, or else principal ones."""
    if frame is None:
        return directions_kept_by(symmetry, rows.flat, rows.mass, count)
    columns = check_directions("Subspace", frame, rows.flat)
    return columns[:, : invariant_count(symmetry, columns, count) or count].contiguous()


def _projected(symmetry: Symmetry | None, rows: Rows, directions: Tensor) -> ProjectedSymmetry | None:
    """The symmetry as it acts in the directions; None if there is none."""
    if symmetry is None:
        return None
    check_symmetry("Subspace", symmetry, rows.event_shape)
    return ProjectedSymmetry("Subspace", symmetry, directions, rows.flat)


def _features(rows: Rows, directions: Tensor, images: ProjectedSymmetry | None) -> Tensor:
    """Coordinates (N, k) of the rows, about a centre where there is a symmetry."""
    return row_coordinates(rows.flat, directions) if images is None else images.features(rows.flat).to(rows.dtype)


def _name(value: object) -> str:
    return type(value).__name__
