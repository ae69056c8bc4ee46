"""A velocity field as the analysis needs it: flat points, its own schedule, derivatives row by row.

In rescaled time tau = -log alpha the field is (alpha / -alpha') v, so that the linearisation of docs/theory.md 6 is
A(t) = (alpha / -alpha') grad v = (W / -alpha') D recover_target - I.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from proxflow.analysis.first_call import hinted
from proxflow.flow import ProximalFlow, schedule_of
from proxflow.predictions import target_from_velocity
from proxflow.sampling.divergence import another_way_may_help
from proxflow.sampling.integration import integrate
from proxflow.sampling.row_by_row import check_row_by_row
from proxflow.schedules import Schedule

__all__ = [
    "DENSE_LIMIT",
    "Field",
    "FlatField",
    "as_times",
    "clock",
    "probed_products",
    "random_signs",
    "symmetric_part",
]

Field = Callable[[Tensor, Tensor], Tensor]
Products = Callable[[Tensor], tuple[Tensor, Tensor]]  # w -> (A w, A' w), products with a Jacobian and its transpose

DENSE_LIMIT = 256  # dimensions up to which whole Jacobians are formed
"""Largest dimension in which the Jacobian of a bare callable is written out."""

_NUMBERS_PER_ENTRY = 64  # held by a field and its derivatives for each entry of a row: a guess for networks


def as_times(owner: str, times: Tensor | Sequence[float] | float, x: Tensor) -> Tensor:
    """Times as a (T,) tensor like ``x``, increasing, inside (0, 1).

    Raises:
        ValueError: they are not.
    """
    tensor = torch.as_tensor(times, dtype=x.dtype, device=x.device).detach()
    tensor = tensor[None] if tensor.ndim == 0 else tensor
    inside = tensor.ndim == 1 and len(tensor) > 0 and bool(((tensor > 0) & (tensor < 1)).all())
    if not inside or bool((tensor.diff() <= 0).any()):
        raise ValueError(f"{owner}: times must be increasing numbers inside (0, 1), got {tensor.tolist()}")
    return tensor


def clock(schedule: Schedule, t: Tensor) -> Tensor:
    """dt / dtau = alpha / -alpha', elementwise: velocities times this are velocities in rescaled time."""
    return -schedule.alpha(t) / schedule.alpha_derivative(t)


