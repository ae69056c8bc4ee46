"""What is known of a velocity before training: the affine part, from the moments of the pairs.

Of all functions affine in x, the one nearest to the velocity is E V + Cov(V, X) Var(X)^-1 (x - E X), with
X = alpha x0 + beta x1 and V = alpha' x0 + beta' x1. It is the whole velocity where noise and data are normal. Given the
mean and variance of x0 and x1 and their covariance it is known at every time, and so is the size of what is left,
(alpha beta' - alpha' beta) sqrt((var0 var1 - cov^2) / Var(X)). So a network learns only that, at size 1, from points
that are centred and of mean variance 1 at every time.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from proxflow.checks import whole_number
from proxflow.couplings import Coupling, Pairs
from proxflow.couplings.pairs import rows_of
from proxflow.couplings.stream import batch_of
from proxflow.kernels.geometry import principal_axes
from proxflow.matching.path import for_each
from proxflow.schedules import Linear, Schedule, check_schedule
from proxflow.storage import storable
from proxflow.torch_support import in_full_precision

__all__ = ["AffineResidual"]

_BATCH = 256  # pairs drawn at once: the moments of minibatch couplings depend on it
_PAIRS = 16384  # drawn for the moments: variances to 1%
_MOST_NUMBERS = 1 << 27  # of the drawn points on either side, a GiB in float64; there are fewer pairs above
_MOST_AXES = 2048  # coordinates, up to which their principal axes are used
_FLOOR = 1e-6  # of the mean variance of the data: axes that vary less near t = 1 are taken to vary by that
_SIDES = ("source", "target")


@storable
class AffineResidual(nn.Module):
    """The affine part of a velocity, plus a network times the size of the rest, along fixed axes.

    Called as the network is; its parameters are the network's. Training it is exact in law as training the network
    is: only how the velocity is written down changes. The axes are the principal ones of the data (the coordinates
    themselves above 2,048), along each of which noise and data are regressed apart from the other axes.

    Args:
        network: v(t, x) or v(t, x, label).
        axes: (d, d), orthonormal columns; None for the coordinates themselves.
        means: (2, d), of noise and data.
        variances: (2, d), of noise and data along the axes.
        covariances: (d,), of noise with data along each axis.
        schedule: schedule of the path that the moments are carried along; Linear if None.

    Raises:
        ValueError: a shape is wrong, or moments are not finite.
    """

    axes: Tensor | None
    means: Tensor
    variances: Tensor
    covariances: Tensor

    def __init__(
        self,
        network: nn.Module,
        axes: Tensor | None,
        means: Tensor,
        variances: Tensor,
        covariances: Tensor,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__()
        check_schedule("AffineResidual", schedule)
        if not isinstance(network, nn.Module):
            raise ValueError(f"AffineResidual: the network must be a torch.nn.Module, got {type(network).__name__}")
        dim = len(covariances)
        moments = {"axes": axes, "means": means, "variances": variances, "covariances": covariances}
        shapes = {"axes": (dim, dim), "means": (2, dim), "variances": (2, dim), "covariances": (dim,)}
        for name, moment in moments.items():
            shape = shapes[name]
            if moment is not None and not (tuple(moment.shape) == shape and bool(torch.isfinite(moment).all())):
                raise ValueError(
                    f"AffineResidual: {name} must be finite and of shape {shape}, got {tuple(moment.shape)}"
                )
            self.register_buffer(name, moment)
        self.network, self.schedule = network, Linear() if schedule is None else schedule

    @classmethod
    def fit(
        cls,
        network: nn.Module,
        coupling: Coupling,
        *,
        schedule: Schedule | None = None,
        pairs: int | None = None,
        seed: int = 0,
    ) -> Self:
        """Around a network for pairs of a coupling, whose moments are estimated from draws.

        Args:
            network: v(t, x) or v(t, x, label), to be trained.
            coupling: coupling of the pairs that it will be trained on.
            schedule: schedule of the path; Linear if None.
            pairs: number of pairs drawn, by 256; None for 16,384, or fewer where these would take over a GiB.
            seed: seed of the pairs.

        Raises:
            ValueError: pairs is not a whole number of at least 2.
        """
        batches = _drawn(coupling, pairs, seed)
        dtype = batches[0].source.dtype
        sides = [torch.cat([getattr(batch, side) for batch in batches]).flatten(1).double() for side in _SIDES]
        means = torch.stack([side.mean(0) for side in sides])
        noise, data = (side - mean for side, mean in zip(sides, means, strict=True))
        axes = None
        if data.shape[1] <= _MOST_AXES:
            axes = principal_axes(data, data.shape[1])
            noise, data, axes = noise @ axes, data @ axes, axes.to(dtype).contiguous()
        variances = torch.stack([noise.square().mean(0), data.square().mean(0)])
        covariances = (noise * data).mean(0)
        return cls(network, axes, means.to(dtype), variances.to(dtype), covariances.to(dtype), schedule)

    def constructor_arguments(self) -> dict[str, object]:
        """Network, axes, moments and schedule."""
        return {
            "network": self.network,
            "axes": self.axes,
            "means": self.means,
            "variances": self.variances,
            "covariances": self.covariances,
            "schedule": self.schedule,
        }

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Of one point."""
        return tuple(getattr(self.network, "event_shape", self.covariances.shape))

    @property
    def classes(self) -> int:
        """Number of classes that the network is told; 0 for a network without labels."""
        return int(getattr(self.network, "classes", 0))

    def forward(self, t: Tensor | float, x: Tensor, label: Tensor | None = None) -> Tensor:
        """Velocity (B, *event)."""
        times = for_each(t, x)
        moments = self._moments(times[:, None])
        centred = x.flatten(1) - moments.mean
        scaled = (centred / moments.size).reshape(x.shape)
        learned = self.network(times, scaled) if label is None else self.network(times, scaled, label)
        return self._velocity(centred, learned.flatten(1).to(x.dtype), moments).reshape(x.shape)

    @in_full_precision
    def _velocity(self, centred: Tensor, learned: Tensor, moments: _Moments) -> Tensor:
        """Affine part and what is learned together; in half precision the affine part loses its digits near t = 1."""
        if self.axes is None:
            return moments.mean_rate + moments.slope * centred + moments.rest * learned
        along = moments.slope * (centred @ self.axes) + moments.rest * (learned @ self.axes)
        return moments.mean_rate + along @ self.axes.T

    def _moments(self, t: Tensor) -> _Moments:
        """What is known at times (B, 1)."""
        path, (noise, data), both = self.schedule, self.variances, self.covariances
        alpha, beta = path.alpha(t), path.beta(t)
        alpha_rate, beta_rate = path.alpha_derivative(t), path.beta_derivative(t)
        floor = (_FLOOR * data.mean()).clamp(min=torch.finfo(data.dtype).tiny)
        variance = torch.maximum(alpha.square() * noise + 2 * alpha * beta * both + beta.square() * data, floor)
        covariance = (
            alpha * alpha_rate * noise + (alpha * beta_rate + alpha_rate * beta) * both + beta * beta_rate * data
        )
        return _Moments(
            mean=alpha * self.means[0] + beta * self.means[1],
            mean_rate=alpha_rate * self.means[0] + beta_rate * self.means[1],
            size=variance.mean(1, keepdim=True).sqrt(),
            slope=covariance / variance,
            rest=path.wronskian(t) * ((noise * data - both.square()).clamp(min=0) / variance).sqrt(),
        )


class _Moments(NamedTuple):
    """E X and E V (B, d), the deviation of X (B, 1), and along the axes Cov(V, X) / Var(X) and the deviation of the
    rest of V (B, d).
    """

    mean: Tensor
    mean_rate: Tensor
    size: Tensor
    slope: Tensor
    rest: Tensor


def _drawn(coupling: Coupling, pairs: int | None, seed: int) -> list[Pairs]:
    """The batches that the moments are taken from."""
    count = _PAIRS if pairs is None else whole_number(pairs)
    if count is None or count < 2:
        raise ValueError(f"AffineResidual: pairs must be a whole number of at least 2, got {pairs!r}")
    first = batch_of(coupling, 0, min(count, _BATCH), seed)
    if pairs is None:
        count = max(_BATCH, min(count, _MOST_NUMBERS // first.source[0].numel()))
    starts = range(_BATCH, count, _BATCH)
    whole = (batch_of(coupling, start // _BATCH, _BATCH, seed) for start in starts)
    return [first, *(rows_of(batch, slice(count - start)) for start, batch in zip(starts, whole, strict=True))]
