"""Training a velocity network on a coupling: the loop that people need and nothing else."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from proxflow.couplings import Conditional, Coupling, Pairs, PairStream, Semidiscrete
from proxflow.couplings.pairs import rows_of
from proxflow.couplings.seeding import generator_of
from proxflow.errors import ConvergenceError
from proxflow.fingerprint import fingerprint
from proxflow.matching.breaking import Breaking, BreakingLaw, break_pairs, breaking_law
from proxflow.matching.checkpoint import TrainingState, read_state
from proxflow.matching.interruption import deferred_interrupts
from proxflow.matching.log import TrainLog
from proxflow.matching.path import PathSample, flow_matching_loss, sample_path
from proxflow.matching.result import TrainRecord, TrainResult
from proxflow.matching.times import TimeSampler, Uniform
from proxflow.optional import optional_package
from proxflow.schedules import Linear, Schedule
from proxflow.storage import save

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["train"]

_BREAKING = Breaking()
_WARM_UP = 100
_HELD_OUT = 1024
_PROBES = 64
_TIMES, _HELD_OUT_PAIRS, _HELD_OUT_TIMES = 1, 2, 3  # two numbers make a stream apart from the pairs' one


def train(
    network: nn.Module,
    coupling: Coupling,
    *,
    steps: int,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    schedule: Schedule | None = None,
    times: TimeSampler | None = None,
    breaking: Breaking | None = _BREAKING,
    label_dropout: float = 0.1,
    ema_decay: float = 0.999,
    gradient_clip: float = 1.0,
    mixed_precision: str = "no",
    reference: Coupling | None = None,
    evaluate_every: int = 500,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int = 1000,
    log_dir: str | os.PathLike[str] | None = None,
    seed: int = 0,
    progress: bool | None = None,
    accelerator: Accelerator | None = None,
) -> TrainResult:
    """Regress a network on the velocities of coupled pairs, with AdamW and an average of its parameters.

    The learning rate rises over the first 100 steps and falls to 0 along a cosine. Pairs are drawn in the background.
    Started by ``accelerate launch`` or ``torchrun``, all processes share out the same batches that one process would
    draw, times and dropped labels included. Same seed, versions and device give the same network.

    Args:
        network: called network(t, x) or, where the pairs have labels, network(t, x, label); moved to the device and
            trained in place. Dropped labels are -1.
        coupling: draws the pairs.
        steps: of the optimiser.
        batch_size: pairs a step, all processes together.
        learning_rate: of AdamW, at its largest.
        weight_decay: of AdamW.
        schedule: of the path; Linear if None.
        times: law of t; ``Uniform`` if None.
        breaking: pairs are broken late on their paths, as often as leaves the coupling's field as it is (see
            ``Breaking``): on images, few-step samples stay those of the coupling, and many-step ones get closer to the
            data. None keeps all pairs, which is OT-CFM as published.
        label_dropout: share of whole-number labels that are left out, for classifier-free guidance.
        ema_decay: of the exponential moving average of the parameters, below 1, reached from 0 in the first steps: at
            step k at most (1 + k) / (10 + k). 0 keeps the last parameters.
        gradient_clip: largest norm of the gradient.
        mixed_precision: "no", "bf16" or "fp16", as of accelerate.
        reference: draws held-out pairs for the field error; if None, the coupling itself where it is the population
            coupling of a finite data set, else no field error is measured.
        evaluate_every: steps between looks at loss and field error.
        checkpoint: file of the run's state. A call with the same arguments goes on from it and ends with the same
            parameters, bit by bit on one machine, as an uninterrupted one.
        checkpoint_every: steps between writing it; it is also written at the end and at Ctrl-C.
        log_dir: folder for ``history.csv`` and TensorBoard's events.
        seed: of pairs, times and dropped labels. The network's first parameters are the caller's.
        progress: show a bar; None shows one on a terminal, of the first process only.
        accelerator: accelerate's, where the caller has one; ``mixed_precision`` is then its own.

    Returns:
        ``TrainResult``. At Ctrl-C, the one so far.

    Raises:
        ValueError: an argument is out of range, labels do not fit the network, the checkpoint's folder is not there, or
            the checkpoint belongs to a run that depends on other things (other data among them).
        ConvergenceError: the loss or a parameter is not finite; the message names the step. The checkpoint stays at its
            last good one.
        MissingExtraError: accelerate is not installed.
    """
    accelerator = _accelerator(mixed_precision) if accelerator is None else accelerator
    settings = _Settings(
        steps, batch_size, learning_rate, weight_decay, Linear() if schedule is None else schedule,
        Uniform() if times is None else times, breaking, label_dropout, ema_decay, gradient_clip, evaluate_every,
        checkpoint_every, seed, accelerator.num_processes, str(accelerator.mixed_precision),
    )  # fmt: skip
    _check(settings, network, coupling)
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise ValueError(f"train: the folder of the checkpoint {checkpoint} does not exist; make it first")
    if reference is None and isinstance(coupling, Semidiscrete | Conditional):
        reference = coupling
    run = _Run(network, coupling, reference, settings, accelerator, checkpoint)
    shown = progress if accelerator.is_main_process else False
    log = TrainLog(steps, shown, log_dir if accelerator.is_main_process else None, run.history)
    stream = PairStream(coupling, batch_size, seed=seed, position=run.step)
    try:
        with deferred_interrupts() as interrupted, stream:
            while run.step < steps and not interrupted():
                run.advance(next(stream))
                log.step(run.step)
                if run.step % evaluate_every == 0 or run.step == steps:
                    log.look(run.look())
                if run.step % checkpoint_every == 0 and run.step < steps:
                    run.save()
        run.save()
    finally:
        log.close()
    return run.result()


@dataclasses.dataclass(frozen=True)
class _Settings:
    """All that decides what a run does, but for its network and coupling."""

    steps: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    schedule: Schedule
    times: TimeSampler
    breaking: Breaking | None
    label_dropout: float
    ema_decay: float
    gradient_clip: float
    evaluate_every: int
    checkpoint_every: int
    seed: int
    processes: int
    mixed_precision: str

    def mark(self, network: nn.Module, coupling: Coupling) -> str:
        """A hash of what the run's parameters depend on."""
        layout = [(name, tuple(entry.shape), str(entry.dtype)) for name, entry in network.state_dict().items()]
        numbers = {k: v for k, v in vars(self).items() if k not in ("times", "evaluate_every", "checkpoint_every")}
        law = (type(self.times).__name__, vars(self.times))
        tensors = getattr(coupling, "tensors", None)
        if tensors is None:  # a user's own coupling is known by its first pairs
            pairs = coupling.sample(_PROBES, generator=generator_of(self.seed))
            tensors = [pairs.source, pairs.target, pairs.label]
        return fingerprint((type(coupling).__name__, layout, numbers, law), tensors)


