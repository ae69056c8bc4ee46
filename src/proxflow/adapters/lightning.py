"""Lightning: a data module of coupled pairs, and callbacks that measure the field and check its convention.

Works with the package that the program has imported, ``lightning`` or ``pytorch_lightning``: their classes are not
each other's.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from proxflow.adapters.convention_check import ConventionCheck, check_convention
from proxflow.adapters.training_audit import TrainingAudit
from proxflow.checks import Numbers, as_tensor, whole_number
from proxflow.couplings import Coupling, PairStream
from proxflow.errors import optional_package
from proxflow.measures import Gaussian, Source, draw
from proxflow.metrics import few_steps
from proxflow.results import Verdict
from proxflow.schedules import Schedule
from proxflow.seeding import generator_of

__all__ = ["FlowAudit", "FlowQuality", "PairBatch", "PairDataModule"]

_OLD_NAME_ALONE = "pytorch_lightning" in sys.modules and "lightning.pytorch" not in sys.modules
_library: Any = optional_package("pytorch_lightning" if _OLD_NAME_ALONE else "lightning.pytorch", "lightning")


class PairBatch(NamedTuple):
    """A batch as a training step gets it: source and target (n, *event), index (n,), label (n, ...) or None."""

    source: Tensor
    target: Tensor
    index: Tensor  # type: ignore[assignment]
    label: Tensor | None


class PairDataModule(_library.LightningDataModule):  # type: ignore[misc]
    """A data module whose training batches are pairs of one coupling, shared out among the processes.

    Batch k is the same at any number of processes and after a restart: the position is kept in Lightning's checkpoints.
    A data module of one's own keeps its loaders and gives noise for its rows instead, by ``adapters.PairedNoise`` in
    its ``on_after_batch_transfer``.

    Args:
        coupling: to draw from.
        batch_size: pairs of a batch, all processes together.
        steps_per_epoch: batches that Lightning calls an epoch.
        seed: seed of all draws.

    Raises:
        ValueError: steps_per_epoch is no integer of at least 1.
    """

    def __init__(self, coupling: Coupling, batch_size: int, *, steps_per_epoch: int, seed: int = 0) -> None:
        super().__init__()
        if (whole_number(steps_per_epoch) or 0) < 1:
            raise ValueError(
                f"PairDataModule: steps_per_epoch must be an integer of at least 1, got {steps_per_epoch!r}"
            )
        self.coupling = coupling
        self.batch_size, self.steps_per_epoch, self.seed = batch_size, steps_per_epoch, seed
        self.position = 0

    def train_dataloader(self) -> DataLoader[PairBatch]:
        """Batches of this process."""
        return DataLoader(_Epochs(self), batch_size=None)

    def state_dict(self) -> dict[str, Any]:
        """The number of batches that were taken."""
        return {"position": self.position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on after these."""
        self.position = state_dict["position"]


