"""Minibatch optimal transport: batches of noise and data, assigned at least cost."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.checks import Numbers, whole_number
from proxflow.couplings.numbered_blocks import NumberedBlocks
from proxflow.couplings.pairing import EPSILON, SOLVERS, check_solver, permutation
from proxflow.couplings.pairs import Pairs, Rows, check_count, joined, rows_of
from proxflow.couplings.process_local import Reserve
from proxflow.errors import counted
from proxflow.measures import Source
from proxflow.seeding import own_generator

__all__ = ["Minibatch"]


class Minibatch:
    """Noise and data assigned in batches of ``batch_size``, whatever the size of the training batch.

    Pairs that a call does not use wait in a buffer for the next one, so that an assignment of 4,096 can serve a
    training batch of 128. They are given out once: copies of the coupling, by pickle or by a fork (the workers of a
    DataLoader), begin without them, and threads share them out. Data rows are drawn without replacement within an
    assignment, afresh for each.

    Args:
        points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8: pairs are then
            float32.
        batch_size: pairs assigned at once, at most N.
        labels: (N,) or (N, k), or None; they travel with their points.
        solver: "exact" or "sinkhorn" (see ``pair``).
        epsilon: regularisation of "sinkhorn", as a share of the mean squared distance.
        source: law of the noise; standard normal if None.

    Raises:
        ValueError: bad points, labels not one for each point, a batch larger than the data, or an unknown solver.
    """

    def __init__(
        self,
        points: Numbers,
        batch_size: int,
        labels: Numbers | None = None,
        *,
        solver: str = "exact",
        epsilon: float = EPSILON,
        source: Source | None = None,
    ) -> None:
        self.rows = Rows("Minibatch", points, labels)
        if not 1 <= (whole_number(batch_size) or 0) <= len(self.rows):
            raise ValueError(
                f"Minibatch: batch_size must be between 1 and the {counted(len(self.rows), 'point')}, got "
                f"{batch_size}; couplings.Semidiscrete couples the whole data set at any batch size"
            )
        check_solver("Minibatch", solver, epsilon)
        self.batch_size = int(batch_size)
        self.solver, self.epsilon = solver, epsilon
        self.source = self.rows.source_or_normal(source)
        self._waiting: Reserve[Pairs] = Reserve()
        self._numbered = NumberedBlocks(self.batch_size)

    def __repr__(self) -> str:
        return self.rows.described(f"batch_size={self.batch_size}")

    @property
    def tensors(self) -> list[Tensor | None]:
        """What the coupling depends on, for checkpoints."""
        return self.rows.tensors_with(self.source, self.batch_size, SOLVERS.index(self.solver), self.epsilon)

    def sample(self, n: int, *, generator: torch.Generator | None = None) -> Pairs:
        """n pairs: those that wait first, then those of fresh assignments.

        Raises:
            ValueError: n is no whole number of at least 1.
        """
        check_count("Minibatch", n)
        with self._waiting.opened() as waiting:
            parts = [] if waiting.kept is None else [waiting.kept]
            while sum(map(len, parts)) < n:
                parts.append(self.assign(generator=generator))
            pairs = joined(parts)
            waiting.kept = rows_of(pairs, slice(n, None)) if len(pairs) > n else None
        return rows_of(pairs, slice(n))

    def batch(self, number: int, n: int, seed: int) -> Pairs:
        """Batch ``number`` of n pairs of an endless sequence: cut from assignments laid end to end.

        Assignment k of a seed is always the same, so that any process can draw any batch.
        """
        check_count("Minibatch", n)
        return self._numbered.batch(number, n, seed, lambda generator: self.assign(generator=generator))

    def assign(self, *, generator: torch.Generator | None = None) -> Pairs:
        """One fresh assignment, ``batch_size`` pairs; the buffer is neither used nor filled."""
        generator = own_generator(generator)
        noise = self.rows.draw_noise(self.source, self.batch_size, generator)
        drawn_on = noise.device if generator is None else generator.device
        order = torch.randperm(len(self.rows), generator=generator, device=drawn_on)
        index = order[: self.batch_size].to(noise.device)
        chosen = permutation(noise, self.rows.targets(index), self.solver, self.epsilon, generator)
        return self.rows.pairs(noise, index[chosen])
