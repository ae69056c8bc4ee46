"""Breaking pairs late on their paths, so that a network also learns where optimal pairs never pass.

The points x_t of an optimal coupling lie on the trajectories of its flow alone, and near t = 1 these are close to the
data. A network's own trajectories leave them a little, and it was never trained there. Independent pairs pass
everywhere, and in high dimension they ask for the same velocity where x_t is near one data point and far from the
others. So a pair is broken with a probability that grows with t: early on the field is that of the coupling, which
decides where noise goes; late it also leads back. In few dimensions broken pairs cross the trajectories of the flow at
every t, and pull the field off it: there all pairs should be kept.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from proxflow.couplings import Pairs

__all__ = ["break_pairs"]


def break_pairs(pairs: Pairs, t: Tensor, exponent: float, generator: torch.Generator | None = None) -> Pairs:
    """Break each pair with probability t^exponent: the source points of broken pairs change places among themselves.

    Among pairs drawn independently those that are broken become independent of their targets; labels stay with them.

    Args:
        pairs: n of them.
        t: (n,) on the CPU, the time at which each will be used.
        exponent: 0 breaks all.
        generator: of the choice, on the CPU.
    """
    chosen = torch.nonzero(torch.rand(len(t), generator=generator) < t**exponent)[:, 0].to(pairs.source.device)
    source = pairs.source.clone()
    source[chosen] = pairs.source[chosen.roll(1)]
    return dataclasses.replace(pairs, source=source)
