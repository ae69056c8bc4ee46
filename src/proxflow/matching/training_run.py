"""A training run in progress: its network, average and optimiser, one step at a time."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from proxflow.couplings import Coupling, Pairs
from proxflow.errors import ConvergenceError, optional_package
from proxflow.matching.path import flow_matching_loss
from proxflow.matching.settings import Settings
from proxflow.matching.train_result import TrainRecord, TrainResult
from proxflow.matching.training_paths import held_out_path, training_path
from proxflow.matching.training_state import TrainingState, random_state, read_state, set_random_state
from proxflow.storage import save

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["Run"]

_WARM_UP = 100  # steps over which the learning rate rises


class Run:
    """A run in progress: network, average, optimiser, and how far they are."""

    def __init__(
        self,
        network: nn.Module,
        coupling: Coupling,
        reference: Coupling | None,
        settings: Settings,
        accelerator: Accelerator,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self.coupling, self.settings, self.accelerator, self.checkpoint = coupling, settings, accelerator, checkpoint
        self.step, self.history = 0, ()  # type: tuple[int, tuple[TrainRecord, ...]]
        self._began = time.perf_counter()
        self._fingerprint = settings.fingerprint(network, coupling) if checkpoint is not None else ""
        network.to(accelerator.device)
        self.average = AveragedModel(network, multi_avg_fn=self._move_average)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        network.train()
        self.network, self.optimiser = accelerator.prepare(network, optimiser)
        self._plain: nn.Module = accelerator.unwrap_model(self.network)  # once: it looks for installed packages
        self._loss_sum = torch.zeros((), device=accelerator.device)
        self._last_loss: Tensor | None = None
        self._signals = torch.zeros(2, device=accelerator.device)
        self._told_to_stop = False
        self._held_out = None if reference is None else held_out_path(reference, settings, accelerator.device)
        state = None if checkpoint is None else read_state(checkpoint, self._fingerprint)
        if state is not None:
            self._resume(state)

    @property
    def seconds(self) -> float:
        """Wall time spent."""
        return time.perf_counter() - self._began

    def advance(self, pairs: Pairs, interrupted: bool) -> None:
        """One step of the optimiser; an interruption is told to the other processes with it."""
        accelerator = self.accelerator
        path = training_path(pairs, self.settings, self.step, accelerator.process_index, accelerator.device)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * _rate(self.step, self.settings.steps)
        loss = flow_matching_loss(self.network, path)
        self._check_last_step()
        self.optimiser.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        accelerator.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        self.optimiser.step()
        self.average.update_parameters(self._plain)
        self._last_loss = loss.detach()
        self._loss_sum += self._last_loss
        self._signals = self._shared_signals(self._last_loss, interrupted)
        self.step += 1

    def stopped(self, interrupted: bool) -> bool:
        """Whether to stop before the next step: several processes do so together, a step or two after being told."""
        return interrupted if self.settings.processes == 1 else self._told_to_stop

    def evaluate(self) -> TrainRecord:
        """Loss since the last evaluation, and field error of the averaged network."""
        self._check_last_step()
        since = self.step - (self.history[-1].step if self.history else 0)
        loss = float(self.accelerator.reduce(self._loss_sum, "mean")) / max(since, 1)
        record = TrainRecord(self.step, loss, self._field_error(), self.seconds)
        self._loss_sum.zero_()
        self.history = (*self.history, record)
        return record

    def save(self) -> None:
        """Write the checkpoint, if there is one to write; refused where the parameters are not finite.

        It is there when any process returns, and where it cannot be written all of them raise the same error.
        """
        self._check_last_step()
        self._check_parameters()
        if self.checkpoint is None:
            return
        gather = optional_package("accelerate", "train").utils.gather_object
        state = self._state(gather([random_state(self.accelerator.device)]))
        failure: OSError | None = None
        if self.accelerator.is_main_process:
            try:
                save(state, self.checkpoint)
            except OSError as error:
                failure = error
        (failure, *_) = gather([failure])
        if failure is not None:
            raise failure

    def result(self) -> TrainResult:
        """The networks, on the device they were trained on, and the record of the run."""
        last = self.accelerator.unwrap_model(self.network, keep_fp32_wrapper=False)
        averaged = self.average.module
        return TrainResult(
            network=averaged.eval(),
            last_network=last.eval(),
            history=self.history,
            steps=self.step,
            finished=self.step == self.settings.steps,
            seconds=self.seconds,
            seed=self.settings.seed,
            coupling=self.coupling,
            schedule=self.settings.schedule,
        )

    # ---------------------------------------------------------------- inside

    def _state(self, random: list[dict[str, Tensor]]) -> TrainingState:
        scaler = self.accelerator.scaler
        return TrainingState(
            fingerprint=self._fingerprint,
            step=self.step,
            network=dict(self._plain.state_dict()),
            average=dict(self.average.state_dict()),
            optimiser=self.optimiser.state_dict(),
            scaler={} if scaler is None else scaler.state_dict(),
            random=random,
            history=self.history,
            loss_sum=float(self.accelerator.reduce(self._loss_sum, "mean")),
            seconds=self.seconds,
        )

    def _resume(self, state: TrainingState) -> None:
        if state.step > self.settings.steps:
            raise ValueError(
                f"train: the checkpoint {self.checkpoint} has made {state.step:,} steps; ask for steps of at least that"
            )
        self._plain.load_state_dict(state.network)
        self.average.load_state_dict(state.average)
        self.optimiser.load_state_dict(state.optimiser)
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        set_random_state(state.random[self.accelerator.process_index], self.accelerator.device)
        self.step, self.history = state.step, state.history
        self._loss_sum.fill_(state.loss_sum)
        self._began -= state.seconds

    def _move_average(
        self, average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], _: Tensor | int
    ) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(average), list(current), 1 - decay)

    @torch.no_grad()
    def _field_error(self) -> float:
        if self._held_out is None:
            return math.nan
        self.average.eval()
        error = flow_matching_loss(self.average.module, self._held_out)
        return float(error / self._held_out.velocity.square().mean())

    def _shared_signals(self, loss: Tensor, interrupted: bool) -> Tensor:
        """How many processes have a loss that is not finite, and how many were interrupted."""
        own = torch.stack([~torch.isfinite(loss), torch.tensor(interrupted, device=loss.device)]).float()
        shared: Tensor = self.accelerator.reduce(own, "sum")
        return shared

    def _check_last_step(self) -> None:
        """One step late, so that the device is not waited for; always before anything is written."""
        not_finite, interrupted = self._signals.tolist()
        self._told_to_stop = interrupted > 0
        if not_finite:
            own = math.nan if self._last_loss is None else float(self._last_loss)
            raise self._failure(
                "the loss of another process is not finite" if math.isfinite(own) else f"the loss is {own}"
            )

    def _check_parameters(self) -> None:
        """A finite loss can have a gradient that is not."""
        for name, parameter in self._plain.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise self._failure(f"the parameter {name} is not finite")

    def _failure(self, what: str) -> ConvergenceError:
        kept = "no checkpoint was asked for"
        if self.checkpoint is not None:
            kept = f"{self.checkpoint} keeps the last good one"
            if not Path(self.checkpoint).exists():
                kept = f"{self.checkpoint} was not written yet"
        return ConvergenceError(
            f"train: {what} at step {self.step}; {kept}. Lower learning_rate or gradient_clip, or look for extreme "
            "values in the data"
        )


def _rate(step: int, steps: int) -> float:
    """Share of the largest learning rate at a step."""
    return min((step + 1) / _WARM_UP, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))
