"""What a training run regresses on: drawn for the whole batch, of which each process takes its share."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from proxflow.couplings import Coupling, Pairs
from proxflow.couplings.pairs import rows_of
from proxflow.couplings.stream import batch_of
from proxflow.matching.path import PathSample, Uniform, sample_path
from proxflow.matching.settings import Settings
from proxflow.seeding import derived_seed, generator_of

__all__ = ["held_out_path", "training_path"]

_HELD_OUT = (256, 1024)  # pairs, at least and at most; four batches in between
_TIMES, _HELD_OUT_PAIRS, _HELD_OUT_TIMES = 1, 2, 3  # two numbers make a stream apart from the pairs' one


def training_path(pairs: Pairs, settings: Settings, step: int, process: int, device: torch.device) -> PathSample:
    """Points on the paths of one process's share of the batch of a step, some of their labels left out."""
    generator = generator_of(settings.seed, _TIMES, step)
    t = settings.times.sample(settings.batch_size, generator=generator)
    if not bool(((t >= 0) & (t <= 1)).all()):
        raise ValueError(f"train: times.sample must give times in [0, 1), got {float(t.min()):g} to {float(t.max()):g}")
    dropped = torch.rand(settings.batch_size, generator=generator) < settings.label_dropout
    share = slice(process, None, settings.processes)
    own = rows_of(_without(pairs, dropped), share)
    return sample_path(_moved(own, device), t[share], settings.schedule)


def held_out_path(reference: Coupling, settings: Settings, device: torch.device) -> PathSample:
    """Points on the paths of pairs that are not trained on, whose velocities the field error compares with."""
    least, most = _HELD_OUT
    count = max(least, min(4 * settings.batch_size, most))
    pairs = batch_of(reference, 0, count, derived_seed(settings.seed, _HELD_OUT_PAIRS))
    t = Uniform().sample(count, generator=generator_of(settings.seed, _HELD_OUT_TIMES, 0))
    return sample_path(_moved(pairs, device), t, settings.schedule)


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
