"""The divergence of a field along a trajectory: exact, or Hutchinson's estimate with fixed random signs.

Exact: of a ``ProximalFlow`` in closed form; of a callable d vector-Jacobian products, many at a time, which ask nothing
of the field but that autograd can go back through it. Hutchinson (1990): z' (D v) z with random signs z has the
divergence as its mean; the same signs serve a whole trajectory (Grathwohl et al. 2019, FFJORD), so that the integrand
stays smooth and each probe gives an unbiased estimate of the integral. Rows of the field must not depend on each other.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from proxflow.sampling.solvers import CountedField
from proxflow.torch_support import in_full_precision

__all__ = ["Divergence", "ExactDivergence", "HutchinsonDivergence", "another_way_may_help"]

_WITHOUT_A_RULE = RuntimeError, NotImplementedError
_AT_ONCE = 1 << 17  # numbers of gradients at x: beyond, a product is no cheaper a row and the network takes memory


class Divergence(ABC):
    """Velocities with ``columns`` estimates of their divergence.

    Attributes:
        columns: number of estimates.
        has_batches: whether PyTorch can take many gradients of the field at once; until it is found not to, True.
    """

    columns: int
    has_batches = True

    @abstractmethod
    def along(self, field: CountedField, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The velocity (B, *event) and the divergences (B, columns) at (t, x); differentiable in grad mode."""

    @abstractmethod
    def squared_jacobian(self, field: CountedField, t: Tensor, x: Tensor) -> Tensor:
        """The sum of the squares of all entries of D v at (t, x), or an estimate without bias, (B,)."""

    def _sums(
        self, field: CountedField, t: Tensor, x: Tensor, directions: Tensor, of: Callable[[Tensor, Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        """The velocity, and for each direction z, (K, B, *event), the sum of what is made of z and (D v)' z: (B, K)."""
        kept = torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad():
            at = x if kept and x.requires_grad else x.clone().detach().requires_grad_()
            velocity = field(t.clone(), at)
            parts = directions.split(max(1, _AT_ONCE // max(1, x.numel())))
            size = math.prod(x.shape[1:])
            pulled = ((z, self._pulled_back(field.owner, velocity, at, z, kept)) for z in parts)
            sums = [of(z, back).reshape(len(z), len(x), size).sum(2) for z, back in pulled]
        columns = torch.cat(sums).T if len(directions) else x.new_zeros(len(x), 1)
        return (velocity, columns) if kept else (velocity.detach(), columns.detach())

    @in_full_precision
    def _pulled_back(self, owner: str, velocity: Tensor, at: Tensor, directions: Tensor, kept: bool) -> Tensor:
        """(D v)' z of each direction, (K, B, *event)."""
        if not velocity.requires_grad:
            raise _unseen(owner)
        options: dict[str, bool] = {"create_graph": kept, "retain_graph": True, "allow_unused": True}
        if self.has_batches:
            try:
                (gradient,) = torch.autograd.grad(velocity, at, directions, is_grads_batched=True, **options)
                return _seen(owner, gradient)
            except RuntimeError as error:
                if not another_way_may_help(error):
                    raise
        gradients = [_seen(owner, torch.autograd.grad(velocity, at, z, **options)[0]) for z in directions]
        self.has_batches = False  # only now: an error of the field's own has been raised again
        return torch.stack(gradients)


class ExactDivergence(Divergence):
    """The divergence itself, one column."""

    columns = 1

    def along(self, field: CountedField, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and divergence."""
        if field.flow is not None:
            return field(t, x), field.flow.divergence(t, x)[:, None]
        velocity, products = self._sums(field, t, x, _units(x), torch.mul)
        return velocity, products.sum(1, keepdim=True)

    def squared_jacobian(self, field: CountedField, t: Tensor, x: Tensor) -> Tensor:
        """The sum itself."""
        return self._sums(field, t, x, _units(x), _squares)[1].sum(1)


class HutchinsonDivergence(Divergence):
    """One estimate for each probe.

    Args:
        signs: the probes, (K, B, *event), entries 1 and -1.
    """

    def __init__(self, signs: Tensor) -> None:
        self._signs, self.columns = signs, len(signs)

    def along(self, field: CountedField, t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Velocity and estimates."""
        return self._sums(field, t, x, self._signs, torch.mul)

    def squared_jacobian(self, field: CountedField, t: Tensor, x: Tensor) -> Tensor:
        """The mean over the probes."""
        return self._sums(field, t, x, self._signs, _squares)[1].mean(1)


def _units(x: Tensor) -> Tensor:
    """The unit vectors as directions at each point, (d, B, *event)."""
    size = math.prod(x.shape[1:])
    units = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *x.shape[1:])
    return units[:, None].expand(size, *x.shape)


def _squares(_: Tensor, pulled_back: Tensor) -> Tensor:
    return pulled_back.square()


def another_way_may_help(error: RuntimeError) -> bool:
    """Whether an error of forward mode, or of a batch of gradients, may say that an operation has no rule for it.

    PyTorch raises ``NotImplementedError`` or plain ``RuntimeError`` then, in words of its own for each operation. More
    special errors, as of memory, of the device, or of this library, are about something else.
    """
    return type(error) in _WITHOUT_A_RULE and "allocate memory" not in str(error)


def _unseen(owner: str) -> ValueError:
    return ValueError(
        f"{owner}: autograd sees no dependence of the field on x; call the network without no_grad or detach "
        "inside of the field (a field that is constant in x may add 0 * x)"
    )


def _seen(owner: str, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        raise _unseen(owner)
    return gradient
