"""Optimal pairs in a few directions: what finitely many rows can tell about the optimal map, and no more.

The optimal map to n rows in R^d estimates the map to the law behind them at a rate like n^(-1/d): beyond a few
directions it is cut into cells that new data would not confirm, and that no network can follow. So the noise is coupled
in the directions that the rows can estimate, and left independent of the data in the others (Monge-independent
coupling, Muzellec & Cuturi, "Subspace detours", NeurIPS 2019). Noise and data keep their laws and the law of the pairs
is fixed, so that training on these pairs is exact in law whatever the directions.
"""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor

from proxflow.checks import Numbers, whole_number
from proxflow.couplings.directions import DirectionChoice, check_directions, choose_directions, principal_directions
from proxflow.couplings.noise_pool import NoiseLaw
from proxflow.couplings.pairs import Pairs, Rows, check_count
from proxflow.couplings.semidiscrete_coupling import Semidiscrete, rounded_alike
from proxflow.couplings.stream import Coupling, batch_of
from proxflow.errors import counted
from proxflow.kernels.geometry import coordinates
from proxflow.measures import Gaussian
from proxflow.potentials import AtomicPotential, SymmetricDiscrete
from proxflow.seeding import generator_of, own_generator
from proxflow.semidiscrete import fit

__all__ = ["Subspace", "first_directions"]

_OTHER_DIRECTIONS = (0, 0)  # number the generator of a batch's independent noise, apart from that of its pairs


