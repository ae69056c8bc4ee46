"""Heights from an earlier fit, for the same atoms or for others."""

from __future__ import annotations

import torch
from torch import Tensor

from proxflow.potentials.discrete import Discrete
from proxflow.potentials.entropic import Entropic
from proxflow.seeding import generator_of
from proxflow.semidiscrete.result import Fit

__all__ = ["carried_heights"]

_CLOUD = 1 << 12
_BLOCK = 1 << 10


def carried_heights(warm_start: Fit | Discrete | Entropic | Tensor, points: Tensor) -> Tensor:
    """Heights (N,) in float64 for the distinct atoms (N, d) of a new fit.

    Heights given as a tensor are taken as they are. From a fit or potential, atoms that it knows keep their heights;
    those added or moved get the conjugate of its phi over a cloud of noise, h = max_u <u, y> - phi(u), which leaves
    no cell empty.

    Raises:
        ValueError: heights of the wrong number or not finite, or a potential of another dimension.
    """
    if isinstance(warm_start, Tensor):
        heights = warm_start.detach().to(points.device, torch.float64)
        if heights.shape != (len(points),) or not bool(torch.isfinite(heights).all()):
            raise ValueError(
                f"fit: warm_start must give {len(points)} finite heights, one per distinct atom, "
                f"got shape {tuple(heights.shape)}; give the earlier Fit where atoms were added or moved"
            )
        return heights
    potential = warm_start.potential if isinstance(warm_start, Fit) else warm_start
    if not isinstance(potential, Discrete | Entropic):
        raise ValueError(f"fit: warm_start must be a Fit, a potential or heights, got {type(potential).__name__}")
    if potential.dim != points.shape[1]:
        raise ValueError(f"fit: warm_start has dimension {potential.dim}, the points {points.shape[1]}")
    known, place = _known_atoms(potential.points.to(points), points)
    heights = potential.heights.to(points.device, torch.float64)[place]
    if bool(known.all()):
        return heights
    carried = _conjugate_over_cloud(potential, points)
    # The cloud misses the maximum by about as much at known atoms, where the truth is at hand.
    shift = (heights - carried)[known].median() if bool(known.any()) else 0.0
    return torch.where(known, heights, carried + shift)


def _known_atoms(old: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Which new rows are among the old (N,), and where (N,); 0 where they are not."""
    _, label = torch.unique(torch.cat([old, new]), dim=0, return_inverse=True)
    place = torch.full((int(label.max()) + 1,), -1, device=new.device)
    place[label[: len(old)]] = torch.arange(len(old), device=new.device)
    found = place[label[len(old) :]]
    return found >= 0, found.clamp(min=0)


def _conjugate_over_cloud(potential: Discrete | Entropic, points: Tensor) -> Tensor:
    """max over noise u of <u, y> - phi(u) for each row y, (N,) float64."""
    own = potential.points
    generator = generator_of(0, device=own.device)
    cloud = potential.source.sample(_CLOUD, generator=generator, dtype=own.dtype, device=own.device)
    levels = potential.conjugate(cloud).detach().to(points.device, torch.float64)
    cloud = cloud.to(points.device, torch.float64)
    rows = points.double().split(_BLOCK)
    return torch.cat([(part @ cloud.mT - levels).amax(1) for part in rows])
