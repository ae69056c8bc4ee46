"""What trajectories cost and how straight they are."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from proxflow.checks import real_number
from proxflow.metrics.clouds import listed
from proxflow.sampling.integration import Trajectory

__all__ = ["normalised_path_energy", "path_energy", "straightness"]

_TIME_ROUNDING = 1e-6  # of the ends of times that a user added up


def path_energy(trajectory: Trajectory) -> float:
    """E int_0^1 |dx/dt|^2 dt of the paths that join the points by straight lines, in float64.

    That is the mean over the batch of sum_k |x_(k+1) - x_k|^2 / (t_(k+1) - t_k). Along an Euler trajectory dx/dt is
    the field itself, so that the energy of a field, int |v(t, x_t)|^2 dt in as many steps, is
    ``path_energy(integrate(field, x0, steps))``. Between two ends no path has less than their squared distance; a
    curved path has more than the straight lines through a few of its points.

    Args:
        trajectory: times (T,) that rise from 0 to 1, points (T, B, *event), finite.

    Raises:
        ValueError: times that do not rise from 0 to 1, an empty batch, or rows that are not finite.

    Source: Benamou and Brenier (2000); Tong et al., arXiv 2302.00482, section 5.
    """
    return _energy_about_drift("path_energy", trajectory, straight=False)


def normalised_path_energy(trajectory: Trajectory, transport_cost: float) -> float:
    """|path energy - W2^2| / W2^2: 0 for an exact optimal-transport flow.

    The W2^2 of two samples exceeds that of their laws on average, in high dimension by much: where the problem itself
    was solved, take its cost, such as ``fit.transport_cost``.

    Args:
        trajectory: as for ``path_energy``.
        transport_cost: W2^2 between the source and the target, such as ``wasserstein(x0, x1).value ** 2``; positive.

    Raises:
        ValueError: a trajectory that ``path_energy`` refuses, or a cost that is not a positive number.

    Source: Tong et al., arXiv 2302.00482, section 5 (NPE).
    """
    if not 0 < real_number(transport_cost) < math.inf:
        raise ValueError(
            f"normalised_path_energy: transport_cost must be a positive number, W2^2 of source and target, got "
            f"{transport_cost!r}"
        )
    cost = float(transport_cost)
    return abs(_energy_about_drift("normalised_path_energy", trajectory, straight=False) - cost) / cost


def straightness(trajectory: Trajectory) -> float:
    """E int_0^1 |(x_1 - x_0) - dx/dt|^2 dt of the paths that join the points by straight lines, in float64.

    0, up to the rounding of the points, for straight paths of constant speed; the path energy less |x_1 - x_0|^2.

    Args:
        trajectory: times (T,) that rise from 0 to 1, points (T, B, *event), finite.

    Raises:
        ValueError: times that do not rise from 0 to 1, an empty batch, or rows that are not finite.

    Source: Liu, Gong and Liu, Flow straight and fast, arXiv 2209.03003, section 2.1.
    """
    return _energy_about_drift("straightness", trajectory, straight=True)


def _energy_about_drift(metric: str, trajectory: Trajectory, *, straight: bool) -> float:
    """E int |dx/dt - c|^2 dt, with c = x_1 - x_0 if ``straight``, else 0; a time at a time, to bound memory."""
    _check(metric, trajectory)
    steps = trajectory.times.double().diff()
    points = trajectory.points.detach()
    drift = points[-1].double() - points[0].double() if straight else torch.zeros_like(points[0]).double()
    energy = drift.new_zeros(())
    for step, (now, following) in zip(steps, itertools.pairwise(points), strict=True):
        energy += (following.double() - now.double() - step * drift).square().sum() / step
    return float(energy) / points.shape[1]


def _check(metric: str, trajectory: Trajectory) -> None:
    times, points = trajectory.times, trajectory.points
    if times.ndim != 1 or len(times) < 2 or points.ndim < 2 or len(points) != len(times) or points.numel() == 0:
        raise ValueError(
            f"{metric}: a trajectory needs times (T,) and points (T, B, *event) with T > 1 and B > 0, got "
            f"{tuple(times.shape)} and {tuple(points.shape)}; integrate at least one point over at least one step"
        )
    ends = abs(float(times[0])), abs(float(times[-1]) - 1)
    if not (bool((times.diff() > 0).all()) and max(ends) <= _TIME_ROUNDING):
        raise ValueError(f"{metric}: the times of the trajectory must rise from 0 to 1; give the whole path")
    broken = _broken_rows(points)
    if broken:
        raise ValueError(
            f"{metric}: the points of the trajectory have rows that are not finite ({listed(broken)}); "
            "drop these rows of x0, or integrate in smaller steps"
        )


def _broken_rows(points: Tensor) -> list[int]:
    """Rows of the batch that are not finite at some time."""
    finite = torch.ones(points.shape[1], dtype=torch.bool, device=points.device)
    for now in points:
        finite &= torch.isfinite(now).reshape(len(now), -1).all(1)
    return (~finite).nonzero().flatten().tolist()
