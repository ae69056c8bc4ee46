"""Couplings that keep the law of the noise under every condition.

One optimal coupling of all noise and all data gives each class its own region of the noise: a network that is told the
class then sees other noise in training than in sampling, and gets worse (a bias, not a variance). Here the condition is
drawn first and the noise, independent of it, is coupled with the data of that condition only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Self

import torch
from torch import Tensor

from proxflow.checks import Numbers
from proxflow.couplings.directions import choose_directions
from proxflow.couplings.noise_pool import NoiseLaw
from proxflow.couplings.pairs import Pairs, Rows, check_count
from proxflow.couplings.semidiscrete_coupling import Semidiscrete
from proxflow.couplings.subspace import Subspace, first_directions
from proxflow.measures import Gaussian, Source
from proxflow.potentials import AtomicPotential
from proxflow.seeding import own_generator
from proxflow.semidiscrete import fit

__all__ = ["Conditional"]


class Conditional:
    """A semidiscrete coupling of its own for each class; given the class, the noise has exactly the source's law.

    Args:
        points: (N, *event), finite, float32 or float64.
        labels: (N,) whole numbers.
        potentials: potentials of each class, fitted to its rows alone; ``Conditional.fit`` makes them.
        weights: (N,), of the rows, as given to ``fit``; equal if None. Classes are drawn by the sums of theirs.
        directions: of each class, (d, k) orthonormal columns, if its potential is one of ``rows @ directions``: each
            class is then a ``Subspace`` coupling.

    Raises:
        ValueError: bad points, labels, weights or directions, a class without potential or directions, or a potential
            of other points or weights.
    """

    def __init__(
        self,
        points: Numbers,
        labels: Numbers,
        potentials: Mapping[int, AtomicPotential],
        *,
        weights: Numbers | None = None,
        directions: Mapping[int, Numbers] | None = None,
    ) -> None:
        self.rows = Rows("Conditional", points, labels, weights)
        members = _members(self.rows)
        for what, given in (("potential", potentials), ("directions", directions)):
            missing = [] if given is None else sorted(set(members) - set(given))
            if missing:
                raise ValueError(f"Conditional: no {what} for the classes {missing[:5]}; fit one to the rows of each")
        self._members = members
        self._parts: dict[int, Semidiscrete | Subspace] = {
            label: _part(self.rows, rows, potentials[label], None if directions is None else directions[label])
            for label, rows in members.items()
        }
        self.source = next(iter(self._parts.values())).source

    @classmethod
    def fit(
        cls,
        points: Numbers,
        labels: Numbers,
        *,
        directions: int | Literal["auto"] | None = None,
        weights: Numbers | None = None,
        source: Source | None = None,
        epsilon: float = 0.0,
        tol: float = 1e-2,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Self:
        """Fit a potential to each class.

        Args:
            points: (N, *event), finite, float32 or float64.
            labels: (N,) whole numbers.
            directions: number of principal directions of each class that are coupled, as in ``Subspace.fit``; "auto"
                chooses it for each class. None couples in all.
            weights: (N,), of the rows; equal if None.
            source: law of the noise; standard normal if None, and wherever directions are given.
            epsilon: epsilon of the fits, in units of the scores; see ``semidiscrete.fit``.
            tol: tolerance on chi2 of each fit.
            seed: seed of the choices and the fits.
            progress: show a status line; None shows one on a terminal.
        """
        data = Rows("Conditional", points, labels, weights)
        if directions is not None and source is not None and source != Gaussian(data.dim):
            raise ValueError("Conditional: directions need standard normal noise; leave out source= or directions=")
        potentials: dict[int, AtomicPotential] = {}
        frames: dict[int, Tensor] = {}
        for label, rows in _members(data).items():
            features, own_weights = data.flat[rows], _weights_of(data, rows)
            if directions is not None:
                frames[label] = _coupled_directions(features, own_weights, directions, seed, progress)
                features = features @ frames[label]
            potentials[label] = fit(
                features,
                own_weights,
                source=source if directions is None else None,
                epsilon=epsilon,
                tol=tol,
                seed=seed,
                progress=progress,
            ).potential
        return cls(points, labels, potentials, weights=weights, directions=frames if directions is not None else None)

    @property
    def potentials(self) -> dict[int, AtomicPotential]:
        """The potential of each class."""
        return {label: part.potential for label, part in self._parts.items()}

    @property
    def directions(self) -> dict[int, Tensor] | None:
        """The coupled directions of each class, (d, k); None where all are."""
        found = {label: part.directions for label, part in self._parts.items() if isinstance(part, Subspace)}
        return found or None

    @property
    def deterministic(self) -> bool:
        """Whether noise and class decide the point: the velocities of the pairs are then the field that is learned."""
        return all(part.deterministic for part in self._parts.values())

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        classes = [self.rows.labels] if self.rows.weights is None else [self.rows.labels, self.rows.weights]
        return [*classes, *(tensor for part in self._parts.values() for tensor in part.tensors)]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs: classes by their weight in the data, noise of the source in each, coupled within the class."""
        check_count("Conditional", n)
        generator = own_generator(generator)
        wanted = self.rows.labels_of(self.rows.draw_index(n, generator))
        noise = self.rows.flat.new_empty(n, self.rows.dim)
        index = torch.empty(n, dtype=torch.int64, device=noise.device)
        for label, part in self._parts.items():
            places = torch.nonzero(wanted == label)[:, 0]
            if len(places):
                pairs = part.sample(len(places), generator=generator)
                noise[places] = pairs.source.flatten(1)
                index[places] = self._members[label][pairs.index]
        return self.rows.pairs(noise, index)

    @property
    def noise_law(self) -> NoiseLaw:
        """How exact what ``noise_for`` has given so far is, over all classes."""
        laws = [part.noise_law for part in self._parts.values()]
        return NoiseLaw(
            served=sum(law.served for law in laws),
            approximated=sum(law.approximated for law in laws),
            largest_gap=max(law.largest_gap for law in laws),
            draws=sum(law.draws for law in laws),
        )

    def noise_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """Source points of given rows, (len(index), *event), each in the cell of its row in its own class.

        See ``Semidiscrete.noise_for``.
        """
        asked = self.rows.checked_index(index)
        labels = self.rows.labels_of(asked)
        noise = self.rows.flat.new_empty(len(asked), *self.rows.event_shape)
        for label, part in self._parts.items():
            places = torch.nonzero(labels == label)[:, 0]
            if len(places):
                place_in_class = torch.searchsorted(self._members[label], asked[places])
                given = part.noise_for(place_in_class, generator=generator)
                noise[places] = given.reshape(len(places), *self.rows.event_shape)
        return noise


