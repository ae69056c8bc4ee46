"""Optimal transport of noise and condition together.

Problem: optimal transport of (x0, c0) to (x1, c1) at the cost |x0 - x1|^2 + |f(c0) - f(c1)|^2, where x0 is noise, c0 a
condition of the data drawn apart from it, and f the features of a condition, scaled. That is semidiscrete transport of
joined vectors (Chemseddine et al., "Conditional Wasserstein distances", 2023; for minibatches C2OT, Cheng & Schwing,
2025). Two couplings come of it, by which of the two conditions labels a pair.

``JointConditional`` labels it by c0: labels and noise are independent, and the row is one of a near condition.

``ConditionCost`` labels it by c1, the row's own, and drops c0, which only guides the pairing. So noise and rows have
exactly their laws, and rows their own conditions, at any scale; what the scale governs is how far the noise tells the
condition. It does fully as the scale goes to 0, and no longer as it goes to infinity, where each row's noise comes from
its own condition alone.
"""

from __future__ import annotations

import math
from typing import Self

import torch
from torch import Tensor

from proxflow.checks import Numbers, real_number
from proxflow.couplings.noise_pool import WAITING, NoiseLaw
from proxflow.couplings.pairs import Pairs, Rows, check_count
from proxflow.couplings.semidiscrete_coupling import Semidiscrete, rounded_alike
from proxflow.errors import NoDensityError
from proxflow.measures import Empirical, Source
from proxflow.potentials import AtomicPotential, SymmetricDiscrete
from proxflow.potentials.atoms import as_atomic
from proxflow.seeding import own_generator
from proxflow.semidiscrete import fit
from proxflow.storage import storable

__all__ = ["ConditionCost", "JointConditional"]


@storable
class NoiseAndCondition:
    """The product law of noise and of the data's conditions, scaled."""

    def __init__(self, noise: Source, conditions: Empirical) -> None:
        self.noise, self.conditions = noise, conditions

    @property
    def dim(self) -> int:
        """Coordinates of noise and condition."""
        return self.noise.dim + self.conditions.dim

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """n draws (n, dim): noise, then an independent condition."""
        parts = [
            part.sample(n, generator=generator, dtype=dtype, device=device) for part in (self.noise, self.conditions)
        ]
        return torch.cat(parts, dim=1)

    def log_prob(self, x: Tensor) -> Tensor:
        """Refused: finitely many conditions have no density."""
        raise NoDensityError("a source of noise and conditions of the data has no density")


class JointConditional:
    """The semidiscrete coupling of (noise, w c) with (data, w c), for conditions c that are numbers.

    A pair joins noise x0 and condition c0, drawn apart, with a row whose condition is near c0, the nearer the larger
    the weight w. Its label is c0: given the label the noise has exactly the source's law, and the labels exactly that
    of the data. What is not exact is the row: ``(pairs.label - conditions[pairs.index]).abs().mean()`` says by how much
    its own condition misses the label. As w grows this falls to 0, and the noise of conditions that occur once becomes
    independent of their row; as w falls to 0 the condition is ignored.

    Args:
        potential: fitted to ``(points, weight * conditions)``; ``JointConditional.fit`` makes it.
        points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8: pairs are then
            float32.
        conditions: (N,) or (N, k), finite, of the dtype of pairs.
        weight: w, in units of the points per unit of the conditions.
        weights: (N,), of the rows, as given to ``fit``; equal if None.

    Raises:
        ValueError: bad points, conditions or weight, or a potential of others.
    """

    def __init__(
        self,
        potential: AtomicPotential | SymmetricDiscrete,
        points: Numbers,
        conditions: Numbers,
        weight: float,
        *,
        weights: Numbers | None = None,
    ) -> None:
        self.rows = Rows("JointConditional", points, conditions, weights)
        potential = as_atomic("JointConditional", potential)
        self._joint = Semidiscrete(potential, _joined(self.rows, weight), weights=self.rows.weights)
        self.weight = float(weight)
        if not isinstance(potential.source, NoiseAndCondition):
            raise ValueError(
                "JointConditional: the potential's noise does not hold the conditions of the data; fit it with "
                "JointConditional.fit"
            )
        self.source = potential.source.noise

    @classmethod
    def fit(
        cls,
        points: Numbers,
        conditions: Numbers,
        weight: float,
        *,
        weights: Numbers | None = None,
        source: Source | None = None,
        epsilon: float = 0.0,
        tol: float = 1e-2,
        seed: int = 0,
        progress: bool | None = None,
    ) -> Self:
        """Fit the potential to points and weighted conditions together.

        Args:
            points: (N, *event), see the class.
            conditions: (N,) or (N, k), finite, of the dtype of pairs.
            weight: w, positive, in units of the points per unit of the conditions.
            weights: (N,), of the rows; equal if None.
            source: law of the noise; standard normal if None.
            epsilon: of the fit, in units of the scores; see ``semidiscrete.fit``.
            tol: tolerance on chi2 of the fit.
            seed: seed of the fit.
            progress: show a status line; None shows one on a terminal.

        Raises:
            ValueError: bad points, conditions, weight or arguments of the fit.
        """
        rows = Rows("JointConditional", points, conditions, weights)
        joined, noise = _joined(rows, weight), rows.source_or_normal(source)
        law = NoiseAndCondition(noise, Empirical(joined[:, noise.dim :], rows.weights))
        result = fit(joined, rows.weights, source=law, epsilon=epsilon, tol=tol, seed=seed, progress=progress)
        return cls(result.potential, points, conditions, weight, weights=weights)

    @property
    def potential(self) -> AtomicPotential:
        """The potential of points and weighted conditions together; ``proxflow.save`` keeps it."""
        return as_atomic("JointConditional", self._joint.potential)

    def __repr__(self) -> str:
        return self.rows.described(f"weight={self.weight:g}")

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        return [*self._joint.tensors, torch.tensor(self.weight)]

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs of noise and a row, labelled by the condition that was drawn with the noise.

        Raises:
            ValueError: n is no whole number of at least 1.
        """
        check_count("JointConditional", n)
        drawn = self._joint.sample(n, generator=generator)
        pairs = self.rows.pairs(drawn.source[:, : self.rows.dim], drawn.index)
        label = drawn.source[:, self.rows.dim :] / self.weight
        own = self.rows.labels_of(pairs.index)
        return Pairs(pairs.source, pairs.target, pairs.index, label.reshape(own.shape))


def _joined(rows: Rows, weight: float) -> Tensor:
    """(N, d + k): flat points and weighted conditions."""
    conditions = rows.labels
    if conditions is None or conditions.dtype != rows.dtype or not bool(torch.isfinite(conditions).all()):
        got = "None" if conditions is None else str(conditions.dtype)
        raise ValueError(
            f"JointConditional: conditions must be finite and of the points' {rows.dtype}, got {got}; "
            "for classes use couplings.Conditional"
        )
    if not 0 < real_number(weight) < math.inf:
        raise ValueError(f"JointConditional: weight must be a positive number, got {weight!r}")
    return torch.cat([rows.flat, float(weight) * conditions.reshape(len(rows), -1)], dim=1)


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
