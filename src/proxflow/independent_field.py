"""The velocity field of independent flow matching on finite data, in closed form: minibatch OT with batches of one."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from proxflow.checks import Numbers, flat_points, point_weights, working_dtype
from proxflow.errors import UndefinedTimeError
from proxflow.kernels.softmax import law as softmax
from proxflow.measures import Gaussian, Source, is_normal
from proxflow.potentials.atoms import check_like_atoms
from proxflow.schedules import Linear, Schedule
from proxflow.storage import storable
from proxflow.torch_support import Derived, in_full_precision

__all__ = ["IndependentField"]

_ATOMS_AT_ONCE = 1024  # of a block of densities, where its memory allows


@storable
class IndependentField(nn.Module):
    """What a perfect network learns from independent pairs: v_t(x) = E[d/dt X_t | X_t = x], X0 and X1 independent.

    E[X1 | X_t = x] = sum_j w_j y_j with w_j proportional to b_j p0((x - beta y_j) / alpha) (docs/theory.md 4), and
    v_t(x) = (alpha'/alpha) x + (W/alpha) E[X1 | X_t = x]. For a normal source the w_j are one softmax. Where no pair
    passes (x outside of what a bounded source can reach) rows are NaN. Near t = 1 give float64: logits grow like
    1 / alpha^2.

    Points may have any event shape with d entries; results keep that of x. Queries must have the points' dtype and
    device. Times are floats or tensors, 0-dimensional or (B,), in [0, 1); numbers are checked, tensor entries out of
    range give NaN rows. State: ``points`` (N, d), ``weights`` (N,).

    Args:
        points: (N, *event), finite, float32, float64, or stored as float16, bfloat16, uint8 or int8, of which a float32
            copy is made; equal rows count as often as they come.
        weights: (N,), not negative, normalised to sum 1; equal if None.
        schedule: Linear if None.
        source: law of the noise, with ``log_prob``; standard normal if None.
        max_memory: bytes for scores and densities.

    Raises:
        ValueError: bad points or weights, or a source of another dimension.
    """

    points: Tensor
    weights: Tensor

    def __init__(
        self,
        points: Numbers,
        weights: Numbers | None = None,
        schedule: Schedule | None = None,
        source: Source | None = None,
        *,
        max_memory: int = 1 << 28,
    ) -> None:
        super().__init__()
        flat = flat_points("IndependentField", points, stored=True)
        flat = flat.to(working_dtype(flat))
        self.register_buffer("points", flat)
        self.register_buffer("weights", point_weights("IndependentField", weights, flat).to(flat))
        self.schedule: Schedule = Linear() if schedule is None else schedule
        self.source: Source = Gaussian(flat.shape[1]) if source is None else source
        if self.source.dim != flat.shape[1]:
            raise ValueError(
                f"IndependentField: the source has dimension {self.source.dim}, the points {flat.shape[1]}"
            )
        self.max_memory = max_memory
        self._centred = Derived(_centred_atoms)

    @property
    def dim(self) -> int:
        """Dimension d of the space."""
        return self.points.shape[1]

    def constructor_arguments(self) -> dict[str, object]:
        """Points, weights, schedule, source and memory."""
        return {
            "points": self.points,
            "weights": self.weights,
            "schedule": self.schedule,
            "source": self.source,
            "max_memory": self.max_memory,
        }

    def forward(self, t: Tensor | float, x: Tensor) -> Tensor:
        """The velocity at (t, x)."""
        return self.velocity(t, x)

    def velocity(self, t: Tensor | float, x: Tensor) -> Tensor:
        """v_t(x) = (alpha'/alpha) x + (W/alpha) E[X1 | X_t = x], (B, *event); refused at t = 1."""
        times, flat = self._query(t, x)
        alpha = self.schedule.alpha(times)[:, None]
        mean = self._mean_target(times, flat)
        value = self.schedule.alpha_derivative(times)[:, None] * flat + self.schedule.wronskian(times)[:, None] * mean
        return (value / alpha).reshape(x.shape)

    def recover_target(self, t: Tensor | float, x: Tensor) -> Tensor:
        """E[X1 | X_t = x], (B, *event): a mean of data points, not one of them; refused at t = 1."""
        times, flat = self._query(t, x)
        return self._mean_target(times, flat).reshape(x.shape)

    def posterior(self, t: Tensor | float, x: Tensor) -> Tensor:
        """The law of the row behind x: w_j = P(X1 = y_j | X_t = x), (B, N) and not in blocks; refused at t = 1."""
        times, flat = self._query(t, x)
        return self._law(times, flat)

    # ---------------------------------------------------------------- inside

    @property
    def _atoms(self) -> _Atoms:
        """The atoms as they are now."""
        return self._centred(self.points, self.weights)

    def _query(self, t: Tensor | float, x: Tensor) -> tuple[Tensor, Tensor]:
        """Times (B,) in x's dtype, and x flat (B, d)."""
        if x.ndim < 2 or math.prod(x.shape[1:]) != self.dim:
            raise ValueError(
                f"IndependentField: x must have shape (B, *event) with {self.dim} entries per row, got {tuple(x.shape)}"
            )
        check_like_atoms("IndependentField", x, "x", self.points, self.weights)
        if not isinstance(t, Tensor) and t == 1:
            raise UndefinedTimeError(
                f"IndependentField: t must be in [0, 1), got {t!r}; at t = 1 the data are their own mean"
            )
        if not isinstance(t, Tensor) and not 0 <= t < 1:
            raise ValueError(f"IndependentField: t must be in [0, 1), got {t!r}")
        times = torch.as_tensor(t, dtype=x.dtype, device=x.device)
        if times.ndim > 1 or (times.ndim == 1 and len(times) != len(x)):
            raise ValueError(
                f"IndependentField: t must be a scalar or have shape ({len(x)},), got {tuple(times.shape)}"
            )
        times = torch.where((times >= 0) & (times < 1), times, torch.nan)
        return times.expand(len(x)), x.reshape(len(x), self.dim)

    @in_full_precision
    def _law(self, times: Tensor, x: Tensor) -> Tensor:
        """Which row is behind x, (B, N)."""
        if is_normal(self.source):
            return softmax.probabilities(self._scores(times, x), self._atoms.keys, self._atoms.log_weights)
        return torch.softmax(self._log_law(times, x), dim=1)

    @in_full_precision
    def _mean_target(self, times: Tensor, x: Tensor) -> Tensor:
        if is_normal(self.source):
            atoms = self._atoms
            mean = softmax.mean(self._scores(times, x), atoms.keys, atoms.log_weights, self.max_memory)
            return atoms.centre + mean[:, :-1]
        blocks = softmax.row_blocks(len(x), len(self.points), x.element_size(), self.max_memory)
        laws = (torch.softmax(self._log_law(times[rows], x[rows]), dim=1) for rows in blocks)
        return torch.cat([x.new_empty(0, self.dim), *(law @ self.points for law in laws)])

    def _scores(self, times: Tensor, x: Tensor) -> Tensor:
        """What the keys are multiplied by: log p0((x - beta y) / alpha) up to a constant of each row, (B, d + 1)."""
        alpha, beta = self.schedule.alpha(times)[:, None], self.schedule.beta(times)[:, None]
        residual = x - beta * self._atoms.centre
        return (beta / alpha) * torch.cat([residual, -beta], dim=1) / alpha

    def _log_law(self, times: Tensor, x: Tensor) -> Tensor:
        """log(b_j p0((x - beta y_j) / alpha)), (B, N), the densities of a block of atoms at a time."""
        alpha, beta = self.schedule.alpha(times)[:, None, None], self.schedule.beta(times)[:, None, None]
        budget = self.max_memory // (4 * x.element_size() * self.dim)
        columns = min(_ATOMS_AT_ONCE, max(1, budget))
        rows = max(1, budget // columns)
        parts = []
        for top in range(0, len(x), rows):
            block = slice(top, top + rows)
            densities = []
            for atoms in self.points.split(columns):
                noise = (x[block, None, :] - beta[block] * atoms) / alpha[block]
                density = self.source.log_prob(noise.reshape(-1, self.dim))
                densities.append(density.reshape(noise.shape[:2]))
            parts.append(torch.cat(densities, dim=1))
        return torch.cat([x.new_empty(0, len(self.points)), *parts]) + self._atoms.log_weights


class _Atoms(NamedTuple):
    """Atoms about their mean, where scores lose fewest digits, with half their squares as a further coordinate."""

    centre: Tensor
    keys: Tensor
    log_weights: Tensor


def _centred_atoms(points: Tensor, weights: Tensor) -> _Atoms:
    points = points.detach()
    centre = points.mean(0)
    centred = points - centre
    keys = torch.cat([centred, 0.5 * centred.square().sum(1, keepdim=True)], dim=1)
    return _Atoms(centre, keys, weights.detach().log())