class _Run:
    """A run in progress: network, average, optimiser, and how far they are."""

    def __init__(
        self,
        network: nn.Module,
        coupling: Coupling,
        reference: Coupling | None,
        settings: _Settings,
        accelerator: Accelerator,
        checkpoint: str | os.PathLike[str] | None,
    ) -> None:
        self.settings, self.accelerator, self.checkpoint = settings, accelerator, checkpoint
        self.step, self.history = 0, ()  # type: tuple[int, tuple[TrainRecord, ...]]
        self._began = time.perf_counter()
        self._mark = settings.mark(network, coupling) if checkpoint is not None else ""
        network.to(accelerator.device)
        self.average = AveragedModel(network, multi_avg_fn=self._move_average)
        optimiser = torch.optim.AdamW(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        network.train()
        self.network, self.optimiser = accelerator.prepare(network, optimiser)
        self._loss_sum = torch.zeros((), device=accelerator.device)
        self._last_loss: Tensor | None = None
        self._breaking: BreakingLaw | None = None
        if settings.breaking is not None:
            self._breaking = breaking_law(
                coupling, settings.breaking, settings.schedule, batch_size=settings.batch_size, seed=settings.seed
            )
        self._held_out = None if reference is None else self._held_out_path(reference)
        state = None if checkpoint is None else read_state(checkpoint, self._mark)
        if state is not None:
            self._resume(state)

    @property
    def seconds(self) -> float:
        """Wall time spent."""
        return time.perf_counter() - self._began

    def advance(self, pairs: Pairs) -> None:
        """One step of the optimiser."""
        path = self._path(pairs)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.learning_rate * _rate(self.step, self.settings.steps)
        loss = flow_matching_loss(self.network, path)
        self._check_last_loss()
        self.optimiser.zero_grad(set_to_none=True)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.network.parameters(), self.settings.gradient_clip)
        self.optimiser.step()
        self.average.update_parameters(self._plain_network())
        self._last_loss = loss.detach()
        self._loss_sum += self._last_loss
        self.step += 1

    def look(self) -> TrainRecord:
        """Loss since the last look, and field error of the averaged network."""
        self._check_last_loss()
        since = self.step - (self.history[-1].step if self.history else 0)
        loss = float(self.accelerator.reduce(self._loss_sum, "mean")) / max(since, 1)
        record = TrainRecord(self.step, loss, self._field_error(), self.seconds)
        self._loss_sum.zero_()
        self.history = (*self.history, record)
        return record

    def save(self) -> None:
        """Write the checkpoint, if there is one to write; refused where the parameters are not finite."""
        self._check_last_loss()
        self._check_parameters()
        if self.checkpoint is None or not self.accelerator.is_main_process:
            return
        scaler = self.accelerator.scaler
        state = TrainingState(
            mark=self._mark,
            step=self.step,
            network=dict(self._plain_network().state_dict()),
            average=dict(self.average.state_dict()),
            optimiser=self.optimiser.state_dict(),
            scaler={} if scaler is None else scaler.state_dict(),
            random=_random_state(self.accelerator.device),
            history=self.history,
            loss_sum=float(self._loss_sum),
            seconds=self.seconds,
        )
        save(state, self.checkpoint)

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
            breaking=self._breaking,
        )

    # ---------------------------------------------------------------- inside

    def _resume(self, state: TrainingState) -> None:
        self._plain_network().load_state_dict(state.network)
        self.average.load_state_dict(state.average)
        self.optimiser.load_state_dict(state.optimiser)
        if self.accelerator.scaler is not None and state.scaler:
            self.accelerator.scaler.load_state_dict(state.scaler)
        _set_random_state(state.random, self.accelerator.device)
        self.step, self.history = state.step, state.history
        self._loss_sum.fill_(state.loss_sum)
        self._began -= state.seconds

    def _plain_network(self) -> nn.Module:
        module: nn.Module = self.accelerator.unwrap_model(self.network)
        return module

    def _path(self, pairs: Pairs) -> PathSample:
        """Points on the paths of this process's share of a batch; what is random was drawn for all of it."""
        settings, share = self.settings, slice(self.accelerator.process_index, None, self.settings.processes)
        generator = generator_of(settings.seed, _TIMES, self.step)
        t = settings.times.sample(settings.batch_size, generator=generator)
        dropped = torch.rand(settings.batch_size, generator=generator) < settings.label_dropout
        if self._breaking is not None:
            pairs = break_pairs(pairs, self._breaking(t), generator)
        own = rows_of(_without(pairs, dropped), share)
        return sample_path(_moved(own, self.accelerator.device), t[share], settings.schedule)

    def _move_average(
        self, average: tuple[Tensor, ...] | list[Tensor], current: tuple[Tensor, ...] | list[Tensor], _: Tensor | int
    ) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(average), list(current), 1 - decay)

    def _held_out_path(self, reference: Coupling) -> PathSample:
        pairs = reference.sample(_HELD_OUT, generator=generator_of(self.settings.seed, _HELD_OUT_PAIRS, 0))
        t = Uniform().sample(_HELD_OUT, generator=generator_of(self.settings.seed, _HELD_OUT_TIMES, 0))
        return sample_path(_moved(pairs, self.accelerator.device), t, self.settings.schedule)

    @torch.no_grad()
    def _field_error(self) -> float:
        if self._held_out is None:
            return math.nan
        self.average.eval()
        error = flow_matching_loss(self.average.module, self._held_out)
        return float(error / self._held_out.velocity.square().mean())

    def _check_last_loss(self) -> None:
        """One step late, so that the device is not waited for; always before anything is written."""
        if self._last_loss is not None and not bool(torch.isfinite(self._last_loss)):
            raise self._failure(f"the loss is {float(self._last_loss)}")

    def _check_parameters(self) -> None:
        """A finite loss can have a gradient that is not."""
        for name, parameter in self._plain_network().named_parameters():
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


