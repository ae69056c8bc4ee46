"""Couplings that keep the law of the noise under every condition.

One optimal coupling of all noise and all data gives each class its own region of the noise: a network that is told the
class then sees other noise in training than in sampling, and gets worse (a bias, not a variance). Here the condition is
drawn first and the noise, independent of it, is coupled with the data of that condition only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from proxflow.couplings.noise_pool import NoiseLaw
from proxflow.couplings.pairs import Pairs
from proxflow.couplings.rows import Rows, check_count
from proxflow.couplings.seeding import own_generator
from proxflow.couplings.semidiscrete import Semidiscrete
from proxflow.measures import Source
from proxflow.potentials import Discrete, Entropic
from proxflow.semidiscrete import fit

__all__ = ["Conditional"]


class Conditional:
    """A semidiscrete coupling of its own for each class; given the class, the noise has exactly the source's law.

    Args:
        points: (N, *event), finite, float32 or float64.
        labels: (N,) whole numbers.
        potentials: of each class, fitted to its rows alone; ``Conditional.fit`` makes them.

    Raises:
        ValueError: bad points or labels, a class without potential, or a potential of other points.
    """

    def __init__(self, points: Tensor, labels: Tensor, potentials: Mapping[int, Discrete | Entropic]) -> None:
        self.rows = Rows("Conditional", points, labels)
        members = _members(labels)
        missing = sorted(set(members) - set(potentials))
        if missing:
            raise ValueError(f"Conditional: no potential for the classes {missing[:5]}; fit one to the rows of each")
        self._members = {label: rows.to(points.device) for label, rows in members.items()}
        self._parts = {label: Semidiscrete(potentials[label], points[rows]) for label, rows in self._members.items()}
        self.source = next(iter(self._parts.values())).source

    @classmethod
    def fit(
        cls,
        points: Tensor,
        labels: Tensor,
        *,
        source: Source | None = None,
        epsilon: float = 0.0,
        tol: float = 1e-2,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Self:
        """Fit a potential to each class; arguments as of ``semidiscrete.fit``."""
        Rows("Conditional", points, labels)
        potentials = {
            label: fit(points[rows], source=source, epsilon=epsilon, tol=tol, seed=seed, progress=progress).potential
            for label, rows in _members(labels).items()
        }
        return cls(points, labels, potentials)

    @property
    def potentials(self) -> dict[int, Discrete | Entropic]:
        """The potential of each class."""
        return {label: part.potential for label, part in self._parts.items()}

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        return [self.rows.labels, *(tensor for part in self._parts.values() for tensor in part.tensors)]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs: classes as often as in the data, noise of the source in each, coupled within the class."""
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

    def noise_for(self, index: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        """Source points of given rows, (len(index), *event), each in the cell of its row in its own class.

        See ``Semidiscrete.noise_for``.
        """
        index = self.rows.checked_index(index)
        labels = self.rows.labels_of(index)
        noise = self.rows.flat.new_empty(len(index), *self.rows.event_shape)
        for label, part in self._parts.items():
            places = torch.nonzero(labels == label)[:, 0]
            if len(places):
                place_in_class = torch.searchsorted(self._members[label], index[places])
                noise[places] = part.noise_for(place_in_class, generator=generator)
        return noise


def _members(labels: Tensor) -> dict[int, Tensor]:
    """The rows of each class, ascending."""
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        got = "None" if labels is None else f"{tuple(labels.shape)} of {labels.dtype}"
        raise ValueError(
            f"Conditional: labels must be (N,) whole numbers, got {got}; "
            "for continuous conditions use couplings.JointConditional"
        )
    return {int(label): torch.nonzero(labels == label)[:, 0] for label in torch.unique(labels)}
