"""Bits per dimension of images, or other data on levels: a bound by uniform dequantisation.

A density says nothing of discrete data until each level is given the bin around it. With e uniform on a bin of width
w, log P(x) >= E log p(x + e) + d log w (Theis, van den Oord and Bethge 2016): minus this over d log 2 bounds the bits
that a dimension costs. w is in the units that the field lives in: a level of the data over the scale that
standardised them, whose log-determinant is thereby counted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from proxflow.checks import real_number, whole_number
from proxflow.flow import ProximalFlow
from proxflow.results import brief_repr
from proxflow.sampling.integration import check_points
from proxflow.sampling.likelihood import log_likelihood
from proxflow.sampling.solvers import Field
from proxflow.seeding import generator_of, seeded_generator

__all__ = ["BitsPerDimension", "bits_per_dimension"]

_OFF_THE_LEVELS = (
    0.05  # of a bin: roundings of standardised float32 images with 256 levels are a thousand times smaller
)


@brief_repr
@dataclass(frozen=True)
class BitsPerDimension:
    """Upper bounds on the bits that a dimension costs, lower is better.

    Attributes:
        value: of each row, (B,), the mean over the draws.
        stderr: standard error of ``value`` by the scatter of the draws, dequantisation and probes in it, (B,); NaN with
            one draw.
        mean: the mean of ``value``, what tables state.
        mean_stderr: its standard error as an estimate for the law of the rows, everything random in it; NaN of one row.
        draws: dequantised copies of each row.
    """

    value: Tensor
    stderr: Tensor
    mean: float
    mean_stderr: float
    draws: int


def bits_per_dimension(
    field: Field | ProximalFlow,
    x: Tensor,
    *,
    levels: int = 256,
    value_range: tuple[float, float] = (0.0, 1.0),
    scale: float = 1.0,
    draws: int = 1,
    seed: int = 0,
    **options: Any,
) -> BitsPerDimension:
    """Bits per dimension of data on evenly spaced levels, dequantised by uniform noise on the bins around them.

    Args:
        field: as in ``log_likelihood``.
        x: (B, *event), as the field takes them: standardised, and NOT dequantised.
        levels: how many values a coordinate of the data can have.
        value_range: the lowest and the highest of them, before standardisation.
        scale: what the data were divided by, ``data.standardisation.scale``; a shift does not count.
        draws: dequantised copies of each row.
        seed: seed of the dequantisation and of the probes.
        options: of ``log_likelihood``: source, schedule, divergence, probes, tolerances.

    Raises:
        ValueError: a bad option; or rows whose differences are no whole numbers of levels, so that levels, range or
            scale are not those of the data.
    """
    owner = "bits_per_dimension"
    check_points(owner, x)
    width = _bin_width(owner, x, levels, value_range, scale)
    count = whole_number(draws)
    if count is None or count < 1:
        raise ValueError(f"{owner}: draws must be an integer of at least 1, got {draws!r}")
    per_dimension = math.prod(x.shape[1:]) * math.log(2)
    generator = seeded_generator(owner, seed)
    bits = []
    for draw in range(count):
        noise = torch.rand(x.shape, generator=generator, dtype=x.dtype).to(x.device) - 0.5
        probe_seed = int(generator_of(seed, 1 + draw).initial_seed())
        density = log_likelihood(field, x + width * noise, seed=probe_seed, **options).value
        bits.append(-density / per_dimension - math.log2(width))
    each = torch.stack(bits)
    value = each.mean(0)
    return BitsPerDimension(
        value=value,
        stderr=each.std(0) / math.sqrt(count) if count > 1 else torch.full_like(value, torch.nan),
        mean=float(value.detach().mean()),
        mean_stderr=float(value.detach().std() / math.sqrt(len(value))) if len(value) > 1 else math.nan,
        draws=count,
    )


def _bin_width(owner: str, x: Tensor, levels: int, value_range: tuple[float, float], scale: float) -> float:
    """The distance of two levels as the field sees it."""
    ends = [real_number(end) for end in value_range] if np.iterable(value_range) else []
    count = whole_number(levels)
    if count is None or count < 2:
        raise ValueError(f"{owner}: levels must be an integer of at least 2, got {levels!r}")
    if len(ends) != 2 or not -math.inf < ends[0] < ends[1] < math.inf:
        raise ValueError(f"{owner}: value_range must be two rising numbers, got {value_range!r}")
    if not 0 < real_number(scale) < math.inf:
        raise ValueError(f"{owner}: scale must be a positive number, got {scale!r}")
    width = (ends[1] - ends[0]) / ((count - 1) * float(scale))
    steps = (x.detach() - x.detach()[:1]).double() / width
    off = float((steps - steps.round()).abs().nan_to_num().max()) if x.numel() else 0.0
    if off > _OFF_THE_LEVELS:
        raise ValueError(
            f"{owner}: differences of rows of x are {off:.2g} of a level away from whole levels, which "
            f"levels={levels}, value_range={value_range} and scale={scale:g} make {width:.3g}; give those of the data, "
            "and x without noise"
        )
    return width
