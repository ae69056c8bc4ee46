"""torchcfm: its matcher on any coupling, and its networks as fields.

Its convention is proxflow's: time from noise (0) to data (1), straight paths, velocity x1 - x0. The layout differs: its
networks of the plane take x and t concatenated, its U-Net takes (t, x, y).
"""

from __future__ import annotations

import inspect
import math
from typing import Any, cast

import torch
from torch import Tensor

from proxflow.adapters.convention import Field
from proxflow.adapters.paired_noise import NoiseForRows, PairedNoise
from proxflow.checks import Numbers, real_number
from proxflow.couplings import Coupling, pair
from proxflow.matching.path import for_each
from proxflow.seeding import generator_of, own_generator

__all__ = ["ConditionalFlowMatcher", "to_field"]

_LAYOUTS = ("concatenated", "t, x")
_BYTES = (torch.uint8, torch.int8)
_LEAST_ROWS = 16  # of a first batch, for its mean square to tell one source from another
_STANDARD_ERRORS = 8.0  # by which the mean squares of the same source differ in one run of 10^14


class ConditionalFlowMatcher:
    """torchcfm's matcher with proxflow's pairs: its arguments, results, order of random draws and dtypes.

    Which pairs, and what becomes of the x0 and x1 given:

    - ``coupling=None`` pairs the two batches by a permutation of least cost, every point used once (torchcfm draws
      from the plan with replacement and leaves a third of a batch out). x0 keeps its order, x1 and y1 are permuted.
    - a coupling with ``noise_for`` (``Semidiscrete``, ``Conditional``, ``Subspace``) keeps x1, its order and labels,
      and *replaces* x0 by noise of the cells of these rows. Rows are found by their values, or named by ``index=``. In
      law these are the coupling's pairs where the loader visits every row as often as its weight says.
    - any other coupling (``Minibatch``, ``Independent``, one of your own) draws whole pairs itself: x0, x1 and y1 are
      all replaced, and only their number, dtype and device count.

    In the last two cases x0 may be None. If it is given, its mean square in the first batch must be that of the
    coupling's source: sampling from another law than the training's is an error that no loss shows.

    Args:
        coupling: see above.
        sigma: standard deviation of the normal noise around the path.
        generator: of all draws; torch's own if None.

    Raises:
        ValueError: sigma is negative or not finite.
    """

    def __init__(
        self, coupling: Coupling | None = None, sigma: float = 0.0, *, generator: torch.Generator | None = None
    ) -> None:
        if not 0 <= real_number(sigma) < math.inf:
            raise ValueError(f"ConditionalFlowMatcher: sigma must be a number of at least 0, got {sigma!r}")
        self.sigma = float(sigma)
        self.coupling: Any = coupling
        self._generator = generator
        by_row = hasattr(coupling, "noise_for") and hasattr(coupling, "rows")
        self._noise = PairedNoise(cast(NoiseForRows, coupling), generator=generator) if by_row else None
        self._source_unchecked = hasattr(coupling, "source")

    def sample_location_and_conditional_flow(
        self,
        x0: Tensor | None,
        x1: Tensor,
        t: Tensor | None = None,
        return_noise: bool = False,
        *,
        index: Numbers | None = None,
    ) -> tuple[Tensor, ...]:
        """Points on the paths of coupled pairs, and their velocities.

        Args:
            x0: (n, *event) source points.
            x1: (n, *event) data points.
            t: (n,) times; uniform if None.
            return_noise: return the noise around the path too.
            index: (n,) rows of the coupling that x1 was made from; found by comparison if None.

        Returns:
            t (n,), x_t (n, *event), x1 - x0 (n, *event), and with ``return_noise`` eps (n, *event), where
            x_t = t x1 + (1 - t) x0 + sigma eps.

        Raises:
            ValueError: shapes that do not fit, x1 that is no row of the coupling or in bytes, an x0 of another source,
                or an index for a coupling that makes no noise for rows.
        """
        source, target, _, _ = self._pairs(x0, x1, None, None, index)
        return self._on_path(source, target, t, return_noise)

    def guided_sample_location_and_conditional_flow(
        self,
        x0: Tensor | None,
        x1: Tensor,
        y0: Tensor | None = None,
        y1: Tensor | None = None,
        t: Tensor | None = None,
        return_noise: bool = False,
        *,
        index: Numbers | None = None,
    ) -> tuple[Tensor | None, ...]:
        """The same with labels: t, x_t, x1 - x0, y0, y1[, eps], y1 in the order of the pairs.

        Args:
            x0: (n, *event) source points.
            x1: (n, *event) data points.
            y0: (n,) labels of x0, returned as they are.
            y1: (n,) labels of x1. A coupling that draws whole pairs gives its own in their place.
            t: (n,) times; uniform if None.
            return_noise: return the noise around the path too.
            index: (n,) rows of the coupling that x1 was made from; found by comparison if None.

        Raises:
            ValueError: as ``sample_location_and_conditional_flow``; labels for a coupling that draws pairs without; or
                labels y0 of an x0 that the coupling replaces.
        """
        if y0 is not None and self.coupling is not None:
            raise ValueError(
                "ConditionalFlowMatcher: the coupling makes its own source points, which have no labels y0"
            )
        source, target, y0, y1 = self._pairs(x0, x1, y0, y1, index)
        t, x, velocity, *noise = self._on_path(source, target, t, return_noise)
        return (t, x, velocity, y0, y1, *noise)

    def _pairs(
        self, x0: Tensor | None, x1: Tensor, y0: Tensor | None, y1: Tensor | None, index: Numbers | None
    ) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        """Source, target and the labels of both."""
        if index is not None and self._noise is None:
            raise ValueError(
                "ConditionalFlowMatcher: index names rows of a coupling that makes noise for them, as Semidiscrete; "
                "without one it says nothing"
            )
        _check_units(x1, None if self._noise is not None else self.coupling)
        if self.coupling is None:
            if x0 is None:
                raise ValueError("ConditionalFlowMatcher: without a coupling x0 must be given")
            pairs = pair(x0, x1, label=y1)
            return pairs.source, pairs.target, y0, pairs.label
        if x0 is not None and self._source_unchecked and len(x0) >= _LEAST_ROWS:
            _check_source(x0, self.coupling.source)
            self._source_unchecked = False
        if self._noise is not None:
            return self._noise(x1, index), x1, None, y1
        drawn = self.coupling.sample(len(x1), generator=self._generator)
        if y1 is not None and drawn.label is None:
            raise ValueError(
                f"ConditionalFlowMatcher: labels y1 were given, but {type(self.coupling).__name__} draws its own rows "
                "and has no labels; give it labels="
            )
        label = None if drawn.label is None else drawn.label.to(x1.device)
        dtype = x1.dtype if x1.is_floating_point() else drawn.source.dtype
        return drawn.source.to(x1.device, dtype), drawn.target.to(x1.device, dtype), None, label

    def _on_path(self, x0: Tensor, x1: Tensor, t: Tensor | None, return_noise: bool) -> tuple[Tensor, ...]:
        generator = own_generator(self._generator)
        if t is None:
            drawn_on = None if generator is None else generator.device
            t = torch.rand(len(x0), generator=generator, device=drawn_on).type_as(x0)
        if not isinstance(t, Tensor) or t.ndim == 0 or t.numel() != len(x0):
            got = tuple(t.shape) if isinstance(t, Tensor) else repr(t)
            raise ValueError(f"ConditionalFlowMatcher: t must be one time for each of {len(x0)} points, got {got}")
        times = t.reshape(-1, *[1] * (x0.ndim - 1))
        drawn_on = x0.device if generator is None else generator.device  # eps whatever sigma is, as torchcfm does
        eps = torch.randn(x0.shape, generator=generator, dtype=x0.dtype, device=drawn_on).to(x0.device)
        x = times * x1 + (1 - times) * x0 + self.sigma * eps
        return (t, x, x1 - x0, eps) if return_noise else (t, x, x1 - x0)


