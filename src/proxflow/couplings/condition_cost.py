"""A cost on the condition beside that on the points: from pairs that ignore the condition to pairs that keep to it.

Problem: optimal transport of (x0, c0) to (x1, c1) at the cost |x0 - x1|^2 + |f(c0) - f(c1)|^2, where x0 is noise, c0 a
condition of the data drawn apart from it, and f the features of a condition, scaled by the strength. That is
semidiscrete transport of joined vectors, as for ``JointConditional`` (Chemseddine et al., "Conditional Wasserstein
distances", 2023; for minibatches C2OT, Cheng & Schwing, 2025). Here c0 only guides the pairing and is dropped: the
condition of a pair is that of its row. So noise and rows have exactly their laws, and rows their own conditions, at any
strength; what the strength governs is how far the noise tells the condition. It does fully as the strength goes to 0,
and no longer as it goes to infinity, where each row's noise comes from its own condition alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.checks import Numbers
from proxflow.couplings.joint_conditional import NoiseAndCondition
from proxflow.couplings.noise_pool import WAITING, NoiseLaw
from proxflow.couplings.pairs import Pairs, Rows
from proxflow.couplings.semidiscrete_coupling import Semidiscrete, rounded_alike
from proxflow.measures import Source
from proxflow.potentials import AtomicPotential
from proxflow.seeding import own_generator

__all__ = ["ConditionCost"]


class ConditionCost:
    """The semidiscrete coupling of (noise, condition) with (row, its condition), the condition of the noise dropped.

    Args:
        potential: fitted to ``joined`` rows, with ``Group.joint_source`` as its source.
        points: (N, d) rows.
        features: (N, m) of the rows' conditions, as they enter the cost.
        weights: (N,), of the rows; equal if None.
        max_memory: bytes of noise that wait for their row to be asked for.

    Raises:
        ValueError: a potential of other rows, features or weights.
    """

    def __init__(
        self,
        potential: AtomicPotential,
        points: Tensor,
        features: Tensor,
        *,
        weights: Numbers | None = None,
        max_memory: int = WAITING,
    ) -> None:
        self.rows = Rows("Conditional", points, None, weights)
        self.potential = potential
        law = potential.source
        if not isinstance(law, NoiseAndCondition):
            raise ValueError(
                "Conditional: the potential was fitted without a cost on the condition; fit it with Conditional.fit "
                "and the same strength"
            )
        joined = rounded_alike(torch.cat([self.rows.flat, features], dim=1), potential.points)
        self._joint = Semidiscrete(potential, joined, weights=self.rows.weights, max_memory=max_memory)
        self._law = law
        self.source: Source = law.noise

    @property
    def deterministic(self) -> bool:
        """False: the condition that was drawn with the noise decides too."""
        return False

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        return self._joint.tensors

    @property
    def row_weights(self) -> Tensor:
        """How often each row is to come, (N,) float64 of sum 1."""
        return self._joint.row_weights

    @property
    def noise_law(self) -> NoiseLaw:
        """How exact what ``noise_for`` has given so far is."""
        return self._joint.noise_law

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs of noise and a row."""
        drawn = self._joint.sample(n, generator=generator)
        return self.rows.pairs(drawn.source[:, : self.rows.dim], drawn.index)

    def rows_for(self, noise: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """The row for each source point (n, d), (n,) int64, for a condition drawn apart."""
        generator, given = own_generator(generator), self.rows.checked_noise(noise)
        condition = self.rows.draw_noise(self._law.conditions, len(given), generator)
        return self._joint.rows_for(torch.cat([given, condition], dim=1), generator=generator)

    def noise_for(self, index: Numbers, *, generator: torch.Generator | None = None) -> Tensor:
        """Source points of given rows, (len(index), d); see ``Semidiscrete.noise_for``."""
        return self._joint.noise_for(index, generator=generator)[:, : self.rows.dim]