def _check(settings: _Settings, network: nn.Module, coupling: Coupling) -> None:
    if not hasattr(coupling, "sample"):
        raise ValueError(
            f"train: the coupling must have sample(n, generator=...), got {type(coupling).__name__}; for plain points "
            "couplings.Independent(points)"
        )
    for name in ("steps", "batch_size", "evaluate_every", "checkpoint_every"):
        if not (isinstance(getattr(settings, name), Integral) and getattr(settings, name) >= 1):
            raise ValueError(f"train: {name} must be a whole number of at least 1, got {getattr(settings, name)!r}")
    for name in ("learning_rate", "gradient_clip"):
        if not getattr(settings, name) > 0:
            raise ValueError(f"train: {name} must be positive, got {getattr(settings, name)!r}")
    for name in ("label_dropout", "ema_decay"):
        if not 0 <= getattr(settings, name) < 1:
            raise ValueError(f"train: {name} must be in [0, 1), got {getattr(settings, name)!r}")
    if not isinstance(settings.breaking, Breaking | None):
        raise ValueError(f"train: breaking must be a matching.Breaking or None, got {settings.breaking!r}")
    if not settings.weight_decay >= 0:
        raise ValueError(f"train: weight_decay must not be negative, got {settings.weight_decay!r}")
    if settings.batch_size % settings.processes:
        raise ValueError(
            f"train: batch_size {settings.batch_size} must be a multiple of the {settings.processes} processes"
        )
    classes, rows = getattr(network, "classes", 0), getattr(coupling, "rows", None)
    labels = None if rows is None else rows.labels
    if classes and labels is not None and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"train: labels run from {int(labels.min())} to {int(labels.max())}, the network has {classes} classes"
        )