def to_field(network: Any, *, layout: str | None = None, label: Tensor | None = None) -> Field:
    """The field of a network trained with torchcfm.

    Args:
        network: one that takes x (B, d) and t (B, 1) concatenated, as torchcfm's MLP does; one called as (t, x) or
            (t, x, label), as its U-Net; or its ``torch_wrapper`` around the former, which is taken off, since it cannot
            be called with a time for each point.
        layout: "concatenated" or "t, x"; None takes the number of arguments that ``forward`` requires for an answer.
        label: (B,), passed on as a third argument; None for a network without labels.

    Returns:
        field(t, x) -> velocity (B, *event), t one number or (B,).

    Raises:
        ValueError: an unknown layout, one that the network's arguments do not tell, or a label with x concatenated.
    """
    if type(network).__name__ == "torch_wrapper":
        network, layout = network.model, layout or "concatenated"
    layout = _layout_of(network) if layout is None else layout
    if layout not in _LAYOUTS:
        raise ValueError(f"torchcfm.to_field: layout must be one of {_LAYOUTS}, got {layout!r}")
    if layout == "t, x":
        extra = () if label is None else (label,)
        return lambda t, x: network(for_each(t, x), x, *extra)
    if label is not None:
        raise ValueError("torchcfm.to_field: a network of x and t concatenated takes no label")

    def field(t: Tensor | float, x: Tensor) -> Tensor:
        if x.ndim != 2:
            raise ValueError(f"torchcfm.to_field: x and t are concatenated, so x must be (B, d), got {tuple(x.shape)}")
        velocity: Tensor = network(torch.cat([x, for_each(t, x)[:, None]], dim=1))
        return velocity

    return field