class _Epochs(IterableDataset[PairBatch]):
    """``steps_per_epoch`` batches each time it is gone through; all that it knows is the module's."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __len__(self) -> int:
        return int(self._module.steps_per_epoch)

    def __iter__(self) -> Iterator[PairBatch]:
        module, trainer = self._module, self._module.trainer
        rank, processes = (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)
        stream = PairStream(
            module.coupling,
            module.batch_size,
            seed=module.seed,
            position=module.position,
            rank=rank,
            processes=processes,
        )
        with stream:
            for _, pairs in zip(range(len(self)), stream, strict=False):
                module.position += 1
                yield PairBatch(pairs.source, pairs.target, pairs.index, pairs.label)


class FlowQuality(_library.Callback):  # type: ignore[misc]
    """Logs ``energy_distance/K`` of samples at K Euler steps, and warns at the end of a wrong convention.

    Args:
        field: from the module to its field(t, x), in proxflow's convention, such as ``lambda module: module.net``.
        data: (N, *event) points to compare with; best ones that were not trained on.
        steps: numbers of Euler steps.
        count: number of samples.
        every_n_epochs: how often samples are measured.
        coupling: that the module is trained on, for the check of its convention; independent pairs of ``data`` if None.
        source: law of the noise; standard normal if None.
        schedule: of the path; Linear if None.
        seed: seed of the noise, the same each time.

    Attributes:
        convention: what ``check_convention`` found when training ended.

    Raises:
        ValueError: every_n_epochs or count is no integer of at least 1.
    """

    def __init__(
        self,
        field: Callable[[Any], Callable[[Tensor, Tensor], Tensor]],
        data: Numbers,
        *,
        steps: Sequence[int] = (1, 2, 4, 8),
        count: int = 1000,
        every_n_epochs: int = 1,
        coupling: Coupling | None = None,
        source: Source | None = None,
        schedule: Schedule | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value in (("count", count), ("every_n_epochs", every_n_epochs)):
            if (whole_number(value) or 0) < 1:
                raise ValueError(f"FlowQuality: {name} must be an integer of at least 1, got {value!r}")
        self.convention: ConventionCheck | None = None
        self._field, self._data = field, as_tensor("FlowQuality", "data", data)
        self._steps, self._count, self._every, self._seed = tuple(steps), count, every_n_epochs, seed
        self._coupling, self._source, self._schedule = coupling, source, schedule

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, on the first process, and log."""
        if (trainer.current_epoch + 1) % self._every or not trainer.is_global_zero:
            return
        with _Evaluating(pl_module):
            quality = few_steps(
                self._field(pl_module),
                self._noise().to(pl_module.device),
                self._data,
                steps=self._steps,
                schedule=self._schedule,
            )
        for steps, distance in zip(quality.steps, quality.energy_distance, strict=True):
            pl_module.log(f"energy_distance/{steps}", distance, rank_zero_only=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Check the convention on the first process."""
        if not trainer.is_global_zero:
            return
        with _Evaluating(pl_module):
            self.convention = check_convention(
                _on_device(self._field(pl_module), pl_module.device),
                self._data if self._coupling is None else self._coupling,
                source=self._source,
                schedule=self._schedule,
                seed=self._seed,
            )
        if self.convention.verdict is Verdict.failed:
            warnings.warn(f"FlowQuality: {self.convention.message}", stacklevel=2)

    def _noise(self) -> Tensor:
        shape = self._data.shape[1:]
        source = Gaussian(shape.numel()) if self._source is None else self._source
        noise = draw(source, self._count, generator_of(self._seed), self._data.dtype, self._data.device)
        return noise.reshape(self._count, *shape)


class FlowAudit(_library.Callback):  # type: ignore[misc]
    """Logs ``audit/jacobian_asymmetry``, ``audit/recovered_drift`` and ``audit/variance_ratio`` while it trains.

    They are those of ``adapters.TrainingAudit``, which says what they mean and cost.

    Args:
        field: from the module to its field(t, x), in proxflow's convention, such as ``lambda module: module.net``.
        data: (N, *event) points of the data, of the field's dtype.
        every_n_steps: optimiser steps from one measurement to the next.
        count: noise points that are followed.
        source: law of the noise; standard normal if None.
        schedule: of the path; Linear if None.
        seed: seed of the noise, the same each time.

    Raises:
        ValueError: every_n_steps is no integer of at least 1, or as of ``TrainingAudit``.
    """

    def __init__(
        self,
        field: Callable[[Any], Callable[[Tensor, Tensor], Tensor]],
        data: Numbers,
        *,
        every_n_steps: int = 500,
        count: int = 256,
        source: Source | None = None,
        schedule: Schedule | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (whole_number(every_n_steps) or 0) < 1:
            raise ValueError(f"FlowAudit: every_n_steps must be an integer of at least 1, got {every_n_steps!r}")
        self._field, self._every, self._measured = field, every_n_steps, 0
        self._audit = TrainingAudit(data, count=count, source=source, schedule=schedule, seed=seed)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Measure, on the first process, and log; once where batches are accumulated for one step."""
        step = trainer.global_step
        if step == self._measured or step % self._every or not trainer.is_global_zero:
            return
        self._measured = step
        with _Evaluating(pl_module):
            figures = self._audit(_on_device(self._field(pl_module), pl_module.device))
        for name, value in figures.items():
            pl_module.log(f"audit/{name}", value, rank_zero_only=True)


def _on_device(field: Callable[[Tensor, Tensor], Tensor], device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda t, x: field(t.to(device), x.to(device)).to(x.device)


class _Evaluating:
    """A module in evaluation mode, and afterwards in the mode that it was in."""

    def __init__(self, module: Any) -> None:
        self._module = module

    def __enter__(self) -> None:
        self._was_training = self._module.training
        self._module.eval()

    def __exit__(self, *_: object) -> None:
        self._module.train(self._was_training)