def _accelerator(mixed_precision: str) -> Accelerator:
    if mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"train: mixed_precision must be 'no', 'bf16' or 'fp16', got {mixed_precision!r}")
    accelerate = optional_package("accelerate", "train")
    accelerator: Accelerator = accelerate.Accelerator(
        mixed_precision=mixed_precision, cpu=not torch.accelerator.is_available()
    )
    return accelerator


def _random_state(device: torch.device) -> dict[str, Tensor]:
    """PyTorch's own state of random numbers, of the CPU and of the device that trains."""
    states = {"cpu": torch.get_rng_state()}
    if device.type != "cpu":
        states[device.type] = torch.get_device_module(device).get_rng_state(device)
    return states


def _set_random_state(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        torch.get_device_module(device).set_rng_state(states[device.type], device)


def _rate(step: int, steps: int) -> float:
    """Share of the largest learning rate at a step."""
    return min((step + 1) / _WARM_UP, 1.0) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _without(pairs: Pairs, dropped: Tensor) -> Pairs:
    """The pairs with some of their labels left out, as -1; labels that are no whole numbers stay."""
    if pairs.label is None or pairs.label.is_floating_point():
        return pairs
    label = pairs.label.long()
    rows = dropped.to(label.device).reshape(-1, *(1,) * (label.ndim - 1))
    return dataclasses.replace(pairs, label=torch.where(rows, -1, label))


def _moved(pairs: Pairs, device: torch.device) -> Pairs:
    label = None if pairs.label is None else pairs.label.to(device, non_blocking=True)
    source, target = pairs.source.to(device, non_blocking=True), pairs.target.to(device, non_blocking=True)
    return Pairs(source, target, pairs.index, label)