class FlatField:
    """A field on flat (B, d) points, with what follows from it at one time t (0-dimensional).

    Rows of the field must not depend on chance or on each other (put networks in evaluation mode).

    Args:
        owner: name of the calling function, for messages.
        field: callable (t, x) on (B, *event), or a ``ProximalFlow``; it is called with a 0-dimensional t.
        x: the points, or any like them: shape, dtype and device.
        schedule: schedule of a bare callable, Linear if None.
        max_memory: bytes for what is computed at once.
        points: name of the argument that x was given as, for messages.

    Attributes:
        has_forward_mode: whether PyTorch has forward-mode derivatives of the field; until one is found missing, True.

    Raises:
        ValueError: points or schedule that do not go with the field, a bad ``max_memory``, or a field whose rows depend
            on chance or on each other.
    """

    def __init__(
        self,
        owner: str,
        field: Field,
        x: Tensor,
        schedule: Schedule | None,
        max_memory: int,
        points: str = "x0",
    ) -> None:
        if not isinstance(x, Tensor) or x.ndim < 2 or x.dtype not in (torch.float32, torch.float64):
            found = f"{tuple(x.shape)} of {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
            raise ValueError(f"{owner}: {points} must be a (B, *event) tensor of float32 or float64, got {found}")
        self.owner, self.event = owner, x.shape[1:]
        self.dim = math.prod(self.event)
        if self.dim == 0 or (isinstance(field, ProximalFlow) and field.dim != self.dim):
            wanted = f"{field.dim} entries per row" if isinstance(field, ProximalFlow) else "entries"
            raise ValueError(f"{owner}: {points} must have {wanted}, got shape {tuple(x.shape)}")
        if max_memory < 1:
            raise ValueError(f"{owner}: max_memory must be a positive number of bytes, got {max_memory!r}")
        self.schedule = schedule_of(owner, field, schedule)
        self.flow = field if isinstance(field, ProximalFlow) else None
        self.max_memory = int(max_memory)
        self.has_forward_mode = True
        self._field = hinted(field)
        check_row_by_row(owner, self._field, x.new_tensor(0.5), x.detach())

    def velocity(self, t: Tensor, x: Tensor) -> Tensor:
        """v_t at flat points (R, d)."""
        value = self._field(t, x.reshape(len(x), *self.event))
        if not isinstance(value, Tensor) or value.shape != (len(x), *self.event) or value.dtype != x.dtype:
            found = f"{tuple(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(
                f"{self.owner}: the field must return a tensor like x, ({len(x)}, {', '.join(map(str, self.event))}) "
                f"of {x.dtype}; it returned {found}"
            )
        return value.reshape(x.shape)

    def recovered(self, t: Tensor, x: Tensor) -> Tensor:
        """recover_target = (alpha v - alpha' x) / W at flat points, (R, d)."""
        return target_from_velocity(t, x, self.velocity(t, x).detach(), self.schedule)

    def trajectory(self, x0: Tensor, times: Tensor, rtol: float | None = None) -> Tensor:
        """The field's own trajectories from x0 (B, *event) at the times (T,): (T, B, d).

        Those of a ``ProximalFlow`` are exact, alpha x0 + beta y. A bare callable is followed by dopri5 from each time
        to the next, to a tolerance of ``rtol`` times alpha where it arrives (a Moreau pair divides by alpha) if that is
        above some roundings; ``rtol`` is 1e-7 in float64 and 1e-4 in float32 if None.
        """
        x0 = x0.detach()
        if self.flow is not None:
            target = self.flow.transport(x0).detach()
            weights = [(self.schedule.alpha(t), self.schedule.beta(t)) for t in times]
            return torch.stack([(alpha * x0 + beta * target).reshape(len(x0), self.dim) for alpha, beta in weights])
        points, start, x = [], torch.zeros_like(times[0]), x0
        for t in times:
            x = _follow(self._field, self.schedule, start, t, x, self._tolerance(t, rtol))
            points.append(x.reshape(len(x0), self.dim))
            start = t
        return torch.stack(points)

    def arrival(self, start: Tensor, x: Tensor, rtol: float | None = None) -> Tensor:
        """Where flat points (B, d) at the time ``start`` are at t = 1; a ``ProximalFlow`` knows it, else by dopri5."""
        points = x.reshape(len(x), *self.event)
        if self.flow is not None:
            return self.flow.recover_target(start, points).detach().reshape(x.shape)
        tolerance = self._tolerance(torch.zeros_like(start), rtol)
        end = torch.ones_like(start)
        return _follow(self._field, self.schedule, start, end, points, tolerance).reshape(x.shape)

    def carried(self, start: Tensor, end: Tensor, x: Tensor, w: Tensor, rtol: float | None = None) -> Tensor:
        """Tangent vectors w (B, d, k) at flat points x, carried from the time ``start`` to ``end`` along the flow.

        Of an exact flow in closed form: dx -> (alpha_t / alpha_s) (I - beta_s D) dx + beta_t D dx with D the derivative
        of recover_target at the start, as source and target move along with it. Else by dopri5, as ``trajectory``.
        """
        if self.flow is not None:
            return self._carried_exactly(self.flow, start, end, x, w)
        count = w.shape[2]

        def together(t: Tensor, state: Tensor) -> Tensor:
            points = state[:, 0]
            tangents = state[:, 1:].reshape(len(state) * count, self.dim)
            along = self._jacobian_product(t, points.repeat_interleave(count, 0), tangents)
            velocity = self.velocity(t, points)
            return torch.cat([velocity[:, None], along.reshape(state[:, 1:].shape)], 1)

        state = torch.cat([x[:, None], w.mT], 1)
        return _follow(together, self.schedule, start, end, state, self._tolerance(end, rtol))[:, 1:].mT

    def jacobian(self, t: Tensor, x: Tensor) -> Tensor:
        """A(t) at flat points, (B, d, d): (alpha / -alpha') times the Jacobian of the velocity."""
        rate = clock(self.schedule, t)
        if self.flow is not None:
            parts = x.split(self._matrices_at_once())
            return rate * torch.cat([self.flow.jacobian(t, part).detach() for part in parts])
        identity = torch.eye(self.dim, dtype=x.dtype, device=x.device)
        columns = torch.cat([x.new_empty(0, self.dim), identity.repeat(len(x), 1)])
        products = self.derivative_along(t, x.repeat_interleave(self.dim, 0), columns)
        return products.reshape(len(x), self.dim, self.dim).mT

    def derivative_along(self, t: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """A(t) w for flat points and directions, both (R, d), by forward mode, in blocks of bounded memory."""
        rows = self._rows_at_once(_NUMBERS_PER_ENTRY)
        parts = [self._jacobian_product(t, a, b) for a, b in zip(x.split(rows), w.split(rows), strict=True)]
        return clock(self.schedule, t) * torch.cat(parts)

    def products(self, t: Tensor, x: Tensor) -> Products:
        """w -> (A(t) w, A(t)' w) for flat points and directions, both (R, d), in blocks of bounded memory.

        The reverse mode keeps its tape from one call to the next where all rows fit into one block.
        """
        rate, rows = clock(self.schedule, t), self._rows_at_once(_NUMBERS_PER_ENTRY)
        kept = self._transposed_product(t, x) if len(x) <= rows else None

        def multiply(w: Tensor) -> tuple[Tensor, Tensor]:
            transposed = []
            for points, part in zip(x.split(rows), w.split(rows), strict=True):
                product = self._transposed_product(t, points) if kept is None else kept
                transposed.append(product(part))
            return self.derivative_along(t, x, w), rate * torch.cat(transposed)

        return multiply

    def block_products(self, t: Tensor, x: Tensor, count: int) -> Products:
        """The same for ``count`` directions at each flat point, (B, count, d)."""
        products = self.products(t, x.repeat_interleave(count, 0))

        def multiply(w: Tensor) -> tuple[Tensor, Tensor]:
            forward, transposed = products(w.reshape(-1, self.dim))
            return forward.reshape(w.shape), transposed.reshape(w.shape)

        return multiply

    def symmetric_product(self, t: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """(A + A') w / 2 for directions w (B, d, k) at flat points; of a small flow by its Jacobian."""
        if self.flow is not None and (self.dim <= DENSE_LIMIT or w.shape[2] == self.dim):
            return self.jacobian(t, x) @ w
        return symmetric_part(self.block_products(t, x, w.shape[2]))(w.mT).mT

    # ---------------------------------------------------------------- inside

    def _tolerance(self, end: Tensor, rtol: float | None) -> float:
        single = end.dtype == torch.float32
        wanted = (1e-4 if single else 1e-7) if rtol is None else rtol
        smallest = min(wanted, 1e-6 if single else 1e-13)
        return max(smallest, wanted * float(self.schedule.alpha(end)))

    def _carried_exactly(self, flow: ProximalFlow, start: Tensor, end: Tensor, x: Tensor, w: Tensor) -> Tensor:
        alpha, beta = self.schedule.alpha(start), self.schedule.beta(start)
        later_alpha, later_beta = self.schedule.alpha(end), self.schedule.beta(end)
        moved = []
        for part, vectors in zip(x.split(self._matrices_at_once()), w.split(self._matrices_at_once()), strict=True):
            target = flow.potential.decompose_jacobian(part, alpha, beta).detach() @ vectors
            source = (vectors - beta * target) / alpha
            moved.append(later_alpha * source + later_beta * target)
        return torch.cat(moved)

    def _jacobian_product(self, t: Tensor, x: Tensor, w: Tensor) -> Tensor:
        """D v w by forward mode; where a layer of the network has none, by reverse mode twice, from then on.

        D v w is the derivative in u of (D v)' u, times w. PyTorch's group normalisation has no forward mode for points
        in the layout that attention gives them, for one.
        """
        with _differentiable_attention():
            if self.has_forward_mode:
                try:
                    return self._by_forward_mode(t, x, w)
                except RuntimeError as error:
                    if not another_way_may_help(error):
                        raise
            product = self._by_reverse_mode(t, x, w)  # raises what the field itself raised, again
            self.has_forward_mode = False
        return product

    def _by_forward_mode(self, t: Tensor, x: Tensor, w: Tensor) -> Tensor:
        product: Tensor = torch.func.jvp(lambda points: self.velocity(t, points), (x,), (w,))[1]
        return product.detach()

    def _by_reverse_mode(self, t: Tensor, x: Tensor, w: Tensor) -> Tensor:
        def transposed(u: Tensor) -> Tensor:
            product: Tensor = torch.func.vjp(lambda points: self.velocity(t, points), x)[1](u)[0]
            return product

        product: Tensor = torch.func.vjp(transposed, torch.zeros_like(x))[1](w)[0]
        return product.detach()

    def _transposed_product(self, t: Tensor, x: Tensor) -> Callable[[Tensor], Tensor]:
        """w -> (D v)' w."""
        with _differentiable_attention():
            vjp: Callable[[Tensor], tuple[Tensor]] = torch.func.vjp(lambda points: self.velocity(t, points), x)[1]
        return lambda w: vjp(w)[0].detach()

    def _matrices_at_once(self) -> int:
        return self._rows_at_once(8 * self.dim)

    def _rows_at_once(self, numbers_per_entry: int) -> int:
        return max(1, self.max_memory // (8 * self.dim * numbers_per_entry))


def symmetric_part(products: Products) -> Callable[[Tensor], Tensor]:
    """w -> (A w + A' w) / 2."""

    def multiply(w: Tensor) -> Tensor:
        forward, transposed = products(w)
        return 0.5 * (forward + transposed)

    return multiply


def random_signs(rows: int, count: int, like: Tensor, generator: torch.Generator) -> Tensor:
    """Entries 1 and -1 in the space of points ``like`` (B, d), (rows, count, d)."""
    return torch.randint(0, 2, (rows, count, like.shape[1]), generator=generator).to(like) * 2 - 1


def probed_products(products: Products, probes: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """A z and A' z of each probe z, (B, count, d) each, by products of ``block`` directions."""
    forward, transposed = (torch.cat(parts, 1) for parts in zip(*map(products, probes.split(block, 1)), strict=True))
    return forward, transposed


def _follow(field: Field, schedule: Schedule, start: Tensor, end: Tensor, x: Tensor, rtol: float) -> Tensor:
    """The trajectory from (start, x) to the time ``end``, by dopri5 on a stretch of time mapped to [0, 1]."""
    stretch = _Stretch(schedule, start, end)

    def stretched(s: Tensor, points: Tensor) -> Tensor:
        return stretch.length * field(stretch.time(s), points)

    with torch.no_grad():
        return integrate(stretched, x, steps=1, method="dopri5", schedule=stretch, rtol=rtol, atol=rtol).end


class _Stretch(Schedule):
    """A schedule from one time to another, mapped to [0, 1]: the last step of dopri5 recovers both ends by it."""

    def __init__(self, schedule: Schedule, start: Tensor, end: Tensor) -> None:
        self.schedule, self.start, self.end = schedule, start, end

    @property
    def length(self) -> Tensor:
        """Of the stretch."""
        return self.end - self.start

    def time(self, s: Tensor) -> Tensor:
        """That of the schedule, exact at both ends: past 1 it may have no value."""
        return (1 - s) * self.start + s * self.end

    def alpha(self, t: Tensor) -> Tensor:
        return self.schedule.alpha(self.time(t))

    def beta(self, t: Tensor) -> Tensor:
        return self.schedule.beta(self.time(t))

    def alpha_derivative(self, t: Tensor) -> Tensor:
        return self.length * self.schedule.alpha_derivative(self.time(t))

    def beta_derivative(self, t: Tensor) -> Tensor:
        return self.length * self.schedule.beta_derivative(self.time(t))

    def wronskian(self, t: Tensor) -> Tensor:
        return self.length * self.schedule.wronskian(self.time(t))


def _differentiable_attention() -> AbstractContextManager[None]:
    """The one attention kernel of PyTorch that has forward-mode derivatives."""
    return sdpa_kernel(SDPBackend.MATH)