def _layout_of(network: Any) -> str:
    """By the number of positional arguments without a default."""
    forward = getattr(network, "forward", network)
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(forward).parameters.values()
    required = sum(one.kind in kinds and one.default is one.empty for one in parameters)
    if required not in (1, 2) or (required == 1 and any(one.kind is one.VAR_POSITIONAL for one in parameters)):
        raise ValueError(
            f"torchcfm.to_field: {type(network).__name__} requires {required} arguments, which does not tell how it is "
            'called; state layout="concatenated" or layout="t, x"'
        )
    return _LAYOUTS[required - 1]


def _check_units(x1: Tensor, drawing: Any) -> None:
    """Refuse targets that are bytes, in whose units no network is trained: x1, or the rows of a coupling that draws."""
    own = getattr(getattr(drawing, "rows", None), "flat", None)
    given = x1 if drawing is None else own
    if isinstance(given, Tensor) and given.dtype in _BYTES:
        what = "the coupling's rows are stored" if given is own else "x1 is given"
        raise ValueError(
            f"ConditionalFlowMatcher: {what} in {given.dtype}, and targets would be these whole numbers; give them in "
            "the network's units, e.g. images / 127.5 - 1, with index= where the coupling has the bytes"
        )


def _check_source(x0: Tensor, source: Any) -> None:
    """Refuse source points whose mean square is not that of the coupling's source."""
    drawn = source.sample(len(x0), generator=generator_of(0), dtype=torch.float64).cpu()
    given = x0.detach().flatten(1).double().cpu()
    squares = [points.square().mean(1) for points in (given, drawn)]
    spread = math.sqrt(sum(float(rows.var()) for rows in squares) / len(x0))
    means = [float(rows.mean()) for rows in squares]
    if abs(means[0] - means[1]) > _STANDARD_ERRORS * spread:
        raise ValueError(
            f"ConditionalFlowMatcher: x0 has the mean square {means[0]:.3g}, the coupling's source {source} "
            f"{means[1]:.3g}; fit the coupling with source= the law of x0"
        )