def _members(data: Rows) -> dict[int, Tensor]:
    """The rows of each class, ascending.

    Raises:
        ValueError: labels are not one whole number each, or no row of a class has a weight.
    """
    labels = data.labels
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        got = "None" if labels is None else f"{tuple(labels.shape)} of {labels.dtype}"
        raise ValueError(
            f"Conditional: labels must be (N,) whole numbers, got {got}; "
            "for continuous conditions use couplings.JointConditional"
        )
    members = {int(label): torch.nonzero(labels == label)[:, 0] for label in torch.unique(labels)}
    if data.weights is not None:
        empty = [label for label, rows in members.items() if not bool(data.weights[rows].any())]
        if empty:
            raise ValueError(f"Conditional: all rows of the classes {empty[:5]} have weight zero; leave them out")
    return members


def _part(data: Rows, rows: Tensor, potential: AtomicPotential, directions: Numbers | None) -> Semidiscrete | Subspace:
    """The coupling of one class."""
    points, weights = data.flat[rows], _weights_of(data, rows)
    if directions is None:
        return Semidiscrete(potential, points, weights=weights)
    return Subspace.from_potential(potential, points, directions, weights=weights)


def _coupled_directions(
    points: Tensor, weights: Tensor | None, directions: int | Literal["auto"], seed: int, progress: bool | None
) -> Tensor:
    """The directions of one class, (d, k)."""
    if directions == "auto":
        return choose_directions(points, weights, seed=seed, progress=progress).directions
    return first_directions(Rows("Conditional", points, None, weights), directions)


def _weights_of(data: Rows, rows: Tensor) -> Tensor | None:
    return None if data.weights is None else data.weights[rows]