class Subspace:
    """Noise coupled with the data in k directions, independent of them in the other d - k.

    x0 = W z + (I - W W^T) g, where z in R^k is paired with a row by another coupling, and g is fresh noise.
    ``Subspace.fit(points)`` fits a ``Semidiscrete`` coupling of the data's coordinates in principal directions, as many
    as the rows can estimate. The coupling in R^k may be any other: a ``Conditional`` one or a ``Minibatch`` of
    ``points @ directions``, an entropic one, or one of features of the rows (an encoder's latents, say). The pairs are
    exact in law for all of them; that their cost is small takes features that say where in the k directions a row is.

    Args:
        coupling: coupling of standard normal noise in R^k with the rows, in their order.
        points: (N, *event), the rows; finite, on the coupling's device, with pairs of its dtype.
        directions: (d, k), orthonormal columns in the flat space of the points.

    Attributes:
        selection: how ``fit`` chose the number of directions; None where it was given.

    Raises:
        ValueError: bad points or directions, or a coupling of other rows, another noise or another dimension.
    """

    selection: DirectionChoice | None = None

    def __init__(self, coupling: Coupling, points: Numbers, directions: Numbers) -> None:
        inner = getattr(coupling, "rows", None)
        if not isinstance(inner, Rows):
            raise ValueError(
                f"Subspace: the coupling must be one of proxflow's, of the rows' coordinates, got {_name(coupling)}"
            )
        if getattr(coupling, "symmetry", None) is not None:
            raise ValueError(
                "Subspace: the coupling has a symmetry, and goes to images of rows that have no coordinates in the "
                "other directions; fit the coordinates without it"
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

    @classmethod
    def fit(
        cls,
        points: Numbers,
        dim: int | None = None,
        *,
        labels: Numbers | None = None,
        frame: Numbers | None = None,
        weights: Numbers | None = None,
        epsilon: float = 0.0,
        tol: float = 1e-2,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Self:
        """Fit a semidiscrete coupling in the first directions of a frame.

        Args:
            points: (N, *event), finite, float32 or float64, or stored in float16 or bfloat16: pairs are then float32.
            dim: number of directions, from 1 to those of the frame; if None, as many as ``choose_directions`` finds.
            labels: (N,) or (N, k), or None. For a network that is told a class, ``Conditional.fit(directions=...)``.
            frame: (d, m), orthonormal columns, of which the first ``dim`` are taken; the principal directions if None.
            weights: (N,), of the rows; equal if None.
            epsilon: epsilon of the fit, in units of the scores; see ``semidiscrete.fit``.
            tol: tolerance on chi2 of the fit.
            seed: seed of the choice and the fit.
            progress: show a status line; None shows one on a terminal.

        Raises:
            ValueError: bad data or arguments.
        """
        rows = Rows("Subspace", points, labels, weights)
        selection = None
        if dim is not None:
            found = first_directions(rows, dim, frame)
        else:
            selection = choose_directions(rows.flat, rows.weights, frame=frame, seed=seed, progress=progress)
            found = selection.directions
        potential = fit(
            coordinates(rows.flat, found), rows.weights, epsilon=epsilon, tol=tol, seed=seed, progress=progress
        ).potential
        fitted = cls.from_potential(potential, points, found, labels, weights=rows.weights)
        fitted.selection = selection
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
    ) -> Self:
        """The coupling of a potential that was fitted to ``points @ directions``, with its rounding or another's.

        Args:
            potential: as fitted.
            points: (N, *event), the rows that it was fitted to.
            directions: (d, k), orthonormal columns.
            labels: (N,) or (N, k), or None.
            weights: (N,), of the rows, as given to the fit; equal if None.

        Raises:
            ValueError: bad points or directions, or a potential of other points or weights.
        """
        rows = Rows("Subspace", points, labels)
        frame = check_directions("Subspace", directions, rows.flat)
        features = rounded_alike(coordinates(rows.flat, frame), potential.points)
        return cls(Semidiscrete(potential, features, labels, weights=weights), points, frame)

    @property
    def dim(self) -> int:
        """Number of coupled directions."""
        return int(self.directions.shape[1])

    @property
    def potential(self) -> AtomicPotential:
        """The potential of the coupling in R^k, where it has one; ``proxflow.save`` keeps it."""
        potential: AtomicPotential = self.coupling.potential
        return potential

    @property
    def deterministic(self) -> bool:
        """Whether the noise decides the point, as it does in all directions; in fewer it decides a part of it."""
        all_directions = self.directions.shape[0] == self.directions.shape[1]
        return all_directions and bool(getattr(self.coupling, "deterministic", False))

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        return [*self.coupling.tensors, self.rows.flat, self.directions]

    @property
    def noise_law(self) -> NoiseLaw:
        """How exact what ``noise_for`` has given so far is."""
        law: NoiseLaw = self.coupling.noise_law
        return law

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs: noise and row of the coupling in R^k, and fresh noise in the other directions."""
        check_count("Subspace", n)
        generator = own_generator(generator)
        return self._completed(self.coupling.sample(n, generator=generator), generator)

    def batch(self, number: int, n: int, seed: int) -> Pairs:
        """Batch ``number`` of n pairs of an endless sequence, whatever was drawn before."""
        pairs = batch_of(self.coupling, number, n, seed)
        return self._completed(pairs, generator_of(seed, number, *_OTHER_DIRECTIONS))

    def rows_for(self, noise: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """The row for each source point (n, *event), (n,) int64: that of its k coordinates in the directions.

        See ``Semidiscrete.rows_for``.

        Raises:
            ValueError: as there, or the coupling in R^k has no rows for given noise, as a ``Minibatch`` has none.
        """
        self._check_rows_for()
        rows: Tensor = self.coupling.rows_for(self.rows.checked_noise(noise) @ self.directions, generator=generator)
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
        lifted = self.rows.pairs(self._noise(pairs.source.flatten(1), generator), pairs.index)
        return Pairs(lifted.source, lifted.target, pairs.index, pairs.label)

    def _noise(self, z: Tensor, generator: torch.Generator | None) -> Tensor:
        """W z + (I - W W^T) g for fresh noise g, (n, d)."""
        frame = self.directions
        if frame.shape[0] == frame.shape[1]:
            return z @ frame.T
        g = self.rows.draw_noise(self.source, len(z), generator)
        return torch.addmm(g, z - g @ frame, frame.T)


def first_directions(rows: Rows, dim: int | None, frame: Numbers | None = None) -> Tensor:
    """The first ``dim`` columns of a frame (d, m), all if None; of the principal directions without a frame.

    Raises:
        ValueError: a frame that is none, or a number out of its range.
    """
    if frame is None:
        return principal_directions(rows.flat, rows.dim if dim is None else dim, rows.weights)
    columns = check_directions(rows.name, frame, rows.flat)
    number = columns.shape[1] if dim is None else whole_number(dim)
    if number is None or not 1 <= number <= columns.shape[1]:
        raise ValueError(f"{rows.name}: dim must be between 1 and the {columns.shape[1]} of the frame, got {dim!r}")
    return columns[:, :number].contiguous()


def _name(value: object) -> str:
    return type(value).__name__
