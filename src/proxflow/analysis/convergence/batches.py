"""Independent batches, paired by assignment, and as many of them as the wanted accuracy takes."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from proxflow.analysis.convergence.control_variates import MeanWithError
from proxflow.analysis.convergence.target import Target, Targets
from proxflow.couplings.pairing import permutation

__all__ = ["Plan", "SizeResult", "pairs_kept_per_batch", "run_size"]

_LEAST_BATCHES = 16  # for a standard error worth its name
_MOST_BATCHES = 1 << 11  # of two pairs or more: each is one call of the solver


@dataclass(frozen=True)
class Plan:
    """How batches are drawn and paired.

    Attributes:
        solver: "exact" or "sinkhorn", ``epsilon`` its regularisation.
        relative_error: standard errors over the excess, in costs as in gaps, that draws are made for.
        max_pairs: largest number of pairs of one batch size, 16 batches at the least.
        kept_pairs: number of pairs kept of each size, a power of two, for measurements along the flow.
        max_memory: bytes for noise.
        replacement: whether rows are drawn with replacement within a batch; None draws them without as far as there
            are enough.
    """

    solver: str
    epsilon: float
    relative_error: float
    max_pairs: int
    kept_pairs: int
    max_memory: int
    replacement: bool | None

    def replaces(self, rows: int | None, size: int) -> bool:
        """Whether draws within a batch of this size are independent."""
        return rows is None or size > rows or bool(self.replacement)


@dataclass(frozen=True)
class SizeResult:
    """What one batch size gave: cost and mean gap, seconds for an assignment, the number of batches, and pairs.

    ``difference`` is cost less twice the gap, its standard error from the batches' own differences: cost and gap come
    from the same pairs, and what they share cancels there.
    ``source`` and ``target`` (kept_pairs, d) are pairs of the coupling, in runs from the same batch.
    """

    cost: MeanWithError
    gap: MeanWithError
    difference: MeanWithError
    replacement: bool
    seconds: float
    batches: int
    source: Tensor
    target: Tensor


def pairs_kept_per_batch(size: int, kept_pairs: int) -> int:
    """A power of two: at most half of a batch, and from 16 batches or more."""
    most = max(1, min(size // 2, kept_pairs // _LEAST_BATCHES))
    return 1 << (most.bit_length() - 1)


def run_size(target: Target, size: int, plan: Plan, generator: torch.Generator) -> SizeResult:
    """Pilot batches, then as many as bring both standard errors to ``relative_error``.

    How many follows from the pilot alone: stopping when the estimate looks good would bias it.
    """
    run = _Run(target, size, plan, generator)
    pilot = max(_LEAST_BATCHES, plan.kept_pairs // pairs_kept_per_batch(size, plan.kept_pairs))
    run.draw(pilot)
    gap, cost = run.gap, run.cost
    allowed = plan.relative_error * abs(gap.value)
    worst = max(gap.stderr, 0.5 * cost.stderr)
    wanted = pilot * (worst / allowed) ** 2 if allowed > 0 and worst > 0 else pilot
    most = plan.max_pairs // size if size == 1 else min(_MOST_BATCHES, plan.max_pairs // size)
    run.draw(min(math.ceil(min(wanted, 1e9)), most) - pilot)
    return run.result()


class _Run:
    """Batches of one size, drawn in blocks of many."""

    def __init__(self, target: Target, size: int, plan: Plan, generator: torch.Generator) -> None:
        self._target, self._size, self._plan, self._generator = target, size, plan, generator
        self._replacement = plan.replaces(target.rows, size)
        rows = plan.max_memory // (64 * (target.potential.dim + 2))
        self._batches_at_once = max(1, min(1 << 14, rows) // size)
        self._gaps: list[Tensor] = []
        self._costs: list[Tensor] = []
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._seconds: list[float] = []

    @property
    def gap(self) -> MeanWithError:
        """Mean over the batches."""
        return _mean_of(torch.cat(self._gaps))

    @property
    def cost(self) -> MeanWithError:
        """Mean over the batches, control variates taken off."""
        return _mean_of(torch.cat(self._costs))

    def draw(self, batches: int) -> None:
        """That many more."""
        while batches > 0:
            count = min(batches, self._batches_at_once)
            x0 = self._target.noise(count * self._size, self._generator)
            targets = self._target.draw(count, self._size, self._replacement, self._generator)
            order = self._pair(x0, targets)
            self._record(x0, targets, order)
            batches -= count

    def result(self) -> SizeResult:
        """The record of all draws."""
        kept = self._plan.kept_pairs
        source, target = (torch.cat(parts)[:kept].clone() for parts in zip(*self._pairs, strict=True))
        seconds = statistics.median(self._seconds) if self._seconds else 0.0
        gaps, costs = torch.cat(self._gaps), torch.cat(self._costs)
        return SizeResult(
            cost=self.cost,
            gap=self.gap,
            difference=_mean_of(costs - 2 * gaps),
            replacement=self._replacement,
            seconds=seconds,
            batches=len(gaps),
            source=source,
            target=target,
        )

    def _pair(self, x0: Tensor, targets: Targets) -> Tensor:
        """The target of each source point, by a permutation within each batch, (rows,) int64."""
        rows = torch.arange(len(x0), device=x0.device)
        if self._size == 1:
            return rows
        parts = []
        for batch in rows.split(self._size):
            began = time.perf_counter()
            chosen = permutation(
                x0[batch], targets.points[batch], self._plan.solver, self._plan.epsilon, self._generator
            )
            self._seconds.append(time.perf_counter() - began)
            parts.append(batch[0] + chosen)
        return torch.cat(parts)

    def _record(self, x0: Tensor, targets: Targets, order: Tensor) -> None:
        paired = targets.points[order]
        gaps = self._target.gap(x0, targets, order)
        costs = (x0.double() - paired.double()).square().sum(1)
        costs = costs - self._target.source_control(x0) - targets.control[order]
        self._gaps.append(gaps.view(-1, self._size).mean(1))
        self._costs.append(costs.view(-1, self._size).mean(1))
        if sum(len(source) for source, _ in self._pairs) < self._plan.kept_pairs:
            per_batch = pairs_kept_per_batch(self._size, self._plan.kept_pairs)
            first = torch.arange(len(x0), device=x0.device).view(-1, self._size)[:, :per_batch].flatten()
            self._pairs.append((x0[first], paired[first]))


def _mean_of(values: Tensor) -> MeanWithError:
    return MeanWithError(float(values.mean()), float(values.std()) / math.sqrt(len(values)))
