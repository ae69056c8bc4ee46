"""Training a velocity network on a coupling: the loop that people need and nothing else."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from proxflow.couplings import Coupling, PairStream
from proxflow.errors import optional_package
from proxflow.matching.log import TrainLog
from proxflow.matching.path import TimeSampler, Uniform
from proxflow.matching.settings import Settings
from proxflow.matching.train_result import TrainResult
from proxflow.matching.training_run import Run
from proxflow.progress import deferred_interrupts
from proxflow.schedules import Linear, Schedule

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["train"]


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
            trained in place. Dropped labels are -1. A network of proxflow with ``classes=0`` ignores labels.
        coupling: draws the pairs.
        steps: number of optimiser steps.
        batch_size: number of pairs in a step, of all processes together.
        learning_rate: learning rate of AdamW, at its largest.
        weight_decay: weight decay of AdamW.
        schedule: schedule of the path; Linear if None.
        times: law of t; ``Uniform`` if None.
        label_dropout: fraction of whole-number labels that are left out, for classifier-free guidance.
        ema_decay: decay of the exponential moving average of the parameters, below 1, reached from 0 in the first
            steps: at step k at most (1 + k) / (10 + k). 0 keeps the last parameters.
        gradient_clip: largest norm of the gradient.
        mixed_precision: "no", "bf16" or "fp16", as of accelerate.
        reference: draws held-out pairs for the field error, whose velocities are those of an exact flow; if None, the
            coupling itself where its noise decides the point (``Semidiscrete`` without smoothing, ``Subspace`` in all
            directions, and ``Conditional`` of these), else no field error is measured.
        evaluate_every: number of steps between evaluations of loss and field error.
        checkpoint: file of the run's state. A call with the same arguments resumes it and ends with the same
            parameters, bit by bit on one machine, as an uninterrupted one. With more ``steps`` the call lengthens the
            run, finished or not, from the learning rate that the longer run has there.
        checkpoint_every: steps between writing it; it is also written at the end and at Ctrl-C.
        log_dir: folder for ``history.csv`` and TensorBoard's events.
        seed: seed of pairs, times and dropped labels. The network's first parameters are the caller's.
        progress: show a bar; None shows one on a terminal, of the first process only.
        accelerator: accelerate's, where the caller has one; ``mixed_precision`` is then its own.

    Returns:
        ``TrainResult``. At Ctrl-C, the one so far.

    Raises:
        ValueError: an argument is out of range, the network takes no labels or other ones than the pairs have, the
            checkpoint's folder is not there, or the checkpoint belongs to a run that depends on other things (other
            data among them).
        ConvergenceError: the loss or a parameter is not finite; the message names the step. The checkpoint stays at its
            last good one.
        MissingExtraError: accelerate is not installed.
    """
    accelerator = _accelerator(mixed_precision) if accelerator is None else accelerator
    settings = Settings(
        steps=steps,
        batch_size=batch_size,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        schedule=Linear() if schedule is None else schedule,
        times=Uniform() if times is None else times,
        label_dropout=label_dropout,
        ema_decay=ema_decay,
        gradient_clip=gradient_clip,
        evaluate_every=evaluate_every,
        checkpoint_every=checkpoint_every,
        seed=seed,
        processes=accelerator.num_processes,
        mixed_precision=str(accelerator.mixed_precision),
    )
    settings.check(network, coupling)
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise ValueError(f"train: the folder of the checkpoint {checkpoint} does not exist; make it first")
    if reference is None and getattr(coupling, "deterministic", False):
        reference = coupling
    run = Run(network, coupling, reference, settings, accelerator, checkpoint)
    shown = progress if accelerator.is_main_process else False
    log = TrainLog(steps, shown, log_dir if accelerator.is_main_process else None, run.history)
    stream = PairStream(coupling, batch_size, seed=seed, position=run.step)
    try:
        with deferred_interrupts() as interrupted, stream:
            while run.step < steps and not run.stopped(interrupted()):
                run.advance(next(stream), interrupted())
                log.step(run.step)
                if run.step % evaluate_every == 0 or run.step == steps:
                    log.record(run.evaluate())
                if run.step % checkpoint_every == 0 and run.step < steps:
                    run.save()
        run.save()
    finally:
        log.close()
    return run.result()


def _accelerator(mixed_precision: str) -> Accelerator:
    if mixed_precision not in ("no", "bf16", "fp16"):
        raise ValueError(f"train: mixed_precision must be 'no', 'bf16' or 'fp16', got {mixed_precision!r}")
    accelerate = optional_package("accelerate", "train")
    accelerator: Accelerator = accelerate.Accelerator(
        mixed_precision=mixed_precision, cpu=not torch.accelerator.is_available()
    )
    return accelerator
