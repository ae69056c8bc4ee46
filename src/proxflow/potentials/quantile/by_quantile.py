"""What potentials given by a quantile function share: their arguments, state and monotone transport."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from proxflow.errors import NoDensityError
from proxflow.measures import Source
from proxflow.potentials.base import Potential
from proxflow.potentials.quantile.levels import Levels
from proxflow.potentials.quantile.monotone_map import MonotoneMap
from proxflow.potentials.quantile.quantile_function import Formula, QuantileLike, Table, checked_table

__all__ = ["ByQuantile"]


class ByQuantile(Potential):
    """A potential whose transport is T = quantile o cdf of a scalar source variable.

    State: ``levels`` (K,), ``values`` (K,) of a table; none for a callable. Equations are solved in float64 whatever
    the dtype of a query; move the potential to the device of the queries.
    """

    levels: Tensor
    values: Tensor
    transport: MonotoneMap

    def __init__(
        self,
        dim: int,
        quantile: QuantileLike,
        upper_quantile: Callable[[Any], Any] | None,
        source: Source | None,
    ) -> None:
        super().__init__(dim, source)
        scalar = self._source_levels()
        if callable(quantile):
            self._quantile = (quantile,)  # in a tuple: a quantile that is a module is not a part of this one
            formula = Formula(type(self).__name__, quantile, upper_quantile, not scalar.signed)
            self.transport = MonotoneMap(scalar, formula)
            return
        if upper_quantile is not None:
            raise ValueError(f"{type(self).__name__}: a table has its upper tail; leave out upper_quantile")
        levels, values = checked_table(type(self).__name__, quantile, not scalar.signed)
        self.register_buffer("levels", levels.detach().clone())
        self.register_buffer("values", values.detach().clone())
        self._prepare_table()
        # Tabulated once and for all, not ``Derived``: compiled code would do it again in every call.
        self.register_load_state_dict_post_hook(_refresh)  # type: ignore[no-untyped-call]

    @abstractmethod
    def _source_levels(self) -> Levels:
        """Levels of the scalar source variable."""

    def _prepare_table(self) -> None:
        """The transport of the table as it is now, tabulated on the CPU and moved to where the table is."""
        scalar = self._source_levels()
        levels, values = checked_table(type(self).__name__, (self.levels.cpu(), self.values.cpu()), not scalar.signed)
        self.transport = MonotoneMap(scalar, Table(levels, values, not scalar.signed)).to(self.levels.device)

    def _quantile_argument(self) -> QuantileLike:
        """The table (levels, values).

        Raises:
            TypeError: the quantile function is a callable, which cannot be written to a file.
        """
        if "levels" not in self._buffers:
            name = getattr(self._quantile[0], "__qualname__", repr(self._quantile[0]))
            raise TypeError(
                f"save: the quantile function {name} of {type(self).__name__} is a callable, which cannot be stored; "
                "build the potential from a pair (levels, values) instead"
            )
        return self.levels, self.values

    def _check_density(self) -> None:
        """Refuse a law that is seen to have no density."""
        if self.transport.quantile.has_atoms:
            raise NoDensityError(
                f"{type(self).__name__}: the law has no density, since its quantile function is flat somewhere (an "
                "atom, or a sphere of positive mass)"
            )

    def _distance_from_domain(self, y: Tensor) -> Tensor:
        """How far scalars ``y`` are outside the bounds of the transport."""
        outside: Tensor = torch.maximum(self.transport.lowest - y, y - self.transport.highest).clamp(min=0)
        return outside


def _refresh(module: torch.nn.Module, _: object) -> None:
    if isinstance(module, ByQuantile):
        module._prepare_table()
